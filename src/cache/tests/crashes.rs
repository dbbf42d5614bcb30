//! What a cache believes after a power cut or a SIGKILL: everything checkpointed, nothing doubtful.

use super::backend::{Change, FakeBackend};
use super::{Setup, World, eventually, open_directory, recount, rounds, whole};
use crate::cache::extents::ExtentMap;
use crate::cache::scrub::Checksums;
use crate::cache::{CacheDirectory, Keep};
use crate::io::IoFile;
use crate::io::simulator::{Dice, FaultPlan, Simulation, seed_of_this_run};
use crate::metrics::CacheMetrics;
use crate::types::{ByteRange, FileKey, Version};
use std::collections::HashMap;
use std::sync::Arc;

const SIZES: [usize; 7] = [1, 4096, 10_000, 200_000, 1_200_000, 2_300_000, 4_000_000];

/// What was checkpointed and neither evicted nor replaced since.
type Durable = HashMap<FileKey, (Version, ExtentMap)>;

/// Uses a cache until the machine stops or there is no more to do.
fn work(world: &World, keys: &[FileKey], durable: &mut Durable) {
    let part = |world: &World, key: &FileKey, of_eight: (u64, u64)| {
        let file = world.open(key);
        let size = file.size_bytes();
        let range = ByteRange::new(size * of_eight.0 / 8, size * of_eight.1 / 8);
        world.check(&file, range);
        file.end_use();
        file
    };
    let checkpoint = |held: &[Arc<crate::cache::CachedFile>], durable: &mut Durable| {
        let claims: Vec<_> = held
            .iter()
            .filter(|file| !file.is_gone() && !file.is_bypassed())
            .map(|file| (file.key.clone(), (file.version(), file.extents())))
            .filter(|(_, (_, extents))| !extents.is_empty())
            .collect();
        world.directory().checkpoint();
        if world.simulation.is_running() && world.directory().is_usable() {
            durable.extend(claims);
        }
    };
    let mut held: Vec<_> = keys.iter().map(|key| part(world, key, (1, 3))).collect();
    checkpoint(&held, durable);
    held.push(part(world, &keys[4], (3, 8)));
    held.push(part(world, &keys[5], (0, 8)));
    durable.remove(&keys[2]);
    world.cache.evict_files(&[keys[2].clone()]);
    durable.remove(&keys[3]);
    world.backend.change(&keys[3], Change::Rewrite);
    held.push(part(world, &keys[3], (0, 8)));
    world.directory().sweep_doomed();
    checkpoint(&held, durable);
    held.push(part(world, &keys[2], (0, 8)));
    durable.remove(&keys[4]);
    world.backend.change(&keys[4], Change::Truncate);
    held.push(part(world, &keys[4], (2, 6)));
    durable.remove(&keys[5]);
    held.clear();
    durable.remove(&keys[6]);
    trim(world, &keys[6]);
    world.cache.evict_files(&[keys[5].clone()]);
    held.push(part(world, &keys[5], (4, 8)));
    held.push(part(world, &keys[1], (0, 8)));
    checkpoint(&held, durable);
    part(world, &keys[0], (0, 8));
    part(world, &keys[4], (0, 8));
}

/// Parts of a file that is open go, and what is left is right.
fn trim(world: &World, key: &FileKey) {
    let file = world.open(key);
    world.check(&file, ByteRange::new(0, file.size_bytes() * 7 / 8));
    for _ in 0..2 {
        let trimmed = world.directory().begin_trim(&file, 1 << 20);
        world
            .directory()
            .finish_trims(trimmed.into_iter().collect());
    }
    world.check(&file, ByteRange::new(0, file.size_bytes() * 6 / 8));
    file.end_use();
}

fn read_exactly(file: &dyn IoFile, range: ByteRange) -> Vec<u8> {
    let mut bytes = vec![0xee; range.length_bytes() as usize];
    let moved = file.read_at(&mut bytes, range.start).unwrap();
    assert_eq!(moved, bytes.len());
    bytes
}

/// Everything the index claims is there byte for byte, and everything that was durable is claimed.
fn check_claims(directory: &Arc<CacheDirectory>, backend: &FakeBackend, durable: &Durable) {
    let mut records = Vec::new();
    directory
        .index
        .scan(|key, record| records.push((key, record.expect("no record is damaged"))))
        .unwrap();
    assert_eq!(directory.space.used_bytes(), recount(directory));
    let mut claimed = HashMap::new();
    for (key, record) in records {
        let file = directory.file(&key, record.version, None);
        let Some(object) = file.object_file().unwrap() else {
            continue;
        };
        let content = backend.content(&record.version);
        for range in record.extents.ranges() {
            let expected = &content[range.start as usize..range.end as usize];
            let found = read_exactly(&*object, *range);
            assert!(found == expected, "{range:?} of {key:?} is doubtful");
        }
        claimed.insert(key, (record.version, record.extents));
    }
    for (key, (version, extents)) in durable {
        let Some((found_version, found)) = claimed.get(key) else {
            panic!("{key:?} was checkpointed and is lost");
        };
        assert_eq!(found_version, version, "{key:?}");
        for range in extents.ranges() {
            assert!(found.contains(*range), "{range:?} of {key:?} is lost");
        }
    }
}

fn setup(seed: u64) -> Setup {
    Setup {
        seed,
        checksums: Checksums::Fill,
        ..Setup::default()
    }
}

/// Works until the operation of this number, counted from the start of the work or of everything.
fn world_that_stops_at(seed: u64, operation: Option<u64>) -> (World, Vec<FileKey>) {
    let simulation = Arc::new(Simulation::new(seed, FaultPlan::none()));
    let backend = FakeBackend::new(seed);
    let keys = SIZES
        .iter()
        .enumerate()
        .map(|(number, size)| backend.create(&format!("file{number}"), *size))
        .collect();
    let world = World::on(&setup(seed), simulation, backend);
    if let Some(operation) = operation {
        let now = world.simulation.operations();
        world.simulation.crash_at(now + operation);
    }
    (world, keys)
}

/// Opens the directory after the end of a life, with further cuts on the way if there are dice.
fn reopen(simulation: &Simulation, mut cuts: Option<&mut Dice>) -> Arc<CacheDirectory> {
    let metrics = Arc::new(CacheMetrics::default());
    for attempt in 0.. {
        simulation.run_until_idle();
        simulation.restart();
        if let Some(dice) = &mut cuts
            && attempt < 3
        {
            simulation.crash_at(simulation.operations() + 1 + dice.below(600));
        }
        let opened = open_directory(
            simulation.device("disk"),
            "disk",
            &Setup::default(),
            &metrics,
        );
        match opened {
            Ok(directory) if simulation.is_running() => {
                simulation.crash_at(u64::MAX);
                return directory;
            }
            Ok(_) => {}
            Err(error) => assert!(!simulation.is_running(), "{error}"),
        }
    }
    unreachable!("the last attempt is not cut")
}

/// After the claims were checked: the cache works, and closes its books.
fn check_use(world: World, directory: Arc<CacheDirectory>, keys: &[FileKey]) {
    drop(directory);
    let seed = 1;
    world.simulation.restart();
    let world = World::on(
        &setup(seed),
        world.simulation.clone(),
        world.backend.clone(),
    );
    expect_nothing_bad(&world);
    for key in keys {
        let file = world.open(key);
        world.check(&file, whole(&file));
        file.end_use();
    }
    expect_nothing_bad(&world);
    assert_eq!(world.directory().failure(), None);
    world.check_books();
}

/// All that has a checksum is what was stored.
fn expect_nothing_bad(world: &World) {
    let asked = world.cache.ask_for_scrub().expect("there are checksums");
    eventually("all is checked", || {
        world.cache.scrub_report().answered >= asked
    });
    assert_eq!(world.cache.scrub_report().bad_blocks, 0);
}

fn cut_at(seed: u64, operation: u64) {
    let (world, keys) = world_that_stops_at(seed, Some(operation));
    let mut durable = Durable::new();
    work(&world, &keys, &mut durable);
    // Past the end of the work: cut now.
    world.simulation.crash();
    world.cache.shutdown();
    let mut dice = Dice::new(seed ^ operation);
    let again = dice.chance(0.3);
    let directory = reopen(&world.simulation, again.then_some(&mut dice));
    check_claims(&directory, &world.backend, &durable);
    check_use(world, directory, &keys);
}

/// How many operations all of the work takes.
fn operations_of_work(seed: u64) -> u64 {
    let (world, keys) = world_that_stops_at(seed, None);
    let before = world.simulation.operations();
    work(&world, &keys, &mut Durable::new());
    world.simulation.operations() - before
}

#[test]
fn a_power_cut_at_any_operation_leaves_what_was_checkpointed_and_nothing_doubtful() {
    let seed = seed_of_this_run();
    let operations = operations_of_work(seed);
    // The sweep for orphans runs beside the work and adds its own.
    let points = rounds(40, operations + 20);
    let mut dice = Dice::new(seed);
    for point in 1..=points {
        let operation = match points < operations {
            true => 1 + dice.below(operations + 20),
            false => point,
        };
        println!("operation {operation} of {operations}");
        cut_at(seed, operation);
    }
}

#[test]
fn a_power_cut_while_a_cache_is_made_leaves_one_that_can_be_made() {
    let seed = seed_of_this_run();
    let mut dice = Dice::new(seed);
    for _ in 0..rounds(15, 600) {
        let simulation = Arc::new(Simulation::new(dice.roll(), FaultPlan::none()));
        let operation = 1 + dice.below(330);
        println!("operation {operation}");
        simulation.crash_at(operation);
        let metrics = Arc::new(CacheMetrics::default());
        let opened = open_directory(
            simulation.device("disk"),
            "disk",
            &Setup::default(),
            &metrics,
        );
        assert!(opened.is_ok() || !simulation.is_running());
        simulation.crash();
        drop(opened);
        let directory = reopen(&simulation, Some(&mut dice));
        assert_eq!(directory.space.used_bytes(), 0);
        assert_eq!(*directory.notices.lock(), Vec::<String>::new());
    }
}

#[test]
fn a_killed_process_leaves_everything_checkpointed() {
    let seed = seed_of_this_run();
    let operations = operations_of_work(seed);
    let mut dice = Dice::new(seed);
    for _ in 0..rounds(20, 500) {
        let stop = 1 + dice.below(operations);
        println!("killed after {stop}");
        let (world, keys) = world_that_stops_at(seed, None);
        let until = world.simulation.operations() + stop;
        let mut durable = Durable::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while world.simulation.operations() < until && world.simulation.is_running() {
                    std::thread::yield_now();
                }
                world.simulation.kill();
            });
            work(&world, &keys, &mut durable);
            world.simulation.kill();
        });
        world.cache.shutdown();
        let directory = reopen(&world.simulation, None);
        check_claims(&directory, &world.backend, &durable);
        check_use(world, directory, &keys);
    }
}

#[test]
fn a_clean_restart_keeps_everything() {
    let seed = seed_of_this_run();
    let (world, keys) = world_that_stops_at(seed, None);
    work(&world, &keys, &mut Durable::new());
    for key in &keys {
        world.fill(key);
    }
    let world = world.restart(&setup(seed));
    let bytes = world.backend.bytes_read();
    for key in &keys {
        world.fill(key);
    }
    assert_eq!(world.backend.bytes_read(), bytes);
    assert_eq!(world.metrics.doubted.get(), 0);
    assert_eq!(world.used_bytes(), recount(world.directory()));
}

/// Changes files through the cache, with what is cached of them kept.
fn work_with_writes(world: &World, keys: &[FileKey], dice: &mut Dice) {
    for key in keys {
        let file = world.open(key);
        world.check(&file, whole(&file));
        file.end_use();
    }
    for round in 0..12 {
        let key = &keys[dice.below(keys.len() as u64) as usize];
        let size = world.backend.version(key).size_bytes;
        let keep = Keep {
            present: world.backend.version(key),
            alone: true,
        };
        let followers = world.cache.begin_change(key, Some(keep), None);
        for _ in 0..2 {
            let mut data = vec![0; 1 + dice.below(20_000) as usize];
            dice.fill(&mut data);
            let offset = dice.below(size + 10_000);
            world.backend.write(key, &data, offset as usize);
            followers.write(&data, offset);
        }
        if round % 4 == 3 {
            world.directory().checkpoint();
        }
        let kept = followers.adopt_kept(world.backend.version(key));
        assert!(kept || !world.simulation.is_running());
        if dice.chance(0.5) {
            world.directory().checkpoint();
        }
    }
}

#[test]
fn a_power_cut_while_files_are_written_leaves_no_record_of_what_changed_under_it() {
    let seed = seed_of_this_run();
    let (whole_run, keys) = world_that_stops_at(seed, None);
    let before = whole_run.simulation.operations();
    work_with_writes(&whole_run, &keys, &mut Dice::new(seed));
    let operations = whole_run.simulation.operations() - before;
    for key in &keys {
        whole_run.fill(key);
    }
    whole_run.check_books();
    let mut dice = Dice::new(seed);
    for _ in 0..rounds(40, 2000) {
        let operation = 1 + dice.below(operations + 5);
        println!("operation {operation} of {operations}");
        let (world, keys) = world_that_stops_at(seed, Some(operation));
        work_with_writes(&world, &keys, &mut Dice::new(seed));
        world.simulation.crash();
        world.cache.shutdown();
        let directory = reopen(&world.simulation, None);
        check_claims(&directory, &world.backend, &Durable::new());
        check_use(world, directory, &keys);
    }
}
