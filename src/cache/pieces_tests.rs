use super::*;
use crate::backend::SeekWhence;
use crate::io::FillSource;
use crate::types::Attributes;
use proptest::prelude::*;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

struct NoSource;

impl SourceFile for NoSource {
    fn has_writer(&self) -> bool {
        false
    }

    fn attributes(&self) -> io::Result<Attributes> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    fn source(&self) -> FillSource {
        unreachable!("no test reads it")
    }

    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    fn seek(&self, _offset: u64, _whence: SeekWhence) -> io::Result<u64> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
}

fn open() -> Pieces {
    Pieces {
        source: Source::Open(Arc::new(NoSource)),
        ..Pieces::default()
    }
}

fn counter() -> (Arc<AtomicUsize>, Woken) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let woken = Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    (count, woken)
}

#[test]
fn nothing_begins_before_the_version_has_settled() {
    let mut pieces = Pieces {
        source: Source::Settling(Arc::new(NoSource)),
        ..Pieces::default()
    };
    assert!(pieces.want(ByteRange::new(0, 4096), Priority::Demand, PIECE_BYTES));
    assert!(pieces.begin(0).is_none());
    assert!(!pieces.is_idle());
    pieces.settled();
    assert!(pieces.begin(0).is_some());
    assert!(pieces.begin(0).is_none());
}

#[test]
fn a_piece_is_cut_where_a_pipe_ends() {
    let mut pieces = open();
    pieces.want(
        ByteRange::new(PIECE_BYTES - 4096, 3 * PIECE_BYTES + 1),
        Priority::Ahead,
        PIECE_BYTES,
    );
    let starts: Vec<u64> = pieces
        .take_unscheduled()
        .iter()
        .map(|(start, _)| *start)
        .collect();
    let expected = [
        PIECE_BYTES - 4096,
        PIECE_BYTES,
        2 * PIECE_BYTES,
        3 * PIECE_BYTES,
    ];
    assert_eq!(starts, expected);
}

#[test]
fn readahead_that_somebody_waits_for_is_queued_again_as_demand() {
    let mut pieces = open();
    pieces.want(ByteRange::new(0, 8192), Priority::Ahead, PIECE_BYTES);
    assert_eq!(pieces.take_unscheduled(), [(0, Priority::Ahead)]);
    assert_eq!(pieces.take_unscheduled(), []);
    pieces.wait_for(ByteRange::new(0, 10), counter().1);
    assert_eq!(pieces.take_unscheduled(), [(0, Priority::Demand)]);
    pieces.begin(0).unwrap();
    pieces.put_back(0);
    assert_eq!(pieces.take_unscheduled(), [(0, Priority::Demand)]);
}

#[test]
fn giving_up_keeps_what_is_in_flight_and_ends_every_wait() {
    let mut pieces = open();
    pieces.want(ByteRange::new(0, 4096), Priority::Demand, PIECE_BYTES);
    pieces.begin(0).unwrap();
    pieces.want(ByteRange::new(8192, 12_288), Priority::Demand, PIECE_BYTES);
    let (count, woken) = counter();
    pieces.wait_for(ByteRange::new(0, 12_288), woken);
    let (landed, waiters) = pieces.give_up();
    assert!(landed.is_empty());
    waiters.into_iter().for_each(|woken| woken(Ok(())));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(!pieces.is_idle());
    assert!(pieces.land(ByteRange::new(0, 4096)));
    assert_eq!(
        pieces.begin_verification().unwrap().0,
        [ByteRange::new(0, 4096)]
    );
    pieces.end_verification();
    assert!(pieces.begin_verification().is_none());
    assert!(pieces.is_idle());
}

#[test]
fn one_verification_runs_at_a_time_and_takes_what_landed_meanwhile() {
    let mut pieces = open();
    pieces.want(
        ByteRange::new(0, 2 * PIECE_BYTES),
        Priority::Demand,
        PIECE_BYTES,
    );
    let first = pieces.begin(0).unwrap().0;
    let second = pieces.begin(PIECE_BYTES).unwrap().0;
    assert!(pieces.land(first));
    assert_eq!(pieces.begin_verification().unwrap().0, [first]);
    assert!(!pieces.land(second));
    pieces.end_verification();
    assert_eq!(pieces.begin_verification().unwrap().0, [second]);
}

proptest! {
    /// Whatever is wanted, begun, landed and verified in whatever order: no byte is read twice.
    #[test]
    fn no_byte_is_on_its_way_twice(steps in prop::collection::vec((0u8..4, 0u64..64, 1u64..16), 1..80)) {
        const UNIT: u64 = 64 << 10;
        let mut pieces = open();
        let mut begun = [0u32; 128];
        let mut in_flight: Vec<ByteRange> = Vec::new();
        for (step, start, length) in steps {
            match step {
                0 => {
                    pieces.want(ByteRange::at(start * UNIT, length * UNIT), Priority::Demand, PIECE_BYTES);
                }
                1 => for (start, _) in pieces.take_unscheduled() {
                    if let Some((range, _)) = pieces.begin(start) {
                        for unit in range.start / UNIT..range.end / UNIT {
                            begun[unit as usize] += 1;
                            prop_assert_eq!(begun[unit as usize], 1);
                        }
                        in_flight.push(range);
                    }
                },
                2 if !in_flight.is_empty() => {
                    let at = start as usize % in_flight.len();
                    pieces.land(in_flight.swap_remove(at));
                }
                _ => if let Some((verified, _)) = pieces.begin_verification() {
                    pieces.end_verification();
                    // As extents they would not be wanted again; here they may be.
                    for range in verified {
                        for unit in range.start / UNIT..range.end / UNIT {
                            begun[unit as usize] = 0;
                        }
                    }
                },
            }
        }
    }
}
