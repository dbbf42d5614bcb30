//! Readers that check every byte they get.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::content::{BLOCK_BYTES, Piece, identify, mix};

const READ_BYTES: usize = 256 << 10;

/// Reads until the buffer is full or the file ends.
pub fn read_piece(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// The version of a piece; a mix or foreign bytes are an error that says where.
pub fn version_of(buffer: &[u8], seed: u64, offset: u64) -> anyhow::Result<u64> {
    match identify(buffer, seed, offset) {
        Piece::Version(version) => Ok(version),
        Piece::Mixed {
            first,
            other,
            offset,
        } => bail!("MIXED: versions {first} and {other}, the second at {offset}"),
        Piece::Foreign { offset } => bail!("FOREIGN bytes in the block at {offset}"),
    }
}

/// The version of a whole file; an error when it is a mix, holds foreign bytes or has another size.
pub fn verify(path: &Path, seed: u64, size_bytes: Option<u64>) -> anyhow::Result<u64> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    let mut found = None;
    loop {
        let count = read_piece(&file, &mut buffer, offset)
            .with_context(|| format!("reading {}", path.display()))?;
        if count == 0 {
            break;
        }
        let version = version_of(&buffer[..count], seed, offset)?;
        let first = *found.get_or_insert(version);
        ensure!(
            first == version,
            "MIXED: versions {first} and {version}, the second at {offset}"
        );
        offset += count as u64;
    }
    ensure!(
        size_bytes.is_none_or(|size| size == offset),
        "{offset} bytes instead of {}",
        size_bytes.unwrap_or(0)
    );
    Ok(found.unwrap_or(0))
}

/// Reads `reads` random block-aligned pieces on `threads` threads; all must be of one version.
pub fn random(
    path: &Path,
    seed: u64,
    reads: u64,
    threads: u64,
    length_bytes: u64,
) -> anyhow::Result<()> {
    let size_bytes = path
        .metadata()
        .with_context(|| format!("looking at {}", path.display()))?
        .len();
    ensure!(
        size_bytes >= length_bytes,
        "the file is smaller than a piece"
    );
    let positions = (size_bytes - length_bytes) / BLOCK_BYTES + 1;
    let read_some = |thread: u64| -> anyhow::Result<Option<u64>> {
        let file = File::open(path)?;
        let mut buffer = vec![0; length_bytes as usize];
        let mut found = None;
        for number in (thread..reads).step_by(threads as usize) {
            let offset = mix(seed ^ mix(number)) % positions * BLOCK_BYTES;
            let count = read_piece(&file, &mut buffer, offset)?;
            ensure!(
                count == buffer.len(),
                "{count} bytes instead of {length_bytes} at {offset}"
            );
            let version = version_of(&buffer, seed, offset)?;
            let first = *found.get_or_insert(version);
            ensure!(
                first == version,
                "MIXED: versions {first} and {version}, the second at {offset}"
            );
        }
        Ok(found)
    };
    let versions = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || read_some(thread)))
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| bail!("a reader panicked")))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut versions: Vec<u64> = versions.into_iter().flatten().collect();
    versions.dedup();
    ensure!(
        versions.len() <= 1,
        "MIXED: readers saw versions {versions:?}"
    );
    Ok(())
}

/// Maps a file, closes it, runs a shell command, then checks every mapped byte. The version mapped.
pub fn mapped(path: &Path, seed: u64, between: Option<&str>) -> anyhow::Result<u64> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata()?.len() as usize;
    ensure!(length > 0, "nothing to map");
    // SAFETY: a fresh mapping chosen by the kernel; it is only read, and the test owns the file, which
    // nobody truncates while this runs.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    ensure!(
        address != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    drop(file);
    if let Some(command) = between {
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(command)
            .status()?;
        ensure!(status.success(), "{command}: {status}");
    }
    // SAFETY: `address` is the start of `length` mapped readable bytes, unmapped only below.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) };
    let result = version_of(bytes, seed, 0);
    // SAFETY: the mapping made above; `bytes` is not used after this.
    unsafe { libc::munmap(address, length) };
    result
}

/// Reads pieces for a while and prints the slowest; an error when that is over the limit.
pub fn probe(
    path: &Path,
    seed: u64,
    duration: Duration,
    limit: Duration,
    reopen: bool,
) -> anyhow::Result<()> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let blocks = (file.metadata()?.len() / BLOCK_BYTES).max(1);
    let mut buffer = vec![0; BLOCK_BYTES as usize];
    let begin = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut reads = 0u64;
    while begin.elapsed() < duration {
        let offset = mix(reads) % blocks * BLOCK_BYTES;
        let start = Instant::now();
        if reopen {
            file = File::open(path)?;
        }
        let count = read_piece(&file, &mut buffer, offset)?;
        slowest = slowest.max(start.elapsed());
        version_of(&buffer[..count], seed, offset)?;
        reads += 1;
        // Leaves the processor to others; the reads are samples, not a load.
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{reads} reads, slowest {} ms", slowest.as_millis());
    ensure!(
        slowest <= limit,
        "a read took {} ms, limit {} ms",
        slowest.as_millis(),
        limit.as_millis()
    );
    Ok(())
}
