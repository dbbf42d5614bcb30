//! Writers of small durable writes: each makes its next one when the last one is acknowledged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;

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
