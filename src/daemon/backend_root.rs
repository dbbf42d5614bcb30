//! The backend's root directory, opened on a thread that can be lost to a server that does not answer.

use super::cache_directory::ResolvedPath;
use super::error::StartError;
use super::offline::FOUND_WITHIN;
use crate::backend::health::says_away;
use crossbeam_channel::Receiver;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

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
    pub errno: Errno,
    /// Brings the root when it is opened after all, where it just takes long.
    pub opening: Option<Receiver<Opened>>,
}

/// The outcome of opening the backend's root.
pub(super) type Opened = Result<(OwnedFd, ResolvedPath), Errno>;

/// Begins to open it, on a thread that can be lost.
fn begin_to_open(path: &Path) -> Result<Receiver<Opened>, StartError> {
    let opening = path.to_owned();
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::Builder::new()
        .name("bounded-call".to_owned())
        .spawn(move || {
            let _ = sender.send(open_backend_root(&opening));
        })
        .map_err(|error| StartError::System(format!("starting a thread: {error}")))?;
    Ok(receiver)
}

pub(super) fn open_backend(
    path: &Path,
    timeout: Duration,
) -> Result<(BackendRoot, ResolvedPath), StartError> {
    match begin_to_open(path)?.recv_timeout(timeout) {
        Ok(Ok((root, resolved))) => Ok((BackendRoot::There(root), resolved)),
        Ok(Err(errno)) => Err(backend_problem(path, errno)),
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
    let opening = begin_to_open(path)?;
    let (errno, opening) = match opening.recv_timeout(FOUND_WITHIN.min(timeout)) {
        Ok(Ok((root, resolved))) => return Ok((BackendRoot::There(root), resolved)),
        Ok(Err(errno)) if errno == Errno::ENOENT || says_away(&errno.into()) => (errno, None),
        Ok(Err(errno)) => return Err(backend_problem(path, errno)),
        Err(_) => (Errno::ETIMEDOUT, Some(opening)),
    };
    let away = BackendRoot::Away(Away { errno, opening });
    Ok((away, ResolvedPath::unseen(path)))
}

pub(super) fn backend_problem(path: &Path, errno: Errno) -> StartError {
    let path = path.to_owned();
    match errno {
        Errno::ENOENT => StartError::BackendMissing(path),
        Errno::ENOTDIR => StartError::BackendNotDirectory(path),
        errno => StartError::BackendNotReadable {
            path,
            uid: nix::unistd::geteuid().as_raw(),
            source: errno.into(),
        },
    }
}

/// Opens a directory that can be listed and searched, and finds its resolved name. Blocks on it.
pub(super) fn open_backend_root(path: &Path) -> Opened {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let root = open(path, flags, Mode::empty())?;
    fstatat(&root, ".", AtFlags::empty())?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))
        .map_err(|_| Errno::ENOENT)?;
    Ok((root, ResolvedPath::look_at(&name)))
}
