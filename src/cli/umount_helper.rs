//! What umount(8) runs: `umount.fuse.cachefs DIR [-flnrv] [-N namespace] [-t type]`. The same code path as `nfs-cachefs umount`.

use super::umount::umount;
use super::{complain, say};
use crate::daemon::error::exit_status;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: umount.fuse.cachefs DIR [-flnv] [-N namespace] [-t type]\n\
                     Called by `umount DIR`. With -f or -l what is not on the backend stays in the journal for the next mount.";

#[derive(Debug, PartialEq, Eq)]
struct Invocation {
    mountpoint: PathBuf,
    /// Whoever forces it, or is in a hurry, does not wait for the backend.
    keep_dirty: bool,
}

/// Whether the program was called by this name.
pub fn is_asked_for(program: Option<&OsString>) -> bool {
    let name = program.and_then(|path| Path::new(path).file_name());
    name.is_some_and(|name| name.as_bytes().starts_with(b"umount"))
}

pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    match read_arguments(arguments) {
        Ok(Some(invocation)) => umount(&invocation.mountpoint, invocation.keep_dirty),
        Ok(None) => {
            say(&format!("{USAGE}\n"));
            exit_status::SUCCESS
        }
        Err(error) => {
            complain(error);
            eprintln!("{USAGE}");
            exit_status::USAGE
        }
    }
}

/// `None`: how to call it was asked.
fn read_arguments(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Invocation>, String> {
    let mut mountpoint = None;
    let mut keep_dirty = false;
    let mut arguments = arguments.into_iter().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"--help" | b"-h" => return Ok(None),
            // umount(8) has entered the namespace of -N, and -t is the type we were called for.
            b"-N" | b"-t" => drop(arguments.next()),
            [b'-', letters @ ..] if !letters.is_empty() => {
                keep_dirty |= reads_haste(letters, &argument)?;
            }
            _ if mountpoint.is_some() => return Err("one DIR is needed".to_owned()),
            _ => mountpoint = Some(PathBuf::from(argument)),
        }
    }
    let mountpoint = mountpoint.ok_or("one DIR is needed")?;
    Ok(Some(Invocation {
        mountpoint,
        keep_dirty,
    }))
}

fn reads_haste(letters: &[u8], argument: &OsStr) -> Result<bool, String> {
    match letters.iter().all(|letter| b"flnv".contains(letter)) {
        true => Ok(letters.iter().any(|letter| b"fl".contains(letter))),
        false => Err(format!("unknown flag {}", argument.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Option<Invocation>, String> {
        let all = ["umount.fuse.cachefs"].iter().chain(words);
        read_arguments(all.map(OsString::from))
    }

    #[test]
    fn umount8_may_call_us_in_every_way_it_does() {
        let plain = read(&[
            "/mnt/c",
            "-nv",
            "-t",
            "fuse.cachefs",
            "-N",
            "/proc/1/ns/mnt",
        ]);
        let expected = |keep_dirty| Invocation {
            mountpoint: PathBuf::from("/mnt/c"),
            keep_dirty,
        };
        assert_eq!(plain, Ok(Some(expected(false))));
        assert_eq!(read(&["-l", "/mnt/c"]), Ok(Some(expected(true))));
        assert_eq!(read(&["/mnt/c", "-f"]), Ok(Some(expected(true))));
        assert_eq!(read(&["--help"]), Ok(None));
        assert!(read(&["/mnt/c", "-r"]).is_err());
        assert!(read(&["/a", "/b"]).is_err() && read(&[]).is_err());
    }

    #[test]
    fn the_name_says_what_is_asked_for() {
        for (name, is_umount) in [
            ("/sbin/umount.fuse.cachefs", true),
            ("/sbin/mount.cachefs", false),
        ] {
            assert_eq!(is_asked_for(Some(&OsString::from(name))), is_umount);
        }
        assert!(!is_asked_for(None));
    }
}
