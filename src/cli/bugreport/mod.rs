//! `nfs-cachefs bugreport [MOUNTPOINT] [-o FILE] [--with-names]`
//!
//! What always holds: no content of a file is in it, and without --with-names no name from a mounted tree.
//!
//! - `gather`: what is looked at
//! - `names`: taken out of texts

mod gather;
mod names;

use self::gather::{Part, of_machine, of_mount};
use super::{complain, say};
use crate::clock::wall_clock;
use crate::daemon::error::exit_status;
use crate::daemon::mount_table::mounts;
use crate::daemon::unmount::find;
use crate::types::printable::one_line;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Writes a tar.gz with what helps to find out what is wrong: versions, what `check` and `doctor` find, the status, \
options and metrics of the mount, its last log lines, the daemon's threads and limits, and what the kernel says of \
itself. No content of a file is in it. Names of files below the mount are left out unless --with-names is given; the \
paths of the mount, its backend, its cache and its journal stay. Takes up to about 30 s. Look into it before you \
give it away.

Exit status: 0 written, 1 usage, 2 error.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The mount [default: all of this machine]
    mountpoint: Option<PathBuf>,
    /// Where it is written; the file must not exist [default: nfs-cachefs-bugreport-SECONDS.tar.gz here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names of files and directories of the tree go in as well
    #[arg(long)]
    with_names: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    let name = format!("nfs-cachefs-bugreport-{}", wall_clock().seconds);
    let path = arguments
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    match mountpoints(arguments).and_then(|mountpoints| {
        let parts = gather_all(&mountpoints, arguments.with_names);
        write_archive(&path, &name, &parts).map_err(|error| format!("{}: {error}", path.display()))
    }) {
        Ok(()) => {
            say(&format!(
                "{} was written; look into it before you give it away\n",
                one_line(&path.display().to_string())
            ));
            exit_status::SUCCESS
        }
        Err(error) => {
            complain(error);
            exit_status::SYSTEM
        }
    }
}

fn mountpoints(arguments: &Arguments) -> Result<Vec<PathBuf>, String> {
    if let Some(mountpoint) = &arguments.mountpoint {
        let shown = mountpoint.display();
        let (_, mount) = find(mountpoint).map_err(|error| format!("{shown}: {error}"))?;
        return match mount {
            Some(_) => Ok(vec![mountpoint.clone()]),
            None => Err(format!(
                "{shown}: not a mount of nfs-cachefs; without MOUNTPOINT it tells of this machine and of all its mounts"
            )),
        };
    }
    let mounts = mounts().map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let ours = mounts.into_iter().filter(|mount| mount.is_cachefs());
    Ok(ours.map(|mount| mount.mountpoint).collect())
}

fn gather_all(mountpoints: &[PathBuf], with_names: bool) -> Vec<Part> {
    let mut parts = of_machine();
    for (index, mountpoint) in mountpoints.iter().enumerate() {
        for part in of_mount(mountpoint, with_names) {
            parts.push(Part {
                name: format!("mount-{}/{}", index + 1, part.name),
                text: part.text,
            });
        }
    }
    parts
}

/// It may tell more than everybody is to know: only who asks can read it.
fn write_archive(path: &Path, folder: &str, parts: &[Part]) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(u64::try_from(wall_clock().seconds).unwrap_or(0));
        let name = format!("{folder}/{}", part.name);
        archive.append_data(&mut header, name, part.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}
