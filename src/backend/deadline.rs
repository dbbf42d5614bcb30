//! Timers: one thread calls back when a time has come. Setting and cancelling take one short lock and wake the
//! thread only when the next time to wait for has become earlier.

use parking_lot::{Condvar, Mutex};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cancelled times leave the heap together, when they are more than half of it and at least this many.
const CANCELLED_MIN: usize = 1024;

/// Names a timer. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TimerId(u64);

/// What is called when the time has come; must not block.
pub type TimerCallback = Box<dyn FnOnce() + Send>;

/// Dropped, its thread ends and what is still set is never called.
pub struct Timers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    earlier: Condvar,
}

#[derive(Default)]
struct State {
    /// Due times in order; those whose callback is gone were cancelled.
    due: BinaryHeap<Reverse<(Instant, TimerId)>>,
    callbacks: HashMap<TimerId, TimerCallback>,
    next: u64,
    stopped: bool,
}

impl Timers {
    /// Starts the thread, so after the daemon's last fork; an error if there can be none.
    pub fn start() -> io::Result<Arc<Timers>> {
        let shared = Arc::new(Shared::default());
        let on_thread = shared.clone();
        std::thread::Builder::new()
            .name("timers".into())
            .spawn(move || on_thread.run())?;
        Ok(Arc::new(Timers { shared }))
    }

    /// Calls `callback` once on the timers' thread after `delay`, unless cancelled before.
    pub fn after(&self, delay: Duration, callback: TimerCallback) -> TimerId {
        let now = Instant::now();
        // A delay beyond what the clock can hold is as good as a year.
        let due = now
            .checked_add(delay)
            .unwrap_or(now + Duration::from_secs(365 * 86_400));
        let mut state = self.shared.state.lock();
        let id = TimerId(state.next);
        state.next += 1;
        let is_next = state
            .due
            .peek()
            .is_none_or(|Reverse((earliest, _))| due < *earliest);
        state.due.push(Reverse((due, id)));
        state.callbacks.insert(id, callback);
        drop(state);
        if is_next {
            self.shared.earlier.notify_one();
        }
        id
    }

    /// Whether the callback was still to come, and now is not. One that runs right now is not waited for.
    pub fn cancel(&self, id: TimerId) -> bool {
        let mut state = self.shared.state.lock();
        let callback = state.callbacks.remove(&id);
        if state.due.len() > CANCELLED_MIN && state.due.len() > 2 * state.callbacks.len() {
            let State { due, callbacks, .. } = &mut *state;
            due.retain(|Reverse((_, id))| callbacks.contains_key(id));
        }
        drop(state);
        callback.is_some()
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.earlier.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            let Some(Reverse((due, id))) = state.due.peek().copied() else {
                self.earlier.wait(&mut state);
                continue;
            };
            if !state.callbacks.contains_key(&id) {
                state.due.pop();
                continue;
            }
            if due > Instant::now() {
                self.earlier.wait_until(&mut state, due);
                continue;
            }
            state.due.pop();
            if let Some(callback) = state.callbacks.remove(&id) {
                drop(state);
                // One bad callback must not stop everybody's deadlines; the panic hook has told where.
                let _ = catch_unwind(AssertUnwindSafe(callback));
                state = self.state.lock();
            }
        }
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        drop(callbacks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn callbacks_come_in_the_order_of_their_times_and_not_early() {
        let timers = Timers::start().unwrap();
        let (sender, receiver) = unbounded();
        let began = Instant::now();
        for delay_ms in [60u64, 20, 40, 0] {
            let sender = sender.clone();
            let callback = Box::new(move || sender.send((delay_ms, began.elapsed())).unwrap());
            timers.after(Duration::from_millis(delay_ms), callback);
        }
        for expected_ms in [0, 20, 40, 60] {
            let (delay_ms, elapsed) = receiver.recv_timeout(SOON).unwrap();
            assert_eq!(delay_ms, expected_ms);
            assert!(elapsed >= Duration::from_millis(delay_ms));
        }
    }

    #[test]
    fn a_cancelled_timer_is_never_called_and_leaves_nothing_behind() {
        let timers = Timers::start().unwrap();
        let (sender, receiver) = unbounded();
        for _ in 0..10_000 {
            let sender = sender.clone();
            let id = timers.after(
                Duration::from_millis(30),
                Box::new(move || sender.send(1).unwrap()),
            );
            assert!(timers.cancel(id));
            assert!(!timers.cancel(id));
        }
        assert!(timers.shared.state.lock().due.len() <= 2 * CANCELLED_MIN);
        timers.after(
            Duration::from_millis(60),
            Box::new(move || sender.send(2).unwrap()),
        );
        assert_eq!(receiver.recv_timeout(SOON), Ok(2));
    }

    #[test]
    fn a_callback_that_panics_does_not_stop_the_next() {
        let timers = Timers::start().unwrap();
        let (sender, receiver) = unbounded();
        timers.after(
            Duration::ZERO,
            Box::new(|| std::panic::resume_unwind(Box::new("on purpose"))),
        );
        timers.after(
            Duration::from_millis(1),
            Box::new(move || sender.send(()).unwrap()),
        );
        receiver.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn what_is_set_when_the_timers_end_is_dropped_uncalled() {
        let timers = Timers::start().unwrap();
        let (sender, receiver) = unbounded::<()>();
        timers.after(Duration::from_secs(3600), Box::new(move || drop(sender)));
        timers.after(Duration::MAX, Box::new(|| {}));
        drop(timers);
        assert_eq!(
            receiver.recv_timeout(SOON),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected)
        );
    }
}
