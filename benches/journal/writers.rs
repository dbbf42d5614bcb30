//! Writers of small durable writes: each makes its next one when the last one is acknowledged.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};

use crate::support::measure::{Work, latency_histogram};

pub const RECORD_BYTES: usize = 4096;
/// Of the counts of writers.
pub const WRITERS: [usize; 4] = [1, 8, 32, 128];

/// A writer's own file grows to this, and is written over from its begin then.
const FILE_RECORDS: u64 = 4096;

/// Has `writers` threads call `write` with their number and that of the write, for as long as the period lasts.
pub fn run(
    writers: usize,
    period: Duration,
    write: impl Fn(usize, u64) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Work> {
    let start = Barrier::new(writers);
    let one = |writer: usize| {
        let mut latencies = latency_histogram();
        start.wait();
        let end = Instant::now() + period;
        let mut begin = Instant::now();
        for number in 0.. {
            write(writer, number)?;
            let now = Instant::now();
            latencies.record((now - begin).as_nanos() as u64)?;
            if now > end {
                break;
            }
            begin = now;
        }
        anyhow::Ok(latencies)
    };
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|w| scope.spawn(move || one(w))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        let ended: Vec<_> = ended.collect();
        ended
            .into_iter()
            .map(|ended| ended.map_err(|_| anyhow!("a writer panicked"))?)
            .collect::<anyhow::Result<Vec<Histogram<u64>>>>()
    })?;
    let mut latencies = latency_histogram();
    for of_one in &all {
        latencies.add(of_one)?;
    }
    Ok(Work {
        operations: latencies.len(),
        bytes: latencies.len() * RECORD_BYTES as u64,
        latencies: Some(latencies),
    })
}

/// Goes on with the writer that it is of.
pub type Next = Box<dyn FnOnce(anyhow::Result<()>) + Send>;

/// Writers whose turn it is, with the numbers of their writes; `None` ends a thread.
#[derive(Default)]
struct Ready {
    writers: Mutex<VecDeque<Option<(usize, u64)>>>,
    some: Condvar,
}

impl Ready {
    fn put(&self, writer: Option<(usize, u64)>) {
        self.writers.lock().push_back(writer);
        self.some.notify_one();
    }

    fn take(&self) -> Option<(usize, u64)> {
        let mut writers = self.writers.lock();
        loop {
            if let Some(writer) = writers.pop_front() {
                return writer;
            }
            self.some.wait(&mut writers);
        }
    }
}

/// Threads that work for all writers where none of these has one of its own.
const SERVING_THREADS: usize = 4;

/// The same without a thread for each: `write` is called for a writer whose turn it is, and calls what it is given once the
/// write is acknowledged.
pub fn run_parked(
    writers: usize,
    period: Duration,
    write: impl Fn(usize, u64, Next) + Sync,
) -> anyhow::Result<Work> {
    let ready = Arc::new(Ready::default());
    let (ended, ends) = crossbeam_channel::unbounded();
    let all = Arc::new(Mutex::new(latency_histogram()));
    let end = Instant::now() + period;
    std::thread::scope(|scope| {
        for _ in 0..SERVING_THREADS.min(writers) {
            let (ready, ended, all) = (ready.clone(), ended.clone(), all.clone());
            let write = &write;
            scope.spawn(move || {
                while let Some((writer, number)) = ready.take() {
                    let (ready, ended, all) = (ready.clone(), ended.clone(), all.clone());
                    let begin = Instant::now();
                    let next = move |outcome: anyhow::Result<()>| {
                        let now = Instant::now();
                        let _ = all.lock().record((now - begin).as_nanos() as u64);
                        match (outcome, now > end) {
                            (Ok(()), false) => ready.put(Some((writer, number + 1))),
                            (outcome, _) => drop(ended.send(outcome)),
                        }
                    };
                    write(writer, number, Box::new(next));
                }
            });
        }
        for writer in 0..writers {
            ready.put(Some((writer, 0)));
        }
        let outcome: anyhow::Result<()> = (0..writers).try_for_each(|_| ends.recv()?);
        for _ in 0..SERVING_THREADS.min(writers) {
            ready.put(None);
        }
        outcome
    })?;
    let latencies = all.lock().clone();
    Ok(Work {
        operations: latencies.len(),
        bytes: latencies.len() * RECORD_BYTES as u64,
        latencies: Some(latencies),
    })
}

/// A file for each writer in a directory.
pub struct OwnFiles(Vec<File>);

impl OwnFiles {
    pub fn create(directory: &Path, writers: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let create = |writer: usize| {
            let file = File::create(directory.join(format!("own-{writer}")))?;
            file.sync_all()?;
            anyhow::Ok(file)
        };
        let files: anyhow::Result<Vec<_>> = (0..writers).map(create).collect();
        Ok(Self(files.context("a file for each writer")?))
    }

    /// 4 KiB behind the last ones, on stable storage when it returns.
    pub fn write(&self, writer: usize, number: u64) -> anyhow::Result<()> {
        let at = (number % FILE_RECORDS) * RECORD_BYTES as u64;
        self.0[writer].write_all_at(&[writer as u8; RECORD_BYTES], at)?;
        Ok(self.0[writer].sync_data()?)
    }
}
