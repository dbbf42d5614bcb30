//! Checksums of what is cached: bits that flip on the cache disk are found, by the scrub and by reads, and nothing good is
//! ever called bad.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
/// What is read of a file that is cached in part.
const PART_BYTES: u64 = 200 * KIB;
const FLIPPED: usize = 100;
/// Exit status of `scrub --wait` where blocks were bad.
const BAD_BLOCKS: i32 = 3;

#[derive(Clone, Copy)]
struct Known {
    content: Content,
    /// Only the front of it is read.
    in_part: bool,
}

/// A mount of files of every kind.
struct World {
    // In this order: the mount goes before its directories.
    mount: Mount,
    files: Vec<Known>,
    plain: PathBuf,
    scratch: Scratch,
}

impl World {
    fn new(test: &str, options: &[&str], files: Vec<Known>) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        for (number, file) in files.iter().enumerate() {
            let path = plain.join(number.to_string());
            file.content.create(&path).expect("a file can be made");
        }
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        Self {
            mount: Mount::start(&scratch, &plain, mount_options),
            files,
            plain,
            scratch,
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.mount.join(number.to_string())
    }

    /// What is wrong with any of them, all read by opens of their own.
    fn read_all(&self) -> Vec<String> {
        let files: Vec<_> = (0..self.files.len())
            .map(|number| (self.path(number), self.files[number]))
            .collect();
        with_time_limit(&self.scratch, LIMIT, move || {
            let wrong = files
                .iter()
                .filter_map(|(path, known)| read(path, *known).err());
            wrong.collect()
        })
    }

    fn expect_all(&self) {
        assert_eq!(self.read_all(), Vec::<String>::new());
    }

    fn scrub(&self) -> Output {
        self.mount.command("scrub", &["--wait"], LIMIT)
    }

    /// All there is has its sums, and they hold.
    fn expect_clean(&self) {
        let output = self.scrub();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(self.number("bad_blocks"), 0);
    }

    fn number(&self, name: &str) -> u64 {
        self.mount.status_number(&format!("scrub.{name}"))
    }

    fn objects(&self) -> Vec<PathBuf> {
        objects(self.mount.cache_dir())
    }
}

fn read(path: &Path, known: Known) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let end = match known.in_part {
        true => PART_BYTES.min(known.content.size_bytes),
        false => known.content.size_bytes,
    };
    let mut offset = 0;
    while offset < end {
        let length = MIB.min(end - offset) as usize;
        let bytes = reading::read_range(&file, offset, length)
            .map_err(|error| format!("{} at {offset}: {error}", path.display()))?;
        known.content.check(offset, &bytes)?;
        offset += length as u64;
    }
    Ok(())
}

fn objects(cache: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(cache.join("objects")).expect("objects are there") {
        let entries = fs::read_dir(folder.expect("an entry").path()).expect("a folder");
        found.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    found.sort();
    found
}

/// Somewhere in what the object holds, as the disk might: no time tells of it.
fn flip_a_bit(object: &Path, random: &mut Random) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(object)
        .expect("an object can be opened");
    let facts = file.metadata().expect("it has attributes");
    let at = loop {
        let at = random.below(facts.len());
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at));
        if data.is_ok_and(|data| data == at) {
            break at;
        }
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    byte[0] ^= 1 << random.below(8);
    file.write_all_at(&byte, at).expect("it can be written");
    let modified = facts.modified().expect("it has a time");
    file.set_modified(modified).expect("times can be set");
}

fn flip_bits(world: &World, count: usize, random: &mut Random) {
    let mut objects = world.objects();
    assert!(objects.len() >= count, "{} objects", objects.len());
    while objects.len() > count {
        objects.swap_remove(random.below(objects.len() as u64) as usize);
    }
    objects.iter().for_each(|object| flip_a_bit(object, random));
}

/// Small ones, large ones, sparse ones, and some of which a part is cached.
fn files_of_every_kind(random: &mut Random) -> Vec<Known> {
    let sizes = (0..110).map(|number| match number % 5 {
        0 => 1 + random.below(4 * KIB),
        1 => 1 + random.below(250 * KIB),
        _ => 300 * KIB + random.below(MIB),
    });
    let sizes: Vec<u64> = sizes.collect();
    sizes
        .into_iter()
        .enumerate()
        .map(|(number, size_bytes)| Known {
            content: Content::new(random.next(), 1, size_bytes),
            in_part: number % 5 == 4,
        })
        .collect()
}

/// Holes in the backend's files are zeros like others.
fn world_of_every_kind(test: &str, options: &[&str], random: &mut Random) -> World {
    let world = World::new(test, options, files_of_every_kind(random));
    let hole = File::create(world.plain.join("sparse")).expect("a file can be made");
    hole.set_len(3 * MIB).expect("it can be made longer");
    hole.write_all_at(b"end", 3 * MIB - 3).expect("and written");
    world
}

fn expect_sparse(world: &World) {
    let bytes = fs::read(world.mount.join("sparse")).expect("it can be read");
    assert_eq!(bytes.len() as u64, 3 * MIB);
    let (zeros, end) = bytes.split_at(bytes.len() - 3);
    assert!(zeros.iter().all(|byte| *byte == 0) && end == b"end");
}

fn the_scrub_finds_flipped_bits(test: &str, options: &[&str]) {
    let mut random = Random::from_environment(test);
    let options = [options, &["readahead=0", "scrub_rate=1G"]].concat();
    let world = world_of_every_kind(test, &options, &mut random);
    world.expect_all();
    expect_sparse(&world);
    world.expect_clean();
    flip_bits(&world, FLIPPED, &mut random);
    let output = world.scrub();
    assert_eq!(output.status.code(), Some(BAD_BLOCKS), "{output:?}");
    assert_eq!(world.number("bad_files"), FLIPPED as u64);
    assert_eq!(world.number("bad_blocks"), FLIPPED as u64);
    let fetched = world.mount.status_number("backend.bytes_read");
    reading::drop_caches().expect("root may drop caches");
    world.expect_all();
    expect_sparse(&world);
    let fetched = world.mount.status_number("backend.bytes_read") - fetched;
    assert!(fetched > 0, "what was bad is fetched again");
    let output = world.scrub();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(world.number("bad_files"), FLIPPED as u64);
}

#[test]
fn the_scrub_finds_flipped_bits_of_a_hundred_objects() {
    the_scrub_finds_flipped_bits("scrub-finds", &["checksum=scrub"]);
}

#[test]
fn the_scrub_finds_flipped_bits_that_were_summed_during_the_fill() {
    the_scrub_finds_flipped_bits("scrub-finds-fill", &["checksum=fill"]);
}

#[test]
fn the_scrub_finds_flipped_bits_without_passthrough_and_io_uring() {
    let options = ["checksum=scrub", "passthrough=off", "io_engine=blocking"];
    the_scrub_finds_flipped_bits("scrub-finds-plain", &options);
}

/// What reads have found is told when it was cut out, a moment later. The kernel keeps some pages though it is to drop them
/// all, and some bits lie behind the parts that are read.
fn expect_most_found(world: &World) {
    wait_until(LIMIT, "what reads have found to be told", || {
        world.number("bad_files") >= FLIPPED as u64 / 3
    });
}

#[test]
fn no_flipped_bit_is_read_where_reads_are_checked() {
    let mut random = Random::from_environment("reads-checked");
    let options = ["checksum=read", "readahead=0", "scrub_interval=1000d"];
    let mut world = world_of_every_kind("reads-checked", &options, &mut random);
    world.expect_all();
    let open = File::open(world.path(3)).expect("it can be opened");
    flip_bits(&world, FLIPPED, &mut random);
    reading::drop_caches().expect("root may drop caches");
    world.expect_all();
    expect_sparse(&world);
    let first = world.files[3].content;
    first.expect_in(&open, 5000).expect("it can be read");
    drop(open);
    expect_most_found(&world);
    // Sums outlive the daemon.
    let everything = world.files.len() + 1;
    world.mount.umount();
    world.mount.remount();
    // What the kernel had pages of until now is found bad now, and fetched anew by the next read.
    wait_until(LIMIT, "everything to be cached once", || {
        world.expect_all();
        expect_sparse(&world);
        world.objects().len() == everything
    });
    world.mount.umount();
    flip_bits(&world, FLIPPED, &mut random);
    world.mount.remount();
    reading::drop_caches().expect("root may drop caches");
    world.expect_all();
    expect_most_found(&world);
}

/// A file of 2 MiB that is cached whole and summed, and one of its objects' bits flipped.
fn one_flipped(test: &str, options: &[&str]) -> World {
    let known = Known {
        content: Content::new(7, 1, 2 * MIB),
        in_part: false,
    };
    let world = World::new(test, options, vec![known]);
    world.expect_all();
    world.expect_clean();
    flip_bits(&world, 1, &mut Random::new(1));
    world
}

fn is_right(file: &File, content: Content) -> bool {
    let bytes = reading::read_range(file, 0, content.size_bytes as usize);
    content.check(0, &bytes.expect("it can be read")).is_ok()
}

#[test]
fn whoever_has_a_file_open_reads_it_right_after_the_scrub() {
    let world = one_flipped("scrub-open", &["checksum=scrub", "passthrough=off"]);
    let content = world.files[0].content;
    let open = File::open(world.path(0)).expect("it can be opened");
    reading::drop_caches().expect("root may drop caches");
    assert!(!is_right(&open, content), "nobody has checked it yet");
    assert_eq!(world.scrub().status.code(), Some(BAD_BLOCKS));
    // The kernel is told on a thread of its own.
    wait_until(LIMIT, "the kernel to forget its pages", || {
        is_right(&open, content)
    });
    // One block of many.
    assert!(world.mount.status_number("backend.bytes_read") < 3 * MIB);
    world.expect_all();
}

#[test]
fn an_open_after_the_scrub_reads_right_beside_a_passthrough_handle() {
    let world = one_flipped("scrub-passthrough", &["checksum=scrub"]);
    let content = world.files[0].content;
    let open = File::open(world.path(0)).expect("it can be opened");
    assert_eq!(world.scrub().status.code(), Some(BAD_BLOCKS));
    world.expect_all();
    if world.mount.status_number("cache.passthrough_opens") > 0 {
        assert!(!is_right(&open, content), "it keeps the object it has");
    }
    drop(open);
    world.expect_all();
    let log = world.mount.log();
    let told = log
        .lines()
        .find(|line| line.contains("not what was stored"));
    assert!(told.is_some_and(|line| line.contains("\"0\"")), "{told:?}");
    let status = world.mount.status();
    assert_eq!(status["scrub"]["damaged"][0]["path"], "0", "{status}");
    let words = world.mount.command("status", &[], LIMIT);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(
        words.contains("1 bad blocks in 1 files, the last in 0"),
        "{words}"
    );
}

fn known(seed: u64, size_bytes: u64) -> Known {
    Known {
        content: Content::new(seed, 1, size_bytes),
        in_part: false,
    }
}

/// In place, at several places, then whole: the object stays, its content does not.
fn rewrite(world: &mut World, number: usize, version: u64) {
    let known = &mut world.files[number];
    known.content.version = version;
    let content = known.content;
    let file = OpenOptions::new()
        .write(true)
        .open(world.path(number))
        .expect("it can be opened");
    for offset in [0, 5000, content.size_bytes - 10] {
        let bytes = content.bytes(offset, 10);
        file.write_all_at(&bytes, offset).expect("it is written");
    }
    drop(file);
    world.expect_clean();
    let file = OpenOptions::new()
        .write(true)
        .open(world.path(number))
        .expect("it can be opened");
    content.write_to(&file).expect("it is written");
}

#[test]
fn what_is_written_or_trimmed_is_never_called_bad() {
    let options = [
        "checksum=fill",
        "scrub_rate=1G",
        "cache_size=32M",
        "keep_written=always",
    ];
    let files = vec![known(1, 3 * MIB), known(2, 100 * KIB), known(3, 48 * MIB)];
    let mut world = World::new("scrub-written", &options, files);
    for version in 2..4 {
        for number in [0, 1] {
            read(&world.path(number), world.files[number]).expect("it is right");
            rewrite(&mut world, number, version);
            world.expect_clean();
        }
        // Larger than the cache: parts of it go while it is open.
        read(&world.path(2), world.files[2]).expect("it is right");
        world.expect_clean();
    }
    world.expect_all();
    world.expect_clean();
}

#[test]
fn what_changed_while_no_sums_were_kept_is_not_called_bad() {
    let files = vec![known(1, 3 * MIB), known(2, 100 * KIB)];
    let mut world = World::new("scrub-off-and-on", &["keep_written=always"], files);
    for version in 2..4 {
        let options = world.mount.options_mut();
        options.options.push("checksum=fill".to_owned());
        world.mount.umount();
        world.mount.remount();
        world.expect_all();
        world.expect_clean();
        world.mount.options_mut().options.pop();
        world.mount.umount();
        world.mount.remount();
        for number in 0..world.files.len() {
            world.files[number].content.version = version;
            let file = OpenOptions::new().write(true).open(world.path(number));
            let content = world.files[number].content;
            content.write_to(&file.expect("it opens")).expect("written");
        }
        world.expect_all();
    }
    let output = world.scrub();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("checksum=scrub"), "{told}");
}

/// Reads and writes until it is told to stop, or the mount is gone.
fn use_at_random(root: PathBuf, contents: Vec<Content>, seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let number = random.below(contents.len() as u64) as usize;
        let (path, content) = (root.join(number.to_string()), contents[number]);
        let offset = random.below(content.size_bytes);
        let length = (1 + random.below(400 * KIB)).min(content.size_bytes - offset);
        let bytes = content.bytes(offset, length as usize);
        // What is written is what is there: whatever of it arrives, the content is the same.
        let _ = match random.below(4) {
            0 => OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.write_all_at(&bytes, offset)),
            _ => File::open(&path)
                .and_then(|file| reading::read_range(&file, offset, length as usize))
                .map(|read| assert_eq!(content.check(offset, &read), Ok(()))),
        };
    }
}

fn nothing_is_called_bad_after_kills(test: &str, checksum: &str) {
    let mut random = Random::from_environment(test);
    let files = (0..12).map(|_| known(random.next(), 1 + random.below(3 * MIB)));
    let files: Vec<Known> = files.collect();
    let contents: Vec<Content> = files.iter().map(|file| file.content).collect();
    let options = [checksum, "scrub_rate=1G", "keep_written=always"];
    let mut world = World::new(test, &options, files);
    for _ in 0..sample_or_full(4, 80) {
        let stop = Arc::new(AtomicBool::new(false));
        let users: Vec<_> = (0..3)
            .map(|_| {
                let (root, contents) = (world.mount.path().to_owned(), contents.clone());
                let (seed, stop) = (random.next(), stop.clone());
                std::thread::spawn(move || use_at_random(root, contents, seed, &stop))
            })
            .collect();
        let _ = world.mount.command("scrub", &[], LIMIT);
        // The fault itself: a moment like any other.
        std::thread::sleep(Duration::from_millis(300 + random.below(1500)));
        world.mount.kill9();
        stop.store(true, Ordering::Relaxed);
        for user in users {
            user.join().expect("it reads what is there");
        }
        world.mount.remount();
        world.expect_clean();
        world.expect_all();
    }
    world.expect_clean();
}

#[test]
fn a_daemon_killed_during_fills_and_scrubs_calls_nothing_bad_later() {
    nothing_is_called_bad_after_kills("scrub-kills-fill", "checksum=fill");
}

#[test]
fn a_daemon_killed_while_it_sums_calls_nothing_bad_later() {
    nothing_is_called_bad_after_kills("scrub-kills-scrub", "checksum=scrub");
}

#[test]
fn the_scrub_reads_no_more_in_a_second_than_it_may() {
    let options = ["checksum=fill", "scrub_rate=4M"];
    let world = World::new("scrub-rate", &options, vec![known(1, 12 * MIB)]);
    world.expect_all();
    let began = Instant::now();
    world.expect_clean();
    assert!(began.elapsed() >= Duration::from_millis(2500));
    assert_eq!(world.number("last_pass.checked_bytes"), 12 * MIB);
}

#[test]
fn the_scrub_waits_while_others_read() {
    let options = ["checksum=fill", "scrub_rate=8M", "direct_io"];
    let world = World::new("scrub-pauses", &options, vec![known(1, 24 * MIB)]);
    world.expect_all();
    world.expect_clean();
    let before = world.number("checked_bytes");
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (path, stopped) = (world.path(0), stop.clone());
            std::thread::spawn(move || {
                let file = File::open(path).expect("it can be opened");
                while !stopped.load(Ordering::Relaxed) {
                    reading::read_range(&file, 0, 64 << 10).expect("it can be read");
                }
            })
        })
        .collect();
    let hits = world.mount.status_number("cache.hit_bytes");
    wait_until(LIMIT, "somebody to read", || {
        world.mount.status_number("cache.hit_bytes") > hits
    });
    assert!(world.mount.command("scrub", &[], LIMIT).status.success());
    // Without anybody it would be done by then. A piece goes now and then: who never stops does not hold it up for good.
    wait_until(LIMIT, "the scrub to wait", || {
        world.number("paused_ms") >= 4000
    });
    let checked = world.number("checked_bytes") - before;
    assert!(checked <= 12 * MIB, "{checked} bytes checked");
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().expect("it reads");
    }
    world.expect_clean();
}

#[test]
fn checksums_are_told_of_where_they_change_what_a_mount_does() {
    let options = ["checksum=read"];
    let world = World::new("scrub-told", &options, vec![known(1, MIB)]);
    let words = world.mount.command("status", &[], LIMIT);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("with checksum=read every read"), "{words}");
    world.expect_all();
    assert_eq!(world.mount.status_number("cache.passthrough_opens"), 0);
}
