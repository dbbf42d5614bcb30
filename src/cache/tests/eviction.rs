//! Which files go, when, and that the space they took is given back, once.

use super::backend::{Change, FakeBackend};
use super::gate::GatedDisk;
use super::{MIB, Setup, World, eventually, open_directory, plan, recount, start_cache, whole};
use crate::cache::layout::object_path;
use crate::cache::policy::PolicyKind;
use crate::io::Io;
use crate::io::simulator::{FaultPlan, Simulation};
use crate::metrics::CacheMetrics;
use crate::types::{ByteRange, FileKey};
use std::sync::Arc;

fn stored(world: &World, key: &FileKey) -> Option<crate::cache::record::FileRecord> {
    world.directory().index.get(key).unwrap()
}

#[test]
fn eviction_gives_back_what_was_filled_since_the_last_checkpoint_too() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 3 * MIB as usize);
    let file = world.open(&key);
    world.check(&file, ByteRange::new(0, MIB));
    world.directory().checkpoint();
    world.check(&file, whole(&file));
    file.end_use();
    drop(file);
    let evicted = world.evict_unnoted(&key);
    assert_eq!((evicted.files, evicted.bytes), (1, 3 * MIB));
    assert_eq!(world.used_bytes(), 0);
}

/// A world whose disk can be made to wait.
fn gated_world() -> (World, Arc<GatedDisk>) {
    let setup = Setup::default();
    let simulation = Arc::new(Simulation::new(setup.seed, FaultPlan::none()));
    let backend = FakeBackend::new(setup.seed);
    let metrics = Arc::new(CacheMetrics::default());
    let gate = GatedDisk::new(simulation.device("disk"));
    let directory = open_directory(gate.clone(), "disk", &setup, &metrics).unwrap();
    let cache = start_cache(&setup, vec![directory], &backend, &metrics);
    let world = World {
        simulation,
        backend,
        cache,
        metrics,
    };
    (world, gate)
}

#[test]
fn a_file_evicted_is_empty_also_while_a_checkpoint_is_taking_its_record_out() {
    let (world, gate) = gated_world();
    let (gone, other) = (
        world.backend.create("gone", 100_000),
        world.backend.create("other", 100_000),
    );
    world.fill(&gone);
    world.directory().checkpoint();
    let evicted = world.evict_unnoted(&gone);
    assert_eq!(evicted.files, 1);
    world.fill(&other);
    let before = world.used_bytes();
    gate.close();
    let directory = world.directory().clone();
    let checkpoint = std::thread::spawn(move || directory.checkpoint());
    gate.wait_for_somebody();
    let file = world.open(&gone);
    let claimed = file.extents();
    let read = world.start_read(&file, plan(whole(&file)));
    gate.open_gate();
    checkpoint.join().unwrap();
    assert!(claimed.is_empty(), "{claimed:?} of an object that is gone");
    let bytes = read.recv_timeout(super::SOON).unwrap().unwrap();
    world.compare(&file, whole(&file), &bytes);
    file.end_use();
    assert_eq!(world.used_bytes(), before + 102_400);
    assert_eq!(world.metrics.doubted.get(), 0);
    world.directory().checkpoint();
    assert_eq!(world.used_bytes(), recount(world.directory()));
}

#[test]
fn what_was_used_counts_as_used_also_while_a_checkpoint_is_noting_it() {
    let (world, gate) = gated_world();
    let (used, other) = (
        world.backend.create("used", 100_000),
        world.backend.create("other", 100_000),
    );
    world.fill(&used);
    world.directory().checkpoint();
    assert!(!world.directory().was_used_lately(&used));
    world.fill(&used);
    world.fill(&other);
    gate.close();
    let directory = world.directory().clone();
    let checkpoint = std::thread::spawn(move || directory.checkpoint());
    gate.wait_for_somebody();
    assert!(world.directory().was_used_lately(&used));
    gate.open_gate();
    checkpoint.join().unwrap();
    assert!(!world.directory().was_used_lately(&used));
}

#[test]
fn an_object_that_is_not_there_takes_no_space_once_its_record_is_replaced() {
    let setup = Setup::default();
    let world = World::new(&setup);
    let key = world.backend.create("file", 200_000);
    world.fill(&key);
    world.directory().checkpoint();
    let object = stored(&world, &key).unwrap().object;
    let world = world.restart(&setup);
    // Removed by an eviction whose checkpoint was never made.
    let disk = world.simulation.device("disk");
    disk.remove_file(&object_path(object)).unwrap();
    world.backend.change(&key, Change::Truncate);
    let file = world.open(&key);
    file.end_use();
    world.sweep();
    assert_eq!(world.used_bytes(), 0);
    world.directory().checkpoint();
    assert_eq!(recount(world.directory()), 0);
}

#[test]
fn an_object_removed_by_somebody_else_costs_a_fetch_and_not_the_directory() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 200_000);
    world.fill(&key);
    world.directory().checkpoint();
    let object = stored(&world, &key).unwrap().object;
    let disk = world.simulation.device("disk");
    disk.remove_file(&object_path(object)).unwrap();
    // In this life the object is trusted: somebody holds the file.
    let file = world.open(&key);
    world.check(&file, whole(&file));
    assert_eq!(world.directory().failure(), None);
    file.end_use();
    drop(file);
    world.directory().checkpoint();
    world.fill(&key);
    world.directory().checkpoint();
    world.sweep();
    assert_eq!(world.used_bytes(), 200_704);
    assert_eq!(world.used_bytes(), recount(world.directory()));
}

#[test]
fn a_file_that_replaced_another_is_recorded_though_the_old_one_publishes_late() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 100_000);
    let old = world.open(&key);
    world.check(&old, ByteRange::new(0, 4096));
    world.backend.change(&key, Change::Rewrite);
    let new = world.open(&key);
    assert!(old.is_gone());
    // What publishing does last.
    world.directory().mark_dirty(&old);
    world.check(&new, whole(&new));
    world.directory().mark_dirty(&old);
    world.directory().checkpoint();
    let record = stored(&world, &key).expect("the new one is recorded");
    assert_eq!(record.version, new.version());
    assert_eq!(record.extents, new.extents());
}

#[test]
fn a_file_filled_again_after_its_eviction_stays_in_the_eviction_order() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 100_000);
    world.fill(&key);
    world.directory().checkpoint();
    let place = stored(&world, &key).unwrap().place;
    world.evict(&key);
    // Another eviction had seen its entry, and found no record for it.
    world.directory().drop_age(&key, place.order());
    world
        .directory()
        .index
        .commit(
            &[crate::cache::index::Change::Put(
                key.clone(),
                crate::cache::record::FileRecord {
                    version: world.backend.version(&key),
                    object: crate::cache::record::ObjectId(7),
                    object_inode: 1,
                    object_mtime_ns: 1,
                    place,
                    filled_at_seconds: 1,
                    extents: Default::default(),
                },
            )],
            crate::cache::index::Clocks {
                next_object: 1 << 30,
                access_clock: place.position,
                ..Default::default()
            },
        )
        .unwrap();
    let other = world.backend.create("other", 5000);
    world.fill(&other);
    world.directory().checkpoint();
    let order = world.eviction_order();
    assert!(order.contains(&key), "{order:?}");
}

#[test]
fn under_lru_the_least_recently_used_goes_first() {
    let world = World::new(&Setup {
        policy: PolicyKind::Lru,
        ..Setup::default()
    });
    let keys: Vec<FileKey> = (0..6)
        .map(|number| world.backend.create(&format!("file{number}"), MIB as usize))
        .collect();
    for key in &keys {
        world.fill(key);
    }
    // Opened first, closed last: it was used until now.
    let long_open = world.open(&keys[3]);
    for number in [1, 0] {
        world.fill(&keys[number]);
    }
    long_open.end_use();
    drop(long_open);
    world.directory().checkpoint();
    let expected = [2, 4, 5, 1, 0, 3].map(|number| keys[number].clone());
    assert_eq!(world.eviction_order(), expected);
}

#[test]
fn what_is_open_or_mapped_stays_and_goes_afterwards() {
    let world = World::new(&Setup::default());
    let open = world.backend.create("open", 100_000);
    let mapped = world.backend.create("mapped", 100_000);
    world.fill(&open);
    world.fill(&mapped);
    world.directory().checkpoint();
    let disk = world.simulation.device("disk");
    let path = object_path(stored(&world, &mapped).unwrap().object);
    disk.pretend_mapped(&path, true).unwrap();
    let file = world.open(&open);
    let evicted = world.cache.evict_all();
    assert_eq!((evicted.files, evicted.in_use), (0, 2));
    world.check(&file, whole(&file));
    assert!(file.is_complete() && !file.is_gone());
    file.end_use();
    drop(file);
    disk.pretend_mapped(&path, false).unwrap();
    let mut files = 0;
    eventually("both are let go of", || {
        let evicted = world.cache.evict_all();
        files += evicted.files;
        evicted.in_use == 0
    });
    assert_eq!(files, 2);
    assert_eq!(world.used_bytes(), 0);
    assert_eq!(recount(world.directory()), 0);
}

#[test]
fn what_came_in_is_claimed_though_an_eviction_finds_it_in_use_meanwhile() {
    let world = World::new(&Setup::default());
    let directory = world.directory();
    let key = world.backend.create("file", 3 * MIB as usize);
    let file = world.open(&key);
    world.check(&file, ByteRange::at(0, 1000));
    directory.checkpoint();
    let record = stored(&world, &key).expect("the first piece");
    world.check(&file, whole(&file));
    file.end_use();
    // As long as it takes to see that the kernel has the object.
    eventually("it is set aside", || file.begin_eviction(record.object));
    directory.checkpoint();
    file.cancel_eviction();
    drop(file);
    directory.checkpoint();
    assert_eq!(recount(directory), 3 * MIB);
    eventually("it goes", || world.cache.evict_all().in_use == 0);
    assert_eq!(world.used_bytes(), 0);
}

#[test]
fn a_changed_file_counts_until_the_kernel_lets_go_of_its_object() {
    let setup = Setup {
        checkpoint_interval: std::time::Duration::from_millis(20),
        ..Setup::default()
    };
    let world = World::new(&setup);
    let key = world.backend.create("file", 100_000);
    world.fill(&key);
    world.directory().checkpoint();
    let path = object_path(stored(&world, &key).unwrap().object);
    let disk = world.simulation.device("disk");
    disk.pretend_mapped(&path, true).unwrap();
    world.backend.change(&key, Change::Rewrite);
    let file = world.open(&key);
    world.directory().sweep_doomed();
    assert_eq!(world.used_bytes(), 102_400);
    assert_eq!(world.directory().doomed_count(), 1);
    disk.pretend_mapped(&path, false).unwrap();
    eventually("the object goes by itself", || world.used_bytes() == 0);
    file.end_use();
}

#[test]
fn an_object_that_nothing_came_into_is_removed() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 100_000);
    world.backend.set_script(|call| match call.kind {
        super::backend::CallKind::Read => super::backend::Effect::Fail(libc::EIO),
        _ => super::backend::Effect::Nothing,
    });
    let file = world.open(&key);
    assert!(world.read(&file, whole(&file)).is_err());
    file.end_use();
    drop(file);
    eventually("the file is let go of", || {
        world.directory().sweep_doomed();
        world.objects().is_empty()
    });
}
