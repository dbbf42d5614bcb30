//! Readers of every kind that have a file open, or mapped, see what a writer of the same mount does to it at once;
//! none of them ever gets an error, zeros that nobody wrote, or old bytes.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};
use support::locking::{Owner, share_range};
use support::reading::{AlignedBuffer, Mapping, open_direct, read_range};
use support::writing::{WritableMapping, allocate, copy_range, open_with};
use support::*;

const LIMIT: Duration = Duration::from_secs(200);
const SIZE: usize = 3 << 20;
const READERS: usize = 16;

/// One way to have the file open.
enum Reader {
    Handle(File),
    Direct(File),
    /// Of the first [`MAPPED`] bytes; its handle is closed.
    Mapped(Mapping),
    Writer(File),
    WriterMapped(WritableMapping),
}

/// No step makes the file shorter, so that no mapping is ever beyond its end.
const MAPPED: usize = SIZE / 2;

impl Reader {
    fn open(random: &mut Random, path: &Path) -> Self {
        let read = || File::open(path).unwrap();
        match random.below(6) {
            0 | 1 => Self::Handle(read()),
            2 => Self::Direct(open_direct(path).unwrap()),
            3 => Self::Mapped(Mapping::new(&read(), MAPPED).unwrap()),
            4 => Self::Writer(open_with(path, 0).unwrap()),
            _ => {
                let file = open_with(path, 0).unwrap();
                Self::WriterMapped(WritableMapping::new(&file, MAPPED).unwrap())
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Handle(_) => "handle",
            Self::Direct(_) => "O_DIRECT handle",
            Self::Mapped(_) => "mapping",
            Self::Writer(_) => "writer",
            Self::WriterMapped(_) => "writer's mapping",
        }
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        match self {
            Self::Handle(file) | Self::Writer(file) => {
                let read = file.read_at(&mut bytes, offset as u64).unwrap();
                bytes.truncate(read);
            }
            Self::Direct(file) => {
                let mut buffer = AlignedBuffer::new(length);
                let read = file.read_at(buffer.bytes_mut(), offset as u64).unwrap();
                bytes = buffer.bytes()[..read].to_vec();
            }
            Self::Mapped(mapping) => bytes = mapping.read(offset, length),
            Self::WriterMapped(mapping) => bytes = mapping.load(offset, length),
        }
        bytes
    }

    fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_) | Self::WriterMapped(_))
    }

    fn size(&self) -> Option<u64> {
        match self {
            Self::Handle(file) | Self::Direct(file) | Self::Writer(file) => {
                Some(file.metadata().unwrap().len())
            }
            Self::Mapped(_) | Self::WriterMapped(_) => None,
        }
    }
}

/// Does one thing to the file, and the same to the bytes expected.
fn change(random: &mut Random, path: &Path, expected: &mut Vec<u8>, round: u64) -> String {
    let offset = random.below(expected.len() as u64) as usize;
    let length = (1 + random.below(70_000)) as usize;
    let end = (offset + length).min(expected.len());
    let bytes = vec![round as u8; length];
    match random.below(7) {
        0 | 1 => {
            let file = open_with(path, 0).unwrap();
            file.write_all_at(&bytes, offset as u64).unwrap();
            expected[offset..end].fill(round as u8);
            expected.resize(expected.len().max(offset + length), round as u8);
            format!("write {offset}+{length}")
        }
        2 => {
            let file = open_with(path, libc::O_DIRECT).unwrap();
            file.write_all_at(&bytes, offset as u64).unwrap();
            expected[offset..end].fill(round as u8);
            expected.resize(expected.len().max(offset + length), round as u8);
            format!("O_DIRECT write {offset}+{length}")
        }
        3 => {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            expected.extend(bytes);
            format!("append {length}")
        }
        4 => {
            let file = open_with(path, 0).unwrap();
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            allocate(&file, mode, offset as u64, length as u64).unwrap();
            expected[offset..end].fill(0);
            format!("punch {offset}+{length}")
        }
        5 => {
            let file = open_with(path, 0).unwrap();
            let count = copy_range(&file, 0, &file, 100_000, 50_000).unwrap();
            expected.copy_within(0..count, 100_000);
            format!("copy {count}")
        }
        _ => {
            let file = open_with(path, 0).unwrap();
            let mapping = WritableMapping::new(&file, MAPPED).unwrap();
            let at = offset % (MAPPED - 8);
            mapping.store(at, &[round as u8; 8]);
            mapping.sync().unwrap();
            expected[at..at + 8].fill(round as u8);
            format!("mapped store {at}")
        }
    }
}

fn check(reader: &Reader, expected: &[u8], random: &mut Random, told: &str) {
    if let Some(size) = reader.size() {
        assert_eq!(
            size,
            expected.len() as u64,
            "{told}: size by {}",
            reader.name()
        );
    }
    let visible = if reader.is_mapped() {
        MAPPED
    } else {
        expected.len()
    };
    for _ in 0..3 {
        // O_DIRECT of a file read by passthrough is that of the cache's disk.
        let offset = (random.below(visible as u64 / 4096) * 4096) as usize;
        let length = (visible - offset).min(64 << 10).next_multiple_of(4096);
        let length = if reader.is_mapped() {
            length.min(visible - offset)
        } else {
            length
        };
        let end = (offset + length).min(expected.len());
        let seen = reader.read(offset, length);
        assert!(
            seen == expected[offset..end],
            "{told}: {} reads other bytes at {offset}, first at +{:?} of {} ({} wanted)",
            reader.name(),
            seen.iter()
                .zip(&expected[offset..end])
                .position(|(a, b)| a != b),
            seen.len(),
            end - offset,
        );
    }
}

fn readers_see_a_writer(test: &str, options: &[&str]) {
    let scratch = Scratch::new(test);
    let plain = scratch.directory("plain");
    let mut random = Random::from_environment(test);
    let mut expected = Content::new(random.next(), 1, SIZE as u64).bytes(0, SIZE);
    fs::write(plain.join("file"), &expected).unwrap();
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    let mount = Mount::start(&scratch, &plain, mount_options);
    let path: PathBuf = mount.join("file");
    let rounds = sample_or_full(300, 5000);
    with_time_limit(&scratch, LIMIT, move || {
        let mut readers: Vec<Reader> = Vec::new();
        for round in 1..=rounds {
            if readers.len() > 8 || (!readers.is_empty() && random.below(3) == 0) {
                let at = random.below(readers.len() as u64) as usize;
                drop(readers.swap_remove(at));
            }
            if random.below(40) == 0 {
                readers.clear();
            }
            if random.below(2) == 0 {
                let reader = Reader::open(&mut random, &path);
                check(
                    &reader,
                    &expected,
                    &mut random,
                    &format!("round {round}, opened"),
                );
                readers.push(reader);
            }
            if readers.is_empty() && random.below(2) == 0 {
                // Complete in the cache: the next open may be read by the kernel itself.
                assert!(
                    fs::read(&path).unwrap() == expected,
                    "round {round}: read whole"
                );
                continue;
            }
            let done = change(&mut random, &path, &mut expected, round);
            for reader in &readers {
                check(
                    reader,
                    &expected,
                    &mut random,
                    &format!("round {round}, after {done}"),
                );
            }
            assert!(
                fs::read(plain.join("file")).unwrap() == expected,
                "round {round}: backend"
            );
        }
    });
}

#[test]
fn readers_of_every_kind_see_a_writer_at_once() {
    readers_see_a_writer("beside-readers", &[]);
}

#[test]
fn readers_of_every_kind_see_a_writer_without_passthrough() {
    readers_see_a_writer("beside-readers-daemon", &["passthrough=off"]);
}

#[test]
fn readers_of_every_kind_see_a_writer_of_small_files() {
    readers_see_a_writer("beside-readers-small", &["small_file_size=16M"]);
}

#[test]
fn readers_of_every_kind_see_a_writer_with_attributes_never_believed() {
    readers_see_a_writer("beside-readers-noac", &["actimeo=0"]);
}

/// A file read whole and opened again, which the kernel reads by itself then.
fn passed_through(mount: &Mount, path: &Path, size: usize) -> File {
    assert_eq!(fs::read(path).unwrap().len(), size);
    let before = mount.status_number("cache.passthrough_opens");
    let file = File::open(path).unwrap();
    let after = mount.status_number("cache.passthrough_opens");
    assert_eq!(after, before + 1, "not read by passthrough");
    file
}

#[test]
fn a_mapping_that_outlives_its_passthrough_handle_sees_writes() {
    let scratch = Scratch::new("outliving-mapping");
    let plain = scratch.directory("plain");
    fs::write(plain.join("file"), vec![1u8; SIZE]).unwrap();
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let path = mount.join("file");
    let file = passed_through(&mount, &path, SIZE);
    let mapping = Mapping::new(&file, SIZE).unwrap();
    drop(file);
    with_time_limit(&scratch, LIMIT, move || {
        for round in 2..12u8 {
            let writer = open_with(&path, 0).unwrap();
            writer.write_all_at(&[round; 5000], 100_000).unwrap();
            drop(writer);
            let seen = mapping.read(100_000, 5000);
            assert!(seen == [round; 5000], "round {round}: {}", seen[0]);
        }
    });
}

#[test]
fn a_writer_killed_beside_a_passthrough_reader_leaves_nothing_wrong_in_the_cache() {
    let scratch = Scratch::new("killed-beside-reader");
    let plain = scratch.directory("plain");
    fs::write(plain.join("file"), vec![1u8; SIZE]).unwrap();
    let mut mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let path = mount.join("file");
    for round in 2..6u8 {
        let reader = passed_through(&mount, &path, SIZE);
        // The index has the file by now.
        std::thread::sleep(Duration::from_secs(4));
        let writer = open_with(&path, 0).unwrap();
        writer.write_all_at(&vec![round; SIZE], 0).unwrap();
        let mut seen = vec![0; 4096];
        reader.read_exact_at(&mut seen, 1 << 20).unwrap();
        assert!(seen == [round; 4096], "round {round}: {}", seen[0]);
        mount.kill9();
        drop((reader, writer));
        mount.remount();
        assert!(
            fs::read(&path).unwrap() == vec![round; SIZE],
            "round {round}"
        );
        assert!(
            fs::read(plain.join("file")).unwrap() == vec![round; SIZE],
            "round {round}"
        );
    }
}

/// Reads the front half of a file again and again, which is 1s.
fn read_until(done: &AtomicBool, file: &File, seed: u64) {
    let mut random = Random::new(seed);
    let mut buffer = AlignedBuffer::new(4096);
    while !done.load(Ordering::Relaxed) {
        let offset = 4096 * random.below(SIZE as u64 / 2 / 4096);
        let read = file.read_at(buffer.bytes_mut(), offset).unwrap();
        assert!(read == 4096 && buffer.bytes().iter().all(|byte| *byte == 1));
    }
}

/// Many reads by a writer's handle, and by a reader's, are under way when its first change begins.
fn reads_go_on_when_a_change_begins(test: &str, options: &[&str]) {
    let pair = Pair::new(test, options);
    pair.run(LIMIT, |seen, plain| {
        let path = seen.join("file");
        fs::write(plain.join("file"), vec![1; SIZE]).unwrap();
        for _ in 0..sample_or_full(40, 400) {
            assert!(fs::read(&path).unwrap()[..SIZE / 2] == vec![1; SIZE / 2]);
            let writer = open_with(&path, libc::O_DIRECT).unwrap();
            let reader = open_direct(&path).unwrap();
            let (done, begun) = (AtomicBool::new(false), Barrier::new(READERS + 1));
            std::thread::scope(|scope| {
                for index in 0..READERS {
                    let file = if index == 0 { &reader } else { &writer };
                    let (done, begun) = (&done, &begun);
                    scope.spawn(move || {
                        begun.wait();
                        read_until(done, file, index as u64);
                    });
                }
                begun.wait();
                let bytes = AlignedBuffer::new(4096);
                writer.write_all_at(bytes.bytes(), SIZE as u64 / 2).unwrap();
                done.store(true, Ordering::Relaxed);
            });
        }
    });
}

#[test]
fn reads_under_way_go_on_when_a_change_begins() {
    reads_go_on_when_a_change_begins("change-begins", &[]);
}

#[test]
fn reads_under_way_go_on_when_a_change_begins_without_passthrough() {
    reads_go_on_when_a_change_begins("change-begins-daemon", &["passthrough=off"]);
}

/// Times that are set, as `cp -p` and `touch -d` do, make another version of the file and no other bytes.
fn readers_see_a_writer_after_times_were_set(test: &str, options: &[&str]) {
    let pair = Pair::new(test, options);
    pair.run(LIMIT, |seen, _| {
        for is_open in [true, false] {
            let path = seen.join(format!("file{is_open}"));
            fs::write(&path, vec![1; SIZE]).unwrap();
            assert!(fs::read(&path).unwrap() == vec![1; SIZE]);
            let file = File::open(&path).unwrap();
            let mapping = Mapping::new(&file, MAPPED).unwrap();
            let reader = is_open.then_some(file);
            for round in 2..5 {
                let time = UNIX_EPOCH + Duration::from_secs(round);
                let times = fs::FileTimes::new().set_modified(time);
                File::open(&path).unwrap().set_times(times).unwrap();
                let bytes = vec![round as u8; 5000];
                open_with(&path, 0)
                    .unwrap()
                    .write_all_at(&bytes, 3000)
                    .unwrap();
                assert!(mapping.read(3000, 5000) == bytes, "mapped, round {round}");
                if let Some(file) = &reader {
                    let mut read = vec![0; 5000];
                    file.read_exact_at(&mut read, 3000).unwrap();
                    assert!(read == bytes, "read, round {round}");
                }
            }
            let shorter = SIZE as u64 - 5000;
            nix::unistd::truncate(&path, shorter as i64).unwrap();
            let length = |file: &File| file.metadata().unwrap().len();
            assert_eq!(reader.as_ref().map_or(shorter, length), shorter);
        }
    });
}

#[test]
fn readers_of_every_kind_see_a_writer_after_times_were_set() {
    readers_see_a_writer_after_times_were_set("times-set", &[]);
}

#[test]
fn readers_see_a_writer_after_times_were_set_without_passthrough() {
    readers_see_a_writer_after_times_were_set("times-set-daemon", &["passthrough=off"]);
}

/// A lock shows what others have written, so the kernel forgets the pages of "file".
fn make_the_kernel_forget(backend: &FaultBackend, reader: &File) {
    let path = backend.plain.join("file");
    let theirs = File::options().write(true).open(path).unwrap();
    let changed = UNIX_EPOCH + Duration::from_secs(1);
    theirs.set_modified(changed).unwrap();
    share_range(reader, Owner::Description, (0, 0)).unwrap();
}

/// The kernel unlocks whole pages before it sends what was written to them, and may forget them meanwhile.
#[test]
fn what_the_kernel_has_forgotten_of_a_write_is_not_read_as_it_was_before() {
    const PAGES: usize = 64 << 10;
    let scratch = Scratch::new("write-forgotten");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    fs::write(backend.plain.join("file"), vec![1u8; 4 * PAGES]).unwrap();
    let options = MountOptions::new(&scratch)
        .with("keep_written=always")
        .with("actimeo=60");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let path = mount.join("file");
    let writer = open_with(&path, 0).unwrap();
    let reader = File::open(&path).unwrap();
    assert!(read_range(&reader, 0, 4 * PAGES).unwrap() == vec![1u8; 4 * PAGES]);
    // What the kernel asks before a write is known, and what is asked before the first change is not.
    let mut none = [0; 8];
    assert!(rustix::fs::getxattr(&path, "security.capability", &mut none).is_err());
    let first = Rule::new(Operation::Getattr, "file", Action::Hang).limit_calls(1);
    let hang = backend.add_rule(first);
    // In memory, or the kernel would send the first page by itself, and what is read of the others is of before.
    let data = vec![2; PAGES];
    let writing = std::thread::spawn(move || writer.write_all_at(&data, 0).map(|()| writer));
    backend.wait_for_hung(1);
    make_the_kernel_forget(&backend, &reader);
    let again = reader.try_clone().unwrap();
    let reading = std::thread::spawn(move || read_range(&again, 0, 2 * PAGES));
    std::thread::sleep(Duration::from_millis(300));
    backend.remove_rule(hang);
    backend.release(None);
    let writer = writing.join().unwrap().unwrap();
    let read = reading.join().unwrap().unwrap();
    let expected = [[2; PAGES], [1; PAGES]].concat();
    let runs: Vec<u8> = read.chunks(4096).map(|page| page[0]).collect();
    assert!(read == expected, "read beside the write: {runs:?}");
    for file in [&writer, &reader] {
        assert!(
            read_range(file, 0, 2 * PAGES).unwrap() == expected,
            "read after the write"
        );
    }
}

/// The kernel copies a write into its pages, here from a mapping that makes it wait in the middle, and forgets them before
/// it has sent it.
#[test]
fn what_is_read_before_a_write_was_sent_does_not_stay() {
    const PAGE: usize = 4096;
    // That many pages of the write are copied when it waits.
    const COPIED: usize = 4 * PAGE;
    const ALL: usize = 4 * COPIED;
    // From the beginning of a page, and from within one.
    for skip in [0, 100] {
        let scratch = Scratch::new("write-overtaken");
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        fs::write(backend.plain.join("file"), vec![1u8; ALL]).unwrap();
        fs::write(backend.plain.join("source"), vec![2u8; PAGE]).unwrap();
        let options = MountOptions::new(&scratch).with("actimeo=60");
        let mount = Mount::start(&scratch, &backend.mountpoint, options);
        let path = mount.join("file");
        let writer = open_with(&path, 0).unwrap();
        let reader = File::open(&path).unwrap();
        // A fault asks for no attributes, which would make the kernel forget its pages once more.
        let mapped = Mapping::new(&reader, ALL).unwrap();
        assert!(mapped.read(0, ALL) == vec![1u8; ALL]);
        backend.add_rule(Rule::new(Operation::Read, "source", Action::Hang));
        let source = File::open(backend.mountpoint.join("source")).unwrap();
        let slow = Mapping::new(&source, PAGE).unwrap();
        // In memory, or the kernel would send the first pages by themselves.
        let quick = vec![2; COPIED - skip];
        let writing = std::thread::spawn(move || {
            let written = slow.write_behind(&quick, &writer, skip as u64);
            (written, writer)
        });
        backend.wait_for_hung(1);
        make_the_kernel_forget(&backend, &reader);
        assert!(
            mapped.read(0, COPIED) == vec![1u8; COPIED],
            "nothing of the write is there yet"
        );
        backend.clear_rules();
        backend.release(None);
        let (written, writer) = writing.join().unwrap();
        assert_eq!(written.unwrap(), COPIED - skip + PAGE);
        let mut expected = vec![1u8; ALL];
        expected[skip..COPIED + PAGE].fill(2);
        if skip > 0 {
            // A page written in part is forgotten when the write has its answer.
            wait_until(Duration::from_secs(5), "the first page", || {
                mapped.read(0, PAGE) == expected[..PAGE]
            });
        }
        let read = mapped.read(0, ALL);
        let runs: Vec<u8> = read.chunks(PAGE).map(|page| page[PAGE - 1]).collect();
        assert!(read == expected, "from {skip}: {runs:?}");
        for file in [&writer, &reader] {
            assert!(
                read_range(file, 0, ALL).unwrap() == expected,
                "from {skip}, read"
            );
        }
        assert!(fs::read(backend.plain.join("file")).unwrap() == expected);
    }
}

/// Each close of the writer makes another version, and a read from the server lasts as long as several of them.
#[test]
fn a_reader_beside_a_program_that_opens_writes_and_closes_gets_no_error() {
    let scratch = Scratch::new("write-close");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    fs::write(backend.plain.join("file"), vec![1; SIZE]).unwrap();
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let path = mount.join("file");
    let slow = Rule::new(Operation::Read, "file", Action::DelayMs(30));
    backend.add_rule(slow);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let reader = File::open(&path).unwrap();
                    let read = read_range(&reader, 0, SIZE / 2).unwrap();
                    assert!(read == vec![1; SIZE / 2]);
                }
            });
        }
        let end = Instant::now() + sample_or_full(Duration::from_secs(4), Duration::from_secs(60));
        while Instant::now() < end {
            let writer = open_with(&path, 0).unwrap();
            writer.write_all_at(&[2; 100], SIZE as u64 - 100).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
