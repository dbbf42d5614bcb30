//! A cache disk that fails makes reads slower, never wrong, and never errors.
//!
//! A disk that loses, misplaces or flips bytes of an object and reports success serves wrong bytes, unless reads are
//! checked. Records in the index have a checksum each.

use super::backend::{CallKind, Effect};
use super::{MIB, Setup, World, eventually, plan, rounds, whole};
use crate::cache::scrub::Checksums;
use crate::cache::{CachedFile, FetchError};
use crate::io::simulator::{Dice, Fault, FaultPlan, FaultRule, seed_of_this_run};
use crate::types::{ByteRange, FileKey};
use std::sync::Arc;
use std::time::Duration;

fn use_at_random(world: &World, keys: &[FileKey], dice: &mut Dice) {
    let mut open: Vec<Arc<CachedFile>> = Vec::new();
    for _ in 0..60 {
        let key = &keys[dice.below(keys.len() as u64) as usize];
        match dice.below(10) {
            0..=4 => {
                let file = world.open(key);
                let size = file.size_bytes();
                let range = ByteRange::at(dice.below(size), 1 + dice.below(MIB));
                world.check(&file, range.intersection(&whole(&file)));
                open.push(file);
            }
            5 if !open.is_empty() => {
                let at = dice.below(open.len() as u64) as usize;
                let file = open.swap_remove(at);
                world.check(&file, whole(&file));
                file.end_use();
            }
            6 => world.directory().checkpoint(),
            7 => drop(world.cache.evict_files(std::slice::from_ref(key))),
            8 => world.simulation.drop_caches(),
            _ => {
                let file = world.open(key);
                let _ = world.fetch_whole(&file);
                world.check(&file, whole(&file));
                file.end_use();
            }
        }
    }
    for file in open {
        file.end_use();
    }
}

fn reads_stay_right_with(what: &str, faults: &dyn Fn() -> FaultPlan) {
    reads_stay_right(what, Checksums::None, faults);
}

fn reads_stay_right(what: &str, checksums: Checksums, faults: &dyn Fn() -> FaultPlan) {
    let seed = seed_of_this_run();
    for round in 0..rounds(3, 100) {
        println!("{what}, round {round}");
        let seed = seed.wrapping_add(round);
        let setup = Setup {
            seed,
            limit_bytes: 64 * MIB,
            checksums,
            ..Setup::default()
        };
        let world = World::new(&setup);
        let keys: Vec<FileKey> = [100, 4096, 100_000, 1_500_000]
            .iter()
            .map(|size| world.backend.create(&format!("file{size}"), *size))
            .collect();
        for key in &keys[1..3] {
            world.fill(key);
        }
        world.directory().checkpoint();
        world.simulation.set_faults(faults());
        use_at_random(&world, &keys, &mut Dice::new(seed));
        if world.directory().is_usable() {
            assert_eq!(world.directory().space.reserved_bytes(), 0);
        }
    }
}

fn sometimes(fault: Fault, probability: f64) -> FaultPlan {
    FaultPlan::none().with(FaultRule::new(fault).with_probability(probability))
}

#[test]
fn reads_stay_right_while_reads_of_the_disk_fail() {
    reads_stay_right_with("reads", &|| sometimes(Fault::ReadError, 0.03));
}

#[test]
fn reads_stay_right_while_writes_to_the_disk_fail() {
    reads_stay_right_with("writes", &|| sometimes(Fault::WriteError, 0.05));
}

#[test]
fn reads_stay_right_while_names_cannot_be_had() {
    reads_stay_right_with("names", &|| sometimes(Fault::NameError, 0.03));
}

#[test]
fn reads_stay_right_while_syncs_fail() {
    reads_stay_right_with("syncs", &|| sometimes(Fault::SyncError, 0.3));
}

#[test]
fn reads_stay_right_when_the_disk_is_gone() {
    reads_stay_right_with("gone", &|| sometimes(Fault::DeviceGone, 0.02));
}

#[test]
fn reads_stay_right_with_short_and_late_transfers() {
    reads_stay_right_with("short and late", &|| {
        let delay = Fault::Delay {
            at_most: Duration::from_millis(2),
        };
        sometimes(Fault::ShortRead, 0.5).with(FaultRule::new(delay).with_probability(0.5))
    });
}

/// Short reads are no fault of the disk: with them, too.
fn lying(fault: Fault) -> FaultPlan {
    let rule = FaultRule::new(fault)
        .with_probability(0.05)
        .under("objects");
    sometimes(Fault::ShortRead, 0.3).with(rule)
}

#[test]
fn checked_reads_stay_right_on_a_disk_that_lies() {
    for fault in [Fault::BitFlip, Fault::MisdirectedWrite, Fault::LostWrite] {
        let what = format!("{fault:?}");
        reads_stay_right(&what, Checksums::Read, &|| lying(fault));
    }
}

#[test]
fn reads_stay_right_on_a_full_disk() {
    reads_stay_right_with("full", &|| FaultPlan::none().with_capacity_bytes(2 * MIB));
}

#[test]
fn a_full_disk_is_not_a_broken_one() {
    let world = World::new(&Setup::default());
    let space = world.directory().disk_space().unwrap();
    let held = space.total_bytes - space.available_bytes;
    let plan = FaultPlan::none().with_capacity_bytes(held + MIB / 2);
    world.simulation.set_faults(plan);
    let key = world.backend.create("file", 3 * MIB as usize);
    let file = world.open(&key);
    world.check(&file, whole(&file));
    assert_eq!(world.directory().failure(), None);
    file.end_use();
    drop(file);
    world.simulation.set_faults(FaultPlan::none());
    // What the cache knows of the disk's space is from before.
    eventually("the disk takes more again", || {
        let file = world.open(&key);
        world.check(&file, whole(&file));
        file.end_use();
        file.is_complete()
    });
}

#[test]
fn after_a_failed_sync_nothing_is_read_from_the_directory() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let file = world.open(&key);
    world.check(&file, whole(&file));
    world
        .simulation
        .set_faults(sometimes(Fault::SyncError, 1.0));
    world.directory().checkpoint();
    world.simulation.set_faults(FaultPlan::none());
    assert!(world.directory().failure().is_some());
    world.simulation.drop_caches();
    world.check(&file, whole(&file));
    assert!(!file.is_complete());
    assert!(file.give_to_kernel().is_none());
    // The other ways to bytes.
    assert!(matches!(world.fetch_whole(&file), Err(FetchError::Bypass)));
    let buffer = world.cache.try_read(&file, 0, 1000);
    assert!(matches!(buffer, crate::cache::Attempt::Missing(_)));
    file.end_use();
}

#[test]
fn an_error_of_the_backend_reaches_the_reader_and_passes() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    for kind in [CallKind::Open, CallKind::Read, CallKind::Attributes] {
        world.backend.set_script(move |call| {
            if call.kind == kind {
                Effect::Fail(libc::EACCES)
            } else {
                Effect::Nothing
            }
        });
        let file = world.open(&key);
        match world.read(&file, ByteRange::new(0, 1000)) {
            Err(FetchError::Backend(error)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{kind:?}");
            }
            Err(other) => panic!("{kind:?}: {other:?}"),
            Ok(bytes) => panic!("{kind:?}: {} bytes", bytes.len()),
        }
        world.backend.set_script(|_| Effect::Nothing);
        world.check(&file, ByteRange::new(0, 1000));
        file.end_use();
        drop(file);
        world.evict(&key);
    }
    assert_eq!(world.directory().failure(), None);
    assert_eq!(world.directory().space.held_bytes(), 0);
}

#[test]
fn a_damaged_index_costs_fetches_and_nothing_else() {
    let flips = || {
        let rule = FaultRule::new(Fault::BitFlip)
            .with_probability(0.02)
            .under("index");
        FaultPlan::none().with(rule)
    };
    reads_stay_right_with("bits of the index", &flips);
}

#[test]
fn a_hung_backend_holds_up_no_hit() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 3 * MIB as usize);
    let file = world.open(&key);
    world.check(&file, ByteRange::new(0, MIB));
    world.backend.set_script(|_| Effect::Hang);
    let missing = world.start_read(&file, plan(ByteRange::new(2 * MIB, 3 * MIB)));
    world.backend.wait_for_hanging(1);
    let began = std::time::Instant::now();
    world.check(&file, ByteRange::new(0, MIB));
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(missing.is_empty());
    world.backend.release();
    missing.recv_timeout(super::SOON).unwrap().unwrap();
    file.end_use();
}
