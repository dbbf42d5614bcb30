//! Those who wait for the end of a commit: woken all at once, and whom it has served needs no lock to know.
//!
//! What always holds: who has seen the present turn while the journal's state was locked, and waits for its end, is woken by the
//! commit that was under way then.

use super::frame::Sequence;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[derive(Default)]
pub(super) struct Turns {
    /// Moves on at the end of every commit.
    present: AtomicU32,
    /// Those who have seen a turn to wait for its end.
    waiting: AtomicUsize,
    durable: AtomicU64,
}

impl Turns {
    /// The turn that a commit has now, for who waits for its end then. Called with the state locked.
    pub fn join(&self) -> u32 {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.present()
    }

    fn present(&self) -> u32 {
        self.present.load(Ordering::Acquire)
    }

    /// Up to this everything is on stable storage; it only grows. Called with the state locked.
    pub fn note_durable(&self, durable: Sequence) {
        self.durable.fetch_max(durable.0, Ordering::Release);
    }

    pub fn is_durable(&self, sequence: Sequence) -> bool {
        self.durable.load(Ordering::Acquire) >= sequence.0
    }

    /// Ends the present turn. Called with the state locked, by whoever calls [`Self::wake`] next.
    pub fn end(&self) {
        self.present.fetch_add(1, Ordering::Release);
    }

    pub fn wake(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            atomic_wait::wake_all(&self.present);
        }
    }

    /// Blocks until this turn has ended.
    pub fn wait_for_end_of(&self, turn: u32) {
        while self.present() == turn {
            atomic_wait::wait(&self.present, turn);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
