//! Requests that wait: ended by their result, by their deadline, by an interrupt, or by an answer known from
//! before; by whichever comes first, and only once.

use super::error::FsError;
use super::operations::Done;
use crate::backend::deadline::{TimerId, Timers};
use crate::sys::process;
use crate::watch::{Served, Watch};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// Whether a thread that was sent a signal is about to end is looked at this often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How much longer a question waits whose program handles the signal. Of files, programs expect no EINTR (signal(7)), but
/// that Ctrl-C ends what hangs.
const PATIENCE: Duration = Duration::from_millis(500);

/// The requests that wait now, by their unique id.
pub(super) struct PendingTable {
    shards: [Mutex<HashMap<u64, Waiting>>; SHARDS],
    timers: Arc<Timers>,
    watch: Arc<Watch>,
}

struct Waiting {
    since: Instant,
    request: Weak<dyn Interruptible>,
}

trait Interruptible: Send + Sync {
    fn interrupt(self: Arc<Self>);
}

/// One waiting request. Dropped without a result, it ends with an error of its own.
pub(super) struct Pending<T: Send + 'static> {
    unique: u64,
    /// Who asks. Thread 0 is of another pid namespace, and nobody can tell whether it is about to end.
    thread: u32,
    /// How long it waits on when its thread was sent a signal and goes on.
    patience: Duration,
    table: Arc<PendingTable>,
    state: Mutex<State<T>>,
}

struct State<T: Send + 'static> {
    done: Option<Done<T>>,
    timers: Vec<TimerId>,
    fallback: Option<Fallback<T>>,
    /// A call of the backend for it has failed.
    has_failed: bool,
}

/// Answers a request in the backend's stead; whether it does, be it later. Must not block.
pub(super) type Fallback<T> = Box<dyn FnOnce(&Arc<Pending<T>>) -> bool + Send>;

impl PendingTable {
    pub(super) fn new(timers: Arc<Timers>, watch: Arc<Watch>) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            timers,
            watch,
        })
    }

    fn shard(&self, unique: u64) -> &Mutex<HashMap<u64, Waiting>> {
        // Unique ids of the kernel are even.
        &self.shards[(unique / 2) as usize % SHARDS]
    }

    /// Registers a request of a thread that ends with `BackendTimeout` after `timeout` at the latest.
    pub(super) fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        unique: u64,
        thread: u32,
        timeout: Duration,
        done: Done<T>,
    ) -> Arc<Pending<T>> {
        let pending = self.register(unique, thread, PATIENCE, done);
        pending.after(timeout, |pending| {
            pending.finish(Err(FsError::BackendTimeout));
        });
        pending
    }

    /// Registers a request without a deadline, of a thread that must be about to end for a signal to interrupt it: what
    /// it asks for cannot be asked for again.
    pub(super) fn begin_patient<T: Send + 'static>(
        self: &Arc<Self>,
        unique: u64,
        thread: u32,
        done: Done<T>,
    ) -> Arc<Pending<T>> {
        self.register(unique, thread, Duration::MAX, done)
    }

    fn register<T: Send + 'static>(
        self: &Arc<Self>,
        unique: u64,
        thread: u32,
        patience: Duration,
        done: Done<T>,
    ) -> Arc<Pending<T>> {
        let pending = Arc::new(Pending {
            unique,
            thread,
            patience,
            table: self.clone(),
            state: Mutex::new(State {
                done: Some(done),
                timers: Vec::new(),
                fallback: None,
                has_failed: false,
            }),
        });
        let request: Weak<dyn Interruptible> = Arc::downgrade(&(pending.clone() as _));
        let waiting = Waiting {
            since: Instant::now(),
            request,
        };
        self.shard(unique).lock().insert(unique, waiting);
        pending
    }

    pub(super) fn interrupt(&self, unique: u64) {
        let waiting = self
            .shard(unique)
            .lock()
            .get(&unique)
            .and_then(|waiting| waiting.request.upgrade());
        if let Some(waiting) = waiting {
            waiting.interrupt();
        }
    }

    /// How long the oldest of them has waited.
    pub(super) fn longest_wait(&self) -> Duration {
        let oldest = |shard: &Mutex<HashMap<u64, Waiting>>| {
            let waiting = shard.lock();
            waiting.values().map(|waiting| waiting.since).min()
        };
        let oldest = self.shards.iter().filter_map(oldest).min();
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl<T: Send + 'static> Pending<T> {
    /// Calls `act` after a time unless the request has ended by then. `act` must not block.
    pub(super) fn after(
        self: &Arc<Self>,
        delay: Duration,
        act: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) {
        let weak = Arc::downgrade(self);
        let timer = self.table.timers.after(
            delay,
            Box::new(move || {
                if let Some(pending) = weak.upgrade() {
                    act(&pending);
                }
            }),
        );
        let mut state = self.state.lock();
        if state.done.is_some() {
            state.timers.push(timer);
        } else {
            drop(state);
            self.table.timers.cancel(timer);
        }
    }

    /// Says where its answer comes from.
    pub(super) fn note(&self, served: Served) {
        self.table.watch.note(self.unique, Some(served));
    }

    /// Answers by what is known; whether it does, be it later.
    pub(super) fn answer_by_known(
        self: &Arc<Self>,
        known: impl FnOnce(&Arc<Self>) -> bool,
    ) -> bool {
        self.note(Served::Known);
        let answers = known(self);
        if !answers {
            self.table.watch.note(self.unique, None);
        }
        answers
    }

    /// Keeps an answer for when the backend gives none.
    pub(super) fn set_fallback(&self, fallback: Fallback<T>) {
        let mut state = self.state.lock();
        if state.done.is_some() {
            state.fallback = Some(fallback);
        }
    }

    /// Gives the answer kept, once; whether there was one.
    pub(super) fn fall_back(self: &Arc<Self>) -> bool {
        let fallback = self.state.lock().fallback.take();
        fallback.is_some_and(|answer| answer(self))
    }

    /// The same for a request whose backend call failed; the answer kept can tell.
    pub(super) fn fall_back_from_failure(self: &Arc<Self>) -> bool {
        self.state.lock().has_failed = true;
        self.fall_back()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state.lock().has_failed
    }

    /// Ends the request if nothing else has; false if something had.
    pub(super) fn finish(&self, result: Result<T, FsError>) -> bool {
        self.finish_with(|| result)
    }

    /// Ends the request with what `make` gives, which runs only if nothing else has ended it.
    pub(super) fn finish_with(&self, make: impl FnOnce() -> Result<T, FsError>) -> bool {
        let (done, timers, fallback) = {
            let mut state = self.state.lock();
            let Some(done) = state.done.take() else {
                return false;
            };
            let timers = std::mem::take(&mut state.timers);
            (done, timers, state.fallback.take())
        };
        drop(fallback);
        self.table.shard(self.unique).lock().remove(&self.unique);
        for timer in timers {
            self.table.timers.cancel(timer);
        }
        done(make());
        true
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().done.is_none()
    }
}

impl<T: Send + 'static> Interruptible for Pending<T> {
    fn interrupt(self: Arc<Self>) {
        self.give_up_in_time(Instant::now());
    }
}

impl<T: Send + 'static> Pending<T> {
    /// Its thread was sent a signal at `sent`. The kernel tells of the first one only: a later one may end the thread.
    fn give_up_in_time(self: &Arc<Self>, sent: Instant) {
        let goes_on = self.thread != 0 && !process::is_ending(self.thread);
        if goes_on && sent.elapsed() < self.patience {
            self.after(LOOK_AGAIN_AFTER, move |pending| {
                pending.give_up_in_time(sent);
            });
        } else {
            self.finish(Err(FsError::Interrupted));
        }
    }
}

impl<T: Send + 'static> Drop for Pending<T> {
    fn drop(&mut self) {
        // A worker that died with the request in hand.
        self.finish(Err(FsError::Stopping));
    }
}
