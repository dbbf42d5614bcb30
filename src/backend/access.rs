//! What the backend lets a user do, where only the backend can tell: server-side rules, root_squash, and users that mean
//! something else to it than here do not show in mode bits.

use super::directory::DirectoryBackend;
use super::{FilesystemIndex, Place};
use crate::sys::credentials::as_caller;
use crate::sys::path;
use crate::types::FileKind;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What a user wants of a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// To go on to the names in a directory.
    Search,
    /// To read a file's bytes, or list a directory.
    Read,
    /// To run a program.
    Execute,
}

/// The calls of a backend that decide who may do what. One that has none decides nothing by itself.
pub trait AccessDecisions {
    /// Whether the backend has to be asked who may do what; else mode, owner and POSIX ACL tell it exactly.
    fn decides_access(&self, _filesystem: FilesystemIndex) -> bool {
        false
    }

    /// Asks whether the caller of `place` has this access, path search from the root on included. EACCES if not.
    fn check_access(&self, _place: &Place, _access: Access) -> io::Result<()> {
        Ok(())
    }
}

impl AccessDecisions for DirectoryBackend {
    fn decides_access(&self, filesystem: FilesystemIndex) -> bool {
        self.tree
            .filesystems
            .get(filesystem)
            .is_none_or(|filesystem| !filesystem.traits.shows_rights)
    }

    fn check_access(&self, place: &Place, access: Access) -> io::Result<()> {
        self.counted(|| {
            let located = self.tree.walk(place)?;
            let answers = self
                .tree
                .filesystems
                .get(place.filesystem)
                .is_some_and(|filesystem| filesystem.answers_access());
            let (fd, kind) = (located.fd.as_fd(), located.stat.attributes.kind);
            place.as_caller(|| match access {
                Access::Search | Access::Execute => path::check_access(fd, libc::X_OK),
                Access::Read if answers => path::check_access(fd, libc::R_OK),
                Access::Read => try_to_read(fd, kind),
            })
        })
    }
}

/// A FUSE filesystem that does not know the question answers access(2) with yes; opening asks it in earnest.
fn try_to_read(fd: BorrowedFd<'_>, kind: FileKind) -> io::Result<()> {
    let flags = match kind {
        FileKind::Regular => libc::O_RDONLY | libc::O_NOCTTY,
        FileKind::Directory => libc::O_RDONLY | libc::O_DIRECTORY,
        // Opening any other would do something to it.
        _ => return path::check_access(fd, libc::R_OK),
    };
    path::reopen(fd, flags).map(drop)
}

impl Place {
    /// Runs `act` with the rights of who asks for this place.
    pub(super) fn as_caller<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.caller {
            Some(caller) => as_caller(caller, act),
            None => act(),
        }
    }

    /// The same for what the caller was let do before: where the backend would not do it anew, the daemon's own rights
    /// may do.
    pub(super) fn as_caller_or_daemon<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match self.as_caller(&act) {
            Err(error) if self.caller.is_some() && !self.only_caller && is_refusal(&error) => act(),
            outcome => outcome,
        }
    }
}

/// Whether this error says that somebody may not do something.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}
