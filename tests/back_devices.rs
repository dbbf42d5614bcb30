//! `write_mode=back` with a journal on several disks: as many of them as `erasure` says may be lost at any time, and taken
//! in again.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use support::journal_disks::*;
use support::random::Random;
use support::*;

/// Each device with every loss, and pairs of devices where two may be lost; in the sample one of each kind.
fn losses(devices: usize, parity: usize) -> Vec<Vec<usize>> {
    let ones = (0..devices).map(|device| vec![device]);
    let pairs = (0..devices).flat_map(|a| (a + 1..devices).map(move |b| vec![a, b]));
    let all: Vec<Vec<usize>> = match parity {
        1 => ones.collect(),
        _ => ones.chain(pairs).collect(),
    };
    let step = sample_or_full(all.len() / 2, 1).max(1);
    all.into_iter().step_by(step).collect()
}

fn survives(test: &str, erasure: &str, parity: usize) {
    let mut random = Random::new(1);
    let mut place = Place::new(test, erasure);
    place.write();
    for (round, lost) in losses(place.devices, parity).into_iter().enumerate() {
        let how = LOSSES[round % 3];
        let context = format!("{erasure} without {lost:?}, {how:?}");
        // Gone while it is written to, and still gone at the next mount.
        place.write();
        for device in &lost {
            place.lose(*device, how, &mut random);
        }
        place.write();
        place.expect_all(&context);
        place.kill_and_remount();
        place.expect_all(&context);
        place.write();
        let told = place.expect_journal("rebuild", &[]);
        assert!(told.contains("0 batches lack shards"), "{context}: {told}");
        assert_eq!(place.tolerated(), parity as u64, "{context}: {told}");
        place.write();
        place.expect_all(&context);
    }
}

#[test]
fn any_disk_of_a_mirror_may_be_lost_and_is_made_good() {
    survives("devices-mirror", "1+1", 1);
}

#[test]
fn any_disk_of_three_may_be_lost_and_is_made_good() {
    survives("devices-three", "2+1", 1);
}

#[test]
fn any_two_disks_of_six_may_be_lost_and_are_made_good() {
    survives("devices-six", "4+2", 2);
}

#[test]
fn a_disk_whose_files_are_removed_in_use_is_given_up() {
    let mut place = Place::new("devices-removed", "2+1");
    place.write();
    fs::remove_dir_all(place.directory(1)).unwrap();
    place.write();
    assert_eq!(place.mount.status_number("journal.degraded_devices"), 1);
    assert_eq!(place.tolerated(), 0);
    place.kill_and_remount();
    place.expect_all("removed in use");
}

#[test]
fn records_without_a_head_are_refused_untouched() {
    let mut place = Place::new("devices-headless", "1+0");
    place.write();
    place.mount.kill9();
    let head = place.directory(0).join("journal.head");
    let kept = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    let told = place.refusal();
    assert!(told.contains("journal.head is missing"), "{told}");
    fs::write(&head, kept).unwrap();
    place.mount.remount();
    place.expect_all("with its head again");
}

#[test]
fn nothing_is_acknowledged_that_only_removed_files_have() {
    let place = Place::new("devices-gone", "1+0");
    fs::remove_dir_all(place.directory(0)).unwrap();
    let file = File::create(place.mount.join("file")).unwrap();
    let written = file.write_all_at(b"data", 0);
    assert!(written.and_then(|()| file.sync_all()).is_err());
}

#[test]
fn more_disks_lost_than_may_be_is_refused_with_a_report_and_never_wrong() {
    let mut place = Place::new("devices-too-many", "2+1");
    // What comes later says that the first batch was acknowledged.
    (0..3).for_each(|_| place.write());
    let mut random = Random::new(2);
    for device in [0, 2] {
        for path in place.segments(device) {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&bytes(9, 1000), 60_000).unwrap();
        }
    }
    let (large, _) = place.files[0].clone();
    let found = fs::read(place.mount.join(large));
    assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::EIO));
    place.mount.kill9();
    let told = place.refusal();
    assert!(told.contains("acknowledged writes are lost"), "{told}");
    for device in [0, 2] {
        place.lose(device, Loss::Removed, &mut random);
    }
    let told = place.refusal();
    assert!(
        told.contains("1 of 3 devices are there, 2 are needed"),
        "{told}"
    );
    assert!(told.contains("j0: it is empty"), "{told}");
}

/// One half of a mirror is not taken for all of it when the other may have gone on.
#[test]
fn the_half_of_a_mirror_that_was_left_behind_is_refused() {
    let mut place = Place::new("devices-behind", "1+1");
    place.write();
    place.mount.kill9();
    let away = place.scratch.path().join("away");
    fs::rename(place.directory(1), &away).unwrap();
    place.mount.remount();
    place.expect_all("the first half");
    place.write();
    place.mount.kill9();
    fs::remove_dir_all(place.directory(1)).unwrap();
    fs::rename(&away, place.directory(1)).unwrap();
    let first = place.scratch.path().join("first");
    fs::rename(place.directory(0), &first).unwrap();
    let told = place.refusal();
    assert!(told.contains("may have gone on"), "{told}");
    fs::rename(&first, place.directory(0)).unwrap();
    place.mount.remount();
    place.expect_all("both halves");
    place.expect_journal("rebuild", &[]);
    assert_eq!(place.tolerated(), 1);
}

#[test]
fn a_disk_is_replaced_while_writing_goes_on() {
    let mut place = Place::new("devices-replaced", "2+1");
    place.write();
    let (old, new) = (place.directory(1), place.scratch.path().join("new"));
    let (old, new) = (text(&old), text(&new));
    let writer = {
        let path = place.mount.join("beside");
        std::thread::spawn(move || {
            let file = File::create(path).unwrap();
            for round in 0..50u8 {
                file.write_all_at(&bytes(round, 50_000), u64::from(round) * 50_000)
                    .unwrap();
                file.sync_all().unwrap();
            }
        })
    };
    // What takes part is not taken for another directory, however it is named.
    let member = text(&place.directory(2));
    for name in [format!("{member}/"), format!("{member}/segments")] {
        let refused = place.journal("replace", &[&old, &name]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
    place.expect_journal("replace", &[&old, &new]);
    writer.join().unwrap();
    assert_eq!(place.tolerated(), 1);
    let told = place.expect_journal("status", &[]);
    assert!(told.contains(&format!("{new}: ok")), "{told}");
    assert!(!told.contains(&old), "{told}");
    let output = place.mount.command("config", &[], LIMIT);
    let config = String::from_utf8_lossy(&output.stdout);
    let line = config.lines().find(|line| line.starts_with("journal_dir="));
    let line = line.expect("it has a journal");
    assert!(line.contains(&new) && !line.contains(&old), "{line}");
    assert!(line.contains("journal replace"), "{line}");
    // Another one goes, and the new one has its part.
    let mut expected: Vec<u8> = Vec::new();
    (0..50u8).for_each(|round| expected.extend(bytes(round, 50_000)));
    place.files.push(("beside".to_owned(), expected));
    place.mount.kill9();
    let directories = format!(
        "journal_dir={}:{new}:{}",
        text(&place.directory(0)),
        text(&place.directory(2))
    );
    let options = &mut place.mount.options_mut().options;
    options.retain(|option| !option.starts_with("journal_dir="));
    options.push(directories);
    fs::remove_dir_all(place.directory(0)).unwrap();
    place.mount.remount();
    place.expect_all("with the new one");
}

#[test]
fn a_scrub_of_the_journal_finds_what_rotted_and_mends_it() {
    let mut place = Place::new("devices-scrub", "2+1");
    place.write();
    let told = place.expect_journal("scrub", &[]);
    assert!(told.contains(" 0 of them damaged"), "{told}");
    for path in place.segments(1) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&bytes(3, 3 << 20), 8192).unwrap();
    }
    place.expect_journal("scrub", &[]);
    assert!(place.mount.status_number("journal.damaged_shards") > 0);
    assert!(place.mount.status_number("journal.mended_batches") > 0);
    assert_eq!(place.tolerated(), 1);
    let told = place.expect_journal("scrub", &[]);
    assert!(told.contains(" 0 of them damaged"), "{told}");
    place.expect_all("mended");
}

#[test]
fn a_journal_of_another_shape_than_is_asked_for_is_refused() {
    let mut place = Place::new("devices-shape", "1+1");
    place.write();
    place.mount.kill9();
    let options = &mut place.mount.options_mut().options;
    options.retain(|option| !option.starts_with("erasure="));
    let told = place.refusal();
    assert!(told.contains("erasure=1+0 takes 1"), "{told}");
    place.set_option("erasure=", "erasure=2+0");
    let told = place.refusal();
    assert!(told.contains("made with erasure=1+1"), "{told}");
    place.set_option("erasure=", "erasure=2+1");
    let other = place.scratch.path().join("other");
    let options = &mut place.mount.options_mut().options;
    options.retain(|option| !option.starts_with("journal_dir="));
    options.push(format!("journal_dir={}", text(&other)));
    let told = place.refusal();
    assert!(told.contains("erasure=2+1 takes 3"), "{told}");
}

#[test]
fn a_degraded_journal_and_what_it_holds_are_told_of() {
    let mut place = Place::new("devices-told", "2+1");
    place.write();
    place.mount.kill9();
    fs::remove_dir_all(place.directory(1)).unwrap();
    place.mount.remount();
    let (gone, first) = (text(&place.directory(1)), text(&place.directory(0)));
    for wanted in [
        format!("goes without {gone}"),
        "survives the loss of 0 more disks, not of 1".to_owned(),
        "400300 bytes in 2 files that the backend does not have".to_owned(),
        format!("{first} and {gone}"),
        "lie on one disk".to_owned(),
    ] {
        wait_until(LIMIT, &wanted, || place.mount.log().contains(&wanted));
    }
    let output = place.mount.command("doctor", &[], LIMIT);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    for wanted in [
        format!("the journal goes without {gone}"),
        "nfs-cachefs journal rebuild".to_owned(),
        "lie on one disk".to_owned(),
    ] {
        assert!(told.contains(&wanted), "{wanted} in {told}");
    }
}

#[test]
fn a_damaged_head_is_mended_by_the_command_that_its_message_names() {
    let mut place = Place::new("devices-head", "1+1");
    place.write();
    let told = place.expect_journal("status", &[]);
    assert!(told.starts_with("erasure 1+1, ok; 1 more"), "{told}");
    place.mount.kill9();
    fs::write(place.directory(1).join("journal.head"), [7; 300]).unwrap();
    place.mount.remount();
    let output = place.journal("status", &[]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(
        told.starts_with("erasure 1+1, degraded: 1 of 2 disks missing; 0 more"),
        "{told}"
    );
    assert!(told.contains("`nfs-cachefs journal rebuild`"), "{told}");
    let told = place.expect_journal("rebuild", &[]);
    assert!(told.starts_with("erasure 1+1, ok; 1 more"), "{told}");
    place.expect_all("mended");
}

#[test]
fn a_journal_without_parity_says_that_no_disk_may_be_lost() {
    let place = Place::new("devices-no-parity", "2+0");
    let warnings = place.mount.status()["warnings"].to_string();
    assert!(
        warnings.contains("none of the journal's disks may be lost"),
        "{warnings}"
    );
    assert!(!warnings.contains("second journal directory"), "{warnings}");
    let output = place.mount.command("doctor", &[], LIMIT);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("no disk of the journal may be lost (erasure=2+0)"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_replaced_or_taken_in_is_refused_and_nothing_changes() {
    let place = Place::new("devices-alone", "1+0");
    let new = place.scratch.directory("new");
    let refused = |place: &Place, new: &std::path::Path| {
        let output = place.journal("replace", &[&text(&place.directory(0)), &text(new)]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = refused(&place, &new);
    assert!(told.contains("flush --wait"), "{told}");
    let mut place = Place::new("devices-foreign", "1+1");
    place.write();
    let letters = place.scratch.directory("letters");
    fs::write(letters.join("letter"), "to whom it may concern").unwrap();
    let told = refused(&place, &letters);
    assert!(told.contains("\"letter\" is there"), "{told}");
    assert_eq!(place.tolerated(), 1, "nothing was given up for it");
    // Another mount's, and it is in use.
    let other = Place::new("devices-others", "1+0");
    let told = refused(&place, &other.directory(0));
    assert!(told.contains("in use by the mount"), "{told}");
    assert!(!told.contains("cache_dir"), "{told}");
    let theirs = other.directory(0);
    let mut other = other;
    other.mount.umount();
    let told = refused(&place, &theirs);
    assert!(told.contains("another journal"), "{told}");
    assert_eq!(place.tolerated(), 1);
    place.expect_all("as before");
}
