//! Reads as programs make them, against a cache that has whatever was asked for or planned before.

use super::*;
use crate::types::ByteRange;
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 1 << 30;
const PAGE_BYTES: u64 = 4096;
const LIMITS: Limits = Limits {
    window_bytes_max: 16 * MIB,
    block_bytes: None,
};

/// What became of the reads of a trace.
#[derive(Debug, Default)]
struct Outcome {
    reads: u64,
    /// Reads whose bytes were not all there.
    late: u64,
    fetched_bytes: u64,
    /// The furthest that a plan reached beyond the read it was made for.
    furthest_bytes: u64,
}

fn run(trace: impl IntoIterator<Item = ByteRange>, limits: &Limits) -> Outcome {
    let mut reads = Reads::default();
    let mut pages: BTreeSet<u64> = BTreeSet::new();
    let mut outcome = Outcome::default();
    for range in trace {
        let is_late = pages_of(range).any(|page| !pages.contains(&page));
        let read = Read {
            range,
            file_size_bytes: SIZE,
            is_late,
        };
        let plan = reads.on_read(read, limits);
        outcome.reads += 1;
        outcome.late += u64::from(is_late);
        if is_late {
            pages.extend(pages_of(range.aligned_out(plan.block_bytes)));
        }
        for ahead in plan.ahead.ranges() {
            assert!(ahead.end <= SIZE, "{ahead:?} is beyond the file");
            let distance = ahead.end.saturating_sub(range.end);
            let back = range.start.saturating_sub(ahead.start);
            outcome.furthest_bytes = outcome.furthest_bytes.max(distance.max(back));
            pages.extend(pages_of(ahead));
        }
    }
    outcome.fetched_bytes = pages.len() as u64 * PAGE_BYTES;
    outcome
}

fn pages_of(range: ByteRange) -> std::ops::Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}

fn sequential(from: u64, length_bytes: u64, count: u64) -> impl Iterator<Item = ByteRange> {
    (0..count).map(move |read| ByteRange::at(from + read * length_bytes, length_bytes))
}

/// A generator of the splitmix family: the same numbers each time.
fn scattered(count: u64, size_bytes: u64) -> impl Iterator<Item = ByteRange> {
    (1..=count).map(move |step| {
        let mut mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let page = (mixed ^ (mixed >> 31)) % (size_bytes / PAGE_BYTES);
        ByteRange::at(page * PAGE_BYTES, PAGE_BYTES)
    })
}

#[test]
fn a_stream_is_late_at_its_beginning_only_and_gets_the_whole_window() {
    for length_bytes in [PAGE_BYTES, 128 << 10, MIB] {
        let count = 64 * MIB / length_bytes;
        let outcome = run(sequential(0, length_bytes, count), &LIMITS);
        assert!(outcome.late <= 3, "{length_bytes}: {outcome:?}");
    }
    // Who is always late gets all that may be had.
    let mut reads = Reads::default();
    let mut furthest_bytes = 0;
    for range in sequential(0, 128 << 10, 512) {
        let read = Read {
            range,
            file_size_bytes: SIZE,
            is_late: true,
        };
        let plan = reads.on_read(read, &LIMITS);
        for ahead in plan.ahead.ranges() {
            furthest_bytes = furthest_bytes.max(ahead.end - range.end);
        }
    }
    assert!(furthest_bytes > 15 * MIB, "{furthest_bytes}");
    assert!(
        furthest_bytes <= LIMITS.window_bytes_max,
        "{furthest_bytes}"
    );
}

#[test]
fn one_read_at_the_start_fetches_nothing_else() {
    let outcome = run(sequential(0, PAGE_BYTES, 1), &LIMITS);
    assert_eq!(outcome.fetched_bytes, BLOCK_BYTES_MIN);
}

#[test]
fn a_stream_that_is_served_in_time_keeps_a_small_window() {
    let mut reads = Reads::default();
    let mut furthest_bytes = 0;
    for range in sequential(0, 128 << 10, 512) {
        let read = Read {
            range,
            file_size_bytes: SIZE,
            is_late: false,
        };
        let plan = reads.on_read(read, &LIMITS);
        let ends = plan.ahead.ranges().map(|ahead| ahead.end - range.end);
        furthest_bytes = furthest_bytes.max(ends.max().unwrap_or(0));
    }
    assert!(furthest_bytes <= MIB, "{furthest_bytes}");
}

#[test]
fn reads_out_of_order_within_a_stream_still_count_as_one() {
    let swapped = (0..512u64).map(|read| read ^ 1);
    let trace = swapped.map(|read| ByteRange::at(read * 131_072, 131_072));
    let outcome = run(trace, &LIMITS);
    assert!(outcome.late <= 5, "{outcome:?}");
}

#[test]
fn a_backward_stream_is_late_at_its_beginning_only() {
    let trace = (1..=1024u64).map(|read| ByteRange::at(SIZE - read * 65536, 65536));
    let outcome = run(trace, &LIMITS);
    assert!(outcome.late <= 4, "{outcome:?}");
    assert!(outcome.fetched_bytes <= 64 * MIB + LIMITS.window_bytes_max);
}

#[test]
fn records_at_equal_distances_are_foreseen_and_nothing_between_them() {
    for step_bytes in [MIB as i64, 300_000, -(MIB as i64)] {
        let trace = (0..500i64).map(|record| {
            let start = (SIZE / 2) as i64 + record * step_bytes;
            ByteRange::at(start as u64, 8192)
        });
        let outcome = run(trace, &LIMITS);
        assert!(outcome.late <= 5, "{step_bytes}: {outcome:?}");
        assert!(
            outcome.fetched_bytes <= 600 * 16384,
            "{step_bytes}: {outcome:?}"
        );
    }
}

#[test]
fn records_read_in_two_parts_are_foreseen() {
    let trace = (0..200u64).flat_map(|record| {
        let start = record * 4 * MIB + 4096;
        [ByteRange::at(start, MIB), ByteRange::at(start + MIB, MIB)]
    });
    let outcome = run(trace.take_while(|range| range.end <= SIZE), &LIMITS);
    assert!(outcome.late <= 12, "{outcome:?}");
}

#[test]
fn dense_records_are_read_as_a_stream() {
    let trace = (0..4000u64).map(|record| ByteRange::at(MIB + record * 12288, 4096));
    let outcome = run(trace, &LIMITS);
    assert!(outcome.late <= 8, "{outcome:?}");
}

#[test]
fn several_streams_of_one_file_are_followed_at_once() {
    let streams = 16u64;
    let trace = (0..512u64).flat_map(|read| {
        (0..streams)
            .map(move |stream| ByteRange::at(stream * (SIZE / streams) + read * 65536, 65536))
    });
    let outcome = run(trace, &LIMITS);
    assert!(outcome.late <= streams * 40, "{outcome:?}");
}

#[test]
fn a_stream_among_scattered_reads_is_followed() {
    let stream = sequential(0, 65536, 1000);
    let trace = stream
        .zip(scattered(1000, SIZE))
        .flat_map(|(one, other)| [one, other]);
    let outcome = run(trace, &LIMITS);
    assert!(outcome.late <= 1000 + 20, "{outcome:?}");
}

#[test]
fn scattered_reads_fetch_at_most_a_twentieth_more_than_without() {
    for size_bytes in [SIZE, 64 * MIB] {
        let off = Limits {
            window_bytes_max: 0,
            ..LIMITS
        };
        let with = run(scattered(2000, size_bytes), &LIMITS).fetched_bytes;
        let without = run(scattered(2000, size_bytes), &off).fetched_bytes;
        assert!(with * 20 <= without * 21, "{with} and {without}");
    }
}

#[test]
fn what_is_planned_in_vain_makes_windows_small() {
    // Runs of 1 MiB at places far from one another.
    let trace = (0..400u64).flat_map(|run| {
        let start = run * 383 % 400 * (2 * MIB) + 4096;
        sequential(start, 65536, 16)
    });
    let outcome = run(trace, &LIMITS);
    let asked_bytes = 400 * MIB;
    assert!(
        outcome.fetched_bytes <= asked_bytes * 3 / 2 + ALLOWANCE_BYTES,
        "{outcome:?}"
    );
}

#[test]
fn without_a_window_nothing_is_planned() {
    let off = Limits {
        window_bytes_max: 0,
        ..LIMITS
    };
    for trace in [sequential(0, 65536, 100), sequential(MIB, MIB, 100)] {
        assert_eq!(run(trace, &off).furthest_bytes, 0);
    }
}
