//! What goes when the cache is full: what is in use again and again outlasts what is read once, whatever its amount.

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

struct Files {
    folder: &'static str,
    contents: Vec<Content>,
}

impl Files {
    /// Files of several sizes, some read by the daemon and some by the kernel, of so many bytes together.
    fn make(plain: &Path, folder: &'static str, total_bytes: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (mut contents, mut bytes) = (Vec::new(), 0);
        std::fs::create_dir(plain.join(folder)).expect("a folder can be made");
        while bytes < total_bytes {
            let size_bytes = (64 << 10) + random.below(800 << 10);
            let content = Content::new(random.next(), 1, size_bytes.min(total_bytes - bytes));
            let path = plain.join(folder).join(contents.len().to_string());
            content.create(&path).expect("a file can be made");
            contents.push(content);
            bytes += content.size_bytes;
        }
        Self { folder, contents }
    }

    fn bytes(&self) -> u64 {
        self.contents.iter().map(|content| content.size_bytes).sum()
    }

    fn read(&self, root: &Path) {
        for (number, content) in self.contents.iter().enumerate() {
            let path = root.join(self.folder).join(number.to_string());
            content::expect_content(&path, *content);
        }
    }
}

/// Bytes that a pass over these files takes from the backend. What the kernel has in memory is forgotten before.
fn fetched_by_a_pass(mount: &Mount, files: &Files) -> u64 {
    reading::drop_caches().expect("root may drop caches");
    let before = mount.status_number("backend.bytes_read");
    files.read(mount.path());
    mount.status_number("backend.bytes_read") - before
}

/// As an administrator would who wants to know that all is there.
fn scan(scratch: &Scratch, folder: &Path) {
    let folder = folder.to_owned();
    let status = with_time_limit(scratch, LIMIT, move || {
        Command::new("sh")
            .args([
                "-c",
                "find \"$0\" -type f -print0 | xargs -0 md5sum > /dev/null",
            ])
            .arg(folder)
            .status()
            .expect("sh runs")
    });
    assert!(status.success());
}

/// Uses files of half the cache's size, then reads four times its size once: the part of the first that stays.
fn part_that_stays(test: &str, policy: &str) -> f64 {
    let scratch = Scratch::new(test);
    let plain = scratch.directory("plain");
    let cache_bytes: u64 = sample_or_full(48 << 20, 512 << 20);
    let hot = Files::make(&plain, "hot", cache_bytes / 2, 1);
    let others = Files::make(&plain, "others", 4 * cache_bytes, 2);
    let options = MountOptions::new(&scratch)
        .with(&format!("cache_size={cache_bytes}"))
        .with(&format!("eviction={policy}"));
    let mut mount = Mount::start(&scratch, &plain, options);
    wait_until(SETTLE_LIMIT, "the hot files to be cached", || {
        fetched_by_a_pass(&mount, &hot) == 0
            && mount.status_number("cache.files") == hot.contents.len() as u64
    });
    for _ in 0..2 {
        fetched_by_a_pass(&mount, &hot);
    }
    scan(&scratch, &mount.join(others.folder));
    let fetched = fetched_by_a_pass(&mount, &hot);
    let stayed = 1.0 - fetched as f64 / hot.bytes() as f64;
    println!(
        "{policy}: {:.3} of {} bytes stayed, {} files evicted, {} bytes past the cache",
        stayed,
        hot.bytes(),
        mount.status_number("cache.objects_evicted"),
        mount.status_number("cache.bypass_bytes")
    );
    mount.umount();
    stayed
}

#[test]
fn a_hot_set_of_half_the_cache_survives_a_scan_of_four_times_its_size() {
    let stayed = part_that_stays("evict-s3fifo", "s3fifo");
    assert!(stayed >= 0.9, "{stayed:.3} of the hot bytes stayed");
}

#[test]
fn arc_keeps_the_hot_set_too() {
    let stayed = part_that_stays("evict-arc", "arc");
    assert!(stayed >= 0.9, "{stayed:.3} of the hot bytes stayed");
}

#[test]
fn lfu_keeps_the_hot_set_too() {
    let stayed = part_that_stays("evict-lfu", "lfu");
    assert!(stayed >= 0.9, "{stayed:.3} of the hot bytes stayed");
}

#[test]
fn lru_gives_the_hot_set_up_to_a_scan() {
    let stayed = part_that_stays("evict-lru", "lru");
    assert!(stayed < 0.5, "{stayed:.3} of the hot bytes stayed");
}

/// More than the cache holds is read from one file that stays open: what was read last stays, the rest makes room.
#[test]
fn a_large_file_that_stays_open_gives_up_what_is_not_read() {
    let scratch = Scratch::new("evict-open");
    let plain = scratch.directory("plain");
    let cache_bytes = 32 * MIB;
    let content = Content::new(7, 1, sample_or_full(160 * MIB, 2048 * MIB));
    content
        .create(&plain.join("large"))
        .expect("a file can be made");
    let options = MountOptions::new(&scratch).with(&format!("cache_size={cache_bytes}"));
    let mut mount = Mount::start(&scratch, &plain, options);
    let file = reading::open_direct(&mount.join("large")).expect("it opens");
    let read = move |from: u64, to: u64| {
        let mut buffer = reading::AlignedBuffer::new(MIB as usize);
        for offset in (from..to).step_by(MIB as usize) {
            let length = file.read_at(buffer.bytes_mut(), offset).expect("it reads");
            let bytes = &buffer.bytes()[..length];
            assert_eq!(content.check(offset, bytes), Ok(()), "at {offset}");
            assert_eq!(length as u64, MIB.min(content.size_bytes - offset));
        }
    };
    let read = std::sync::Arc::new(read);
    let all = read.clone();
    with_time_limit(&scratch, LIMIT, move || all(0, content.size_bytes));
    assert!(mount.status_number("cache.bytes_used") <= cache_bytes);
    wait_until(SETTLE_LIMIT, "a part in use to be cached", || {
        let before = mount.status_number("backend.bytes_read");
        let again = read.clone();
        with_time_limit(&scratch, LIMIT, move || again(16 * MIB, 24 * MIB));
        mount.status_number("backend.bytes_read") == before
    });
    println!(
        "{} bytes trimmed, {} past the cache",
        mount.status_number("cache.trimmed_bytes"),
        mount.status_number("cache.bypass_bytes")
    );
    assert!(mount.status_number("cache.trimmed_bytes") >= cache_bytes);
    assert_eq!(mount.status_number("cache.objects_evicted"), 0);
    drop(read);
    mount.umount();
}

/// What the cache holds comes to `bytes` at most, within two checkpoints and some time for a busy machine.
fn wait_for_room(mount: &Mount, bytes: u64, what: &str) {
    wait_until(SETTLE_LIMIT, what, || {
        mount.status_number("cache.bytes_used") <= bytes
    });
}

#[test]
fn what_is_removed_leaves_the_cache() {
    let scratch = Scratch::new("evict-removed");
    let plain = scratch.directory("plain");
    let content = Content::new(11, 1, 3 * MIB);
    for name in ["read", "replaced", "open", "kept"] {
        content
            .create(&plain.join(name))
            .expect("a file can be made");
    }
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    for name in ["read", "replaced", "open", "kept"] {
        content::expect_content(&mount.join(name), content);
    }
    let all_bytes = mount.status_number("cache.bytes_used");
    assert!(all_bytes >= 12 * MIB, "{all_bytes}");
    std::fs::remove_file(mount.join("read")).expect("a file can be removed");
    std::fs::write(mount.join("new"), b"").expect("a file can be made");
    std::fs::rename(mount.join("new"), mount.join("replaced")).expect("a file can be replaced");
    wait_for_room(
        &mount,
        all_bytes - 6 * MIB,
        "the removed and the replaced one go",
    );
    let open = std::fs::File::open(mount.join("open")).expect("a file can be opened");
    std::fs::remove_file(mount.join("open")).expect("an open file can be removed");
    let mut last = [0; 4096];
    open.read_exact_at(&mut last, content.size_bytes - 4096)
        .expect("an open file can be read without its name");
    drop(open);
    wait_for_room(
        &mount,
        all_bytes - 9 * MIB,
        "the open one goes when it is closed",
    );
    let fetched = mount.status_number("backend.bytes_read");
    content::expect_content(&mount.join("kept"), content);
    assert_eq!(mount.status_number("backend.bytes_read"), fetched);
}
