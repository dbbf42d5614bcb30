//! Which bytes to fetch beyond those asked for. Pure: fed with the reads of one handle, answers with a plan; knows
//! nothing of files, threads or time.
//!
//! What always holds: a plan never reaches beyond the bound given, and reads that follow no order get nothing
//! beyond their own block.

use crate::types::ByteRange;

/// Smallest unit of a fetch; scattered reads fetch just this much around them.
pub const BLOCK_BYTES_MIN: u64 = 16 << 10;
/// Largest unit of a fetch.
pub const BLOCK_BYTES_MAX: u64 = 4 << 20;
/// The first window of a stream.
const WINDOW_BYTES_FIRST: u64 = 512 << 10;
/// The kernel sends the reads of one stream over several threads: they may arrive out of order by this much.
const DISORDER_BYTES: u64 = 2 << 20;

/// Bounds that do not change while a file is open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest window in bytes; zero turns readahead off.
    pub window_bytes_max: u64,
    /// A fixed unit of fetch, where the administrator asked for one.
    pub block_bytes: Option<u64>,
}

/// What to fetch for one read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The range asked for is rounded out to this.
    pub block_bytes: u64,
    /// Fetched as well, with nobody waiting; may be empty.
    pub ahead: ByteRange,
    /// The read follows no order.
    pub random: bool,
}

/// The reads of one handle so far.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// End of the furthest read of the stream.
    reached: u64,
    /// End of what was planned ahead.
    planned: u64,
    window_bytes: u64,
    /// Reads in a row that continued the stream.
    run: u32,
}

impl Stream {
    /// Notes a read and answers with what to fetch.
    pub fn on_read(&mut self, range: ByteRange, file_size_bytes: u64, limits: &Limits) -> Plan {
        let from_start = self.reached == 0 && range.start == 0;
        let continues = range.start <= self.reached.saturating_add(DISORDER_BYTES / 4)
            && range.end.saturating_add(DISORDER_BYTES) >= self.reached;
        if !(from_start || (self.reached > 0 && continues)) {
            *self = Self {
                reached: range.end,
                planned: range.end,
                ..Self::default()
            };
            return Plan {
                block_bytes: limits.block_bytes.unwrap_or(BLOCK_BYTES_MIN),
                ahead: ByteRange::default(),
                random: true,
            };
        }
        if range.end > self.reached {
            self.reached = range.end;
            self.run = self.run.saturating_add(1);
        }
        let block_bytes = limits.block_bytes.unwrap_or(BLOCK_BYTES_MIN);
        // One read in order is no stream yet: a program that looks at a header reads no more.
        if self.run < 2 || limits.window_bytes_max == 0 {
            self.planned = self.planned.max(range.end);
            return Plan {
                block_bytes,
                ahead: ByteRange::default(),
                random: false,
            };
        }
        self.window_bytes = self
            .window_bytes
            .max(WINDOW_BYTES_FIRST)
            .min(limits.window_bytes_max);
        // A stream that misses misses again soon: larger units as its window grows.
        let block_bytes = limits.block_bytes.unwrap_or_else(|| {
            (self.window_bytes / 8)
                .next_power_of_two()
                .clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
        });
        let mut ahead = ByteRange::default();
        let left = self.planned.saturating_sub(self.reached);
        if left < self.window_bytes / 2 && self.planned < file_size_bytes {
            let from = self.planned.max(range.end);
            let to = self
                .reached
                .saturating_add(self.window_bytes)
                .checked_next_multiple_of(1 << 20)
                .unwrap_or(u64::MAX)
                .min(file_size_bytes);
            ahead = ByteRange::new(from, to);
            self.planned = to.max(self.planned);
            self.window_bytes = (self.window_bytes * 2).min(limits.window_bytes_max);
        }
        Plan {
            block_bytes,
            ahead,
            random: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        window_bytes_max: 16 << 20,
        block_bytes: None,
    };
    const SIZE: u64 = 1 << 30;

    #[test]
    fn a_stream_gets_a_growing_window_within_its_bound() {
        let mut stream = Stream::default();
        let mut planned = 0;
        let mut largest = 0;
        for read in 0..4096u64 {
            let range = ByteRange::at(read * 131_072, 131_072);
            let plan = stream.on_read(range, SIZE, &LIMITS);
            assert!(!plan.random);
            if !plan.ahead.is_empty() {
                assert!(plan.ahead.start >= planned, "nothing is planned twice");
                planned = plan.ahead.end;
                largest = largest.max(planned - range.end);
            }
            assert!(plan.ahead.end <= (range.end + (17 << 20)).min(SIZE));
            if read > 3 {
                assert!(
                    planned >= range.end.min(SIZE),
                    "the stream never catches up"
                );
            }
        }
        assert!(largest >= 12 << 20, "{largest}");
    }

    #[test]
    fn one_read_at_the_start_fetches_nothing_else() {
        let mut stream = Stream::default();
        let plan = stream.on_read(ByteRange::at(0, 4096), SIZE, &LIMITS);
        assert!(plan.ahead.is_empty());
    }

    #[test]
    fn reads_out_of_order_within_a_stream_still_count_as_one() {
        let mut stream = Stream::default();
        for read in [0u64, 2, 1, 3, 5, 4, 7, 6] {
            let plan = stream.on_read(ByteRange::at(read * 131_072, 131_072), SIZE, &LIMITS);
            assert!(!plan.random, "read {read}");
        }
        assert!(stream.planned > 8 * 131_072);
    }

    proptest! {
        #[test]
        fn scattered_reads_fetch_only_their_block(
            offsets in prop::collection::vec(0u64..1 << 18, 1..100)
        ) {
            // 32 MiB apart at the least, so that no two look like a stream.
            let mut stream = Stream::default();
            let mut last = u64::MAX;
            for offset in offsets {
                let start = (offset % 4096 + 1) << 25;
                if start == last || start.abs_diff(last) <= DISORDER_BYTES { continue }
                last = start;
                let plan = stream.on_read(ByteRange::at(start, 4096), 1 << 40, &LIMITS);
                prop_assert!(plan.random && plan.ahead.is_empty());
                prop_assert_eq!(plan.block_bytes, BLOCK_BYTES_MIN);
            }
        }

        #[test]
        fn no_plan_leaves_the_file(
            reads in prop::collection::vec((0u64..1 << 24, 1u64..1 << 20), 1..100),
            size in 1u64..1 << 24,
        ) {
            let mut stream = Stream::default();
            for (start, length) in reads {
                let range = ByteRange::new(start.min(size), (start + length).min(size));
                let plan = stream.on_read(range, size, &LIMITS);
                prop_assert!(plan.ahead.end <= size);
            }
        }
    }
}
