//! Reads of one length at equal distances: columns of a table, records of an index.

use super::{Limits, Trust};
use crate::types::{ByteRange, RangeSeries};

/// Records ahead of a stream at most: each costs a call of the backend, however small it is.
const RECORDS_MAX: i64 = 64;
/// Records that may be left out, or come out of order.
const DISORDER_RECORDS: i64 = 8;

#[derive(Clone, Debug)]
pub(super) struct Strided {
    step_bytes: i64,
    /// The furthest record read.
    last: ByteRange,
    /// Records planned beyond it.
    planned_records: i64,
    /// Records read so far.
    run_records: i64,
}

impl Strided {
    /// A stream of `run_records` records, the last of which is `last`; `step_bytes` is not 0.
    pub fn new(last: ByteRange, step_bytes: i64, run_records: i64) -> Self {
        Self {
            step_bytes,
            last,
            planned_records: 0,
            run_records,
        }
    }

    /// Which record a read begins or goes on with, counted from the last.
    fn record_of(&self, range: ByteRange) -> Option<i64> {
        let distance = i64::try_from(i128::from(range.start) - i128::from(self.last.start)).ok()?;
        let record = distance.div_euclid(self.step_bytes);
        let within = distance.rem_euclid(self.step_bytes).unsigned_abs();
        let fits = within + range.length_bytes() <= self.last.length_bytes();
        (fits && record.abs() <= DISORDER_RECORDS).then_some(record)
    }

    /// 0 where the next record is read: a read right there is of no other stream.
    pub fn distance(&self, range: ByteRange) -> Option<u64> {
        Some((self.record_of(range)? - 1).unsigned_abs())
    }

    /// Goes on with a read; how many of its bytes were planned before.
    pub fn advance(&mut self, range: ByteRange) -> u64 {
        let Some(record) = self.record_of(range).filter(|record| *record > 0) else {
            return 0;
        };
        let length_bytes = self.last.length_bytes();
        let was_planned = record <= self.planned_records;
        self.planned_records = (self.planned_records - record).max(0);
        self.run_records = self.run_records.saturating_add(1);
        let start = self
            .last
            .start
            .saturating_add_signed(self.step_bytes * record);
        self.last = ByteRange::at(start, length_bytes);
        match was_planned {
            true => length_bytes,
            false => 0,
        }
    }

    pub fn unread_bytes(&self) -> u64 {
        self.planned_records.unsigned_abs() * self.last.length_bytes()
    }

    /// What to fetch beyond what was planned already.
    pub fn ahead(&mut self, trust: Trust, file_size_bytes: u64, limits: &Limits) -> RangeSeries {
        let length_bytes = self.last.length_bytes().max(1);
        let run_bytes = self.run_records.unsigned_abs().saturating_mul(length_bytes);
        let window_bytes = limits.window_bytes_max.min(trust.window_bytes(run_bytes));
        let window = i64::try_from(window_bytes / length_bytes).unwrap_or(i64::MAX);
        let wanted = window
            .min(RECORDS_MAX)
            .min(self.records_left(file_size_bytes));
        let count = wanted - self.planned_records;
        if count <= 0 {
            return RangeSeries::default();
        }
        let distance = self.step_bytes * (self.planned_records + 1);
        let start = self.last.start.saturating_add_signed(distance);
        self.planned_records = wanted;
        RangeSeries {
            first: ByteRange::at(start, length_bytes),
            step_bytes: self.step_bytes,
            count: u32::try_from(count).unwrap_or(0),
        }
    }

    /// Whole records between the last one and the end of the file, or its beginning.
    fn records_left(&self, file_size_bytes: u64) -> i64 {
        let room_bytes = match self.step_bytes > 0 {
            true => file_size_bytes.saturating_sub(self.last.end),
            false => self.last.start,
        };
        i64::try_from(room_bytes / self.step_bytes.unsigned_abs()).unwrap_or(RECORDS_MAX)
    }
}
