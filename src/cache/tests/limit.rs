//! The size limit holds at every instant, on the books and on the disk.

use super::{MIB, Setup, World, eventually, rounds, whole};
use crate::cache::FetchError;
use crate::cache::layout::{INDEX_FILE, object_path};
use crate::io::simulator::{Dice, seed_of_this_run};
use crate::io::{Io, OpenMode};
use crate::types::FileKey;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT_BYTES: u64 = 16 * MIB;
const FILES: u64 = 64;
const FILE_BYTES: usize = 5 * MIB as usize / 2;

/// Bytes of objects on the simulated disk. The index is looked at first: it may grow meanwhile, not shrink.
fn object_bytes(world: &World) -> u64 {
    let disk = world.simulation.device("disk");
    let index = disk.open(INDEX_FILE, OpenMode::Read).unwrap();
    let space = disk.space().unwrap();
    let index_bytes = index.facts().unwrap().allocated_bytes;
    (space.total_bytes - space.available_bytes).saturating_sub(index_bytes)
}

fn sample_until(world: &World, stop: &AtomicBool) -> u64 {
    // What else is there: the mark, and an index that grew between two looks.
    const SLACK_BYTES: u64 = MIB;
    let mut samples = 0;
    while !stop.load(Ordering::Acquire) {
        let held = world.directory().space.held_bytes();
        assert!(held <= LIMIT_BYTES, "{held} on the books");
        let held = object_bytes(world);
        assert!(held <= LIMIT_BYTES + SLACK_BYTES, "{held} on the disk");
        samples += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    samples
}

fn fill_at_random(world: &World, keys: &[FileKey], seed: u64) {
    let mut dice = Dice::new(seed);
    let disk = world.simulation.device("disk");
    let mut open = Vec::new();
    let mut mapped: Vec<String> = Vec::new();
    for _ in 0..150 {
        let key = &keys[dice.below(FILES) as usize];
        let file = world.open(key);
        let start = dice.below(file.size_bytes());
        let range = crate::types::ByteRange::at(start, dice.below(2 * MIB));
        world.check(&file, range.intersection(&whole(&file)));
        open.push(file);
        if open.len() > 3 {
            let at = dice.below(open.len() as u64) as usize;
            open.swap_remove(at).end_use();
        }
        if dice.chance(0.1)
            && let Ok(Some(record)) = world.directory().index.get(key)
        {
            let path = object_path(record.object);
            if disk.pretend_mapped(&path, true).is_ok() {
                mapped.push(path);
            }
        }
        if mapped.len() > 2 {
            let _ = disk.pretend_mapped(&mapped.remove(0), false);
        }
    }
    for path in mapped {
        let _ = disk.pretend_mapped(&path, false);
    }
    for file in open {
        file.end_use();
    }
}

#[test]
fn the_limit_holds_at_every_instant_and_the_books_close() {
    let seed = seed_of_this_run();
    for round in 0..rounds(1, 50) {
        let setup = Setup {
            seed: seed.wrapping_add(round),
            limit_bytes: LIMIT_BYTES,
            checkpoint_interval: Duration::from_millis(20),
            ..Setup::default()
        };
        let world = World::new(&setup);
        let keys: Vec<FileKey> = (0..FILES)
            .map(|number| world.backend.create(&format!("file{number}"), FILE_BYTES))
            .collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| sample_until(&world, &stop));
            let fillers: Vec<_> = (0..2)
                .map(|number| {
                    let (world, keys) = (&world, &keys);
                    scope.spawn(move || fill_at_random(world, keys, seed ^ number))
                })
                .collect();
            let ended: Vec<_> = fillers.into_iter().map(|filler| filler.join()).collect();
            stop.store(true, Ordering::Release);
            assert!(sampler.join().unwrap() > 10);
            assert!(ended.iter().all(Result::is_ok));
        });
        assert!(world.metrics.objects_evicted.get() > 0);
        world.check_books();
    }
}

#[test]
fn when_nothing_can_go_reads_pass_by_uncached() {
    let setup = Setup {
        limit_bytes: LIMIT_BYTES,
        ..Setup::default()
    };
    let world = World::new(&setup);
    let open: Vec<_> = (0..10)
        .map(|number| {
            let key = world.backend.create(&format!("file{number}"), FILE_BYTES);
            let file = world.open(&key);
            world.check(&file, whole(&file));
            assert!(world.directory().space.held_bytes() <= LIMIT_BYTES);
            file
        })
        .collect();
    assert!(world.metrics.bypass_bytes.get() > 0);
    assert_eq!(world.metrics.objects_evicted.get(), 0);
    for file in &open {
        file.end_use();
    }
    drop(open);
    let key = world.backend.create("later", FILE_BYTES);
    eventually("there is room again", || {
        let file = world.open(&key);
        world.check(&file, whole(&file));
        file.end_use();
        file.is_complete()
    });
}

#[test]
fn what_finds_no_room_as_a_whole_is_not_asked_for_before() {
    let setup = Setup {
        limit_bytes: LIMIT_BYTES,
        ..Setup::default()
    };
    let world = World::new(&setup);
    let size = (LIMIT_BYTES - MIB) as usize;
    let large = world.open(&world.backend.create("large", size));
    world.check(&large, whole(&large));
    let small = world.open(&world.backend.create("small", 2 * MIB as usize));
    let read = world.backend.bytes_read();
    let refused = world.fetch_whole(&small);
    assert!(matches!(refused, Err(FetchError::Bypass)), "{refused:?}");
    assert_eq!(world.backend.bytes_read(), read);
    large.end_use();
    eventually("there is room", || world.fetch_whole(&small).is_ok());
    small.end_use();
    // Nor is room held for what could not be fetched.
    let key = world.backend.create("changing", MIB as usize);
    let changing = world.open(&key);
    let held = world.directory().space.held_bytes();
    world.backend.write(&key, b"another", 0);
    let changed = world.fetch_whole(&changing);
    assert!(matches!(changed, Err(FetchError::Changed)), "{changed:?}");
    eventually("the room is given back", || {
        world.directory().space.held_bytes() <= held
    });
    changing.end_use();
}
