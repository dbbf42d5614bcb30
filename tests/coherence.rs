//! Promise 1: an open sees what is on the backend at that moment (close-to-open), in its data, its size and its
//! name, whatever the kernel and the cache remember.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

/// Opens and reads everything, as `cat` does.
fn read_whole(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .read_to_end(&mut bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes
}

/// One change of the file on the backend, by seed; the new contents.
fn change(random: &mut Random, path: &Path, before: &[u8]) -> Vec<u8> {
    let marker = random.next().to_le_bytes();
    match random.below(4) {
        0 => {
            let mut added = vec![0; 1 + random.below(300_000) as usize];
            added[..1].copy_from_slice(&marker[..1]);
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(&added).unwrap();
            [before, &added].concat()
        }
        1 => {
            // Rewritten in place, same size.
            let bytes: Vec<u8> = before.iter().map(|byte| byte ^ marker[0] ^ 1).collect();
            let mut file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all(&bytes).unwrap();
            bytes
        }
        2 => {
            let bytes: Vec<u8> = marker.repeat(1 + random.below(100_000) as usize);
            let new = path.with_extension("new");
            fs::write(&new, &bytes).unwrap();
            fs::rename(&new, path).unwrap();
            bytes
        }
        _ => {
            let length = random.below(before.len() as u64 + 1) as usize;
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(length as u64).unwrap();
            before[..length].to_vec()
        }
    }
}

fn every_change_is_seen(test: &str, options: &[&str]) {
    let scratch = Scratch::new(test);
    let plain = scratch.directory("plain");
    let mut random = Random::from_environment(test);
    let mut contents = vec![7u8; 600_000];
    fs::write(plain.join("file"), &contents).unwrap();
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    let mount = Mount::start(&scratch, &plain, mount_options);
    let (seen, direct): (PathBuf, PathBuf) = (mount.join("file"), plain.join("file"));
    let rounds = sample_or_full(60, 1000);
    with_time_limit(&scratch, LIMIT, move || {
        // Held open all along: its node must not hide anything from new opens.
        let held = File::open(&seen).unwrap();
        for round in 0..rounds {
            if random.below(2) == 0 {
                // The kernel remembers size and pages for seconds to come.
                fs::metadata(&seen).unwrap();
            }
            let found = read_whole(&seen);
            assert!(
                found == contents,
                "round {round}: {} bytes read, {} bytes there",
                found.len(),
                contents.len()
            );
            contents = change(&mut random, &direct, &contents);
        }
        drop(held);
    });
}

#[test]
fn an_open_sees_every_change_made_before_it() {
    every_change_is_seen("coherence", &[]);
}

#[test]
fn an_open_sees_every_change_made_before_it_without_passthrough() {
    every_change_is_seen("coherence-daemon", &["passthrough=off"]);
}

#[test]
fn an_open_sees_every_change_of_small_files() {
    every_change_is_seen("coherence-small", &["small_file_size=4M"]);
}

#[test]
fn an_open_sees_every_change_with_direct_io() {
    every_change_is_seen("coherence-direct", &["direct_io"]);
}

/// `mv` on the backend between two opens of one name: the second gets what the name leads to now.
#[test]
fn an_open_follows_the_name_and_not_the_file_it_was() {
    let scratch = Scratch::new("coherence-names");
    let plain = scratch.directory("plain");
    fs::write(plain.join("a"), b"first").unwrap();
    fs::write(plain.join("b"), b"second").unwrap();
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let (a, b) = (mount.join("a"), mount.join("b"));
    with_time_limit(&scratch, LIMIT, move || {
        assert_eq!(read_whole(&a), b"first");
        assert_eq!(read_whole(&b), b"second");
        fs::rename(plain.join("a"), plain.join("c")).unwrap();
        fs::rename(plain.join("b"), plain.join("a")).unwrap();
        assert_eq!(read_whole(&a), b"second");
        // The kernel is told on the side that the old name leads nowhere.
        wait_until(Duration::from_secs(2), "the old name to be gone", || {
            File::open(&b).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        });
    });
}

/// What the kernel remembers of a file's mode must not open what was closed since.
#[test]
fn an_open_goes_by_the_rights_of_that_moment() {
    let scratch = Scratch::new("coherence-rights");
    let plain = scratch.directory("plain");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(scratch.path(), 0o755);
    mode(&plain, 0o755);
    for (name, size) in [("small", 100), ("large", 3 << 20)] {
        fs::write(plain.join(name), vec![1; size]).unwrap();
        mode(&plain.join(name), 0o644);
    }
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let root = mount.path().to_owned();
    with_time_limit(&scratch, LIMIT, move || {
        let open = |name: &str| user::as_user(user::USER, || File::open(root.join(name)).map(drop));
        for name in ["small", "large"] {
            open(name).unwrap();
            mode(&plain.join(name), 0o600);
            fs::write(plain.join(name), b"secret").unwrap();
            let refused = open(name).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{name}");
            mode(&plain.join(name), 0o644);
            // A refusal is remembered for the attribute timeout, as NFS does it.
            wait_until(Duration::from_secs(10), "the file to be open again", || {
                open(name).is_ok()
            });
        }
    });
}

/// A filesystem stamps a write(2) when it begins: while a long one is under way the version says nothing of it.
#[test]
fn a_write_under_way_leaves_nothing_half_written_behind() {
    let scratch = Scratch::new("coherence-writing");
    let plain = scratch.directory("plain");
    let direct = plain.join("file");
    let size_bytes = sample_or_full(192, 1024) << 20;
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let seen = mount.join("file");
    with_time_limit(&scratch, LIMIT, move || {
        fs::write(&direct, vec![0u8; size_bytes]).unwrap();
        for round in 1..=sample_or_full(4, 20) {
            std::thread::sleep(Duration::from_millis(50));
            let target = direct.clone();
            let writer = std::thread::spawn(move || {
                let file = OpenOptions::new().write(true).open(target).unwrap();
                let bytes = vec![round as u8; size_bytes];
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
            });
            // Whatever is read meanwhile may be half of each, as it is on the backend.
            std::thread::sleep(Duration::from_millis(20));
            let mut bytes = Vec::new();
            let _ = File::open(&seen).and_then(|mut file| file.read_to_end(&mut bytes));
            writer.join().unwrap();
            assert!(
                read_whole(&seen).iter().all(|byte| *byte == round as u8),
                "round {round}: bytes of an earlier version"
            );
        }
    });
}

/// An open tells the daemon the file and not the name: with two names known, each open is of the name given.
#[test]
fn an_open_of_one_of_several_names_follows_that_name() {
    let scratch = Scratch::new("coherence-names");
    let plain = scratch.directory("plain");
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let seen = mount.path().to_owned();
    with_time_limit(&scratch, LIMIT, move || {
        for (round, linked_here) in [(0, false), (1, true), (2, false)] {
            let (one, two) = (format!("one{round}"), format!("two{round}"));
            fs::write(plain.join(&one), "old").unwrap();
            assert_eq!(fs::read(seen.join(&one)).unwrap(), b"old");
            let top = if linked_here { &seen } else { &plain };
            fs::hard_link(top.join(&one), top.join(&two)).unwrap();
            assert_eq!(fs::read(seen.join(&two)).unwrap(), b"old");
            // Once the kernel has been told that these names are to be asked for.
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(fs::read(seen.join(&one)).unwrap(), b"old");
            fs::remove_file(plain.join(&one)).unwrap();
            fs::write(plain.join(&one), "new content").unwrap();
            assert_eq!(fs::read(seen.join(&two)).unwrap(), b"old");
            assert_eq!(fs::read(seen.join(&one)).unwrap(), b"new content");
            let mut options = fs::OpenOptions::new();
            let appending = options.append(true);
            let mut file = appending.open(seen.join(&one)).unwrap();
            std::io::Write::write_all(&mut file, b"!").unwrap();
            drop(file);
            assert_eq!(fs::read(plain.join(&one)).unwrap(), b"new content!");
            assert_eq!(fs::read(plain.join(&two)).unwrap(), b"old");
            fs::remove_file(plain.join(&two)).unwrap();
            assert!(File::open(seen.join(&two)).is_err());
        }
    });
}

const RECORD_BYTES: usize = 200;

fn record(who: u8) -> [u8; RECORD_BYTES] {
    let mut line = [who; RECORD_BYTES];
    line[RECORD_BYTES - 1] = b'\n';
    line
}

/// Bytes of a log from the beginning of a record on.
fn expect_whole_records(bytes: &[u8], how: &str) {
    for (number, line) in bytes.chunks_exact(RECORD_BYTES).enumerate() {
        let is_whole = [b'h', b't'].iter().any(|who| line == record(*who));
        assert!(is_whole, "{how}: record {number} is {:?}", &line[..8]);
    }
}

/// Here and on the server; by whoever opens it each time, and by one that follows it.
#[test]
fn a_log_that_several_append_to_has_no_holes() {
    let scratch = Scratch::new("coherence-log");
    let plain = scratch.directory("plain");
    fs::write(plain.join("log"), b"").unwrap();
    let mount = Mount::start(
        &scratch,
        &plain,
        MountOptions::new(&scratch).with("actimeo=0"),
    );
    let records = sample_or_full(1500, 100_000);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let is_done = || done.load(std::sync::atomic::Ordering::Acquire) == 2;
    std::thread::scope(|scope| {
        for (who, path) in [(b'h', mount.join("log")), (b't', plain.join("log"))] {
            let done = &done;
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).open(path).unwrap();
                for _ in 0..records {
                    log.write_all(&record(who)).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
                done.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            });
        }
        scope.spawn(|| {
            while !is_done() {
                expect_whole_records(&read_whole(&mount.join("log")), "opened anew");
            }
        });
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let log = File::open(mount.join("log")).unwrap();
            let mut seen = 0;
            while !is_done() {
                let size_bytes = log.metadata().unwrap().len();
                let mut bytes = vec![0; (size_bytes - seen) as usize];
                // The kernel tells a size that it does not take itself where a write of ours ended meanwhile: a read
                // may end before it, and has the rest the next time.
                let length_bytes = log.read_at(&mut bytes, seen).unwrap();
                expect_whole_records(&bytes[..length_bytes], "followed");
                seen += (length_bytes / RECORD_BYTES * RECORD_BYTES) as u64;
            }
        });
    });
    assert_eq!(
        read_whole(&mount.join("log")).len(),
        2 * records * RECORD_BYTES
    );
}
