//! The ring for reads of the cache disk, and the thread that waits in it and calls the completions.
//!
//! What always holds:
//! - the slot table owns a request (its buffer and its files) from before the kernel sees it until its
//!   completion is reaped; the number in the completion is the slot, never a descriptor;
//! - what finds no free slot waits in `pending`, bounded by [`PENDING_MAX`], and is taken up by the
//!   ring's thread when a slot comes back;
//! - `state` is never locked across a system call or a completion, except for the wake-up of a kernel
//!   submission thread.
//!
//! Three ways of submitting, see [`Submission`].

#![allow(unsafe_code)]

use super::engine::ReadBuffers;
use super::requests::{Progress, ReadRequest};
use super::ring::{
    NOP_USER_DATA, WAKEUP_USER_DATA, arm_wakeup, completion_polled_ring, enter_and_wait,
    single_thread_ring, submission_polled_ring,
};
use crate::sys::wakeup::Wakeup;
use io_uring::{IoUring, opcode, squeue, types};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads that may wait for a slot; what comes on top is refused with EBUSY.
const PENDING_MAX: usize = 65_536;

/// Who tells the kernel about new requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Submission {
    /// The ring's thread, woken by an eventfd: every request queued meanwhile goes in one call.
    RingThread,
    /// The caller queues, a kernel thread picks up (IORING_SETUP_SQPOLL).
    KernelThread { idle: Duration },
    /// The ring's thread, which busily polls the device while reads are under way
    /// (IORING_SETUP_IOPOLL; O_DIRECT reads only, all others are handed on).
    PolledCompletion,
}

/// A running ring.
pub(crate) struct ReadRing {
    shared: Arc<Shared>,
}

struct Shared {
    ring: IoUring,
    submission: Submission,
    buffers: Arc<ReadBuffers>,
    buffers_registered: bool,
    state: Mutex<State>,
    wakeup: Wakeup,
    /// Waited on by the thread of a polled ring with nothing under way.
    awake: Condvar,
    /// Signalled when the thread has ended.
    ended: Condvar,
    /// Where a polled ring hands what it cannot do.
    other: Option<Arc<Shared>>,
    thread: Pid,
}

struct State {
    slots: Vec<Option<ReadRequest>>,
    free: Vec<u32>,
    pending: VecDeque<ReadRequest>,
    /// The ring's thread waits, or is about to: new requests have to wake it.
    asleep: bool,
    stopping: bool,
    ended: bool,
}

/// How a ring came up.
pub(crate) struct Started {
    pub ring: ReadRing,
    /// Why the buffers could not be registered, if so.
    pub registration: io::Result<()>,
}

impl ReadRing {
    /// Starts the ring and its thread. `register` registers `buffers`; where that fails the ring works
    /// with plain reads. `other` gets what a polled ring cannot do.
    pub fn start(
        submission: Submission,
        queue_depth: u32,
        buffers: Arc<ReadBuffers>,
        register: bool,
        other: Option<&ReadRing>,
    ) -> io::Result<Started> {
        let other = other.map(|ring| ring.shared.clone());
        let (report, started) = crossbeam_channel::bounded(1);
        std::thread::Builder::new()
            .name("cache-reads".to_owned())
            .spawn(move || {
                let prepared = Shared::prepare(submission, queue_depth, buffers, register, other);
                let shared = match prepared {
                    Ok((shared, registration)) => {
                        let shared = Arc::new(shared);
                        let ring = ReadRing {
                            shared: shared.clone(),
                        };
                        let _ = report.send(Ok(Started { ring, registration }));
                        shared
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                        return;
                    }
                };
                drop(report);
                shared.run();
            })?;
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the ring's thread ended while starting")))
    }

    /// Queues a read. Never blocks on the disk; its completion is called by the ring's thread, or
    /// here when the ring has stopped (ECANCELED) or too much is queued (EBUSY).
    pub fn submit(&self, request: ReadRequest) {
        self.shared.submit(request);
    }

    /// Whether nothing is queued or under way here.
    pub fn is_idle(&self) -> bool {
        let state = self.shared.state.lock();
        state.pending.is_empty() && state.free.len() == state.slots.len() && !state.stopping
    }

    /// The kernel's id of the ring's thread.
    pub fn thread(&self) -> Pid {
        self.shared.thread
    }

    /// Takes no more reads and cancels those without a slot. The thread ends once the kernel has
    /// answered the others; waited for at most `grace`.
    pub fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let cancelled = {
            let mut state = self.shared.state.lock();
            state.stopping = true;
            self.shared.wake(&mut state, true);
            std::mem::take(&mut state.pending)
        };
        cancelled.into_iter().for_each(ReadRequest::cancel);
        if nix::unistd::gettid() == self.shared.thread {
            return;
        }
        let mut state = self.shared.state.lock();
        while !state.ended {
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

impl Drop for ReadRing {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl Shared {
    fn prepare(
        submission: Submission,
        queue_depth: u32,
        buffers: Arc<ReadBuffers>,
        register: bool,
        other: Option<Arc<Shared>>,
    ) -> io::Result<(Self, io::Result<()>)> {
        // One entry more than slots, for the wake-up or the closing no-op.
        let entries = queue_depth + 2;
        let ring = match submission {
            Submission::RingThread => single_thread_ring(entries)?,
            Submission::KernelThread { idle } => submission_polled_ring(entries, idle)?,
            Submission::PolledCompletion => completion_polled_ring(entries)?,
        };
        let registration = if register {
            let regions = buffers.regions();
            let vectors: Vec<_> = regions
                .iter()
                .map(|(address, length_bytes)| libc::iovec {
                    iov_base: address.cast(),
                    iov_len: *length_bytes,
                })
                .collect();
            // SAFETY: the regions are mappings that `buffers` keeps, which outlives the ring in
            // `Shared`; bytes in them are written by the kernel only for reads whose Buffer a slot owns.
            unsafe { ring.submitter().register_buffers(&vectors) }
        } else {
            Ok(())
        };
        let wakeup = Wakeup::new()?;
        let shared = Self {
            ring,
            submission,
            buffers_registered: register && registration.is_ok(),
            buffers,
            state: Mutex::new(State {
                slots: (0..queue_depth).map(|_| None).collect(),
                free: (0..queue_depth).rev().collect(),
                pending: VecDeque::new(),
                asleep: false,
                stopping: false,
                ended: false,
            }),
            wakeup,
            awake: Condvar::new(),
            ended: Condvar::new(),
            other,
            thread: nix::unistd::gettid(),
        };
        Ok((shared, registration))
    }

    fn submit(&self, request: ReadRequest) {
        let mut state = self.state.lock();
        if state.stopping {
            drop(state);
            return request.cancel();
        }
        if state.pending.len() >= PENDING_MAX {
            drop(state);
            return request.finish(Err(io::Error::from_raw_os_error(libc::EBUSY)));
        }
        state.pending.push_back(request);
        self.wake(&mut state, false);
    }

    /// Sees to it that what was just queued, or a stop, is noticed.
    fn wake(&self, state: &mut State, stop: bool) {
        match self.submission {
            Submission::RingThread => {
                if std::mem::take(&mut state.asleep) {
                    self.wakeup.signal();
                }
            }
            Submission::PolledCompletion => {
                if std::mem::take(&mut state.asleep) {
                    self.awake.notify_one();
                }
            }
            Submission::KernelThread { .. } => {
                self.queue_pending(state);
                if stop {
                    let nop = opcode::Nop::new().build().user_data(NOP_USER_DATA);
                    // SAFETY: `state` is locked, which is what guards this queue; no memory is involved.
                    let _ = unsafe { self.ring.submission_shared().push(&nop) };
                }
                if let Err(error) = self.ring.submitter().submit() {
                    tracing::debug!("waking the submission thread: {error}");
                }
            }
        }
    }

    /// Moves requests from `pending` into free slots and the submission queue. The caller holds the
    /// lock of `state`, which guards the queue.
    fn queue_pending(&self, state: &mut State) {
        if state.pending.is_empty() {
            return;
        }
        // SAFETY: every use of the submission queue after start-up is under the lock of `state`.
        let mut queue = unsafe { self.ring.submission_shared() };
        while let Some(slot) = state.free.pop() {
            let Some(mut request) = state.pending.pop_front() else {
                state.free.push(slot);
                break;
            };
            let entry = self.entry(&mut request).user_data(u64::from(slot));
            // SAFETY: the entry names memory and a descriptor that `request` owns, and the slot keeps the
            // request until the completion of this entry is reaped.
            if unsafe { queue.push(&entry) }.is_err() {
                state.pending.push_front(request);
                state.free.push(slot);
                break;
            }
            state.slots[slot as usize] = Some(request);
        }
    }

    /// What the kernel shall do next for this read. The caller has checked that the length fits.
    fn entry(&self, request: &mut ReadRequest) -> squeue::Entry {
        let descriptor = types::Fd(request.file().as_raw_fd());
        let offset = request.offset + request.moved_bytes as u64;
        let pool = if self.buffers_registered {
            self.buffers.region_index(&request.buffer)
        } else {
            None
        };
        let rest = &mut request.buffer[request.moved_bytes..request.length_bytes];
        let (address, length_bytes) = (rest.as_mut_ptr(), rest.len() as u32);
        match pool {
            Some(index) => opcode::ReadFixed::new(descriptor, address, length_bytes, index)
                .offset(offset)
                .build(),
            None => opcode::Read::new(descriptor, address, length_bytes)
                .offset(offset)
                .build(),
        }
    }

    /// The ring's thread.
    fn run(&self) {
        if self.submission == Submission::RingThread {
            arm_wakeup(&self.ring, &self.wakeup);
        }
        let mut finished = Vec::new();
        loop {
            if !self.prepare_to_wait() {
                break;
            }
            if !enter_and_wait(&self.ring) {
                self.give_up();
                return;
            }
            self.reap(&mut finished);
            for progress in finished.drain(..) {
                match progress {
                    Progress::Ended(request, result) => request.finish(result),
                    Progress::More(request) => self.go_on(request),
                }
            }
        }
        self.state.lock().ended = true;
        self.ended.notify_all();
    }

    /// Queues what waits; false when all is done and the thread shall end.
    fn prepare_to_wait(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            self.queue_pending(&mut state);
            let under_way = state.free.len() < state.slots.len();
            if state.stopping && !under_way && state.pending.is_empty() {
                return false;
            }
            state.asleep = true;
            if self.submission != Submission::PolledCompletion || under_way {
                return true;
            }
            self.awake.wait(&mut state);
        }
    }

    /// Takes the completions that are there.
    fn reap(&self, finished: &mut Vec<Progress>) {
        let mut rearm = false;
        let mut state = self.state.lock();
        state.asleep = false;
        // SAFETY: only the ring's thread reads the completion queue, and this is its only borrow.
        for completion in unsafe { self.ring.completion_shared() } {
            match completion.user_data() {
                WAKEUP_USER_DATA => rearm |= !io_uring::cqueue::more(completion.flags()),
                NOP_USER_DATA => {}
                slot => {
                    if let Some(request) = state.slots[slot as usize].take() {
                        state.free.push(slot as u32);
                        finished.push(request.advance(completion.result()));
                    }
                }
            }
        }
        if rearm {
            arm_wakeup(&self.ring, &self.wakeup);
        }
    }

    /// A read whose first answer was not the last goes to the front of the queue, or where it can go on.
    fn go_on(&self, request: ReadRequest) {
        match &self.other {
            Some(other) if request.direct.is_none() => other.submit(request),
            _ => {
                let mut state = self.state.lock();
                state.pending.push_front(request);
                if matches!(self.submission, Submission::KernelThread { .. }) {
                    self.queue_pending(&mut state);
                }
            }
        }
    }

    /// The ring is unusable: everything without a slot is refused from now on. What has a slot stays there for
    /// ever, because the kernel may still write into its buffer.
    fn give_up(&self) {
        let refused = {
            let mut state = self.state.lock();
            state.stopping = true;
            state.ended = true;
            std::mem::take(&mut state.pending)
        };
        self.ended.notify_all();
        refused.into_iter().for_each(ReadRequest::cancel);
        loop {
            std::thread::park();
        }
    }
}
