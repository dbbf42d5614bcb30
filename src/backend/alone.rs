//! Files of local filesystems that nobody but one descriptor of ours has open, by a write lease: what was written by that
//! descriptor is then all that has changed. Whoever else opens the file waits until the lease is given back, which
//! is done at once, on a thread that does nothing else.
//!
//! The kernel lets an open with O_NONBLOCK fail (EWOULDBLOCK) instead of waiting.

use crate::sys::lease;
use crate::types::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Timestamps of local filesystems move in steps of 10 ms at most (a tick of the kernel's clock, HZ=100).
const CLOCK_STEP: Duration = Duration::from_millis(10);
/// How often the clock is looked at until it has moved.
const CLOCK_LOOK: Duration = Duration::from_millis(1);

/// A file that nobody else has open. The lease goes with the value.
pub struct Alone {
    file: Arc<OwnedFd>,
    /// The time of the last change: nobody else may make one of the same time.
    changed: Mutex<Option<Timestamp>>,
}

/// All that are held, for the thread that gives them back.
#[derive(Default)]
pub struct Leases {
    held: Arc<Mutex<Vec<Weak<Alone>>>>,
    watched: OnceLock<()>,
}

impl Alone {
    /// Nobody else has had the file open since the lease was taken.
    pub fn is_unbroken(&self) -> bool {
        lease::is_held(self.file.as_fd())
    }

    /// Whether changes made from now on have another time than `changed`, the last one's. If not, nobody else is let
    /// in before they have; the value must be kept for [`Alone::settles_within`] then. An error where that cannot be told.
    pub fn settle(&self, changed: Timestamp) -> io::Result<bool> {
        let now = lease::timestamp_clock()?;
        if changed < now {
            return Ok(true);
        }
        let ahead_ns = nanoseconds(changed) - nanoseconds(now);
        if ahead_ns > CLOCK_STEP.as_nanos() as i128 {
            return Err(io::Error::other("the clock was set back"));
        }
        *self.changed.lock() = Some(changed);
        Ok(false)
    }

    pub fn settles_within() -> Duration {
        2 * CLOCK_STEP
    }

    fn let_in(&self) {
        let changed = self.changed.lock().take();
        if let Some(changed) = changed {
            wait_past(changed);
        }
        lease::give_back(self.file.as_fd());
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        lease::give_back(self.file.as_fd());
    }
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

fn wait_past(changed: Timestamp) {
    let looks = Alone::settles_within().as_millis() / CLOCK_LOOK.as_millis();
    for _ in 0..looks {
        if lease::timestamp_clock().is_ok_and(|now| changed < now) {
            return;
        }
        std::thread::sleep(CLOCK_LOOK);
    }
}

impl Leases {
    /// Starts the thread that gives leases back; before that none are taken. Every thread of the process must have
    /// SIGIO blocked.
    pub fn watch(&self) -> io::Result<()> {
        let held = self.held.clone();
        std::thread::Builder::new()
            .name("backend-leases".to_owned())
            .spawn(move || {
                let mut signals = SigSet::empty();
                signals.add(Signal::SIGIO);
                while signals.wait().is_ok() {
                    let all: Vec<_> = held.lock().iter().filter_map(Weak::upgrade).collect();
                    for alone in all.iter().filter(|alone| !alone.is_unbroken()) {
                        alone.let_in();
                    }
                }
            })?;
        let _ = self.watched.set(());
        Ok(())
    }

    /// `None` where somebody else has the file open, or leases are not to be had.
    pub fn take(&self, file: &Arc<OwnedFd>) -> Option<Arc<Alone>> {
        self.watched.get()?;
        let alone = Arc::new(Alone {
            file: file.clone(),
            changed: Mutex::new(None),
        });
        // Before the lease, so that a broken one is found.
        let mut held = self.held.lock();
        held.retain(|one| one.strong_count() > 0);
        held.push(Arc::downgrade(&alone));
        drop(held);
        lease::take(file.as_fd()).ok()?;
        Some(alone)
    }
}
