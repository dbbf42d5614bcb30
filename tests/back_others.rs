//! `write_mode=back` beside somebody who works on the server: what they may do without a conflict, and what becomes of one.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use support::writing::read_write;
use support::written_back::{LIMIT, Place, bytes, create};
use support::*;

fn told(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn expect_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}", told(output));
}

/// The end of an upload is durable before anybody can know of it.
#[test]
fn what_somebody_changes_after_an_upload_is_not_uploaded_over_after_a_crash() {
    let options = ["writeback_delay=20ms", "batch_interval=30s"];
    let mut place = Place::new("back-others-late", &options);
    for round in 0..sample_or_full(4u8, 200) {
        let name = format!("file{round}");
        let before = bytes(round, 16_384);
        fs::write(place.there(&name), &before).unwrap();
        let file = read_write(&place.here(&name));
        file.write_all_at(&[b'L'; 16_384], 0).unwrap();
        file.sync_all().unwrap();
        place.wait_for_backend();
        assert!(fs::read(place.there(&name)).unwrap() == [b'L'; 16_384]);
        fs::write(place.there(&name), &before).unwrap();
        place.mount.kill9();
        drop(file);
        place.mount.remount();
        place.wait_for_backend();
        assert!(fs::read(place.there(&name)).unwrap() == before, "{name}");
    }
    assert!(place.conflicts().is_empty());
}

/// Neither handles nor times of birth tell the two files apart here, and no descriptor is held after a crash.
#[test]
fn a_new_file_with_the_number_of_a_dirty_one_is_never_mixed_with_it() {
    let mut place = Place::late("back-others-number");
    let number = |place: &Place, name: &str| {
        place.backend.set_inodes(InodeNumbers {
            set_bits: 0,
            by_path: [(name.to_owned(), 4_000_000)].into(),
        });
    };
    fs::write(place.there("old"), bytes(1, 50_000)).unwrap();
    number(&place, "old");
    let file = read_write(&place.here("old"));
    file.write_all_at(&[b'L'; 20_000], 0).unwrap();
    file.sync_all().unwrap();
    place.mount.kill9();
    drop(file);
    fs::remove_file(place.there("old")).unwrap();
    fs::write(place.there("new"), bytes(9, 30_000)).unwrap();
    number(&place, "new");
    let full = place.rule(Operation::Create, "*", Action::Errno(libc::ENOSPC));
    place.mount.remount();
    match fs::read(place.here("new")) {
        Ok(read) => assert!(read == bytes(9, 30_000), "{} bytes", read.len()),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EBUSY)),
    }
    place.backend.remove_rule(full);
    place.wait_for_backend();
    assert!(fs::read(place.here("new")).unwrap() == bytes(9, 30_000));
    let entries = fs::read_dir(&place.backend.plain).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_kept = |path: &PathBuf| {
        let name = path.to_string_lossy();
        name.contains("old.removed-") && !name.ends_with(".ranges")
    };
    let kept: Vec<_> = paths.filter(is_kept).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(fs::read(&kept[0]).unwrap().starts_with(&[b'L'; 20_000]));
}

/// Root is nobody there, and the descriptor that made the file has gone with the daemon.
#[test]
fn a_file_made_without_the_right_to_write_is_sent_after_a_crash() {
    let squash = BackendOptions {
        squash: true,
        ..BackendOptions::default()
    };
    let mut place = Place::on("back-others-unwritable", squash, &["writeback_delay=1h"]);
    fs::create_dir(place.there("home")).unwrap();
    chown(place.there("home"), Some(USER), Some(USER)).unwrap();
    let (name, written) = ("home/readonly", bytes(3, 100_000));
    let (here, content) = (place.here(name), written.clone());
    with_time_limit(&place.scratch, LIMIT, move || {
        as_user(USER, || {
            let mut file = fs::File::options()
                .create_new(true)
                .write(true)
                .mode(0o444)
                .open(here)?;
            file.write_all(&content)?;
            file.sync_all()
        })
    })
    .unwrap();
    place.mount.kill9();
    assert!(fs::read(place.there(name)).unwrap().is_empty());
    place.mount.remount();
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 0);
    assert!(fs::read(place.there(name)).unwrap() == written);
    let there = fs::metadata(place.there(name)).unwrap();
    assert_eq!((there.mode() & 0o7777, there.uid()), (0o444, USER));
    assert!(place.conflicts().is_empty());
}

#[test]
fn a_change_of_attributes_on_the_server_is_no_conflict_and_stays() {
    let place = Place::late("back-others-attributes");
    fs::write(place.there("changed"), bytes(1, 50_000)).unwrap();
    let file = read_write(&place.here("changed"));
    file.write_all_at(b"ours", 100).unwrap();
    drop(file);
    fs::write(place.here("new"), b"ours").unwrap();
    for name in ["changed", "new"] {
        fs::set_permissions(place.there(name), fs::Permissions::from_mode(0o640)).unwrap();
        let owner = nix::unistd::Uid::from_raw(1234);
        nix::unistd::chown(&place.there(name), Some(owner), None).unwrap();
    }
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 0);
    assert!(place.conflicts().is_empty());
    for name in ["changed", "new"] {
        let there = fs::metadata(place.there(name)).unwrap();
        assert_eq!((there.mode() & 0o777, there.uid()), (0o640, 1234), "{name}");
        place.expect_agreement(name);
    }
    let mut expected = bytes(1, 50_000);
    expected[100..104].copy_from_slice(b"ours");
    assert!(fs::read(place.there("changed")).unwrap() == expected);
}

/// Of the attributes that a program can set none tells of it.
#[test]
fn bytes_changed_on_the_server_with_size_and_time_put_back_are_a_conflict() {
    let place = Place::late("back-others-put-back");
    let before = bytes(1, 50_000);
    for name in ["written", "renamed"] {
        fs::write(place.there(name), &before).unwrap();
        let file = read_write(&place.here(name));
        file.write_all_at(b"ours", 100).unwrap();
    }
    let file = read_write(&place.there("written"));
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"theirs", 4000).unwrap();
    file.set_modified(time).unwrap();
    drop(file);
    // Another name moves the change time, too.
    fs::rename(place.there("renamed"), place.there("moved")).unwrap();
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 4);
    let beside = place.conflicts();
    let is_of_written = |path: &PathBuf| path.to_string_lossy().contains("/written.conflict-");
    assert!(
        beside.len() == 2 && beside.iter().all(is_of_written),
        "{beside:?}"
    );
    let changed = |at: usize, what: &[u8]| {
        let mut expected = before.clone();
        expected[at..at + what.len()].copy_from_slice(what);
        expected
    };
    assert!(fs::read(place.there("written")).unwrap() == changed(4000, b"theirs"));
    assert!(fs::read(place.there("moved")).unwrap() == changed(100, b"ours"));
}

/// Both have written to these files.
fn clash(place: &Place, names: &[&str]) {
    for name in names {
        fs::write(place.there(name), b"of the server").unwrap();
        fs::write(place.here(name), b"ours").unwrap();
        fs::write(place.there(name), b"theirs, later").unwrap();
    }
}

#[test]
fn flush_says_how_many_conflicts_came_while_it_waited() {
    let place = Place::late("back-others-flush");
    fs::create_dir(place.here("some")).unwrap();
    clash(&place, &["some/one", "some/two", "other"]);
    let output = place.command("flush", &place.here("some"), &["--wait"]);
    expect_status(&output, 4);
    assert!(
        told(&output).contains("2 files were changed"),
        "{}",
        told(&output)
    );
    // Those are told of once.
    expect_status(&place.command("flush", &place.here("some"), &["--wait"]), 0);
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 4);
}

#[test]
fn a_conflict_ends_whatever_became_of_its_files() {
    let place = Place::new("back-others-ends", &["writeback_delay=1h", "actimeo=0"]);
    clash(&place, &["moved", "looked-at", "removed"]);
    fs::remove_file(place.there("removed")).unwrap();
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 4);
    let keep = |which: &str, name: &str| {
        place.command("conflicts", place.mount.path(), &["--keep", which, name])
    };
    // Theirs has another name by now: ours gets the old one.
    fs::rename(place.here("moved"), place.here("elsewhere")).unwrap();
    expect_status(&keep("ours", "moved"), 0);
    assert_eq!(fs::read(place.here("moved")).unwrap(), b"ours");
    assert_eq!(fs::read(place.here("elsewhere")).unwrap(), b"theirs, later");
    // Ours was taken away by somebody who has looked at it.
    let beside = place.conflicts();
    let [beside] = &beside[..] else {
        panic!("{beside:?}");
    };
    fs::remove_file(place.here(beside.file_name().unwrap().to_str().unwrap())).unwrap();
    let listed = place.command("conflicts", place.mount.path(), &["looked-at"]);
    assert!(
        told(&listed).contains("not there any more"),
        "{}",
        told(&listed)
    );
    let refused = keep("ours", "looked-at");
    expect_status(&refused, 2);
    assert!(told(&refused).contains("--keep both"), "{}", told(&refused));
    expect_status(&keep("both", "looked-at"), 0);
    // Another file has the name of one that was removed.
    fs::write(place.here("removed"), b"another").unwrap();
    let refused = keep("ours", "removed");
    expect_status(&refused, 2);
    assert!(
        told(&refused).contains("another file"),
        "{}",
        told(&refused)
    );
    expect_status(&keep("both", "removed"), 0);
    expect_status(&place.command("conflicts", place.mount.path(), &[]), 0);
}

#[test]
fn the_list_of_conflicts_outlives_any_disk_of_the_journal() {
    let scratch = Scratch::new("back-others-list");
    let directory = |name: &str| scratch.path().join(name);
    let journal = |names: [&str; 2]| {
        let paths = names.map(|name| directory(name).display().to_string());
        format!("journal_dir={}", paths.join(":"))
    };
    let options = MountOptions::new(&scratch)
        .with("write_mode=back")
        .with("journal_size=64M")
        .with("writeback_delay=1h")
        .with("erasure=1+1")
        .with(&journal(["a", "b"]));
    let plain = scratch.directory("plain");
    let mut mount = Mount::start(&scratch, &plain, options);
    for name in ["one", "two"] {
        fs::write(plain.join(name), b"of the server").unwrap();
        fs::write(mount.join(name), b"ours").unwrap();
        fs::write(plain.join(name), b"theirs, later").unwrap();
    }
    mount.command("flush", &["--wait"], LIMIT);
    mount.umount();
    *mount.options_mut().options.last_mut().unwrap() = journal(["b", "a"]);
    mount.remount();
    assert_eq!(mount.status_number("writeback.conflicts"), 2);
    let output = mount.command("conflicts", &["--keep", "theirs", "one"], LIMIT);
    expect_status(&output, 0);
    mount.kill9();
    fs::remove_dir_all(directory("b")).unwrap();
    mount.remount();
    assert_eq!(mount.status_number("writeback.conflicts"), 1);
    let output = mount.command("conflicts", &[], LIMIT);
    assert!(told(&output).starts_with("two: "), "{}", told(&output));
}

/// Its version stays the same while it is sent: who has read one part of it may read the next.
#[test]
fn a_dirty_file_is_read_on_while_it_is_sent_after_a_crash() {
    const LENGTH: usize = 9_000_000;
    let options = ["writeback_delay=1h", "readahead=0"];
    let mut place = Place::new("back-others-restart", &options);
    for round in 0..sample_or_full(2u8, 50) {
        let file = create(&place.here("file"));
        file.set_len(0).unwrap();
        file.write_all_at(&bytes(round, LENGTH), 0).unwrap();
        file.sync_all().unwrap();
        place.mount.kill9();
        drop(file);
        let hang = Rule::new(Operation::Write, "file", Action::Hang).skip_calls(1);
        let hang = place.backend.add_rule(hang);
        place.mount.remount();
        place.backend.wait_for_hung(1);
        let file = fs::File::open(place.here("file")).unwrap();
        let mut found = vec![0; 5000];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == bytes(round, LENGTH)[..5000]);
        place.backend.remove_rule(hang);
        place.backend.release(None);
        place.wait_for_backend();
        file.read_exact_at(&mut found, 8_500_000).unwrap();
        assert!(found == bytes(round, LENGTH)[8_500_000..8_505_000]);
    }
    assert!(place.conflicts().is_empty());
}

/// The version that the backend shows afterwards is another one; whoever reads is not told.
#[test]
fn an_upload_that_ends_in_the_middle_of_a_read_disturbs_nobody() {
    let place = Place::late("back-others-reading");
    for round in 0..sample_or_full(4u8, 100) {
        let name = format!("file{round}");
        let mut expected = bytes(round, 3_000_000);
        fs::write(place.there(&name), &expected).unwrap();
        let file = read_write(&place.here(&name));
        file.write_all_at(b"ours", 1000).unwrap();
        drop(file);
        expected[1000..1004].copy_from_slice(b"ours");
        let slow = place.rule(Operation::Read, &name, Action::DelayMs(100));
        let before = reads(&place);
        let path = place.here(&name);
        let reader = std::thread::spawn(move || fs::read(path));
        wait_until(LIMIT, "the read to be under way", || reads(&place) > before);
        expect_status(&place.command("flush", &place.here(&name), &["--wait"]), 0);
        let found = reader.join().unwrap();
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == expected, "{name}");
        place.backend.remove_rule(slow);
    }
}

/// Readers of what was not cached yet look at the version all the time: one of them looks just when the upload has ended.
#[test]
fn readers_of_all_of_a_file_are_disturbed_by_no_upload_that_ends() {
    const LENGTH: usize = 16_000_000;
    let place = Place::new(
        "back-others-readers",
        &["writeback_delay=1h", "readahead=0"],
    );
    for round in 0..sample_or_full(6u8, 200) {
        let name = format!("file{round}");
        let mut expected = bytes(round, LENGTH);
        fs::write(place.there(&name), &expected).unwrap();
        let file = read_write(&place.here(&name));
        file.write_all_at(b"ours", 1000).unwrap();
        drop(file);
        expected[1000..1004].copy_from_slice(b"ours");
        let has_ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let file = fs::File::open(place.here(&name)).unwrap();
                let (name, expected, has_ended) = (&name, &expected, &has_ended);
                scope.spawn(move || {
                    let mut random = Random::new(u64::from(round) * 4 + reader);
                    while !has_ended.load(Ordering::Relaxed) {
                        let offset = random.below(LENGTH as u64 - 4096) as usize;
                        let mut found = [0; 4096];
                        file.read_exact_at(&mut found, offset as u64)
                            .unwrap_or_else(|error| panic!("{name} at {offset}: {error}"));
                        assert!(
                            found == expected[offset..offset + 4096],
                            "{name} at {offset}"
                        );
                    }
                });
            }
            expect_status(&place.command("flush", &place.here(&name), &["--wait"]), 0);
            has_ended.store(true, Ordering::Relaxed);
        });
        fs::remove_file(place.here(&name)).unwrap();
    }
}

fn reads(place: &Place) -> u64 {
    let counters = place.backend.counters();
    *counters.operations.get(&Operation::Read).unwrap_or(&0)
}
