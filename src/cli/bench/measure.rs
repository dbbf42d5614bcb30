//! One path, measured.

use super::folder::fail_if_interrupted;
use crate::io::{Buffer, BufferPool};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

pub const MIB: usize = 1 << 20;
const SMALL_BYTES: usize = 4096;
const SMALL_READS: u64 = 500;
const OPENS: usize = 200;
/// No step takes longer.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// Bytes or calls, and the time they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    pub bytes: u64,
    pub calls: u64,
    pub seconds: f64,
}

impl Measured {
    pub fn mib_per_second(&self) -> f64 {
        self.bytes as f64 / MIB as f64 / self.seconds.max(1e-9)
    }

    pub fn us_per_call(&self) -> f64 {
        self.seconds * 1e6 / self.calls.max(1) as f64
    }
}

fn measured(began: Instant, bytes: u64, calls: u64) -> Measured {
    Measured {
        bytes,
        calls,
        seconds: began.elapsed().as_secs_f64(),
    }
}

/// O_DIRECT takes no other.
fn aligned(length_bytes: usize) -> io::Result<Buffer> {
    let pool = BufferPool::new(1, length_bytes, false)?;
    Ok(pool.try_take().expect("nobody else takes from it"))
}

/// Without the pages that the kernel has of it, where it can do without.
pub fn open_uncached(path: &Path) -> io::Result<File> {
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = File::open(path)?;
            forget_pages(&file)?;
            Ok(file)
        }
        opened => opened,
    }
}

pub fn forget_pages(file: &File) -> io::Result<()> {
    Ok(posix_fadvise(
        file,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

/// From the front, as much as there is time for.
pub fn read_through(file: &File, size_bytes: u64) -> io::Result<Measured> {
    let mut buffer = aligned(MIB)?;
    let began = Instant::now();
    let mut offset = 0;
    while offset < size_bytes && began.elapsed() < STEP_LIMIT {
        fail_if_interrupted()?;
        match file.read_at(&mut buffer[..MIB], offset)? {
            0 => break,
            length => offset += length as u64,
        }
    }
    Ok(measured(began, offset, 0))
}

/// 4 KiB here and there, one after the other.
pub fn read_scattered(file: &File, size_bytes: u64) -> io::Result<Measured> {
    let mut buffer = aligned(SMALL_BYTES)?;
    let blocks = (size_bytes / SMALL_BYTES as u64).max(1);
    let began = Instant::now();
    let mut calls = 0;
    while calls < SMALL_READS && began.elapsed() < STEP_LIMIT {
        fail_if_interrupted()?;
        // An odd factor: no block comes twice before all have come.
        let block = calls.wrapping_mul(0x9e37_79b9) % blocks;
        file.read_at(&mut buffer[..SMALL_BYTES], block * SMALL_BYTES as u64)?;
        calls += 1;
    }
    Ok(measured(began, calls * SMALL_BYTES as u64, calls))
}

/// Opens, reads and closes files.
pub fn open_each(paths: &[std::path::PathBuf]) -> io::Result<Measured> {
    let mut buffer = [0; SMALL_BYTES];
    let began = Instant::now();
    let mut calls = 0;
    for path in paths.iter().cycle().take(OPENS) {
        if began.elapsed() >= STEP_LIMIT {
            break;
        }
        fail_if_interrupted()?;
        File::open(path)?.read_at(&mut buffer, 0)?;
        calls += 1;
    }
    Ok(measured(began, 0, calls))
}

/// Writes up to `size_bytes`, and makes it durable; the file is as large as there was time for.
pub fn write_through(file: &File, size_bytes: u64) -> io::Result<Measured> {
    let mut buffer = aligned(MIB)?;
    let began = Instant::now();
    let mut offset = 0;
    while offset < size_bytes && began.elapsed() < STEP_LIMIT {
        fail_if_interrupted()?;
        fill(&mut buffer[..MIB], offset);
        file.write_all_at(&buffer[..MIB], offset)?;
        offset += MIB as u64;
    }
    file.sync_all()?;
    Ok(measured(began, offset, 0))
}

/// Small writes, each made durable.
pub fn write_durably(file: &File) -> io::Result<Measured> {
    let data = [0x5a; SMALL_BYTES];
    let began = Instant::now();
    let mut calls = 0;
    while calls < SMALL_READS / 5 && began.elapsed() < STEP_LIMIT {
        fail_if_interrupted()?;
        file.write_all_at(&data, calls * SMALL_BYTES as u64)?;
        file.sync_data()?;
        calls += 1;
    }
    Ok(measured(began, calls * SMALL_BYTES as u64, calls))
}

/// Nothing that a disk or a server could store in less.
fn fill(bytes: &mut [u8], offset: u64) {
    let mut state = offset | 1;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}
