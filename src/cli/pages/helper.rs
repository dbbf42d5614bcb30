//! mount.cachefs(8): how mount(8) and fstab(5) name a mount, and every option.

use super::SECTION;
use crate::config::{OptionHelp, option_groups};
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

const SYNOPSIS: &str = "mount -t cachefs [-sfnv] [-o options] SOURCE DIRECTORY";

const DESCRIPTION: &[&str] = &[
    "mount(8) runs mount.cachefs for mounts of type cachefs: a directory, normally a mounted NFS export, is shown at DIRECTORY, and what was read once is read from a local disk. SOURCE is the directory to cache, or any word where nfs_backend names it. The call returns when the mount serves.",
    "A word that is no option is an error that names the nearest one; with -s it is passed over. -f checks all that can be checked and mounts nothing, -v tells what is in effect.",
    "Of a mount that serves remount changes ro and rw; nfs-cachefs reload takes over what has changed in the settings file.",
];

const FSTAB: &str = "/mnt/nfs /mnt/cached cachefs cache_dir=/nvme/cache,_netdev,nofail,x-systemd.requires-mounts-for=/mnt/nfs 0 0";

const SETTINGS: &[&str] = &[
    "What is given counts in this order: the command line, /etc/fstab, /etc/nfs-cachefs.toml (the table of the name of the mount, of its mountpoint, [default]), defaults. nfs-cachefs config shows where each value comes from.",
];

const EXIT_STATUS: &[&str] =
    &["As of mount(8): 0 success, 1 usage or permissions, 2 system error, 32 the mount failed."];

const SEE_ALSO: &[&str] = &["nfs-cachefs(8), mount(8), fstab(5), nfs(5), systemd.mount(5)"];

pub fn write(out: &mut impl Write) -> io::Result<()> {
    let mut page = Roff::default();
    page.control("TH", ["mount.cachefs", SECTION, "", "nfs-cachefs"]);
    section(
        &mut page,
        "NAME",
        &["mount.cachefs - mount a directory cached on local disk"],
    );
    section(&mut page, "SYNOPSIS", &[SYNOPSIS]);
    section(&mut page, "DESCRIPTION", DESCRIPTION);
    section(
        &mut page,
        "OPTIONS",
        &["Separated by commas, after -o or in the fourth field of /etc/fstab."],
    );
    for (heading, options) in option_groups() {
        page.control("SS", [heading]);
        options
            .iter()
            .for_each(|option| describe(&mut page, option));
    }
    section(&mut page, "SETTINGS FILE", SETTINGS);
    // A line is one line, however long.
    page.control("SH", ["FSTAB"]);
    page.control("nf", []);
    page.text([roman(FSTAB)]);
    page.control("fi", []);
    section(&mut page, "EXIT STATUS", EXIT_STATUS);
    section(&mut page, "SEE ALSO", SEE_ALSO);
    page.to_writer(out)
}

fn section(page: &mut Roff, heading: &str, paragraphs: &[&str]) {
    page.control("SH", [heading]);
    for paragraph in paragraphs {
        page.control("PP", []);
        page.text([roman(*paragraph)]);
    }
}

fn describe(page: &mut Roff, option: &OptionHelp) {
    page.control("TP", []);
    let value = match option.value.as_str() {
        "none" => String::new(),
        value => format!(" = {value}"),
    };
    page.text([bold(option.name), roman(value)]);
    let default = match option.default.as_str() {
        "" => String::new(),
        default => format!(" (default: {default})"),
    };
    page.text([roman(format!("{}{default}", option.help))]);
}
