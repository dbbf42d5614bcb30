//! Several cache directories: each has its share, and takes only that along when it goes.

use super::{Setup, World, open_directory, whole};
use crate::cache::CachedFile;
use crate::io::simulator::{Fault, FaultPlan, FaultRule};
use crate::types::FileKey;
use std::collections::HashMap;
use std::sync::Arc;

const FILES: usize = 40;
const FILE_BYTES: usize = 30_000;

fn name_of(file: &CachedFile) -> String {
    file.directory
        .as_ref()
        .map_or(String::new(), |directory| directory.name.clone())
}

fn read_all(world: &World, keys: &[FileKey]) -> HashMap<FileKey, String> {
    keys.iter()
        .map(|key| {
            let file = world.open(key);
            world.check(&file, whole(&file));
            file.end_use();
            (key.clone(), name_of(&file))
        })
        .collect()
}

fn checkpoint(world: &World) {
    for directory in world.cache.directories() {
        directory.checkpoint();
    }
}

#[test]
fn a_directory_that_fails_or_is_missing_takes_only_its_share_along() {
    let setup = Setup {
        devices: vec!["a", "b", "c"],
        ..Setup::default()
    };
    let world = World::new(&setup);
    let keys: Vec<FileKey> = (0..FILES)
        .map(|number| world.backend.create(&format!("file{number}"), FILE_BYTES))
        .collect();
    let homes = read_all(&world, &keys);
    let share = |name: &str| homes.values().filter(|home| *home == name).count();
    assert!(["a", "b", "c"].iter().all(|name| share(name) >= FILES / 10));
    checkpoint(&world);
    let bytes = world.backend.bytes_read();
    read_all(&world, &keys);
    assert_eq!(world.backend.bytes_read(), bytes, "all are hits");

    // One fails while files of it are open.
    let open: Vec<Arc<CachedFile>> = keys.iter().map(|key| world.open(key)).collect();
    let gone = FaultRule::new(Fault::DeviceGone).on_device("b");
    world.simulation.set_faults(FaultPlan::none().with(gone));
    for file in &open {
        world.check(file, whole(file));
        world.check(file, whole(file));
        file.end_use();
    }
    drop(open);
    let usable: Vec<bool> = world
        .cache
        .directories()
        .iter()
        .map(|directory| directory.is_usable())
        .collect();
    assert_eq!(usable, [true, false, true]);
    let moved = read_all(&world, &keys);
    for key in &keys {
        assert!(moved[key] == homes[key] || homes[key] == "b");
        assert_ne!(moved[key], "b");
    }
    let bytes = world.backend.bytes_read();
    read_all(&world, &keys);
    assert_eq!(world.backend.bytes_read(), bytes, "all are hits elsewhere");
    checkpoint(&world);

    // Missing at the next start.
    world.simulation.set_faults(FaultPlan::none());
    let without = Setup {
        devices: vec!["a", "c"],
        ..Setup::default()
    };
    let world = world.restart(&without);
    let bytes = world.backend.bytes_read();
    read_all(&world, &keys);
    assert_eq!(world.backend.bytes_read(), bytes);

    // Back again, with what it had.
    let world = world.restart(&setup);
    let bytes = world.backend.bytes_read();
    assert_eq!(read_all(&world, &keys), homes);
    assert_eq!(world.backend.bytes_read(), bytes);
}

#[test]
fn a_share_that_came_back_serves_no_version_of_then() {
    let setup = Setup {
        devices: vec!["a", "b"],
        ..Setup::default()
    };
    let world = World::new(&setup);
    let keys: Vec<FileKey> = (0..FILES)
        .map(|number| world.backend.create(&format!("file{number}"), FILE_BYTES))
        .collect();
    read_all(&world, &keys);
    let without = Setup {
        devices: vec!["a"],
        ..Setup::default()
    };
    let world = world.restart(&without);
    for key in &keys {
        world.backend.change(key, super::backend::Change::Rewrite);
    }
    read_all(&world, &keys);
    let world = world.restart(&setup);
    read_all(&world, &keys);
    assert_eq!(world.metrics.doubted.get(), 0);
}

#[test]
fn no_directory_at_all_reads_past() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 100_000);
    world.directory().fail("for the test".to_owned());
    let file = world.open(&key);
    world.check(&file, whole(&file));
    assert!(file.is_bypassed());
    file.end_use();
    let device = world.simulation.device("new");
    assert!(open_directory(device, "new", &Setup::default(), &world.metrics).is_ok());
}
