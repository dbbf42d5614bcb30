//! Reads that follow one another without gaps, forward or backward. A backward stream is a forward one in a mirror.

use super::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, Limits, Trust};
use crate::types::ByteRange;

/// The first window of a stream.
const WINDOW_BYTES_FIRST: u64 = 512 << 10;
/// The kernel sends the reads of one stream over several threads: they may arrive out of order by this much.
const DISORDER_BYTES: u64 = 2 << 20;
/// Windows end at multiples of this once they are large: the largest piece of a fetch.
const STEP_BYTES_MAX: u64 = 1 << 20;
/// Where a mirrored file begins; further than any file reaches.
const MIRROR: u64 = 1 << 63;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Forward,
    Backward,
}

impl Direction {
    /// A range as a forward stream sees it, and back again.
    pub fn turn(self, range: ByteRange) -> ByteRange {
        match self {
            Self::Forward => range,
            Self::Backward => ByteRange::new(
                MIRROR - range.end.min(MIRROR),
                MIRROR - range.start.min(MIRROR),
            ),
        }
    }

    /// Where the file ends for a stream of this direction.
    fn end_of_file(self, file_size_bytes: u64) -> u64 {
        match self {
            Self::Forward => file_size_bytes,
            Self::Backward => MIRROR,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    direction: Direction,
    /// End of the furthest read, as the direction has it; so are the others.
    reached: u64,
    /// End of what was planned ahead.
    planned: u64,
    /// How far it has come so far.
    run_bytes: u64,
    window_bytes: u64,
    /// The window grows when the stream has come this far and still waits for its bytes.
    grows_at: u64,
}

impl Stream {
    /// A stream that has read `run` so far.
    pub fn new(direction: Direction, run: ByteRange) -> Self {
        let turned = direction.turn(run);
        Self {
            direction,
            reached: turned.end,
            planned: turned.end,
            run_bytes: turned.length_bytes(),
            window_bytes: WINDOW_BYTES_FIRST,
            grows_at: turned.end,
        }
    }

    /// How far a read begins from where the last one ended; `None` beyond what disorder explains. A young stream
    /// explains little.
    pub fn distance(&self, range: ByteRange) -> Option<u64> {
        let turned = self.direction.turn(range);
        let distance = turned.start.abs_diff(self.reached);
        (distance <= self.run_bytes.min(DISORDER_BYTES)).then_some(distance)
    }

    /// Goes on with a read; how many of its bytes were planned before.
    pub fn advance(&mut self, range: ByteRange, is_late: bool) -> u64 {
        let turned = self.direction.turn(range);
        let new = ByteRange::new(turned.start.max(self.reached), turned.end);
        if turned.end <= self.reached {
            return 0;
        }
        let planned = ByteRange::new(self.reached, self.planned);
        let used_bytes = new.intersection(&planned).length_bytes();
        self.run_bytes = self.run_bytes.saturating_add(turned.end - self.reached);
        self.reached = turned.end;
        if is_late && self.reached >= self.grows_at {
            self.grows_at = self.reached.saturating_add(self.window_bytes);
            self.window_bytes = self.window_bytes.saturating_mul(2);
        }
        used_bytes
    }

    pub fn unread_bytes(&self) -> u64 {
        self.planned.saturating_sub(self.reached)
    }

    pub fn has_ended(&self, file_size_bytes: u64) -> bool {
        self.reached >= self.direction.end_of_file(file_size_bytes)
    }

    /// A stream that misses misses again soon: larger units as its window grows.
    pub fn block_bytes(&self) -> u64 {
        (self.window_bytes / 8)
            .next_power_of_two()
            .clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
    }

    /// The window has grown beyond what is allowed.
    pub fn is_bounded(&self, limits: &Limits) -> bool {
        self.window_bytes > limits.window_bytes_max
    }

    /// What to fetch beyond what was planned already.
    pub fn ahead(&mut self, trust: Trust, file_size_bytes: u64, limits: &Limits) -> ByteRange {
        self.window_bytes = self.window_bytes.min(limits.window_bytes_max);
        let window_bytes = self.window_bytes.min(trust.window_bytes(self.run_bytes));
        let from = self.planned.max(self.reached);
        let to = self.window_end(window_bytes, file_size_bytes).max(from);
        self.planned = to;
        self.direction.turn(ByteRange::new(from, to))
    }

    /// In steps: a plan for every few bytes read would be made of tiny fetches.
    fn window_end(&self, window_bytes: u64, file_size_bytes: u64) -> u64 {
        let end_of_file = self.direction.end_of_file(file_size_bytes);
        let end = self.reached.saturating_add(window_bytes);
        if end >= end_of_file {
            return match window_bytes {
                0 => self.reached,
                _ => end_of_file,
            };
        }
        let step_bytes = (window_bytes / 4).clamp(BLOCK_BYTES_MIN, STEP_BYTES_MAX);
        // A power of two, so that steps of a growing window fall on those of a smaller one.
        let step_bytes = 1 << step_bytes.ilog2();
        end / step_bytes * step_bytes
    }
}
