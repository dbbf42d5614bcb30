//! Changing the bytes of the backend's files.

use super::alone::Alone;
use super::{FilesystemIndex, Found, Place, SeekWhence};
use crate::io::FillSource;
use crate::types::{Attributes, ByteRange, Credentials, FileKey, Timestamp};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

pub use crate::sys::write::Durability;

/// How a file is opened for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteAccess {
    WriteOnly,
    ReadWrite,
}

/// A file to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    /// Permission bits, before the umask or a default ACL takes some away.
    pub mode: u32,
    pub umask: u32,
    pub access: WriteAccess,
}

/// A file just made or opened, and how it was found.
pub type Opened = (Found, Arc<dyn WritableFile>);

fn takes_no_changes<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EROFS))
}

/// Takes what a sync has come to. Must not block.
pub type Synced = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The calls of a backend that open files for writing. One that has none of them answers EROFS.
pub trait Writes {
    /// Opens a regular file as `opener`, who must be allowed to.
    fn open_writable(
        &self,
        _place: &Place,
        _access: WriteAccess,
        _opener: &Credentials,
    ) -> io::Result<Arc<dyn WritableFile>> {
        takes_no_changes()
    }

    /// Makes a regular file, open for writing. EEXIST if there is anything of that name.
    fn create(
        &self,
        _parent: &Place,
        _name: &OsStr,
        _new: NewFile,
        _opener: &Credentials,
    ) -> io::Result<Opened> {
        takes_no_changes()
    }

    /// Makes a regular file without a name (O_TMPFILE), open for writing.
    fn create_unnamed(
        &self,
        _parent: &Place,
        _new: NewFile,
        _opener: &Credentials,
    ) -> io::Result<Opened> {
        takes_no_changes()
    }

    /// Opens a regular file to be copied by [`WritableFile::copy_from`].
    fn open_to_copy(&self, _place: &Place) -> io::Result<FillSource> {
        takes_no_changes()
    }

    /// Returns when all that was written to a file is on stable storage, by whomever. Nothing is to be done where
    /// [`WritableFile::sync_at_close`] has done it.
    fn sync_written(&self, _key: &FileKey) -> io::Result<()> {
        Ok(())
    }

    /// Whether the filesystem copies between two of its files without moving their bytes to this machine.
    fn copies_by_itself(&self, _filesystem: FilesystemIndex) -> bool {
        false
    }
}

/// A backend file open for writing. It acts as its opener unless told otherwise.
pub trait WritableFile: Send + Sync + 'static {
    /// Fresh attributes from the server (AT_STATX_FORCE_SYNC).
    fn attributes(&self) -> io::Result<Attributes>;
    /// Sees to it that nobody else opens the file unnoticed; `None` where somebody has it open already, or where that
    /// cannot be had.
    fn hold_alone(&self) -> Option<Arc<Alone>>;
    /// It was opened for reading as well.
    fn is_readable(&self) -> bool;
    /// Like pread(2), short only at end of file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64>;
    /// Like pwrite(2): may be short. `writer` where it is not the opener who writes.
    fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<usize>;
    /// Writes at the end of the file as it is by now, and tells where that was; may be short. Not to be called
    /// twice at once.
    fn append(
        &self,
        data: &[u8],
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<ByteRange>;
    fn set_size(&self, size_bytes: u64) -> io::Result<()>;
    /// `caller` is the owner, or may do it all the same.
    fn set_modify_time(&self, time: Timestamp, caller: &Credentials) -> io::Result<()>;
    /// fallocate(2); `mode` as it has them.
    fn allocate(&self, mode: i32, range: ByteRange) -> io::Result<()>;
    /// copy_file_range(2) from another file of the same filesystem; may be short.
    fn copy_from(
        &self,
        source: &FillSource,
        source_offset: u64,
        range: ByteRange,
    ) -> io::Result<u64>;
    /// What to copy from when it is this file that is copied.
    fn source(&self) -> FillSource;
    /// Has what was written to a range sent to stable storage, and does not wait for it (sync_file_range(2)). An error may
    /// be told here and by no sync.
    fn begin_sync(&self, _range: ByteRange) -> io::Result<()> {
        Ok(())
    }
    /// fsync(2), or fdatasync(2).
    fn sync(&self, data_only: bool) -> io::Result<()>;
    /// The same as far as it can be done without blocking; else `synced` comes back.
    fn sync_soon(&self, synced: Synced) -> Result<(), Synced> {
        Err(synced)
    }
    /// The same; `synced` may be called by another thread, after it has returned. Blocks no longer than [`Self::sync`].
    fn sync_then(&self, data_only: bool, synced: Synced) {
        synced(self.sync(data_only));
    }
    /// What close(2) of a file that was written to waits for.
    fn sync_at_close(&self) -> io::Result<()> {
        self.sync(false)
    }
}
