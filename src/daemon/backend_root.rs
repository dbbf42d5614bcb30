//! The backend's root directory, opened on a thread that can be lost to a server that does not answer.

use super::automount::AUTOFS;
use super::cache_directory::ResolvedPath;
use super::error::StartError;
use super::fstab::mountpoint_above;
use super::mount_table::mount_of;
use super::offline::FOUND_WITHIN;
use crate::backend::health::says_away;
use crossbeam_channel::Receiver;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a filesystem that /etc/fstab promises is looked for.
const MOUNTED_RETRY: Duration = Duration::from_millis(200);

/// The backend's root.
#[derive(Debug)]
pub enum BackendRoot {
    /// Opened before anything is mounted over it.
    There(OwnedFd),
    Away(Away),
}

/// A backend that could not be opened, and may be known from an earlier mount.
#[derive(Debug)]
pub struct Away {
    pub problem: RootProblem,
    /// Brings the root when it is opened after all, where it just takes long.
    pub opening: Option<Receiver<Opened>>,
}

/// Why the backend's root could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootProblem {
    #[error("{0}")]
    System(#[from] Errno),
    #[error("/etc/fstab has a filesystem for {} that is not mounted", .0.display())]
    NotMounted(PathBuf),
}

impl RootProblem {
    /// Whether an earlier mount may know what should be there.
    fn says_away(&self) -> bool {
        match self {
            // An automount point whose mount has failed is ENODEV.
            Self::System(Errno::ENOENT | Errno::ENODEV) | Self::NotMounted(_) => true,
            Self::System(errno) => says_away(&(*errno).into()),
        }
    }
}

/// The outcome of opening the backend's root.
pub(super) type Opened = Result<(OwnedFd, ResolvedPath), RootProblem>;

/// Begins to open it, on a thread that can be lost. What is not mounted is waited for for `patience`.
fn begin_to_open(path: &Path, patience: Duration) -> Result<Receiver<Opened>, StartError> {
    let opening = path.to_owned();
    let deadline = Instant::now() + patience;
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::Builder::new()
        .name("bounded-call".to_owned())
        .spawn(move || {
            let _ = sender.send(open_when_mounted(&opening, deadline));
        })
        .map_err(|error| StartError::System(format!("starting a thread: {error}")))?;
    Ok(receiver)
}

fn open_when_mounted(path: &Path, deadline: Instant) -> Opened {
    loop {
        match open_backend_root(path) {
            Err(RootProblem::NotMounted(_)) if Instant::now() < deadline => {
                std::thread::sleep(MOUNTED_RETRY);
            }
            outcome => return outcome,
        }
    }
}

/// Nothing is known of it: what /etc/fstab promises there is waited for, too.
pub(super) fn open_backend(
    path: &Path,
    timeout: Duration,
) -> Result<(OwnedFd, ResolvedPath), StartError> {
    let patience = timeout.saturating_sub(FOUND_WITHIN);
    match begin_to_open(path, patience)?.recv_timeout(timeout) {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(problem)) => Err(backend_problem(path, problem)),
        Err(_) => Err(StartError::BackendHung {
            path: path.to_owned(),
            seconds: timeout.as_secs(),
        }),
    }
}

/// One that may be known is waited for only as long as a mount may take to come up without it.
pub(super) fn open_backend_or_wait(
    path: &Path,
    timeout: Duration,
) -> Result<(BackendRoot, ResolvedPath), StartError> {
    let opening = begin_to_open(path, Duration::ZERO)?;
    let (problem, opening) = match opening.recv_timeout(FOUND_WITHIN.min(timeout)) {
        Ok(Ok((root, resolved))) => return Ok((BackendRoot::There(root), resolved)),
        Ok(Err(problem)) if problem.says_away() => (problem, None),
        Ok(Err(problem)) => return Err(backend_problem(path, problem)),
        Err(_) => (Errno::ETIMEDOUT.into(), Some(opening)),
    };
    let away = BackendRoot::Away(Away { problem, opening });
    Ok((away, ResolvedPath::unseen(path)))
}

pub(super) fn backend_problem(path: &Path, problem: RootProblem) -> StartError {
    let path = path.to_owned();
    match problem {
        RootProblem::System(Errno::ENOENT) => StartError::BackendMissing(path),
        RootProblem::System(Errno::ENOTDIR) => StartError::BackendNotDirectory(path),
        RootProblem::System(errno) => StartError::BackendNotReadable {
            path,
            uid: nix::unistd::geteuid().as_raw(),
            source: errno.into(),
        },
        RootProblem::NotMounted(mountpoint) => StartError::BackendNotMounted { path, mountpoint },
    }
}

/// Opens a directory that can be listed and searched, and finds its resolved name. Below a mountpoint where nothing is
/// mounted yet there is no backend. Blocks on it.
pub(super) fn open_backend_root(path: &Path) -> Opened {
    let opened = open_directory(path);
    let name = opened.as_ref().map_or(path, |(_, name)| name.as_path());
    match mountpoint_above(name).filter(|mountpoint| !is_mounted(mountpoint, name)) {
        Some(mountpoint) => Err(RootProblem::NotMounted(mountpoint)),
        None => {
            let (root, name) = opened?;
            Ok((root, ResolvedPath::look_at(&name)))
        }
    }
}

fn open_directory(path: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let root = open(path, flags, Mode::empty())?;
    fstatat(&root, ".", AtFlags::empty())?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))
        .map_err(|_| Errno::ENOENT)?;
    Ok((root, name))
}

/// Whether `path` lies on a filesystem that is mounted at `mountpoint` or below it; a point that waits for one is none. A table
/// that cannot be read has it all.
fn is_mounted(mountpoint: &Path, path: &Path) -> bool {
    let mount = mount_of(path).ok().flatten();
    mount.is_none_or(|mount| {
        mount.mountpoint.starts_with(mountpoint) && mount.filesystem_type != AUTOFS
    })
}
