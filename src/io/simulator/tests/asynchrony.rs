//! Submitted reads and fills: when and where they end, and that they always do.

use super::super::{Fault, FaultPlan, FaultRule, Simulation, seed_of_this_run};
use super::{contents_of, durable_file};
use crate::io::{Buffer, FillError, FillSource, Io, IoFile, OpenMode, ReadAt};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        // Short on purpose: the fill has to ask again.
        let moved = rest.len().min(buffer.len()).min(1000);
        buffer[..moved].copy_from_slice(&rest[..moved]);
        Ok(moved)
    }
}

/// A source that answers once it is let go.
#[derive(Default)]
struct Hung {
    free: Mutex<bool>,
    freed: Condvar,
}

impl ReadAt for Hung {
    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        let mut free = self.free.lock();
        while !*free {
            self.freed.wait(&mut free);
        }
        buffer.fill(9);
        Ok(buffer.len())
    }
}

fn fill(
    file: &Arc<dyn IoFile>,
    source: FillSource,
    length_bytes: u64,
) -> Receiver<Result<u64, FillError>> {
    let (sender, receiver) = channel();
    file.submit_fill(
        source,
        0,
        length_bytes,
        Box::new(move |result| sender.send(result).unwrap()),
    );
    receiver
}

type Ended = (u64, io::Result<usize>, Vec<u8>, ThreadId);

fn submit(file: &Arc<dyn IoFile>, offset: u64, length_bytes: usize, ended: &Sender<Ended>) {
    let ended = ended.clone();
    let done = move |result, buffer: Buffer| {
        let thread = std::thread::current().id();
        ended
            .send((offset, result, buffer.to_vec(), thread))
            .unwrap();
    };
    file.submit_read(
        Buffer::unpooled(length_bytes),
        offset,
        length_bytes,
        true,
        Box::new(done),
    );
}

#[test]
fn a_submitted_read_ends_on_another_thread() {
    let simulation = Simulation::new(1, FaultPlan::none());
    let file = durable_file(&simulation, "file", &[4; 6000]);
    let (sender, receiver) = channel();
    submit(&file, 4096, 4096, &sender);
    let (_, result, bytes, thread) = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(result.unwrap(), 6000 - 4096);
    assert_eq!(bytes[..6000 - 4096], [4; 6000 - 4096]);
    assert_ne!(thread, std::thread::current().id());
    simulation.run_until_idle();
}

#[test]
fn a_hung_source_holds_up_nobody_and_keeps_the_file_in_use() {
    let simulation = Simulation::new(1, FaultPlan::none());
    let file = durable_file(&simulation, "file", &[4; 4096]);
    let target = simulation
        .device("disk")
        .open("target", OpenMode::CreateNew)
        .unwrap();
    assert!(target.is_exclusive());
    let hung = Arc::new(Hung::default());
    let filled = fill(&target, FillSource::Reader(hung.clone()), 5000);
    let (sender, receiver) = channel();
    submit(&file, 0, 4096, &sender);
    assert!(receiver.recv_timeout(PATIENCE).unwrap().1.is_ok());
    let other = fill(
        &file,
        FillSource::Reader(Arc::new(Bytes(vec![1; 100]))),
        4096,
    );
    assert_eq!(other.recv_timeout(PATIENCE).unwrap().unwrap(), 100);
    assert!(!target.is_exclusive());
    assert!(filled.try_recv().is_err());
    *hung.free.lock() = true;
    hung.freed.notify_all();
    assert_eq!(filled.recv_timeout(PATIENCE).unwrap().unwrap(), 5000);
    assert_eq!(contents_of(&target), [9; 5000]);
    assert!(target.is_exclusive());
}

#[test]
fn a_file_is_exclusive_when_nobody_else_has_it() {
    let simulation = Simulation::deterministic(1);
    let file = durable_file(&simulation, "file", b"x");
    let disk = simulation.device("disk");
    let second = disk.open("file", OpenMode::Read).unwrap();
    assert!(!file.is_exclusive() && !second.is_exclusive());
    drop(file);
    assert!(second.is_exclusive());
    disk.pretend_mapped("file", true).unwrap();
    assert!(!second.is_exclusive());
    disk.pretend_mapped("file", false).unwrap();
    assert!(second.is_exclusive());
    assert!(second.descriptor().is_none());
}

#[test]
fn fills_read_descriptors_also_o_direct_ones() {
    let parent = std::env::var_os("CACHEFS_TEST_DIR")
        .map_or_else(std::env::temp_dir, std::path::PathBuf::from);
    let mut source = tempfile::NamedTempFile::new_in(parent).unwrap();
    source.write_all(&[6; 70_001]).unwrap();
    source.flush().unwrap();
    for flags in [0, libc::O_DIRECT] {
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(source.path());
        let Ok(opened) = opened else { continue };
        let simulation = Simulation::deterministic(1);
        let file = simulation
            .device("disk")
            .open("file", OpenMode::CreateNew)
            .unwrap();
        let descriptor = FillSource::Descriptor(Arc::new(opened.into()));
        let filled = fill(&file, descriptor.clone(), 1 << 20);
        let part = fill(&file, descriptor, 5000);
        simulation.run_until_idle();
        assert_eq!(filled.try_recv().unwrap().unwrap(), 70_001);
        assert_eq!(part.try_recv().unwrap().unwrap(), 5000);
        assert_eq!(contents_of(&file), [6; 70_001]);
    }
}

#[test]
fn a_fill_says_which_side_failed() {
    struct Broken;
    impl ReadAt for Broken {
        fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(libc::ESTALE))
        }
    }
    let simulation = Simulation::deterministic(1);
    let file = durable_file(&simulation, "file", b"x");
    let good = || FillSource::Reader(Arc::new(Bytes(vec![1; 100])));
    let source_failed = fill(&file, FillSource::Reader(Arc::new(Broken)), 100);
    let too_long = fill(&file, good(), (1 << 20) + 1);
    simulation.run_until_idle();
    let source_failed = source_failed.try_recv().unwrap();
    assert!(
        matches!(source_failed, Err(FillError::Source(error)) if error.raw_os_error() == Some(libc::ESTALE))
    );
    assert!(matches!(
        too_long.try_recv().unwrap(),
        Err(FillError::Destination(_))
    ));
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::WriteError)));
    let failed = fill(&file, good(), 100);
    simulation.run_until_idle();
    assert!(matches!(
        failed.try_recv().unwrap(),
        Err(FillError::Destination(_))
    ));
}

#[test]
fn what_a_fill_wrote_is_not_in_memory_until_it_was_read() {
    let simulation = Simulation::deterministic(1);
    let file = simulation
        .device("disk")
        .open("file", OpenMode::CreateNew)
        .unwrap();
    let filled = fill(
        &file,
        FillSource::Reader(Arc::new(Bytes(vec![3; 10_000]))),
        10_000,
    );
    simulation.run_until_idle();
    assert_eq!(filled.try_recv().unwrap().unwrap(), 10_000);
    let mut buffer = [0; 10_000];
    assert_eq!(file.read_cached(&mut buffer, 0).unwrap(), None);
    assert_eq!(file.read_cached(&mut buffer, 10_000).unwrap(), Some(0));
    file.read_at(&mut buffer[..100], 0).unwrap();
    assert_eq!(file.read_cached(&mut buffer, 0).unwrap(), Some(4096));
    assert_eq!(buffer[..4096], [3; 4096]);
    simulation.drop_caches();
    assert_eq!(file.read_cached(&mut buffer, 0).unwrap(), None);
}

/// The order in which ten submitted reads end.
fn order(seed: u64, plan: FaultPlan) -> Vec<u64> {
    let simulation = Simulation::deterministic(seed);
    simulation.set_faults(plan);
    let file = durable_file(&simulation, "file", &[1; 40_960]);
    let (sender, receiver) = channel();
    for block in 0..10 {
        submit(&file, block * 4096, 4096, &sender);
    }
    assert!(receiver.try_recv().is_err(), "nothing ends by itself");
    assert!(simulation.step());
    assert!(receiver.try_recv().is_ok(), "one step ends one");
    submit(&file, 0, 4096, &sender);
    simulation.run_until_idle();
    assert!(!simulation.step());
    let here = std::thread::current().id();
    let ended: Vec<Ended> = receiver.try_iter().collect();
    assert!(ended.iter().all(|ended| ended.1.is_ok() && ended.3 == here));
    ended.into_iter().map(|ended| ended.0 / 4096).collect()
}

#[test]
fn deterministic_completions_come_in_the_order_of_the_seed() {
    let seed = seed_of_this_run();
    let first = order(seed, FaultPlan::none());
    assert_eq!(first.len(), 10);
    assert_eq!(first, order(seed, FaultPlan::none()));
    let differing =
        (1..20).filter(|other| order(seed.wrapping_add(*other), FaultPlan::none()) != first);
    assert!(differing.count() > 15);
    let delay = FaultRule::new(Fault::Delay {
        at_most: Duration::from_millis(1),
    });
    let delayed = FaultPlan::none().with(delay.with_probability(0.5));
    assert_eq!(order(seed, delayed).len(), 10);
}

#[test]
fn delays_take_time_on_threads() {
    let simulation = Simulation::new(seed_of_this_run(), FaultPlan::none());
    let file = durable_file(&simulation, "file", &[1; 40_960]);
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::Delay {
        at_most: Duration::from_millis(60),
    })));
    let (sender, receiver) = channel();
    let begun = Instant::now();
    for block in 0..10 {
        submit(&file, block * 4096, 4096, &sender);
    }
    simulation.run_until_idle();
    assert!(begun.elapsed() > Duration::from_millis(5));
    let ended: Vec<u64> = receiver.try_iter().map(|ended| ended.0).collect();
    assert_eq!(ended.len(), 10);
    assert!(!ended.is_sorted(), "ten delayed reads in order");
    assert_eq!(simulation.strikes(), 10);
}

#[test]
fn every_submitted_operation_ends_whatever_happens() {
    for deterministic in [true, false] {
        let delay = FaultRule::new(Fault::Delay {
            at_most: Duration::from_secs(60),
        });
        let plan = FaultPlan::none().with(delay);
        let simulation = if deterministic {
            Simulation::deterministic(1)
        } else {
            Simulation::new(1, FaultPlan::none())
        };
        let file = durable_file(&simulation, "file", &[1; 4096]);
        simulation.set_faults(plan);
        let (sender, receiver) = channel();
        submit(&file, 0, 4096, &sender);
        let filled = fill(&file, FillSource::Reader(Arc::new(Bytes(vec![1; 9]))), 9);
        simulation.crash();
        drop(simulation);
        let (_, result, bytes, _) = receiver.recv_timeout(PATIENCE).unwrap();
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(bytes.len(), 4096, "the buffer comes back");
        let filled = filled.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(filled, Err(FillError::Destination(_))));
        submit(&file, 0, 4096, &sender);
        assert!(receiver.recv_timeout(PATIENCE).unwrap().1.is_err());
    }
}
