//! A disk whose syncs of directories can be made to wait: a checkpoint stopped halfway.

use crate::io::{DiskSpace, Io, IoFile, OpenMode};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLOSED_MAX: Duration = Duration::from_secs(30);

pub struct GatedDisk {
    disk: Arc<dyn Io>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    is_closed: bool,
    waiting: usize,
}

impl GatedDisk {
    pub fn new(disk: Arc<dyn Io>) -> Arc<Self> {
        Arc::new(Self {
            disk,
            gate: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub fn close(&self) {
        self.gate.lock().is_closed = true;
    }

    pub fn open_gate(&self) {
        self.gate.lock().is_closed = false;
        self.changed.notify_all();
    }

    /// Until somebody stands at the closed gate.
    pub fn wait_for_somebody(&self) {
        let deadline = Instant::now() + CLOSED_MAX;
        let mut gate = self.gate.lock();
        while gate.waiting == 0 {
            let late = self.changed.wait_until(&mut gate, deadline).timed_out();
            assert!(!late, "nobody came to the gate");
        }
    }

    fn pass(&self) {
        let deadline = Instant::now() + CLOSED_MAX;
        let mut gate = self.gate.lock();
        gate.waiting += 1;
        self.changed.notify_all();
        while gate.is_closed {
            let late = self.changed.wait_until(&mut gate, deadline).timed_out();
            assert!(!late, "the gate was never opened");
        }
        gate.waiting -= 1;
    }
}

impl Io for GatedDisk {
    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.disk.create_directory(path)
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
        self.disk.list(path, each)
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        self.disk.open(path, mode)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.pass();
        self.disk.sync_directory(path)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.pass();
        self.disk.sync_all()
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space()
    }
}
