//! Everything at once for a while (CACHEFS_LONG=1: an hour): the daemon's memory and descriptors do not grow, and when all
//! is closed its gauges are at 0.

mod support;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::locking::{Owner, lock_range, unlock_range};
use support::reading::{open_direct, read_range};
use support::writing::{WritableMapping, read_write};
use support::*;

const WORKERS: u64 = 4;
const FILES_EACH: u64 = 24;
const SIZE_MAX: u64 = 3 << 20;
const LIMIT: Duration = Duration::from_secs(2 * 3600);
/// Pipes of fills, and directories used last, are kept.
const KEPT_MAX: usize = 40;
/// Between the first third and the end.
const GROWTH_MAX: u64 = 24 << 20;

/// What one worker does in its own directory; what it finds there is not compared (tests/model.rs does that).
struct Worker {
    root: PathBuf,
    random: Random,
}

impl Worker {
    fn path(&mut self) -> PathBuf {
        let number = self.random.below(FILES_EACH);
        self.root.join(format!("file{number}"))
    }

    fn step(&mut self) -> io::Result<()> {
        let path = self.path();
        let offset = self.random.below(SIZE_MAX);
        match self.random.below(14) {
            0 => Content::new(offset, 1, offset).create(&path),
            1 | 2 => fs::read(&path).map(drop),
            3 => read_range(&File::open(&path)?, offset, 4096).map(drop),
            4 => read_range(&open_direct(&path)?, offset / 4096 * 4096, 8192).map(drop),
            5 => File::options()
                .write(true)
                .open(&path)?
                .write_all_at(&[7; 5000], offset),
            6 => File::options().write(true).open(&path)?.set_len(offset),
            7 => fs::remove_file(&path),
            8 => {
                let to = self.path();
                fs::rename(path, to)
            }
            9 => {
                let to = self.root.join("link");
                let _ = fs::remove_file(&to);
                fs::hard_link(path, to)
            }
            10 => {
                let file = File::options().read(true).write(true).open(&path)?;
                lock_range(&file, Owner::Description, true, (0, 100))?;
                let read = read_range(&file, 0, 100);
                unlock_range(&file, Owner::Description, (0, 100))?;
                read.map(drop)
            }
            11 if fs::metadata(&path)?.len() > 8192 => {
                let mapping = WritableMapping::new(&read_write(&path), 8192)?;
                mapping.store(100, b"stored");
                mapping.sync()
            }
            12 => fs::read_dir(&self.root)?.try_for_each(|entry| entry?.metadata().map(drop)),
            // Unlinked while open.
            _ => {
                let file = File::open(&path)?;
                fs::remove_file(&path)?;
                read_range(&file, 0, 4096).map(drop)
            }
        }
    }
}

fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.expect("a process has a resident size") << 10
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn open_files(pid: i32) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let target = |entry: io::Result<fs::DirEntry>| fs::read_link(entry.ok()?.path()).ok();
    open.filter_map(target).collect()
}

fn work_for(root: &Path, seed: u64, ends: &AtomicBool, steps: &AtomicU64) {
    fs::create_dir(root).unwrap();
    let mut worker = Worker {
        root: root.to_owned(),
        random: Random::new(seed),
    };
    while !ends.load(Ordering::Relaxed) {
        let outcome = worker.step();
        // A file may be away or shorter; the mount itself does not fail.
        let errno = outcome.err().and_then(|error| error.raw_os_error());
        assert!(matches!(errno, None | Some(2 | 17)), "errno {errno:?}");
        steps.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn memory_and_open_files_stay_bounded_and_all_gauges_return_to_0() {
    let scratch = Scratch::new("endurance");
    let plain = scratch.directory("plain");
    // Small, so that eviction takes part.
    let options = MountOptions::new(&scratch).with("cache_size=64M");
    let mount = Mount::start(&scratch, &plain, options);
    let pid = mount.pid();
    let seed = Random::from_environment("endurance").next();
    let before = descriptors(pid);
    let ends = Arc::new(AtomicBool::new(false));
    let steps = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let root = mount.join(format!("worker{number}"));
            let (ends, steps) = (ends.clone(), steps.clone());
            std::thread::spawn(move || work_for(&root, seed + number, &ends, &steps))
        })
        .collect();
    let third = sample_or_full(Duration::from_secs(4), Duration::from_secs(1200));
    let began = Instant::now();
    let mut settled_bytes = 0;
    let mut most = (0, 0);
    while began.elapsed() < 3 * third {
        std::thread::sleep(Duration::from_millis(100));
        let (bytes, open) = (resident_bytes(pid), descriptors(pid));
        if began.elapsed() < third {
            settled_bytes = settled_bytes.max(bytes);
        }
        most = (most.0.max(bytes), most.1.max(open));
    }
    ends.store(true, Ordering::Relaxed);
    with_time_limit(&scratch, LIMIT, move || {
        for worker in workers {
            worker.join().unwrap();
        }
    });
    let (most_bytes, most_open) = most;
    println!(
        "{} steps; resident at most {} MiB ({} in the first third), at most {most_open} descriptors",
        steps.load(Ordering::Relaxed),
        most_bytes >> 20,
        settled_bytes >> 20,
    );
    assert!(most_bytes <= settled_bytes + GROWTH_MAX);
    // Files in use, and what is kept open for the next use.
    assert!(most_open <= before + 600, "{most_open} descriptors");
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    for gauge in ["handles", "pieces_in_flight", "longest_wait_ms"] {
        wait_until(Duration::from_secs(30), gauge, || {
            mount.status_number(gauge) == 0
        });
    }
    let closed = || descriptors(pid) <= before + KEPT_MAX;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !closed() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(closed(), "{before} before: {:#?}", open_files(pid));
}
