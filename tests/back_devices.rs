//! `write_mode=back` with a journal on several disks: as many of them as `erasure` says may be lost at any time, and taken
//! in again.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use support::random::Random;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

/// A mount whose journal lies in the directories `j0`, `j1` and so on, and which brings nothing to the backend by itself.
struct Place {
    mount: Mount,
    devices: usize,
    /// What was written and synced.
    files: Vec<(String, Vec<u8>)>,
    scratch: Scratch,
}

impl Place {
    fn new(test: &str, erasure: &str) -> Self {
        let scratch = Scratch::new(test);
        let devices: usize = erasure
            .split('+')
            .map(|n| n.parse::<usize>().unwrap())
            .sum();
        let directories: Vec<String> = (0..devices)
            .map(|number| {
                scratch
                    .path()
                    .join(format!("j{number}"))
                    .display()
                    .to_string()
            })
            .collect();
        let options = MountOptions::new(&scratch)
            .with("write_mode=back")
            .with("journal_size=64M")
            .with("writeback_delay=1h")
            .with(&format!("erasure={erasure}"))
            .with(&format!("journal_dir={}", directories.join(":")));
        let plain = scratch.directory("plain");
        let mount = Mount::start(&scratch, &plain, options);
        Self {
            mount,
            devices,
            files: Vec::new(),
            scratch,
        }
    }

    fn directory(&self, device: usize) -> PathBuf {
        self.scratch.path().join(format!("j{device}"))
    }

    /// A large file, in shards, and a small one, in copies; on stable storage when it returns.
    fn write(&mut self) {
        for length in [400_000, 300] {
            let number = self.files.len();
            let data = bytes(number as u8, length);
            let name = format!("file{number}");
            let file = File::create(self.mount.join(&name)).unwrap();
            file.write_all_at(&data, 0).unwrap();
            file.sync_all().unwrap();
            self.files.push((name, data));
        }
    }

    fn expect_all(&self, context: &str) {
        for (name, expected) in &self.files {
            let found = fs::read(self.mount.join(name));
            let found = found.unwrap_or_else(|error| panic!("{context}, {name}: {error}"));
            assert!(found == *expected, "{context}: {name}");
        }
    }

    fn kill_and_remount(&mut self) {
        self.mount.kill9();
        self.mount.remount();
    }

    fn tolerated(&self) -> u64 {
        self.mount.status_number("journal.tolerated_losses")
    }

    fn segments(&self, device: usize) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory(device).join("segments")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Writes over what a disk has, here and there, its first blocks among it.
    fn corrupt(&self, device: usize, random: &mut Random) {
        for path in self.segments(device) {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len();
            for round in 0..100 {
                let at = match round {
                    0..30 => random.below(2 << 20),
                    _ => random.below(length),
                };
                file.write_all_at(&bytes(round, 900), at).unwrap();
            }
        }
    }

    fn lose(&self, device: usize, how: Loss, random: &mut Random) {
        let path = self.directory(device);
        match how {
            Loss::Removed => fs::remove_dir_all(&path).unwrap(),
            Loss::Emptied => {
                fs::remove_dir_all(path.join("segments")).unwrap();
                fs::remove_file(path.join("journal.head")).unwrap();
            }
            Loss::Corrupted => self.corrupt(device, random),
        }
    }

    fn journal(&self, action: &str, arguments: &[&str]) -> Output {
        let mut command = std::process::Command::new(support::mount::PROGRAM);
        command.args(["journal", action]).arg(self.mount.path());
        command.args(arguments);
        support::process::run(command, LIMIT)
    }

    fn expect_journal(&self, action: &str, arguments: &[&str]) -> String {
        let output = self.journal(action, arguments);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{action}: {told}{error}");
        told
    }

    /// What a mount that is refused says.
    fn refusal(&self) -> String {
        let output = self.mount.try_mount(LIMIT);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{told}");
        told
    }
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Removed,
    Emptied,
    Corrupted,
}

const LOSSES: [Loss; 3] = [Loss::Removed, Loss::Emptied, Loss::Corrupted];

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| seed.wrapping_add((at / 7) as u8))
        .collect()
}

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
    assert!(told.contains("made with erasure=1+1"), "{told}");
    let options = &mut place.mount.options_mut().options;
    options.push("erasure=2+1".to_owned());
    let told = place.refusal();
    assert!(told.contains("made with erasure=1+1"), "{told}");
    let other = place.scratch.path().join("other");
    let options = &mut place.mount.options_mut().options;
    options.retain(|option| !option.starts_with("journal_dir="));
    options.push(format!("journal_dir={}", text(&other)));
    let told = place.refusal();
    assert!(told.contains("erasure=2+1 takes 3"), "{told}");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
