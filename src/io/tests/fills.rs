use super::*;
use crate::io::{FillError, FillSource, ReadAt};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

const PIECE_BYTES: u64 = 1024 * 1024;

type Outcome = Result<u64, FillError>;

fn start_fill(
    file: &Arc<dyn IoFile>,
    source: FillSource,
    offset: u64,
    length_bytes: u64,
) -> crossbeam_channel::Receiver<Outcome> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let done = Box::new(move |result| sender.send(result).unwrap());
    file.submit_fill(source, offset, length_bytes, done);
    receiver
}

fn fill(file: &Arc<dyn IoFile>, source: FillSource, offset: u64, length_bytes: u64) -> Outcome {
    let receiver = start_fill(file, source, offset, length_bytes);
    let outcome = receiver.recv_timeout(PATIENCE).expect("the fill completes");
    assert_eq!(
        receiver.recv_timeout(PATIENCE).err(),
        Some(crossbeam_channel::RecvTimeoutError::Disconnected),
        "and only once"
    );
    outcome
}

fn descriptor(path: &Path) -> FillSource {
    FillSource::Descriptor(Arc::new(std::fs::File::open(path).unwrap().into()))
}

/// A source whose reads wait until it is opened.
struct Gate {
    content: Vec<u8>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn new(content: Vec<u8>, open: bool) -> Arc<Self> {
        Arc::new(Self {
            content,
            open: Mutex::new(open),
            opened: Condvar::new(),
        })
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }
}

impl ReadAt for Gate {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
        let start = (offset as usize).min(self.content.len());
        let length = buffer.len().min(self.content.len() - start);
        buffer[..length].copy_from_slice(&self.content[start..start + length]);
        Ok(length)
    }
}

#[test]
fn a_fill_of_any_length_gives_the_bytes_of_its_source() {
    let mut lengths = vec![0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537];
    lengths.extend([1_048_575, 1_048_576, 1_048_577, 2_097_152, 3_145_728]);
    lengths.extend((1..20).map(|step| step * 157_013));
    let source_bytes = pattern(3 * PIECE_BYTES as usize, 11);
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let source_path = scratch.path().join("source");
        std::fs::write(&source_path, &source_bytes).unwrap();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        for as_reader in [false, true] {
            for (number, length) in lengths.iter().copied().enumerate() {
                let object = format!("object-{as_reader}-{number}");
                let file = disk.open(&object, OpenMode::CreateNew).unwrap();
                file.set_size(length).unwrap();
                let source = if as_reader {
                    FillSource::Reader(Gate::new(source_bytes.clone(), true))
                } else {
                    descriptor(&source_path)
                };
                let pieces: Vec<_> = (0..length.div_ceil(PIECE_BYTES))
                    .map(|piece| {
                        let offset = piece * PIECE_BYTES;
                        let wanted = PIECE_BYTES.min(length - offset);
                        (wanted, start_fill(&file, source.clone(), offset, wanted))
                    })
                    .collect();
                for (wanted, answer) in pieces {
                    assert_eq!(
                        answer.recv_timeout(PATIENCE).unwrap().unwrap(),
                        wanted,
                        "{name}"
                    );
                }
                let copied = std::fs::read(scratch.path().join(&object)).unwrap();
                assert!(
                    copied == source_bytes[..length as usize],
                    "{name}: {length} bytes"
                );
                disk.remove_file(&object).unwrap();
            }
        }
    }
}

#[test]
fn a_source_that_ends_early_gives_fewer_bytes_and_nothing_beyond_them() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        for length in [0, 100, 4096, 70_000, 131_072, 600_001] {
            let content = pattern(length, 12);
            let path = scratch.path().join("source");
            std::fs::write(&path, &content).unwrap();
            for source in [
                descriptor(&path),
                FillSource::Reader(Gate::new(content.clone(), true)),
            ] {
                let file = disk.open("object", OpenMode::CreateNew).unwrap();
                file.set_size(PIECE_BYTES).unwrap();
                let copied = fill(&file, source, 0, PIECE_BYTES).unwrap();
                assert_eq!(copied, length as u64, "{name}");
                let mut bytes = vec![0; PIECE_BYTES as usize];
                assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
                assert!(bytes[..length] == content, "{name}");
                assert!(bytes[length..].iter().all(|byte| *byte == 0), "{name}");
                disk.remove_file("object").unwrap();
            }
        }
    }
}

#[test]
fn a_source_opened_for_direct_io_fills_its_unaligned_end() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        if !disk.supports_direct_io() {
            return;
        }
        for length in [100, 70_001, PIECE_BYTES as usize - 1] {
            let content = pattern(length, 13);
            let path = scratch.path().join("source");
            std::fs::write(&path, &content).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            let direct = crate::io::local_file::reopen_direct(&file, false).unwrap();
            let source = FillSource::Descriptor(Arc::new(direct.into()));
            let file = disk.open("object", OpenMode::CreateNew).unwrap();
            assert_eq!(
                fill(&file, source, 0, length as u64).unwrap(),
                length as u64,
                "{name}"
            );
            let mut bytes = vec![0; length];
            file.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == content, "{name}: {length}");
            disk.remove_file("object").unwrap();
        }
    }
}

#[test]
fn the_side_that_failed_is_named() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let good = scratch.path().join("source");
        std::fs::write(&good, pattern(PIECE_BYTES as usize, 14)).unwrap();
        for length in [4096, 100_000, PIECE_BYTES] {
            let file = disk.open("object", OpenMode::CreateNew).unwrap();
            let outcome = fill(&file, descriptor(scratch.path()), 0, length);
            let Err(FillError::Source(error)) = outcome else {
                panic!("{name}: {outcome:?}");
            };
            assert_eq!(error.raw_os_error(), Some(libc::EISDIR), "{name}");

            // The same chains and pipes still work.
            assert_eq!(
                fill(&file, descriptor(&good), 0, length).unwrap(),
                length,
                "{name}"
            );
            drop(file);

            let read_only = disk.open("object", OpenMode::Read).unwrap();
            let outcome = fill(&read_only, descriptor(&good), 0, length);
            assert!(
                matches!(outcome, Err(FillError::Destination(_))),
                "{name}: {outcome:?}"
            );
            disk.remove_file("object").unwrap();
        }
        let file = disk.open("object", OpenMode::CreateNew).unwrap();
        for (offset, length) in [(100, 4096), (0, PIECE_BYTES + 1)] {
            let outcome = fill(&file, descriptor(&good), offset, length);
            assert!(
                matches!(outcome, Err(FillError::Destination(_))),
                "{name}: {outcome:?}"
            );
        }
    }
}

struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_a_destination_error() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let small = scratch.path().join("small");
        std::fs::create_dir(&small).unwrap();
        let options = Some("size=3m");
        if let Err(error) = mount(
            Some("tmpfs"),
            &small,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        ) {
            eprintln!("not tried: mounting a tmpfs: {error}");
            return;
        }
        let mounted = SmallDisk(small);
        let source = scratch.path().join("source");
        std::fs::write(&source, pattern(8 << 20, 15)).unwrap();
        let engine = Engine::start(settings).unwrap();
        let disk = open_disk(&mounted.0, &engine);
        let file = disk.open("object", OpenMode::CreateNew).unwrap();
        let answers: Vec<_> = (0..8)
            .map(|piece| start_fill(&file, descriptor(&source), piece * PIECE_BYTES, PIECE_BYTES))
            .collect();
        let mut full = 0;
        for answer in answers {
            match answer.recv_timeout(PATIENCE).unwrap() {
                Ok(copied) => assert_eq!(copied, PIECE_BYTES),
                Err(FillError::Destination(error)) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{name}");
                    full += 1;
                }
                Err(other) => panic!("{name}: {other}"),
            }
        }
        assert!(full >= 5, "{name}: {full} of 8 MiB did not fit into 3 MiB");
        engine.shutdown();
        drop((file, disk));
    }
}

#[test]
fn hung_sources_stop_neither_reads_nor_shutdown() {
    for (name, mut settings) in engines() {
        settings.fill_parallelism = 2;
        let scratch = Scratch::new();
        let content = pattern(PIECE_BYTES as usize, 16);
        let source = scratch.path().join("source");
        std::fs::write(&source, &content).unwrap();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = disk.open("object", OpenMode::CreateNew).unwrap();
        let gate = Gate::new(content.clone(), false);
        let hung: Vec<_> = (0..4)
            .map(|_| start_fill(&file, FillSource::Reader(gate.clone()), 0, PIECE_BYTES))
            .collect();
        let good = create(&disk, "good", &content);
        for _ in 0..100 {
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let done = move |result: io::Result<usize>, _| sender.send(result.unwrap()).unwrap();
            good.submit_read(engine.take_buffer(65_536), 0, 65_536, true, Box::new(done));
            assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), 65_536, "{name}");
        }
        if engine.report().engine == "uring" {
            assert_eq!(
                fill(&file, descriptor(&source), 0, PIECE_BYTES).unwrap(),
                PIECE_BYTES
            );
        }
        let before = Instant::now();
        engine.shutdown();
        assert!(before.elapsed() < Duration::from_secs(1), "{name}");
        gate.open();
        let outcomes: Vec<_> = hung
            .iter()
            .map(|answer| answer.recv_timeout(PATIENCE).expect("answered in the end"))
            .collect();
        let finished = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(
            finished, 2,
            "{name}: those under way end, those queued are cancelled"
        );
    }
}

#[test]
fn queued_fills_go_on_when_the_source_answers_again() {
    for (name, mut settings) in engines() {
        settings.fill_parallelism = 2;
        let scratch = Scratch::new();
        let content = pattern(PIECE_BYTES as usize, 17);
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = disk.open("object", OpenMode::CreateNew).unwrap();
        let gate = Gate::new(content.clone(), false);
        let answers: Vec<_> = (0..20)
            .map(|_| start_fill(&file, FillSource::Reader(gate.clone()), 0, PIECE_BYTES))
            .collect();
        gate.open();
        for answer in answers {
            assert_eq!(
                answer.recv_timeout(PATIENCE).unwrap().unwrap(),
                PIECE_BYTES,
                "{name}"
            );
        }
        let mut bytes = vec![0; content.len()];
        std::fs::File::open(scratch.path().join("object"))
            .unwrap()
            .read_exact_at(&mut bytes, 0)
            .unwrap();
        assert!(bytes == content, "{name}");
    }
}
