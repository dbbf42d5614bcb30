//! How much is written to a cache disk in a day (UTC): counted, and bounded where the operator wants a disk to last.

use parking_lot::Mutex;

const DAY_SECONDS: i64 = 86_400;

/// What was written on a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Days since 1970.
    pub day: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct WriteBudget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limit_bytes: Option<u64>,
    written: Written,
}

pub(super) fn today() -> u64 {
    let days = crate::clock::wall_clock().seconds / DAY_SECONDS;
    days.max(0) as u64
}

impl WriteBudget {
    pub fn set_limit(&self, limit_bytes: Option<u64>) {
        self.state.lock().limit_bytes = limit_bytes;
    }

    pub fn limit_bytes(&self) -> Option<u64> {
        self.state.lock().limit_bytes
    }

    /// Goes on from what an earlier life has counted.
    pub fn resume(&self, written: Written) {
        self.state.lock().written = written;
    }

    /// Whether so much may be written on this day; counts it.
    pub fn take(&self, bytes: u64, day: u64) -> bool {
        let mut state = self.state.lock();
        state.begin(day);
        let after = state.written.bytes + bytes;
        let fits = state.limit_bytes.is_none_or(|limit| after <= limit);
        if fits {
            state.written.bytes = after;
        }
        fits
    }

    /// It was not written after all.
    pub fn give_back(&self, bytes: u64) {
        let written = &mut self.state.lock().written;
        written.bytes = written.bytes.saturating_sub(bytes);
    }

    pub fn written(&self, day: u64) -> Written {
        let mut state = self.state.lock();
        state.begin(day);
        state.written
    }
}

impl State {
    fn begin(&mut self, day: u64) {
        if self.written.day != day {
            self.written = Written { day, bytes: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_so_much_and_the_next_one_as_much_again() {
        let budget = WriteBudget::default();
        assert!(budget.take(1 << 50, 7));
        budget.set_limit(Some(100));
        assert!(!budget.take(1, 7));
        assert!(budget.take(60, 8));
        assert!(!budget.take(41, 8));
        budget.give_back(1);
        assert!(budget.take(41, 8));
        assert_eq!(budget.written(8).bytes, 100);
        assert_eq!(budget.written(9), Written { day: 9, bytes: 0 });
    }

    #[test]
    fn a_restart_goes_on_counting() {
        let budget = WriteBudget::default();
        budget.set_limit(Some(100));
        budget.resume(Written { day: 8, bytes: 90 });
        assert!(!budget.take(11, 8));
        assert!(budget.take(100, 9));
    }
}
