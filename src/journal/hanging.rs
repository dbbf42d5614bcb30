//! A disk for tests that hangs when it is told to: whoever writes or syncs waits.

use super::tests::Opened;
use super::{Journal, JournalDirectory, JournalSettings, Witness};
use crate::io::simulator::Simulation;
use crate::io::{
    Buffer, Completion, DiskSpace, FileFacts, FillCompletion, FillSource, Io, IoFile, OpenMode,
};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const LIMIT: Duration = Duration::from_secs(60);

/// A journal whose disk hangs while the gate is shut.
pub fn open_behind(simulation: &Simulation, gate: &Arc<Gate>, settings: JournalSettings) -> Opened {
    let disk = HangingDisk {
        disk: simulation.device("journal"),
        gate: gate.clone(),
    };
    let directory = JournalDirectory {
        name: "journal".to_owned(),
        io: Ok(Arc::new(disk)),
    };
    let opened = Journal::open(vec![directory], Witness::hear(Vec::new()), settings);
    let (journal, records) = opened.expect("a journal");
    Opened { journal, records }
}

pub fn wait_until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Default)]
pub struct Gate {
    is_shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn set_shut(&self, is_shut: bool) {
        *self.is_shut.lock() = is_shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut is_shut = self.is_shut.lock();
        while *is_shut {
            self.changed.wait(&mut is_shut);
        }
    }
}

pub struct HangingDisk {
    pub disk: Arc<dyn Io>,
    pub gate: Arc<Gate>,
}

struct HangingFile {
    file: Arc<dyn IoFile>,
    gate: Arc<Gate>,
}

impl Io for HangingDisk {
    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.disk.create_directory(path)
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
        self.disk.list(path, each)
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        let (file, gate) = (self.disk.open(path, mode)?, self.gate.clone());
        Ok(Arc::new(HangingFile { file, gate }))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.gate.pass();
        self.disk.rename(from, to)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.gate.pass();
        self.disk.sync_directory(path)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.gate.pass();
        self.disk.sync_all()
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space()
    }
}

impl IoFile for HangingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.gate.pass();
        self.file.write_all_at(data, offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.file.read_cached(buffer, offset)
    }

    fn submit_read(
        &self,
        buffer: Buffer,
        offset: u64,
        length_bytes: usize,
        direct: bool,
        done: Completion,
    ) {
        self.file
            .submit_read(buffer, offset, length_bytes, direct, done);
    }

    fn submit_fill(
        &self,
        source: FillSource,
        offset: u64,
        length_bytes: u64,
        done: FillCompletion,
    ) {
        self.file.submit_fill(source, offset, length_bytes, done);
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.file.set_size(size_bytes)
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> io::Result<()> {
        self.file.punch(offset, length_bytes)
    }

    fn set_blocks_aside(&self) {
        self.file.set_blocks_aside();
    }

    fn facts(&self) -> io::Result<FileFacts> {
        self.file.facts()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_all()
    }

    fn set_random_access(&self, random: bool) {
        self.file.set_random_access(random);
    }

    fn is_exclusive(&self) -> bool {
        self.file.is_exclusive()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}
