//! What was measured.

/// Enough to tell one setting from another.
const PIECES_ENOUGH: u64 = 64;
const SECONDS_ENOUGH: f64 = 1.0;
const FULL_PIECES_ENOUGH: u64 = 8;
/// A slow way tells less.
const PIECES_AT_LEAST: u64 = 16;
const SECONDS_AT_MOST: f64 = 10.0;
/// A piece that somebody waits for is worth as much as so many bytes that nobody does, be it small.
const DEMAND_WORTH_BYTES: f64 = 64.0 * 1024.0;
/// Fetched in vain: no use to anybody, and a burden for the server.
const WASTE_WEIGHT: f64 = 2.0;
/// This part of the pieces found no place at once.
const CROWDED_PART: u64 = 4;
/// Less than this part of what arrived is no waste.
const WASTE_PART: u64 = 50;

/// What happened in a time in which something was on its way.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Sample {
    pub seconds: f64,
    /// Pieces that arrived, and their bytes.
    pub pieces: u64,
    pub bytes: u64,
    /// Of those, pieces that somebody waited for.
    pub demand_pieces: u64,
    /// And those as large as pieces are cut.
    pub full_pieces: u64,
    /// Fetched ahead, and given up unread.
    pub wasted_bytes: u64,
    /// Times that a piece stood ready and too many were on their way.
    pub crowded_pieces: u64,
    /// Times that a stream waited for its bytes, and might look no further ahead.
    pub bounded_windows: u64,
    /// What the way carries, as it was last seen.
    pub bandwidth_bytes_per_second: f64,
}

/// Some of them in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round(Sample);

impl Round {
    pub fn add(&mut self, sample: &Sample) {
        let sum = &mut self.0;
        sum.seconds += sample.seconds;
        sum.pieces += sample.pieces;
        sum.bytes += sample.bytes;
        sum.demand_pieces += sample.demand_pieces;
        sum.full_pieces += sample.full_pieces;
        sum.wasted_bytes += sample.wasted_bytes;
        sum.crowded_pieces += sample.crowded_pieces;
        sum.bounded_windows += sample.bounded_windows;
        sum.bandwidth_bytes_per_second = sample.bandwidth_bytes_per_second;
    }

    pub fn is_telling(&self) -> bool {
        let Sample {
            pieces, seconds, ..
        } = self.0;
        pieces >= PIECES_ENOUGH && seconds >= SECONDS_ENOUGH
            || pieces >= PIECES_AT_LEAST && seconds >= SECONDS_AT_MOST
    }

    /// What the backend gave in a second, as it is worth to who reads.
    pub fn worth(&self) -> f64 {
        let sum = &self.0;
        let useful = sum.bytes as f64 + sum.demand_pieces as f64 * DEMAND_WORTH_BYTES;
        (useful - sum.wasted_bytes as f64 * WASTE_WEIGHT) / sum.seconds
    }

    pub fn is_crowded(&self) -> bool {
        self.0.crowded_pieces * CROWDED_PART >= self.0.pieces
    }

    pub fn has_bounded_windows(&self) -> bool {
        self.0.bounded_windows > 0
    }

    pub fn has_waste(&self) -> bool {
        self.0.wasted_bytes * WASTE_PART > self.0.bytes
    }

    /// Small pieces say nothing of what the way could carry.
    pub fn shows_bandwidth(&self) -> bool {
        self.0.full_pieces >= FULL_PIECES_ENOUGH
    }

    pub fn bandwidth_bytes_per_second(&self) -> f64 {
        self.0.bandwidth_bytes_per_second
    }
}
