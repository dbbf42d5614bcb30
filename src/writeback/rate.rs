//! The most that goes to the backend in a second, where there is a limit.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

pub(super) struct Rate {
    bytes_per_second: Option<u64>,
    /// What was sent so far is paid for by then.
    paid_at: Mutex<Option<Instant>>,
}

impl Rate {
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            paid_at: Mutex::new(None),
        }
    }

    /// How long to wait before so many bytes are sent.
    pub fn spend(&self, bytes: u64, now: Instant) -> Duration {
        let Some(bytes_per_second) = self.bytes_per_second else {
            return Duration::ZERO;
        };
        let cost = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        let mut paid_at = self.paid_at.lock();
        let begins_at = paid_at.map_or(now, |at| at.max(now));
        *paid_at = Some(begins_at + cost);
        begins_at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_a_second_is_the_rate_whatever_the_pieces() {
        for piece in [4096, 100_000, 1 << 20] {
            let rate = Rate::new(Some(10 << 20));
            let began = Instant::now();
            let (mut now, mut sent) = (began, 0);
            while now < began + Duration::from_secs(10) {
                now += rate.spend(piece, now);
                sent += piece;
            }
            let expected = 100 << 20;
            assert!(sent.abs_diff(expected) <= 2 * piece, "{sent} in 10 s");
        }
        let unlimited = Rate::new(None);
        assert_eq!(unlimited.spend(1 << 40, Instant::now()), Duration::ZERO);
    }
}
