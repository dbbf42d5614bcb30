//! `write_mode=back`: what lies beside a file is whole, is there only where somebody else was, and costs nobody what came
//! later.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Output;
use support::writing::read_write;
use support::written_back::{LIMIT, Place, bytes};
use support::*;

fn told(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn expect_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}", told(output));
}

fn flush(place: &Place) -> Output {
    place.command("flush", place.mount.path(), &["--wait"])
}

/// Names on the backend that a program did not give.
fn strange_names(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(&place.backend.plain).unwrap();
    let names = entries.map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let is_strange = |name: &PathBuf| {
        let name = name.to_string_lossy();
        name.starts_with('.') || name.contains(".conflict-") || name.contains(".removed-")
    };
    let mut found: Vec<_> = names.filter(is_strange).collect();
    found.sort();
    found
}

/// Nobody has it open, and what is cached of it is nobody's but its own.
fn wait_until_closed(place: &Place) {
    wait_until(LIMIT, "all handles to be closed", || {
        place.mount.status_number("handles") == 0
    });
}

#[test]
fn what_lies_beside_is_whole_where_the_rest_was_cached_before() {
    let options = ["writeback_delay=1h", "keep_written=always"];
    let place = Place::new("back-beside-cached", &options);
    let base = bytes(1, 300_000);
    let names = ["changed", "removed", "not-cached"];
    for name in names {
        fs::write(place.there(name), &base).unwrap();
        if name != "not-cached" {
            assert!(fs::read(place.here(name)).unwrap() == base, "{name}");
        }
        wait_until_closed(&place);
        let file = read_write(&place.here(name));
        file.write_all_at(&[b'L'; 5000], 100_000).unwrap();
        file.sync_all().unwrap();
        drop(file);
        wait_until_closed(&place);
        match name {
            "removed" => fs::remove_file(place.there(name)).unwrap(),
            _ => fs::write(place.there(name), bytes(9, 300_000)).unwrap(),
        }
    }
    // What comes from the server now is somebody else's.
    let _ = fs::read(place.here("not-cached"));
    expect_status(&flush(&place), 4);
    let beside = strange_names(&place);
    let is_of = |path: &PathBuf, start: &str| path.to_string_lossy().starts_with(start);
    let mut whole = base;
    whole[100_000..105_000].fill(b'L');
    let mut parts = vec![0; 300_000];
    parts[100_000..105_000].fill(b'L');
    for (name, expected, files) in [
        ("changed.conflict-", &whole, 1),
        ("removed.removed-", &whole, 1),
        ("not-cached.conflict-", &parts, 2),
    ] {
        let of_it: Vec<_> = beside.iter().filter(|path| is_of(path, name)).collect();
        assert_eq!(of_it.len(), files, "{name}: {beside:?}");
        let found = fs::read(place.backend.plain.join(of_it[0])).unwrap();
        assert!(found == *expected, "{name}");
    }
}

#[test]
fn a_server_that_denies_a_file_for_a_moment_makes_no_conflict() {
    // A name that is not there when it is looked up again is not there.
    for (round, (code, calls)) in [(libc::ESTALE, 3), (libc::ENOENT, 1)]
        .into_iter()
        .enumerate()
    {
        let place = Place::late(&format!("back-beside-denied{round}"));
        fs::write(place.here("file"), "base").unwrap();
        expect_status(&flush(&place), 0);
        let file = read_write(&place.here("file"));
        file.write_all_at(b"ours", 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        place.backend.add_rule(Rule {
            limit_calls: Some(calls),
            ..Rule::new(Operation::Getattr, "file", Action::Errno(code))
        });
        wait_until(LIMIT, "it to be on the backend", || {
            let _ = flush(&place);
            place.mount.status_number("writeback.pending_files") == 0
        });
        assert_eq!(fs::read(place.there("file")).unwrap(), b"ours");
        assert_eq!(fs::read(place.here("file")).unwrap(), b"ours");
        assert_eq!(strange_names(&place), Vec::<PathBuf>::new());
    }
}

#[test]
fn what_came_after_a_conflict_is_not_lost_to_its_answer() {
    let place = Place::new("back-beside-newer", &["writeback_delay=1h", "actimeo=0"]);
    for name in ["sent", "dirty"] {
        fs::write(place.there(name), "base").unwrap();
        fs::write(place.here(name), "ours").unwrap();
        fs::write(place.there(name), "theirs").unwrap();
    }
    expect_status(&flush(&place), 4);
    let keep = |which: &str, name: &str| {
        place.command("conflicts", place.mount.path(), &["--keep", which, name])
    };
    fs::write(place.here("sent"), "later").unwrap();
    expect_status(&flush(&place), 0);
    fs::write(place.here("dirty"), "later").unwrap();
    for name in ["sent", "dirty"] {
        let refused = keep("ours", name);
        expect_status(&refused, 2);
        assert!(
            told(&refused).contains("changed again"),
            "{}",
            told(&refused)
        );
        assert_eq!(fs::read(place.here(name)).unwrap(), b"later", "{name}");
        // As the message says.
        fs::rename(place.here(name), place.here("aside")).unwrap();
        expect_status(&keep("ours", name), 0);
        assert_eq!(fs::read(place.here(name)).unwrap(), b"ours", "{name}");
        assert_eq!(fs::read(place.here("aside")).unwrap(), b"later", "{name}");
    }
    expect_status(&flush(&place), 0);
    assert_eq!(strange_names(&place), Vec::<PathBuf>::new());
}

#[test]
fn a_full_server_has_no_copies_that_are_not_whole() {
    let place = Place::new("back-beside-full", &["writeback_delay=1h", "actimeo=0"]);
    let ours = bytes(1, 300_000);
    fs::write(place.there("file"), bytes(2, 1000)).unwrap();
    fs::write(place.here("file"), &ours).unwrap();
    fs::write(place.there("file"), "theirs").unwrap();
    let full = place.rule(Operation::Write, "*", Action::Errno(libc::ENOSPC));
    for _ in 0..3 {
        let _ = flush(&place);
        assert_eq!(strange_names(&place), Vec::<PathBuf>::new());
    }
    place.backend.remove_rule(full);
    wait_until(LIMIT, "the copy", || {
        let _ = flush(&place);
        place.mount.status_number("writeback.pending_files") == 0
    });
    let [copy] = &strange_names(&place)[..] else {
        panic!("{:?}", strange_names(&place));
    };
    assert!(fs::read(place.backend.plain.join(copy)).unwrap() == ours);
}

#[test]
fn nobody_waits_here_for_a_copy_that_is_slow_on_the_backend() {
    let place = Place::new("back-beside-slow", &["writeback_delay=1h", "actimeo=0"]);
    fs::write(place.there("file"), bytes(2, 1000)).unwrap();
    fs::write(place.here("file"), bytes(1, 1000)).unwrap();
    fs::write(place.there("file"), "theirs").unwrap();
    let hang = Rule::new(Operation::Write, "*", Action::Hang);
    let hang = place.backend.add_rule(hang);
    expect_status(&place.command("flush", place.mount.path(), &[]), 0);
    place.backend.wait_for_hung(1);
    let began = std::time::Instant::now();
    assert_eq!(place.mount.status_number("writeback.pending_files"), 1);
    assert!(fs::read(place.here("file")).unwrap() == bytes(1, 1000));
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    place.backend.remove_rule(hang);
    place.backend.release(None);
    // A flush would say 4 if the conflict came while it waited, and 0 if that was before.
    wait_until(LIMIT, "the copy", || {
        place.mount.status_number("writeback.pending_files") == 0
    });
    expect_status(&flush(&place), 0);
    assert_eq!(strange_names(&place).len(), 1);
}

/// The copy of `part` is ranges and their list.
#[test]
fn a_daemon_killed_while_it_makes_a_copy_leaves_one_that_is_whole() {
    let mut place = Place::new("back-beside-killed", &["writeback_delay=1h", "actimeo=0"]);
    let ours = bytes(1, 300_000);
    for name in ["part", "whole"] {
        fs::write(place.there(name), bytes(2, 400_000)).unwrap();
    }
    let part = read_write(&place.here("part"));
    part.write_all_at(&ours, 50_000).unwrap();
    part.sync_all().unwrap();
    drop(part);
    fs::write(place.here("whole"), &ours).unwrap();
    read_write(&place.here("whole")).sync_all().unwrap();
    for name in ["part", "whole"] {
        fs::write(place.there(name), "theirs").unwrap();
    }
    for step in 0..sample_or_full(3, 12) {
        let slow = place.backend.add_rule(Rule {
            skip_calls: step,
            ..Rule::new(Operation::Write, "*", Action::DelayMs(700))
        });
        expect_status(&place.command("flush", place.mount.path(), &[]), 0);
        wait_until(LIMIT, "a copy to be under way", || {
            strange_names(&place)
                .iter()
                .any(|name| name.to_string_lossy().starts_with('.'))
                || place.mount.status_number("writeback.pending_files") == 0
        });
        for name in strange_names(&place) {
            let text = name.to_string_lossy();
            let is_whole = match (
                text.starts_with("whole.conflict"),
                text.starts_with("part.conflict"),
            ) {
                (true, _) => fs::read(place.backend.plain.join(&name)).unwrap() == ours,
                (_, true) => fs::metadata(place.backend.plain.join(&name)).unwrap().len() != 0,
                _ => true,
            };
            assert!(is_whole, "{name:?}");
        }
        place.mount.kill9();
        place.backend.remove_rule(slow);
        place.mount.remount();
    }
    wait_until(LIMIT, "both copies", || {
        let _ = flush(&place);
        place.mount.status_number("writeback.pending_files") == 0
    });
    let names = strange_names(&place);
    let [part, ranges, whole] = &names[..] else {
        panic!("{names:?}");
    };
    let there = |name: &PathBuf| fs::read(place.backend.plain.join(name)).unwrap();
    assert!(there(whole) == ours);
    assert_eq!(there(ranges), b"size 400000\n50000 350000\n");
    assert!(there(part)[50_000..350_000] == ours);
}
