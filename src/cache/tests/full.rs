//! A disk without room for the index.

use super::{MIB, Setup, World, eventually, whole};
use crate::cache::CachedFile;
use crate::io::simulator::FaultPlan;
use crate::types::FileKey;
use std::sync::Arc;

/// Somebody else takes all that is free.
fn fill_up(world: &World) {
    let space = world.directory().disk_space().unwrap();
    let held_bytes = space.total_bytes - space.available_bytes;
    let plan = FaultPlan::none().with_capacity_bytes(held_bytes);
    world.simulation.set_faults(plan);
}

fn files(world: &World, prefix: &str, count: u64) -> Vec<FileKey> {
    (0..count)
        .map(|number| {
            world
                .backend
                .create(&format!("{prefix}{number}"), MIB as usize)
        })
        .collect()
}

fn open_and_fill(world: &World, keys: &[FileKey]) -> Vec<Arc<CachedFile>> {
    let open: Vec<_> = keys.iter().map(|key| world.open(key)).collect();
    for file in &open {
        world.check(file, whole(file));
    }
    open
}

fn is_claimed(world: &World, key: &FileKey) -> bool {
    world.directory().index.get(key).unwrap().is_some()
}

#[test]
fn commits_that_find_no_room_are_made_up_for_and_lose_nothing() {
    let setup = Setup::default();
    let world = World::new(&setup);
    let first = files(&world, "first", 4);
    let mut open = open_and_fill(&world, &first);
    world.directory().checkpoint();
    let second = files(&world, "second", 60);
    open.extend(open_and_fill(&world, &second));
    fill_up(&world);
    // All are in use: nothing can give way.
    world.directory().checkpoint();
    assert!(second.iter().all(|key| !is_claimed(&world, key)));
    assert!(first.iter().all(|key| is_claimed(&world, key)));
    assert_eq!(world.directory().failure(), None);
    assert!(world.directory().shortage().is_some());
    for file in &open {
        world.check(file, whole(file));
    }
    for file in open.drain(..) {
        file.end_use();
    }
    eventually("the least recently used make room", || {
        world.directory().checkpoint();
        second.iter().any(|key| is_claimed(&world, key))
    });
    assert!(world.metrics.objects_evicted.get() <= 8);
    world.simulation.set_faults(FaultPlan::none());
    let claimed: Vec<FileKey> = second
        .into_iter()
        .filter(|key| is_claimed(&world, key))
        .collect();
    assert!(claimed.len() > 40);

    let world = world.restart(&setup);
    assert!(claimed.iter().all(|key| is_claimed(&world, key)));
    let fetched = world.backend.bytes_read();
    for file in open_and_fill(&world, &claimed) {
        file.end_use();
    }
    assert_eq!(world.backend.bytes_read(), fetched);
    assert_eq!(world.directory().shortage(), None);
}

#[test]
fn what_is_changed_without_room_to_note_it_is_not_believed_later() {
    let setup = Setup::default();
    let world = World::new(&setup);
    let key = world.backend.create("file", MIB as usize);
    let file = open_and_fill(&world, std::slice::from_ref(&key)).remove(0);
    world.directory().checkpoint();
    assert!(file.give_to_kernel().is_some());
    // Much to note, so that there is no room for it.
    let others = files(&world, "other", 60);
    let open = open_and_fill(&world, &others);
    fill_up(&world);
    let followers = world.cache.begin_change(&key, None, None);
    assert!(!followers.is_empty());
    assert!(is_claimed(&world, &key));
    for file in open {
        file.end_use();
    }
    drop((followers, file));
    let world = world.restart(&setup);
    world.simulation.set_faults(FaultPlan::none());
    let fetched = world.backend.bytes_read();
    open_and_fill(&world, &[key]).remove(0).end_use();
    // Doubted, or without a record any more: both are right.
    assert_eq!(world.backend.bytes_read() - fetched, MIB);
}
