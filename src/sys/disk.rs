//! Files and directories of the cache disk.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// cachestat(2), the same number on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;
/// The unit of the page cache's counts.
const PAGE_BYTES: u64 = 4096;

/// preadv2(2) with RWF_NOWAIT: `None` when the call would have to wait, or when the filesystem cannot
/// tell. Short where the bytes in memory end.
pub fn read_nowait(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<Option<usize>> {
    let vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the one vector covers `buffer`, which is borrowed mutably for the whole call.
    let moved = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &vector,
            1,
            offset as libc::off_t,
            libc::RWF_NOWAIT,
        )
    };
    if moved >= 0 {
        return Ok(Some(moved as usize));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

/// Whether all pages of a range are in the page cache, by cachestat(2); `None` where the kernel (before 6.5) or the
/// filesystem cannot tell. Never blocks and never starts a read.
pub fn is_cached(file: BorrowedFd<'_>, offset: u64, length_bytes: usize) -> Option<bool> {
    if length_bytes == 0 {
        return Some(true);
    }
    let range = [offset, length_bytes as u64];
    // struct cachestat: pages cached, dirty, under writeback, evicted, recently evicted.
    let mut counts = [0u64; 5];
    // SAFETY: cachestat reads a struct of two u64 and fills one of five.
    let failed = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            counts.as_mut_ptr(),
            0u32,
        )
    };
    let last = offset.saturating_add(length_bytes as u64 - 1);
    let pages = last / PAGE_BYTES - offset / PAGE_BYTES + 1;
    (failed == 0).then_some(counts[0] >= pages)
}

/// statx(2) of an open file, basic fields and the time of birth: zeros where the filesystem tells none.
pub fn statx(file: BorrowedFd<'_>) -> io::Result<libc::statx> {
    let mut facts = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, the result points to a struct of the right size.
    let failed = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            facts.as_mut_ptr(),
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid statx, and the call succeeded in filling it.
    Ok(unsafe { facts.assume_init() })
}

/// Takes a write lease (fcntl(2) F_SETLEASE, F_WRLCK) and gives it back at once. Granted means that no
/// other descriptor of the file is open or mapped, by anybody. EAGAIN when there is one.
pub fn try_write_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    Ok(())
}

/// Takes a read lease (F_RDLCK) on a descriptor open for reading only and gives it back at once. Granted means that
/// nobody has the file open or mapped for writing. EAGAIN when somebody has; other errors where leases are not to be had.
pub fn try_read_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    Ok(())
}

/// Makes the process ignore SIGIO if nothing else was chosen for it: somebody opening a file in the
/// instant we hold its lease would otherwise kill us.
pub fn ignore_lease_signal() {
    // SAFETY: reads, then writes, the disposition of one signal; SIG_IGN runs no code of ours.
    unsafe {
        let mut current = MaybeUninit::<libc::sigaction>::zeroed();
        let known = libc::sigaction(libc::SIGIO, std::ptr::null(), current.as_mut_ptr()) == 0;
        if known && current.assume_init().sa_sigaction == libc::SIG_DFL {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
        }
    }
}

/// Reads the directory from its current position and gives every name but "." and ".." to `each` until that
/// returns false. Source: getdents64(2).
pub fn list_names(
    directory: BorrowedFd<'_>,
    each: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    const NAME_OFFSET: usize = 19;
    let mut records = vec![0u8; 32 * 1024];
    loop {
        // SAFETY: the kernel writes at most the given length into memory that we own.
        let filled = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                records.as_mut_ptr(),
                records.len(),
            )
        };
        if filled < 0 {
            return Err(io::Error::last_os_error());
        }
        if filled == 0 {
            return Ok(());
        }
        let mut rest = &records[..filled as usize];
        while rest.len() > NAME_OFFSET {
            let record_bytes = u16::from_ne_bytes([rest[16], rest[17]]) as usize;
            let (record, after) = rest.split_at(record_bytes.clamp(NAME_OFFSET, rest.len()));
            rest = after;
            let name = CStr::from_bytes_until_nul(&record[NAME_OFFSET..])
                .map(CStr::to_bytes)
                .unwrap_or_default();
            if !matches!(name, b"" | b"." | b"..") && !each(name) {
                return Ok(());
            }
        }
    }
}
