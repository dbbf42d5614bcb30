//! A cache disk that somebody else fills makes nothing wrong, takes nothing out of use and costs nothing that is
//! cached, while running, at the start and after kill -9; and all goes on by itself once there is room.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::content::expect_content;
use support::mount::PROGRAM;
use support::reading::{AlignedBuffer, open_direct};
use support::*;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const HOT_FILES: u64 = 16;
const COLD_FILES: u64 = 4;

fn expect_content_direct(path: &Path, content: Content) {
    let file = open_direct(path).unwrap();
    let mut buffer = AlignedBuffer::new(MIB as usize);
    let mut offset = 0;
    while offset < content.size_bytes {
        let length = file.read_at(buffer.bytes_mut(), offset).unwrap();
        assert!(length > 0, "{} ends early", path.display());
        let bytes = &buffer.bytes()[..length];
        assert_eq!(content.check(offset, bytes), Ok(()), "{}", path.display());
        offset += length as u64;
    }
}

/// What `why` says of a file.
fn why(path: &Path) -> String {
    let mut command = Command::new(PROGRAM);
    command.arg("why").arg(path);
    let told = support::process::run(command, LIMIT);
    assert!(told.status.success(), "{told:?}");
    String::from_utf8(told.stdout).unwrap()
}

struct World {
    // In this order: the mount goes before its backend, the disk with the directory.
    mount: Mount,
    backend: FaultBackend,
    disk: SmallDisk,
    scratch: Scratch,
}

fn hot(index: u64) -> Content {
    Content::new(1 + index, 1, MIB + index * 10_000)
}

fn cold(index: u64) -> Content {
    Content::new(100 + index, 1, 2 * MIB)
}

fn small(index: u64) -> Content {
    Content::new(200 + index, 1, 5000)
}

fn backend_with_files(scratch: &Scratch) -> FaultBackend {
    let backend = FaultBackend::start(scratch, BackendOptions::default());
    for index in 0..HOT_FILES {
        let path = backend.plain.join(format!("hot{index}"));
        hot(index).create(&path).unwrap();
    }
    for index in 0..COLD_FILES {
        let path = backend.plain.join(format!("cold{index}"));
        cold(index).create(&path).unwrap();
        let path = backend.plain.join(format!("small{index}"));
        small(index).create(&path).unwrap();
    }
    backend
}

impl World {
    /// The hot files are cached, and the index knows it.
    fn new(test: &str, filesystem: &str, disk_bytes: u64) -> Self {
        let world = Self::empty(test, filesystem, disk_bytes, |_| {});
        world.read_hot();
        world.wait_for_files(HOT_FILES);
        world
    }

    fn empty(test: &str, kind: &str, disk_bytes: u64, before: impl FnOnce(&SmallDisk)) -> Self {
        let scratch = Scratch::new(test);
        let disk = SmallDisk::new(&scratch, kind, disk_bytes);
        let backend = backend_with_files(&scratch);
        let mut options = MountOptions::new(&scratch).with("cache_size=48M");
        options.cache_dirs = vec![disk.cache_directory()];
        before(&disk);
        let mount = Mount::start(&scratch, &backend.mountpoint, options);
        Self {
            mount,
            backend,
            disk,
            scratch,
        }
    }

    /// Through the daemon: what the kernel has in memory says nothing about the cache.
    fn read(&self, files: Vec<(String, Content)>) {
        let path = self.mount.path().to_owned();
        with_time_limit(&self.scratch, LIMIT, move || {
            for (name, content) in files {
                expect_content_direct(&path.join(name), content);
            }
        });
    }

    fn read_hot(&self) {
        self.read(
            (0..HOT_FILES)
                .map(|i| (format!("hot{i}"), hot(i)))
                .collect(),
        );
    }

    fn read_cold(&self) {
        let large = (0..COLD_FILES).map(|i| (format!("cold{i}"), cold(i)));
        let small = (0..COLD_FILES).map(|i| (format!("small{i}"), small(i)));
        self.read(large.chain(small).collect());
    }

    /// How many bytes of the backend `work` took.
    fn fetched_by(&self, work: impl FnOnce(&Self)) -> u64 {
        let before = self.backend.counters().bytes_read;
        work(self);
        self.backend.counters().bytes_read - before
    }

    /// The index's room may have cost the least recently used one or two.
    fn expect_hot_hits(&self) {
        let fetched = self.fetched_by(Self::read_hot);
        assert!(
            fetched <= 3 * MIB,
            "{fetched} bytes of what was cached were fetched again"
        );
    }

    fn wait_for_files(&self, files: u64) {
        wait_until(LIMIT, "the index to know what is cached", || {
            self.mount.status_number("cache.files") >= files
        });
    }

    fn directory_state(&self) -> String {
        let status = self.mount.status();
        let state = &status["cache"]["directories"][0]["state"];
        state.as_str().expect("a text").to_owned()
    }

    fn wait_for_state(&self, wanted: &str) {
        wait_until(LIMIT, wanted, || self.directory_state().contains(wanted));
    }

    /// New data is cached again, without anybody doing anything.
    fn expect_healed(&self) {
        self.wait_for_state("ok");
        assert_eq!(self.mount.status()["state"], "serving");
        wait_until(LIMIT, "new data to be cached", || {
            self.fetched_by(Self::read_cold) + self.fetched_by(Self::read_hot) == 0
        });
    }
}

fn stays_right(test: &str, filesystem: &str, disk_bytes: u64) {
    let mut world = World::new(test, filesystem, disk_bytes);
    world.disk.fill();
    // Though nothing was fetched since then.
    assert!(world.directory_state().contains("disk full"));
    assert_eq!(world.mount.status()["state"], "degraded");
    world.read_cold();
    world.expect_hot_hits();
    // The index has to take this in, with the disk filled anew whenever something was freed.
    world.disk.fill();
    for index in 0..3 {
        let evicted = world
            .mount
            .command("evict", &[&format!("hot{index}")], LIMIT);
        assert!(evicted.status.success(), "{evicted:?}");
        world.disk.fill();
        world.read_cold();
    }
    assert!(world.directory_state().contains("disk full"));
    world.mount.kill9();
    world.mount.remount();
    world.wait_for_state("disk full");
    let fetched = world.fetched_by(World::read_hot);
    assert!(
        fetched <= 9 * MIB,
        "{fetched} bytes fetched again after kill -9"
    );
    world.read_cold();
    world.disk.free();
    world.expect_healed();
    world.mount.umount();
    world.mount.remount();
    assert_eq!(world.fetched_by(World::read_cold), 0);
    assert_eq!(world.fetched_by(World::read_hot), 0);
    let doubted = world.mount.status_number("cache.doubted");
    assert_eq!(doubted, 0, "{}", world.mount.log());
}

#[test]
fn a_disk_that_fills_up_while_mounted_keeps_what_is_cached_and_heals() {
    stays_right("full-running", "ext4", 96 * MIB);
}

#[test]
fn an_xfs_that_fills_up_while_mounted_keeps_what_is_cached_and_heals() {
    stays_right("full-xfs", "xfs", 320 * MIB);
}

#[test]
fn a_mount_on_a_full_disk_serves_what_is_cached_says_so_and_heals() {
    let mut world = World::new("full-start", "ext4", 96 * MIB);
    world.mount.umount();
    world.disk.fill();
    let output = world.mount.try_mount(LIMIT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("warning") && said.contains("disk full"),
        "{said}"
    );
    world.expect_hot_hits();
    world.read_cold();
    let words = world.mount.command("status", &[], LIMIT);
    let words = String::from_utf8_lossy(&words.stdout);
    assert!(words.contains("disk full"), "{words}");
    let told = why(&world.mount.join("cold0"));
    assert!(told.contains("disk full"), "{told}");
    world.disk.free();
    world.expect_healed();
    let ended = world.mount.command("umount", &[], LIMIT);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_new_cache_on_a_full_disk_begins_when_there_is_room() {
    let world = World::empty("full-new", "ext4", 96 * MIB, SmallDisk::fill);
    world.read_hot();
    assert!(world.directory_state().contains("disk full"));
    world.read_cold();
    let evicted = world.mount.command("evict", &[], LIMIT);
    assert!(!evicted.status.success(), "{evicted:?}");
    assert!(String::from_utf8_lossy(&evicted.stderr).contains("disk full"));
    world.disk.free();
    world.wait_for_state("ok");
    world.read_hot();
    world.wait_for_files(HOT_FILES);
    world.expect_healed();
}

/// A disk that gives back something else than it got is out of use, and nobody is told that it was emptied.
#[test]
fn a_directory_out_of_use_is_named_with_the_reason_and_evicting_from_it_fails() {
    let scratch = Scratch::new("out-of-use");
    let backend = backend_with_files(&scratch);
    let options = MountOptions::new(&scratch).with("passthrough=off");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    expect_content(&mount.join("hot0"), hot(0));
    let cache = mount.cache_dir().display().to_string();
    for folder in fs::read_dir(mount.cache_dir().join("objects")).unwrap() {
        for object in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = object.unwrap().path();
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(10)
                .unwrap();
        }
    }
    // Past the kernel's pages of the mount.
    let file = open_direct(&mount.join("hot0")).unwrap();
    let mut buffer = AlignedBuffer::new(65536);
    assert_eq!(file.read_at(buffer.bytes_mut(), 0).unwrap(), 65536);
    assert_eq!(hot(0).check(0, buffer.bytes()), Ok(()));
    drop(file);
    let status = mount.status();
    assert_eq!(status["state"], "degraded");
    let warnings = status["warnings"].to_string();
    for word in [cache.as_str(), "out of use until the next mount", "shorter"] {
        assert!(warnings.contains(word), "{word} in {warnings}");
    }
    let told = why(&mount.join("hot0"));
    assert!(told.contains(&cache) && told.contains("shorter"), "{told}");
    for paths in [&[][..], &["hot0"]] {
        let output = mount.command("evict", paths, LIMIT);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&cache) && said.contains("shorter"), "{said}");
    }
}
