//! The store of names on a simulated disk: what was noted comes back, whatever happens to disk and file.

use super::database::{DAMAGED_PREFIX, NAMES_FILE};
use super::{Changes, KnownBackend, KnownDecision, Names};
use crate::backend::access::Access;
use crate::backend::expected::KnownFilesystem;
use crate::backend::{BackendSpace, ListedName};
use crate::cache::layout;
use crate::io::simulator::{FaultPlan, Simulation, seed_of_this_run};
use crate::io::{Io, OpenMode};
use crate::types::{Attributes, Credentials, FileKey, FileKind, Timestamp};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MANY: u64 = 1_000_000;

fn open(simulation: &Simulation) -> Arc<Names> {
    open_with(simulation, MANY)
}

fn open_with(simulation: &Simulation, records_max: u64) -> Arc<Names> {
    let disk = simulation.device("disk");
    // The power may be out.
    let _ = layout::prepare(&*disk);
    Names::open_with(disk, "disk", records_max)
}

fn key(number: u64) -> FileKey {
    FileKey(number.to_le_bytes().as_slice().into())
}

fn attributes(inode: u64) -> Attributes {
    let time = |seconds| Timestamp {
        seconds,
        nanoseconds: 999_999_999,
    };
    Attributes {
        inode,
        kind: FileKind::Symlink,
        permissions: 0o6755,
        link_count: 3,
        uid: 7,
        gid: u32::MAX,
        rdev: 9,
        size_bytes: u64::MAX,
        blocks_512: 8,
        block_size_bytes: 4096,
        atime: time(-1),
        mtime: time(i64::MAX),
        ctime: time(0),
    }
}

fn user() -> Credentials {
    Credentials {
        uid: 1000,
        gid: 100,
        groups: vec![100, 4].into(),
    }
}

#[test]
fn everything_noted_comes_back_in_the_next_life_and_not_after_it_was_forgotten() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let names = open(&simulation);
    let (directory, file, name) = (key(1), key(2), OsStr::new("name"));
    let facts = attributes(2);
    let version = facts.version();
    let listing = [ListedName {
        name: "name".into(),
        inode: 2,
        kind: FileKind::Regular,
    }];
    let decision = KnownDecision {
        is_granted: true,
        permissions: 0o644,
        uid: 1,
        gid: 2,
        ctime: Some(facts.ctime),
    };
    let space = BackendSpace {
        blocks: 5,
        name_length_max: 255,
        ..BackendSpace::default()
    };
    let backend = KnownBackend {
        root: directory.clone(),
        resolved: "/srv/nfs".into(),
    };
    let filesystem = KnownFilesystem::from_bits([3; 8], 5, "nfs4".to_owned()).unwrap();
    names.note_name(&directory, name, &file, &facts);
    names.note_root(&directory, &facts);
    names.note_link(&file, &version, b"target");
    names.note_listing(&directory, &version, &listing);
    names.note_xattr(&file, Some(name), &version, Ok(b"value"));
    names.note_xattr(&file, None, &version, Err(libc::ENODATA));
    names.note_decision(&file, Access::Read, &user(), &decision);
    names.note_space(&space);
    names.note_backend(Path::new("/mnt/nfs"), &backend);
    names.note_filesystem(&filesystem);
    names.note_absence(Some(Duration::from_secs(50)));

    let is_all_there = |names: &Names| {
        assert_eq!(names.name(&directory, name), Some((file.clone(), facts)));
        assert_eq!(names.root(&directory), Some(facts));
        assert_eq!(names.link(&file, &version).unwrap(), b"target");
        let listed = names.listing(&directory).unwrap();
        assert_eq!((listed.version, listed.names.len()), (version, 1));
        assert_eq!(listed.names[0].name, "name");
        let value = names.xattr(&file, Some(name), &version);
        assert_eq!(value, Some(Ok(b"value".to_vec())));
        let list = names.xattr(&file, None, &version);
        assert_eq!(list, Some(Err(libc::ENODATA)));
        let decided = names.decision(&file, Access::Read, &user());
        assert_eq!(decided, Some(decision));
        assert_eq!(names.decision(&file, Access::Execute, &user()), None);
        assert_eq!(names.space().unwrap().blocks, 5);
        let known = names.backend(Path::new("/mnt/nfs"));
        assert_eq!(known, Some(backend.clone()));
        assert!(names.absent_for() >= Duration::from_secs(50));
    };
    is_all_there(&names);
    names.commit();
    is_all_there(&names);
    assert_eq!(names.filesystems(), std::slice::from_ref(&filesystem));
    drop(names);
    let names = open(&simulation);
    is_all_there(&names);
    assert_eq!(names.filesystems(), [filesystem]);
    assert_eq!(names.report().records, 11);

    let moved = attributes(3).version();
    assert_eq!(names.link(&file, &moved), None, "of another version");
    assert_eq!(names.xattr(&file, None, &moved), None);
    names.forget_name(&directory, name);
    names.forget_listing(&directory);
    names.note_absence(None);
    assert_eq!(names.name(&directory, name), None);
    names.commit();
    assert_eq!(names.name(&directory, name), None);
    assert!(names.listing(&directory).is_none());
    assert_eq!(names.absent_for(), Duration::ZERO);
    assert_eq!(names.report().records, 8);
}

fn note_file(names: &Names, number: u64, facts: &Attributes) {
    let name = number.to_string();
    names.note_name(&key(0), name.as_ref(), &key(number), facts);
}

fn file(names: &Names, number: u64) -> Option<Attributes> {
    let (_, facts) = names.name(&key(0), number.to_string().as_ref())?;
    Some(facts)
}

/// Notes in rounds; all that a round noted has its number.
fn note_round(names: &Names, round: u64) {
    for number in 0..20 {
        let facts = Attributes {
            size_bytes: round,
            ..attributes(number)
        };
        note_file(names, number, &facts);
    }
    names.commit();
}

#[test]
fn a_power_cut_at_any_operation_leaves_what_some_commit_left() {
    let seed = seed_of_this_run();
    let mut cuts = 0;
    for operation in 1.. {
        let simulation = Simulation::deterministic(seed.wrapping_add(operation));
        layout::prepare(&*simulation.device("disk")).unwrap();
        simulation.crash_at(simulation.operations() + operation);
        let names = open(&simulation);
        for round in 1..4 {
            note_round(&names, round);
        }
        drop(names);
        if simulation.is_running() {
            break;
        }
        cuts += 1;
        simulation.restart();
        let names = open(&simulation);
        let context = format!("cut at operation {operation}, CACHEFS_SEED={seed}");
        assert_eq!(names.report().failure, None, "{context}");
        let round = file(&names, 0).map(|facts| facts.size_bytes);
        for number in 1..20 {
            let other = file(&names, number).map(|facts| facts.size_bytes);
            assert_eq!(other, round, "{context}");
        }
        note_round(&names, 9);
        assert_eq!(file(&names, 7).unwrap().size_bytes, 9, "{context}");
    }
    assert!(cuts > 50, "only {cuts} operations were cut");
}

#[test]
fn a_file_that_is_no_store_is_set_aside_and_one_of_a_newer_format_left_alone() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let disk = simulation.device("disk");
    layout::prepare(&*disk).unwrap();
    for contents in [&[][..], &[7; 100], &[7; 100_000]] {
        let _ = disk.remove_file(NAMES_FILE);
        let made = disk.open(NAMES_FILE, OpenMode::CreateNew).unwrap();
        made.write_all_at(contents, 0).unwrap();
        drop(made);
        let names = open(&simulation);
        assert_eq!(names.notices().len(), 1, "{:?}", names.notices());
        note_round(&names, 1);
        assert!(file(&names, 1).is_some());
        let mut aside = Vec::new();
        disk.list(".", &mut |name| {
            aside.extend(name.starts_with(DAMAGED_PREFIX).then(|| name.to_owned()));
            true
        })
        .unwrap();
        assert_eq!(aside.len(), 1, "{aside:?}");
    }
    super::database::raise_format(&*disk);
    let names = open(&simulation);
    note_round(&names, 2);
    assert!(
        names.notices()[0].contains("newer"),
        "{:?}",
        names.notices()
    );
    assert_eq!(file(&names, 30), None);
}

#[test]
fn a_directory_that_is_no_cache_yet_is_left_empty_until_it_is() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let disk = simulation.device("disk");
    let names = Names::open_with(disk.clone(), "disk", MANY);
    note_round(&names, 1);
    disk.list(".", &mut |name| panic!("{name} is there"))
        .unwrap();
    assert!(names.report().failure.is_some());
    layout::prepare(&*disk).unwrap();
    note_round(&names, 2);
    assert_eq!(names.report().failure, None);
    assert_eq!(file(&names, 3).unwrap().size_bytes, 2);
}

#[test]
fn on_a_full_disk_what_is_stored_is_known_and_nothing_is_written() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let names = open(&simulation);
    note_round(&names, 1);
    simulation.set_faults(FaultPlan::none().with_capacity_bytes(8 << 20));
    note_round(&names, 2);
    assert_eq!(file(&names, 3).unwrap().size_bytes, 1);
    assert!(names.notices()[0].contains("no room"));
    drop(names);
    let names = open(&simulation);
    assert_eq!(file(&names, 3).unwrap().size_bytes, 1);
    simulation.set_faults(FaultPlan::none());
    note_round(&names, 3);
    assert_eq!(file(&names, 3).unwrap().size_bytes, 3);
    assert_eq!(names.report().failure, None);
}

#[test]
fn what_was_not_confirmed_for_longest_goes_when_there_is_too_much() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let names = open_with(&simulation, 1000);
    let now = 1_000_000;
    let note = |numbers: std::ops::Range<u64>, when: i64| {
        let mut changes = Changes::new();
        for number in numbers {
            let facts = attributes(number);
            note_file(&names, number, &facts);
        }
        changes.extend(std::mem::take(&mut names.waiting.lock().changes));
        names.file.apply(&changes, when);
    };
    note(0..400, now - 100_000);
    note(400..900, now);
    // Confirmed again.
    note(0..100, now);
    assert_eq!(names.report().records, 900);
    note(900..1100, now);
    let records = names.report().records;
    assert!((500..=1000).contains(&records), "{records}");
    let is_there = |number: u64| file(&names, number).is_some();
    assert!((0..100).chain(400..1100).all(is_there));
    assert!(!(100..400).all(is_there));
}

#[test]
fn no_more_waits_to_be_written_than_is_allowed() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let names = open(&simulation);
    for number in 0..40_000 {
        note_file(&names, number, &attributes(number));
    }
    let report = names.report();
    assert_eq!(report.waiting as usize, super::WAITING_RECORDS_MAX);
    assert_eq!(report.waiting + report.not_noted, 40_000);
}
