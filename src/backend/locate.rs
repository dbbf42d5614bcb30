//! From a [`Place`] or a name to a descriptor: by handle where the filesystem keeps them, else by a walk beneath
//! the root whose end must have the key expected. All descriptors are O_PATH ones, but for those that are opened to ask.

use super::access::is_refusal;
use super::alone::Leases;
use super::expected::{KnownFilesystem, Root};
use super::filesystems::{Filesystem, Filesystems};
use super::{FilesystemIndex, Found, HeldFile, Place};
use crate::sys::credentials::as_caller;
use crate::sys::stat::{self, Freshness, Stat};
use crate::sys::{handle, path};
use crate::types::{Attributes, Credentials, FileKey, FileKind};
use lru::LruCache;
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

/// Directories whose descriptors are kept for the next lookup in them.
const OPEN_DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Something found: never a symbolic link followed, never outside the tree.
pub struct Located {
    pub fd: Arc<OwnedFd>,
    pub filesystem: Arc<Filesystem>,
    pub stat: Stat,
    /// `stat` was just asked of the server; else it is as known here.
    pub is_fresh: bool,
}

/// The backend directory and what is below it.
pub struct Tree {
    root: Root,
    root_key: FileKey,
    pub filesystems: Filesystems,
    pub leases: Arc<Leases>,
    directories: Mutex<LruCache<(FilesystemIndex, FileKey), Arc<OwnedFd>>>,
}

impl Tree {
    /// `root` is open for reading. Its filesystem gets index 0.
    pub fn new(root: OwnedFd) -> io::Result<Self> {
        let filesystems = Filesystems::default();
        let stat = stat::stat(root.as_fd(), Freshness::Server)?;
        let filesystem = filesystems.of(root.as_fd(), &stat)?;
        let root_key = filesystem.key(root.as_fd(), &stat)?;
        Ok(Self::with(Root::there(root), root_key, filesystems))
    }

    /// One whose root was there before and is awaited: `filesystems` are those that were met then, the root's own
    /// first. Calls that need the root wait for it until `patience` is over, then fail.
    pub fn awaited(root_key: FileKey, filesystems: &[KnownFilesystem], patience: Duration) -> Self {
        let expected = Filesystems::default();
        expected.expect(filesystems);
        Self::with(Root::awaited(patience), root_key, expected)
    }

    fn with(root: Root, root_key: FileKey, filesystems: Filesystems) -> Self {
        Self {
            root,
            root_key,
            filesystems,
            leases: Arc::default(),
            directories: Mutex::new(LruCache::new(OPEN_DIRECTORIES_MAX)),
        }
    }

    /// Takes a directory for the root awaited, if it is the same as before; whether it is.
    pub fn arrive(&self, root: OwnedFd) -> io::Result<bool> {
        let stat = stat::stat(root.as_fd(), Freshness::Server)?;
        let filesystem = self.filesystems.of(root.as_fd(), &stat)?;
        let is_same = filesystem.key(root.as_fd(), &stat)? == self.root_key;
        if is_same {
            self.root.arrive(root);
        }
        Ok(is_same)
    }

    /// ETIMEDOUT while it is awaited.
    pub fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root.descriptor()
    }

    pub fn root_if_there(&self) -> Option<&Arc<OwnedFd>> {
        self.root.if_there()
    }

    pub fn root_key(&self) -> &FileKey {
        &self.root_key
    }

    /// Finds the file that `place` names. ESTALE if it is gone, or another is in its place.
    pub fn locate(&self, place: &Place) -> io::Result<Located> {
        let filesystem = self.filesystems.get(place.filesystem).ok_or_else(stale)?;
        if place.key == self.root_key {
            let root = self.root.get()?;
            let stat = stat::stat(root.as_fd(), Freshness::Known)?;
            return Ok(Located {
                fd: root.clone(),
                filesystem,
                stat,
                is_fresh: false,
            });
        }
        if let Some(HeldFile(fd)) = &place.held {
            let stat = stat::stat(fd.as_fd(), Freshness::Known)?;
            return Ok(Located {
                fd: fd.clone(),
                filesystem,
                stat,
                is_fresh: false,
            });
        }
        match self.locate_by_handle(&filesystem, place) {
            Some(Ok(located)) => return Ok(located),
            Some(Err(error)) if !may_be_found_by_path(&error) => return Err(error),
            Some(Err(_)) | None => {}
        }
        self.walk(place)
    }

    /// `None` where the key holds no handle that could be opened.
    fn locate_by_handle(
        &self,
        filesystem: &Arc<Filesystem>,
        place: &Place,
    ) -> Option<io::Result<Located>> {
        let (mount, handle) = filesystem.handle(&place.key)?;
        let opened = handle::open_by_handle(mount, &handle, libc::O_PATH);
        if let Err(error) = &opened
            && error.raw_os_error() == Some(libc::EPERM)
        {
            filesystem.give_up_handles();
        }
        Some(opened.and_then(|fd| {
            let stat = stat::stat(fd.as_fd(), Freshness::Known)?;
            if stat.attributes.inode != place.inode {
                return Err(stale());
            }
            Ok(Located {
                fd: Arc::new(fd),
                filesystem: filesystem.clone(),
                stat,
                is_fresh: false,
            })
        }))
    }

    /// Goes the whole way from the root with the rights of who asks; the end is the root itself where there is none to go.
    pub fn walk(&self, place: &Place) -> io::Result<Located> {
        if place.key == self.root_key || place.held.is_some() {
            return self.locate(place);
        }
        if !is_plain(&place.path) {
            return Err(stale());
        }
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let root = self.root()?;
        let walk = || path::open_beneath(root, place.path.as_os_str(), flags);
        let fd = place.as_caller(walk).map_err(|error| {
            if leads_elsewhere(&error) {
                stale()
            } else {
                error
            }
        })?;
        // A key without a handle rests on the inode number, and what this kernel remembers of that need not be
        // what the server says: a FUSE lookup may give another number than a later getattr.
        let stat = stat::stat(fd.as_fd(), Freshness::Server)?;
        let filesystem = self.filesystems.of(fd.as_fd(), &stat)?;
        let key = filesystem.key(fd.as_fd(), &stat)?;
        if key != place.key || stat.attributes.inode != place.inode {
            return Err(stale());
        }
        Ok(Located {
            fd: Arc::new(fd),
            filesystem,
            stat,
            is_fresh: true,
        })
    }

    /// Calls `action` with a descriptor of the directory that `place` names; once more with a new one if
    /// the one kept has gone stale.
    pub fn in_directory<T>(
        &self,
        place: &Place,
        mut action: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        if place.key == self.root_key {
            return action(self.root()?);
        }
        let id = (place.filesystem, place.key.clone());
        let kept = self.directories.lock().get(&id).cloned();
        if let Some(fd) = kept {
            match action(fd.as_fd()) {
                Err(error) if is_stale(&error) => drop(self.directories.lock().pop(&id)),
                result => return result,
            }
        }
        let located = self.locate(place)?;
        // A descriptor of anything else must not be kept: it would make an unlink on NFS a rename.
        if located.stat.attributes.kind != FileKind::Directory {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        self.directories.lock().put(id, located.fd.clone());
        action(located.fd.as_fd())
    }

    /// Keeps no descriptor of a directory that was removed.
    pub fn forget_directory(&self, place: &Place) {
        let id = (place.filesystem, place.key.clone());
        let kept = self.directories.lock().pop(&id);
        drop(kept);
    }

    /// Looks one name up for somebody, relative to an open directory, with attributes fresh from the server. A name out
    /// of date in this kernel's caches is looked up once more after the directory was asked for anew.
    pub fn find(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        caller: Option<&Credentials>,
    ) -> io::Result<Found> {
        check_name(name)?;
        match self.find_once(directory, name, caller) {
            Ok((found, filesystem))
                if found.attributes.link_count != 0 || !filesystem.has_stale_names() =>
            {
                return Ok(found);
            }
            Err(error) if !is_stale(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        stat::stat(directory, Freshness::Server)?;
        self.find_once(directory, name, caller)
            .map(|(found, _)| found)
    }

    fn find_once(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        caller: Option<&Credentials>,
    ) -> io::Result<(Found, Arc<Filesystem>)> {
        let open = |flags| {
            let open = || path::open_beneath(directory, name, libc::O_PATH | flags);
            match caller {
                Some(caller) => as_caller(caller, open),
                None => open(),
            }
        };
        let mut fd = open(libc::O_NOFOLLOW)?;
        let mut stat = stat::stat(fd.as_fd(), Freshness::Server)?;
        let mut filesystem = self.filesystems.of(fd.as_fd(), &stat)?;
        let is_trigger = stat.is_automount_point || filesystem.is_autofs();
        if is_trigger && stat.attributes.kind == FileKind::Directory {
            // O_PATH alone does not mount what is to be mounted here; with O_DIRECTORY it does.
            fd = open(libc::O_DIRECTORY)?;
            stat = stat::stat(fd.as_fd(), Freshness::Server)?;
            filesystem = self.filesystems.of(fd.as_fd(), &stat)?;
        }
        let found = Found {
            filesystem: filesystem.index,
            key: filesystem.key(fd.as_fd(), &stat)?,
            attributes: stat.attributes,
        };
        Ok((found, filesystem))
    }

    /// Looks up a regular file by opening it, where only that shows what others have changed; `None` if it is none, or has to be looked up
    /// in another way. The open itself brings the attributes.
    pub fn find_by_opening(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        parent: &Place,
    ) -> io::Result<Option<(Found, HeldFile)>> {
        let shows = |filesystem: &Filesystem| filesystem.shows_changes_by_opening();
        let above = self.filesystems.get(parent.filesystem);
        if !above.is_some_and(|filesystem| shows(&filesystem)) {
            return Ok(None);
        }
        check_name(name)?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let located = parent.as_caller(|| path::open_beneath(directory, name, flags))?;
        let known = stat::stat(located.as_fd(), Freshness::Known)?;
        let filesystem = self.filesystems.of(located.as_fd(), &known)?;
        if known.attributes.kind != FileKind::Regular || !shows(&filesystem) {
            return Ok(None);
        }
        let (fd, stat) = open_to_ask(parent, located.as_fd())?;
        if stat.attributes.link_count == 0 {
            return Ok(None);
        }
        let found = Found {
            filesystem: filesystem.index,
            key: filesystem.key(fd.as_fd(), &stat)?,
            attributes: stat.attributes,
        };
        Ok(Some((found, HeldFile(Arc::new(fd)))))
    }

    /// The attributes of a regular file that is opened for them; `None` where there is no need to, or it is none.
    pub fn attributes_by_opening(
        &self,
        place: &Place,
    ) -> io::Result<Option<(Attributes, HeldFile)>> {
        let filesystem = self.filesystems.get(place.filesystem).ok_or_else(stale)?;
        if !filesystem.shows_changes_by_opening() || place.held.is_some() {
            return Ok(None);
        }
        let located = self.locate(place)?;
        if located.stat.attributes.kind != FileKind::Regular {
            return Ok(None);
        }
        let (fd, stat) = open_to_ask(place, located.fd.as_fd())?;
        match stat.attributes.inode == place.inode {
            true => Ok(Some((stat.attributes, HeldFile(Arc::new(fd))))),
            false => Err(stale()),
        }
    }

    /// What a descriptor refers to, with attributes fresh from the server.
    pub fn found(&self, fd: BorrowedFd<'_>) -> io::Result<Found> {
        let stat = stat::stat(fd, Freshness::Server)?;
        let filesystem = self.filesystems.of(fd, &stat)?;
        Ok(Found {
            filesystem: filesystem.index,
            key: filesystem.key(fd, &stat)?,
            attributes: stat.attributes,
        })
    }

    /// What was just made: its attributes came with the reply where its filesystem keeps handles; elsewhere the
    /// number in a reply need not be the one that is shown.
    pub fn found_as_made(&self, fd: BorrowedFd<'_>) -> io::Result<Found> {
        let known = stat::stat(fd, Freshness::Known)?;
        let filesystem = self.filesystems.of(fd, &known)?;
        if !filesystem.traits.keeps_handles {
            return self.found(fd);
        }
        Ok(Found {
            filesystem: filesystem.index,
            key: filesystem.key(fd, &known)?,
            attributes: known.attributes,
        })
    }
}

/// Opens a regular file that may be another one's, which brings its attributes along.
fn open_to_ask(place: &Place, located: BorrowedFd<'_>) -> io::Result<(OwnedFd, Stat)> {
    let flags = libc::O_RDONLY | libc::O_NOCTTY | libc::O_NONBLOCK;
    let fd = place.as_caller_or_daemon(|| path::reopen(located, flags))?;
    let stat = stat::stat(fd.as_fd(), Freshness::Usual)?;
    Ok((fd, stat))
}

/// One component, neither "." nor "..".
pub fn check_name(name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// Relative and without "..", so that a walk needs no way back.
fn is_plain(path: &Path) -> bool {
    let mut components = path.components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
}

/// Whether a file may still be found by its path after opening its handle failed like this.
fn may_be_found_by_path(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ESTALE
                | libc::ENOENT
                | libc::EPERM
                | libc::EACCES
                | libc::EOPNOTSUPP
                | libc::EINVAL
        )
    )
}

/// Whether a file may still be looked up where opening it failed like this: its reader may have no right to, or the name
/// may lead to another one by now.
pub fn may_be_found_unopened(error: &io::Error) -> bool {
    let other = matches!(
        error.raw_os_error(),
        Some(libc::ESTALE | libc::EWOULDBLOCK | libc::ELOOP | libc::ETXTBSY | libc::EINVAL)
    );
    other || is_refusal(error)
}

/// Whether a walk ended because what the path named is not there any more.
fn leads_elsewhere(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EXDEV)
    )
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
