//! Every byte comes from the backend once, however many wait for it; each waits for no more than its own.

use super::backend::{CallKind, Effect};
use super::{MIB, SOON, Setup, World, plan, rounds, whole};
use crate::cache::FetchError;
use crate::cache::extents::ExtentMap;
use crate::io::simulator::{Dice, seed_of_this_run};
use crate::types::ByteRange;

const BLOCK_BYTES: u64 = 64 << 10;

#[test]
fn readers_of_overlapping_cold_ranges_read_each_block_once() {
    let seed = seed_of_this_run();
    for round in 0..rounds(5, 200) {
        let mut dice = Dice::new(seed.wrapping_add(round));
        let world = World::new(&Setup::default());
        let size = 6 * MIB + 12_345;
        let key = world.backend.create("file", size as usize);
        let file = world.open(&key);
        let mut expected = ExtentMap::new();
        let mut reads = Vec::new();
        for _ in 0..24 {
            let range = ByteRange::at(dice.below(size), 1 + dice.below(2 * MIB))
                .intersection(&whole(&file));
            expected.insert(range.aligned_out(BLOCK_BYTES).intersection(&whole(&file)));
            let mut plan = plan(range);
            plan.block_bytes = BLOCK_BYTES;
            reads.push((range, world.start_read(&file, plan)));
        }
        for (range, reading) in reads {
            let bytes = reading.recv_timeout(SOON).unwrap().unwrap();
            world.compare(&file, range, &bytes);
        }
        let mut seen = ExtentMap::new();
        for (_, range, _) in world.backend.reads() {
            assert_eq!(seen.missing(range), [range], "read twice");
            seen.insert(range);
        }
        assert_eq!(seen, expected);
        assert_eq!(file.extents(), expected);
        file.end_use();
    }
}

#[test]
fn a_waiter_gets_its_bytes_as_soon_as_its_own_piece_is_in() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 3 * MIB as usize);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Read if call.range.start >= MIB => Effect::Hang,
        _ => Effect::Nothing,
    });
    let mut first = plan(ByteRange::new(0, 4096));
    first.ahead = whole(&file).into();
    let first = world.start_read(&file, first);
    let last = world.start_read(&file, plan(ByteRange::new(2 * MIB, 2 * MIB + 10)));
    first.recv_timeout(SOON).expect("not held up").unwrap();
    world.backend.wait_for_hanging(1);
    assert!(last.is_empty());
    world.backend.release();
    last.recv_timeout(SOON).unwrap().unwrap();
    file.end_use();
}

#[test]
fn a_piece_that_fails_fails_those_who_wait_for_it_alone() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 3 * MIB as usize);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Read if call.range.start == MIB => Effect::Fail(libc::EACCES),
        _ => Effect::Nothing,
    });
    let mut reads = Vec::new();
    for range in [
        (0, 10),
        (MIB - 5, MIB + 5),
        (MIB, 2 * MIB),
        (2 * MIB, 3 * MIB),
    ] {
        let mut plan = plan(ByteRange::new(range.0, range.1));
        plan.block_bytes = MIB;
        reads.push(world.start_read(&file, plan));
    }
    // Whoever asked and went away harms nobody.
    drop(world.start_read(&file, plan(ByteRange::new(5, 6))));
    let outcomes: Vec<Option<i32>> = reads
        .iter()
        .map(|reading| match reading.recv_timeout(SOON).unwrap() {
            Ok(_) => None,
            Err(FetchError::Backend(error)) => error.raw_os_error(),
            Err(error) => panic!("{error}"),
        })
        .collect();
    let denied = Some(libc::EACCES);
    assert_eq!(outcomes, [None, denied, denied, None]);
    world.backend.set_script(|_| Effect::Nothing);
    world.check(&file, whole(&file));
    assert_eq!(world.directory().space.reserved_bytes(), 0);
    file.end_use();
}

#[test]
fn a_small_file_opened_by_many_at_once_is_read_once() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 20_000);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Open => Effect::Hang,
        _ => Effect::Nothing,
    });
    let (sender, receiver) = crossbeam_channel::unbounded();
    for _ in 0..10 {
        let sender = sender.clone();
        let woken = Box::new(move |outcome: Result<(), FetchError>| {
            sender.send(outcome.is_ok()).unwrap();
        });
        world.cache.fetch_whole(&file, woken);
    }
    world.backend.release();
    for _ in 0..10 {
        assert!(receiver.recv_timeout(SOON).unwrap());
    }
    assert_eq!(world.backend.bytes_read(), 20_000);
    world.check(&file, whole(&file));
    assert_eq!(world.backend.bytes_read(), 20_000);
    file.end_use();
}
