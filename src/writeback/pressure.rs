//! How fast programs may write, by what is not on the backend yet: slower and slower from half of the limit on, no further
//! at the limit.

use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// What is left of the limit is not used up before this, if nothing gets to the backend.
const HORIZON: Duration = Duration::from_secs(5);
/// No write is held up for longer before the limit is reached.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Shorter pauses are left out.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// What the backend took this long ago tells little of what it takes now.
const MEMORY: Duration = Duration::from_secs(5);
/// Of what the backend takes, this part is let in: the rest wins room back.
const INFLOW: f64 = 0.75;

pub(super) struct Pressure {
    limit_bytes: u64,
    state: Mutex<State>,
    /// Something is not dirty any more.
    eased: Condvar,
}

#[derive(Default)]
struct State {
    dirty_bytes: u64,
    outflow: Outflow,
}

/// What gets to the backend in a second, the last seconds counting most.
#[derive(Default)]
struct Outflow {
    bytes_per_second: f64,
    as_of: Option<Instant>,
}

impl Outflow {
    fn at(&self, now: Instant) -> f64 {
        let age = self
            .as_of
            .map_or(Duration::ZERO, |as_of| now.saturating_duration_since(as_of));
        self.bytes_per_second * (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }

    fn note(&mut self, bytes: u64, now: Instant) {
        self.bytes_per_second = self.at(now) + bytes as f64 / MEMORY.as_secs_f64();
        self.as_of = Some(now);
    }
}

impl Pressure {
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            state: Mutex::default(),
            eased: Condvar::new(),
        }
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub fn dirty_bytes(&self) -> u64 {
        self.state.lock().dirty_bytes
    }

    /// The half of the limit from which on writers are slowed down is reached.
    pub fn is_felt(&self) -> bool {
        self.dirty_bytes() > self.limit_bytes / 2
    }

    pub fn add(&self, bytes: u64) {
        self.state.lock().dirty_bytes += bytes;
    }

    /// Written over or cut off before they got anywhere.
    pub fn drop_bytes(&self, bytes: u64) {
        self.state.lock().take(bytes);
        self.eased.notify_all();
    }

    /// They are on the backend.
    pub fn sent(&self, bytes: u64, now: Instant) {
        let mut state = self.state.lock();
        state.take(bytes);
        state.outflow.note(bytes, now);
        drop(state);
        self.eased.notify_all();
    }

    /// Whether there is room, now or before the deadline.
    pub fn wait_for_room(&self, bytes: u64, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.dirty_bytes + bytes > self.limit_bytes {
            if self.eased.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// How long a write of so many bytes waits before it is taken. `journal_left_bytes` where the journal itself has
    /// become short of room.
    pub fn pause(&self, bytes: u64, journal_left_bytes: Option<u64>, now: Instant) -> Duration {
        let state = self.state.lock();
        let left = self.limit_bytes.saturating_sub(state.dirty_bytes);
        let by_limit = (state.dirty_bytes + bytes > self.limit_bytes / 2).then_some(left);
        let left = match (by_limit, journal_left_bytes) {
            (Some(one), Some(other)) => one.min(other),
            (Some(left), None) | (None, Some(left)) => left,
            (None, None) => return Duration::ZERO,
        };
        let taken = state.outflow.at(now) * INFLOW + left as f64 / HORIZON.as_secs_f64();
        let pause = bytes as f64 / taken.max(1.0);
        match Duration::from_secs_f64(pause.min(PAUSE_MAX.as_secs_f64())) {
            short if short < PAUSE_MIN => Duration::ZERO,
            pause => pause,
        }
    }
}

impl State {
    fn take(&mut self, bytes: u64) {
        self.dirty_bytes = self.dirty_bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Writes of 1 MiB until `until`, the backend taking so much a second. When the first was slowed down, how much was
    /// taken, the longest pause.
    fn run(limit: u64, outflow: u64, seconds: u64) -> (Option<Duration>, u64, Duration) {
        let pressure = Pressure::new(limit);
        let began = Instant::now();
        let (mut now, mut sent_at) = (began, began);
        let (mut slowed, mut taken, mut longest) = (None, 0, Duration::ZERO);
        while now < began + Duration::from_secs(seconds) {
            while outflow > 0 && sent_at + Duration::from_millis(100) <= now {
                sent_at += Duration::from_millis(100);
                pressure.sent((outflow / 10).min(pressure.dirty_bytes()), sent_at);
            }
            let pause = pressure.pause(MIB, None, now);
            if pause > Duration::ZERO && slowed.is_none() {
                slowed = Some(now - began);
            }
            longest = longest.max(pause);
            now += pause + Duration::from_millis(1);
            if pressure.wait_for_room(MIB, now) {
                pressure.add(MIB);
                taken += MIB;
            }
        }
        (slowed, taken, longest)
    }

    #[test]
    fn a_writer_is_slowed_down_before_it_is_stopped_and_never_for_long() {
        let (slowed, taken, longest) = run(512 * MIB, 0, 20);
        assert!(slowed.is_some());
        assert!(taken <= 512 * MIB && taken > 450 * MIB, "{taken}");
        assert!(longest <= PAUSE_MAX);
    }

    #[test]
    fn a_writer_goes_as_fast_as_the_backend_in_the_end() {
        let (_, taken, _) = run(512 * MIB, 100 * MIB, 60);
        let per_second = taken / 60 / MIB;
        assert!(
            (70..=120).contains(&per_second),
            "{per_second} MiB a second"
        );
    }

    #[test]
    fn below_half_of_the_limit_nobody_waits() {
        let pressure = Pressure::new(512 * MIB);
        pressure.add(255 * MIB);
        let now = Instant::now();
        assert_eq!(pressure.pause(MIB, None, now), Duration::ZERO);
        assert!(pressure.pause(MIB, Some(MIB), now) > Duration::ZERO);
        assert!(!pressure.wait_for_room(300 * MIB, now));
    }
}
