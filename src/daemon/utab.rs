//! /run/mount/utab, where libmount keeps what the kernel does not of a mount (mount(8)). umount(8) takes a FUSE mount that has no
//! line there for one of no type in particular, and never runs its helper: the line is what has `umount` bring to the
//! backend what was written here.

use super::mount_table::{self, Mount, unescape};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const UTAB: &str = "/run/mount/utab";
const UMOUNT_HELPER: &str = "/sbin/umount.fuse.cachefs";
/// Nothing but a word for mount(8) to keep.
const WORD: &str = "x-cachefs";
/// mount(8) waits for whoever else changes the file.
const LIMIT: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Has mount(8) note the mount, where its helper for umount(8) is installed; at most for some seconds. One that was not noted is
/// unmounted as with umount(2).
pub fn note(mountpoint: &Path) {
    if !nix::unistd::geteuid().is_root() || !Path::new(UMOUNT_HELPER).exists() {
        return;
    }
    if let Err(error) = try_note(mountpoint) {
        tracing::debug!("{UTAB}: {error}");
    }
}

fn try_note(mountpoint: &Path) -> io::Result<()> {
    let mount = mount_table::topmost_at(mountpoint)?
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // Lines of mounts that were not unmounted by umount(8) stay.
    if is_noted(&std::fs::read(UTAB).unwrap_or_default(), &mount) {
        return Ok(());
    }
    let mut child = Command::new("mount")
        .args(["--fake", "--internal-only", "--no-canonicalize"])
        .args(["--types", &mount.filesystem_type, "--options", WORD, "--"])
        .arg(&mount.source)
        .arg(mountpoint)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + LIMIT;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(io::Error::other(format!("mount(8): {status}"))),
            None if Instant::now() >= deadline => {
                child.kill()?;
                child.wait()?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            None => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

fn is_noted(utab: &[u8], mount: &Mount) -> bool {
    utab.split(|byte| *byte == b'\n').any(|line| {
        let value = |name: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ');
            fields
                .find_map(|field| field.strip_prefix(name))
                .map(unescape)
        };
        value(b"SRC=").as_ref() == Some(&mount.source)
            && value(b"TARGET=").is_some_and(|target| mount.mountpoint.as_os_str() == target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_source_and_place() {
        let table = b"36 35 0:52 / /mnt/a\\040b rw - fuse.cachefs server:/x rw\n";
        let mount = mount_table::parse(table).remove(0);
        let line = "SRC=server:/x TARGET=/mnt/a\\040b ROOT=/ OPTS=x-cachefs\n";
        assert!(is_noted(
            format!("SRC=/b TARGET=/c\n{line}").as_bytes(),
            &mount
        ));
        for other in [
            line.replace("server", "other"),
            line.replace("a\\040b", "a"),
            String::new(),
        ] {
            assert!(!is_noted(other.as_bytes(), &mount), "{other}");
        }
    }
}
