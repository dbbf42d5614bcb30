//! Room that the operator wants elsewhere: free bytes and inodes of the cache disk, a part of the cache's own limit, and
//! a disk that is not to be written to more than so much a day.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::content::expect_content;
use support::*;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const SETTLE_LIMIT: Duration = Duration::from_secs(40);

struct World {
    // In this order: the mount goes before the disk below its cache.
    mount: Mount,
    contents: Vec<Content>,
    scratch: Scratch,
}

impl World {
    fn new(test: &str, files: u64, size_bytes: u64, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let cache = scratch.path().join("cache");
        mount::private_directory(&cache);
        Self::on(scratch, cache, files, size_bytes, options)
    }

    fn on(scratch: Scratch, cache: PathBuf, files: u64, size_bytes: u64, options: &[&str]) -> Self {
        let plain = scratch.directory("plain");
        let contents: Vec<_> = (0..files)
            .map(|number| Content::new(1 + number, 1, size_bytes))
            .collect();
        for (number, content) in contents.iter().enumerate() {
            content.create(&plain.join(number.to_string())).unwrap();
        }
        let mut mount_options = MountOptions::new(&scratch);
        mount_options.cache_dirs = vec![cache];
        let words = options.iter().map(|option| (*option).to_owned());
        mount_options.options.extend(words);
        let mount = Mount::start(&scratch, &plain, mount_options);
        Self {
            mount,
            contents,
            scratch,
        }
    }

    /// All of them; the kernel has none in memory.
    fn read_all(&self) {
        let (root, contents) = (self.mount.path().to_owned(), self.contents.clone());
        reading::drop_caches().expect("root may drop caches");
        with_time_limit(&self.scratch, LIMIT, move || {
            for (number, content) in contents.iter().enumerate() {
                expect_content(&root.join(number.to_string()), *content);
            }
        });
    }

    fn number(&self, path: &str) -> u64 {
        self.mount.status_number(path)
    }
}

fn free_percent(path: &Path) -> u64 {
    let facts = nix::sys::statvfs::statvfs(path).unwrap();
    facts.blocks_available() * 100 / facts.blocks()
}

fn free_inodes_percent(path: &Path) -> u64 {
    let facts = nix::sys::statvfs::statvfs(path).unwrap();
    facts.files_available() * 100 / facts.files()
}

#[test]
fn files_go_when_the_disk_has_less_free_than_bcull_until_it_has_brun() {
    let scratch = Scratch::new("room-bytes");
    let disk = SmallDisk::new(&scratch, "ext4", 128 * MIB);
    let cache = disk.cache_directory();
    let root = cache.parent().unwrap().to_owned();
    let options = ["cache_size=100M", "brun=60%", "bcull=50%", "bstop=40%"];
    let world = World::on(scratch, cache, 40, MIB, &options);
    world.read_all();
    assert!(free_percent(&root) >= 50, "the cache keeps to it by itself");
    let before = world.number("cache.bytes_used");
    assert!(before >= 24 * MIB, "{before} bytes were cached");
    fs::write(root.join("somebody else's"), vec![1; 24 << 20]).unwrap();
    wait_until(SETTLE_LIMIT, "files to give way", || {
        free_percent(&root) >= 60
    });
    assert!(world.number("cache.objects_evicted") > 0);
    assert!(world.number("cache.bytes_used") > 0, "not all of it goes");
    world.read_all();
}

#[test]
fn files_go_when_the_disk_has_fewer_inodes_free_than_fcull_until_it_has_frun() {
    let scratch = Scratch::new("room-inodes");
    let disk = SmallDisk::new(&scratch, "ext4", 128 * MIB);
    let cache = disk.cache_directory();
    let root = cache.parent().unwrap().to_owned();
    let options = ["cache_size=100M", "frun=99", "fcull=98", "fstop=96"];
    let world = World::on(scratch, cache, 700, 1000, &options);
    world.read_all();
    wait_until(SETTLE_LIMIT, "files to give way", || {
        free_inodes_percent(&root) >= 98 && world.number("cache.objects_evicted") > 0
    });
    world.read_all();
}

#[test]
fn a_disk_is_written_to_so_much_a_day_and_the_rest_is_read_past_the_cache() {
    let mut world = World::new(
        "room-writes",
        32,
        MIB,
        &["cache_size=100M", "write_limit=12M/day"],
    );
    world.read_all();
    assert_eq!(world.number("cache.write_limit_bytes"), 12 * MIB);
    let written = world.number("cache.written_today_bytes");
    assert!(
        (10 * MIB..=12 * MIB).contains(&written),
        "{written} bytes written"
    );
    assert!(world.number("cache.bytes_used") <= 12 * MIB);
    assert!(world.number("cache.bypass_bytes") >= 19 * MIB);
    world.mount.umount();
    world.mount.remount();
    assert_eq!(world.number("cache.written_today_bytes"), written);
    let evicted = world.mount.command("evict", &[], Duration::from_secs(20));
    assert!(evicted.status.success(), "{evicted:?}");
    world.read_all();
    assert!(
        world.number("cache.bytes_used") <= 2 * MIB,
        "a day has one limit"
    );
}

#[test]
fn watermarks_say_how_much_of_the_limit_is_used() {
    let options = ["cache_size=64M", "high_watermark=60%", "low_watermark=30%"];
    let world = World::new("room-watermarks", 80, MIB, &options);
    world.read_all();
    wait_until(SETTLE_LIMIT, "eviction to end", || {
        world.number("cache.bytes_used") <= 64 * MIB * 60 / 100
    });
    assert!(world.number("cache.objects_evicted") >= 20);
    world.read_all();
}
