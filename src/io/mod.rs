//! Every disk and pipe operation of the daemon, behind two traits: [`Io`] is one directory tree on one
//! local disk, [`IoFile`] one file in it. Two implementations: [`local::LocalDisk`] (io_uring or
//! blocking engine, chosen by [`engine`]) and [`simulator::SimulatedDisk`] (seeded faults).
//!
//! What always holds: a [`Buffer`] handed to an operation comes back with its completion, whatever
//! happened, and nobody else touches it before; a short transfer is reported as such, never
//! padded; a completion is called exactly once, from any thread, and must not block.
//!
//! - `buffer`: pooled page-aligned buffers, registered with the ring where possible
//! - `settings`: what an engine is asked for and what it reports
//! - `engine`: which engine runs and why; hands requests to it
//! - `requests`: a read or a fill with all that it owns until it ends
//! - `ring`: what all rings have in common: probing, set-up, wake-up
//! - `uring`: the ring for asynchronous fixed-buffer reads and its thread
//! - `splice`: fill chains (linked splices backend -> pipe -> O_DIRECT file) on a ring of their own
//! - `device_ring`: a thread that writes for one device of a journal, on a tokio-uring runtime
//! - `blocking`: the same verbs on pools of threads, where io_uring is off
//! - `numa`: the processors next to a disk
//! - `local`: `Io` on a real directory; `local_file`: `IoFile`; `probe`: what its filesystem can do
//! - `simulator`: `Io` in memory with a volatile cache per device and seeded faults

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use buffer::{Buffer, BufferPool};
pub use probe::DiskReport;
pub use ring::probe as probe_uring;

mod blocking;
pub mod buffer;
mod device_ring;
pub mod engine;
pub mod local;
mod local_file;
mod numa;
mod probe;
mod requests;
mod ring;
mod settings;
pub mod simulator;
mod splice;
#[cfg(test)]
mod tests;
mod uring;

/// All offsets and lengths of O_DIRECT transfers, and of fills, are multiples of this.
pub const ALIGNMENT_BYTES: u64 = 4096;

/// Called once with the number of bytes moved (short only at end of file) and the buffer.
pub type Completion = Box<dyn FnOnce(io::Result<usize>, Buffer) + Send>;

/// Called once when a fill has ended.
pub type FillCompletion = Box<dyn FnOnce(Result<u64, FillError>) + Send>;

/// Why a fill failed; what lies in the destination range is undefined then.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Reading the backend failed.
    #[error("reading the backend: {0}")]
    Source(#[source] io::Error),
    /// Writing the cache disk failed.
    #[error("writing the cache disk: {0}")]
    Destination(#[source] io::Error),
}

/// Where a fill reads from.
#[derive(Clone)]
pub enum FillSource {
    /// A descriptor that splice(2) and pread(2) accept.
    Descriptor(Arc<OwnedFd>),
    /// Anything else that can be read at an offset, blocking.
    Reader(Arc<dyn ReadAt>),
    /// The same through memory, with somebody looking on.
    Watched(Arc<FillSource>, Watch),
}

/// Is shown the bytes of each piece, with their offset, before they are written. A piece is shown whole.
pub type Watch = Arc<dyn Fn(&[u8], u64) + Send + Sync>;

/// A blocking positioned reader.
pub trait ReadAt: Send + Sync {
    /// Like pread(2): short only at end of file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// How [`Io::open`] opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file (error if the name exists), mode 0600, for reading and writing.
    CreateNew,
}

/// What the cache wants to know of one of its own files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileFacts {
    pub inode: u64,
    pub size_bytes: u64,
    /// Bytes allocated on the disk.
    pub allocated_bytes: u64,
    pub link_count: u64,
    pub owner_uid: u32,
    pub is_regular: bool,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Time of birth, the same way; 0 where the filesystem tells none.
    pub birth_ns: i128,
}

/// Space on the disk that holds an [`Io`], as statvfs(3) tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub total_inodes: u64,
    pub available_inodes: u64,
}

/// Whether this is want of room: the disk is full, which is not broken.
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// One directory tree on one local disk. Paths are relative, '/'-separated, never contain ".."
/// and are never followed through a symbolic link. Every call blocks unless said otherwise.
pub trait Io: Send + Sync + 'static {
    /// Makes a directory, mode 0700; an existing one is fine.
    fn create_directory(&self, path: &str) -> io::Result<()>;
    /// Calls `each` with every name in a directory until it returns false. Names that are not UTF-8
    /// are given lossily.
    fn list(&self, path: &str, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()>;
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn IoFile>>;
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Atomic, replaces an existing file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &str) -> io::Result<()>;
    /// Makes everything written to the whole filesystem durable (syncfs(2)); an earlier write
    /// error is reported here.
    fn sync_all(&self) -> io::Result<()>;
    fn space(&self) -> io::Result<DiskSpace>;
    /// Calls `work` on this thread, which writes and syncs for one device while it runs, with a page-aligned buffer of this
    /// length. What goes past the page cache from there, and syncs, may take a shorter way to the disk. ENOMEM, and `work`
    /// is not called.
    fn as_device_thread(
        &self,
        length_bytes: usize,
        work: &mut dyn FnMut(Buffer),
    ) -> io::Result<()> {
        with_buffer(length_bytes, work)
    }
}

fn with_buffer(length_bytes: usize, work: &mut dyn FnMut(Buffer)) -> io::Result<()> {
    let pool = BufferPool::new(1, length_bytes, false)?;
    work(pool.try_take().expect("nobody else has this pool"));
    Ok(())
}

/// One open file. `Arc`-shared; operations on distinct ranges may run at once.
pub trait IoFile: Send + Sync + 'static {
    /// Like pread(2), through the page cache. Blocks.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Begins to read a range into the page cache, and does not wait for its bytes (POSIX_FADV_WILLNEED).
    fn expect(&self, _offset: u64, _length_bytes: u64) {}
    /// Like `read_at`, past the page cache, where that is possible and offset, length and memory are multiples of
    /// [`ALIGNMENT_BYTES`]: what the disk has, whatever is in memory of it. Blocks.
    fn read_past_cache(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }
    /// Writes all of `data` through the page cache. Blocks.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// The same past the page cache, where that is possible and `data` is long enough to be worth it: for what is not
    /// read again soon. Blocks.
    fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }
    /// The same through the page cache, and begins to bring it to the disk where `data` is long enough to be worth it: for
    /// what is read again soon. Durable with the next sync. Blocks where the disk has much to do.
    fn write_behind(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }
    /// The bytes that are in memory now: `preadv2` with RWF_NOWAIT. `None` when it would have to
    /// wait for the disk, the range reaches past the end of the file, or the filesystem cannot tell. May be short. Never
    /// blocks.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Reads `length_bytes` into the front of `buffer`. Does not block the caller, but for a small read with no
    /// other beside it, which waits for the disk. `direct` asks for O_DIRECT, honoured when offset and length are multiples of [`ALIGNMENT_BYTES`].
    fn submit_read(
        &self,
        buffer: Buffer,
        offset: u64,
        length_bytes: usize,
        direct: bool,
        done: Completion,
    );
    /// Copies `source[offset..offset + length_bytes]` to the same offset of this file without
    /// blocking the caller. `offset` is a multiple of [`ALIGNMENT_BYTES`], the length is any and at most
    /// 1 MiB. Completes with the bytes copied, fewer only where the source ended. After `Ok(n)` those
    /// bytes are readable, not yet durable.
    fn submit_fill(&self, source: FillSource, offset: u64, length_bytes: u64, done: FillCompletion);
    fn set_size(&self, size_bytes: u64) -> io::Result<()>;
    /// Gives the blocks of a range back, which reads as zeros then (fallocate(2), FALLOC_FL_PUNCH_HOLE). Whole blocks of
    /// [`ALIGNMENT_BYTES`]. Blocks.
    fn punch(&self, offset: u64, length_bytes: u64) -> io::Result<()>;
    /// Gives the file's holes blocks that nobody else can take then (fallocate(2)), where the disk has room to spare.
    fn set_blocks_aside(&self);
    fn facts(&self) -> io::Result<FileFacts>;
    /// Makes data, size and extents durable (fdatasync(2)).
    fn sync_data(&self) -> io::Result<()>;
    /// The same, and all attributes, modification time included (fsync(2)).
    fn sync_all(&self) -> io::Result<()>;
    /// Tells the kernel not to read ahead of buffered reads (POSIX_FADV_RANDOM), or to do so again. For
    /// objects with holes yet: reading ahead would cache zeros that a fill then replaces.
    fn set_random_access(&self, random: bool);
    /// Whether nobody but this descriptor has the file open or mapped, kernel passthrough included:
    /// takes and gives back a write lease (fcntl(2) F_SETLEASE, F_WRLCK).
    fn is_exclusive(&self) -> bool;
    /// The descriptor for kernel passthrough; `None` in the simulator.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}
