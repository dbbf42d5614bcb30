//! The backend: the directory being cached. [`Backend`] is the seam (a real directory, or a fake in unit
//! tests); every call of it blocks for as long as the server likes, so it is only called on
//! the threads of a [`lanes::Lane`], which can be lost to a hung server.
//!
//! What always holds: names are resolved beneath the root without following a symbolic link;
//! no descriptor of a regular file is kept longer than its [`SourceFile`] lives (NFS silly rename).
//!
//! - `directory`: `Backend` on a real directory: openat2, handles, statx with AT_STATX_FORCE_SYNC
//! - `locate`: from a place or a name to a descriptor, never outside the tree
//! - `changing`: changes of names and attributes, as the caller
//! - `access`: who may do what, where only the backend can tell
//! - `locking`: locks that the backend's other clients see
//! - `source`, `stream`: an open file, an open directory
//! - `writing`: the calls that change bytes; `writable`: a file open for writing
//! - `unsent`: what was written here and the backend does not have yet
//! - `alone`: files that nobody else has open
//! - `filesystems`: the filesystems of the tree: submounts, nested exports
//! - `expected`: a backend that was there before and is away now
//! - `identity`: filesystem ids, which filesystems keep their handles, file keys
//! - `lanes`: expendable threads; `watchdog`: who notices that they are overdue
//! - `health`: reachable, slow or away; `observed`: tells it of every call; `probe`: asks while nobody else does
//! - `deadline`: timers

use self::expected::KnownFilesystem;
use crate::io::FillSource;
use crate::metrics::BackendMetrics;
use crate::types::{
    AttributeChange, Attributes, Credentials, FileKey, FileKind, NewNode, Removal, RenameMode,
    Version,
};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub use directory::DirectoryBackend;

pub mod access;
pub mod alone;
mod changing;
pub mod deadline;
pub mod directory;
#[cfg(test)]
mod directory_tests;
pub mod expected;
pub mod filesystems;
pub mod health;
pub mod identity;
pub mod lanes;
mod locate;
pub mod locking;
pub mod observed;
mod probe;
mod source;
mod stream;
pub mod unsent;
mod writable;
pub mod writing;
#[cfg(test)]
mod testing;
mod watchdog;

/// Index of one filesystem of the backend tree: 0 is the root's own, others are submounts and nested
/// exports, numbered as they are met. Valid while the daemon lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FilesystemIndex(pub u16);

/// Where a backend file is. With a handle in the key the path is only a fallback; without, the path is
/// walked and the inode found there must be the one expected, else ESTALE.
#[derive(Clone, Debug)]
pub struct Place {
    pub filesystem: FilesystemIndex,
    pub key: FileKey,
    pub inode: u64,
    /// Relative to the backend's root; empty for the root itself.
    pub path: PathBuf,
    /// The file itself, where it lost its name while it was open.
    pub held: Option<HeldFile>,
    /// Who asks, where the backend decides by that; `None`: the daemon.
    pub caller: Option<Credentials>,
    /// Nobody knows whether the caller may: a file is opened with their rights, or not at all.
    pub only_caller: bool,
}

impl Place {
    /// Where something was found in this directory, for the daemon.
    pub fn below(&self, name: &OsStr, found: &Found) -> Self {
        Self {
            filesystem: found.filesystem,
            key: found.key.clone(),
            inode: found.attributes.inode,
            path: self.path.join(name),
            held: None,
            caller: None,
            only_caller: false,
        }
    }
}

/// A name that was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub filesystem: FilesystemIndex,
    pub key: FileKey,
    pub attributes: Attributes,
}

/// One name in a listing.
#[derive(Clone, Debug)]
pub struct ListedName {
    pub name: OsString,
    pub inode: u64,
    pub kind: FileKind,
}

/// Statistics of the backend's filesystem, as statvfs(3).
#[derive(Clone, Copy, Debug, Default)]
pub struct BackendSpace {
    pub block_size_bytes: u32,
    pub fragment_size_bytes: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length_max: u32,
}

/// Every call blocks without bound and returns the server's errno as `io::Error`.
pub trait Backend:
    access::AccessDecisions
    + NameChanges
    + locking::Locks
    + unsent::Unsent
    + writing::Writes
    + Send
    + Sync
    + 'static
{
    fn root(&self) -> io::Result<(Place, Attributes)>;
    /// One name in a directory, which the caller must be able to search: ENOENT if absent. Never follows a symlink,
    /// crosses mount points.
    fn lookup(&self, parent: &Place, name: &OsStr) -> io::Result<Found>;
    /// The same for a file that is about to be opened: where the server does not tell of a change before somebody opens the
    /// file, it is opened, which is to be kept until nobody waits any more.
    fn lookup_opened(&self, parent: &Place, name: &OsStr) -> io::Result<(Found, Option<HeldFile>)> {
        self.lookup(parent, name).map(|found| (found, None))
    }
    /// Fresh attributes from the server (AT_STATX_FORCE_SYNC). ESTALE if the file is another one.
    fn attributes(&self, place: &Place) -> io::Result<Attributes>;
    /// The same for a file that programs have open, as [`Backend::lookup_opened`] asks for them.
    fn attributes_opened(&self, place: &Place) -> io::Result<(Attributes, Option<HeldFile>)> {
        self.attributes(place).map(|fresh| (fresh, None))
    }
    fn open_directory(&self, place: &Place) -> io::Result<Box<dyn DirectoryStream>>;
    fn read_link(&self, place: &Place) -> io::Result<Vec<u8>>;
    /// Opens a regular file for reading, for a caller who was let do so before.
    fn open(&self, place: &Place) -> io::Result<Arc<dyn SourceFile>>;
    fn space(&self, place: &Place) -> io::Result<BackendSpace>;
    /// The names of extended attributes, each followed by a zero byte.
    fn list_xattr(&self, place: &Place) -> io::Result<Vec<u8>>;
    fn get_xattr(&self, place: &Place, name: &OsStr) -> io::Result<Vec<u8>>;
    /// Whether this filesystem's clock is this machine's (ext4, xfs, btrfs, tmpfs...), so that the age of a
    /// timestamp can be told exactly.
    fn has_local_clock(&self, filesystem: FilesystemIndex) -> bool;
    /// Whether [`Backend::lookup_opened`] and [`Backend::attributes_opened`] open files of this filesystem. Does not block.
    fn asks_by_opening(&self, _filesystem: FilesystemIndex) -> bool {
        false
    }
    /// What to keep of a filesystem for a later life. Does not block.
    fn known_filesystem(&self, _filesystem: FilesystemIndex) -> Option<KnownFilesystem> {
        None
    }
    /// The filesystem of a file of an earlier life, if it was met again or expected. Does not block.
    fn filesystem_of(&self, _key: &FileKey) -> Option<FilesystemIndex> {
        None
    }
    /// Whether a file with the one version became one with the other without another byte, as far as is known. Does not block.
    fn has_become(&self, _key: &FileKey, _one: &Version, _other: &Version) -> bool {
        false
    }
}

/// Changes of names and attributes, made with the rights of `caller`. They block like all else of a backend, and are
/// on the backend when they return.
pub trait NameChanges {
    /// Makes something under a name that is free, else EEXIST.
    fn make(
        &self,
        parent: &Place,
        name: &OsStr,
        new: &NewNode,
        caller: &Credentials,
    ) -> io::Result<Found>;
    /// One more name for a file.
    fn link(
        &self,
        file: &Place,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<Found>;
    fn remove(
        &self,
        parent: &Place,
        name: &OsStr,
        removal: Removal,
        caller: &Credentials,
    ) -> io::Result<()>;
    fn rename(
        &self,
        from: (&Place, &OsStr),
        to: (&Place, &OsStr),
        mode: RenameMode,
        caller: &Credentials,
    ) -> io::Result<()>;
    /// A directory was removed: nothing of it is to stay open. Does not block.
    fn forget_directory(&self, place: &Place);
    /// Keeps a file that is about to lose this name; a place with the answer in it leads to the file even
    /// without a name. NFS renames such a file (.nfsXXXX) instead of removing it, so only what programs have open is held.
    fn hold(
        &self,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<(Found, HeldFile)>;
    fn set_attributes(
        &self,
        place: &Place,
        change: &AttributeChange,
        caller: &Credentials,
    ) -> io::Result<()>;
    /// `flags` as setxattr(2) has them.
    fn set_xattr(
        &self,
        place: &Place,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        caller: &Credentials,
    ) -> io::Result<()>;
    fn remove_xattr(&self, place: &Place, name: &OsStr, caller: &Credentials) -> io::Result<()>;
    /// fsync(2) of a directory.
    fn sync_directory(&self, place: &Place) -> io::Result<()>;
    /// syncfs(2) of the filesystem a directory is on.
    fn sync_filesystem(&self, place: &Place) -> io::Result<()>;
}

/// Keeps a file without a name ([`NameChanges::hold`]), or one open ([`Backend::lookup_opened`]). Dropping it may wait
/// for the server.
#[derive(Clone, Debug)]
pub struct HeldFile(Arc<OwnedFd>);

/// What knows where a file is at any time, whatever it or a directory above it was renamed to.
pub trait Placed: Send + Sync {
    fn place(&self) -> Place;
    fn filesystem(&self) -> FilesystemIndex;
    /// The backend has opened the file there, when asked for it at `asked`.
    fn note_opened(&self, _asked: Instant) {}
}

impl Placed for Place {
    fn place(&self) -> Place {
        self.clone()
    }

    fn filesystem(&self) -> FilesystemIndex {
        self.filesystem
    }
}

/// An open directory, read in order. "." and ".." are left out.
pub trait DirectoryStream: Send {
    /// Appends the next names, none at the end. Bounded: at most a few hundred a call.
    fn next_names(&mut self, into: &mut Vec<ListedName>) -> io::Result<()>;
    /// Back to the beginning (rewinddir(3)).
    fn rewind(&mut self) -> io::Result<()>;
    /// Looks a listed name up relative to the open directory.
    fn lookup(&self, name: &OsStr) -> io::Result<Found>;
}

/// A backend file open for reading.
pub trait SourceFile: Send + Sync + 'static {
    /// Fresh attributes from the server (AT_STATX_FORCE_SYNC).
    fn attributes(&self) -> io::Result<Attributes>;
    /// What a fill reads from (O_DIRECT where the filesystem is remote).
    fn source(&self) -> FillSource;
    /// Like pread(2).
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Whether a program of this machine has the file open or mapped for writing, where that can be told (local
    /// filesystems). One write(2) is stamped when it begins, however long it takes: until it has ended, the
    /// version does not tell its bytes from those before.
    fn has_writer(&self) -> bool;
    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64>;
}

/// Which end of a run of data lseek(2) looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekWhence {
    Data,
    Hole,
}

impl SeekWhence {
    fn raw(self) -> i32 {
        match self {
            Self::Data => libc::SEEK_DATA,
            Self::Hole => libc::SEEK_HOLE,
        }
    }
}

/// Makes one backend call, counting its error unless that is a plain "there is none".
fn counted<T>(metrics: &BackendMetrics, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let result = call();
    if let Err(error) = &result
        && !matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ENODATA | libc::ENXIO | libc::EOPNOTSUPP)
        )
    {
        metrics.errors.add(1);
    }
    result
}
