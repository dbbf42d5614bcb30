//! What is done to a subject. A workload prepares outside of the measured time.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use crate::support::measure::{Meter, Sample, Work, drop_caches, latency_histogram, resident_mib};
use crate::support::subject::{self, Subject};

const SMALL_FILES: u64 = 2000;
const SMALL_FILES_PER_DIRECTORY: u64 = 100;
const SMALL_FILE_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 1 << 20;
const PAGE_BYTES: u64 = 4096;
/// Concurrent random reads are made by this many threads with one pread each: the same for every subject.
const DEPTH: u64 = 32;
const STREAMS: u64 = 8;

/// The tree that is read: one large file, and small ones.
pub struct Data {
    pub root: PathBuf,
    size_bytes: u64,
}

impl Data {
    pub fn create(root: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(root)?;
        write_random(&root.join("large"), size_bytes)?;
        let content = random_bytes(SMALL_FILE_BYTES, 1);
        for number in 0..SMALL_FILES {
            let path = root.join(small_file(number));
            fs::create_dir_all(path.parent().context("a small file has a folder")?)?;
            fs::write(path, &content)?;
        }
        nix::unistd::sync();
        Ok(Self {
            root: root.to_owned(),
            size_bytes,
        })
    }

    /// Reads the whole tree twice: the first time it is filled, the second time it is hit.
    pub fn read_everything(&self, root: &Path) -> anyhow::Result<()> {
        for pass in 0..2 {
            stream(&root.join("large"), self.size_bytes, None)?;
            for number in 0..SMALL_FILES {
                fs::read(root.join(small_file(number)))?;
            }
            if pass == 0 {
                // The last pieces may still be on their way to the disk.
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Ok(())
    }
}

fn small_file(number: u64) -> String {
    format!(
        "small/d{:03}/f{number:05}",
        number / SMALL_FILES_PER_DIRECTORY
    )
}

fn random(seed: u64) -> u64 {
    let value = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ (value >> 27)
}

fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64 / 8)
        .flat_map(|word| random(seed << 32 | word).to_le_bytes())
        .collect()
}

/// Content that no layer can compress or deduplicate within a chunk.
pub fn write_random(path: &Path, size_bytes: u64) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut chunk = random_bytes(CHUNK_BYTES, size_bytes);
    let mut written = 0;
    while written < size_bytes {
        chunk[..8].copy_from_slice(&written.to_le_bytes());
        let length = (size_bytes - written).min(chunk.len() as u64) as usize;
        file.write_all(&chunk[..length])?;
        written += length as u64;
    }
    file.sync_all().context("syncing the data")
}

type Run = fn(&Subject, &Data) -> anyhow::Result<Option<Sample>>;

pub struct Workload {
    pub name: &'static str,
    run: Run,
}

impl Workload {
    /// None where the subject or the user cannot do it.
    pub fn run(&self, subject: &Subject, data: &Data) -> anyhow::Result<Option<Sample>> {
        (self.run)(subject, data)
            .with_context(|| format!("{} on {}", self.name, subject.name.label()))
    }
}

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "hot-sequential",
        run: |subject, data| sequential(subject, data, false),
    },
    Workload {
        name: "hot-random-1",
        run: |subject, data| random_reads(subject, data, 1, 20_000, false),
    },
    Workload {
        name: "hot-random-32",
        run: |subject, data| random_reads(subject, data, DEPTH, 64_000, false),
    },
    Workload {
        name: "cold-sequential",
        run: |subject, data| sequential(subject, data, true),
    },
    Workload {
        name: "cold-random-1",
        run: |subject, data| random_reads(subject, data, 1, 2_000, true),
    },
    Workload {
        name: "cold-random-32",
        run: |subject, data| random_reads(subject, data, DEPTH, 8_192, true),
    },
    Workload {
        name: "miss-local",
        run: first_read,
    },
    Workload {
        name: "open-read-close",
        run: |subject, _| small_files(subject, open_read_close),
    },
    Workload {
        name: "open-close",
        run: |subject, _| small_files(subject, open_close),
    },
    Workload {
        name: "stat",
        run: |subject, _| small_files(subject, stat),
    },
    Workload {
        name: "walk",
        run: |subject, _| measured_walk(subject),
    },
    Workload {
        name: "memory-8-streams",
        run: memory,
    },
];

/// Reads a file from begin to end in 1 MiB calls.
pub fn stream(
    path: &Path,
    size_bytes: u64,
    mut latencies: Option<&mut Histogram<u64>>,
) -> anyhow::Result<u64> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let begin = Instant::now();
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            break;
        }
        if let Some(latencies) = latencies.as_deref_mut() {
            latencies.record(begin.elapsed().as_nanos() as u64)?;
        }
        offset += count as u64;
    }
    ensure!(
        offset == size_bytes,
        "{} has {offset} bytes instead of {size_bytes}",
        path.display()
    );
    Ok(offset)
}

fn sequential(subject: &Subject, data: &Data, cold: bool) -> anyhow::Result<Option<Sample>> {
    if cold && !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let path = subject.root.join("large");
    if cold {
        drop_caches()?;
    } else {
        // Other subjects' pages may have pushed these out; the kernel counts pages as hot from their second use on.
        stream(&path, data.size_bytes, None)?;
        stream(&path, data.size_bytes, None)?;
    }
    let mut latencies = latency_histogram();
    let meter = Meter::start(subject.daemon_pid(), cold.then_some(data.root.as_path()))?;
    let bytes = stream(&path, data.size_bytes, Some(&mut latencies))?;
    let work = Work {
        operations: bytes.div_ceil(CHUNK_BYTES as u64),
        bytes,
        latencies: Some(latencies),
    };
    meter.stop(&work).map(Some)
}

fn random_reads(
    subject: &Subject,
    data: &Data,
    threads: u64,
    reads: u64,
    cold: bool,
) -> anyhow::Result<Option<Sample>> {
    if cold && !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let path = subject.root.join("large");
    let pages = data.size_bytes / PAGE_BYTES;
    if cold {
        drop_caches()?;
    } else {
        stream(&path, data.size_bytes, None)?;
    }
    // Opened last, as a program finds a hot file: what an open throws away is part of the path.
    let file = File::open(&path)?;
    let meter = Meter::start(subject.daemon_pid(), cold.then_some(data.root.as_path()))?;
    let read_some = |thread: u64| -> anyhow::Result<Histogram<u64>> {
        let mut latencies = latency_histogram();
        let mut buffer = [0; PAGE_BYTES as usize];
        for number in (thread..reads).step_by(threads as usize) {
            let offset = random(number) % pages * PAGE_BYTES;
            let begin = Instant::now();
            file.read_exact_at(&mut buffer, offset)?;
            latencies.record(begin.elapsed().as_nanos() as u64)?;
        }
        Ok(latencies)
    };
    let latencies = on_threads(threads, &read_some)?;
    let work = Work {
        operations: reads,
        bytes: reads * PAGE_BYTES,
        latencies: Some(latencies),
    };
    meter.stop(&work).map(Some)
}

fn on_threads(
    threads: u64,
    work: &(dyn Fn(u64) -> anyhow::Result<Histogram<u64>> + Sync),
) -> anyhow::Result<Histogram<u64>> {
    let mut all = latency_histogram();
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        for handle in handles {
            all.add(handle.join().expect("readers do not panic")?)?;
        }
        anyhow::Ok(())
    })?;
    Ok(all)
}

/// The first read of a file that is neither in memory nor in the cache.
fn first_read(subject: &Subject, data: &Data) -> anyhow::Result<Option<Sample>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    if subject.is_cached() {
        subject::evict(&subject.root)?;
    }
    drop_caches()?;
    let meter = Meter::start(subject.daemon_pid(), Some(&data.root))?;
    let bytes = stream(&subject.root.join("large"), data.size_bytes, None)?;
    let sample = meter.stop(&Work {
        operations: bytes.div_ceil(CHUNK_BYTES as u64),
        bytes,
        latencies: None,
    })?;
    if subject.is_cached() {
        data.read_everything(&subject.root)?;
    }
    Ok(Some(sample))
}

fn open_read_close(path: &Path, buffer: &mut [u8]) -> anyhow::Result<()> {
    File::open(path)?.read_exact_at(buffer, 0)?;
    Ok(())
}

fn open_close(path: &Path, _: &mut [u8]) -> anyhow::Result<()> {
    File::open(path)?;
    Ok(())
}

fn stat(path: &Path, _: &mut [u8]) -> anyhow::Result<()> {
    fs::metadata(path)?;
    Ok(())
}

fn small_files(
    subject: &Subject,
    operation: fn(&Path, &mut [u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Sample>> {
    let paths: Vec<PathBuf> = (0..SMALL_FILES)
        .map(|number| subject.root.join(small_file(number)))
        .collect();
    let mut buffer = vec![0; SMALL_FILE_BYTES];
    for path in &paths {
        operation(path, &mut buffer)?;
    }
    let mut latencies = latency_histogram();
    let meter = Meter::start(subject.daemon_pid(), None)?;
    for path in &paths {
        let begin = Instant::now();
        operation(path, &mut buffer)?;
        latencies.record(begin.elapsed().as_nanos() as u64)?;
    }
    meter
        .stop(&Work {
            operations: SMALL_FILES,
            bytes: 0,
            latencies: Some(latencies),
        })
        .map(Some)
}

fn measured_walk(subject: &Subject) -> anyhow::Result<Option<Sample>> {
    let root = subject.root.join("small");
    walk(&root)?;
    let meter = Meter::start(subject.daemon_pid(), None)?;
    let operations = walk(&root)?;
    meter
        .stop(&Work {
            operations,
            bytes: 0,
            latencies: None,
        })
        .map(Some)
}

/// Lists and looks at everything below; the number of entries seen.
fn walk(directory: &Path) -> anyhow::Result<u64> {
    let mut entries = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        entries += 1;
        if entry.metadata()?.is_dir() {
            entries += walk(&entry.path())?;
        }
    }
    Ok(entries)
}

/// The daemon's largest resident size while readers stream through a cold cache.
fn memory(subject: &Subject, data: &Data) -> anyhow::Result<Option<Sample>> {
    let Some(pid) = subject.daemon_pid() else {
        return Ok(None);
    };
    if subject.is_cached() {
        subject::evict(&subject.root)?;
    }
    let path = subject.root.join("large");
    let share = data.size_bytes / STREAMS;
    let meter = Meter::start(Some(pid), None)?;
    let file = File::open(&path)?;
    let read_share = |thread: u64| -> anyhow::Result<Histogram<u64>> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut position = 0;
        while position < share {
            let count = file.read_at(&mut buffer, thread * share + position)?;
            ensure!(count > 0, "the file ends early");
            position += count as u64;
        }
        Ok(latency_histogram())
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let largest = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut largest = resident_mib(pid)?;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                largest = largest.max(resident_mib(pid)?);
            }
            anyhow::Ok(largest)
        });
        let result = on_threads(STREAMS, &read_share);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result?;
        watcher.join().expect("the watcher does not panic")
    })?;
    let bytes = share * STREAMS;
    let mut sample = meter.stop(&Work {
        operations: bytes / CHUNK_BYTES as u64,
        bytes,
        latencies: None,
    })?;
    sample.daemon_resident_mib = Some(largest);
    if subject.is_cached() {
        data.read_everything(&subject.root)?;
    }
    Ok(Some(sample))
}
