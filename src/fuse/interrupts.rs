//! Interrupts that overtake their request. The kernel queues INTERRUPT once it has copied the request
//! to some thread, so another thread may read it before the first has handed its request to the
//! operations, which then do not know it yet.
//!
//! The protocol's answer, EAGAIN, does not help a reader with cloned devices: the kernel looks the
//! request up among those of the device the answer comes in by (fs/fuse/dev.c, fuse_dev_do_write), which
//! is another one. So interrupts are remembered here for a while, and every request looks, after
//! it was handed over, whether one has been waiting for it. While there is none, that look is one
//! load.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

/// Longer than a thread is ever kept from running between reading a request and handing it over.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// More than the requests that can be between reading and handing over: one per thread.
const REMEMBERED_MAX: usize = 1024;

/// Interrupts whose request may still have to be handed over.
#[derive(Default)]
pub struct Interrupts {
    remembered_count: AtomicUsize,
    remembered: Mutex<VecDeque<(u64, Instant)>>,
}

impl Interrupts {
    /// Called before the operations are told of an interrupt.
    pub fn remember(&self, unique: u64) {
        let mut remembered = self.remembered.lock();
        forget_old(&mut remembered);
        if remembered.len() == REMEMBERED_MAX {
            remembered.pop_front();
        }
        remembered.push_back((unique, Instant::now()));
        self.remembered_count
            .store(remembered.len(), Ordering::Relaxed);
        drop(remembered);
        // Pairs with the fence in `is_waiting`: either that thread sees the count, or the operations,
        // asked after this call, see its request.
        fence(Ordering::SeqCst);
    }

    /// Whether an interrupt came for a request before it was handed over; asked once, after that.
    pub fn is_waiting(&self, unique: u64) -> bool {
        fence(Ordering::SeqCst);
        if self.remembered_count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut remembered = self.remembered.lock();
        forget_old(&mut remembered);
        let position = remembered.iter().position(|(other, _)| *other == unique);
        if let Some(position) = position {
            remembered.remove(position);
        }
        self.remembered_count
            .store(remembered.len(), Ordering::Relaxed);
        position.is_some()
    }
}

fn forget_old(remembered: &mut VecDeque<(u64, Instant)>) {
    while remembered
        .front()
        .is_some_and(|(_, since)| since.elapsed() > REMEMBERED_FOR)
    {
        remembered.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_that_came_first_waits_for_its_request_once() {
        let interrupts = Interrupts::default();
        assert!(!interrupts.is_waiting(1));
        interrupts.remember(1);
        interrupts.remember(3);
        assert!(!interrupts.is_waiting(2));
        assert!(interrupts.is_waiting(1));
        assert!(!interrupts.is_waiting(1));
        assert!(interrupts.is_waiting(3));
        assert_eq!(interrupts.remembered_count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn no_more_are_remembered_than_the_bound() {
        let interrupts = Interrupts::default();
        for unique in 0..REMEMBERED_MAX as u64 + 5 {
            interrupts.remember(unique);
        }
        assert_eq!(interrupts.remembered.lock().len(), REMEMBERED_MAX);
        assert!(!interrupts.is_waiting(4));
        assert!(interrupts.is_waiting(5));
    }
}
