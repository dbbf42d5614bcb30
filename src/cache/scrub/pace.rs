//! How fast the scrub goes. Decisions only: time is given.

use std::time::{Duration, Instant};

/// Shorter waits are saved up.
const WAIT_MIN: Duration = Duration::from_millis(20);
/// Without anybody reading or fetching for so long there is no load.
const CALM_AFTER: Duration = Duration::from_millis(100);

/// So many bytes a second.
pub(super) struct Pace {
    bytes_per_second: u64,
    /// What was read so far is paid for by then.
    paid_at: Option<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            paid_at: None,
        }
    }

    pub fn spend(&mut self, bytes: u64, now: Instant) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.paid_at = Some(self.paid_at.map_or(now, |at| at.max(now)) + cost);
    }

    /// When the next bytes may be read.
    pub fn next_at(&self, now: Instant) -> Instant {
        match self.paid_at {
            Some(paid_at) if paid_at > now + WAIT_MIN => paid_at,
            _ => now,
        }
    }
}

/// Whether others are left alone: by what was last seen of their work.
#[derive(Default)]
pub(super) struct Calm {
    seen: Option<(u64, Instant)>,
}

impl Calm {
    /// `moved` goes up with the work of others. When to look again; `None`: it is calm.
    pub fn look(&mut self, moved: u64, is_busy: bool, now: Instant) -> Option<Instant> {
        let (before, since) = *self.seen.get_or_insert((moved, now - CALM_AFTER));
        if is_busy || moved != before {
            self.seen = Some((moved, now));
            return Some(now + CALM_AFTER);
        }
        let calm_at = since + CALM_AFTER;
        (calm_at > now).then_some(calm_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_in_a_second_is_the_rate_whatever_the_pieces() {
        for piece_bytes in [100, 4096, 1 << 20] {
            let began = Instant::now();
            let mut pace = Pace::new(10 << 20);
            let (mut now, mut read_bytes) = (began, 0);
            while read_bytes < 50 << 20 {
                now = pace.next_at(now);
                pace.spend(piece_bytes, now);
                read_bytes += piece_bytes;
            }
            let took = (now - began).as_secs_f64();
            assert!((4.8..=5.1).contains(&took), "{piece_bytes}: {took}");
        }
    }

    #[test]
    fn time_without_work_is_not_saved_up() {
        let mut pace = Pace::new(1000);
        let began = Instant::now();
        pace.spend(1000, began);
        let later = began + Duration::from_secs(100);
        pace.spend(1000, later);
        assert_eq!(pace.next_at(later), later + Duration::from_secs(1));
    }

    #[test]
    fn it_is_calm_a_while_after_the_last_that_moved() {
        let mut calm = Calm::default();
        let now = Instant::now();
        assert_eq!(calm.look(5, false, now), None);
        let again = calm.look(6, false, now).expect("somebody has read");
        assert_eq!(calm.look(6, false, now), Some(again));
        assert_eq!(calm.look(6, true, again), Some(again + CALM_AFTER));
        assert_eq!(calm.look(6, false, again + CALM_AFTER), None);
    }
}
