//! How long a fill waits because its version may be younger than a step of the server's timestamps: a second
//! write in the same step would leave the version as it is (git calls such an entry racy).

use super::Cache;
use super::file::CachedFile;
use crate::types::{Timestamp, Version};
use std::time::{Duration, Instant};

/// Timestamps of common servers move in steps of up to 4 ms: two writes within one step look alike.
const TIMESTAMP_STEP: Duration = Duration::from_millis(20);
/// Old servers and filesystems keep whole seconds, some every other.
const COARSE_TIMESTAMP_STEP: Duration = Duration::from_secs(2);

/// What time it is, and how well that is known.
struct Clocks {
    now: Instant,
    wall: Timestamp,
    /// How far the server's wall clock may be from ours.
    skew: Duration,
}

/// How far apart two writes may be and look alike.
fn step_of(version: &Version) -> Duration {
    if version.ctime.nanoseconds == 0 && version.mtime.nanoseconds == 0 {
        COARSE_TIMESTAMP_STEP
    } else {
        TIMESTAMP_STEP
    }
}

/// How long to wait until no write can hide behind `version`, which was first seen at `first_seen`.
fn time_to_settle(version: &Version, first_seen: Instant, clocks: &Clocks) -> Duration {
    let step = step_of(version);
    let Clocks { now, wall, skew } = clocks;
    let age_seconds = (wall.seconds - version.ctime.seconds) as f64
        + (f64::from(wall.nanoseconds) - f64::from(version.ctime.nanoseconds)) / 1e9;
    if age_seconds > (step + *skew).as_secs_f64() {
        return Duration::ZERO;
    }
    (first_seen + step).saturating_duration_since(*now)
}

impl Cache {
    fn settling_time(&self, file: &CachedFile) -> Duration {
        let (first_seen, place) = {
            let state = file.state.lock();
            (state.first_seen, state.place.clone())
        };
        // A version of an earlier life was verified then.
        let (Some(first_seen), Some(place)) = (first_seen, place) else {
            return Duration::ZERO;
        };
        let (filesystem, ctime) = (place.filesystem(), file.version().ctime);
        if self
            .server_clock
            .is_past(filesystem, ctime, step_of(&file.version()))
        {
            return Duration::ZERO;
        }
        let skew = if self.backend.has_local_clock(filesystem) {
            Duration::ZERO
        } else {
            self.settings.clock_skew
        };
        let clocks = Clocks {
            now: Instant::now(),
            wall: crate::clock::wall_clock(),
            skew,
        };
        time_to_settle(&file.version(), first_seen, &clocks)
    }

    /// Runs `act`, which must not block, once the version has settled: now if it has.
    pub(super) fn after_settling(&self, file: &CachedFile, act: impl FnOnce() + Send + 'static) {
        let wait = self.settling_time(file);
        if wait.is_zero() {
            act();
        } else {
            self.timers.after(wait, Box::new(act));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN_MS: u64 = 1000;

    /// How long a version changed `age_ms` before it was seen has to wait `later_ms` after that.
    fn wait(age_ms: i64, later_ms: u64, skew: Duration, nanoseconds: u32) -> Duration {
        let started = Instant::now();
        let first_seen = started + Duration::from_millis(SEEN_MS);
        let ctime = Timestamp {
            seconds: 1_000,
            nanoseconds,
        };
        let wall_ns =
            1_000_000_000_000 + i64::from(nanoseconds) + (age_ms + later_ms as i64) * 1_000_000;
        let clocks = Clocks {
            now: first_seen + Duration::from_millis(later_ms),
            wall: Timestamp {
                seconds: wall_ns.div_euclid(1_000_000_000),
                nanoseconds: wall_ns.rem_euclid(1_000_000_000) as u32,
            },
            skew,
        };
        let version = Version {
            inode: 1,
            size_bytes: 1,
            mtime: ctime,
            ctime,
        };
        time_to_settle(&version, first_seen, &clocks)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_version_just_made_waits_for_a_step_after_it_was_seen() {
        assert_eq!(wait(0, 0, ms(0), 1), ms(20));
        assert_eq!(wait(0, 5, ms(0), 1), ms(15));
        assert_eq!(wait(0, 20, ms(0), 1), ms(0));
    }

    #[test]
    fn an_old_version_waits_for_nothing() {
        assert_eq!(wait(21, 0, ms(0), 1), ms(0));
        assert_eq!(wait(100_000, 0, ms(3000), 1), ms(0));
    }

    #[test]
    fn a_clock_that_may_be_off_makes_a_version_as_much_younger() {
        assert_eq!(wait(3010, 0, ms(3000), 1), ms(20));
        assert_eq!(wait(3021, 0, ms(3000), 1), ms(0));
    }

    #[test]
    fn a_version_of_the_future_waits() {
        assert_eq!(wait(-50_000, 0, ms(0), 1), ms(20));
        assert_eq!(wait(-50_000, 19, ms(3000), 1), ms(1));
    }

    #[test]
    fn whole_seconds_wait_for_the_coarse_step() {
        assert_eq!(wait(500, 0, ms(0), 0), ms(2000));
        assert_eq!(wait(1900, 50, ms(0), 0), ms(1950));
        assert_eq!(wait(2001, 0, ms(0), 0), ms(0));
    }
}
