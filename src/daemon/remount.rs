//! `mount -o remount,...`: of a mount that serves only ro and rw can change, and that without its daemon. Everything
//! else is refused by name.

use super::control::{Reply, Request};
use super::mount_table::Mount;
use super::status::Status;
use super::unmount::{connect, find};
use crate::config::is_repeated;
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
        "option '{0}' cannot change while mounted, only ro and rw can: unmount, and mount with it (some can in the settings file: nfs-cachefs reload)"
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
    let (read_only, others) = wanted(words, &mounted);
    if !read_only || !others.is_empty() {
        let status = status_of(&mounted).map_err(system)?;
        refuse_changes(&others, &status)?;
        if !read_only && status.read_only {
            return Err(RemountError::MountedReadOnly);
        }
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

/// Whether it is to be read-only (as it is, unless told), and the words that mean something else.
fn wanted<'a>(words: &'a [String], mounted: &Mount) -> (bool, Vec<&'a str>) {
    let mut read_only = mounted.shows("ro");
    let mut others = Vec::new();
    for word in words {
        match word.as_str() {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "remount" | "" => {}
            other if mounted.shows(other) => {}
            other => others.push(other),
        }
    }
    (read_only, others)
}

/// mount(8) adds the words of /etc/fstab: those that are in effect may be repeated.
fn refuse_changes(words: &[&str], status: &Status) -> Result<(), RemountError> {
    let options = status.options.iter();
    let in_effect: Vec<_> = options
        .map(|option| (option.name.as_str(), option.value.as_str()))
        .collect();
    match words.iter().find(|word| !is_repeated(word, &in_effect)) {
        Some(word) => Err(RemountError::Fixed((*word).to_owned())),
        None => Ok(()),
    }
}

fn status_of(mounted: &Mount) -> Result<Status, String> {
    let asked = connect(mounted).and_then(|client| client.ask(&Request::Status, ANSWER_TIMEOUT));
    match asked {
        Ok(Reply::Status(status)) => Ok(*status),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(error) => Err(format!("its daemon does not answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::mount_table;
    use crate::daemon::status::OptionStatus;

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
        assert_eq!(wanted(&words("rw,remount,ro"), &mounted), (true, vec![]));
        assert_eq!(wanted(&words("remount,ro,rw"), &mounted), (false, vec![]));
        let status = Status {
            options: vec![OptionStatus {
                name: "passthrough".to_owned(),
                value: "off".to_owned(),
                from: "default".to_owned(),
                no_effect_because: None,
            }],
            ..Status::default()
        };
        for same in ["passthrough=off", "_netdev", "x-systemd.automount"] {
            refuse_changes(&[same], &status).expect("it is in effect");
        }
        for other in ["cache_size=1G", "passthrough=auto", "nosuid", "nonsense"] {
            let error = refuse_changes(&["_netdev", other], &status).unwrap_err();
            assert!(error.to_string().contains(other), "{error}");
        }
    }
}
