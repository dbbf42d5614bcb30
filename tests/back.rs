//! `write_mode=back`: a write is answered by the journal, survives the daemon, and comes to the backend later, without
//! writing over anybody.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::writing::{allocate, read_write};
use support::written_back::{LIMIT, Place, bytes, create, errno};
use support::*;

#[test]
fn what_is_written_is_read_at_once_and_comes_to_the_backend() {
    let place = Place::new("back-written", &["writeback_delay=50ms"]);
    for (name, length) in [("small", 10), ("middle", 300_000), ("large", 9_000_000)] {
        fs::write(place.here(name), bytes(1, length)).unwrap();
        assert!(fs::read(place.here(name)).unwrap() == bytes(1, length));
        assert_eq!(fs::metadata(place.here(name)).unwrap().len(), length as u64);
    }
    place.wait_for_backend();
    for name in ["small", "middle", "large"] {
        place.expect_agreement(name);
    }
    // In the middle, beyond the end, and at the end.
    let file = read_write(&place.here("middle"));
    file.write_all_at(&bytes(2, 5000), 100_001).unwrap();
    file.write_all_at(&bytes(3, 5000), 500_003).unwrap();
    drop(file);
    let appending = OpenOptions::new().append(true).open(place.here("middle"));
    io::Write::write_all(&mut appending.unwrap(), b"at the end").unwrap();
    assert_eq!(fs::metadata(place.here("middle")).unwrap().len(), 505_013);
    place.wait_for_backend();
    place.expect_agreement("middle");
    assert_eq!(fs::metadata(place.there("middle")).unwrap().len(), 505_013);
    assert!(place.conflicts().is_empty());
}

#[test]
fn what_is_dirty_is_read_by_everybody_and_the_rest_comes_from_the_backend() {
    let place = Place::late("back-dirty");
    let mut expected = bytes(1, 3_000_000);
    fs::write(place.there("file"), &expected).unwrap();
    let before = File::open(place.here("file")).unwrap();
    let file = read_write(&place.here("file"));
    for (at, length) in [(0, 10), (4090, 20), (1_000_000, 300_000), (2_999_990, 100)] {
        let data = bytes(at as u8, length);
        file.write_all_at(&data, at as u64).unwrap();
        expected.resize(expected.len().max(at + length), 0);
        expected[at..at + length].copy_from_slice(&data);
    }
    assert!(fs::read(place.here("file")).unwrap() == expected);
    drop(file);
    // Closed: by a new handle and an old one, and after the cache has it.
    for _ in 0..2 {
        assert!(fs::read(place.here("file")).unwrap() == expected);
        let mut found = vec![0; 20];
        before.read_exact_at(&mut found, 4090).unwrap();
        assert!(found == expected[4090..4110]);
    }
    assert!(fs::read(place.there("file")).unwrap() == bytes(1, 3_000_000));
    assert!(place.mount.status_number("journal.dirty_bytes") >= 300_000);
}

#[test]
fn what_was_synced_or_is_older_than_the_interval_survives_a_killed_daemon() {
    let mut place = Place::late("back-killed");
    let mut files = Vec::new();
    for round in 0..sample_or_full(4u8, 40) {
        let name = format!("file{round}");
        let file = create(&place.here(&name));
        file.write_all_at(&bytes(round, 300_000), 0).unwrap();
        file.sync_all().unwrap();
        place.mount.kill9();
        drop(file);
        place.mount.remount();
        files.push((name, bytes(round, 300_000)));
        for (name, expected) in &files {
            assert!(fs::read(place.here(name)).unwrap() == *expected, "{name}");
        }
    }
    place.wait_for_backend();
    for (name, expected) in &files {
        assert!(fs::read(place.there(name)).unwrap() == *expected, "{name}");
    }
    assert!(place.conflicts().is_empty());
}

/// SIGKILL at each step of an upload that the backend can see: before and after its first write, its size, its sync.
#[test]
fn a_daemon_killed_in_the_middle_of_an_upload_goes_on_with_it() {
    let mut place = Place::new("back-steps", &["writeback_delay=20ms"]);
    let steps = [
        (Operation::Write, 0),
        (Operation::Write, 2),
        (Operation::Write, 5),
        (Operation::Setattr, 0),
        (Operation::Setattr, 1),
        (Operation::Fsync, 0),
    ];
    for (number, (operation, skipped)) in steps.into_iter().enumerate() {
        let name = format!("file{number}");
        fs::write(place.there(&name), bytes(1, 2_000_000)).unwrap();
        let mut expected = bytes(1, 2_000_000);
        let hang = Rule::new(operation, &name, Action::Hang).skip_calls(skipped);
        let file = read_write(&place.here(&name));
        place.backend.add_rule(hang);
        file.set_len(1_500_000).unwrap();
        expected.truncate(1_500_000);
        expected.resize(1_600_000, 0);
        for part in 0..8usize {
            let (at, data) = (200_100 * part, bytes(part as u8, 199_300));
            file.write_all_at(&data, at as u64).unwrap();
            expected[at..at + data.len()].copy_from_slice(&data);
        }
        file.sync_all().unwrap();
        place.backend.wait_for_hung(1);
        let stuck = place.mount.kill_stuck();
        place.backend.clear_rules();
        place.backend.release(None);
        // Before the hung call has ended the connection is there, and closing waits for it.
        drop(stuck);
        drop(file);
        place.mount.remount();
        assert!(fs::read(place.here(&name)).unwrap() == expected, "{name}");
        place.wait_for_backend();
        assert!(fs::read(place.there(&name)).unwrap() == expected, "{name}");
        assert!(
            place.conflicts().is_empty(),
            "{name}: nobody else was there"
        );
    }
}

const RECORD_BYTES: u64 = 4096;

fn record(number: u64) -> Vec<u8> {
    bytes(number as u8, RECORD_BYTES as usize)
}

/// Appends records, each counted at the beginning of the file after it was written, until the daemon is gone. How many were synced,
/// and how many begun.
fn append_records(path: &Path, from: u64) -> (u64, u64) {
    let mut synced = from;
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return (synced, from);
    };
    for number in from.. {
        let written = file
            .write_all_at(&record(number), RECORD_BYTES * (number + 1))
            .and_then(|()| file.write_all_at(&(number + 1).to_le_bytes(), 0));
        if written.is_err() {
            return (synced, number + 1);
        }
        if number % 3 == 0 && file.sync_data().is_ok() {
            synced = number + 1;
        }
    }
    unreachable!("the daemon goes before the numbers do")
}

/// How many whole records a file has; no more are counted in it than there are.
fn whole_records(path: &Path) -> u64 {
    let content = fs::read(path).unwrap();
    let mut records = content.chunks_exact(RECORD_BYTES as usize).skip(1);
    let mut whole = 0;
    while records.next().is_some_and(|held| held == record(whole)) {
        whole += 1;
    }
    let mut counted = [0; 8];
    let held = content.len().min(8);
    counted[..held].copy_from_slice(&content[..held]);
    let counted = u64::from_le_bytes(counted);
    assert!(counted <= whole, "{counted} are counted, {whole} are there");
    whole
}

#[test]
fn a_daemon_killed_at_any_moment_loses_nothing_synced_and_reorders_nothing() {
    const FILES: usize = 4;
    let mut place = Place::new("back-torture", &["writeback_delay=10ms"]);
    let mut random = Random::from_environment("back-torture");
    let names: Vec<String> = (0..FILES).map(|number| format!("file{number}")).collect();
    for name in &names {
        fs::write(place.here(name), [0; RECORD_BYTES as usize]).unwrap();
    }
    let mut whole = [0; FILES];
    for round in 0..sample_or_full(6, 1000) {
        let moment = Duration::from_millis(random.next() % 400);
        let pid = place.mount.pid();
        let paths: Vec<PathBuf> = names.iter().map(|name| place.here(name)).collect();
        let ends: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let writers: Vec<_> = paths
                .iter()
                .zip(whole)
                .map(|(path, from)| scope.spawn(move || append_records(path, from)))
                .collect();
            std::thread::sleep(moment);
            process::kill_now(pid);
            let ended = writers.into_iter().map(|writer| writer.join().unwrap());
            ended.collect()
        });
        place.mount.kill9();
        place.mount.remount();
        for (number, (synced, begun)) in ends.into_iter().enumerate() {
            whole[number] = whole_records(&paths[number]);
            assert!(
                (synced..=begun).contains(&whole[number]),
                "round {round}: {synced} synced, {begun} begun, {} there",
                whole[number]
            );
        }
    }
    place.wait_for_backend();
    for name in &names {
        place.expect_agreement(name);
    }
    assert!(place.conflicts().is_empty());
}

#[test]
fn an_absent_backend_delays_no_write_and_gets_it_when_it_is_back() {
    let place = Place::new("back-away", &["writeback_delay=20ms"]);
    let file = create(&place.here("file"));
    file.write_all_at(&bytes(1, 100_000), 0).unwrap();
    place.wait_for_backend();
    place.backend.stop();
    let began = Instant::now();
    // Longer than `backend_timeout`.
    let mut written = 100_000;
    while began.elapsed() < Duration::from_secs(5) {
        let wrote = Instant::now();
        file.write_all_at(&bytes(2, 50_000), written).unwrap();
        file.sync_data().unwrap();
        assert!(
            wrote.elapsed() < Duration::from_secs(2),
            "{:?}",
            wrote.elapsed()
        );
        written += 50_000;
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut found = vec![0; 50_000];
    file.read_exact_at(&mut found, written - 50_000).unwrap();
    assert!(found == bytes(2, 50_000));
    place.backend.resume();
    place.wait_for_backend();
    place.expect_agreement("file");
    assert_eq!(fs::metadata(place.there("file")).unwrap().len(), written);
}

#[test]
fn renames_links_and_removals_of_dirty_files_do_what_they_say() {
    let place = Place::late("back-names");
    // Written beside its name and renamed: the whole content is there with the name.
    for round in 0..3u8 {
        fs::write(place.here("new"), bytes(round, 200_000)).unwrap();
        fs::rename(place.here("new"), place.here("name")).unwrap();
        assert!(fs::read(place.there("name")).unwrap() == bytes(round, 200_000));
        assert!(fs::read(place.here("name")).unwrap() == bytes(round, 200_000));
    }
    fs::write(place.here("one"), b"one").unwrap();
    fs::hard_link(place.here("one"), place.here("other")).unwrap();
    assert_eq!(fs::read(place.there("other")).unwrap(), b"one");
    // Removed: nothing of it comes back.
    fs::write(place.here("gone"), bytes(1, 100_000)).unwrap();
    fs::remove_file(place.here("gone")).unwrap();
    assert!(!place.there("gone").exists());
    // Removed while it is open: who has it open goes on.
    let open = create(&place.here("nameless"));
    open.write_all_at(b"before", 0).unwrap();
    fs::remove_file(place.here("nameless")).unwrap();
    open.write_all_at(b"after", 6).unwrap();
    let mut found = [0; 11];
    open.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"beforeafter");
    drop(open);
    // A directory is moved with what is dirty in it.
    fs::create_dir(place.here("directory")).unwrap();
    fs::write(place.here("directory/file"), b"inside").unwrap();
    fs::rename(place.here("directory"), place.here("moved")).unwrap();
    assert_eq!(fs::read(place.there("moved/file")).unwrap(), b"inside");
    wait_until(LIMIT, "nothing to be left", || {
        place.mount.status_number("writeback.pending_files") == 0
    });
    assert!(place.conflicts().is_empty());
}

#[test]
fn a_dirty_file_that_loses_one_of_its_names_is_nobody_elses() {
    let mut place = Place::late("back-links");
    for (name, other) in [("removed", "kept"), ("replaced", "left")] {
        fs::write(place.here(name), bytes(1, 50_000)).unwrap();
        fs::hard_link(place.here(name), place.here(other)).unwrap();
        fs::write(place.here(name), bytes(2, 60_000)).unwrap();
    }
    fs::remove_file(place.here("removed")).unwrap();
    fs::write(place.here("new"), b"new").unwrap();
    fs::rename(place.here("new"), place.here("replaced")).unwrap();
    for other in ["kept", "left"] {
        assert!(fs::read(place.here(other)).unwrap() == bytes(2, 60_000));
    }
    place.mount.kill9();
    place.mount.remount();
    place.wait_for_backend();
    for other in ["kept", "left"] {
        assert!(fs::read(place.there(other)).unwrap() == bytes(2, 60_000));
    }
    assert_eq!(fs::read(place.there("replaced")).unwrap(), b"new");
    assert!(place.conflicts().is_empty());
}

#[test]
fn attributes_go_through_at_once_and_never_without_the_bytes_before_them() {
    let mut place = Place::late("back-attributes");
    let set = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 5000);
    for round in 0..sample_or_full(3u8, 30) {
        let name = format!("file{round}");
        let file = create(&place.here(&name));
        file.write_all_at(&bytes(round, 50_000), 0).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o640))
            .unwrap();
        file.set_modified(set).unwrap();
        // The backend has the one and not the other; who kills the daemon now finds both.
        let there = fs::metadata(place.there(&name)).unwrap();
        assert_eq!((there.mode() & 0o777, there.len()), (0o640, 0));
        place.mount.kill9();
        drop(file);
        place.mount.remount();
        let here = fs::metadata(place.here(&name)).unwrap();
        assert_eq!(
            (here.mode() & 0o777, here.modified().unwrap()),
            (0o640, set)
        );
        assert!(fs::read(place.here(&name)).unwrap() == bytes(round, 50_000));
        place.wait_for_backend();
        place.expect_agreement(&name);
        let there = fs::metadata(place.there(&name)).unwrap();
        assert_eq!(
            (there.mode() & 0o777, there.modified().unwrap()),
            (0o640, set)
        );
    }
    assert!(place.conflicts().is_empty());
}

/// SIGKILL between the change of attributes on the backend and its note in the journal.
#[test]
fn a_daemon_killed_while_it_changes_attributes_takes_nobody_for_another() {
    let mut place = Place::late("back-touch");
    for (number, skipped) in [0, 1].into_iter().enumerate() {
        let name = format!("file{number}");
        fs::write(place.there(&name), bytes(1, 100_000)).unwrap();
        let file = read_write(&place.here(&name));
        file.write_all_at(b"ours", 50_000).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .unwrap();
        // Hangs before it is made, or when it is looked at.
        let operation = [Operation::Setattr, Operation::Getattr][number];
        let hang = Rule::new(operation, &name, Action::Hang).skip_calls(skipped);
        place.backend.add_rule(hang);
        let changing = place.here(&name);
        let changer = std::thread::spawn(move || {
            let _ = fs::set_permissions(changing, fs::Permissions::from_mode(0o644));
        });
        place.backend.wait_for_hung(1);
        let stuck = place.mount.kill_stuck();
        place.backend.clear_rules();
        place.backend.release(None);
        drop((stuck, file));
        changer.join().unwrap();
        place.mount.remount();
        place.wait_for_backend();
        place.expect_agreement(&name);
        assert_eq!(
            &fs::read(place.there(&name)).unwrap()[50_000..50_004],
            b"ours"
        );
        assert!(place.conflicts().is_empty(), "nobody else was there");
    }
}

#[test]
fn what_is_uploaded_has_the_time_that_programs_saw() {
    let place = Place::late("back-times");
    fs::write(place.here("file"), b"some").unwrap();
    let seen = fs::metadata(place.here("file"))
        .unwrap()
        .modified()
        .unwrap();
    fs::hard_link(place.here("file"), place.here("link")).unwrap();
    let there = fs::metadata(place.there("file")).unwrap();
    assert_eq!(there.modified().unwrap(), seen);
    assert_eq!((there.nlink(), there.len()), (2, 4));
    assert!(place.conflicts().is_empty());
}

#[test]
fn truncations_and_holes_are_kept_in_order() {
    let place = Place::late("back-sizes");
    fs::write(place.there("file"), bytes(1, 100_000)).unwrap();
    let file = read_write(&place.here("file"));
    file.set_len(10_000).unwrap();
    file.set_len(50_000).unwrap();
    file.write_all_at(b"in the hole", 30_000).unwrap();
    let mut expected = bytes(1, 10_000);
    expected.resize(50_000, 0);
    expected[30_000..30_011].copy_from_slice(b"in the hole");
    assert!(fs::read(place.here("file")).unwrap() == expected);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    allocate(&file, punch, 0, 4096).unwrap();
    expected[..4096].fill(0);
    assert!(fs::read(place.here("file")).unwrap() == expected);
    assert!(fs::read(place.there("file")).unwrap() == expected);
    for round in 0..5u8 {
        let again = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(place.here("file"))
            .unwrap();
        again
            .write_all_at(&bytes(round, 1000 * usize::from(round)), 0)
            .unwrap();
    }
    assert!(fs::read(place.here("file")).unwrap() == bytes(4, 4000));
    drop(file);
    assert!(place.conflicts().is_empty());
}

/// What is made on the backend comes after what was written before, and is not undone by bringing that there again.
#[test]
fn what_is_changed_on_the_backend_at_once_survives_a_killed_daemon() {
    let mut place = Place::late("back-punched");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    for name in ["one", "two", "three"] {
        let file = create(&place.here(name));
        file.write_all_at(&bytes(1, 100_000), 0).unwrap();
        file.sync_all().unwrap();
        allocate(&file, punch, 8192, 16_384).unwrap();
        file.sync_all().unwrap();
        place.mount.kill9();
        place.mount.remount();
        let mut expected = bytes(1, 100_000);
        expected[8192..8192 + 16_384].fill(0);
        assert!(fs::read(place.here(name)).unwrap() == expected, "{name}");
        place.expect_agreement(name);
    }
    assert!(place.conflicts().is_empty());
}

#[test]
fn a_change_by_somebody_else_is_never_written_over() {
    let place = Place::new("back-conflict", &["writeback_delay=1h", "actimeo=0"]);
    fs::write(place.there("whole"), b"of the server").unwrap();
    fs::write(place.there("part"), bytes(1, 100_000)).unwrap();
    fs::write(place.here("whole"), b"ours").unwrap();
    let part = read_write(&place.here("part"));
    part.write_all_at(b"ours", 50_000).unwrap();
    drop(part);
    fs::write(place.there("whole"), b"theirs, later").unwrap();
    let theirs = read_write(&place.there("part"));
    theirs.write_all_at(b"theirs", 10).unwrap();
    drop(theirs);
    // A change of attributes waits for the data.
    for name in ["whole", "part"] {
        fs::set_permissions(place.here(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    assert_eq!(fs::read(place.there("whole")).unwrap(), b"theirs, later");
    assert_eq!(fs::read(place.here("whole")).unwrap(), b"theirs, later");
    let part = fs::read(place.there("part")).unwrap();
    assert!(&part[10..16] == b"theirs" && part[50_000] == bytes(1, 100_000)[50_000]);
    let beside = place.conflicts();
    let named = |name: &str| {
        let is_it = |path: &&PathBuf| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(name)
        };
        beside.iter().filter(is_it).cloned().collect::<Vec<_>>()
    };
    assert_eq!(fs::read(&named("whole")[0]).unwrap(), b"ours");
    let parts = named("part");
    assert_eq!(
        parts.len(),
        2,
        "the file and which ranges it has: {beside:?}"
    );
    assert_eq!(&fs::read(&parts[0]).unwrap()[50_000..50_004], b"ours");
    let ranges = fs::read_to_string(&parts[1]).unwrap();
    assert!(ranges.contains("50000 50004"), "{ranges}");
    assert_eq!(place.mount.status_number("writeback.conflicts"), 2);
}

#[test]
fn nothing_of_a_file_that_somebody_else_removed_is_lost() {
    let place = Place::late("back-orphan");
    fs::write(place.here("file"), b"ours").unwrap();
    fs::remove_file(place.there("file")).unwrap();
    let _ = place.mount.command("umount", &[], LIMIT);
    let kept = fs::read_dir(&place.backend.plain).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].to_string_lossy().contains("file.removed-"));
    assert_eq!(fs::read(&kept[0]).unwrap(), b"ours");
}

#[test]
fn a_full_backend_is_told_and_keeps_nothing_from_getting_there_later() {
    let place = Place::new("back-enospc", &["writeback_delay=20ms"]);
    let file = create(&place.here("file"));
    place.rule(Operation::Write, "file", Action::Errno(libc::ENOSPC));
    file.write_all_at(&bytes(1, 100_000), 0).unwrap();
    wait_until(LIMIT, "the refusal to be known", || {
        place.mount.status_number("writeback.failing_files") == 1
    });
    assert_eq!(errno(file.sync_all()), Some(libc::ENOSPC));
    let mut found = vec![0; 100_000];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == bytes(1, 100_000));
    place.backend.clear_rules();
    place.wait_for_backend();
    place.expect_agreement("file");
    assert!(place.conflicts().is_empty());
}

#[test]
fn a_full_journal_holds_writers_up_until_the_backend_takes_something() {
    let place = Place::new("back-full", &["writeback_delay=0"]);
    let hang = place.rule(Operation::Write, "file*", Action::Hang);
    let path = place.here("file");
    let writer = std::thread::spawn(move || {
        let file = create(&path);
        for megabyte in 0..120u64 {
            file.write_all_at(&bytes(megabyte as u8, 1 << 20), megabyte << 20)
                .unwrap();
        }
        file.sync_all().unwrap();
    });
    place.backend.wait_for_hung(1);
    wait_until(LIMIT, "the journal to be full", || {
        let dirty = place.mount.status_number("journal.dirty_bytes");
        dirty > 30 << 20
    });
    // Others are held up by the writer no more than by the journal.
    assert_eq!(fs::read_dir(place.mount.path()).unwrap().count(), 1);
    assert!(!writer.is_finished());
    place.backend.remove_rule(hang);
    place.backend.release(None);
    writer.join().unwrap();
    place.wait_for_backend();
    let there = fs::read(place.there("file")).unwrap();
    assert_eq!(there.len(), 120 << 20);
    for megabyte in 0..120usize {
        let at = megabyte << 20;
        assert!(
            there[at..at + (1 << 20)] == bytes(megabyte as u8, 1 << 20),
            "{megabyte}"
        );
    }
}

#[test]
fn what_the_backend_did_not_take_before_the_end_waits_for_the_next_mount() {
    let mut place = Place::late("back-left");
    fs::write(place.here("file"), bytes(5, 100_000)).unwrap();
    let rule = place.rule(Operation::Write, "file", Action::Errno(libc::EIO));
    let output = place.mount.command("umount", &["--keep-dirty"], LIMIT);
    assert!(output.status.success(), "{output:?}");
    place.mount.expect_end(LIMIT);
    assert!(place.mount.log().contains("1 files are not on the backend"));
    place.backend.remove_rule(rule);
    place.mount.remount();
    assert!(fs::read(place.here("file")).unwrap() == bytes(5, 100_000));
    place.wait_for_backend();
    place.expect_agreement("file");
    // An orderly end leaves nothing to do.
    fs::write(place.here("other"), bytes(6, 100_000)).unwrap();
    place.mount.umount();
    assert!(fs::read(place.there("other")).unwrap() == bytes(6, 100_000));
}

#[test]
fn a_journal_is_asked_for_where_it_is_needed_and_not_taken_for_another_backend() {
    let place = Place::late("back-refused");
    let refused = |options: &str, why: &str| {
        let mut command = std::process::Command::new(support::mount::PROGRAM);
        let other = place.scratch.directory("other");
        let mountpoint = place.scratch.directory("second");
        let cache = place.scratch.path().join("cache2");
        command.arg("mount").arg(other).arg(mountpoint);
        command.args(["-o", &format!("cache_dir={},{options}", cache.display())]);
        let output = support::process::run(command, LIMIT);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{told}");
    };
    refused("write_mode=back", "journal_dir");
    let journal = place.scratch.path().join("journal-of-cache");
    let through = format!("journal_dir={}", journal.display());
    refused(&through, "write_mode=back");
    let both = format!("write_mode=back,{through}");
    refused(&both, "in use");
    let mut place = place;
    fs::write(place.here("file"), b"of the first").unwrap();
    place.mount.kill9();
    let other = place.scratch.directory("other");
    let mut command = std::process::Command::new(support::mount::PROGRAM);
    let cache = place.scratch.path().join("cache3");
    command
        .arg("mount")
        .arg(other)
        .arg(place.scratch.directory("second"));
    command.args(["-o", &format!("cache_dir={},{both}", cache.display())]);
    let output = support::process::run(command, LIMIT);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("written to another backend"), "{told}");
}
