//! How much readahead is on its way at once: enough to keep the way from the backend full, and not so much that demand
//! stands behind it in the queues of the link and the server.
//!
//! What fills a way is its bandwidth times the time that a piece takes which has it to itself (Cardwell et al., BBR:
//! Congestion-Based Congestion Control, 2016). Both are measured as pieces arrive. No clock of its own.

use std::time::{Duration, Instant};

/// In flight whatever was measured, so that there is something to measure.
const PIECES_MIN: usize = 4;
/// Times what fills the way: were it just filled, more bandwidth would never be found.
const GAIN: f64 = 2.0;
/// The best rate seen counts for less with each piece: ways become slower, too.
const FORGETTING: f64 = 0.99;
/// How much a piece that began alone makes the time of one longer.
const LEARNING: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Pacing {
    in_flight: usize,
    in_flight_bytes: u64,
    /// All that ever arrived.
    arrived_bytes: u64,
    /// The time of a piece that has the way to itself.
    alone: Option<Duration>,
    bytes_per_second: f64,
}

/// A piece that set off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    at: Instant,
    bytes: u64,
    arrived_before_bytes: u64,
    was_alone: bool,
}

impl Pacing {
    /// Whether one more piece of readahead may set off.
    pub fn has_room(&self) -> bool {
        self.in_flight < PIECES_MIN || (self.in_flight_bytes as f64) < self.bytes_in_flight_max()
    }

    fn bytes_in_flight_max(&self) -> f64 {
        let alone = self.alone.unwrap_or_default();
        GAIN * self.bytes_per_second * alone.as_secs_f64()
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    pub fn depart(&mut self, bytes: u64, now: Instant) -> Departure {
        let departure = Departure {
            at: now,
            bytes,
            arrived_before_bytes: self.arrived_bytes,
            was_alone: self.in_flight == 0,
        };
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        departure
    }

    /// A piece is there, all of it (`is_whole`), or has failed.
    pub fn arrive(&mut self, departure: Departure, is_whole: bool, now: Instant) {
        self.in_flight -= 1;
        self.in_flight_bytes -= departure.bytes;
        if !is_whole {
            return;
        }
        self.arrived_bytes += departure.bytes;
        let took = now.saturating_duration_since(departure.at);
        self.learn_time(took, departure.was_alone);
        let meanwhile_bytes = self.arrived_bytes - departure.arrived_before_bytes;
        let rate = meanwhile_bytes as f64 / took.as_secs_f64().max(1e-6);
        self.bytes_per_second = rate.max(self.bytes_per_second * FORGETTING);
    }

    fn learn_time(&mut self, took: Duration, was_alone: bool) {
        self.alone = Some(match self.alone {
            None => took,
            Some(known) if took < known => took,
            Some(known) if was_alone => known + (took - known) / LEARNING,
            Some(known) => known,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const PIECE_BYTES: u64 = 1 << 20;

    /// A way with a latency and a bandwidth, always as full as the pacing lets it be; the most bytes in flight in the
    /// last of `rounds` pieces, and bytes per second over all.
    fn run(latency: Duration, bytes_per_second: f64, rounds: u32) -> (u64, f64) {
        let began = Instant::now();
        let (mut now, mut free_at) = (began, began);
        let mut pacing = Pacing::default();
        let mut under_way: VecDeque<(Instant, Departure)> = VecDeque::new();
        let mut most_bytes = 0;
        for round in 0..rounds {
            while pacing.has_room() {
                free_at = free_at.max(now)
                    + Duration::from_secs_f64(PIECE_BYTES as f64 / bytes_per_second);
                let there = free_at.max(now + latency);
                under_way.push_back((there, pacing.depart(PIECE_BYTES, now)));
            }
            if round > rounds / 2 {
                most_bytes = most_bytes.max(pacing.in_flight_bytes);
            }
            if let Some((there, departure)) = under_way.pop_front() {
                now = there;
                pacing.arrive(departure, true, now);
            }
        }
        let bytes = (u64::from(rounds) * PIECE_BYTES) as f64;
        (most_bytes, bytes / (now - began).as_secs_f64())
    }

    #[test]
    fn a_thin_and_near_way_is_not_filled_up() {
        let (in_flight_bytes, rate) = run(Duration::from_millis(1), 110e6, 500);
        assert!(in_flight_bytes <= 4 * PIECE_BYTES, "{in_flight_bytes}");
        assert!(rate > 0.95 * 110e6, "{rate}");
    }

    #[test]
    fn a_thin_and_far_way_is_kept_busy() {
        let (in_flight_bytes, rate) = run(Duration::from_millis(20), 110e6, 1000);
        assert!(in_flight_bytes <= 12 * PIECE_BYTES, "{in_flight_bytes}");
        assert!(rate > 0.95 * 110e6, "{rate}");
    }

    #[test]
    fn a_thick_and_far_way_gets_bandwidth_times_latency() {
        let (in_flight_bytes, rate) = run(Duration::from_millis(20), 1.2e9, 4000);
        assert!(in_flight_bytes >= 24_000_000, "{in_flight_bytes}");
        assert!(rate > 0.9 * 1.2e9, "{rate}");
    }

    #[test]
    fn a_piece_that_failed_tells_nothing() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        let departure = pacing.depart(PIECE_BYTES, now);
        pacing.arrive(departure, false, now);
        assert_eq!((pacing.in_flight, pacing.in_flight_bytes), (0, 0));
        assert!(pacing.alone.is_none() && pacing.bytes_per_second == 0.0);
    }
}
