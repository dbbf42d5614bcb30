//! What is written through the mount is in the cache when it is closed, what was cached before stays, and nothing of it
//! is ever believed that the backend does not have.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::writing::{WritableMapping, allocate, copy_range, open_with};
use support::*;

const LIMIT: Duration = Duration::from_secs(120);
const SIZE: usize = 3 << 20;

/// A mount, and where its files are.
struct Place {
    mount: Mount,
    /// The backend's own files.
    plain: PathBuf,
    server: Option<FaultBackend>,
    scratch: Scratch,
}

impl Place {
    /// On a directory of this machine: what is kept is proven.
    fn local(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
        Self {
            mount,
            plain,
            server: None,
            scratch,
        }
    }

    /// On a server, with further options.
    fn remote(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let server = FaultBackend::start(&scratch, BackendOptions::default());
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        Self {
            mount: Mount::start(&scratch, &server.mountpoint, mount_options),
            plain: server.plain.clone(),
            server: Some(server),
            scratch,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    fn backend_bytes(&self) -> u64 {
        self.mount.status_number("backend.bytes_read")
    }

    fn passthrough_opens(&self) -> u64 {
        self.mount.status_number("cache.passthrough_opens")
    }

    /// The file is these bytes here and on the backend.
    fn expect(&self, name: &str, bytes: &[u8], told: &str) {
        let there = fs::read(self.plain.join(name)).unwrap();
        assert!(there == bytes, "{told}: other bytes on the backend");
        let here = fs::read(self.path(name)).unwrap();
        let first = here.iter().zip(bytes).position(|(a, b)| a != b);
        assert!(
            here == bytes,
            "{told}: {} of {} bytes, the first wrong one at {first:?}",
            here.len(),
            bytes.len()
        );
    }

    /// The same, and the backend is asked for no byte of it.
    fn expect_hit(&self, name: &str, bytes: &[u8], told: &str) {
        let before = self.backend_bytes();
        self.expect(name, bytes, told);
        assert_eq!(
            self.backend_bytes() - before,
            0,
            "{told}: bytes were fetched"
        );
        self.wait_for_closes();
    }

    /// The kernel tells of a close some time after it.
    fn wait_for_closes(&self) {
        wait_until(LIMIT, "all handles to be closed", || {
            self.mount.status_number("handles") == 0
        });
    }

    /// The kernel reads the file by itself, once it has told of the last close.
    fn expect_passthrough(&self, name: &str) {
        let before = self.passthrough_opens();
        wait_until(LIMIT, "an open by passthrough", || {
            drop(File::open(self.path(name)).unwrap());
            self.passthrough_opens() > before
        });
    }
}

fn content(seed: u64, size: usize) -> Vec<u8> {
    Content::new(seed, 1, size as u64).bytes(0, size)
}

fn places(test: &str) -> [Place; 2] {
    [
        Place::local(&format!("{test}-local")),
        Place::remote(&format!("{test}-remote"), &["keep_written=always"]),
    ]
}

#[test]
fn a_new_file_is_a_hit_at_its_next_open() {
    for place in places("kept-new") {
        for size in [1, 4096, 10_000, 200_000, SIZE + 17] {
            let bytes = content(size as u64, size);
            fs::write(place.path("file"), &bytes).unwrap();
            place.expect_hit("file", &bytes, &format!("{size} bytes"));
            if size > SIZE {
                place.expect_passthrough("file");
            }
            fs::remove_file(place.path("file")).unwrap();
        }
    }
}

#[test]
fn a_file_written_beside_its_name_and_renamed_is_a_hit() {
    for place in places("kept-renamed") {
        let bytes = content(1, SIZE);
        fs::write(place.path("file.new"), &bytes).unwrap();
        fs::rename(place.path("file.new"), place.path("file")).unwrap();
        place.expect_hit("file", &bytes, "renamed");
        place.expect_passthrough("file");
    }
}

/// Every kind of change, one after the other, each with the file closed before and after.
#[test]
fn a_changed_file_keeps_what_was_cached_of_it() {
    for place in places("kept-changed") {
        let path = place.path("file");
        let mut bytes = content(2, SIZE);
        fs::write(place.plain.join("file"), &bytes).unwrap();
        // Its version is older than a step of timestamps.
        std::thread::sleep(Duration::from_millis(50));
        place.expect("file", &bytes, "filled");
        place.expect_hit("file", &bytes, "filled");

        let file = open_with(&path, 0).unwrap();
        file.write_all_at(&[7; 5000], 100_000).unwrap();
        bytes[100_000..105_000].fill(7);
        drop(file);
        place.expect_hit("file", &bytes, "rewritten in part");

        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[8; 70_001]).unwrap();
        bytes.extend([8; 70_001]);
        drop(file);
        place.expect_hit("file", &bytes, "appended to");

        open_with(&path, 0).unwrap().set_len(2_000_003).unwrap();
        bytes.truncate(2_000_003);
        place.expect_hit("file", &bytes, "cut");

        let file = open_with(&path, 0).unwrap();
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        if allocate(&file, punch, 50_000, 100_000).is_ok() {
            bytes[50_000..150_000].fill(0);
        }
        drop(file);
        place.expect_hit("file", &bytes, "punched");

        let file = open_with(&path, 0).unwrap();
        let mapping = WritableMapping::new(&file, bytes.len()).unwrap();
        mapping.store(700_000, &[9; 9000]);
        mapping.sync().unwrap();
        bytes[700_000..709_000].fill(9);
        drop((file, mapping));
        place.expect_hit("file", &bytes, "stored to");
        place.expect_passthrough("file");
    }
}

/// What did not come this way is fetched, and it alone.
#[test]
fn what_grows_or_is_copied_is_right_and_the_rest_is_kept() {
    for place in places("kept-grown") {
        let path = place.path("file");
        let mut bytes = content(3, SIZE);
        fs::write(&path, &bytes).unwrap();
        let file = open_with(&path, 0).unwrap();
        file.set_len(SIZE as u64 + 5_000_000).unwrap();
        file.write_all_at(b"behind a gap", SIZE as u64 + 5_500_000)
            .unwrap();
        bytes.resize(SIZE + 5_500_000, 0);
        bytes.extend(b"behind a gap");
        if copy_range(&file, 0, &file, 1_000_000, 300_000).is_ok() {
            bytes.copy_within(0..300_000, 1_000_000);
        }
        let zero = libc::FALLOC_FL_ZERO_RANGE;
        if allocate(&file, zero, SIZE as u64 - 10_000, 20_000).is_ok() {
            bytes[SIZE - 10_000..SIZE + 10_000].fill(0);
        }
        drop(file);
        let before = place.backend_bytes();
        place.expect("file", &bytes, "grown");
        let fetched = place.backend_bytes() - before;
        assert!(fetched < 8 << 20, "{fetched} bytes were fetched");
    }
}

#[test]
fn a_writer_reads_what_it_has_written_from_the_cache() {
    for place in places("kept-own-reads") {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_DIRECT)
            .open(place.path("file"))
            .unwrap();
        let bytes = content(4, 1 << 20);
        file.write_all_at(&bytes, 0).unwrap();
        let before = place.backend_bytes();
        let mut buffer = reading::AlignedBuffer::new(64 << 10);
        let read = file.read_at(buffer.bytes_mut(), 128 << 10).unwrap();
        assert!(buffer.bytes()[..read] == bytes[128 << 10..192 << 10]);
        assert_eq!(place.backend_bytes() - before, 0);
    }
}

/// Who else writes to the file, before, between and after the writes made here, is seen by the next open.
#[test]
fn another_writer_of_a_local_backend_is_never_missed() {
    let place = Place::local("kept-foreign");
    let (here, there) = (place.path("file"), place.plain.join("file"));
    let rounds = sample_or_full(40, 2000);
    let mut random = Random::from_environment("kept-foreign");
    let mut bytes = vec![0u8; 400_000];
    fs::write(&here, &bytes).unwrap();
    for round in 0..rounds {
        let (ours, theirs) = (1 + round as u8 % 100, 101 + round as u8 % 100);
        let when = random.below(4);
        let early = (when == 0).then(|| open_with(&there, 0).unwrap());
        let file = open_with(&here, 0).unwrap();
        file.write_all_at(&[ours; 50_000], 100_000).unwrap();
        bytes[100_000..150_000].fill(ours);
        if when == 1 {
            open_with(&there, 0)
                .unwrap()
                .write_all_at(&[theirs; 9000], 110_000)
                .unwrap();
            bytes[110_000..119_000].fill(theirs);
        }
        file.write_all_at(&[ours; 5000], 300_000).unwrap();
        bytes[300_000..305_000].fill(ours);
        if let Some(early) = &early {
            early.write_all_at(&[theirs; 7000], 102_000).unwrap();
            bytes[102_000..109_000].fill(theirs);
        }
        drop(file);
        drop(early);
        if when == 2 {
            // At once: within a step of the timestamps.
            open_with(&there, 0)
                .unwrap()
                .write_all_at(&[theirs; 6000], 120_000)
                .unwrap();
            bytes[120_000..126_000].fill(theirs);
        }
        place.expect("file", &bytes, &format!("round {round}, case {when}"));
    }
}

#[test]
fn whoever_opens_a_file_being_written_waits_for_nothing() {
    let place = Place::local("kept-lease");
    let file = File::create(place.path("file")).unwrap();
    for round in 0..20u64 {
        file.write_all_at(&[1; 5000], round * 5000).unwrap();
        let began = Instant::now();
        assert_eq!(
            fs::read(place.plain.join("file")).unwrap().len() as u64,
            (round + 1) * 5000
        );
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
}

/// The thread that wrote ends when it has been idle for some seconds.
#[test]
fn whoever_opens_a_file_written_by_a_thread_that_ended_waits_for_nothing() {
    let place = Place::local("kept-lease-idle");
    let file = File::create(place.path("file")).unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    let tasks = format!("/proc/{}/task", place.mount.pid());
    wait_until(
        Duration::from_secs(60),
        "the writing threads to end",
        || {
            let mut threads = fs::read_dir(&tasks).unwrap().flatten();
            !threads.any(|thread| {
                let name = fs::read_to_string(thread.path().join("comm"));
                name.is_ok_and(|name| name.starts_with("writes"))
            })
        },
    );
    let began = Instant::now();
    assert_eq!(fs::read(place.plain.join("file")).unwrap(), [1; 5000]);
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}

#[test]
fn nothing_is_kept_of_a_remote_file_unless_asked_for() {
    let place = Place::remote("kept-not", &[]);
    let bytes = content(5, SIZE);
    fs::write(place.path("file"), &bytes).unwrap();
    let before = place.backend_bytes();
    place.expect("file", &bytes, "written");
    assert!(place.backend_bytes() - before >= SIZE as u64);
    let status = place.mount.status();
    let told = status["options"].as_array().unwrap().iter();
    let option = told.filter(|option| option["name"] == "keep_written");
    let reasons: Vec<_> = option.map(|option| &option["no_effect_because"]).collect();
    assert!(
        reasons.iter().all(|reason| reason.is_string()),
        "{reasons:?}"
    );
    assert_eq!(reasons.len(), 1);
}

#[test]
fn a_locked_file_is_not_kept_beyond_its_locks() {
    let place = Place::remote("kept-locked", &["keep_written=always"]);
    let mut bytes = content(6, SIZE);
    fs::write(place.path("file"), &bytes).unwrap();
    let file = open_with(&place.path("file"), 0).unwrap();
    file.lock().unwrap();
    file.write_all_at(&[1; 9000], 50_000).unwrap();
    bytes[50_000..59_000].fill(1);
    file.sync_all().unwrap();
    file.unlock().unwrap();
    // Another machine's turn.
    let other = open_with(&place.plain.join("file"), 0).unwrap();
    other.write_all_at(&[2; 5000], 52_000).unwrap();
    bytes[52_000..57_000].fill(2);
    file.write_all_at(&[3; 10], 0).unwrap();
    bytes[..10].fill(3);
    drop(file);
    place.expect("file", &bytes, "locked");
}

#[test]
fn a_failed_write_or_sync_leaves_nothing_that_the_backend_does_not_have() {
    let place = Place::remote("kept-failed", &["keep_written=always"]);
    let server = place.server.as_ref().unwrap();
    let path = place.path("file");
    fs::write(&path, content(7, 400_000)).unwrap();
    let faults = [
        (Operation::Write, Action::Errno(libc::EIO)),
        (Operation::Write, Action::Errno(libc::ENOSPC)),
        (Operation::Write, Action::ShortBytes(3000)),
        (Operation::Fsync, Action::Errno(libc::EIO)),
        (Operation::Setattr, Action::Errno(libc::EIO)),
        (Operation::Fallocate, Action::Errno(libc::ENOSPC)),
    ];
    for (round, (operation, action)) in faults.into_iter().enumerate() {
        for skip in 0..3 {
            let rule = Rule::new(operation, "file", action);
            server.add_rule(rule.skip_calls(skip).limit_calls(1));
            let file = open_with(&path, 0).unwrap();
            let byte = (round * 3) as u8 + skip as u8;
            let _ = file.write_all_at(&[byte; 9000], 70_000);
            let _ = file.write_all_at(&[byte; 5000], 395_000 + 3000 * skip);
            let _ = allocate(&file, 0, 300_000, 200_000);
            let _ = file.set_len(405_000 - skip);
            let _ = file.write_all_at(&[byte; 20], 20);
            drop(file);
            server.clear_rules();
            let there = fs::read(place.plain.join("file")).unwrap();
            place.expect("file", &there, &format!("{operation:?} {action:?} {skip}"));
        }
    }
}

/// Stores to a mapping arrive after the last close(2), and so does the error of their sync.
#[test]
fn a_failed_last_sync_keeps_nothing() {
    let place = Place::remote("kept-last-sync", &["keep_written=always"]);
    let server = place.server.as_ref().unwrap();
    for fails in [false, true] {
        let mut bytes = content(10, SIZE);
        fs::write(place.path("file"), &bytes).unwrap();
        place.wait_for_closes();
        let file = open_with(&place.path("file"), 0).unwrap();
        let mapping = WritableMapping::new(&file, SIZE).unwrap();
        drop(file);
        mapping.store(50_000, &[1; 9000]);
        bytes[50_000..59_000].fill(1);
        let rule = Rule::new(Operation::Fsync, "file", Action::Errno(libc::EIO));
        server.add_rule(rule.limit_calls(u64::from(fails)));
        drop(mapping);
        place.wait_for_closes();
        let syncs = || server.counters().calls(Operation::Fsync);
        wait_until(LIMIT, "the last sync", || syncs() >= 2);
        server.clear_rules();
        let before = place.backend_bytes();
        place.expect("file", &bytes, "stored to");
        assert!(!fails || place.backend_bytes() > before, "it was believed");
        server.reset_counters();
        fs::remove_file(place.path("file")).unwrap();
    }
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_nothing_wrong() {
    let mut place = Place::remote("kept-killed", &["keep_written=always"]);
    let mut random = Random::from_environment("kept-killed");
    for round in 0..sample_or_full(4, 100) {
        let path = place.path("file");
        let seed = random.next();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = std::thread::spawn(move || {
            for pass in 0u64.. {
                let bytes = content(seed ^ pass, 300_000);
                let written = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(pass % 3 == 0)
                    .open(&path)
                    .and_then(|file| file.write_all_at(&bytes, (pass % 5) * 40_000));
                // What is below a mount that is gone takes files, too.
                if written.is_err() || stopped.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        // Past some checkpoints, and at none in particular.
        std::thread::sleep(Duration::from_millis(200 + random.below(3500)));
        place.mount.kill9();
        stop.store(true, Ordering::Release);
        writer.join().unwrap();
        place.mount.remount();
        let there = fs::read(place.plain.join("file")).unwrap();
        place.expect("file", &there, &format!("round {round}"));
    }
}

#[test]
fn what_was_written_is_kept_over_a_restart() {
    let mut place = Place::local("kept-restarted");
    let bytes = content(8, SIZE);
    fs::write(place.path("file"), &bytes).unwrap();
    place.mount.umount();
    place.mount.remount();
    place.expect_hit("file", &bytes, "restarted");
}

#[test]
fn a_cache_without_room_lets_writes_pass() {
    let place = Place::remote("kept-full", &["keep_written=always", "cache_size=16M"]);
    for round in 0..3 {
        let bytes = content(round, 24 << 20);
        fs::write(place.path("large"), &bytes).unwrap();
        assert!(place.mount.status_number("cache.bytes_used") <= 16 << 20);
        place.expect("large", &bytes, "larger than the cache");
        for index in 0..10 {
            fs::write(place.path(&format!("file{index}")), &bytes[..3 << 20]).unwrap();
        }
        for index in 0..10 {
            place.expect(&format!("file{index}"), &bytes[..3 << 20], "one of many");
        }
        assert!(place.mount.status_number("cache.bytes_used") <= 16 << 20);
    }
}

#[test]
fn a_killed_writer_ends_though_its_write_hangs() {
    let place = Place::remote("kept-hung", &["keep_written=always"]);
    let server = place.server.as_ref().unwrap();
    fs::write(place.path("file"), b"before").unwrap();
    server.add_rule(Rule::new(Operation::Write, "file", Action::Hang));
    let mut command = std::process::Command::new("dd");
    command.args(["if=/dev/zero", "bs=4096", "count=1", "conv=notrunc"]);
    command.arg(format!("of={}", place.path("file").display()));
    let mut child = process::spawn(command).unwrap();
    server.wait_for_hung(1);
    process::kill_now(child.id() as i32);
    let ended = process::wait_for(&mut child, Duration::from_secs(2));
    assert!(ended.is_some(), "a killed writer waits on");
    server.clear_rules();
    server.release(None);
    wait_until(LIMIT, "the write to be taken over", || {
        let there = fs::read(place.plain.join("file")).unwrap();
        there.len() == 4096 && fs::read(place.path("file")).unwrap() == there
    });
}

/// One step of a fill or a write of the same range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    BeginFill,
    EndFill,
    BeginWrite,
    EndWrite,
}

/// Every order in which a fill and a write can begin and end.
fn orders() -> Vec<[Step; 4]> {
    use Step::{BeginFill, BeginWrite, EndFill, EndWrite};
    vec![
        [BeginFill, EndFill, BeginWrite, EndWrite],
        [BeginFill, BeginWrite, EndFill, EndWrite],
        [BeginFill, BeginWrite, EndWrite, EndFill],
        [BeginWrite, BeginFill, EndFill, EndWrite],
        [BeginWrite, BeginFill, EndWrite, EndFill],
        [BeginWrite, EndWrite, BeginFill, EndFill],
    ]
}

type Work = Option<std::thread::JoinHandle<()>>;

/// Makes the steps in order: what has begun hangs on the server until its end is let come.
fn walk(place: &Place, order: &[Step], written: &'static [u8]) {
    let server = place.server.as_ref().unwrap();
    let (mut fill, mut write): (Work, Work) = (None, None);
    let (mut fill_rule, mut write_rule) = (0, 0);
    for step in order {
        match step {
            Step::BeginFill => {
                fill_rule = server.add_rule(Rule::new(Operation::Read, "file", Action::Hang));
                let path = place.path("file");
                fill = Some(std::thread::spawn(move || {
                    // Whether it sees the bytes of before or after is open: they are at the same time.
                    // O_DIRECT: the kernel lets nobody write to pages that are being read.
                    let mut seen = reading::AlignedBuffer::new(128 << 10);
                    let file = reading::open_direct(&path).unwrap();
                    let _ = file.read_at(seen.bytes_mut(), 896 << 10);
                }));
                wait_until(LIMIT, "the fill to be under way", || {
                    server.counters().hung > 0
                        || fill.as_ref().is_some_and(|fill| fill.is_finished())
                        || write.is_some()
                });
            }
            Step::BeginWrite => {
                write_rule = server.add_rule(Rule::new(Operation::Write, "file", Action::Hang));
                let path = place.path("file");
                let before = server.counters().calls(Operation::Write);
                write = Some(std::thread::spawn(move || {
                    let file = open_with(&path, 0).unwrap();
                    file.write_all_at(written, 950_000).unwrap();
                }));
                wait_until(LIMIT, "the write to be under way", || {
                    server.counters().calls(Operation::Write) > before
                });
            }
            Step::EndFill => {
                server.remove_rule(fill_rule);
                server.release(Some(fill_rule));
            }
            Step::EndWrite => {
                server.remove_rule(write_rule);
                server.release(Some(write_rule));
                write.take().expect("it began").join().unwrap();
            }
        }
    }
    fill.take().expect("it began").join().unwrap();
}

#[test]
fn fills_and_writes_of_one_range_end_with_the_written_bytes_in_every_order() {
    static WRITTEN: [u8; 9000] = [0xee; 9000];
    for options in [&["keep_written=always"][..], &["keep_written=never"]] {
        let mut place = Place::remote(&format!("kept-orders-{}", options[0]), options);
        for order in orders() {
            let mut bytes = content(9, SIZE);
            fs::write(place.plain.join("file"), &bytes).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let mut start = vec![0; 4096];
            let reader = File::open(place.path("file")).unwrap();
            reader.read_exact_at(&mut start, 0).unwrap();
            drop(reader);
            walk(&place, &order, &WRITTEN);
            bytes[950_000..959_000].copy_from_slice(&WRITTEN);
            place.expect("file", &bytes, &format!("{options:?} {order:?}"));
            place.expect("file", &bytes, "once more");
            fs::remove_file(place.plain.join("file")).unwrap();
        }
        place.mount.umount();
    }
}

/// What one mount writes and closes the other reads.
#[test]
fn two_mounts_of_one_backend_see_what_the_other_has_closed() {
    let place = Place::local("kept-two-mounts");
    let cache = place.scratch.path().join("cache2");
    mount::private_directory(&cache);
    let mut options = MountOptions::new(&place.scratch);
    options.mountpoint = place.scratch.directory("mount2");
    options.cache_dirs = vec![cache];
    let other = Mount::start(&place.scratch, &place.plain, options);
    let mut random = Random::from_environment("kept-two-mounts");
    let mut bytes = vec![0; 500_000];
    fs::write(place.path("file"), &bytes).unwrap();
    let roots: [&Path; 2] = [place.mount.path(), other.path()];
    for round in 0..sample_or_full(60, 1000) {
        let at = random.below(400_000) as usize;
        let byte = round as u8;
        let writer = roots[random.below(2) as usize].join("file");
        let file = open_with(&writer, 0).unwrap();
        file.write_all_at(&vec![byte; 30_000], at as u64).unwrap();
        drop(file);
        bytes[at..at + 30_000].fill(byte);
        for root in roots {
            let seen = fs::read(root.join("file")).unwrap();
            assert!(seen == bytes, "round {round}: {}", root.display());
        }
    }
}
