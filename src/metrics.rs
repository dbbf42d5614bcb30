//! Counters and gauges, grouped by the part that moves them. Relaxed atomics: each is a fact of its
//! own, no two are read as one.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Counts up for the life of the daemon.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down; back at 0 when nothing is held.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took, counted by upper bounds.
#[derive(Debug, Default)]
pub struct Durations {
    /// The last one has no bound.
    counts: [Counter; DURATION_BOUNDS_US.len() + 1],
    total_us: Counter,
}

/// What a call took at most to be counted in a bucket.
pub const DURATION_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000, 30_000_000,
];

impl Durations {
    pub fn record(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS_US.partition_point(|bound_us| *bound_us < took_us);
        self.counts[bucket].add(1);
        self.total_us.add(took_us);
    }

    /// By [`DURATION_BOUNDS_US`], then what took longer.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(Counter::get)
    }

    /// Of all of them.
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    pub fn total_us(&self) -> u64 {
        self.total_us.get()
    }
}

/// Traffic with the backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// File data bytes read from the backend.
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    pub errors: Counter,
    /// Calls that outlived their deadline.
    pub timeouts: Counter,
    /// Threads that wait in a call past its deadline now.
    pub threads_lost: Gauge,
    /// Answers from what was known in the backend's stead.
    pub stale_answers: Counter,
    /// Calls about names and attributes; calls that move file data.
    pub metadata_calls: Durations,
    pub data_calls: Durations,
}

/// Reads served by the daemon, and where from.
#[derive(Debug, Default)]
pub struct CacheMetrics {
    /// Bytes of reads answered from the cache alone (kernel passthrough reads are not seen here).
    pub hit_bytes: Counter,
    /// Bytes of reads that had to wait for the backend.
    pub miss_bytes: Counter,
    /// Bytes read past the cache (no space, disk failed, file below the minimum size).
    pub bypass_bytes: Counter,
    pub passthrough_opens: Counter,
    /// Bytes fetched before anybody asked for them; of these, read later; left unread when their file was closed.
    pub ahead_bytes: Counter,
    pub ahead_used_bytes: Counter,
    pub ahead_wasted_bytes: Counter,
    /// Times that a stream waited for its bytes, and might look no further ahead.
    pub bounded_windows: Counter,
    pub fills_discarded: Counter,
    pub objects_evicted: Counter,
    /// Parts of files in use that were given up.
    pub trimmed_bytes: Counter,
    /// Records or object files not believed and dropped.
    pub doubted: Counter,
    /// Pieces of fill on their way to a disk now.
    pub pieces_in_flight: Gauge,
    /// Reads that waited for the cache disk; for the backend. What is answered from memory is not timed.
    pub disk_hits: Durations,
    pub misses: Durations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_under_the_bound_that_holds_them() {
        let durations = Durations::default();
        for took_us in [0, 100, 101, 30_000_000, 30_000_001] {
            durations.record(Duration::from_micros(took_us));
        }
        let counts: Vec<u64> = durations.counts().collect();
        assert_eq!((counts[0], counts[1], counts[15], counts[16]), (2, 1, 1, 1));
        assert_eq!(durations.total_us(), 60_000_202);
    }
}
