//! What a server's timestamps tell of its clock: it has reached at least the newest change time seen, and has gone
//! on since. With that a file's version can be known to be older than a timestamp step, however far the server's
//! clock is from ours, and its fill need not wait.

use crate::backend::FilesystemIndex;
use crate::types::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Of what our clock says has gone by, the server's clock has gone on at least all but this part: the kernel slews
/// a clock by up to 500 ppm (adjtimex(2)), theirs and ours.
const DRIFT_DIVISOR: i128 = 1000;

/// Lower bounds of the clocks of the backend's filesystems.
pub(super) struct ServerClock {
    started: Instant,
    bounds: Mutex<HashMap<FilesystemIndex, Bound>>,
}

/// The server's clock had reached this when ours, counted from our start, showed that. Nanoseconds.
#[derive(Clone, Copy)]
struct Bound {
    server_ns: i128,
    ours_ns: i128,
}

impl Bound {
    fn at(&self, ours_ns: i128) -> i128 {
        let elapsed_ns = ours_ns - self.ours_ns;
        self.server_ns + elapsed_ns - elapsed_ns / DRIFT_DIVISOR
    }
}

impl Default for ServerClock {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            bounds: Mutex::new(HashMap::new()),
        }
    }
}

impl ServerClock {
    /// Notes a change time that the server has shown just now. One further ahead of our clock than `skew` says
    /// nothing: a clock set back leaves such behind.
    pub(super) fn observe(&self, filesystem: FilesystemIndex, ctime: Timestamp, skew: Duration) {
        let ahead_ns = nanoseconds(ctime) - nanoseconds(crate::clock::wall_clock());
        if ahead_ns > skew.as_nanos() as i128 {
            return;
        }
        let seen = Bound {
            server_ns: nanoseconds(ctime),
            ours_ns: self.started.elapsed().as_nanos() as i128,
        };
        let mut bounds = self.bounds.lock();
        let known = bounds.entry(filesystem).or_insert(seen);
        if seen.server_ns > known.at(seen.ours_ns) {
            *known = seen;
        }
    }

    /// Whether the server's clock is certainly past `ctime` by more than `step`.
    pub(super) fn is_past(
        &self,
        filesystem: FilesystemIndex,
        ctime: Timestamp,
        step: Duration,
    ) -> bool {
        let Some(bound) = self.bounds.lock().get(&filesystem).copied() else {
            return false;
        };
        let ours_ns = self.started.elapsed().as_nanos() as i128;
        bound.at(ours_ns) > nanoseconds(ctime) + step.as_nanos() as i128
    }
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: FilesystemIndex = FilesystemIndex(0);
    const STEP: Duration = Duration::from_millis(20);
    const SKEW: Duration = Duration::from_secs(3600);

    fn at(seconds_from_now: i64) -> Timestamp {
        Timestamp {
            seconds: crate::clock::wall_clock().seconds + seconds_from_now,
            nanoseconds: 5,
        }
    }

    #[test]
    fn what_a_newer_timestamp_has_passed_is_old() {
        let clock = ServerClock::default();
        assert!(!clock.is_past(SERVER, at(-100_000), STEP));
        clock.observe(SERVER, at(-500), SKEW);
        assert!(clock.is_past(SERVER, at(-501), STEP));
        assert!(!clock.is_past(SERVER, at(-499), STEP));
        assert!(!clock.is_past(FilesystemIndex(1), at(-501), STEP));
    }

    #[test]
    fn the_servers_clock_goes_on_with_ours() {
        let clock = ServerClock::default();
        let seen = at(-500);
        clock.observe(SERVER, seen, SKEW);
        assert!(!clock.is_past(SERVER, seen, STEP));
        std::thread::sleep(Duration::from_millis(25));
        assert!(clock.is_past(SERVER, seen, STEP));
        // An older one shown later takes nothing back.
        clock.observe(SERVER, at(-9000), SKEW);
        assert!(clock.is_past(SERVER, seen, STEP));
    }

    #[test]
    fn a_clock_slower_than_ours_is_not_taken_to_have_gone_as_far() {
        const HOUR_NS: i128 = 3_600_000_000_000;
        let bound = Bound {
            server_ns: 5,
            ours_ns: 7,
        };
        assert_eq!(bound.at(7), 5);
        let slowest_ns = HOUR_NS - HOUR_NS * 1000 / 1_000_000;
        assert!(bound.at(7 + HOUR_NS) <= 5 + slowest_ns);
        assert!(bound.at(7 + HOUR_NS) > 5 + HOUR_NS * 99 / 100);
    }

    #[test]
    fn a_timestamp_from_the_future_says_nothing() {
        let clock = ServerClock::default();
        clock.observe(SERVER, at(7200), SKEW);
        assert!(!clock.is_past(SERVER, at(-1000), STEP));
    }
}
