//! Locks of programs on the backend's files, where its other clients see them. Each owner has an open file description of
//! its own, which holds all its locks and takes them along when it is closed.

use super::directory::DirectoryBackend;
use super::{Place, counted};
use crate::metrics::BackendMetrics;
use crate::sys::credentials::as_caller;
use crate::sys::{locks, path};
use crate::types::{Conflict, Credentials, FileKind, LockKind, RangeLock};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The calls of a backend that lock. One that has none answers ENOLCK.
pub trait Locks {
    /// Opens a regular file to lock it. The access is the most that `caller`, or else the daemon, may have: an exclusive lock
    /// wants a description that may write.
    fn open_to_lock(&self, _place: &Place, _caller: &Credentials) -> io::Result<Arc<dyn LockFile>> {
        Err(io::Error::from_raw_os_error(libc::ENOLCK))
    }
}

/// An open file description that locks. None of its calls waits for another holder: EAGAIN then.
pub trait LockFile: Send + Sync {
    fn set_range(&self, lock: RangeLock) -> io::Result<()>;
    /// What would be in the way of a lock.
    fn conflict(&self, lock: RangeLock) -> io::Result<Option<Conflict>>;
    /// flock(2)
    fn set_whole(&self, kind: LockKind) -> io::Result<()>;
}

impl Locks for DirectoryBackend {
    fn open_to_lock(&self, place: &Place, caller: &Credentials) -> io::Result<Arc<dyn LockFile>> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            if located.stat.attributes.kind != FileKind::Regular {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            let open = |access| path::reopen(located.fd.as_fd(), access | libc::O_NOCTTY);
            // A program may hold more than the mode would let it open by now.
            let fd = as_caller(caller, || open(libc::O_RDWR))
                .or_else(|_| open(libc::O_RDWR))
                .or_else(|_| as_caller(caller, || open(libc::O_RDONLY)))
                .or_else(|_| open(libc::O_RDONLY))?;
            let metrics = self.metrics.clone();
            Ok(Arc::new(LockDescriptor { fd, metrics }) as Arc<dyn LockFile>)
        })
    }
}

struct LockDescriptor {
    fd: OwnedFd,
    metrics: Arc<BackendMetrics>,
}

impl LockFile for LockDescriptor {
    fn set_range(&self, lock: RangeLock) -> io::Result<()> {
        counted(&self.metrics, || locks::set_range(self.fd.as_fd(), lock))
    }

    fn conflict(&self, lock: RangeLock) -> io::Result<Option<Conflict>> {
        counted(&self.metrics, || locks::conflict(self.fd.as_fd(), lock))
    }

    fn set_whole(&self, kind: LockKind) -> io::Result<()> {
        counted(&self.metrics, || locks::set_whole(self.fd.as_fd(), kind))
    }
}
