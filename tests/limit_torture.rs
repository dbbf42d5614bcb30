//! The size limit under everything at once: parallel fills of ten times the limit, writes, files held open and mapped.
//! What the cache takes on its disk is sampled throughout, no read fails, and every byte is right.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::reading::Mapping;
use support::*;

const MIB: u64 = 1 << 20;
const READERS: u64 = 4;
const WRITERS: u64 = 2;
const WRITTEN_FILES: u64 = 12;
/// Open files and mappings that one reader holds.
const HELD_MAX: usize = 8;
/// Pieces in flight, of 1 MiB each.
const WINDOW_PIECES: u64 = 4;

struct Tree {
    root: PathBuf,
    contents: Vec<Content>,
}

impl Tree {
    fn make(plain: &Path, total_bytes: u64, random: &mut Random) -> Vec<Content> {
        let (mut contents, mut bytes) = (Vec::new(), 0);
        while bytes < total_bytes {
            let content = Content::new(random.next(), 1, 1 + random.below(3 * MIB / 2));
            content
                .create(&plain.join(contents.len().to_string()))
                .expect("a file can be made");
            bytes += content.size_bytes;
            contents.push(content);
        }
        contents
    }

    fn pick(&self, random: &mut Random) -> (PathBuf, Content) {
        let number = random.below(self.contents.len() as u64) as usize;
        (self.root.join(number.to_string()), self.contents[number])
    }
}

/// What a reader holds on to, and reads again when it lets go.
enum Held {
    Open(File, Content),
    Mapped(Mapping, Content),
}

impl Held {
    fn take(tree: &Tree, random: &mut Random) -> Self {
        let (path, content) = tree.pick(random);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        // Complete, the next open may give it to the kernel.
        content.expect_in(&file, 1 << 20).expect("its bytes");
        let again = File::open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        match random.below(2) {
            0 => Self::Open(again, content),
            _ => {
                let size = content.size_bytes as usize;
                Self::Mapped(
                    Mapping::new(&again, size).expect("it can be mapped"),
                    content,
                )
            }
        }
    }

    fn check(&self) {
        match self {
            Self::Open(file, content) => content.expect_in(file, 128 << 10).expect("its bytes"),
            Self::Mapped(mapping, content) => {
                mapping.forget_pages();
                let bytes = mapping.read(0, content.size_bytes as usize);
                assert_eq!(content.check(0, &bytes), Ok(()));
            }
        }
    }
}

fn read_part(tree: &Tree, random: &mut Random) {
    let (path, content) = tree.pick(random);
    let file = File::open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let offset = random.below(content.size_bytes);
    let mut buffer = vec![0; (1 + random.below(100_000)) as usize];
    let length = file
        .read_at(&mut buffer, offset)
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
    assert_eq!(content.check(offset, &buffer[..length]), Ok(()), "{path:?}");
}

fn keep_reading(tree: &Tree, mut random: Random, stop: &AtomicBool) -> u64 {
    let (mut held, mut turns) = (Vec::new(), 0);
    while !stop.load(Ordering::Acquire) {
        match random.below(4) {
            0 => held.push(Held::take(tree, &mut random)),
            1 => read_part(tree, &mut random),
            2 => {
                let (path, content) = tree.pick(&mut random);
                content::expect_content(&path, content);
            }
            _ if held.is_empty() => {}
            _ => held[random.below(held.len() as u64) as usize].check(),
        }
        if held.len() > HELD_MAX {
            let leaving: Held = held.swap_remove(random.below(held.len() as u64) as usize);
            leaving.check();
        }
        turns += 1;
    }
    held.iter().for_each(Held::check);
    turns
}

/// Writes files of its own anew, reads each back, and one that it wrote before.
fn keep_writing(folder: &Path, mut random: Random, stop: &AtomicBool) -> u64 {
    let mut written: Vec<Option<Content>> = vec![None; WRITTEN_FILES as usize];
    let mut turns = 0;
    while !stop.load(Ordering::Acquire) {
        let number = random.below(WRITTEN_FILES) as usize;
        let content = Content::new(random.next(), turns, 1 + random.below(MIB));
        let path = folder.join(number.to_string());
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("{path:?}: {error}"));
        content.write_to(&file).expect("it can be written");
        drop(file);
        content::expect_content(&path, content);
        written[number] = Some(content);
        let other = random.below(WRITTEN_FILES) as usize;
        if let Some(content) = written[other] {
            content::expect_content(&folder.join(other.to_string()), content);
        }
        turns += 1;
    }
    turns
}

/// Allocated bytes of all object files below a directory.
fn disk_usage_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => disk_usage_bytes(&entry.path()),
        Ok(facts) => facts.blocks() * 512,
        // Removed since it was listed.
        Err(_) => 0,
    });
    bytes.sum()
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn torture(test: &str, options: &[&str]) {
    let scratch = Scratch::new(test);
    let mut random = Random::from_environment(test);
    let limit_bytes = sample_or_full(48 * MIB, 256 * MIB);
    let plain = scratch.directory("plain");
    let contents = Tree::make(&plain, sample_or_full(5, 10) * limit_bytes, &mut random);
    let mut mount_options = MountOptions::new(&scratch)
        .with(&format!("cache_size={limit_bytes}"))
        .with(&format!("max_concurrent={WINDOW_PIECES}"));
    let more = options.iter().map(|option| (*option).to_owned());
    mount_options.options.extend(more);
    let mut mount = Mount::start(&scratch, &plain, mount_options);
    let tree = Tree {
        root: mount.path().to_owned(),
        contents,
    };
    let objects = mount.cache_dir().join("objects");
    let most_bytes = limit_bytes + WINDOW_PIECES * MIB;
    let run_for = sample_or_full(Duration::from_secs(6), Duration::from_secs(900));
    let stop = AtomicBool::new(false);
    let (mut samples, mut worst_bytes) = (0, 0);
    let turns: u64 = std::thread::scope(|scope| {
        let _guard = StopOnDrop(&stop);
        let (tree, stop) = (&tree, &stop);
        let mut workers = Vec::new();
        for _ in 0..READERS {
            let dice = Random::new(random.next());
            workers.push(scope.spawn(move || {
                let _guard = StopOnDrop(stop);
                keep_reading(tree, dice, stop)
            }));
        }
        for number in 0..WRITERS {
            let dice = Random::new(random.next());
            let folder = tree.root.join(format!("written{number}"));
            fs::create_dir(&folder).expect("a folder can be made");
            workers.push(scope.spawn(move || {
                let _guard = StopOnDrop(stop);
                keep_writing(&folder, dice, stop)
            }));
        }
        let began = Instant::now();
        while began.elapsed() < run_for && !stop.load(Ordering::Acquire) {
            let disk_bytes = disk_usage_bytes(&objects);
            worst_bytes = disk_bytes.max(worst_bytes);
            assert!(
                disk_bytes <= most_bytes,
                "the objects take {disk_bytes} bytes"
            );
            let used_bytes = mount.status_number("cache.bytes_used");
            assert!(used_bytes <= limit_bytes, "bytes_used is {used_bytes}");
            samples += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Release);
        let ended = workers.into_iter().map(|worker| worker.join());
        ended
            .map(|turns| turns.expect("every byte was right"))
            .sum()
    });
    println!(
        "{test}: {turns} turns, {samples} samples, at most {worst_bytes} of {limit_bytes} bytes on disk, {} evicted, {} past the cache",
        mount.status_number("cache.objects_evicted"),
        mount.status_number("cache.bypass_bytes"),
    );
    assert!(mount.status_number("cache.objects_evicted") > 0);
    what_is_counted_is_what_is_there(&mount, &objects);
    mount.umount();
}

/// Once nothing is under way, neither forgotten nor counted twice, but for what the filesystem needs for its own lists.
fn what_is_counted_is_what_is_there(mount: &Mount, objects: &Path) {
    wait_until(Duration::from_secs(30), "the books to close", || {
        let used = mount.status_number("cache.bytes_used");
        let disk = disk_usage_bytes(objects);
        used.abs_diff(disk) <= disk / 100
    });
}

#[test]
fn the_limit_holds_while_files_are_filled_written_held_open_and_mapped() {
    torture("torture", &[]);
}

#[test]
fn the_limit_holds_without_passthrough() {
    torture("torture-daemon", &["passthrough=off"]);
}
