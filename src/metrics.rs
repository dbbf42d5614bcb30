//! Counters and gauges, grouped by the part that moves them. Relaxed atomics: each is a fact of its
//! own, no two are read as one.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

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

/// Traffic with the backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// File data bytes read from the backend.
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    /// Calls made on the backend, data and metadata.
    pub operations: Counter,
    pub errors: Counter,
    /// Calls that outlived their deadline.
    pub timeouts: Counter,
    /// Threads that wait in a call past its deadline now.
    pub threads_lost: Gauge,
    /// Answers from what was known in the backend's stead.
    pub stale_answers: Counter,
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
}
