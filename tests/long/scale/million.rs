//! A million cached files: what they cost in memory with every node known to the kernel, after it forgot them, and
//! after a restart; how soon a mount with them serves.

use crate::figures::{mebibytes, resident};
use crate::forest::Forest;
use crate::support::*;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Daemon memory per cached file, the index's cache included.
const BYTES_PER_FILE_MAX: u64 = 300;
const SERVING_MAX: Duration = Duration::from_secs(1);
const PASS_LIMIT: Duration = Duration::from_secs(3600);
const READERS: usize = 8;

/// CACHEFS_FOREST names a directory where the files of an earlier run are, or are to be kept.
fn forest(scratch: &Scratch) -> Forest {
    let (directories, files_each) = sample_or_full((40, 50), (1000, 1000));
    let kept = std::env::var_os("CACHEFS_FOREST").map(PathBuf::from);
    let forest = Forest {
        root: kept.unwrap_or_else(|| scratch.directory("forest")),
        directories,
        files_each,
    };
    if !forest.root.join("d0000").exists() {
        let began = Instant::now();
        forest.plant();
        println!("{} files made in {:?}", forest.files(), began.elapsed());
    }
    forest
}

fn forget_names() {
    // Dentries and inodes; pages stay.
    std::fs::write("/proc/sys/vm/drop_caches", "2").expect("root may drop caches");
}

/// Waits until the index knows all that was cached, and gives their number.
fn wait_for_index(mount: &Mount) -> u64 {
    let mut known = 0;
    wait_until(Duration::from_secs(120), "the index to settle", || {
        let before = std::mem::replace(&mut known, mount.status_number("cache.files"));
        // Longer than a checkpoint takes to come.
        std::thread::sleep(Duration::from_secs(6));
        before == known && mount.status_number("cache.files") == known
    });
    known
}

#[test]
fn many_cached_files_cost_little_memory_and_do_not_delay_the_start() {
    let _alone = crate::alone();
    let scratch = Scratch::new("million");
    let forest = forest(&scratch);
    let files = forest.files();
    let options = MountOptions::new(&scratch).with("cache_size=30G");
    let mut mount = Mount::start(&scratch, &forest.root, options);
    let pass = |mount: &Mount, name: &str| {
        let (forest, root) = (forest.clone(), mount.path().to_owned());
        let began = Instant::now();
        with_time_limit(&scratch, PASS_LIMIT, move || {
            forest.read_all(&root, READERS);
        });
        let elapsed = began.elapsed();
        println!(
            "{name}: {files} files in {elapsed:.1?}, {:.0} files/s",
            files as f64 / elapsed.as_secs_f64()
        );
    };
    let mut worst_per_file = 0;
    let mut show = |mount: &Mount, name: &str, before_bytes: u64| {
        let now = resident(mount.pid());
        let per_file = now.total_bytes.saturating_sub(before_bytes) / files as u64;
        println!(
            "{name}: resident {:.1} MiB (anonymous {:.1}), {per_file} bytes per file, {} nodes",
            mebibytes(now.total_bytes),
            mebibytes(now.anonymous_bytes),
            mount.status_number("nodes"),
        );
        worst_per_file = worst_per_file.max(per_file);
    };

    forest.read_one(mount.path(), 0, 0);
    let idle_bytes = resident(mount.pid()).total_bytes;
    println!("idle: resident {:.1} MiB", mebibytes(idle_bytes));
    pass(&mount, "cold");
    let known = wait_for_index(&mount);
    // Where the disk is too slow to make so many files durable in time, some pass by uncached.
    println!("{} files passed by uncached", files as u64 - known);
    if known < files as u64 {
        pass(&mount, "cold, what had passed by");
        assert_eq!(wait_for_index(&mount), files as u64, "files in the index");
    }
    show(&mount, "after the cold pass", idle_bytes);
    let misses = mount.status_number("backend.bytes_read");
    pass(&mount, "warm");
    assert_eq!(
        mount.status_number("backend.bytes_read"),
        misses,
        "a warm pass asks for no data"
    );
    show(&mount, "after the warm pass", idle_bytes);
    forget_names();
    // Free pages are given back with a checkpoint.
    std::thread::sleep(Duration::from_secs(7));
    show(&mount, "names forgotten", idle_bytes);

    for (name, kill) in [("after umount", false), ("after kill -9", true)] {
        if kill {
            mount.kill9();
        } else {
            mount.umount();
        }
        let began = Instant::now();
        mount.remount();
        let mounted = began.elapsed();
        let metadata = std::fs::metadata(mount.join("d0007/f0008")).expect("the file is there");
        assert!(metadata.len() > 0);
        forest.read_one(mount.path(), 7, 8);
        let serving = began.elapsed();
        println!("{name}: mounted in {mounted:?}, first stat and read after {serving:?}");
        assert!(serving < SERVING_MAX, "{name}: serves after {serving:?}");
        assert_eq!(
            mount.status_number("backend.bytes_read"),
            0,
            "{name}: it was cached"
        );
        // The sweep for orphaned objects reads the whole index now: reads go on meanwhile.
        let slowest = slowest_read(&mount, &forest, Duration::from_secs(sample_or_full(1, 20)));
        println!("{name}: slowest open and read while the index is swept: {slowest:?}");
        show(&mount, name, idle_bytes);
    }
    pass(&mount, "warm after kill -9");
    assert_eq!(
        mount.status_number("backend.bytes_read"),
        0,
        "after kill -9 nothing is fetched again"
    );
    show(&mount, "warm after kill -9", idle_bytes);
    if long_run() {
        assert!(
            worst_per_file <= BYTES_PER_FILE_MAX,
            "{worst_per_file} bytes per file"
        );
    }
}

fn slowest_read(mount: &Mount, forest: &Forest, during: Duration) -> Duration {
    let (began, mut slowest, mut number) = (Instant::now(), Duration::ZERO, 0);
    while began.elapsed() < during {
        let before = Instant::now();
        forest.read_one(
            mount.path(),
            number * 7 % forest.directories,
            number * 13 % forest.files_each,
        );
        slowest = slowest.max(before.elapsed());
        number += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    slowest
}
