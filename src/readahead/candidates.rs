//! Reads that belong to no stream yet. Three in a row make one, at the edge of the file two; four at equal distances
//! make a strided one. Chance does neither often enough to matter.

use super::BLOCK_BYTES_MIN;
use super::stream::{Direction, Stream};
use super::strided::Strided;
use crate::types::ByteRange;
use std::collections::VecDeque;

/// Reads remembered: so many streams can begin at once.
const CANDIDATES_MAX: usize = 32;
const RUN_READS: u32 = 3;
const RUN_READS_FROM_START: u32 = 2;
/// Records at equal distances.
const RUN_RECORDS: i64 = 4;

/// What a read turns out to be.
pub(super) enum Pattern {
    Stream(Stream),
    Strided(Strided),
    /// It begins at the start of the file, or goes on where another ended.
    Young,
    None,
}

/// The latest reads of no stream, in the order they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates(VecDeque<Run>);

/// Reads right after one another.
#[derive(Clone, Copy, Debug)]
struct Run {
    range: ByteRange,
    reads: u32,
    direction: Option<Direction>,
}

impl Candidates {
    pub fn on_read(&mut self, range: ByteRange) -> Pattern {
        let goes_on = |run: &Run| run.direction_to(range).is_some();
        if let Some(index) = self.0.iter().position(goes_on) {
            return self.extend(index, range);
        }
        let is_known = |run: &Run| run.range.contains(&range);
        if self.0.iter().any(is_known) {
            return Pattern::Young;
        }
        let strided = self.strided(range);
        if self.0.len() >= CANDIDATES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Run {
            range,
            reads: 1,
            direction: None,
        });
        match (strided, range.start) {
            (Some(pattern), _) => pattern,
            (None, 0) => Pattern::Young,
            (None, _) => Pattern::None,
        }
    }

    fn extend(&mut self, index: usize, range: ByteRange) -> Pattern {
        let run = &mut self.0[index];
        run.direction = run.direction_to(range);
        run.range = run.range.covering(&range);
        run.reads += 1;
        let is_from_start = run.range.start == 0 && run.direction == Some(Direction::Forward);
        let enough = match is_from_start {
            true => RUN_READS_FROM_START,
            false => RUN_READS,
        };
        let Some(direction) = run.direction.filter(|_| run.reads >= enough) else {
            return Pattern::Young;
        };
        let stream = Stream::new(direction, run.range);
        let _ = self.0.remove(index);
        Pattern::Stream(stream)
    }

    /// A read that ends a row of records at equal distances. They stay: streams that take turns look the same at their
    /// beginning.
    fn strided(&self, range: ByteRange) -> Option<Pattern> {
        let step_bytes = self.0.iter().rev().find_map(|run| {
            let step_bytes = distance(run.range, range)?;
            let is_row =
                (2..RUN_RECORDS).all(|back| self.record(range, -step_bytes * back).is_some());
            is_row.then_some(step_bytes)
        })?;
        let row = (1..RUN_RECORDS).filter_map(|back| self.record(range, -step_bytes * back));
        let longest_bytes = row.map(|record| record.range.length_bytes()).max()?;
        let length_bytes = longest_bytes.max(range.length_bytes());
        // Records that overlap are no records.
        let last = ByteRange::at(range.start, length_bytes.min(step_bytes.unsigned_abs()));
        Some(match Direction::of_dense(step_bytes) {
            Some(direction) => {
                let begun = range
                    .start
                    .saturating_add_signed(-step_bytes * (RUN_RECORDS - 1));
                let row = ByteRange::new(begun.min(last.start), begun.max(last.end));
                Pattern::Stream(Stream::new(direction, row))
            }
            None => Pattern::Strided(Strided::new(last, step_bytes, RUN_RECORDS)),
        })
    }

    /// The candidate that begins so far from a range.
    fn record(&self, from: ByteRange, distance_bytes: i64) -> Option<&Run> {
        let start = from.start.checked_add_signed(distance_bytes)?;
        self.0.iter().find(|run| run.range.start == start)
    }

    /// Takes out a read that `belongs` accepts.
    pub fn take_if(&mut self, belongs: impl Fn(ByteRange) -> bool) -> Option<ByteRange> {
        let index = self.0.iter().position(|run| belongs(run.range))?;
        self.0.remove(index).map(|run| run.range)
    }
}

impl Direction {
    /// Records so near one another that the blocks around them leave next to nothing out are read as a stream.
    fn of_dense(step_bytes: i64) -> Option<Self> {
        let is_dense = step_bytes.unsigned_abs() <= 2 * BLOCK_BYTES_MIN;
        is_dense.then_some(match step_bytes > 0 {
            true => Self::Forward,
            false => Self::Backward,
        })
    }
}

impl Run {
    /// In which direction a read goes on with this run, if it does.
    fn direction_to(&self, range: ByteRange) -> Option<Direction> {
        let direction = if range.start == self.range.end {
            Direction::Forward
        } else if range.end == self.range.start {
            Direction::Backward
        } else {
            return None;
        };
        // Two reads that overtook one another look like a step back.
        let fits = self.reads <= 2 || self.direction == Some(direction);
        fits.then_some(direction)
    }
}

/// From the start of one record to that of the next, which must not overlap it. Bounded, so that multiples of it can
/// be counted with.
fn distance(from: ByteRange, to: ByteRange) -> Option<i64> {
    const STEP_BYTES_MAX: i64 = 1 << 40;
    let distance = i64::try_from(i128::from(to.start) - i128::from(from.start)).ok()?;
    (!from.overlaps(&to) && distance.abs() <= STEP_BYTES_MAX).then_some(distance)
}
