//! `write_mode=back` with a journal that is not there, or is not as it was: the cache directory remembers it, and a mount
//! that would show the backend as it was before is refused.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::journal_disks::*;
use support::random::Random;
use support::*;

/// What its disk not being mounted looks like.
fn unmount_disk(place: &Place, device: usize) -> PathBuf {
    let away = place.scratch.path().join(format!("away{device}"));
    fs::rename(place.directory(device), &away).unwrap();
    fs::create_dir(place.directory(device)).unwrap();
    away
}

fn mount_disk(place: &Place, device: usize, away: &Path) {
    let _ = fs::remove_dir_all(place.directory(device));
    fs::rename(away, place.directory(device)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([from, to])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The command that a refused mount names.
fn forget_command(told: &str) -> Vec<String> {
    command_of("forget", told)
}

fn command_of(action: &str, told: &str) -> Vec<String> {
    let start = told.find(&format!("nfs-cachefs journal {action}"));
    let start = start.expect(told);
    let command = told[start..].split('`').next().unwrap();
    let words = command.split_whitespace().skip(1);
    words.map(str::to_owned).collect()
}

fn run(words: &[String]) -> Output {
    let mut command = Command::new(mount::PROGRAM);
    command.args(words);
    process::run(command, LIMIT)
}

/// What the cache directory remembers.
fn remembered(place: &Place) -> Vec<u8> {
    fs::read(place.mount.cache_dir().join("journals")).unwrap()
}

/// Writes once more, and waits until the cache directory has heard of it.
fn write_and_wait_until_noted(place: &mut Place) {
    let before = remembered(place);
    place.write();
    wait_until(LIMIT, "the cache directory to hear of it", || {
        remembered(place) != before
    });
}

#[test]
fn a_journal_whose_disk_is_not_mounted_is_asked_for_by_name() {
    for erasure in ["1+0", "2+1"] {
        let mut place = Place::new("absent-unmounted", erasure);
        place.write();
        place.mount.kill9();
        let devices = 0..place.devices;
        let away: Vec<PathBuf> = devices.map(|device| unmount_disk(&place, device)).collect();
        let told = place.refusal();
        for wanted in [
            "is not there",
            "may hold",
            &text(&place.directory(0)),
            "journal forget",
        ] {
            assert!(told.contains(wanted), "{wanted} in {told}");
        }
        let left = fs::read_dir(place.directory(0)).unwrap().count();
        assert_eq!(left, 0, "nothing is left in what is not the journal");
        for (device, away) in away.iter().enumerate() {
            mount_disk(&place, device, away);
        }
        place.mount.remount();
        place.expect_all("with its disks again");
    }
}

#[test]
fn another_directory_at_the_path_of_the_backend_is_called_that() {
    let mut place = Place::new("absent-export", "1+0");
    place.write();
    place.mount.kill9();
    let plain = place.scratch.path().join("plain");
    let away = place.scratch.path().join("export");
    fs::rename(&plain, &away).unwrap();
    fs::create_dir(&plain).unwrap();
    let told = place.refusal();
    assert!(
        told.contains("another one is there now") && told.contains("is the export mounted?"),
        "{told}"
    );
    fs::remove_dir(&plain).unwrap();
    fs::rename(&away, &plain).unwrap();
    place.mount.remount();
    place.expect_all("of its own backend");
}

/// It ended well, and the backend did not take all of it.
#[test]
fn a_journal_that_was_left_with_something_is_asked_for() {
    let mut place = written_back::Place::late("absent-kept");
    fs::write(place.here("file"), bytes(5, 100_000)).unwrap();
    let rule = place.rule(Operation::Write, "file", Action::Errno(libc::EIO));
    let output = place.mount.command("umount", &["--keep-dirty"], LIMIT);
    assert!(output.status.success(), "{output:?}");
    place.mount.expect_end(LIMIT);
    place.backend.remove_rule(rule);
    let journal = place.scratch.path().join("journal-of-cache");
    let away = place.scratch.path().join("away");
    fs::rename(&journal, &away).unwrap();
    let output = place.mount.try_mount(LIMIT);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("it holds what was written"), "{told}");
    fs::rename(&away, &journal).unwrap();
    place.mount.remount();
    assert!(fs::read(place.here("file")).unwrap() == bytes(5, 100_000));
}

#[test]
fn a_journal_of_another_place_is_no_answer() {
    let mut place = Place::new("absent-elsewhere", "1+0");
    let option = |path: &Path| format!("journal_dir={}", path.display());
    // Another one of the same backend, of a cache directory that knows no better.
    let cache = place.mount.cache_dir().to_owned();
    let (other_cache, other) = (
        place.scratch.path().join("other-cache"),
        place.scratch.path().join("other"),
    );
    mount::private_directory(&other_cache);
    place.write();
    place.mount.umount();
    place.mount.options_mut().cache_dirs = vec![other_cache];
    place.set_option("journal_dir=", &option(&other));
    place.mount.remount();
    place.mount.umount();
    place.mount.options_mut().cache_dirs = vec![cache];
    let own = place.directory(0);
    place.set_option("journal_dir=", &option(&own));
    place.mount.remount();
    place.write();
    place.mount.kill9();
    place.set_option("journal_dir=", &option(&other));
    let told = place.refusal();
    assert!(told.contains(&text(&own)), "{told}");
    place.set_option("journal_dir=", &option(&own));
    place.mount.remount();
    place.expect_all("with the one that is meant");
}

#[test]
fn only_a_command_goes_on_without_a_journal_that_is_lost() {
    let mut place = Place::new("absent-forget", "1+0");
    place.write();
    let told = run(&forget_command(&format!(
        "nfs-cachefs journal forget {} {}",
        "0".repeat(32),
        text(place.mount.cache_dir())
    )));
    let in_use = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(2), "{in_use}");
    assert!(in_use.contains("in use"), "{in_use}");
    place.mount.kill9();
    unmount_disk(&place, 0);
    let command = forget_command(&place.refusal());
    let mut wrong = command.clone();
    wrong[2] = "0".repeat(32);
    let refused = run(&wrong);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains(&command[2]), "those that are known: {told}");
    assert!(place.refusal().contains("is not there"));
    let output = run(&command);
    assert!(output.status.success(), "{output:?}");
    place.mount.remount();
    let (lost, _) = &place.files[0];
    assert_eq!(fs::read(place.mount.join(lost)).unwrap(), b"");
    place.files.clear();
    place.write();
    place.kill_and_remount();
    place.expect_all("in the new one");
}

#[test]
fn a_journal_that_held_nothing_makes_way_for_a_new_one() {
    let mut place = Place::new("absent-clean", "1+0");
    place.write();
    place.mount.umount();
    let _away = unmount_disk(&place, 0);
    place.mount.remount();
    let log = place.mount.log();
    assert!(log.contains("held nothing"), "{log}");
    place.expect_all("on the backend");
    place.write();
    place.mount.umount();
    // Another number of directories takes another journal.
    let directories = ["m0", "m1"].map(|name| text(&place.scratch.path().join(name)));
    place.set_option("erasure=", "erasure=1+1");
    place.set_option(
        "journal_dir=",
        &format!("journal_dir={}", directories.join(":")),
    );
    place.mount.remount();
    place.expect_all("in a mirror");
}

#[test]
fn a_mount_that_writes_through_tells_of_a_journal_that_may_hold_something() {
    let mut place = Place::new("absent-through", "1+0");
    place.write();
    place.mount.kill9();
    place.mount.options_mut().options = vec!["write_mode=through".to_owned()];
    place.mount.remount();
    let wanted = format!("has one in {}", text(&place.directory(0)));
    wait_until(LIMIT, "it to be told", || {
        place.mount.log().contains(&wanted)
    });
    // Who did not see it mounted reads it there.
    let warnings = place.mount.status()["warnings"].to_string();
    assert!(warnings.contains(&wanted), "{warnings}");
}

#[test]
fn segments_that_are_gone_are_a_lost_disk() {
    let mut place = Place::new("absent-segments", "2+1");
    place.write();
    place.mount.kill9();
    for path in place.segments(1) {
        fs::remove_file(path).unwrap();
    }
    place.mount.remount();
    place.expect_all("without one disk");
    assert_eq!(place.mount.status_number("journal.degraded_devices"), 1);
    place.expect_journal("rebuild", &[]);
    place.mount.kill9();
    for device in 0..place.devices {
        fs::remove_dir_all(place.directory(device).join("segments")).unwrap();
    }
    let told = place.refusal();
    assert!(told.contains("segments are there"), "{told}");

    let mut place = Place::new("absent-segment", "1+0");
    place.write();
    place.mount.kill9();
    let one = place.segments(0).pop().unwrap();
    let away = place.scratch.path().join("segment");
    fs::rename(&one, &away).unwrap();
    let told = place.refusal();
    assert!(told.contains("7 of its 8 segments"), "{told}");
    fs::rename(&away, &one).unwrap();
    place.mount.remount();
    place.expect_all("with all of them");
}

#[test]
fn an_old_copy_of_a_journal_is_not_taken_for_the_last() {
    let mut place = Place::new("absent-old", "1+0");
    place.write();
    let old = place.scratch.path().join("old");
    copy(&place.directory(0), &old);
    write_and_wait_until_noted(&mut place);
    place.mount.kill9();
    let away = unmount_disk(&place, 0);
    mount_disk(&place, 0, &old);
    let told = place.refusal();
    assert!(told.contains("acknowledged writes are lost"), "{told}");
    // An epoch later it is told by that, whatever was written.
    copy(&place.directory(0), &old);
    mount_disk(&place, 0, &away);
    place.mount.remount();
    place.mount.umount();
    let away = unmount_disk(&place, 0);
    mount_disk(&place, 0, &old);
    let told = place.refusal();
    assert!(told.contains("older than they should be"), "{told}");
    mount_disk(&place, 0, &away);
    place.mount.remount();
    place.expect_all("the last one");
}

/// The other half is gone, and this one was put back as it was before: only the cache directory knows.
#[test]
fn an_old_half_of_a_mirror_is_not_taken_for_the_last() {
    for (stale, gone) in [(0, 1), (1, 0)] {
        let mut place = Place::new("absent-half", "1+1");
        place.write();
        let old = place.scratch.path().join("old");
        copy(&place.directory(stale), &old);
        write_and_wait_until_noted(&mut place);
        place.mount.kill9();
        let last = unmount_disk(&place, stale);
        mount_disk(&place, stale, &old);
        let away = unmount_disk(&place, gone);
        let told = place.refusal();
        assert!(told.contains("acknowledged writes are lost"), "{told}");
        mount_disk(&place, stale, &last);
        place.mount.remount();
        place.expect_all("half of it, as it was last");
        drop(away);
    }
}

/// What came between the last note and the crash: a copy is told by the file that it is, and what is no copy is believed,
/// in words.
#[test]
fn a_copy_of_half_a_mirror_is_refused_until_it_is_accepted() {
    for (stale, gone) in [(0, 1), (1, 0)] {
        let mut place = Place::new("absent-copy", "1+1");
        place.write();
        let old = place.scratch.path().join("old");
        copy(&place.directory(stale), &old);
        place.mount.kill9();
        let away = unmount_disk(&place, gone);
        let last = unmount_disk(&place, stale);
        mount_disk(&place, stale, &old);
        let told = place.refusal();
        assert!(told.contains("but a copy of it"), "{told}");
        mount_disk(&place, stale, &last);
        place.mount.remount();
        place.expect_all("half of it, as it was last");
        let warnings = place.mount.status()["warnings"].to_string();
        assert!(
            warnings.contains("only the others could tell"),
            "{warnings}"
        );
        drop(away);
    }
}

#[test]
fn copies_that_are_all_there_is_are_taken_when_somebody_says_so() {
    for erasure in ["1+0", "2+1"] {
        let mut place = Place::new("absent-accept", erasure);
        place.write();
        place.mount.kill9();
        for device in 0..place.devices {
            let last = unmount_disk(&place, device);
            fs::remove_dir(place.directory(device)).unwrap();
            copy(&last, &place.directory(device));
        }
        let told = place.refusal();
        let command = command_of("accept", &told);
        let output = run(&command);
        assert!(output.status.success(), "{output:?}");
        place.mount.remount();
        place.expect_all("in copies");
    }
}

/// It is known how far it had come.
#[test]
fn a_journal_that_ended_well_may_be_moved() {
    let mut place = Place::new("absent-moved", "1+0");
    place.write();
    let rule = place.mount.command("umount", &["--keep-dirty"], LIMIT);
    assert!(rule.status.success(), "{rule:?}");
    place.mount.expect_end(LIMIT);
    let moved = place.scratch.path().join("moved");
    copy(&place.directory(0), &moved);
    fs::remove_dir_all(place.directory(0)).unwrap();
    place.set_option("journal_dir=", &format!("journal_dir={}", text(&moved)));
    place.mount.remount();
    place.expect_all("in another place");
}

/// Nothing in it is needed: the directories of the journal decide.
#[test]
fn a_journal_outlives_the_cache_directory() {
    let mut random = Random::new(1);
    for erasure in ["1+0", "2+1"] {
        let mut place = Place::new("absent-cache", erasure);
        place.write();
        place.mount.kill9();
        let cache = place.mount.cache_dir().to_owned();
        fs::remove_dir_all(&cache).unwrap();
        mount::private_directory(&cache);
        place.mount.remount();
        place.expect_all("with an empty cache");
        place.mount.kill9();
        // What it remembers is damaged.
        fs::write(cache.join("journals"), random.below(1 << 40).to_le_bytes()).unwrap();
        place.mount.remount();
        place.expect_all("with a cache that is not understood");
        let log = place.mount.log();
        assert!(log.contains("cannot be read"), "{log}");
        let mode = fs::metadata(cache.join("journals")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o77, 0, "nobody else reads it");
    }
}
