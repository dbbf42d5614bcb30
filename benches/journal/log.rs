//! A journal as the daemon opens it, and the best that a log could do on the same disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nfs_cachefs::io::engine::{Engine, EngineKind, EngineSettings};
use nfs_cachefs::io::local::LocalDisk;
use nfs_cachefs::io::{BufferPool, Io};
use nfs_cachefs::journal::{
    AppendError, Generation, Holding, Journal, JournalDirectory, JournalSettings, Room, Sequence,
    Spread, SyncMode, Witness,
};
use nfs_cachefs::types::Timestamp;
use parking_lot::{Condvar, Mutex};

use crate::support::measure::{Work, latency_histogram};
use crate::writers::{self, RECORD_BYTES};

/// Of each device, and of the log that is the limit.
const LOG_BYTES: u64 = 128 << 20;
/// As the daemon has them for a journal of this size.
const SEGMENT_BYTES: u64 = 8 << 20;
const BATCH_BYTES: usize = 511 * 4096 - 128;
/// Records are forgotten so many at a time, as uploads would have it.
const TRIMMED_RECORDS: u64 = 1024;
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
const STAMP: Timestamp = Timestamp {
    seconds: 1,
    nanoseconds: 0,
};

/// A journal, and who runs its disks.
pub struct Log {
    journal: Arc<Journal>,
    engine: Arc<Engine>,
    written: AtomicU64,
}

impl Log {
    /// In directories of its own below `scratch`, all of which were written to before.
    pub fn open(scratch: &Path, spread: Spread, kind: EngineKind) -> anyhow::Result<Self> {
        let engine = Engine::start(EngineSettings {
            kind,
            ..EngineSettings::default()
        })?;
        let disk = |name: String| -> anyhow::Result<Arc<dyn Io>> {
            let path = scratch.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)?;
            Ok(LocalDisk::open(File::open(path)?.into(), engine.clone())?)
        };
        let mut directories = Vec::new();
        for number in 0..spread.devices() {
            let name = format!("device-{number}");
            let io = Ok(disk(name.clone())?);
            directories.push(JournalDirectory { name, io });
        }
        let witness = Witness::hear(vec![("cache".to_owned(), disk("cache".to_owned())?)]);
        let (journal, _) = Journal::open(directories, witness, settings(spread))?;
        let log = Self {
            journal,
            engine,
            written: AtomicU64::new(0),
        };
        log.write_everywhere(spread)?;
        Ok(log)
    }

    /// Once through all segments: what is measured is not that their blocks are new.
    fn write_everywhere(&self, spread: Spread) -> anyhow::Result<()> {
        let data = vec![0x5a; 1 << 20];
        let all_bytes = LOG_BYTES * u64::from(spread.data) * 5 / 4;
        for number in 0..all_bytes / data.len() as u64 {
            self.append(0, number, &data)?;
            self.journal.trim(self.journal.last_told());
        }
        Ok(())
    }

    fn append(&self, writer: usize, number: u64, data: &[u8]) -> anyhow::Result<()> {
        let sequence = self.append_only(writer, number, data)?;
        Ok(self.journal.sync(sequence)?)
    }

    fn append_only(&self, writer: usize, number: u64, data: &[u8]) -> anyhow::Result<Sequence> {
        let deadline = Instant::now() + ROOM_TIMEOUT;
        let (generation, offset) = (Generation(writer as u64 + 1), number * data.len() as u64);
        loop {
            let appended = self
                .journal
                .append_data(generation, offset, STAMP, data, Room::Writers);
            match appended {
                Ok(pieces) => {
                    return Ok(pieces.last().context("data has pieces")?.sequence);
                }
                Err(AppendError::Full) => {
                    ensure!(self.journal.wait_for_room(deadline), "the journal is full");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Durable records of 4 KiB. Returns how many were acknowledged with a sync, too.
    pub fn measure(&self, writers: usize, period: Duration) -> anyhow::Result<(Work, f64)> {
        self.counted(|| {
            writers::run(writers, period, |writer, number| {
                self.append(writer, number, &[writer as u8; RECORD_BYTES])?;
                self.trim_now_and_then();
                Ok(())
            })
        })
    }

    /// The same of writers that leave a call behind instead of waiting on a thread, as fsync through a mount does.
    pub fn measure_parked(&self, writers: usize, period: Duration) -> anyhow::Result<(Work, f64)> {
        self.counted(|| {
            writers::run_parked(writers, period, |writer, number, next| {
                match self.append_only(writer, number, &[writer as u8; RECORD_BYTES]) {
                    Ok(sequence) => {
                        self.trim_now_and_then();
                        let synced = move |outcome: std::io::Result<()>| {
                            next(outcome.map_err(Into::into));
                        };
                        self.journal.sync_then(sequence, Box::new(synced));
                    }
                    Err(error) => next(Err(error)),
                }
            })
        })
    }

    fn counted(
        &self,
        measure: impl FnOnce() -> anyhow::Result<Work>,
    ) -> anyhow::Result<(Work, f64)> {
        let before = self.journal.figures();
        let work = measure()?;
        let syncs = self.journal.figures().syncs - before.syncs;
        let shared = work.operations as f64 / syncs.max(1) as f64;
        Ok((work, shared))
    }

    fn trim_now_and_then(&self) {
        let written = self.written.fetch_add(1, Ordering::Relaxed);
        if written.is_multiple_of(TRIMMED_RECORDS) {
            self.journal.trim(self.journal.last_told());
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.journal.shutdown(Holding::Nothing);
        self.engine.shutdown();
    }
}

fn settings(spread: Spread) -> JournalSettings {
    JournalSettings {
        mode: SyncMode::Batch,
        interval: Duration::from_millis(100),
        size_bytes: LOG_BYTES,
        segment_bytes: SEGMENT_BYTES,
        batch_bytes: BATCH_BYTES,
        spread,
        witness_interval: Duration::from_secs(2),
        device_timeout: Duration::from_secs(15),
        name: [7; 16],
        backend: b"root".to_vec(),
        backend_name: "/backend".to_owned(),
    }
}

/// One file, all of whose blocks were written before.
pub struct Limit {
    file: File,
}

impl Limit {
    /// Through the page cache, or past it.
    pub fn create(path: &Path, is_direct: bool) -> anyhow::Result<Self> {
        let file = File::create(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..LOG_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        let flags = if is_direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)?;
        Ok(Self { file })
    }

    /// The records of as many writers, always at once: one write and one sync for all.
    pub fn measure(&self, writers: usize, period: Duration) -> anyhow::Result<Work> {
        let batch_bytes = writers * RECORD_BYTES;
        let pool = BufferPool::new(1, batch_bytes, false)?;
        let buffer = pool.try_take().context("an aligned buffer")?;
        let mut latencies = latency_histogram();
        let (end, mut at) = (Instant::now() + period, 0);
        loop {
            let begin = Instant::now();
            self.file.write_all_at(&buffer, at)?;
            self.file.sync_data()?;
            latencies.record(begin.elapsed().as_nanos() as u64)?;
            at += batch_bytes as u64;
            if at + batch_bytes as u64 > LOG_BYTES {
                at = 0;
            }
            if begin > end {
                break;
            }
        }
        Ok(Work {
            operations: latencies.len() * writers as u64,
            bytes: latencies.len() * batch_bytes as u64,
            latencies: Some(latencies),
        })
    }
}

/// The same with a thread for each writer, as little as can be done for them: each copies its record, one writes and syncs for
/// all, the others sleep until then. It keeps nothing and frames nothing.
pub struct SharedLimit {
    limit: Limit,
    gathered: Mutex<Gathered>,
    done: Condvar,
}

struct Gathered {
    buffer: Vec<u8>,
    filled: usize,
    at: u64,
    batch: u64,
    written: u64,
    is_writing: bool,
}

impl SharedLimit {
    pub fn create(path: &Path, writers: usize) -> anyhow::Result<Self> {
        let gathered = Gathered {
            buffer: vec![0; writers * RECORD_BYTES],
            filled: 0,
            at: 0,
            batch: 1,
            written: 0,
            is_writing: false,
        };
        Ok(Self {
            limit: Limit::create(path, false)?,
            gathered: Mutex::new(gathered),
            done: Condvar::new(),
        })
    }

    /// Blocks until the record is on stable storage.
    pub fn write(&self) -> anyhow::Result<()> {
        let mut gathered = self.gathered.lock();
        let (begin, own) = (gathered.filled, gathered.batch);
        gathered.buffer[begin..begin + RECORD_BYTES].fill(0x5a);
        gathered.filled += RECORD_BYTES;
        while gathered.written < own {
            if gathered.is_writing {
                self.done.wait(&mut gathered);
                continue;
            }
            gathered.is_writing = true;
            let batch = gathered.buffer[..gathered.filled].to_vec();
            let (at, number) = (gathered.at, gathered.batch);
            let next = at + batch.len() as u64;
            let is_at_end = next + gathered.buffer.len() as u64 > LOG_BYTES;
            gathered.at = if is_at_end { 0 } else { next };
            gathered.filled = 0;
            gathered.batch += 1;
            drop(gathered);
            self.limit.file.write_all_at(&batch, at)?;
            self.limit.file.sync_data()?;
            gathered = self.gathered.lock();
            gathered.written = number;
            gathered.is_writing = false;
            self.done.notify_all();
        }
        Ok(())
    }
}
