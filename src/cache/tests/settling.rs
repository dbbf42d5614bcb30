//! A fill begins no earlier than a timestamp step after its version was first seen.

use super::{SOON, Setup, World, plan};
use crate::types::ByteRange;
use std::time::{Duration, Instant};

#[test]
fn no_reader_of_a_fresh_version_begins_a_fill_within_the_timestamp_step() {
    let world = World::new(&Setup::default());
    world.backend.make_fresh_versions();
    let key = world.backend.create("file", 300_000);
    let seen = Instant::now();
    let file = world.open(&key);
    let first = world.start_read(&file, plan(ByteRange::new(0, 5000)));
    // By now the source is open; the second must wait all the same.
    std::thread::sleep(Duration::from_millis(5));
    let second = world.start_read(&file, plan(ByteRange::new(100_000, 105_000)));
    for reading in [first, second] {
        reading.recv_timeout(SOON).unwrap().unwrap();
    }
    for (_, range, at) in world.backend.reads() {
        let after = at - seen;
        assert!(after >= Duration::from_millis(20), "{range:?} {after:?}");
    }
    file.end_use();
}

#[test]
fn a_settled_version_is_not_waited_for() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let mut shortest = SOON;
    for _ in 0..5 {
        let began = Instant::now();
        let file = world.open(&key);
        world.check(&file, ByteRange::new(0, 5000));
        shortest = shortest.min(began.elapsed());
        file.end_use();
        drop(file);
        world.evict(&key);
    }
    assert!(shortest < Duration::from_millis(20), "{shortest:?}");
}
