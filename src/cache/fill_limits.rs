//! What may change about fills while they go on, and what they have brought so far: for whoever tunes them.

use super::Cache;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(super) struct FillLimits {
    pieces_in_flight: AtomicUsize,
    piece_bytes: AtomicU64,
}

/// Since the start, but for the last two.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct FillCounts {
    /// That arrived, and their bytes.
    pub pieces: u64,
    pub bytes: u64,
    /// Of those, pieces that somebody waited for.
    pub demand_pieces: u64,
    /// And those as large as pieces are cut.
    pub full_pieces: u64,
    /// Times that a piece stood ready and too many were on their way.
    pub crowded: u64,
    pub in_flight: u64,
    /// What the way carries, as it was last seen.
    pub bytes_per_second: f64,
}

impl FillLimits {
    pub fn new(pieces_in_flight: usize, piece_bytes: u64) -> Self {
        Self {
            pieces_in_flight: AtomicUsize::new(pieces_in_flight),
            piece_bytes: AtomicU64::new(piece_bytes),
        }
    }

    pub fn pieces_in_flight(&self) -> usize {
        self.pieces_in_flight.load(Ordering::Relaxed)
    }

    /// A power of two, a pipe's 1 MiB at most.
    pub fn piece_bytes(&self) -> u64 {
        self.piece_bytes.load(Ordering::Relaxed)
    }
}

impl Cache {
    /// For pieces that are cut, and set off, from now on.
    pub fn set_fill_limits(&self, pieces_in_flight: usize, piece_bytes: u64) {
        let limits = &self.fill_limits;
        limits
            .pieces_in_flight
            .store(pieces_in_flight, Ordering::Relaxed);
        limits.piece_bytes.store(piece_bytes, Ordering::Relaxed);
    }

    pub fn fill_counts(&self) -> FillCounts {
        self.scheduler.lock().counts()
    }
}
