//! The engines on a real directory, each test with every engine.
//!
//! - `reads`, `fills`: bytes, errors, completions
//! - `hung`: a backend that does not answer
//! - `device`: writes of a device's thread
//! - `disk`: the directory operations, leases, what a filesystem can do
//! - `measure`: ratios to plain system calls, run by hand

use super::engine::{Engine, EngineKind, EngineSettings};
use super::local::LocalDisk;
use super::{Io, IoFile, OpenMode};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod device;
mod disk;
mod fills;
mod hung;
mod measure;
mod reads;

/// How long anything here may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let base =
            std::env::var_os("CACHEFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Self(tempfile::tempdir_in(base).expect("the scratch directory is writable"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn disk(&self, engine: &Arc<Engine>) -> Arc<LocalDisk> {
        open_disk(self.path(), engine)
    }
}

fn open_disk(path: &Path, engine: &Arc<Engine>) -> Arc<LocalDisk> {
    let root = OwnedFd::from(std::fs::File::open(path).unwrap());
    LocalDisk::open(root, engine.clone()).unwrap()
}

/// Settings of every engine that this machine has, with a name for messages.
fn engines() -> Vec<(&'static str, EngineSettings)> {
    let blocking = EngineSettings {
        kind: EngineKind::Blocking,
        ..EngineSettings::default()
    };
    let plain_reads = EngineSettings {
        fixed_buffers: false,
        queue_depth: 3,
        ..EngineSettings::default()
    };
    let submission_polled = EngineSettings {
        sq_poll_idle: Some(Duration::from_millis(1)),
        ..EngineSettings::default()
    };
    let completion_polled = EngineSettings {
        polling: true,
        huge_pages: true,
        numa_aware: true,
        ..EngineSettings::default()
    };
    vec![
        ("uring", EngineSettings::default()),
        ("uring, plain reads, 3 slots", plain_reads),
        ("uring, sqpoll", submission_polled),
        ("uring, polling", completion_polled),
        ("blocking", blocking),
    ]
}

/// Bytes that differ from block to block and are not zero.
fn pattern(length_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length_bytes + 8);
    while bytes.len() < length_bytes {
        state = random(state);
        bytes.extend_from_slice(&(state | 0x0101_0101_0101_0101).to_le_bytes());
    }
    bytes.truncate(length_bytes);
    bytes
}

/// One step of a xorshift generator.
fn random(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

fn create(disk: &LocalDisk, name: &str, content: &[u8]) -> Arc<dyn IoFile> {
    let file = disk.open(name, OpenMode::CreateNew).unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}
