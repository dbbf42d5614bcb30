//! A regular backend file open for writing, through the page cache: an NFS client joins small writes and sends them
//! side by side, and fsync(2) waits for them all.

use super::alone::{Alone, Leases};
use super::filesystems::Filesystem;
use super::locate::{Located, Tree};
use super::writing::{Durability, NewFile, Opened, WritableFile, WriteAccess};
use super::{Place, SeekWhence, counted};
use crate::io::FillSource;
use crate::metrics::BackendMetrics;
use crate::sys::credentials::{as_caller, with_umask};
use crate::sys::stat::{self, Freshness};
use crate::sys::{names, path, write};
use crate::types::{Attributes, ByteRange, Credentials, FileKind, TimeChange, Timestamp};
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A file copied in one call blocks its thread for no longer than this takes.
const COPY_BYTES_MAX: u64 = 256 << 20;

pub struct WritableDescriptor {
    fd: Arc<OwnedFd>,
    inode: u64,
    access: WriteAccess,
    opener: Credentials,
    /// Of a local filesystem only: what a lease says of a remote file concerns this machine.
    leases: Option<Arc<Leases>>,
    metrics: Arc<BackendMetrics>,
}

fn flags_of(access: WriteAccess) -> i32 {
    libc::O_NOCTTY
        | match access {
            WriteAccess::WriteOnly => libc::O_WRONLY,
            WriteAccess::ReadWrite => libc::O_RDWR,
        }
}

impl WritableDescriptor {
    pub fn open(
        tree: &Tree,
        place: &Place,
        access: WriteAccess,
        opener: &Credentials,
        metrics: &Arc<BackendMetrics>,
    ) -> io::Result<Self> {
        let Located {
            fd,
            stat,
            filesystem,
            ..
        } = locate_regular(tree, place)?;
        let opened = as_caller(opener, || path::reopen(fd.as_fd(), flags_of(access)))?;
        Ok(Self {
            fd: Arc::new(opened),
            inode: stat.attributes.inode,
            access,
            opener: opener.clone(),
            leases: leases_of(tree, &filesystem),
            metrics: metrics.clone(),
        })
    }

    /// Makes the file `name` in `parent`, or one without a name where there is none.
    pub fn create(
        tree: &Tree,
        parent: &Place,
        name: Option<&OsStr>,
        new: NewFile,
        opener: &Credentials,
        metrics: &Arc<BackendMetrics>,
    ) -> io::Result<Opened> {
        let (name, kind_flags) = match name {
            Some(name) => (name, libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW),
            None => (OsStr::new("."), libc::O_TMPFILE),
        };
        let flags = flags_of(new.access) | kind_flags;
        let fd = tree.in_directory(parent, |directory| {
            let make = || path::create_beneath(directory, name, flags, new.mode & 0o7777);
            as_caller(opener, || with_umask(new.umask, make))
        })?;
        let found = tree.found_as_made(fd.as_fd())?;
        let filesystem = tree.filesystems.get(found.filesystem);
        let file = Self {
            fd: Arc::new(fd),
            inode: found.attributes.inode,
            access: new.access,
            opener: opener.clone(),
            leases: filesystem.and_then(|filesystem| leases_of(tree, &filesystem)),
            metrics: metrics.clone(),
        };
        Ok((found, Arc::new(file)))
    }

    fn as_writer<T>(
        &self,
        writer: Option<&Credentials>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        counted(&self.metrics, || {
            as_caller(writer.unwrap_or(&self.opener), act)
        })
    }

    fn note_written(&self, written: usize) -> usize {
        self.metrics.bytes_written.add(written as u64);
        written
    }
}

fn leases_of(tree: &Tree, filesystem: &Filesystem) -> Option<Arc<Leases>> {
    (!filesystem.traits.remote).then(|| tree.leases.clone())
}

/// Opening a pipe or a device would do something to it.
fn locate_regular(tree: &Tree, place: &Place) -> io::Result<Located> {
    let located = tree.locate(place)?;
    match located.stat.attributes.kind {
        FileKind::Regular => Ok(located),
        FileKind::Directory => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => Err(io::Error::from_raw_os_error(libc::ENXIO)),
    }
}

/// Through the page cache: O_DIRECT would take no unaligned range.
pub fn open_to_copy(tree: &Tree, place: &Place) -> io::Result<FillSource> {
    let located = locate_regular(tree, place)?;
    let open = || path::reopen(located.fd.as_fd(), libc::O_RDONLY | libc::O_NOCTTY);
    let fd = place.as_caller_or_daemon(open)?;
    Ok(FillSource::Descriptor(Arc::new(fd)))
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

impl WritableFile for WritableDescriptor {
    fn attributes(&self) -> io::Result<Attributes> {
        counted(&self.metrics, || {
            let stat = stat::stat(self.fd.as_fd(), Freshness::Server)?;
            if stat.attributes.inode != self.inode {
                return Err(io::Error::from_raw_os_error(libc::ESTALE));
            }
            Ok(stat.attributes)
        })
    }

    fn hold_alone(&self) -> Option<Arc<Alone>> {
        self.leases.as_ref()?.take(&self.fd)
    }

    fn is_readable(&self) -> bool {
        self.access == WriteAccess::ReadWrite
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        counted(&self.metrics, || {
            let mut done = 0;
            while done < buffer.len() {
                let at = signed(offset + done as u64)?;
                match nix::sys::uio::pread(&self.fd, &mut buffer[done..], at) {
                    Ok(0) => break,
                    Ok(read) => done += read,
                    Err(nix::Error::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.metrics.bytes_read.add(done as u64);
            Ok(done)
        })
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        counted(&self.metrics, || {
            path::seek(self.fd.as_fd(), offset, whence.raw())
        })
    }

    fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<usize> {
        self.as_writer(writer, || {
            write::write_at(self.fd.as_fd(), data, offset, durability)
        })
        .map(|written| self.note_written(written))
    }

    fn append(
        &self,
        data: &[u8],
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<ByteRange> {
        let written =
            self.as_writer(writer, || write::append(self.fd.as_fd(), data, durability))?;
        let end = path::seek(self.fd.as_fd(), 0, libc::SEEK_CUR)?;
        let length_bytes = self.note_written(written) as u64;
        Ok(ByteRange::new(end - length_bytes, end))
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        let size = signed(size_bytes)?;
        self.as_writer(None, || Ok(nix::unistd::ftruncate(&*self.fd, size)?))
    }

    fn set_modify_time(&self, time: Timestamp, caller: &Credentials) -> io::Result<()> {
        self.as_writer(Some(caller), || {
            names::set_times(self.fd.as_fd(), TimeChange::Keep, TimeChange::To(time))
        })
    }

    fn allocate(&self, mode: i32, range: ByteRange) -> io::Result<()> {
        let (offset, length) = (signed(range.start)?, signed(range.length_bytes())?);
        let mode = FallocateFlags::from_bits_retain(mode);
        self.as_writer(None, || Ok(fallocate(&*self.fd, mode, offset, length)?))
    }

    fn copy_from(
        &self,
        source: &FillSource,
        source_offset: u64,
        range: ByteRange,
    ) -> io::Result<u64> {
        let FillSource::Descriptor(source) = source else {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        };
        let (mut from, mut to) = (signed(source_offset)?, signed(range.start)?);
        let length_bytes = range.length_bytes().min(COPY_BYTES_MAX) as usize;
        let copied = self.as_writer(None, || {
            Ok(copy_file_range(
                &**source,
                Some(&mut from),
                &*self.fd,
                Some(&mut to),
                length_bytes,
            )?)
        })?;
        Ok(copied as u64)
    }

    fn source(&self) -> FillSource {
        FillSource::Descriptor(self.fd.clone())
    }

    fn begin_sync(&self, range: ByteRange) -> io::Result<()> {
        self.as_writer(None, || {
            write::begin_sync(self.fd.as_fd(), range.start, range.length_bytes())
        })
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.as_writer(None, || {
            match data_only {
                true => nix::unistd::fdatasync(&*self.fd)?,
                false => nix::unistd::fsync(&*self.fd)?,
            }
            Ok(())
        })
    }
}
