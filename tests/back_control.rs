//! `write_mode=back` in the hands of an operator: what is dirty is sent, kept or shown; what clashes is listed and ended; writers are
//! slowed down, and what is refused stops nobody else.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Output;
use std::time::{Duration, Instant};
use support::writing::read_write;
use support::written_back::{LIMIT, Place, bytes, create, errno};
use support::*;

fn told(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn expect_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}", told(output));
}

#[test]
fn flush_sends_what_is_asked_for_and_waits_until_the_backend_has_it() {
    let place = Place::late("back-flush");
    fs::create_dir(place.here("some")).unwrap();
    let names = ["some/one", "some/two", "other"];
    for (number, name) in names.iter().enumerate() {
        fs::write(place.here(name), bytes(number as u8, 300_000)).unwrap();
    }
    expect_status(&place.command("flush", &place.here("some"), &["--wait"]), 0);
    place.expect_agreement("some/one");
    place.expect_agreement("some/two");
    assert_eq!(fs::metadata(place.there("other")).unwrap().len(), 0);
    expect_status(&place.command("flush", &place.here("none"), &["--wait"]), 2);
    // Without --wait it is on its way.
    expect_status(&place.command("flush", place.mount.path(), &[]), 0);
    place.wait_for_backend();
    place.expect_agreement("other");
    // What is refused is told, and tried again by the next one.
    let refused = place.rule(Operation::Write, "other", Action::Errno(libc::ENOSPC));
    fs::write(place.here("other"), bytes(7, 300_000)).unwrap();
    let output = place.command("flush", &place.here("other"), &["--wait"]);
    expect_status(&output, 3);
    assert!(told(&output).contains("1 files"), "{}", told(&output));
    assert!(told(&output).contains("No space left"), "{}", told(&output));
    place.backend.remove_rule(refused);
    expect_status(
        &place.command("flush", &place.here("other"), &["--wait"]),
        0,
    );
    place.expect_agreement("other");
}

#[test]
fn a_file_is_told_of_with_its_age_and_why_it_is_not_on_the_backend() {
    let place = Place::new("back-told", &["writeback_delay=20ms"]);
    place.rule(Operation::Write, "refused", Action::Errno(libc::EACCES));
    fs::write(place.here("refused"), bytes(1, 50_000)).unwrap();
    wait_until(LIMIT, "the refusal to be known", || {
        place.mount.status_number("writeback.failing_files") == 1
    });
    let status = place.mount.status();
    let file = &status["writeback"]["oldest"][0];
    assert_eq!(file["path"], "refused");
    assert_eq!(file["bytes"], 50_000);
    assert_eq!(file["state"], "failing");
    assert!(
        file["trouble"].as_str().unwrap().contains("denied"),
        "{file}"
    );
    assert_eq!(status["journal"]["dirty_bytes"], 50_000);
    assert_eq!(status["journal"]["dirty_limit"], 32 << 20);
    assert!(status["journal"]["commit_p50_us"].as_u64().unwrap() > 0);
    wait_until(LIMIT, "it to grow old", || {
        place.mount.status_number("journal.oldest_dirty_seconds") >= 2
    });
}

#[test]
fn umount_waits_for_the_backend_and_leaves_the_mount_where_that_refuses() {
    let mut place = Place::late("back-umount");
    for number in 0..20u8 {
        fs::write(place.here(&format!("file{number}")), bytes(number, 100_000)).unwrap();
    }
    let refused = place.rule(Operation::Write, "file7", Action::Errno(libc::EDQUOT));
    let output = place.mount.command("umount", &[], LIMIT);
    expect_status(&output, 32);
    for part in ["1 files", "file7", "--keep-dirty"] {
        assert!(told(&output).contains(part), "{}", told(&output));
    }
    // It serves on, and all that was not refused is there.
    assert!(fs::read(place.here("file7")).unwrap() == bytes(7, 100_000));
    for number in (0..20u8).filter(|number| *number != 7) {
        place.expect_agreement(&format!("file{number}"));
    }
    expect_status(&place.mount.command("umount", &["--keep-dirty"], LIMIT), 0);
    place.mount.expect_end(LIMIT);
    place.backend.remove_rule(refused);
    place.mount.remount();
    assert!(fs::read(place.here("file7")).unwrap() == bytes(7, 100_000));
    place.mount.umount();
    assert!(fs::read(place.there("file7")).unwrap() == bytes(7, 100_000));
}

/// Neither waits for what hangs nor sends what would not.
#[test]
fn whoever_keeps_what_is_dirty_does_not_wait_for_the_backend() {
    let mut place = Place::late("back-keep-dirty");
    for name in ["hangs", "waits"] {
        fs::write(place.here(name), bytes(1, 100_000)).unwrap();
    }
    // A mount in use stays, and goes on as before.
    let open = fs::File::open(place.here("waits")).unwrap();
    expect_status(&place.mount.command("umount", &["--keep-dirty"], LIMIT), 32);
    drop(open);
    let hang = place.rule(Operation::Write, "hangs", Action::Hang);
    expect_status(&place.command("flush", &place.here("hangs"), &[]), 0);
    let began = Instant::now();
    expect_status(&place.mount.command("umount", &["--keep-dirty"], LIMIT), 0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}");
    place.backend.remove_rule(hang);
    // Until then the kernel keeps what is left of the daemon.
    place.backend.release(None);
    place.mount.expect_end(LIMIT);
    assert_eq!(fs::read(place.there("waits")).unwrap(), b"");
    place.mount.remount();
    place.wait_for_backend();
    for name in ["hangs", "waits"] {
        assert!(fs::read(place.there(name)).unwrap() == bytes(1, 100_000));
    }
}

/// Somebody else's changes of files that are dirty here.
fn clash(place: &Place, names: &[&str]) {
    for name in names {
        let ours = bytes(1, 100_000);
        fs::write(place.there(name), bytes(9, 120_000)).unwrap();
        match name.starts_with("part") {
            true => {
                let file = read_write(&place.here(name));
                file.write_all_at(&ours[..5000], 50_000).unwrap();
            }
            false => fs::write(place.here(name), &ours).unwrap(),
        }
        match name.starts_with("removed") {
            true => fs::remove_file(place.there(name)).unwrap(),
            false => fs::write(place.there(name), b"theirs, later").unwrap(),
        }
    }
    let _ = place.command("flush", place.mount.path(), &["--wait"]);
}

fn keep(place: &Place, which: &str, name: &str) {
    let output = place.command("conflicts", place.mount.path(), &["--keep", which, name]);
    expect_status(&output, 0);
}

/// One conflict is shown where one is asked for, and nothing where there is none.
fn expect_only_told(place: &Place, name: &str) {
    let output = place.command("conflicts", place.mount.path(), &[name]);
    expect_status(&output, 3);
    assert_eq!(told(&output).lines().count(), 1, "{}", told(&output));
    expect_status(
        &place.command("conflicts", place.mount.path(), &["none"]),
        0,
    );
}

#[test]
fn conflicts_are_listed_until_somebody_says_what_becomes_of_them() {
    let mut place = Place::new("back-conflicts", &["writeback_delay=1h", "actimeo=0"]);
    let names = ["whole", "part", "removed", "given-up", "both"];
    clash(&place, &names);
    assert_eq!(place.mount.status_number("writeback.conflicts"), 5);
    // The list outlives the daemon.
    place.mount.umount();
    place.mount.remount();
    let output = place.command("conflicts", place.mount.path(), &[]);
    expect_status(&output, 3);
    for name in names {
        assert!(
            told(&output).contains(&format!("{name}: ")),
            "{}",
            told(&output)
        );
    }
    let output = place.command("why", &place.here("whole"), &[]);
    expect_status(&output, 0);
    let conflict = "conflict   whole: changed by somebody else; ours is whole.conflict-";
    assert!(told(&output).contains(conflict), "{}", told(&output));
    let arguments = ["--keep", "ours", "part"];
    let refused = place.command("conflicts", place.mount.path(), &arguments);
    expect_status(&refused, 2);
    assert!(told(&refused).contains(".ranges"), "{}", told(&refused));
    expect_only_told(&place, "part");
    keep(&place, "theirs", "part");
    for (which, name) in [
        ("ours", "whole"),
        ("ours", "removed"),
        ("theirs", "given-up"),
        ("both", "both"),
    ] {
        keep(&place, which, name);
    }
    expect_status(&place.command("conflicts", place.mount.path(), &[]), 0);
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 0);
    for name in ["whole", "removed"] {
        assert!(
            fs::read(place.there(name)).unwrap() == bytes(1, 100_000),
            "{name}"
        );
    }
    for name in ["part", "given-up"] {
        assert_eq!(fs::read(place.there(name)).unwrap(), b"theirs, later");
    }
    let left = place.conflicts();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(fs::read(&left[0]).unwrap() == bytes(1, 100_000));
}

#[test]
fn what_becomes_of_a_conflict_is_chosen_by_an_option() {
    for (answer, expected) in [
        ("ours", bytes(1, 100_000)),
        ("theirs", b"theirs, later".to_vec()),
    ] {
        let option = format!("conflict={answer}");
        let options = ["writeback_delay=1h", "actimeo=0", &option];
        let place = Place::new(&format!("back-{answer}"), &options);
        clash(&place, &["whole"]);
        assert!(
            fs::read(place.there("whole")).unwrap() == expected,
            "{answer}"
        );
        assert!(
            fs::read(place.here("whole")).unwrap() == expected,
            "{answer}"
        );
        assert!(place.conflicts().is_empty());
        assert_eq!(place.mount.status_number("writeback.pending_files"), 0);
    }
}

#[test]
fn parts_of_ours_are_never_mixed_with_theirs() {
    let options = ["writeback_delay=1h", "actimeo=0", "conflict=ours"];
    let place = Place::new("back-parts", &options);
    clash(&place, &["part"]);
    assert_eq!(fs::read(place.there("part")).unwrap(), b"theirs, later");
    let beside = place.conflicts();
    assert_eq!(beside.len(), 2, "{beside:?}");
    let (ours, ranges) = (&beside[0], &beside[1]);
    assert_eq!(
        fs::read_to_string(ranges).unwrap(),
        "size 120000\n50000 55000\n"
    );
    assert!(fs::read(ours).unwrap()[50_000..55_000] == bytes(1, 100_000)[..5000]);
}

#[test]
fn conflicts_of_long_names_are_kept_beside_them() {
    let place = Place::new("back-long", &["writeback_delay=1h", "actimeo=0"]);
    let long = "\u{00e4}".repeat(127);
    clash(&place, &[&format!("{long}x")]);
    let beside = place.conflicts();
    assert_eq!(beside.len(), 1, "{beside:?}");
    assert!(beside[0].to_str().is_some(), "{beside:?}");
    assert!(fs::read(&beside[0]).unwrap() == bytes(1, 100_000));
}

#[test]
fn a_file_that_is_never_taken_stops_no_others_and_is_not_lost() {
    let mut place = Place::new("back-stuck", &["writeback_delay=20ms"]);
    let refused = place.rule(Operation::Write, "stuck*", Action::Errno(libc::EACCES));
    for number in 0..3u8 {
        let path = place.here(&format!("stuck{number}"));
        fs::write(path, bytes(number, 1_000_000)).unwrap();
    }
    wait_until(LIMIT, "the refusals to be known", || {
        place.mount.status_number("writeback.failing_files") == 3
    });
    // More than three times what the journal holds.
    let file = create(&place.here("going"));
    for megabyte in 0..200u64 {
        let data = bytes(megabyte as u8, 1 << 20);
        file.write_all_at(&data, (megabyte % 20) << 20).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    place.mount.kill9();
    place.mount.remount();
    for number in 0..3u8 {
        let path = place.here(&format!("stuck{number}"));
        assert!(fs::read(path).unwrap() == bytes(number, 1_000_000));
    }
    place.backend.remove_rule(refused);
    expect_status(&place.command("flush", place.mount.path(), &["--wait"]), 0);
    for number in 0..3u8 {
        place.expect_agreement(&format!("stuck{number}"));
    }
    place.expect_agreement("going");
    assert!(place.conflicts().is_empty());
}

#[test]
fn writers_are_slowed_down_before_the_limit_and_go_on_when_something_goes() {
    let place = Place::new(
        "back-pressure",
        &["writeback_delay=20ms", "dirty_limit=16M"],
    );
    place.rule(Operation::Write, "*", Action::Errno(libc::EACCES));
    fs::write(place.here("other"), bytes(1, 4 << 20)).unwrap();
    let path = place.here("file");
    let writer = std::thread::spawn(move || {
        let file = create(&path);
        let mut longest_before = Duration::ZERO;
        for piece in 0..(16u64 << 20) / (256 << 10) {
            let began = Instant::now();
            let data = bytes(piece as u8, 256 << 10);
            while let Err(error) = file.write_all_at(&data, piece * (256 << 10)) {
                // What was acknowledged before is refused, and told.
                assert_eq!(error.raw_os_error(), Some(libc::EACCES));
            }
            if piece < 40 {
                longest_before = longest_before.max(began.elapsed());
            }
        }
        longest_before
    });
    wait_until(LIMIT, "the limit to be reached", || {
        place.mount.status_number("journal.dirty_bytes") > 15 << 20
    });
    assert!(place.mount.status_number("journal.dirty_bytes") <= 17 << 20);
    assert!(!writer.is_finished());
    // Whoever removes something makes room.
    fs::remove_file(place.here("other")).unwrap();
    let longest = writer.join().unwrap();
    assert!(
        longest < Duration::from_secs(3),
        "{longest:?} before the limit"
    );
}

/// What the backend does not take makes nobody wait before there is much of it, whatever the size of the writes.
#[test]
fn with_the_backend_away_a_writer_has_half_of_the_limit_at_once() {
    let place = Place::new("back-away-room", &["writeback_delay=20ms"]);
    let file = create(&place.here("file"));
    file.write_all_at(&bytes(1, 1 << 20), 0).unwrap();
    place.wait_for_backend();
    place.backend.stop();
    let began = Instant::now();
    let piece = bytes(2, 64 << 10);
    for number in 0..(24u64 << 20) / piece.len() as u64 {
        file.write_all_at(&piece, number * piece.len() as u64)
            .unwrap();
        if number == 15 * 16 {
            let took = began.elapsed();
            assert!(took < Duration::from_secs(10), "15 MiB took {took:?}");
        }
    }
    // Three quarters of it: what is left was to last for 5 s.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "24 MiB took {took:?}");
    place.backend.resume();
    drop(file);
    place.wait_for_backend();
    place.expect_agreement("file");
}

/// Full counts only: it takes as long as a writer waits.
#[test]
fn a_writer_at_the_limit_gets_enospc_in_the_end_and_its_file_can_be_removed() {
    if !long_run() {
        return;
    }
    let place = Place::new("back-limit", &["writeback_delay=20ms", "dirty_limit=16M"]);
    place.rule(Operation::Write, "*", Action::Errno(libc::EIO));
    let path = place.here("file");
    let writer = std::thread::spawn(move || {
        let file = create(&path);
        let data = bytes(1, 1 << 20);
        for megabyte in 0u64.. {
            let began = Instant::now();
            let written = file.write_all_at(&data, megabyte << 20);
            if errno(written) == Some(libc::ENOSPC) {
                return began.elapsed();
            }
        }
        unreachable!("there is a limit");
    });
    wait_until(LIMIT, "the limit to be reached", || {
        place.mount.status_number("journal.dirty_bytes") > 15 << 20
    });
    let began = Instant::now();
    fs::remove_file(place.here("file")).unwrap();
    assert!(began.elapsed() < Duration::from_secs(40));
    let waited = writer.join().unwrap();
    assert!(waited < Duration::from_secs(40), "{waited:?}");
    assert_eq!(place.mount.status_number("journal.dirty_bytes"), 0);
}

#[test]
fn close_waits_for_stable_storage_where_that_is_asked_for() {
    let options = ["writeback_delay=1h", "batch_interval=60s", "close=durable"];
    let mut place = Place::new("back-close", &options);
    for number in 0..5u8 {
        let name = format!("file{number}");
        fs::write(place.here(&name), bytes(number, 10_000)).unwrap();
        place.mount.kill9();
        place.mount.remount();
        assert!(fs::read(place.here(&name)).unwrap() == bytes(number, 10_000));
    }
}

#[test]
fn no_more_is_sent_in_a_second_than_may_be() {
    let options = ["writeback_delay=0", "writeback_rate=1M"];
    let place = Place::new("back-rate", &options);
    let began = Instant::now();
    for number in 0..4u8 {
        fs::write(place.here(&format!("file{number}")), bytes(number, 1 << 20)).unwrap();
    }
    place.wait_for_backend();
    assert!(
        began.elapsed() > Duration::from_millis(2500),
        "{:?}",
        began.elapsed()
    );
    for number in 0..4 {
        place.expect_agreement(&format!("file{number}"));
    }
}

#[test]
fn options_about_writing_back_say_where_they_have_no_effect() {
    let scratch = Scratch::new("back-through");
    let backend = scratch.directory("backend");
    let options = MountOptions::new(&scratch)
        .with("close=durable")
        .with("dirty_limit=64M");
    let mount = Mount::start(&scratch, &backend, options);
    let status = mount.status();
    let reasons: Vec<_> = status["options"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|option| !option["no_effect_because"].is_null())
        .map(|option| option["name"].as_str().unwrap().to_owned())
        .collect();
    for name in ["close", "dirty_limit"] {
        assert!(reasons.contains(&name.to_owned()), "{reasons:?}");
    }
    let output = mount.command("flush", &["--wait"], LIMIT);
    assert!(
        told(&output).contains("write_mode=through"),
        "{}",
        told(&output)
    );
}

/// What umount(8) runs.
#[test]
fn the_helper_of_umount_does_as_the_command_does() {
    let mut place = Place::late("back-helper");
    let helper = place.scratch.path().join("umount.fuse.cachefs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mount-cachefs"), &helper).unwrap();
    let umount = |place: &Place, flags: &[&str]| {
        let mut command = std::process::Command::new(&helper);
        command.arg(place.mount.path()).args(flags);
        process::run(command, LIMIT)
    };
    fs::write(place.here("file"), bytes(1, 100_000)).unwrap();
    let refused = place.rule(Operation::Write, "file", Action::Errno(libc::ENOSPC));
    expect_status(&umount(&place, &["-t", "fuse.cachefs"]), 32);
    expect_status(&umount(&place, &["-l"]), 0);
    place.mount.expect_end(LIMIT);
    place.backend.remove_rule(refused);
    place.mount.remount();
    expect_status(&umount(&place, &[]), 0);
    place.mount.expect_end(LIMIT);
    assert!(fs::read(place.there("file")).unwrap() == bytes(1, 100_000));
}
