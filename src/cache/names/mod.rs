//! What is known of names, attributes, links, listings and access decisions, kept over restarts: believed only while
//! the backend is away.
//!
//! What always holds: nobody waits for a write (they are collected and committed once a second); what waits to be
//! written, and what is stored, is bounded; after a crash the store may be older than what was known, never damaged in form:
//! a record that fails its checksum is none.
//!
//! - `records`: what is asked and answered, as bytes ([`Names`] has a pair of verbs for each)
//! - `database`: the file; docs/ON_DISK_FORMAT.md draws it
//! - `record`: a record as it is stored
//! - `scanning`: all names, a part at a time
//! - `aging`: what goes when there are too many

use self::database::{Found, NamesFile};
use crate::clock::wall_clock;
use crate::io::Io;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

mod aging;
mod database;
mod record;
mod records;
mod scanning;
#[cfg(test)]
mod tests;

pub use database::NAMES_FILE;
pub use records::{KnownBackend, KnownDecision, KnownListing};
pub use scanning::{ScanPlace, StoredName};

/// What was noted is durable after this and the time that a commit takes.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// What may wait to be written; beyond that nothing is noted.
const WAITING_RECORDS_MAX: usize = 32_768;
const WAITING_BYTES_MAX: usize = 16 << 20;
/// So much is reason not to wait for the next commit.
const WAITING_RECORDS_DUE: usize = WAITING_RECORDS_MAX / 4;

/// Changes of records by their keys; `None` removes.
type Changes = HashMap<Box<[u8]>, Option<Box<[u8]>>>;

pub struct Names {
    file: NamesFile,
    waiting: Mutex<Waiting>,
    due: Condvar,
    not_noted: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    changes: Changes,
    bytes: usize,
    /// The batch that is being written now.
    writing: Arc<Changes>,
    stopping: bool,
}

/// What `status` tells of the store.
#[derive(Clone, Debug, Default)]
pub struct NamesReport {
    pub records: u64,
    pub waiting: u64,
    /// Not noted because too much waited to be written.
    pub not_noted: u64,
    /// Why it is out of use.
    pub failure: Option<String>,
}

impl Names {
    /// Opens the store in a cache directory, called `name` in messages, or makes it. One that cannot be read is set aside
    /// for a new one; one that cannot be used is none. Blocks on the local disk.
    pub fn open(disk: Arc<dyn Io>, name: &str) -> Arc<Self> {
        let records_max = database::records_max(&*disk);
        Self::open_with(disk, name, records_max)
    }

    fn open_with(disk: Arc<dyn Io>, name: &str, records_max: u64) -> Arc<Self> {
        Arc::new(Self {
            file: NamesFile::open(disk, name, records_max),
            waiting: Mutex::default(),
            due: Condvar::new(),
            not_noted: AtomicU64::new(0),
            writer: Mutex::new(None),
        })
    }

    /// Starts the thread that writes. `absence` tells for how long the backend has been away, if it is.
    pub fn start(
        self: &Arc<Self>,
        absence: impl Fn() -> Option<Duration> + Send + 'static,
    ) -> io::Result<()> {
        let names = self.clone();
        let thread = std::thread::Builder::new()
            .name("cache-names".to_owned())
            .spawn(move || names.write_loop(absence))?;
        *self.writer.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread after a last commit. Waits for the local disk.
    pub fn shutdown(&self) {
        self.waiting.lock().stopping = true;
        self.due.notify_all();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }

    pub fn report(&self) -> NamesReport {
        NamesReport {
            records: self.file.record_count(),
            waiting: {
                let waiting = self.waiting.lock();
                (waiting.changes.len() + waiting.writing.len()) as u64
            },
            not_noted: self.not_noted.load(Ordering::Relaxed),
            failure: self.file.failure(),
        }
    }

    /// What start-up had to say, and what is wrong since.
    pub fn notices(&self) -> Vec<String> {
        self.file.notices()
    }

    fn write_loop(&self, absence: impl Fn() -> Option<Duration>) {
        loop {
            let mut waiting = self.waiting.lock();
            if !waiting.stopping && waiting.changes.len() < WAITING_RECORDS_DUE {
                self.due.wait_for(&mut waiting, COMMIT_INTERVAL);
            }
            let last = waiting.stopping;
            drop(waiting);
            self.note_absence(absence());
            self.commit();
            if last {
                return;
            }
        }
    }

    /// Makes durable what waits. Blocks on the local disk.
    fn commit(&self) {
        let batch = {
            let mut waiting = self.waiting.lock();
            waiting.bytes = 0;
            waiting.writing = Arc::new(std::mem::take(&mut waiting.changes));
            waiting.writing.clone()
        };
        if !batch.is_empty() {
            self.file.apply(&batch, wall_clock().seconds);
        }
        let written = std::mem::take(&mut self.waiting.lock().writing);
        drop((batch, written));
    }

    /// Never blocks on the disk.
    fn put(&self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value.into()));
    }

    /// Never blocks on the disk.
    fn remove(&self, key: Vec<u8>) {
        self.change(key, None);
    }

    fn change(&self, key: Vec<u8>, value: Option<Box<[u8]>>) {
        let mut waiting = self.waiting.lock();
        let bytes = key.len() + value.as_ref().map_or(0, |value| value.len());
        let is_full = waiting.changes.len() >= WAITING_RECORDS_MAX
            || waiting.bytes + bytes > WAITING_BYTES_MAX;
        if is_full && !waiting.changes.contains_key(key.as_slice()) {
            self.not_noted.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += bytes;
        let replaced = waiting.changes.insert(key.into(), value);
        if waiting.changes.len() == WAITING_RECORDS_DUE {
            self.due.notify_one();
        }
        drop(waiting);
        drop(replaced);
    }

    /// May wait for the local disk.
    fn get(&self, key: &[u8]) -> Option<Found> {
        {
            let waiting = self.waiting.lock();
            let held = waiting
                .changes
                .get(key)
                .or_else(|| waiting.writing.get(key));
            if let Some(change) = held {
                return change.as_deref().map(|value| Found(value.to_vec()));
            }
        }
        self.file.get(key)
    }
}
