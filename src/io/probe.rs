//! What the filesystem of a cache disk can do, tried for real.

use super::engine::Engine;
use super::local_file::reopen_direct;
use super::requests::ReadRequest;
use super::{ALIGNMENT_BYTES, Buffer, BufferPool, is_no_room};
use crate::sys::disk;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one cache disk can do; the details are sentences for the operator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DiskReport {
    pub direct_io: bool,
    pub direct_io_detail: String,
    pub holes: bool,
    pub holes_detail: String,
    /// Whether O_DIRECT reads are polled for; false where that was not asked for.
    pub polled_reads: bool,
}

const PROBE_BYTES: usize = 1024 * 1024;

/// Blocks on the disk. Leaves nothing behind.
pub(super) fn probe_disk(root: BorrowedFd<'_>, engine: &Engine) -> io::Result<DiskReport> {
    let file = match nameless_file(root) {
        Ok(file) => file,
        Err(error) if is_no_room(&error) => return Ok(untried()),
        Err(error) => return Err(error),
    };
    let (holes, holes_detail) = match try_holes(&file) {
        Ok(()) => (true, "sparse files and punched holes work".to_owned()),
        Err(reason) => (false, reason),
    };
    let direct = try_direct(&file);
    if direct.as_ref().is_err_and(is_no_room) {
        return Ok(untried());
    }
    let direct_io_detail = match &direct {
        Ok(_) => "O_DIRECT reads and writes work".to_owned(),
        Err(error) => format!("O_DIRECT is refused ({error}): the page cache is used instead"),
    };
    let polled_reads = match &direct {
        Ok(direct) if engine.has_polled_reads() => try_polling(direct, engine),
        _ => false,
    };
    Ok(DiskReport {
        direct_io: direct.is_ok(),
        direct_io_detail,
        holes,
        holes_detail,
        polled_reads,
    })
}

/// A full disk cannot be tried: it is taken for a usual one, and each file falls back to the page cache by itself.
fn untried() -> DiskReport {
    let detail = || "not tried: the disk is full".to_owned();
    DiskReport {
        direct_io: true,
        direct_io_detail: detail(),
        holes: true,
        holes_detail: detail(),
        polled_reads: false,
    }
}

/// A file whose name is removed before it is used.
fn nameless_file(root: BorrowedFd<'_>) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".probe-{}-{number}", std::process::id());
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    // Left by a process that was killed right here and had our number.
    let _ = unlinkat(root, name.as_str(), UnlinkatFlags::NoRemoveDir);
    let file = File::from(openat(root, name.as_str(), flags, private)?);
    unlinkat(root, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
    Ok(file)
}

fn try_holes(file: &File) -> Result<(), String> {
    let allocated = || -> io::Result<u64> { Ok(disk::statx(file.as_fd())?.stx_blocks * 512) };
    let attempt = || -> io::Result<Result<(), String>> {
        file.set_len(4 * PROBE_BYTES as u64)?;
        file.write_all_at(&[1; ALIGNMENT_BYTES as usize], 2 * PROBE_BYTES as u64)?;
        file.sync_data()?;
        let sparse_bytes = allocated()?;
        if sparse_bytes >= 2 * PROBE_BYTES as u64 {
            return Ok(Err(
                "files cannot be sparse here: each takes its full size at once".to_owned(),
            ));
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, flags, 2 * PROBE_BYTES as i64, ALIGNMENT_BYTES as i64)?;
        let mut punched = [1; ALIGNMENT_BYTES as usize];
        file.read_exact_at(&mut punched, 2 * PROBE_BYTES as u64)?;
        if punched.iter().any(|byte| *byte != 0) {
            return Ok(Err("a punched hole still reads as data".to_owned()));
        }
        Ok(Ok(()))
    };
    attempt().unwrap_or_else(|error| Err(format!("holes cannot be made here: {error}")))
}

fn try_direct(file: &File) -> io::Result<Arc<File>> {
    let direct = reopen_direct(file, true)?;
    let pool = BufferPool::new(1, ALIGNMENT_BYTES as usize, false)?;
    let mut block: Buffer = pool.try_take().ok_or(io::ErrorKind::OutOfMemory)?;
    block.fill(0x5a);
    direct.write_all_at(&block, 0)?;
    block.fill(0);
    direct.read_exact_at(&mut block, 0)?;
    if block.iter().any(|byte| *byte != 0x5a) {
        return Err(io::Error::other("the bytes written are not those read"));
    }
    Ok(Arc::new(direct))
}

/// One polled read; a driver without polling queues answers it with EOPNOTSUPP.
fn try_polling(direct: &Arc<File>, engine: &Engine) -> bool {
    let length_bytes = ALIGNMENT_BYTES as usize;
    let buffer = engine.take_buffer(length_bytes);
    if !buffer.is_aligned() {
        engine.report_polling(false, "no read buffer was free to try it".to_owned());
        return false;
    }
    let (report, outcome) = crossbeam_channel::bounded(1);
    let request = ReadRequest {
        // The O_DIRECT descriptor in the place of the other: nothing shall be redone through the page cache.
        buffered: direct.clone(),
        direct: None,
        offset: 0,
        length_bytes,
        moved_bytes: 0,
        buffer,
        done: Box::new(move |result, _buffer| {
            let _ = report.send(result);
        }),
    };
    engine.read_polled(request);
    let outcome = outcome
        .recv_timeout(Duration::from_secs(5))
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match outcome {
        Ok(_) => {
            engine.report_polling(true, "O_DIRECT reads are polled for".to_owned());
            true
        }
        Err(error) => {
            engine.report_polling(
                false,
                format!("the disk's driver has no polling queues ({error})"),
            );
            false
        }
    }
}
