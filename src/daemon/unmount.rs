//! Ending a mount from outside, whatever state its daemon is in.

use super::control::{Client, Reply, Request, socket_directory};
use super::draining::{self, Unanswered, drain};
use super::journal_control::{BackRequest, UnsentReport};
use super::mount_table::{self, Mount};
use super::prepare::{Liveness, liveness};
use crate::sys::fusermount;
use crate::sys::process::{open_process, process_facts, wait_for_end};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the service manager mounts it (sys-fs-fuse-connections.mount).
const CONTROL_FILESYSTEM: &str = "/sys/fs/fuse/connections";
/// How long a daemon may take to answer before it is held to hang.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for the daemon's end, so that the same can be mounted again at once.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that has waited this long waits for a backend that does not answer. Also the time that a program gets
/// to let go of a mount that it waited in.
const STUCK_AFTER: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(50);
/// A process that was killed has ended by then.
const DYING: Duration = Duration::from_millis(500);

/// How an unmount went, where it did not simply go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmounted {
    Cleanly,
    /// The daemon was dead or hung: the connection was cut.
    Aborted {
        why: &'static str,
    },
    /// Unmounted, but the daemon has not ended.
    DaemonRemains {
        pid: i32,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    #[error("{}: not a mount of nfs-cachefs", .0.display())]
    NotMounted(PathBuf),
    #[error("{}: busy{}; end what uses it and try again", path.display(), users_in_words(.users))]
    Busy { path: PathBuf, users: Vec<User> },
    #[error(
        "{}: only the user who mounted it and root may unmount it ({refused}); try as that user, or as root",
        path.display()
    )]
    NotAllowed { path: PathBuf, refused: io::Error },
    #[error(
        "{}: {}. It stays in the journal. Try again when the backend takes it, or leave it for the next mount: \
         `nfs-cachefs umount --keep-dirty`",
        path.display(),
        left.in_words()
    )]
    Dirty { path: PathBuf, left: UnsentReport },
    #[error(
        "{}: whether the backend has all that was written could not be asked ({reason}). Try again, or leave what it does not have for the \
         next mount: `nfs-cachefs umount --keep-dirty`",
        path.display()
    )]
    Untold { path: PathBuf, reason: String },
    #[error("{}: {source}", path.display())]
    System { path: PathBuf, source: io::Error },
}

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub pid: i32,
    pub command: String,
}

fn users_in_words(users: &[User]) -> String {
    let each: Vec<String> = users
        .iter()
        .map(|user| format!("{} (pid {})", user.command, user.pid))
        .collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(": used by {}", each.join(", ")),
    }
}

/// What becomes of changes that are not on the backend.
pub enum Dirty<'a> {
    /// They stay in the journal, for the next mount.
    Keep,
    /// They go there first; where that is not taken, the mount stays. Hears how far it is.
    Send(&'a mut dyn FnMut(&UnsentReport)),
}

/// Unmounts and waits for the daemon's end. A dead or hung daemon's connection is cut, so that programs
/// waiting in it get errors, and the mount is detached. A mount in use is left as it is.
pub fn unmount(mountpoint: &Path, dirty: Dirty<'_>) -> Result<Unmounted, UnmountError> {
    let system = |source| UnmountError::System {
        path: mountpoint.to_owned(),
        source,
    };
    let (path, mount) = find(mountpoint).map_err(system)?;
    let mount = mount.ok_or_else(|| UnmountError::NotMounted(mountpoint.to_owned()))?;
    let others = mount_table::others_of(&mount).map_err(system)?;
    let client = connect(&mount).ok();
    let daemon = client.as_ref().and_then(|client| client.daemon_pid().ok());
    let process = daemon.and_then(|pid| open_process(pid).ok());
    let state = match client {
        Some(_) if daemon.is_some_and(is_dead) => Liveness::Dead,
        Some(client) if client.ask(&Request::Status, ANSWER_TIMEOUT).is_ok() => Liveness::Answers,
        // It may have been killed when it was asked.
        Some(_) if daemon.is_some_and(dies) => Liveness::Dead,
        // Too busy to be asked is not hung: what programs are still served by is not cut.
        Some(_) => liveness(&path).map_err(system)?,
        None => liveness(&path).map_err(system)?,
    };
    let mut outcome = match state {
        Liveness::Answers => {
            // Others of the daemon's mounts go on.
            let keeps = matches!(dirty, Dirty::Keep) && others.is_empty();
            // Of a bind mount that is left, nobody knows the daemon.
            if let Dirty::Send(tell) = dirty
                && daemon.is_some()
            {
                send_dirty(&mount, &path, tell)?;
            }
            if keeps {
                keep_dirty(&mount, true);
            }
            let unmounted = unmount_in_order(&path, || waiting_in(&mount));
            if unmounted.is_err() && keeps {
                keep_dirty(&mount, false);
            }
            unmounted?;
            Unmounted::Cleanly
        }
        Liveness::Dead | Liveness::Hung => {
            abort(&mount);
            detach(&path).map_err(system)?;
            Unmounted::Aborted {
                why: if state == Liveness::Dead {
                    "gone"
                } else {
                    "hung"
                },
            }
        }
    };
    if let (Some(pid), Some(process)) = (daemon, process)
        // It goes on serving them.
        && (others.is_empty() || outcome != Unmounted::Cleanly)
        && !wait_for_death(pid, &process).map_err(system)?
    {
        outcome = Unmounted::DaemonRemains { pid };
    }
    Ok(outcome)
}

fn send_dirty(
    mount: &Mount,
    path: &Path,
    tell: &mut dyn FnMut(&UnsentReport),
) -> Result<(), UnmountError> {
    let left = match drain(&[], || connect(mount), tell) {
        Ok(left) => left,
        // One that writes through has nothing to send, and says so.
        Err(Unanswered::Refused(reason)) => {
            tracing::debug!("what is not on the backend: {reason}");
            UnsentReport::default()
        }
        Err(Unanswered::Silent(reason)) => {
            return Err(UnmountError::Untold {
                path: path.to_owned(),
                reason,
            });
        }
    };
    match left.is_done() {
        true => Ok(()),
        false => Err(UnmountError::Dirty {
            path: path.to_owned(),
            left,
        }),
    }
}

/// Whether the daemon is to leave what is dirty in the journal at its end. One that writes through has nothing to leave.
fn keep_dirty(mount: &Mount, keep: bool) {
    let asked = draining::ask(connect(mount), BackRequest::KeepDirty { keep });
    if let Err(error) = asked {
        tracing::debug!("what is not on the backend at the end: {error}");
    }
}

/// A dead daemon may still hang in the kernel: its descriptors, its socket among them, stay open then.
pub fn is_dead(pid: i32) -> bool {
    process_facts(pid).is_ok_and(|facts| facts.is_dead)
}

/// Whether it is dead in a moment: a killed process takes some to end.
fn dies(pid: i32) -> bool {
    let deadline = Instant::now() + DYING;
    while !is_dead(pid) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(RETRY);
    }
    true
}

/// Waits until the daemon runs no more code. Whether that is so.
fn wait_for_death(pid: i32, process: &OwnedFd) -> io::Result<bool> {
    let deadline = Instant::now() + END_TIMEOUT;
    while !wait_for_end(process, RETRY)? {
        if is_dead(pid) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What waits in a daemon.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    longest: Duration,
    backend_is_away: bool,
    /// After this at the latest a request ends.
    backend_timeout: Duration,
}

/// Nothing where the daemon does not say.
fn waiting_in(mount: &Mount) -> Waiting {
    let asked = connect(mount).and_then(|client| client.ask(&Request::Status, ANSWER_TIMEOUT));
    match asked {
        Ok(Reply::Status(status)) => Waiting {
            longest: Duration::from_millis(status.longest_wait_ms),
            backend_is_away: !status.backend.reachable,
            backend_timeout: Duration::from_millis(status.backend.timeout_ms),
        },
        _ => Waiting::default(),
    }
}

/// The daemon of a mount. It is known by where it mounted: a bind mount's is found by that mount, as long as it is there.
pub fn connect(mount: &Mount) -> io::Result<Client> {
    let directory = socket_directory();
    let own = Client::connect(&directory, &mount.mountpoint);
    let Err(error) = own else { return own };
    let others = mount_table::others_of(mount)?;
    let mut clients = others
        .iter()
        .filter_map(|other| Client::connect(&directory, &other.mountpoint).ok());
    clients.next().ok_or(error)
}

/// The resolved mountpoint and the mount of ours on top there.
pub fn find(mountpoint: &Path) -> io::Result<(PathBuf, Option<Mount>)> {
    let path = mount_table::resolve_parent(mountpoint)?;
    let ours = |path: &Path| -> io::Result<Option<Mount>> {
        Ok(mount_table::topmost_at(path)?.filter(Mount::is_cachefs))
    };
    if let Some(mount) = ours(&path)? {
        return Ok((path, Some(mount)));
    }
    if path.is_symlink() {
        let resolved = path.canonicalize()?;
        let mount = ours(&resolved)?;
        return Ok((resolved, mount));
    }
    Ok((path, None))
}

/// Unmounts once nobody waits in the mount for a backend that does not answer: such a request ends within
/// `backend_timeout`, and may be all that its program wanted. Other users are not waited for.
fn unmount_in_order(path: &Path, waiting: impl Fn() -> Waiting) -> Result<(), UnmountError> {
    let began = Instant::now();
    let mut last_stuck = began;
    loop {
        let outcome = try_unmount(path);
        if !matches!(outcome, Err(UnmountError::Busy { .. })) {
            return outcome;
        }
        let waiting = waiting();
        let stuck_after = match waiting.backend_is_away {
            true => Duration::ZERO,
            false => STUCK_AFTER,
        };
        if waiting.longest > stuck_after && began.elapsed() <= waiting.backend_timeout {
            last_stuck = Instant::now();
        } else if last_stuck.elapsed() > STUCK_AFTER {
            return outcome;
        }
        std::thread::sleep(RETRY);
    }
}

fn try_unmount(path: &Path) -> Result<(), UnmountError> {
    let busy = || UnmountError::Busy {
        path: path.to_owned(),
        users: users_of(path),
    };
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(busy()),
        Err(Errno::EPERM) => match fusermount::unmount(path, false) {
            Ok(()) => Ok(()),
            Err(_) if !users_of(path).is_empty() => Err(busy()),
            Err(refused) => Err(UnmountError::NotAllowed {
                path: path.to_owned(),
                refused,
            }),
        },
        Err(errno) => Err(UnmountError::System {
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Takes a mount out of the tree now; what is still open in it goes when it is closed.
pub fn detach(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => fusermount::unmount(path, true),
        Err(errno) => Err(errno.into()),
    }
}

/// Cuts the connection between kernel and daemon: whoever waits in the mount gets an error
/// (Documentation/filesystems/fuse.rst). The control filesystem is mounted where it is not and we may; without it
/// detaching has to do.
pub(super) fn abort(mount: &Mount) {
    let file = mount.connection_directory().join("abort");
    let cut = || std::fs::write(&file, "1");
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let outcome = cut().or_else(
        |error| match is_missing(&error) && !has_control_filesystem() {
            true => mount_control_filesystem().and_then(|()| cut()),
            false => Err(error),
        },
    );
    if let Err(error) = outcome {
        tracing::debug!("{}: {error}", file.display());
    }
}

fn has_control_filesystem() -> bool {
    mount_table::topmost_at(Path::new(CONTROL_FILESYSTEM)).is_ok_and(|mount| mount.is_some())
}

fn mount_control_filesystem() -> io::Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(
        Some("fusectl"),
        CONTROL_FILESYSTEM,
        Some("fusectl"),
        flags,
        none,
    )?)
}

/// The processes that have a file, directory or mapping of the mount at `path` in use, as far as /proc
/// shows, but for this one. Reads links only: nothing in the mount is touched.
pub fn users_of(path: &Path) -> Vec<User> {
    let mut users = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return users;
    };
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .filter(|pid| *pid != std::process::id() as i32)
        else {
            continue;
        };
        if uses(&process.path(), path) {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(User {
                pid,
                command: command.trim().to_owned(),
            });
        }
    }
    users
}

fn uses(process: &Path, path: &Path) -> bool {
    let is_inside =
        |link: PathBuf| std::fs::read_link(link).is_ok_and(|target| target.starts_with(path));
    if ["cwd", "root", "exe"]
        .iter()
        .any(|name| is_inside(process.join(name)))
    {
        return true;
    }
    ["fd", "map_files"].iter().any(|folder| {
        std::fs::read_dir(process.join(folder))
            .is_ok_and(|links| links.flatten().any(|link| is_inside(link.path())))
    })
}

#[cfg(test)]
#[path = "unmount_tests.rs"]
mod tests;
