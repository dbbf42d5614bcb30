//! How fast programs may write, by what is not on the backend yet: slower and slower from half of the limit on, no further
//! at the limit. What an upload sends makes room at its end, all at once: until then what is left is shared out.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What is left of the limit is not used up before this, if nothing gets to the backend.
const HORIZON: Duration = Duration::from_secs(5);
/// No write is held up for longer before the limit is reached.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Shorter pauses are left out.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// What the backend took this long ago tells little of what it takes now.
const MEMORY: Duration = Duration::from_secs(5);
/// Less tells nothing of what it takes in a second.
const SENDING_MIN: Duration = Duration::from_millis(100);
/// Uploads that should have ended so long ago may not end for a long time.
const OVERDUE: Duration = Duration::from_secs(1);
/// Of what the backend takes, this part is let in: the rest wins room back.
const INFLOW: f64 = 0.95;
/// Of what is left, this part is to do until they end: they may not.
const SPENT: f64 = 0.5;
/// Uploads end so much later than expected, and nobody is to wait for it.
const LATE: Duration = Duration::from_millis(100);

pub(super) struct Pressure {
    limit_bytes: u64,
    state: Mutex<State>,
    /// Something is not dirty any more.
    eased: Condvar,
}

#[derive(Default)]
struct State {
    dirty_bytes: u64,
    uploads: usize,
    /// Of all uploads under way. Nobody knows how far they are: what was written to the backend may be in this machine's
    /// memory until the sync that ends them.
    unsent_bytes: u64,
    /// What of it should be left, by what the backend takes in a second.
    expected_bytes: f64,
    /// How long nothing of it should have been left.
    overdue: Duration,
    outflow: Outflow,
    as_of: Option<Instant>,
}

/// What the backend takes in a second while uploads are under way: what it could take, and not how much there was to send.
/// What was long ago counts little, so that after a rest the first that is sent, or is not, outweighs it.
#[derive(Default)]
struct Outflow {
    bytes: f64,
    seconds: f64,
}

impl Outflow {
    fn pass(&mut self, time: Duration, is_sending: bool) {
        let memory = MEMORY.as_secs_f64();
        let kept = (-time.as_secs_f64() / memory).exp();
        self.bytes *= kept;
        self.seconds *= kept;
        if is_sending {
            self.seconds += memory * (1.0 - kept);
        }
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes / self.seconds.max(SENDING_MIN.as_secs_f64())
    }
}

/// An upload that is under way until this is dropped.
pub(super) struct Uploading<'a> {
    pressure: &'a Pressure,
    bytes: u64,
}

impl Uploading<'_> {
    /// The backend has all of it.
    pub fn arrived(self, now: Instant) {
        self.pressure.at(now).outflow.bytes += self.bytes as f64;
    }
}

impl Drop for Uploading<'_> {
    fn drop(&mut self) {
        let mut state = self.pressure.at(Instant::now());
        state.uploads -= 1;
        state.unsent_bytes -= self.bytes;
        state.expected_bytes = state.expected_bytes.min(state.unsent_bytes as f64);
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

    fn at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.pass(now);
        state
    }

    pub fn dirty_bytes(&self) -> u64 {
        self.state.lock().dirty_bytes
    }

    /// So much is dirty that it is sent without a delay, before anybody is slowed down.
    pub fn is_felt(&self) -> bool {
        self.dirty_bytes() > self.limit_bytes / 4
    }

    pub fn add(&self, bytes: u64) {
        self.state.lock().dirty_bytes += bytes;
    }

    /// So much is on its way to the backend.
    pub fn uploading(&self, bytes: u64, now: Instant) -> Uploading<'_> {
        let mut state = self.at(now);
        state.uploads += 1;
        state.unsent_bytes += bytes;
        state.expected_bytes += bytes as f64;
        Uploading {
            pressure: self,
            bytes,
        }
    }

    /// They are on the backend, or were written over or cut off before they got there.
    pub fn ease(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.dirty_bytes = state.dirty_bytes.saturating_sub(bytes);
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
        let state = self.at(now);
        let left = self.limit_bytes.saturating_sub(state.dirty_bytes);
        let by_limit = (state.dirty_bytes + bytes > self.limit_bytes / 2).then_some(left);
        let left = match (by_limit, journal_left_bytes) {
            (Some(one), Some(other)) => one.min(other),
            (Some(left), None) | (None, Some(left)) => left,
            (None, None) => return Duration::ZERO,
        };
        let pause = bytes as f64 / state.inflow(left).max(1.0);
        match Duration::from_secs_f64(pause.min(PAUSE_MAX.as_secs_f64())) {
            short if short < PAUSE_MIN => Duration::ZERO,
            pause => pause,
        }
    }
}

impl State {
    fn pass(&mut self, now: Instant) {
        let as_of = self.as_of.unwrap_or(now);
        self.as_of = Some(as_of.max(now));
        let time = now.saturating_duration_since(as_of);
        let taken = self.outflow.bytes_per_second() * time.as_secs_f64();
        self.expected_bytes = (self.expected_bytes - taken).max(0.0);
        self.overdue = match self.unsent_bytes > 0 && self.expected_bytes == 0.0 {
            true => self.overdue + time,
            false => Duration::ZERO,
        };
        self.outflow.pass(time, self.uploads > 0);
    }

    /// The bytes a second that writers may have of those that are left.
    fn inflow(&self, left_bytes: u64) -> f64 {
        let left = left_bytes as f64;
        let without_outflow = left / HORIZON.as_secs_f64();
        let outflow = self.outflow.bytes_per_second();
        if outflow == 0.0 || self.overdue > OVERDUE {
            return without_outflow;
        }
        let until_room = self.expected_bytes / outflow + LATE.as_secs_f64();
        let lasting = outflow * INFLOW + without_outflow;
        match self.unsent_bytes {
            0 => lasting,
            _ => lasting.min(SPENT * left / until_room),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const STEP: Duration = Duration::from_millis(2);
    const DELAY: Duration = Duration::from_secs(1);
    /// What it costs an upload to begin and end.
    const AROUND: Duration = Duration::from_millis(20);

    /// One file that is written on and on, in writes of 1 MiB as fast as it may be, and sent as a whole, whatever of it is
    /// dirty: an upload makes room at its end.
    struct Simulated<'a> {
        pressure: &'a Pressure,
        now: Instant,
        bytes_per_second: u64,
        open: Option<(u64, Instant)>,
        upload: Option<Upload<'a>>,
        taken: u64,
        longest: Duration,
    }

    struct Upload<'a> {
        uploading: Uploading<'a>,
        left_bytes: u64,
        around: Duration,
    }

    impl<'a> Simulated<'a> {
        fn new(pressure: &'a Pressure, bytes_per_second: u64) -> Self {
            Self {
                pressure,
                now: Instant::now(),
                bytes_per_second,
                open: None,
                upload: None,
                taken: 0,
                longest: Duration::ZERO,
            }
        }

        fn write_for(&mut self, seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            while self.now < end {
                let began = self.now;
                self.pass(self.pressure.pause(MIB, None, began) + PAUSE_MIN);
                while self.now < end && !self.pressure.wait_for_room(MIB, Instant::now()) {
                    self.pass(STEP);
                }
                self.longest = self.longest.max(self.now - began);
                let (open, _) = self.open.get_or_insert((0, self.now));
                *open += MIB;
                self.taken += MIB;
                self.pressure.add(MIB);
            }
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                let step = STEP.min(end - self.now);
                self.now += step;
                self.send(step);
            }
        }

        fn send(&mut self, step: Duration) {
            let is_due = |at: Instant| at + DELAY <= self.now || self.pressure.is_felt();
            if self.upload.is_none() {
                let due = self.open.take_if(|(_, at)| is_due(*at));
                self.upload = due.map(|(bytes, _)| Upload {
                    uploading: self.pressure.uploading(bytes, self.now),
                    left_bytes: bytes,
                    around: AROUND,
                });
            }
            let taken = (self.bytes_per_second as f64 * step.as_secs_f64()) as u64;
            if let Some(upload) = &mut self.upload {
                match upload.left_bytes {
                    0 => upload.around = upload.around.saturating_sub(step),
                    left => upload.left_bytes = left.saturating_sub(taken),
                }
            }
            let is_over = |upload: &mut Upload<'_>| upload.around.is_zero();
            if let Some(upload) = self.upload.take_if(is_over) {
                self.pressure.ease(upload.uploading.bytes);
                upload.uploading.arrived(self.now);
            }
        }
    }

    #[test]
    fn a_writer_is_slowed_down_before_it_is_stopped_and_never_for_long() {
        let pressure = Pressure::new(512 * MIB);
        let mut place = Simulated::new(&pressure, 0);
        place.write_for(1);
        assert!(place.taken > 250 * MIB, "{} MiB", place.taken / MIB);
        assert!(pressure.pause(MIB, None, place.now) > Duration::ZERO);
        place.write_for(15);
        assert!(place.taken <= 512 * MIB && place.taken > 450 * MIB);
        assert!(place.longest <= PAUSE_MAX + 2 * PAUSE_MIN);
    }

    #[test]
    fn a_writer_goes_as_fast_as_the_backend_and_is_never_stopped() {
        for (limit, backend, part) in [
            (512, 20, 1.0),
            (512, 100, 1.0),
            (512, 400, 0.9),
            (32, 20, 0.9),
            (32, 100, 0.8),
        ] {
            let pressure = Pressure::new(limit * MIB);
            let mut place = Simulated::new(&pressure, backend * MIB);
            place.write_for(30);
            let reached = place.taken as f64 / (30 * backend * MIB) as f64;
            let context = format!(
                "{limit} MiB, {backend} MiB/s: {reached:.2}, {:?}",
                place.longest
            );
            assert!(reached >= part, "{context}");
            assert!(place.longest <= PAUSE_MAX + 2 * PAUSE_MIN, "{context}");
        }
    }

    /// What is left lasts for some seconds.
    #[test]
    fn a_backend_that_goes_away_stops_a_writer_by_degrees() {
        let pressure = Pressure::new(512 * MIB);
        let mut place = Simulated::new(&pressure, 100 * MIB);
        place.write_for(20);
        place.bytes_per_second = 0;
        let left = 512 * MIB - pressure.dirty_bytes();
        place.taken = 0;
        place.write_for(4);
        assert!(place.taken > left / 3, "{} of {left}", place.taken);
        assert!(place.longest <= PAUSE_MAX + 2 * PAUSE_MIN);
    }

    #[test]
    fn a_fast_backend_that_was_given_little_is_known_to_be_fast() {
        let pressure = Pressure::new(512 * MIB);
        let began = Instant::now();
        pressure.add(320 * MIB);
        let slow = pressure.pause(MIB, None, began);
        let uploading = pressure.uploading(64 * MIB, began);
        uploading.arrived(began + Duration::from_millis(200));
        let after_a_rest = pressure.pause(MIB, None, began + Duration::from_secs(2));
        assert!(slow > Duration::from_millis(20), "{slow:?}");
        assert!(after_a_rest < Duration::from_millis(5), "{after_a_rest:?}");
        // It takes nothing any more.
        let _hanging = pressure.uploading(MIB, began + Duration::from_secs(3));
        let hanging = pressure.pause(MIB, None, began + Duration::from_secs(13));
        assert!(hanging > Duration::from_millis(15), "{hanging:?}");
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
