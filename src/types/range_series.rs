//! Byte ranges of one length at equal distances.

use super::ByteRange;

/// `first`, and then `count - 1` more, each `step_bytes` further on (or back). One range is a series, too.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RangeSeries {
    pub first: ByteRange,
    pub step_bytes: i64,
    pub count: u32,
}

impl RangeSeries {
    /// The ranges in their order; those that would begin before the first byte are left out.
    pub fn ranges(self) -> impl Iterator<Item = ByteRange> {
        (0..i64::from(self.count)).filter_map(move |index| {
            let distance = self.step_bytes.checked_mul(index)?;
            let start = self.first.start.checked_add_signed(distance)?;
            Some(ByteRange::at(start, self.first.length_bytes()))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0 || self.first.is_empty()
    }
}

impl From<ByteRange> for RangeSeries {
    fn from(range: ByteRange) -> Self {
        Self {
            first: range,
            step_bytes: 0,
            count: u32::from(!range.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_goes_on_or_back_and_never_before_the_beginning() {
        let series = |start, step_bytes| RangeSeries {
            first: ByteRange::at(start, 10),
            step_bytes,
            count: 3,
        };
        let starts = |series: RangeSeries| -> Vec<u64> {
            series.ranges().map(|range| range.start).collect()
        };
        assert_eq!(starts(series(5, 100)), [5, 105, 205]);
        assert_eq!(starts(series(150, -100)), [150, 50]);
        assert_eq!(starts(ByteRange::new(7, 9).into()), [7]);
        assert!(RangeSeries::from(ByteRange::new(7, 7)).is_empty());
    }
}
