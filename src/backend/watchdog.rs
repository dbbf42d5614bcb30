//! One thread that looks after everything that can be overdue: every 100 ms while calls run, asleep
//! otherwise. It is started by the first call, so that nothing runs before the daemon's last fork.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);
/// Quiet ticks before it sleeps, so that occasional calls need not wake it each time.
const QUIET_TICKS: u32 = 20;

/// Something that can be overdue.
pub trait Watched: Send + Sync {
    /// Notices what is overdue by now. Whether anything runs that could become so. Must not block.
    fn sweep(&self, now: Instant) -> bool;
}

/// Dropped, its thread ends.
pub struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    /// Set before the last sweep ahead of sleeping: whoever starts a call after that sweep sees it.
    asleep: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    members: Vec<Weak<dyn Watched>>,
    running: bool,
    stopped: bool,
}

impl Watchdog {
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                asleep: AtomicBool::new(true),
                state: Mutex::default(),
                wake: Condvar::new(),
            }),
        }
    }

    /// Sweeps `member` from now on, for as long as it lives.
    pub fn watch(&self, member: Weak<dyn Watched>) {
        self.shared.state.lock().members.push(member);
    }

    /// To be called after something began that a sweep is to see. Costs one atomic while awake.
    pub fn call_began(&self) {
        if !self.shared.asleep.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.shared.state.lock();
        if !state.running {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new()
                .name("backend-watch".into())
                .spawn(move || shared.run());
            match started {
                Ok(_) => state.running = true,
                Err(error) => {
                    tracing::error!(%error, "no thread for the backend's watchdog");
                    return;
                }
            }
        }
        self.shared.asleep.store(false, Ordering::SeqCst);
        self.shared.wake.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut quiet_ticks = 0;
        loop {
            if quiet_ticks >= QUIET_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
            }
            if self.sweep() {
                quiet_ticks = 0;
                self.asleep.store(false, Ordering::SeqCst);
            } else {
                quiet_ticks += 1;
            }
            let mut state = self.state.lock();
            if !state.stopped && !self.asleep.load(Ordering::SeqCst) {
                self.wake.wait_for(&mut state, TICK);
            }
            while !state.stopped && self.asleep.load(Ordering::SeqCst) {
                self.wake.wait(&mut state);
                quiet_ticks = 0;
            }
            if state.stopped {
                return;
            }
        }
    }

    fn sweep(&self) -> bool {
        let members: Vec<_> = {
            let mut state = self.state.lock();
            state.members.retain(|member| member.strong_count() > 0);
            state.members.iter().filter_map(Weak::upgrade).collect()
        };
        let now = Instant::now();
        // Every member is swept, whatever the ones before it answered.
        members
            .iter()
            .fold(false, |busy, member| member.sweep(now) | busy)
    }
}
