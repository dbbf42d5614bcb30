//! What is written. Every file is closed, so that all of it is where a program may rely on it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::support::measure::{Work, latency_histogram};

const CHUNK_BYTES: usize = 1 << 20;
const PAGE_BYTES: u64 = 4096;
const SMALL_FILE_BYTES: usize = 4096;
/// Of the file that is written to at random.
const RANDOM_FILE_BYTES: u64 = 64 << 20;

pub struct Amounts {
    pub sequential_bytes: u64,
    pub random_writes: u64,
    pub files: u64,
}

pub struct Workload {
    pub name: &'static str,
    pub run: fn(&Path, &Amounts) -> anyhow::Result<Work>,
}

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "sequential",
        run: sequential,
    },
    Workload {
        name: "random",
        run: random_writes,
    },
    Workload {
        name: "small-files",
        run: small_files,
    },
];

/// One file from begin to end in 1 MiB calls, on stable storage at the end.
fn sequential(directory: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    let mut file = File::create(directory.join("large"))?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    let chunks = amounts.sequential_bytes / CHUNK_BYTES as u64;
    for _ in 0..chunks {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(Work {
        operations: chunks,
        bytes: chunks * CHUNK_BYTES as u64,
        latencies: None,
    })
}

/// 4 KiB at places all over a file, on stable storage at the end.
fn random_writes(directory: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(directory.join("random"))?;
    file.set_len(RANDOM_FILE_BYTES)?;
    let page = [0xa5; PAGE_BYTES as usize];
    let pages = RANDOM_FILE_BYTES / PAGE_BYTES;
    let mut latencies = latency_histogram();
    for number in 0..amounts.random_writes {
        let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages;
        let begin = Instant::now();
        file.write_all_at(&page, at * PAGE_BYTES)?;
        latencies.record(begin.elapsed().as_nanos() as u64)?;
    }
    file.sync_all()?;
    Ok(Work {
        operations: amounts.random_writes,
        bytes: amounts.random_writes * PAGE_BYTES,
        latencies: Some(latencies),
    })
}

/// Files of 4 KiB: made, written, closed.
fn small_files(directory: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    let content = [0xc3; SMALL_FILE_BYTES];
    let mut latencies = latency_histogram();
    for number in 0..amounts.files {
        let path = directory.join(format!("f{number:05}"));
        let begin = Instant::now();
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        latencies.record(begin.elapsed().as_nanos() as u64)?;
    }
    Ok(Work {
        operations: amounts.files,
        bytes: amounts.files * SMALL_FILE_BYTES as u64,
        latencies: Some(latencies),
    })
}
