//! One open file on a local disk: a descriptor through the page cache and, from the first time it is
//! wanted, one with O_DIRECT.

use super::engine::Engine;
use super::requests::{FillRequest, ReadRequest};
use super::splice::CHAIN_MAX_BYTES;
use super::{
    ALIGNMENT_BYTES, Buffer, Completion, FileFacts, FillCompletion, FillError, FillSource, IoFile,
    device_ring,
};
use crate::sys::{disk, write};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::statvfs::fstatvfs;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

/// Shorter writes cost more as requests of their own to the disk than as pages that go together.
const LONG_BYTES_MIN: usize = 256 << 10;

/// What the disk was found to support when it was opened.
pub(super) struct DirectSupport {
    pub writes: bool,
    pub polled_reads: bool,
}

pub(super) struct LocalFile {
    buffered: Arc<File>,
    writable: bool,
    direct: Mutex<DirectDescriptor>,
    engine: Arc<Engine>,
    support: Arc<DirectSupport>,
}

enum DirectDescriptor {
    NotOpen,
    Open(Arc<File>),
    /// The filesystem or the descriptor limit refused: the page cache does it all.
    Refused,
}

impl LocalFile {
    pub fn new(
        file: File,
        writable: bool,
        engine: Arc<Engine>,
        support: Arc<DirectSupport>,
    ) -> Self {
        let direct = if support.writes {
            DirectDescriptor::NotOpen
        } else {
            DirectDescriptor::Refused
        };
        Self {
            buffered: Arc::new(file),
            writable,
            direct: Mutex::new(direct),
            engine,
            support,
        }
    }

    /// The O_DIRECT descriptor, opened now if need be.
    fn direct(&self) -> Option<Arc<File>> {
        let mut direct = self.direct.lock();
        match &*direct {
            DirectDescriptor::Open(file) => Some(file.clone()),
            DirectDescriptor::Refused => None,
            DirectDescriptor::NotOpen => match reopen_direct(&self.buffered, self.writable) {
                Ok(file) => {
                    let file = Arc::new(file);
                    *direct = DirectDescriptor::Open(file.clone());
                    Some(file)
                }
                Err(error) => {
                    tracing::debug!("no O_DIRECT descriptor: {error}");
                    *direct = DirectDescriptor::Refused;
                    None
                }
            },
        }
    }
}

/// A second open of the same file with O_DIRECT, whatever its name is now. Through /proc/thread-self,
/// because a thread may have a descriptor table of its own.
pub(super) fn reopen_direct(file: &File, writable: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
}

/// Whether O_DIRECT takes it.
fn is_aligned(memory: &[u8], offset: u64) -> bool {
    [offset, memory.len() as u64, memory.as_ptr() as u64]
        .iter()
        .all(|number| number.is_multiple_of(ALIGNMENT_BYTES))
}

/// Short only at the end of the file.
fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut moved = 0;
    while moved < buffer.len() {
        match file.read_at(&mut buffer[moved..], offset + moved as u64) {
            Ok(0) => break,
            Ok(read) => moved += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

impl IoFile for LocalFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_whole(&self.buffered, buffer, offset)
    }

    fn expect(&self, offset: u64, length_bytes: u64) {
        let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        let expected = posix_fadvise(&*self.buffered, offset as i64, length_bytes as i64, advice);
        if let Err(errno) = expected {
            tracing::debug!("{advice:?} is not taken: {errno}");
        }
    }

    fn read_past_cache(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let direct = is_aligned(buffer, offset).then(|| self.direct()).flatten();
        read_whole(direct.as_ref().unwrap_or(&self.buffered), buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.buffered.write_all_at(data, offset)
    }

    fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let is_worth_it = is_aligned(data, offset) && data.len() >= LONG_BYTES_MIN;
        let direct = is_worth_it.then(|| self.direct()).flatten();
        let file = direct.as_ref().unwrap_or(&self.buffered);
        device_ring::write_all_at(file, data, offset)
            .unwrap_or_else(|| file.write_all_at(data, offset))
    }

    fn write_behind(&self, data: &[u8], offset: u64) -> io::Result<()> {
        device_ring::write_all_at(&self.buffered, data, offset)
            .unwrap_or_else(|| self.buffered.write_all_at(data, offset))?;
        if data.len() >= LONG_BYTES_MIN {
            write::begin_sync(self.buffered.as_fd(), offset, data.len() as u64)?;
        }
        Ok(())
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        // RWF_NOWAIT starts a read of what is missing, which an O_DIRECT read would then do a second time.
        if disk::is_cached(self.buffered.as_fd(), offset, buffer.len()) == Some(false) {
            return Ok(None);
        }
        disk::read_nowait(self.buffered.as_fd(), buffer, offset)
    }

    fn submit_read(
        &self,
        buffer: Buffer,
        offset: u64,
        length_bytes: usize,
        direct: bool,
        done: Completion,
    ) {
        let fits = length_bytes <= buffer.len() && i32::try_from(length_bytes).is_ok();
        let aligned = offset.is_multiple_of(ALIGNMENT_BYTES)
            && (length_bytes as u64).is_multiple_of(ALIGNMENT_BYTES)
            && buffer.is_aligned();
        let direct = if direct && aligned {
            self.direct()
        } else {
            None
        };
        let request = ReadRequest {
            buffered: self.buffered.clone(),
            direct,
            offset,
            length_bytes,
            moved_bytes: 0,
            buffer,
            done,
        };
        if !fits {
            request.finish(Err(io::Error::from_raw_os_error(libc::EINVAL)));
        } else if length_bytes == 0 {
            request.finish(Ok(0));
        } else {
            self.engine.read(request, self.support.polled_reads);
        }
    }

    fn submit_fill(
        &self,
        source: FillSource,
        offset: u64,
        length_bytes: u64,
        done: FillCompletion,
    ) {
        let valid = offset.is_multiple_of(ALIGNMENT_BYTES) && length_bytes <= CHAIN_MAX_BYTES;
        let request = FillRequest {
            source,
            buffered: self.buffered.clone(),
            direct: if valid { self.direct() } else { None },
            offset,
            length_bytes,
            copied_bytes: 0,
            done,
        };
        if !valid {
            let invalid = io::Error::from_raw_os_error(libc::EINVAL);
            request.finish(Err(FillError::Destination(invalid)));
        } else if length_bytes == 0 {
            request.finish(Ok(0));
        } else {
            self.engine.fill(request);
        }
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.buffered.set_len(size_bytes)
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, length_bytes) = (offset as i64, length_bytes as i64);
        Ok(fallocate(&*self.buffered, flags, offset, length_bytes)?)
    }

    fn set_blocks_aside(&self) {
        let Ok(facts) = self.facts() else {
            return;
        };
        let missing_bytes = facts.size_bytes.saturating_sub(facts.allocated_bytes);
        let has_room = fstatvfs(&*self.buffered).is_ok_and(|space| {
            space
                .blocks_available()
                .saturating_mul(space.fragment_size())
                / 4
                > missing_bytes
        });
        if missing_bytes > 0 && has_room {
            let size_bytes = facts.size_bytes as i64;
            if let Err(errno) = fallocate(&*self.buffered, FallocateFlags::empty(), 0, size_bytes) {
                tracing::debug!("no blocks set aside: {errno}");
            }
        }
    }

    fn facts(&self) -> io::Result<FileFacts> {
        let facts = disk::statx(self.buffered.as_fd())?;
        let nanoseconds = |time: &libc::statx_timestamp| {
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        Ok(FileFacts {
            inode: facts.stx_ino,
            size_bytes: facts.stx_size,
            allocated_bytes: facts.stx_blocks * 512,
            link_count: u64::from(facts.stx_nlink),
            owner_uid: facts.stx_uid,
            is_regular: u32::from(facts.stx_mode) & libc::S_IFMT == libc::S_IFREG,
            mtime_ns: nanoseconds(&facts.stx_mtime),
            birth_ns: nanoseconds(&facts.stx_btime),
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        device_ring::sync_data(&self.buffered).unwrap_or_else(|| self.buffered.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.buffered.sync_all()
    }

    fn is_exclusive(&self) -> bool {
        // Held over the lease, so that no second descriptor of ours comes up meanwhile. A request
        // under way still has the O_DIRECT one: then the answer is no, rightly.
        let mut direct = self.direct.lock();
        if matches!(*direct, DirectDescriptor::Open(_)) {
            *direct = DirectDescriptor::NotOpen;
        }
        disk::try_write_lease(self.buffered.as_fd()).is_ok()
    }

    fn set_random_access(&self, random: bool) {
        let advice = if random {
            PosixFadviseAdvice::POSIX_FADV_RANDOM
        } else {
            PosixFadviseAdvice::POSIX_FADV_NORMAL
        };
        if let Err(error) = posix_fadvise(&*self.buffered, 0, 0, advice) {
            tracing::debug!("posix_fadvise: {error}");
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.buffered.as_fd())
    }
}
