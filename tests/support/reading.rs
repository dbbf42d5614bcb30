//! Ways to read that programs use and the standard library does not offer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Memory that O_DIRECT accepts.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length_bytes: usize,
}

impl AlignedBuffer {
    const ALIGNMENT_BYTES: usize = 4096;

    pub fn new(length_bytes: usize) -> Self {
        let memory = vec![0; length_bytes + Self::ALIGNMENT_BYTES];
        let start = memory.as_ptr().align_offset(Self::ALIGNMENT_BYTES);
        Self {
            memory,
            start,
            length_bytes,
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length_bytes]
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length_bytes]
    }
}

pub fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// preadv2(2) with RWF_NOWAIT: what is in memory now, EAGAIN when nothing is.
pub fn read_without_waiting(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the one iovec describes `buffer`, which is ours for the time of the call.
    let count = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &part,
            1,
            offset as libc::off_t,
            libc::RWF_NOWAIT,
        )
    };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(count as usize)
    }
}

/// A file mapped for reading. Access after the end of the file, or past an error of the filesystem,
/// is SIGBUS.
pub struct Mapping {
    address: *const u8,
    length_bytes: usize,
}

// SAFETY: the mapping is private to this object and only read.
unsafe impl Send for Mapping {}
// SAFETY: as above; copies out of it by several threads do not disturb one another.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length_bytes` (not 0), shared; the file may be closed afterwards.
    pub fn new(file: &File, length_bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            address: address.cast(),
            length_bytes,
        })
    }

    /// A copy of the bytes as they are now.
    pub fn read(&self, offset: usize, length_bytes: usize) -> Vec<u8> {
        assert!(offset + length_bytes <= self.length_bytes);
        let mut bytes = vec![0; length_bytes];
        // SAFETY: the source lies in the mapping, as asserted; a copy out of it holds no reference to
        // memory that others may change.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.address.add(offset),
                bytes.as_mut_ptr(),
                length_bytes,
            );
        }
        bytes
    }

    /// Writes `before` at `offset` of `to`, and the whole mapping behind it, by one pwritev(2). How much it wrote.
    pub fn write_behind(&self, before: &[u8], to: &File, offset: u64) -> io::Result<usize> {
        let parts = [
            libc::iovec {
                iov_base: before.as_ptr().cast_mut().cast(),
                iov_len: before.len(),
            },
            libc::iovec {
                iov_base: self.address.cast_mut().cast(),
                iov_len: self.length_bytes,
            },
        ];
        // SAFETY: both parts are readable for the time of the call, and the kernel only reads them.
        let written = unsafe {
            libc::pwritev(
                to.as_raw_fd(),
                parts.as_ptr(),
                parts.len() as i32,
                offset as libc::off_t,
            )
        };
        match written {
            0.. => Ok(written as usize),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writes bytes as they are now to `to`. Past the end of the file that is EFAULT, where a load is SIGBUS.
    pub fn write_to(&self, to: &File, offset: usize, length_bytes: usize) -> io::Result<usize> {
        assert!(offset + length_bytes <= self.length_bytes);
        // SAFETY: the source lies in the mapping, as asserted; the kernel only reads it.
        let written = unsafe {
            libc::write(
                to.as_raw_fd(),
                self.address.add(offset).cast(),
                length_bytes,
            )
        };
        match written {
            ..0 => Err(io::Error::last_os_error()),
            count => Ok(count as usize),
        }
    }

    /// Drops the pages this process has mapped, so that the next access faults again.
    pub fn forget_pages(&self) {
        // SAFETY: the range is this mapping; a shared file mapping gets the same bytes again.
        unsafe {
            libc::madvise(
                self.address.cast_mut().cast(),
                self.length_bytes,
                libc::MADV_DONTNEED,
            );
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those mmap gave, and no reference into it exists.
        unsafe {
            libc::munmap(self.address.cast_mut().cast(), self.length_bytes);
        }
    }
}

/// Reads a whole file through splice(2) in pieces of `piece_bytes`, as a fill does.
pub fn read_by_splice(file: &File, piece_bytes: usize) -> io::Result<Vec<u8>> {
    let (reader, writer) = rustix::pipe::pipe()?;
    rustix::pipe::fcntl_setpipe_size(&writer, piece_bytes)?;
    let mut reader = File::from(reader);
    let mut bytes = Vec::new();
    let mut offset = 0;
    loop {
        let flags = rustix::pipe::SpliceFlags::empty();
        let count =
            rustix::pipe::splice(file, Some(&mut offset), &writer, None, piece_bytes, flags)?;
        if count == 0 {
            return Ok(bytes);
        }
        let start = bytes.len();
        bytes.resize(start + count, 0);
        io::Read::read_exact(&mut reader, &mut bytes[start..])?;
    }
}

/// posix_fadvise(2): no readahead for this handle.
pub fn advise_random(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(
        file,
        0,
        None,
        rustix::fs::Advice::Random,
    )?)
}

/// statx(2) that must ask the server (AT_STATX_FORCE_SYNC).
pub fn stat_from_server(path: &Path) -> io::Result<rustix::fs::Statx> {
    let flags = rustix::fs::AtFlags::STATX_FORCE_SYNC | rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let mask = rustix::fs::StatxFlags::BASIC_STATS;
    Ok(rustix::fs::statx(rustix::fs::CWD, path, flags, mask)?)
}

/// The same for an open file: one GETATTR and nothing else.
pub fn stat_open_from_server(file: &File) -> io::Result<rustix::fs::Statx> {
    let flags = rustix::fs::AtFlags::STATX_FORCE_SYNC | rustix::fs::AtFlags::EMPTY_PATH;
    Ok(rustix::fs::statx(
        file,
        "",
        flags,
        rustix::fs::StatxFlags::BASIC_STATS,
    )?)
}

/// Drops clean pages, names and inodes of the whole machine (needs root).
pub fn drop_caches() -> io::Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Drops the clean pages of one file.
pub fn drop_pages(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(
        file,
        0,
        None,
        rustix::fs::Advice::DontNeed,
    )?)
}

/// Reads `length_bytes` at `offset` fully or to the end of the file.
pub fn read_range(file: &File, offset: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length_bytes];
    let mut done = 0;
    while done < length_bytes {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}
