//! A regular backend file open for reading. On remote filesystems with O_DIRECT, so that bytes come from
//! the server and not from this kernel's pages, which can keep old ones (NFS v3); large local ones too, others through
//! the page cache, without readahead: the cache asks for what it wants.

use super::{SeekWhence, SourceFile, counted};
use crate::io::{ALIGNMENT_BYTES, FillSource};
use crate::metrics::BackendMetrics;
use crate::sys::disk;
use crate::sys::path;
use crate::sys::stat::{self, Freshness};
use crate::types::Attributes;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Largest bounce buffer for unaligned O_DIRECT reads.
const BOUNCE_BYTES_MAX: usize = 1 << 20;

pub struct DirectoryFile {
    fd: Arc<OwnedFd>,
    inode: u64,
    /// Programs that write the file do so through this kernel.
    is_local: bool,
    metrics: Arc<BackendMetrics>,
}

impl DirectoryFile {
    /// Opens the regular file that the O_PATH descriptor `located` refers to. `direct` asks for O_DIRECT; answers
    /// whether that was refused.
    pub fn open(
        located: &OwnedFd,
        inode: u64,
        direct: bool,
        is_local: bool,
        metrics: Arc<BackendMetrics>,
    ) -> io::Result<(Self, bool)> {
        let flags = libc::O_RDONLY | libc::O_NOCTTY;
        let mut refused = false;
        let mut opened = None;
        if direct {
            match path::reopen(located.as_fd(), flags | libc::O_DIRECT) {
                Ok(fd) => opened = Some(fd),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = true,
                Err(error) => return Err(error),
            }
        }
        let fd = match opened {
            Some(fd) => fd,
            None => {
                let fd = path::reopen(located.as_fd(), flags)?;
                // Only advice: a filesystem that does not take it reads ahead, which is slower, not wrong.
                let _ = path::advise_random(fd.as_fd());
                fd
            }
        };
        let file = Self {
            fd: Arc::new(fd),
            inode,
            is_local,
            metrics,
        };
        Ok((file, refused))
    }

    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        Ok(nix::sys::uio::pread(&self.fd, buffer, offset)?)
    }

    /// One pread; through an aligned buffer where the filesystem refuses this one.
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.pread(buffer, offset) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.read_aligned(buffer, offset)
            }
            result => result,
        }
    }

    fn read_aligned(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let alignment = ALIGNMENT_BYTES as usize;
        let skip = (offset % ALIGNMENT_BYTES) as usize;
        let wanted = buffer.len().min(BOUNCE_BYTES_MAX);
        let length = (skip + wanted).next_multiple_of(alignment);
        let mut bounce = vec![0u8; length + alignment];
        let start = bounce.as_ptr().align_offset(alignment);
        let aligned = &mut bounce[start..start + length];
        let read = self.pread(aligned, offset - skip as u64)?;
        let useful = read.saturating_sub(skip).min(wanted);
        buffer[..useful].copy_from_slice(&aligned[skip..skip + useful]);
        Ok(useful)
    }
}

impl SourceFile for DirectoryFile {
    fn attributes(&self) -> io::Result<Attributes> {
        counted(&self.metrics, || {
            let stat = stat::stat(self.fd.as_fd(), Freshness::Server)?;
            if stat.attributes.inode != self.inode {
                return Err(io::Error::from_raw_os_error(libc::ESTALE));
            }
            Ok(stat.attributes)
        })
    }

    fn source(&self) -> FillSource {
        FillSource::Descriptor(self.fd.clone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        counted(&self.metrics, || {
            let mut done = 0;
            while done < buffer.len() {
                match self.read_some(&mut buffer[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(read) => {
                        done += read;
                        self.metrics.bytes_read.add(read as u64);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        })
    }

    fn has_writer(&self) -> bool {
        let lease = || disk::try_read_lease(self.fd.as_fd());
        self.is_local && lease().is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        counted(&self.metrics, || {
            path::seek(self.fd.as_fd(), offset, whence.raw())
        })
    }
}
