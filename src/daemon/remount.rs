//! `mount -o remount,...`: of a mount that serves only ro and rw can change, and that without its daemon. Everything
//! else is refused by name.

use super::control::{Reply, Request};
use super::mount_table::Mount;
use super::unmount::{connect, find};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of a mount that stay as they are, by their names in the mount table.
const KEPT_FLAGS: [(&str, MsFlags); 6] = [
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
];

#[derive(Debug, thiserror::Error)]
pub enum RemountError {
    #[error("{}: not a mount of nfs-cachefs", .0.display())]
    NotMounted(PathBuf),
    #[error(
        "option '{0}' cannot change while mounted, only ro and rw can: unmount, and mount with it"
    )]
    Fixed(String),
    #[error("it was mounted with ro, which its daemon keeps to: unmount, and mount with rw")]
    MountedReadOnly,
    #[error("{}: programs have files open for writing; end them and try again", .0.display())]
    Busy(PathBuf),
    #[error("{}: {what}", path.display())]
    System { path: PathBuf, what: String },
}

/// Makes a mount read-only, or takes that back. `words` are the options given, with those the mount table shows, which
/// mount(8) adds.
pub fn remount(mountpoint: &Path, words: &[String]) -> Result<(), RemountError> {
    let system = |what: String| RemountError::System {
        path: mountpoint.to_owned(),
        what,
    };
    let (path, mounted) = find(mountpoint).map_err(|error| system(error.to_string()))?;
    let mounted = mounted.ok_or_else(|| RemountError::NotMounted(mountpoint.to_owned()))?;
    let read_only = wanted(words, &mounted)?;
    if !read_only && was_mounted_read_only(&mounted).map_err(system)? {
        return Err(RemountError::MountedReadOnly);
    }
    let kept = KEPT_FLAGS
        .iter()
        .filter(|(name, _)| mounted.shows(name))
        .fold(MsFlags::MS_REMOUNT, |flags, (_, flag)| flags | *flag);
    let flags = match read_only {
        true => kept | MsFlags::MS_RDONLY,
        false => kept,
    };
    let none: Option<&str> = None;
    match mount(none, &path, none, flags, none) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(RemountError::Busy(path)),
        Err(Errno::EPERM) => Err(system("only root may remount it".to_owned())),
        Err(errno) => Err(system(errno.to_string())),
    }
}

/// Whether it is to be read-only: as it is, unless told. Words that would change anything else are errors.
fn wanted(words: &[String], mounted: &Mount) -> Result<bool, RemountError> {
    let mut read_only = mounted.shows("ro");
    for word in words {
        match word.as_str() {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "remount" | "" => {}
            other if mounted.shows(other) => {}
            other => return Err(RemountError::Fixed(other.to_owned())),
        }
    }
    Ok(read_only)
}

fn was_mounted_read_only(mounted: &Mount) -> Result<bool, String> {
    let asked = connect(mounted).and_then(|client| client.ask(&Request::Status, ANSWER_TIMEOUT));
    match asked {
        Ok(Reply::Status(status)) => Ok(status.read_only),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(error) => Err(format!("its daemon does not answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::mount_table;

    fn words(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn only_ro_and_rw_can_change_and_what_the_table_shows_may_be_repeated() {
        let mounted = mount_table::mounts()
            .expect("mountinfo")
            .into_iter()
            .find(|mount| mount.mountpoint == Path::new("/proc"))
            .expect("/proc is mounted");
        assert!(wanted(&words("rw,remount,ro"), &mounted).expect("known words"));
        assert!(!wanted(&words("remount,ro,rw"), &mounted).expect("known words"));
        let error = wanted(&words("remount,cache_size=1G"), &mounted).unwrap_err();
        assert!(error.to_string().contains("cache_size=1G"), "{error}");
    }
}
