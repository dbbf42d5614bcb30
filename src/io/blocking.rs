//! The same verbs with plain system calls on threads: all of them where io_uring is off, and
//! for fills the small pieces, tails, readers without a descriptor, and pieces whose splice chain
//! went wrong.
//!
//! Reads and fills have pools of their own, so that threads lost in a hung backend never delay a read.

use super::requests::{FillRequest, Progress, ReadRequest};
use super::{ALIGNMENT_BYTES, Buffer, BufferPool, FillError, FillSource};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Below this length a piece is written through the page cache: it is read soon, and the cost of a call
/// outweighs that of the copy.
pub(crate) const DIRECT_FILL_MIN_BYTES: u64 = 64 * 1024;

/// Something for a thread to do.
pub(crate) trait Work: Send + 'static {
    fn run(self);
    /// Instead of `run`, when the pool has stopped.
    fn cancel(self);
}

/// At most `threads_max` threads, started as they are needed. The queue is bounded by the callers: each
/// entry holds a buffer, or a piece that the cache counts.
pub(crate) struct WorkerPool<W: Work> {
    shared: Arc<Shared<W>>,
}

struct Shared<W> {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State<W>>,
    work: Condvar,
    ended: Condvar,
}

struct State<W> {
    queue: VecDeque<W>,
    idle: usize,
    threads: usize,
    stopping: bool,
}

impl<W: Work> WorkerPool<W> {
    pub fn new(name: &'static str, threads_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                threads_max: threads_max.max(1),
                state: Mutex::new(State {
                    queue: VecDeque::new(),
                    idle: 0,
                    threads: 0,
                    stopping: false,
                }),
                work: Condvar::new(),
                ended: Condvar::new(),
            }),
        }
    }

    /// Queues without waiting. Cancelled here when the pool has stopped or no thread can be had.
    pub fn submit(&self, work: W) {
        let mut state = self.shared.state.lock();
        if state.stopping {
            drop(state);
            return work.cancel();
        }
        state.queue.push_back(work);
        if state.queue.len() <= state.idle || state.threads >= self.shared.threads_max {
            self.shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new()
            .name(self.shared.name.to_owned())
            .spawn(move || shared.run());
        if let Err(error) = spawned {
            tracing::warn!("no thread for {}: {error}", self.shared.name);
            let orphans = {
                let mut state = self.shared.state.lock();
                state.threads -= 1;
                match state.threads {
                    0 => std::mem::take(&mut state.queue),
                    _ => VecDeque::new(),
                }
            };
            orphans.into_iter().for_each(W::cancel);
        }
    }

    /// Takes no more work and cancels what has not begun; waits at most `grace` for the rest.
    pub fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let cancelled = {
            let mut state = self.shared.state.lock();
            state.stopping = true;
            std::mem::take(&mut state.queue)
        };
        self.shared.work.notify_all();
        cancelled.into_iter().for_each(W::cancel);
        let mut state = self.shared.state.lock();
        while state.threads > 0 {
            if self
                .shared
                .ended
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                return;
            }
        }
    }
}

impl<W: Work> Drop for WorkerPool<W> {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl<W: Work> Shared<W> {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                work.run();
                state = self.state.lock();
            } else if state.stopping {
                break;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
        state.threads -= 1;
        drop(state);
        self.ended.notify_all();
    }
}

impl Work for ReadRequest {
    fn run(mut self) {
        loop {
            let offset = self.offset + self.moved_bytes as u64;
            let rest = &mut self.buffer[self.moved_bytes..self.length_bytes];
            let file = self.direct.as_deref().unwrap_or(&self.buffered);
            let result = match file.read_at(rest, offset) {
                Ok(moved) => moved as i32,
                Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
            };
            match self.advance(result) {
                Progress::More(rest) => self = rest,
                Progress::Ended(request, result) => return request.finish(result),
            }
        }
    }

    fn cancel(self) {
        ReadRequest::cancel(self);
    }
}

/// A piece of fill for a thread, with the memory it passes through.
pub(crate) struct FillWork {
    pub request: FillRequest,
    /// Slots of the largest piece, as many as there are threads.
    pub buffers: Arc<BufferPool>,
}

impl Work for FillWork {
    fn run(self) {
        let mut buffer = self
            .buffers
            .try_take()
            .unwrap_or_else(|| Buffer::unpooled(self.request.length_bytes as usize));
        let result = copy_piece(&self.request, &mut buffer);
        drop(buffer);
        self.request.finish(result);
    }

    fn cancel(self) {
        self.request.cancel();
    }
}

/// Copies what is missing of a piece with read and write. Which side failed is certain here.
fn copy_piece(request: &FillRequest, buffer: &mut Buffer) -> Result<u64, FillError> {
    let start = request.offset + request.copied_bytes;
    let length_bytes = (request.length_bytes - request.copied_bytes) as usize;
    let aligned_memory = buffer.is_aligned();
    let read_bytes =
        read_source(&request.source, buffer, length_bytes, start).map_err(FillError::Source)?;
    let data = &buffer[..read_bytes];
    let direct = request
        .direct
        .as_deref()
        .filter(|_| aligned_memory && read_bytes as u64 >= DIRECT_FILL_MIN_BYTES);
    write_destination(&request.buffered, direct, data, start).map_err(FillError::Destination)?;
    Ok(request.copied_bytes + read_bytes as u64)
}

/// Reads up to `length_bytes` into the front of `buffer`, fewer only at the end of the source.
fn read_source(
    source: &FillSource,
    buffer: &mut Buffer,
    length_bytes: usize,
    offset: u64,
) -> io::Result<usize> {
    match source {
        FillSource::Reader(reader) => reader.read_at(&mut buffer[..length_bytes], offset),
        FillSource::Watched(source, watch) => {
            let read_bytes = read_source(source, buffer, length_bytes, offset)?;
            watch(&buffer[..read_bytes], offset);
            Ok(read_bytes)
        }
        FillSource::Descriptor(descriptor) => {
            let descriptor = descriptor.as_fd();
            let mut moved = 0;
            while moved < length_bytes {
                let at = offset + moved as u64;
                let wanted = moved..length_bytes;
                let read = match pread(descriptor, &mut buffer[wanted], at) {
                    // A source opened O_DIRECT on a local filesystem wants whole blocks.
                    Err(nix::errno::Errno::EINVAL) if buffer.is_aligned() => {
                        let blocks = ALIGNMENT_BYTES as usize;
                        let rounded = length_bytes.next_multiple_of(blocks).min(buffer.len());
                        if !(moved % blocks == 0 && rounded > length_bytes) {
                            return Err(io::Error::from_raw_os_error(libc::EINVAL));
                        }
                        pread(descriptor, &mut buffer[moved..rounded], at)?
                            .min(length_bytes - moved)
                    }
                    Err(nix::errno::Errno::EINTR) => continue,
                    other => other?,
                };
                if read == 0 {
                    break;
                }
                moved += read;
            }
            Ok(moved)
        }
    }
}

fn pread(
    descriptor: std::os::fd::BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> nix::Result<usize> {
    nix::sys::uio::pread(descriptor, buffer, offset as libc::off_t)
}

/// Writes all of `data`: whole blocks by O_DIRECT if there is such a descriptor, the rest through the page cache.
fn write_destination(
    buffered: &File,
    direct: Option<&File>,
    data: &[u8],
    offset: u64,
) -> io::Result<()> {
    let mut rest = data;
    let mut at = offset;
    if let Some(direct) = direct
        && offset.is_multiple_of(ALIGNMENT_BYTES)
    {
        let aligned_bytes = data.len() / ALIGNMENT_BYTES as usize * ALIGNMENT_BYTES as usize;
        match direct.write_all_at(&data[..aligned_bytes], offset) {
            Ok(()) => {
                rest = &data[aligned_bytes..];
                at += aligned_bytes as u64;
            }
            // Refused for its alignment, or cut short by it: the page cache takes it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    buffered.write_all_at(rest, at)
}
