//! Fill chains: `splice(backend -> pipe)` linked with `splice(pipe -> object opened O_DIRECT)`, so that
//! the data never passes through memory of ours. A ring and a thread of their own: the kernel's
//! workers belong to the submitting thread, and those hung in a backend must not stall reads.
//!
//! What always holds:
//! - one pipe per chain, empty before and after; a chain that ended in any other way than moving all its bytes
//!   loses its pipe, and its piece is redone by plain read and write on the fill threads, where it is also
//!   found out which side failed and where the source ends;
//! - a chain keeps its files, its pipe and its slot until both completions are in, be it for ever;
//! - the unaligned tail of a piece goes through the fill threads as well.

#![allow(unsafe_code)]

use super::blocking::{DIRECT_FILL_MIN_BYTES, FillWork, WorkerPool};
use super::requests::FillRequest;
use super::ring::{WAKEUP_USER_DATA, arm_wakeup, enter_and_wait, single_thread_ring};
use super::{ALIGNMENT_BYTES, BufferPool, FillSource};
use crate::sys::pipe::Pipe;
use crate::sys::wakeup::Wakeup;
use io_uring::{IoUring, opcode, squeue, types};
use nix::unistd::Pid;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The most that one pipe holds without privileges, and the largest piece of a fill.
pub(crate) const CHAIN_MAX_BYTES: u64 = 1024 * 1024;

/// Where pieces go that are not for a chain.
#[derive(Clone)]
pub(crate) struct PlainFills {
    pub workers: Arc<WorkerPool<FillWork>>,
    pub buffers: Arc<BufferPool>,
}

impl PlainFills {
    pub fn submit(&self, request: FillRequest) {
        self.workers.submit(FillWork {
            request,
            buffers: self.buffers.clone(),
        });
    }
}

/// Running fill chains.
pub(crate) struct FillRing {
    shared: Arc<Shared>,
    pub thread: Pid,
}

struct Shared {
    inbox: Mutex<Inbox>,
    wakeup: Wakeup,
    plain: PlainFills,
}

#[derive(Default)]
struct Inbox {
    pending: VecDeque<FillRequest>,
    asleep: bool,
    stopping: bool,
}

/// One piece between backend and disk.
struct Chain {
    request: FillRequest,
    source: Arc<OwnedFd>,
    pipe: Pipe,
    length_bytes: u64,
    answers: u8,
    complete: bool,
}

impl FillRing {
    /// Starts the ring and its thread; `chains_max` pieces are under way at most.
    pub fn start(chains_max: usize, plain: PlainFills) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox::default()),
            wakeup: Wakeup::new()?,
            plain,
        });
        let (report, started) = crossbeam_channel::bounded(1);
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("cache-fills".to_owned())
            .spawn(
                move || match single_thread_ring(chains_max as u32 * 2 + 2) {
                    Ok(ring) => {
                        let _ = report.send(Ok(nix::unistd::gettid()));
                        let table = ChainTable::new(ring, of_thread, chains_max);
                        table.run();
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                },
            )?;
        let thread = started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the ring's thread ended while starting")))?;
        Ok(Self { shared, thread })
    }

    /// Queues a piece. Never blocks.
    pub fn submit(&self, request: FillRequest) {
        if !is_for_a_chain(&request) {
            return self.shared.plain.submit(request);
        }
        let mut inbox = self.shared.inbox.lock();
        if inbox.stopping {
            drop(inbox);
            return request.cancel();
        }
        inbox.pending.push_back(request);
        if std::mem::take(&mut inbox.asleep) {
            self.shared.wakeup.signal();
        }
    }

    /// Takes no more pieces and cancels those that have not begun. Waits for nothing: the thread ends when the
    /// last chain under way has, which with a hung backend may be never.
    pub fn stop(&self) {
        let cancelled = {
            let mut inbox = self.shared.inbox.lock();
            inbox.stopping = true;
            self.shared.wakeup.signal();
            std::mem::take(&mut inbox.pending)
        };
        cancelled.into_iter().for_each(FillRequest::cancel);
    }
}

impl Drop for FillRing {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Small pieces are cheaper with two plain calls than with two worker threads of the kernel.
fn is_for_a_chain(request: &FillRequest) -> bool {
    matches!(request.source, FillSource::Descriptor(_))
        && request.length_bytes >= DIRECT_FILL_MIN_BYTES
        && request.length_bytes <= CHAIN_MAX_BYTES
        && request.offset.is_multiple_of(ALIGNMENT_BYTES)
}

/// The state of the ring's thread.
struct ChainTable {
    ring: IoUring,
    shared: Arc<Shared>,
    slots: Vec<Option<Chain>>,
    free: Vec<usize>,
    pipes: Vec<Pipe>,
}

impl ChainTable {
    fn new(ring: IoUring, shared: Arc<Shared>, chains_max: usize) -> Self {
        Self {
            ring,
            shared,
            slots: (0..chains_max).map(|_| None).collect(),
            free: (0..chains_max).rev().collect(),
            pipes: Vec::new(),
        }
    }

    fn run(mut self) {
        arm_wakeup(&self.ring, &self.shared.wakeup);
        while self.start_pending() {
            if !enter_and_wait(&self.ring) {
                return self.give_up();
            }
            self.reap();
        }
    }

    /// Starts chains while there are slots; false when all is done and the thread shall end.
    fn start_pending(&mut self) -> bool {
        while let Some(slot) = self.free.pop() {
            let request = {
                let mut inbox = self.shared.inbox.lock();
                let request = inbox.pending.pop_front();
                if request.is_none() {
                    inbox.asleep = true;
                    if inbox.stopping && self.free.len() + 1 == self.slots.len() {
                        return false;
                    }
                }
                request
            };
            let Some(request) = request else {
                self.free.push(slot);
                return true;
            };
            if let Err(request) = self.start(slot, request) {
                self.free.push(slot);
                self.shared.plain.submit(*request);
            }
        }
        // No slot is free: a completion has to come first, new pieces need not wake us.
        true
    }

    /// Puts a chain into a slot and its two entries into the queue; gives the request back when there is no pipe
    /// that holds the piece.
    fn start(&mut self, slot: usize, request: FillRequest) -> Result<(), Box<FillRequest>> {
        let FillSource::Descriptor(source) = &request.source else {
            return Err(Box::new(request));
        };
        let source = source.clone();
        let length_bytes = match request.direct {
            Some(_) => request.length_bytes / ALIGNMENT_BYTES * ALIGNMENT_BYTES,
            None => request.length_bytes,
        };
        let pipe = match self.pipes.pop() {
            Some(pipe) => pipe,
            None => match Pipe::with_capacity(CHAIN_MAX_BYTES as u32) {
                Ok(pipe) => pipe,
                Err(error) => {
                    tracing::warn!("no pipe for a fill: {error}");
                    return Err(Box::new(request));
                }
            },
        };
        if pipe.capacity_bytes < length_bytes {
            return Err(Box::new(request));
        }
        let chain = Chain {
            request,
            source,
            pipe,
            length_bytes,
            answers: 0,
            complete: true,
        };
        let entries = chain.entries(slot);
        // SAFETY: only this thread uses the ring; the entries refer to no memory, and the slot keeps the
        // descriptors open until both completions are reaped.
        if unsafe { self.ring.submission_shared().push_multiple(&entries) }.is_err() {
            return Err(Box::new(chain.request));
        }
        self.slots[slot] = Some(chain);
        Ok(())
    }

    fn reap(&mut self) {
        let mut ended = Vec::new();
        let mut rearm = false;
        // SAFETY: only this thread uses the ring, and this is its only borrow of the queue.
        for completion in unsafe { self.ring.completion_shared() } {
            let slot = match completion.user_data() {
                WAKEUP_USER_DATA => {
                    rearm |= !io_uring::cqueue::more(completion.flags());
                    continue;
                }
                slot => slot as usize,
            };
            let Some(chain) = self.slots[slot].as_mut() else {
                continue;
            };
            chain.answers += 1;
            chain.complete &= i64::from(completion.result()) == chain.length_bytes as i64;
            if chain.answers == 2 {
                ended.extend(self.slots[slot].take());
                self.free.push(slot);
            }
        }
        if rearm {
            arm_wakeup(&self.ring, &self.shared.wakeup);
        }
        for chain in ended {
            self.end(chain);
        }
    }

    fn end(&mut self, chain: Chain) {
        let mut request = chain.request;
        drop(chain.source);
        if !chain.complete {
            // Dropping the pipe drops the bytes stranded in it.
            drop(chain.pipe);
            return self.shared.plain.submit(request);
        }
        self.pipes.push(chain.pipe);
        request.copied_bytes = chain.length_bytes;
        if request.copied_bytes < request.length_bytes {
            self.shared.plain.submit(request);
        } else {
            let copied = request.copied_bytes;
            request.finish(Ok(copied));
        }
    }

    /// The ring is unusable: nothing new is taken, and what is under way keeps its files and pipes.
    fn give_up(self) {
        let refused = {
            let mut inbox = self.shared.inbox.lock();
            inbox.stopping = true;
            std::mem::take(&mut inbox.pending)
        };
        refused
            .into_iter()
            .for_each(|request| self.shared.plain.submit(request));
        loop {
            std::thread::park();
        }
    }
}

impl Chain {
    fn entries(&self, slot: usize) -> [squeue::Entry; 2] {
        // A pipe has no offset: -1, as splice(2) has a null pointer.
        const NO_OFFSET: i64 = -1;
        let target = self
            .request
            .direct
            .as_ref()
            .unwrap_or(&self.request.buffered);
        let offset = self.request.offset as i64;
        let length_bytes = self.length_bytes as u32;
        let fill_pipe = opcode::Splice::new(
            types::Fd(self.source.as_raw_fd()),
            offset,
            types::Fd(self.pipe.writer.as_raw_fd()),
            NO_OFFSET,
            length_bytes,
        )
        .build()
        .flags(squeue::Flags::IO_LINK)
        .user_data(slot as u64);
        let drain_pipe = opcode::Splice::new(
            types::Fd(self.pipe.reader.as_raw_fd()),
            NO_OFFSET,
            types::Fd(target.as_raw_fd()),
            offset,
            length_bytes,
        )
        .build()
        .user_data(slot as u64);
        [fill_pipe, drain_pipe]
    }
}
