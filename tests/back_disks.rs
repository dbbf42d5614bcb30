//! `write_mode=back` with a journal on real disks: filesystems on loop devices, which are unmounted, made anew, written
//! over, and cut off in the middle of a write.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::disk::{can_mount_images, mount_image};
use support::journal_disks::*;
use support::random::Random;
use support::*;

const DISK_BYTES: u64 = 96 << 20;

/// As many disks as it takes, mounted as `j0` and so on. `None` where this machine lets nobody mount images.
fn disks(test: &str, devices: usize, kind: &str, disk_bytes: u64) -> Option<Scratch> {
    let scratch = Scratch::new(test);
    if let Err(reason) = can_mount_images(&scratch) {
        eprintln!("skipped: {reason}");
        return None;
    }
    for device in 0..devices {
        let path = scratch.directory(&format!("j{device}"));
        let image = scratch.path().join(format!("j{device}.image"));
        mount_image(&image, &path, kind, disk_bytes);
    }
    Some(scratch)
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The filesystem is gone: there is an empty directory.
    Unmounted,
    /// Made anew: a new disk in its place.
    Emptied,
    /// Written over, here and there.
    Corrupted,
    /// Cut off: all that is asked of it fails from now on, until it is mounted again.
    CutOff,
}

const FAULTS: [Fault; 4] = [
    Fault::Unmounted,
    Fault::Emptied,
    Fault::Corrupted,
    Fault::CutOff,
];

struct Disks<'a> {
    place: &'a Place,
}

impl Disks<'_> {
    fn image(&self, device: usize) -> PathBuf {
        self.place.scratch.path().join(format!("j{device}.image"))
    }

    fn strike(&self, device: usize, fault: Fault, random: &mut Random) {
        let path = self.place.directory(device);
        match fault {
            Fault::Unmounted => disk::detach(&path),
            Fault::Emptied => {
                disk::detach(&path);
                fs::remove_file(self.image(device)).unwrap();
                mount_image(&self.image(device), &path, "ext4", DISK_BYTES);
            }
            Fault::Corrupted => self.place.corrupt(device, random),
            Fault::CutOff => disk::cut_off(&path),
        }
    }

    /// The disk works again, whatever it has.
    fn bring_back(&self, device: usize) {
        let path = self.place.directory(device);
        if scratch::mount_at(&path).is_some() {
            disk::detach(&path);
        }
        let image = self.image(device);
        disk::mount_again(&image, &path, "ext4");
    }
}

#[test]
fn a_lone_disk_that_has_failed_is_named_and_told_of_by_the_exit_status() {
    let Some(scratch) = disks("disks-lone", 1, "ext4", DISK_BYTES) else {
        return;
    };
    let mut place = Place::on(scratch, "1+0", "64M");
    place.write();
    place.expect_journal("status", &[]);
    disk::cut_off(&place.directory(0));
    let file = File::create(place.mount.join("refused")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert!(file.sync_all().is_err());
    drop(file);
    let told = place.journal("status", &[]);
    let words = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.status.code(), Some(3), "{words}");
    let device = format!("{}: ", text(&place.directory(0)));
    assert!(words.contains(&device), "{words}");
    assert!(!words.contains(&format!("{device}ok")), "{words}");
    assert_eq!(place.mount.status_number("journal.degraded_devices"), 1);
    place.mount.kill9();
    Disks { place: &place }.bring_back(0);
    place.mount.remount();
    place.expect_all("after the disk has come back");
}

/// Until it is thawed again, whatever becomes of the test.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: PathBuf) -> Self {
        freeze(&path, "-f");
        Self(path)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        freeze(&self.0, "-u");
    }
}

/// fsfreeze(8): whoever writes waits.
fn freeze(path: &Path, how: &str) {
    let mut command = std::process::Command::new("fsfreeze");
    command.arg(how).arg(path);
    let output = process::run(command, LIMIT);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_mount_waits_for_no_disk_that_hangs() {
    let Some(scratch) = disks("disks-frozen", 2, "ext4", DISK_BYTES) else {
        return;
    };
    let mut place = Place::on(scratch, "1+1", "64M");
    place.write();
    place.mount.umount();
    let frozen = Frozen::new(place.directory(0));
    place.mount.remount();
    let status = place.mount.status().to_string();
    assert!(status.contains("has not answered within 15 s"), "{status}");
    place.write();
    place.expect_all("with a frozen disk");
    assert_eq!(place.mount.status_number("journal.degraded_devices"), 1);
    drop(frozen);
    place.mount.kill9();
    // What it missed while it hung it gets again.
    place.mount.remount();
    place.write();
    place.expect_all("thawed");
}

/// Struck while the journal is written to, and found so by the next mount.
#[test]
fn any_two_real_disks_of_six_may_be_lost_and_are_made_good() {
    let Some(scratch) = disks("disks-six", 6, "ext4", DISK_BYTES) else {
        return;
    };
    let mut random = Random::new(3);
    let mut place = Place::on(scratch, "4+2", "64M");
    place.write();
    let pairs = (0..6).flat_map(|a| (a + 1..6).map(move |b| vec![a, b]));
    let all: Vec<Vec<usize>> = (0..6).map(|a| vec![a]).chain(pairs).collect();
    let step = sample_or_full(20, 1);
    for (round, lost) in all.into_iter().step_by(step).enumerate() {
        for fault in [FAULTS[2 * round % 4], FAULTS[(2 * round + 1) % 4]] {
            let context = format!("without {lost:?}, {fault:?}");
            place.write();
            for device in &lost {
                Disks { place: &place }.strike(*device, fault, &mut random);
            }
            place.write();
            place.expect_all(&context);
            // Whether a disk is back before the next mount, or after it.
            let is_late = matches!(fault, Fault::Unmounted);
            place.mount.kill9();
            if is_late {
                place.mount.remount();
                place.expect_all(&context);
                place.write();
            }
            for device in &lost {
                Disks { place: &place }.bring_back(*device);
            }
            if !is_late {
                place.mount.remount();
                place.expect_all(&context);
                place.write();
            }
            let told = place.expect_journal("rebuild", &[]);
            assert!(told.contains("0 batches lack shards"), "{context}: {told}");
            place.expect_journal("scrub", &[]);
            assert_eq!(place.tolerated(), 2, "{context}");
            place.expect_all(&context);
        }
    }
}

#[test]
fn any_three_real_disks_of_six_are_refused_with_a_report() {
    let Some(scratch) = disks("disks-three", 6, "ext4", DISK_BYTES) else {
        return;
    };
    let mut place = Place::on(scratch, "4+2", "64M");
    (0..3).for_each(|_| place.write());
    place.mount.kill9();
    let triples =
        (0..6).flat_map(|a| (a + 1..6).flat_map(move |b| (b + 1..6).map(move |c| [a, b, c])));
    let step = sample_or_full(19, 1);
    for lost in triples.step_by(step) {
        for device in lost {
            disk::detach(&place.directory(device));
        }
        let told = place.refusal();
        assert!(
            told.contains("3 of 6 devices are there, 4 are needed"),
            "{told}"
        );
        for device in lost {
            let told_of = format!("{}: it is empty", text(&place.directory(device)));
            assert!(told.contains(&told_of), "{told_of} in {told}");
            Disks { place: &place }.bring_back(device);
        }
    }
    // One after the other, while it is written to: no more is acknowledged, and nothing else is read.
    place.mount.remount();
    place.expect_all("all are there");
    for device in [1, 3, 5] {
        disk::cut_off(&place.directory(device));
    }
    let file = File::create(place.mount.join("late")).unwrap();
    let written = file.write_all_at(&bytes(1, 300_000), 0);
    assert!(written.and_then(|()| file.sync_all()).is_err());
    for (name, expected) in &place.files {
        if let Ok(found) = fs::read(place.mount.join(name)) {
            assert!(found == *expected, "{name}");
        }
    }
    place.mount.kill9();
    for device in [1, 3, 5] {
        Disks { place: &place }.bring_back(device);
    }
    place.mount.remount();
    place.expect_all("they are back");
}

/// Writes numbered blocks with fsync, and says how many of them it was told are durable.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const BLOCK_BYTES: usize = 4096;
const FILES: u64 = 64;
/// Written one after the other, then synced.
const TOGETHER: u64 = 16;
/// Three segments of the journal.
const DIRTY_BLOCKS: u64 = 24 * (1 << 20) / BLOCK_BYTES as u64;

/// Bytes that no other block has.
fn block(number: u64) -> Vec<u8> {
    let first = number * BLOCK_BYTES as u64 / 8;
    let words = first..first + BLOCK_BYTES as u64 / 8;
    words.flat_map(u64::to_le_bytes).collect()
}

fn name_of(number: u64) -> String {
    format!("w{}", number % FILES)
}

impl Writer {
    /// Goes on until something fails.
    fn start(mount: &Path, from: u64) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(from));
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, over) = (acknowledged.clone(), is_over.clone());
        let files: Vec<File> = (0..FILES)
            .map(|file| {
                let mut options = File::options();
                options.create(true).write(true).truncate(false);
                options.open(mount.join(name_of(file))).unwrap()
            })
            .collect();
        let write = move || {
            for first in (from..).step_by(TOGETHER as usize) {
                let numbers = first..first + TOGETHER;
                let written = numbers.clone().try_for_each(|number| {
                    let at = number / FILES * BLOCK_BYTES as u64;
                    files[(number % FILES) as usize].write_all_at(&block(number), at)
                });
                let mut synced = numbers.map(|number| &files[(number % FILES) as usize]);
                let outcome = written.and_then(|()| synced.try_for_each(File::sync_data));
                if outcome.is_err() || over.load(Ordering::Acquire) {
                    return;
                }
                told.store(first + TOGETHER, Ordering::Release);
            }
        };
        Self {
            acknowledged,
            is_over,
            thread: Some(std::thread::spawn(write)),
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// What it was told, up to its end.
    fn end(mut self) -> u64 {
        self.is_over.store(true, Ordering::Release);
        let thread = self.thread.take().expect("it ends once");
        thread.join().unwrap();
        self.acknowledged()
    }
}

fn expect_blocks(mount: &Path, acknowledged: std::ops::Range<u64>, context: &str) {
    let open = |file| File::open(mount.join(name_of(file))).unwrap();
    let mut files: Vec<File> = (0..FILES).map(open).collect();
    let mut found = vec![0; BLOCK_BYTES];
    for number in acknowledged {
        let file = &mut files[(number % FILES) as usize];
        let at = number / FILES * BLOCK_BYTES as u64;
        let mut read = file.read_exact_at(&mut found, at);
        // The first read of a dirty file after a restart may be ESTALE (docs/SEMANTICS.md, known faults).
        if read.as_ref().is_err_and(is_stale) {
            *file = open(number);
            read = file.read_exact_at(&mut found, at);
        }
        read.unwrap_or_else(|error| panic!("{context}: block {number}: {error}"));
        assert!(found == block(number), "{context}: block {number}");
    }
}

fn is_stale(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

/// The filesystem of the journal ends in the middle of writing, as by a power cut: what it had not written is gone.
fn survives_cuts(test: &str, kind: &str) {
    let Some(scratch) = disks(test, 1, kind, 448 << 20) else {
        return;
    };
    let mut random = Random::new(4);
    // From an eighth of it on what is dirty is sent: what must be dirty at the cut is less.
    let mut place = Place::on(scratch, "1+0", "320M");
    let image = place.scratch.path().join("j0.image");
    let mut acknowledged = 0;
    for round in 0..sample_or_full(2, 50) {
        let context = format!("{kind}, cut {round}");
        let before = acknowledged;
        let writer = Writer::start(place.mount.path(), before);
        let wanted = before + DIRTY_BLOCKS + random.below(512);
        wait_until(LIMIT, "enough to be acknowledged", || {
            writer.acknowledged() > wanted
        });
        let dirty_files = place.mount.status_number("writeback.pending_files");
        let dirty_bytes = place.mount.status_number("journal.dirty_bytes");
        assert!(dirty_files >= FILES, "{context}: {dirty_files} files");
        assert!(dirty_bytes >= 8 << 20, "{context}: {dirty_bytes} bytes");
        disk::cut_off(&place.directory(0));
        acknowledged = writer.end();
        place.mount.kill9();
        disk::detach(&place.directory(0));
        disk::mount_again(&image, &place.directory(0), kind);
        place.mount.remount();
        expect_blocks(place.mount.path(), before..acknowledged, &context);
        println!(
            "{context}: {} blocks acknowledged, {dirty_bytes} bytes dirty, none lost",
            acknowledged - before
        );
        let flushed = place.mount.command("flush", &["--wait"], LIMIT);
        assert!(flushed.status.success(), "{flushed:?}");
    }
    expect_blocks(place.mount.path(), 0..acknowledged, kind);
}

#[test]
fn a_cut_of_the_journals_ext4_loses_nothing_acknowledged() {
    survives_cuts("disks-cut-ext4", "ext4");
}

#[test]
fn a_cut_of_the_journals_xfs_loses_nothing_acknowledged() {
    survives_cuts("disks-cut-xfs", "xfs");
}

/// How frames begin, and where in them the payload is well under way.
const FRAME: &[u8] = b"cachefsJ";
const ROTTEN: std::ops::Range<usize> = 1000..1100;
/// The smallest block of ext4.
const BLOCK: usize = 1024;

/// Beneath its filesystem, which has the same blocks in memory.
fn rot(image: &Path) -> usize {
    let before = fs::read(image).unwrap();
    let file = File::options().write(true).open(image).unwrap();
    let blocks = before.chunks(BLOCK).enumerate();
    let frames = blocks.filter(|(_, block)| block.starts_with(FRAME));
    let rotten = frames.map(|(number, _)| {
        let range = number * BLOCK + ROTTEN.start..number * BLOCK + ROTTEN.end;
        let flipped: Vec<u8> = before[range.clone()].iter().map(|byte| !byte).collect();
        file.write_all_at(&flipped, range.start as u64).unwrap();
    });
    rotten.count()
}

#[test]
fn a_scrub_of_a_lone_journal_writes_anew_what_is_in_memory_alone() {
    let Some(scratch) = disks("disks-rot-lone", 1, "ext4", DISK_BYTES) else {
        return;
    };
    let mut place = Place::on(scratch, "1+0", "64M");
    place.write();
    place.write();
    assert!(rot(&Disks { place: &place }.image(0)) > 0);
    place.expect_journal("scrub", &[]);
    let damaged = place.mount.status_number("journal.damaged_shards");
    assert!(damaged > 0);
    let mended = place.mount.status_number("journal.mended_batches");
    assert_eq!(mended, damaged);
    place.expect_all("after the scrub");
    // Nothing of it is in memory any more.
    place.mount.kill9();
    disk::detach(&place.directory(0));
    Disks { place: &place }.bring_back(0);
    place.mount.remount();
    place.expect_all("from the disk");
}

#[test]
fn a_scrub_of_the_journal_reads_the_disk_and_not_what_is_in_memory_of_it() {
    let Some(scratch) = disks("disks-rot", 3, "ext4", DISK_BYTES) else {
        return;
    };
    let mut place = Place::on(scratch, "2+1", "64M");
    place.write();
    place.write();
    place.expect_journal("scrub", &[]);
    assert!(rot(&Disks { place: &place }.image(1)) > 0);
    place.expect_journal("scrub", &[]);
    assert!(place.mount.status_number("journal.damaged_shards") > 0);
    assert!(place.mount.status_number("journal.mended_batches") > 0);
    let told = place.expect_journal("scrub", &[]);
    assert!(told.contains(" 0 of them damaged"), "{told}");
    assert_eq!(place.tolerated(), 1);
    place.expect_all("mended");
}
