//! Changes of names and attributes on the real directory. Files are located as the daemon, which may open
//! handles; the change itself is made as the caller, whom the backend may refuse.

use super::directory::DirectoryBackend;
use super::locate::check_name;
use super::{Found, HeldFile, NameChanges, Place};
use crate::sys::credentials::{as_caller, with_umask};
use crate::sys::{names, path, xattr};
use crate::types::{AttributeChange, Credentials, NewNode, Removal, RenameMode, TimeChange};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl NameChanges for DirectoryBackend {
    fn make(
        &self,
        parent: &Place,
        name: &OsStr,
        new: &NewNode,
        caller: &Credentials,
    ) -> io::Result<Found> {
        check_name(name)?;
        self.counted(|| {
            self.tree.in_directory(parent, |directory| {
                as_caller(caller, || make_in(directory, name, new))
            })
        })?;
        self.find_made(parent, name, caller)
    }

    fn link(
        &self,
        file: &Place,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<Found> {
        check_name(name)?;
        self.counted(|| {
            let located = self.tree.locate(file)?;
            self.tree.in_directory(parent, |directory| {
                as_caller(caller, || names::link(located.fd.as_fd(), directory, name))
            })
        })?;
        self.find_made(parent, name, caller)
    }

    fn remove(
        &self,
        parent: &Place,
        name: &OsStr,
        removal: Removal,
        caller: &Credentials,
    ) -> io::Result<()> {
        check_name(name)?;
        self.counted(|| {
            self.tree.in_directory(parent, |directory| {
                as_caller(caller, || match removal {
                    Removal::File => names::unlink(directory, name),
                    Removal::Directory => names::remove_directory(directory, name),
                })
            })
        })
    }

    fn rename(
        &self,
        from: (&Place, &OsStr),
        to: (&Place, &OsStr),
        mode: RenameMode,
        caller: &Credentials,
    ) -> io::Result<()> {
        check_name(from.1)?;
        check_name(to.1)?;
        let flags = match mode {
            RenameMode::Replace => 0,
            RenameMode::NoReplace => libc::RENAME_NOREPLACE,
            RenameMode::Exchange => libc::RENAME_EXCHANGE,
        };
        self.counted(|| {
            self.tree.in_directory(from.0, |old| {
                self.tree.in_directory(to.0, |new| {
                    as_caller(caller, || names::rename((old, from.1), (new, to.1), flags))
                })
            })
        })
    }

    fn forget_directory(&self, place: &Place) {
        self.tree.forget_directory(place);
    }

    fn hold(
        &self,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<(Found, HeldFile)> {
        check_name(name)?;
        self.counted(|| {
            // By its name: on NFS the handle may lead to another name of the file, which would not keep this one.
            let fd = self.open_as(parent, name, caller)?;
            let found = self.tree.found(fd.as_fd())?;
            Ok((found, HeldFile(Arc::new(fd))))
        })
    }

    fn set_attributes(
        &self,
        place: &Place,
        change: &AttributeChange,
        caller: &Credentials,
    ) -> io::Result<()> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            as_caller(caller, || change_attributes(located.fd.as_fd(), change))
        })
    }

    fn set_xattr(
        &self,
        place: &Place,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        caller: &Credentials,
    ) -> io::Result<()> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            as_caller(caller, || {
                xattr::set(located.fd.as_fd(), name, value, flags)
            })
        })
    }

    fn remove_xattr(&self, place: &Place, name: &OsStr, caller: &Credentials) -> io::Result<()> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            as_caller(caller, || xattr::remove(located.fd.as_fd(), name))
        })
    }

    fn sync_directory(&self, place: &Place) -> io::Result<()> {
        self.on_readable_directory(place, names::sync)
    }

    fn sync_filesystem(&self, place: &Place) -> io::Result<()> {
        self.on_readable_directory(place, names::sync_filesystem)
    }
}

impl DirectoryBackend {
    fn find_made(&self, parent: &Place, name: &OsStr, caller: &Credentials) -> io::Result<Found> {
        self.counted(|| {
            let fd = self.open_as(parent, name, caller)?;
            self.tree.found_as_made(fd.as_fd())
        })
    }

    /// An O_PATH descriptor of a name. Opened as the caller, since the daemon may be refused (root_squash).
    fn open_as(&self, parent: &Place, name: &OsStr, caller: &Credentials) -> io::Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        self.tree.in_directory(parent, |directory| {
            as_caller(caller, || path::open_beneath(directory, name, flags))
        })
    }

    fn on_readable_directory(
        &self,
        place: &Place,
        act: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.counted(|| {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let directory = self.tree.in_directory(place, |directory| {
                place.as_caller(|| path::reopen(directory, flags))
            })?;
            act(directory.as_fd())
        })
    }
}

fn make_in(directory: BorrowedFd<'_>, name: &OsStr, new: &NewNode) -> io::Result<()> {
    match new {
        NewNode::Node {
            mode,
            device,
            umask,
        } => with_umask(*umask, || names::make_node(directory, name, *mode, *device)),
        NewNode::Directory { mode, umask } => {
            with_umask(*umask, || names::make_directory(directory, name, *mode))
        }
        NewNode::Symlink { target } => names::make_symlink(directory, name, target),
    }
}

/// In this order, because a new owner takes setuid and setgid away, and every change but the last moves times.
fn change_attributes(file: BorrowedFd<'_>, change: &AttributeChange) -> io::Result<()> {
    if change.is_nothing() {
        return touch_owner(file);
    }
    if change.uid.is_some() || change.gid.is_some() {
        names::set_owner(file, change.uid, change.gid)?;
    }
    if let Some(permissions) = change.permissions {
        names::set_mode(file, permissions)?;
    }
    if (change.access_time, change.modify_time) != (TimeChange::Keep, TimeChange::Keep) {
        names::set_times(file, change.access_time, change.modify_time)?;
    }
    Ok(())
}

/// Nothing at all is chown(2) that names neither: set-id bits go, and the change time moves. The kernel asks for it before a
/// write, too, by whoever may write: one who is not the owner takes the bits away by the write itself.
fn touch_owner(file: BorrowedFd<'_>) -> io::Result<()> {
    match names::set_owner(file, None, None) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        touched => touched,
    }
}
