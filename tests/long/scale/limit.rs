//! A cache far smaller than what is read: the limit holds at every instant, reads stay right, and what was read last
//! is what stays.

use crate::figures::mebibytes;
use crate::support::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const READERS: usize = 4;
const PASS_LIMIT: Duration = Duration::from_secs(1200);

/// Allocated bytes of all object files below a directory.
fn disk_usage_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => disk_usage_bytes(&entry.path()),
            Ok(facts) => facts.blocks() * 512,
            // Removed since it was listed.
            Err(_) => 0,
        })
        .sum()
}

struct Samples {
    used_bytes: u64,
    disk_bytes: u64,
    taken: u64,
}

/// Compares status and disk with the limit until told to stop.
fn watch(mount: &Mount, limit_bytes: u64, stop: &AtomicBool) -> Samples {
    let objects = mount.cache_dir().join("objects");
    let mut worst = Samples {
        used_bytes: 0,
        disk_bytes: 0,
        taken: 0,
    };
    while !stop.load(Ordering::Acquire) {
        let used = mount.status_number("cache.bytes_used");
        let disk = disk_usage_bytes(&objects);
        assert!(used <= limit_bytes, "bytes_used is {used}");
        assert!(disk <= limit_bytes, "the objects take {disk} bytes on disk");
        worst.used_bytes = worst.used_bytes.max(used);
        worst.disk_bytes = worst.disk_bytes.max(disk);
        worst.taken += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    worst
}

/// Sets the flag when it goes, also in a panic.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn the_limit_holds_while_more_than_it_is_read_and_the_least_recently_used_goes() {
    let _alone = crate::alone();
    let scratch = Scratch::new("limit");
    let plain = scratch.directory("plain");
    let mut random = Random::from_environment("limit");
    let limit_bytes: u64 = sample_or_full(64 << 20, 1 << 30);
    let file_count: u64 = sample_or_full(400, 4000);
    let size_max: u64 = sample_or_full(800 << 10, 2 << 20);
    let contents: Vec<Content> = (0..file_count)
        .map(|_| Content::new(random.next(), 1, 1 + random.below(size_max)))
        .collect();
    for (number, content) in contents.iter().enumerate() {
        content
            .create(&plain.join(number.to_string()))
            .expect("a file can be made");
    }
    let total_bytes: u64 = contents.iter().map(|content| content.size_bytes).sum();
    let options = MountOptions::new(&scratch).with(&format!("cache_size={limit_bytes}"));
    let mut mount = Mount::start(&scratch, &plain, options);
    for pass in ["first", "second", "random", "after kill -9"] {
        if pass == "after kill -9" {
            mount.kill9();
            mount.remount();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let worst = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(&mount, limit_bytes, &stop));
            let guard = StopOnDrop(stop.clone());
            let (root, contents) = (mount.path().to_owned(), contents.clone());
            let mut order: Vec<usize> = (0..contents.len()).collect();
            if pass == "random" {
                // Files evicted a moment ago among them.
                let any = || random.below(file_count) as usize;
                order.fill_with(any);
            }
            with_time_limit(&scratch, PASS_LIMIT, move || {
                read_in_parallel(&root, &contents, &order);
            });
            drop(guard);
            watching.join().expect("the limit held")
        });
        println!(
            "{pass} pass over {:.0} MiB with a limit of {:.0} MiB: at most {:.1} MiB used, {:.1} MiB on disk, {} samples, \
             {} evicted, {:.1} MiB read past the cache",
            mebibytes(total_bytes),
            mebibytes(limit_bytes),
            mebibytes(worst.used_bytes),
            mebibytes(worst.disk_bytes),
            worst.taken,
            mount.status_number("cache.objects_evicted"),
            mebibytes(mount.status_number("cache.bypass_bytes")),
        );
    }
    the_least_recently_used_goes(&mount, &contents, limit_bytes);
    what_is_counted_is_what_is_there(&mount);
    mount.umount();
}

fn read_in_parallel(root: &Path, contents: &[Content], order: &[usize]) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while let Some(number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    read_one(root, contents, *number);
                }
            });
        }
    });
}

fn read_one(root: &Path, contents: &[Content], number: usize) {
    let path = root.join(number.to_string());
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    assert_eq!(bytes.len() as u64, contents[number].size_bytes, "{path:?}");
    assert_eq!(contents[number].check(0, &bytes), Ok(()), "{path:?}");
}

/// Once nothing is under way, `bytes_used` is what the objects take, neither forgotten nor counted twice, but for
/// what the filesystem needs for its own extent lists.
fn what_is_counted_is_what_is_there(mount: &Mount) {
    let objects = mount.cache_dir().join("objects");
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let used = mount.status_number("cache.bytes_used");
        let disk = disk_usage_bytes(&objects);
        if used.abs_diff(disk) <= disk / 100 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{used} bytes counted, {disk} on disk"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A few files are read again and again between all the others: they stay, whatever else goes.
fn the_least_recently_used_goes(mount: &Mount, contents: &[Content], limit_bytes: u64) {
    let mut bytes = 0;
    let often = contents
        .iter()
        .take_while(|content| {
            bytes += content.size_bytes;
            bytes < limit_bytes / 8
        })
        .count();
    let fetched_for_often = || {
        reading::drop_caches().expect("root may drop caches");
        let before = mount.status_number("backend.bytes_read");
        (0..often).for_each(|number| read_one(mount.path(), contents, number));
        mount.status_number("backend.bytes_read") - before
    };
    wait_until(SETTLE_LIMIT, "the files to be cached", || {
        fetched_for_often() == 0
    });
    let evicted_before = mount.status_number("cache.objects_evicted");
    let others: Vec<usize> = (often..contents.len()).collect();
    for some in others.chunks(contents.len() / 16) {
        read_in_parallel(mount.path(), contents, some);
        assert_eq!(fetched_for_often(), 0, "what was used last is what stays");
        // Time for reclaim, which is what this is about.
        std::thread::sleep(Duration::from_millis(100));
    }
    let evicted = mount.status_number("cache.objects_evicted") - evicted_before;
    println!("{often} files used between the others stayed, {evicted} others went");
    assert!(evicted > 0);
}
