//! faultfs does what the other tests rely on.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use support::content::{expect_content, version_of};
use support::protocol::{Command, Reply};
use support::reading::{self, AlignedBuffer};
use support::*;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn start(test: &str, options: BackendOptions) -> (Scratch, FaultBackend) {
    let scratch = Scratch::new(test);
    let backend = FaultBackend::start(&scratch, options);
    (scratch, backend)
}

fn errno_of<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_tree_reads_as_the_plain_directory() {
    let (scratch, backend) = start("passthrough", BackendOptions::default());
    let (plain, served) = (backend.plain.clone(), backend.mountpoint.clone());
    with_time_limit(&scratch, LIMIT, move || {
        let content = Content::new(1, 1, 3 * MIB + 777);
        content.create(&plain.join("file")).unwrap();
        fs::hard_link(plain.join("file"), plain.join("same")).unwrap();
        symlink("file", plain.join("link")).unwrap();
        fs::create_dir(plain.join("dir")).unwrap();
        let odd = plain
            .join("dir")
            .join(std::ffi::OsStr::from_bytes(b"odd\xff\xfename"));
        fs::write(&odd, b"odd").unwrap();
        let longest = "x".repeat(255);
        File::create(plain.join(&longest)).unwrap();

        expect_content(&served.join("file"), content);
        expect_content(&served.join("link"), content);
        assert_eq!(
            fs::read_link(served.join("link")).unwrap(),
            Path::new("file")
        );
        assert_eq!(
            fs::read(served.join("dir").join(odd.file_name().unwrap())).unwrap(),
            b"odd"
        );
        let (one, other) = (served.join("file"), served.join("same"));
        let inode = one.metadata().unwrap().ino();
        assert_eq!(inode, other.metadata().unwrap().ino());
        assert_eq!(inode, plain.join("file").metadata().unwrap().ino());
        assert_eq!(one.metadata().unwrap().nlink(), 2);
        let names = |path: &Path| {
            let listed = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
            let mut names: Vec<_> = listed
                .map(|entry| (entry.file_name(), entry.ino()))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&served), names(&plain));
        assert_eq!(names(&served.join("dir")), names(&plain.join("dir")));
    });
}

#[test]
fn changes_arrive_in_the_plain_directory() {
    let (scratch, backend) = start("writes", BackendOptions::default());
    let (plain, served) = (backend.plain.clone(), backend.mountpoint.clone());
    with_time_limit(&scratch, LIMIT, move || {
        let content = Content::new(2, 1, MIB + 99);
        content.create(&served.join("new")).unwrap();
        expect_content(&plain.join("new"), content);
        fs::rename(served.join("new"), served.join("renamed")).unwrap();
        fs::create_dir(served.join("dir")).unwrap();
        fs::hard_link(served.join("renamed"), served.join("dir/second")).unwrap();
        symlink("nowhere", served.join("dir/link")).unwrap();
        assert_eq!(plain.join("renamed").metadata().unwrap().nlink(), 2);
        assert_eq!(
            fs::read_link(plain.join("dir/link")).unwrap(),
            Path::new("nowhere")
        );
        let file = File::options()
            .append(true)
            .open(served.join("renamed"))
            .unwrap();
        (&file).write_all(b"tail").unwrap();
        file.sync_all().unwrap();
        assert_eq!(
            plain.join("renamed").metadata().unwrap().len(),
            content.size_bytes + 4
        );
        file.set_len(10).unwrap();
        assert_eq!(plain.join("renamed").metadata().unwrap().len(), 10);
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        file.set_modified(old).unwrap();
        assert_eq!(
            plain
                .join("renamed")
                .metadata()
                .unwrap()
                .modified()
                .unwrap(),
            old
        );
        let name = "user.colour";
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(served.join("renamed"), name, b"red", flags).unwrap();
        let mut value = Vec::with_capacity(16);
        let room = rustix::buffer::spare_capacity(&mut value);
        rustix::fs::getxattr(plain.join("renamed"), name, room).unwrap();
        assert_eq!(value, b"red");
        fs::remove_file(served.join("renamed")).unwrap();
        fs::remove_dir_all(served.join("dir")).unwrap();
        assert_eq!(fs::read_dir(&plain).unwrap().count(), 0);
    });
    assert_eq!(backend.counters().bytes_written, MIB + 99 + 4);
}

#[test]
fn rules_fail_skip_shorten_and_spoil_as_told() {
    // With the page cache in between, the kernel makes up for a short direct read by a buffered one.
    let options = BackendOptions {
        direct_io: true,
        ..Default::default()
    };
    let (scratch, backend) = start("rules", options);
    let content = Content::new(3, 1, 64 << 10);
    content.create(&backend.plain.join("a")).unwrap();
    content.create(&backend.plain.join("b")).unwrap();
    let served = backend.mountpoint.clone();
    let stale = Action::Errno(libc::ESTALE);
    let rule = backend.add_rule(
        Rule::new(Operation::Open, "a", stale)
            .skip_calls(1)
            .limit_calls(2),
    );
    assert!(File::open(served.join("a")).is_ok());
    // The kernel looks a stale name up once more by itself: two calls fail, one open.
    assert_eq!(errno_of(File::open(served.join("a"))), Some(libc::ESTALE));
    assert!(File::open(served.join("a")).is_ok());
    assert_eq!(backend.counters().rule_hits[&rule], 2);

    backend.add_rule(Rule::new(Operation::Read, "*", Action::Errno(libc::EIO)));
    assert_eq!(errno_of(fs::read(served.join("b"))), Some(libc::EIO));
    backend.clear_rules();
    expect_content(&served.join("b"), content);

    backend.add_rule(Rule::new(Operation::Read, "a", Action::ShortBytes(8192)));
    let direct = reading::open_direct(&served.join("a")).unwrap();
    let mut buffer = AlignedBuffer::new(32 << 10);
    assert_eq!(direct.read_at(buffer.bytes_mut(), 0).unwrap(), 8192);
    backend.clear_rules();

    backend.add_rule(Rule::new(Operation::Read, "a", Action::FlipBits));
    assert_eq!(direct.read_at(buffer.bytes_mut(), 0).unwrap(), 32 << 10);
    assert_eq!(version_of(&[content], 0, buffer.bytes()), None);
    backend.clear_rules();

    backend.add_rule(Rule::new(None, "b", Action::Errno(libc::EACCES)).probability(0.5, 7));
    let failed = (0..200)
        .filter(|_| served.join("b").metadata().is_err())
        .count();
    assert!((20..180).contains(&failed), "{failed} of 200");
    drop((direct, scratch));
}

#[test]
fn a_delayed_call_takes_its_time_and_others_do_not() {
    let (_scratch, backend) = start("delay", BackendOptions::default());
    fs::write(backend.plain.join("slow"), b"slow").unwrap();
    fs::write(backend.plain.join("fast"), b"fast").unwrap();
    backend.add_rule(Rule::new(Operation::Lookup, "slow", Action::DelayMs(300)));
    let begin = Instant::now();
    fs::metadata(backend.mountpoint.join("fast")).unwrap();
    assert!(begin.elapsed() < Duration::from_millis(250));
    let begin = Instant::now();
    fs::metadata(backend.mountpoint.join("slow")).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn hung_calls_complete_for_real_when_released() {
    let (scratch, backend) = start("hang", BackendOptions::default());
    let content = Content::new(4, 1, 128 << 10);
    for index in 0..40 {
        content
            .create(&backend.plain.join(format!("file{index}")))
            .unwrap();
    }
    let rule = backend.add_rule(Rule::new(Operation::Read, "file*", Action::Hang));
    let readers: Vec<_> = (0..40)
        .map(|index| {
            let path = backend.mountpoint.join(format!("file{index}"));
            std::thread::spawn(move || expect_content(&path, content))
        })
        .collect();
    backend.wait_for_hung(40);
    assert!(
        fs::metadata(backend.mountpoint.join("file1")).is_ok(),
        "others are served"
    );
    backend.remove_rule(rule);
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    assert!(backend.release(Some(rule)) >= 40);
    with_time_limit(&scratch, LIMIT, move || {
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(backend.counters().hung, 0);
}

#[test]
fn a_stopped_backend_answers_nothing_until_continued() {
    let (scratch, backend) = start("stopped", BackendOptions::default());
    fs::write(backend.plain.join("file"), b"text").unwrap();
    backend.stop();
    let path = backend.mountpoint.join("file");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!reader.is_finished());
    backend.resume();
    let read = with_time_limit(&scratch, LIMIT, move || reader.join().unwrap());
    assert_eq!(read, b"text");
}

#[test]
fn a_time_limit_frees_what_hangs() {
    let (scratch, backend) = start("limit", BackendOptions::default());
    fs::write(backend.plain.join("file"), b"text").unwrap();
    backend.add_rule(Rule::new(Operation::Lookup, "file", Action::Hang));
    let path = backend.mountpoint.join("file");
    let begin = Instant::now();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_time_limit(&scratch, Duration::from_millis(300), move || {
            fs::read(path).is_ok()
        })
    }));
    assert!(failed.is_err());
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_link_keeps_its_bandwidth_whoever_shares_it() {
    let network = Network {
        latency_us: 1000,
        bandwidth_bytes_per_s: Some(50 << 20),
    };
    let (scratch, backend) = start(
        "bandwidth",
        BackendOptions {
            network,
            ..Default::default()
        },
    );
    Content::new(10, 1, 40 * MIB)
        .create(&backend.plain.join("file"))
        .unwrap();
    let expected = 40.0 / 50.0;
    let measure = || {
        let path = backend.mountpoint.join("file");
        with_time_limit(&scratch, LIMIT, move || {
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for reader in 0..8 {
                    let file = reading::open_direct(&path).unwrap();
                    scope.spawn(move || {
                        let mut buffer = AlignedBuffer::new(MIB as usize);
                        for piece in 0..5 {
                            let offset = (reader * 5 + piece) * MIB;
                            file.read_exact_at(buffer.bytes_mut(), offset).unwrap();
                        }
                    });
                }
            });
            begin.elapsed().as_secs_f64()
        })
    };
    // A machine busy with other tests can only make it slower, so the best of three counts.
    let took = (0..3).map(|_| measure()).fold(f64::INFINITY, f64::min);
    assert!(
        took > expected * 0.9 && took < expected * 1.1,
        "{took} s, {expected} expected"
    );
}

#[test]
fn latencies_overlap() {
    let network = Network {
        latency_us: 50_000,
        bandwidth_bytes_per_s: None,
    };
    let (scratch, backend) = start("latency", BackendOptions::default());
    for index in 0..64 {
        fs::write(backend.plain.join(format!("file{index}")), b"text").unwrap();
    }
    backend.set_network(network);
    let served = backend.mountpoint.clone();
    let (one, all) = with_time_limit(&scratch, LIMIT, move || {
        let begin = Instant::now();
        reading::stat_from_server(&served).unwrap();
        let one = begin.elapsed();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for index in 0..64 {
                let path = served.join(format!("file{index}"));
                scope.spawn(move || fs::metadata(path).unwrap());
            }
        });
        (one, begin.elapsed())
    });
    assert!(
        one >= Duration::from_millis(50) && one < Duration::from_millis(90),
        "{one:?}"
    );
    assert!(all < Duration::from_millis(400), "64 files took {all:?}");
    assert!(backend.counters().concurrent_max >= 32);
}

#[test]
fn every_forced_stat_and_nothing_else_is_counted() {
    let (_scratch, backend) = start("counted", BackendOptions::default());
    fs::write(backend.plain.join("file"), b"text").unwrap();
    let path = backend.mountpoint.join("file");
    let open = File::open(&path).unwrap();
    backend.reset_counters();
    assert_eq!(backend.counters().all_calls(), 0);
    for round in 1..=20 {
        reading::stat_open_from_server(&open).unwrap();
        assert_eq!(backend.counters().calls(Operation::Getattr), round);
    }
    assert_eq!(backend.counters().all_calls(), 20);
    let mut text = String::new();
    File::open(&path)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let counters = backend.counters();
    assert_eq!(counters.bytes_read, 4);
    assert_eq!(counters.reads_by_file["file"].bytes, 4);
    assert_eq!(counters.calls(Operation::Open), 1);
}

#[test]
fn only_the_bytes_asked_for_are_read_where_readahead_is_off() {
    for direct_io in [false, true] {
        let options = BackendOptions {
            direct_io,
            ..Default::default()
        };
        let (_scratch, backend) = start("exact", options);
        let content = Content::new(5, 1, 16 * MIB);
        content.create(&backend.plain.join("file")).unwrap();
        let path = backend.mountpoint.join("file");
        let mut buffer = AlignedBuffer::new(4096);
        let direct = reading::open_direct(&path).unwrap();
        let advised = File::open(&path).unwrap();
        reading::advise_random(&advised).unwrap();
        for (index, file) in [direct, advised].into_iter().enumerate() {
            backend.reset_counters();
            let mut random = Random::new(6);
            let mut offsets = std::collections::BTreeSet::new();
            while offsets.len() < 100 {
                offsets.insert(random.below(16 * MIB / 4096) * 4096);
            }
            for offset in &offsets {
                file.read_exact_at(buffer.bytes_mut(), *offset).unwrap();
                assert_eq!(content.check(*offset, buffer.bytes()), Ok(()));
            }
            let read = backend.counters().bytes_read;
            assert_eq!(read, 100 * 4096, "handle {index}, direct_io {direct_io}");
        }
    }
}

#[test]
fn splice_moves_exact_bytes_with_and_without_o_direct() {
    let (scratch, backend) = start("splice", BackendOptions::default());
    let content = Content::new(7, 1, 5 * MIB + 4096 + 13);
    content.create(&backend.plain.join("file")).unwrap();
    let path = backend.mountpoint.join("file");
    for direct in [true, false] {
        backend.reset_counters();
        let path = path.clone();
        let bytes = with_time_limit(&scratch, LIMIT, move || {
            let file = if direct {
                reading::open_direct(&path)
            } else {
                File::open(&path)
            };
            reading::read_by_splice(&file.unwrap(), MIB as usize).unwrap()
        });
        assert_eq!(bytes.len() as u64, content.size_bytes);
        assert_eq!(content.check(0, &bytes), Ok(()));
        assert_eq!(
            backend.counters().bytes_read,
            content.size_bytes,
            "O_DIRECT {direct}"
        );
    }
}

#[test]
fn a_file_opened_again_is_read_again() {
    let (_scratch, backend) = start("again", BackendOptions::default());
    let content = Content::new(8, 1, MIB);
    content.create(&backend.plain.join("file")).unwrap();
    let path = backend.mountpoint.join("file");
    expect_content(&path, content);
    expect_content(&path, content);
    assert_eq!(backend.counters().bytes_read, 2 * MIB);
}

#[test]
fn times_are_shifted_and_stepped() {
    let (_scratch, backend) = start("times", BackendOptions::default());
    let file = File::create(backend.plain.join("file")).unwrap();
    let day_ms = 86_400_000;
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_millis(10 * day_ms + 1_999))
        .unwrap();
    let path = backend.mountpoint.join("file");
    backend.set_times(Times {
        shift_ms: -(day_ms as i64),
        step_ms: 1000,
    });
    let shown = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(
        shown,
        std::time::UNIX_EPOCH + Duration::from_millis(9 * day_ms + 1_000)
    );
    backend.set_times(Times::default());
    let shown = fs::metadata(&path).unwrap();
    assert_eq!(shown.ctime_nsec(), file.metadata().unwrap().ctime_nsec());
}

#[test]
fn inode_numbers_are_those_given() {
    let (_scratch, backend) = start("inodes", BackendOptions::default());
    for name in ["a", "b", "c"] {
        fs::write(backend.plain.join(name), name).unwrap();
    }
    let by_path = [("a".to_owned(), 1), ("b".to_owned(), u64::MAX)].into();
    backend.set_inodes(InodeNumbers {
        set_bits: 1 << 63,
        by_path,
    });
    let number = |name: &str| fs::metadata(backend.mountpoint.join(name)).unwrap().ino();
    let plain = backend.plain.join("c").metadata().unwrap().ino();
    assert_eq!((number("a"), number("b")), (1, u64::MAX));
    assert_eq!(number("c"), plain | 1 << 63);
    assert_eq!(fs::read(backend.mountpoint.join("a")).unwrap(), b"a");
    let by_path = [("a".to_owned(), 5), ("b".to_owned(), 5)].into();
    let inodes = InodeNumbers {
        set_bits: 0,
        by_path,
    };
    assert!(matches!(
        backend.ask(Command::SetInodes { inodes }),
        Reply::Failed { .. }
    ));
}

#[test]
fn content_tells_versions_offsets_and_zeros_apart() {
    let (old, new) = (Content::new(9, 1, 8192), Content::new(9, 2, 8192));
    let mut bytes = old.bytes(100, 5000);
    assert_eq!(version_of(&[new, old], 100, &bytes), Some(old));
    bytes[2000..].copy_from_slice(&new.bytes(2100, 3000));
    assert_eq!(version_of(&[new, old], 100, &bytes), None);
    assert!(old.check(0, &[0; 512]).is_err());
    assert!(old.check(512, &old.bytes(0, 512)).is_err());
    assert!(
        old.check(8000, &old.bytes(8000, 512)).is_err(),
        "bytes after the end"
    );
}
