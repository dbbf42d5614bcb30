//! What a power cut and the end of a process leave.

use super::super::{Dice, Simulation, seed_of_this_run};
use super::{contents, contents_of, durable_file, errno_of, noise};
use crate::io::{Io, OpenMode};
use std::collections::BTreeSet;

const SECTOR_BYTES: usize = 512;

/// A sector of a version of the file, zeros past its end.
fn sector(version: &[u8], index: usize, length_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; length_bytes];
    let start = (index * SECTOR_BYTES).min(version.len());
    let end = (start + length_bytes).min(version.len());
    bytes[..end - start].copy_from_slice(&version[start..end]);
    bytes
}

#[derive(Default, Debug)]
struct Outcomes {
    old: u32,
    new: u32,
    /// Sectors of one write, some there and some not.
    mixed: u32,
    /// A later write is there without an earlier one.
    reordered: u32,
}

/// Versions since the last sync, the synced one first: each sector must be that of one of them.
fn check_survivor(found: &[u8], versions: &[Vec<u8>], outcomes: &mut Outcomes) {
    assert!(
        versions.iter().any(|version| version.len() == found.len()),
        "{} bytes is no size that the file had",
        found.len()
    );
    let mut matching = Vec::new();
    for (index, bytes) in found.chunks(SECTOR_BYTES).enumerate() {
        let matches: BTreeSet<usize> = (0..versions.len())
            .filter(|version| sector(&versions[*version], index, bytes.len()) == bytes)
            .collect();
        assert!(!matches.is_empty(), "sector {index} is of no version");
        matching.push(matches);
    }
    let consistent = |version: usize| {
        versions[version].len() == found.len()
            && matching.iter().all(|matches| matches.contains(&version))
    };
    let last = versions.len() - 1;
    if consistent(0) {
        outcomes.old += 1;
    } else if consistent(last) {
        outcomes.new += 1;
    } else if (0..=last).any(consistent) {
        outcomes.mixed += 1;
    } else {
        outcomes.reordered += 1;
    }
}

#[test]
fn what_was_synced_survives_and_the_rest_survives_by_sectors() {
    let seed = seed_of_this_run();
    let mut outcomes = Outcomes::default();
    for round in 0..300 {
        let seed = seed.wrapping_add(round);
        println!("round with CACHEFS_SEED={seed}");
        let simulation = Simulation::deterministic(seed);
        let mut dice = Dice::new(seed);
        let mut current = noise(&mut dice, 8000);
        let file = durable_file(&simulation, "file", &current);
        let mut versions = vec![current.clone()];
        for _ in 0..2 + dice.below(6) {
            match dice.below(8) {
                0 => {
                    let size_bytes = dice.below(24) as usize * SECTOR_BYTES;
                    current.resize(size_bytes, 0);
                    file.set_size(size_bytes as u64).unwrap();
                }
                1 => {
                    file.sync_data().unwrap();
                    versions.clear();
                }
                _ => {
                    let length_bytes = 1 + dice.below(5000) as usize;
                    let data = noise(&mut dice, length_bytes);
                    let offset = dice.below(9000) as usize;
                    current.resize(current.len().max(offset + data.len()), 0);
                    current[offset..offset + data.len()].copy_from_slice(&data);
                    file.write_all_at(&data, offset as u64).unwrap();
                }
            }
            versions.push(current.clone());
            assert!(contents_of(&file) == current);
        }
        simulation.crash();
        simulation.restart();
        check_survivor(
            &contents(&simulation, "file").unwrap(),
            &versions,
            &mut outcomes,
        );
    }
    println!("{outcomes:?}");
    assert!(outcomes.old > 10 && outcomes.new > 10, "{outcomes:?}");
    assert!(outcomes.mixed + outcomes.reordered > 50, "{outcomes:?}");
}

#[test]
fn a_later_write_can_be_there_without_an_earlier_one() {
    let seed = seed_of_this_run();
    let mut seen = BTreeSet::new();
    for round in 0..200 {
        let simulation = Simulation::deterministic(seed.wrapping_add(round));
        let file = durable_file(&simulation, "file", &[0; 8192]);
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.write_all_at(&[2; 4096], 4096).unwrap();
        simulation.crash();
        simulation.restart();
        let bytes = contents(&simulation, "file").unwrap();
        let whole = |half: &[u8], new: u8| match half.iter().filter(|byte| **byte == new).count() {
            0 => "lost",
            4096 => "there",
            _ => "torn",
        };
        seen.insert((whole(&bytes[..4096], 1), whole(&bytes[4096..], 2)));
    }
    for first in ["lost", "there", "torn"] {
        for second in ["lost", "there", "torn"] {
            assert!(
                seen.contains(&(first, second)),
                "never {first} and {second}"
            );
        }
    }
}

#[test]
fn replacing_by_rename_is_atomic_and_durable_with_the_directory() {
    let seed = seed_of_this_run();
    let (mut old, mut new) = (0, 0);
    for round in 0..150 {
        let simulation = Simulation::deterministic(seed.wrapping_add(round));
        drop(durable_file(&simulation, "file", b"old contents"));
        let disk = simulation.device("disk");
        let replacement = disk.open("file.new", OpenMode::CreateNew).unwrap();
        replacement.write_all_at(b"new", 0).unwrap();
        replacement.sync_data().unwrap();
        disk.rename("file.new", "file").unwrap();
        let synced = round % 3 == 0;
        if synced {
            disk.sync_directory("").unwrap();
        }
        simulation.crash();
        simulation.restart();
        match contents(&simulation, "file").unwrap().as_slice() {
            b"new" => new += 1,
            b"old contents" if !synced => old += 1,
            other => panic!("{other:?}, seed {}", seed.wrapping_add(round)),
        }
    }
    assert!(old > 10 && new > 60, "{old} {new}");
}

#[test]
fn a_rename_can_be_durable_before_the_data_it_publishes() {
    let seed = seed_of_this_run();
    let empty = (0..200).any(|round| {
        let simulation = Simulation::deterministic(seed.wrapping_add(round));
        let disk = simulation.device("disk");
        let file = disk.open("new", OpenMode::CreateNew).unwrap();
        file.write_all_at(&[1; 5000], 0).unwrap();
        disk.rename("new", "file").unwrap();
        disk.sync_directory("").unwrap();
        simulation.crash();
        simulation.restart();
        contents(&simulation, "file").unwrap() != [1; 5000]
    });
    assert!(empty);
}

#[test]
fn syncing_a_directory_brings_what_its_names_depend_on() {
    let seed = seed_of_this_run();
    for round in 0..60 {
        let simulation = Simulation::deterministic(seed.wrapping_add(round));
        let disk = simulation.device("disk");
        disk.create_directory("from").unwrap();
        disk.create_directory("to").unwrap();
        disk.sync_all().unwrap();
        let file = disk.open("from/file", OpenMode::CreateNew).unwrap();
        drop(disk.open("from/other", OpenMode::CreateNew).unwrap());
        disk.rename("from/file", "to/file").unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory("to").unwrap();
        simulation.crash();
        simulation.restart();
        assert_eq!(contents(&simulation, "to/file").unwrap(), b"bytes");
        let moved = errno_of(contents(&simulation, "from/file"));
        assert_eq!(
            moved,
            Some(libc::ENOENT),
            "seed {}",
            seed.wrapping_add(round)
        );
    }
}

fn all_names(disk: &dyn Io, directory: &str, into: &mut Vec<String>) {
    let mut names = Vec::new();
    disk.list(directory, &mut |name| {
        names.push(
            format!("{directory}/{name}")
                .trim_start_matches('/')
                .to_owned(),
        );
        true
    })
    .unwrap();
    for name in names {
        if disk.open(&name, OpenMode::ReadWrite).is_err() {
            all_names(disk, &name, into);
        }
        into.push(name);
    }
}

#[test]
fn names_survive_once_each_and_all_after_sync_all() {
    let seed = seed_of_this_run();
    let paths = [
        "a", "b", "d", "e", "d/a", "d/b", "d/f", "d/f/a", "e/a", "e/f",
    ];
    for round in 0..200 {
        let seed = seed.wrapping_add(round);
        println!("round with CACHEFS_SEED={seed}");
        let simulation = Simulation::deterministic(seed);
        let disk = simulation.device("disk");
        let mut dice = Dice::new(seed);
        let mut pick = || paths[dice.below(paths.len() as u64) as usize];
        let mut created = BTreeSet::new();
        for step in 0..60 {
            let (path, other) = (pick(), pick());
            let inode_of =
                |path: &str| Some(disk.open(path, OpenMode::Read).ok()?.facts().unwrap().inode);
            match step % 5 {
                0 => drop(disk.create_directory(path)),
                1 | 2 => {
                    if disk.open(path, OpenMode::CreateNew).is_ok() {
                        created.insert(inode_of(path).unwrap());
                    }
                }
                3 => drop(disk.rename(path, other)),
                _ => drop(disk.remove_file(path)),
            }
            if step == 30 {
                drop(disk.sync_directory(path));
            }
        }
        let synced = round % 2 == 0;
        let mut before = Vec::new();
        all_names(&*disk, "", &mut before);
        if synced {
            disk.sync_all().unwrap();
        }
        simulation.crash();
        simulation.restart();
        let disk = simulation.device("disk");
        let mut after = Vec::new();
        all_names(&*disk, "", &mut after);
        let mut inodes = BTreeSet::new();
        for path in &after {
            let facts = disk.open(path, OpenMode::Read).unwrap().facts().unwrap();
            assert!(inodes.insert(facts.inode), "{path} is a second name");
            assert!(!facts.is_regular || created.contains(&facts.inode));
        }
        if synced {
            before.sort();
            after.sort();
            assert_eq!(before, after);
        }
    }
}

#[test]
fn everything_of_the_old_life_answers_eio() {
    for end in [Simulation::crash, Simulation::kill] {
        let simulation = Simulation::deterministic(3);
        let file = durable_file(&simulation, "file", b"durable");
        let disk = simulation.device("disk");
        let operations = simulation.operations();
        end(&simulation);
        assert!(!simulation.is_running());
        for restarted in [false, true] {
            if restarted {
                simulation.restart();
            }
            let eio = Some(libc::EIO);
            assert_eq!(errno_of(file.read_at(&mut [0; 4], 0)), eio);
            assert_eq!(errno_of(file.read_cached(&mut [0; 4], 0)), eio);
            assert_eq!(errno_of(file.write_all_at(b"late", 0)), eio);
            assert_eq!(errno_of(file.set_size(0)), eio);
            assert_eq!(errno_of(file.sync_data()), eio);
            assert_eq!(errno_of(file.facts()), eio);
            assert!(!file.is_exclusive());
            assert_eq!(errno_of(disk.open("file", OpenMode::Read)), eio);
            assert_eq!(errno_of(disk.remove_file("file")), eio);
            assert_eq!(errno_of(disk.sync_all()), eio);
            assert_eq!(errno_of(disk.space()), eio);
        }
        assert_eq!(simulation.operations(), operations);
        assert_eq!(contents(&simulation, "file").unwrap(), b"durable");
    }
}

#[test]
fn a_killed_process_loses_nothing_but_its_open_files() {
    let simulation = Simulation::deterministic(4);
    let disk = simulation.device("disk");
    disk.create_directory("d").unwrap();
    let file = disk.open("d/file", OpenMode::CreateNew).unwrap();
    file.write_all_at(&[5; 10_000], 77).unwrap();
    let unnamed = disk.open("unnamed", OpenMode::CreateNew).unwrap();
    unnamed.write_all_at(&[1; 4096], 0).unwrap();
    disk.remove_file("unnamed").unwrap();
    let used_before = disk.space().unwrap().available_bytes;
    simulation.kill();
    simulation.restart();
    let disk = simulation.device("disk");
    assert_eq!(disk.space().unwrap().available_bytes, used_before + 4096);
    let survivor = disk.open("d/file", OpenMode::Read).unwrap();
    assert!(survivor.is_exclusive());
    assert_eq!(contents_of(&survivor)[77..], [5; 10_000]);
}

/// One run of a small program, cut at an operation; what is there afterwards.
fn run_cut_at(seed: u64, operation: u64) -> (bool, Vec<Vec<u8>>) {
    let simulation = Simulation::deterministic(seed);
    simulation.crash_at(operation);
    let disk = simulation.device("disk");
    let program = || -> std::io::Result<()> {
        for name in ["a", "b", "c"] {
            let file = disk.open(name, OpenMode::CreateNew)?;
            file.write_all_at(&[1; 3000], 0)?;
            file.write_all_at(&[2; 3000], 2000)?;
            disk.sync_directory("")?;
            file.sync_data()?;
            file.write_all_at(&[3; 3000], 1000)?;
        }
        Ok(())
    };
    let result = program();
    assert_eq!(result.is_err(), !simulation.is_running());
    if let Err(error) = &result {
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(simulation.operations(), operation);
    }
    simulation.crash();
    simulation.restart();
    let read = |name| contents(&simulation, name).unwrap_or_default();
    (result.is_ok(), ["a", "b", "c"].map(read).to_vec())
}

#[test]
fn a_crash_comes_at_its_operation_and_a_seed_repeats_it() {
    let seed = seed_of_this_run();
    let mut finished = 0;
    let mut differing = 0;
    for operation in 1..=20 {
        let (ended, found) = run_cut_at(seed, operation);
        assert_eq!((ended, found.clone()), run_cut_at(seed, operation));
        finished += u32::from(ended);
        let others = (1..20).map(|other| run_cut_at(seed.wrapping_add(other), operation));
        differing += u32::from(others.into_iter().any(|(_, other)| other != found));
    }
    assert_eq!(finished, 2, "the program has 18 operations");
    assert!(differing > 10);
}
