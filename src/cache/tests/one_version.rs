//! Whatever happens in whatever order: the bytes of a read are those of the version that its file claims.

use super::backend::{CHANGES, Change, Effect};
use super::{MIB, SOON, Setup, World, eventually, plan, rounds, whole};
use crate::cache::{CachedFile, FetchError};
use crate::io::simulator::{Dice, Fault, FaultPlan, FaultRule, seed_of_this_run};
use crate::types::{ByteRange, FileKey};
use std::sync::Arc;
use std::time::Duration;

const THREADS: u64 = 3;
const STEPS: u64 = 80;

fn any_change(dice: &mut Dice) -> Change {
    CHANGES[dice.below(CHANGES.len() as u64) as usize]
}

fn any_range(dice: &mut Dice, file: &CachedFile) -> ByteRange {
    let size = file.size_bytes();
    let start = dice.below(size + 1);
    let length_max = [100, 5000, 70_000, 3 * MIB][dice.below(4) as usize];
    ByteRange::at(start, 1 + dice.below(length_max)).intersection(&ByteRange::new(0, size))
}

fn read_one(world: &World, dice: &mut Dice, file: &Arc<CachedFile>) {
    let range = any_range(dice, file);
    let mut plan = plan(range);
    plan.block_bytes = 4096 << dice.below(9);
    plan.random = dice.chance(0.5);
    if dice.chance(0.3) {
        plan.ahead = ByteRange::at(range.end, dice.below(MIB)).into();
    }
    let was_changed = file.is_changed();
    match world
        .start_read(file, plan)
        .recv_timeout(SOON)
        .expect("the read is answered")
    {
        Ok(bytes) => {
            world.compare(file, range, &bytes);
            assert!(
                !was_changed || range.is_empty(),
                "old bytes after the change was noticed"
            );
        }
        Err(FetchError::Changed | FetchError::Backend(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn worker(world: &World, keys: &[FileKey], seed: u64) {
    let mut dice = Dice::new(seed);
    let mut open: Vec<Arc<CachedFile>> = Vec::new();
    for _ in 0..STEPS {
        let key = &keys[dice.below(keys.len() as u64) as usize];
        let some_open = dice.below(open.len() as u64) as usize;
        match dice.below(20) {
            0..=3 => open.push(world.open(key)),
            4..=10 if !open.is_empty() => read_one(world, &mut dice, &open[some_open]),
            11 if !open.is_empty() => {
                let file = &open[some_open];
                let range = any_range(&mut dice, file);
                world.cache.fetch_ahead(file, range);
            }
            12 if !open.is_empty() => match world.fetch_whole(&open[some_open]) {
                Ok(()) | Err(FetchError::Changed | FetchError::Backend(_)) => {}
                Err(FetchError::Bypass | FetchError::Refused) => {}
                Err(FetchError::Overloaded) => panic!("the lane is not that full"),
            },
            13..=15 if !open.is_empty() => open.swap_remove(some_open).end_use(),
            16 => drop(world.cache.evict_files(std::slice::from_ref(key))),
            17 => drop(world.cache.evict_all()),
            18 => world.directory().checkpoint(),
            19 => world.backend.change(key, any_change(&mut dice)),
            _ => {}
        }
    }
    for file in open {
        file.end_use();
    }
}

fn run(seed: u64) {
    let setup = Setup {
        seed,
        limit_bytes: 16 * MIB,
        checkpoint_interval: Duration::from_millis(10),
        ..Setup::default()
    };
    let world = World::new(&setup);
    let delay = Fault::Delay {
        at_most: Duration::from_millis(3),
    };
    let delays = FaultPlan::none()
        .with(FaultRule::new(delay).with_probability(0.3))
        .with(FaultRule::new(Fault::ShortRead).with_probability(0.1));
    world.simulation.set_faults(delays);
    let keys: Vec<FileKey> = [0, 1, 4096, 10_000, 300_000, 2_500_000]
        .iter()
        .map(|size| world.backend.create(&format!("file{size}"), *size))
        .collect();
    let mut dice = Dice::new(seed);
    let seeds: Vec<u64> = (0..THREADS).map(|_| dice.roll()).collect();
    world.backend.set_script(move |_| match dice.below(100) {
        0 => Effect::Fail(libc::EIO),
        1 | 2 => Effect::ChangeBefore(any_change(&mut dice)),
        3 | 4 => Effect::ChangeWithin(any_change(&mut dice)),
        _ => Effect::Nothing,
    });
    std::thread::scope(|scope| {
        for seed in seeds {
            let (world, keys) = (&world, &keys);
            scope.spawn(move || worker(world, keys, seed));
        }
    });
    world.backend.set_script(|_| Effect::Nothing);
    assert_eq!(world.directory().failure(), None);
    assert_eq!(world.metrics.doubted.get(), 0);
    for key in &keys {
        let file = world.open(key);
        world.check(&file, whole(&file));
        file.end_use();
    }
    eventually("all is quiet", || {
        world.cache.pieces_in_flight() == 0 && world.backend.open_sources() == 0
    });
    assert_eq!(world.directory().space.reserved_bytes(), 0);
    world.check_books();
}

#[test]
fn every_read_is_of_the_one_version_its_file_claims() {
    let seed = seed_of_this_run();
    for round in 0..rounds(5, 300) {
        println!("round {round}");
        run(seed.wrapping_add(round));
    }
}

#[test]
fn a_file_that_changes_within_a_read_of_it_is_never_mixed() {
    for change in CHANGES {
        let world = World::new(&Setup::default());
        let key = world.backend.create("file", 3_000_000);
        let file = world.open(&key);
        let mut reads = 0;
        world.backend.set_script(move |call| {
            reads += usize::from(call.kind == super::backend::CallKind::Read);
            match reads {
                2 => {
                    reads += 1;
                    Effect::ChangeWithin(change)
                }
                _ => Effect::Nothing,
            }
        });
        let outcome = world.read(&file, whole(&file));
        assert!(
            matches!(outcome, Err(FetchError::Changed)),
            "{change:?}: {outcome:?}"
        );
        assert!(file.is_changed());
        assert!(world.read(&file, ByteRange::new(0, 10)).is_err());
        let new = world.open(&key);
        world.check(&new, whole(&new));
        file.end_use();
        new.end_use();
    }
}
