//! A thread that writes for one device, through a tokio-uring runtime of its own and one registered buffer.
//!
//! What always holds: the thread waits for each operation, so the registered memory and the descriptors outlive what the
//! kernel does with them; what cannot go through the ring goes by system calls, and nobody can tell but by speed.

#![allow(unsafe_code)]

use super::{Buffer, BufferPool};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::Arc;
use tokio_uring::buf::fixed::FixedBufRegistry;
use tokio_uring::buf::{BoundedBuf, IoBuf, IoBufMut};

/// One operation at a time, and the runtime's own.
const ENTRIES: u32 = 8;
/// A file through the page cache, and past it.
const FILES_MAX: usize = 2;

thread_local! {
    static RING: RefCell<Option<DeviceRing>> = const { RefCell::new(None) };
}

struct DeviceRing {
    /// Descriptors of their own for the files used last; the first of each pair keeps its number from another file.
    files: Vec<(Arc<File>, tokio_uring::fs::File)>,
    region: Region,
    buffers: FixedBufRegistry<Region>,
    runtime: tokio_uring::Runtime,
    /// Behind the ring that it is registered with.
    _pool: BufferPool,
}

/// The memory of a pool, as tokio-uring wants to have it described.
#[derive(Clone, Copy)]
struct Region {
    address: *mut u8,
    length_bytes: usize,
}

// SAFETY: address and length are those of a mapping that the ring's pool keeps for as long as there is the ring, and that
// never moves. All of it was given by mmap, so all of it is initialised.
unsafe impl IoBuf for Region {
    fn stable_ptr(&self) -> *const u8 {
        self.address
    }

    fn bytes_init(&self) -> usize {
        self.length_bytes
    }

    fn bytes_total(&self) -> usize {
        self.length_bytes
    }
}

// SAFETY: as above. Only writes to files are made from it, so the kernel never changes it.
unsafe impl IoBufMut for Region {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.address
    }

    unsafe fn set_init(&mut self, _: usize) {}
}

/// Calls `work` with a page-aligned buffer of this length, from which writes of this thread to files of local disks go
/// through a ring while it runs, as do their syncs. Where there is no ring to be had they go by system calls.
pub(super) fn with_ring(length_bytes: usize, work: &mut dyn FnMut(Buffer)) -> io::Result<()> {
    let pool = BufferPool::new(1, length_bytes, false)?;
    let buffer = pool.try_take().expect("nobody else has this pool");
    match DeviceRing::new(pool) {
        Ok(ring) => RING.set(Some(ring)),
        Err(error) => tracing::info!("a journal's device is written to without io_uring: {error}"),
    }
    work(buffer);
    // Not when the thread's other variables are gone.
    drop(RING.take());
    Ok(())
}

/// Writes all of `data`, if this thread has a ring that it is registered with.
pub(super) fn write_all_at(file: &Arc<File>, data: &[u8], offset: u64) -> Option<io::Result<()>> {
    RING.with_borrow_mut(|ring| {
        let ring = ring.as_mut()?;
        let start = (data.as_ptr() as usize).checked_sub(ring.region.address as usize)?;
        let is_inside = start + data.len() <= ring.region.length_bytes && !data.is_empty();
        is_inside.then(|| ring.write_all_at(file, start, data.len(), offset))
    })
}

/// fdatasync(2), if this thread has a ring.
pub(super) fn sync_data(file: &Arc<File>) -> Option<io::Result<()>> {
    RING.with_borrow_mut(|ring| ring.as_mut().map(|ring| ring.sync_data(file)))
}

impl DeviceRing {
    fn new(pool: BufferPool) -> io::Result<Self> {
        let (address, length_bytes) = pool.region();
        let region = Region {
            address,
            length_bytes,
        };
        let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES))?;
        let buffers = FixedBufRegistry::new([region]);
        runtime.block_on(async { buffers.register() })?;
        Ok(Self {
            files: Vec::new(),
            region,
            buffers,
            runtime,
            _pool: pool,
        })
    }

    fn write_all_at(
        &mut self,
        file: &Arc<File>,
        start: usize,
        length_bytes: usize,
        offset: u64,
    ) -> io::Result<()> {
        self.make_known(file)?;
        let (_, known) = self.files.last().expect("made known last");
        let buffer = self.buffers.check_out(0);
        let buffer = buffer.expect("each operation gives it back");
        let part = buffer.slice(start..start + length_bytes);
        let (written, _) = self
            .runtime
            .block_on(known.write_fixed_all_at(part, offset));
        written
    }

    fn sync_data(&mut self, file: &Arc<File>) -> io::Result<()> {
        self.make_known(file)?;
        let (_, known) = self.files.last().expect("made known last");
        self.runtime.block_on(known.sync_data())
    }

    /// The file is the last one that is known.
    fn make_known(&mut self, file: &Arc<File>) -> io::Result<()> {
        let is_it = |(known, _): &(Arc<File>, _)| Arc::ptr_eq(known, file);
        let entry = match self.files.iter().position(is_it) {
            Some(at) => self.files.remove(at),
            None => {
                let own = tokio_uring::fs::File::from_std(file.try_clone()?);
                (file.clone(), own)
            }
        };
        if self.files.len() == FILES_MAX {
            self.files.remove(0);
        }
        self.files.push(entry);
        Ok(())
    }
}
