//! What holds for any reads.

use super::*;
use crate::types::ByteRange;
use proptest::prelude::*;

const KIB: u64 = 1 << 10;

/// Reads of all kinds: each goes on after, before, at a step from or far from the one before.
fn reads() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let step = (0u8..8, 0u64..1 << 26, 1u64..256 * KIB);
    prop::collection::vec(step, 1..300).prop_map(|steps| {
        let mut reads: Vec<(u64, u64)> = vec![(0, 4 * KIB)];
        for (kind, anywhere, length) in steps {
            let (start, before) = reads.last().copied().unwrap_or_default();
            reads.push(match kind {
                0..=3 => (start + before, length),
                4 => (start.saturating_sub(length), length),
                5 | 6 => (start + 512 * KIB, 8 * KIB),
                _ => (anywhere, length),
            });
        }
        reads
    })
}

proptest! {
    #[test]
    fn no_plan_leaves_the_file_or_the_window(
        reads in reads(),
        size in 1u64..1 << 26,
        window in 0u64..32 << 20,
    ) {
        let limits = Limits { window_bytes_max: window, block_bytes: None };
        let mut followed = Reads::default();
        for (start, length) in reads {
            let range = ByteRange::new(start.min(size), (start + length).min(size));
            let read = Read { range, file_size_bytes: size, is_late: true };
            let plan = followed.on_read(read, &limits);
            let planned: u64 = plan.ahead.ranges().map(|ahead| ahead.length_bytes()).sum();
            prop_assert!(planned <= window);
            for ahead in plan.ahead.ranges() {
                prop_assert!(!ahead.is_empty() && ahead.end <= size);
                // Nothing of what is being read.
                prop_assert!(!ahead.overlaps(&range), "{ahead:?} for {range:?}");
            }
        }
    }

    #[test]
    fn a_stream_is_planned_nothing_twice(
        lengths in prop::collection::vec((1u64..512 * KIB, any::<bool>()), 1..300),
        is_backward in any::<bool>(),
    ) {
        let limits = Limits { window_bytes_max: 32 << 20, block_bytes: None };
        let size: u64 = lengths.iter().map(|(length, _)| length).sum();
        let mut followed = Reads::default();
        let mut planned = Ranges::default();
        let mut reached = 0;
        for (length, is_late) in lengths {
            let range = match is_backward {
                false => ByteRange::at(reached, length),
                true => ByteRange::new(size - reached - length, size - reached),
            };
            reached += length;
            let plan = followed.on_read(Read { range, file_size_bytes: size, is_late }, &limits);
            for ahead in plan.ahead.ranges() {
                prop_assert!(planned.add(ahead), "{ahead:?} is planned twice");
            }
        }
    }

    #[test]
    fn scattered_reads_fetch_only_their_block(
        pages in prop::collection::vec(0u64..1 << 24, 1..300),
    ) {
        let limits = Limits { window_bytes_max: 32 << 20, block_bytes: None };
        let mut followed = Reads::default();
        let (mut asked, mut extra) = (0, 0);
        for page in pages {
            let range = ByteRange::at(page * 4 * KIB, 4 * KIB);
            let read = Read { range, file_size_bytes: 1 << 40, is_late: true };
            let plan = followed.on_read(read, &limits);
            asked += BLOCK_BYTES_MIN;
            extra += plan.block_bytes - BLOCK_BYTES_MIN;
            extra += plan.ahead.ranges().map(|ahead| ahead.length_bytes()).sum::<u64>();
        }
        prop_assert!(extra * 20 <= asked, "{extra} beyond {asked}");
    }
}

/// Ranges seen so far.
#[derive(Default)]
struct Ranges(Vec<ByteRange>);

impl Ranges {
    /// False if some of it was there before.
    fn add(&mut self, range: ByteRange) -> bool {
        let is_new = !self.0.iter().any(|held| held.overlaps(&range));
        self.0.push(range);
        is_new
    }
}
