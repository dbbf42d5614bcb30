//! Writing with per-call flags, pwritev2(2), and sending what was written, sync_file_range(2).

#![allow(unsafe_code)]

use super::retried;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The offset that stands for the descriptor's own, which moves along.
const OWN_OFFSET: libc::off_t = -1;

/// What has happened when a write returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The kernel has the bytes.
    Accepted,
    /// They and what it takes to read them are on stable storage (O_DSYNC).
    Data,
    /// All attributes, too (O_SYNC).
    Everything,
}

impl Durability {
    fn flag(self) -> libc::c_int {
        match self {
            Self::Accepted => 0,
            Self::Data => libc::RWF_DSYNC,
            Self::Everything => libc::RWF_SYNC,
        }
    }
}

/// Writes at an offset; may be short.
pub fn write_at(
    file: BorrowedFd<'_>,
    data: &[u8],
    offset: u64,
    durability: Durability,
) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    pwritev2(file, data, offset, durability.flag())
}

/// Writes at the end of the file, wherever that is by now, and moves the descriptor's own offset behind the bytes
/// written; may be short.
pub fn append(file: BorrowedFd<'_>, data: &[u8], durability: Durability) -> io::Result<usize> {
    let flags = durability.flag() | libc::RWF_APPEND;
    pwritev2(file, data, OWN_OFFSET, flags)
}

/// Has the dirty pages of a range written, and does not wait for them (sync_file_range(2)).
pub fn begin_sync(file: BorrowedFd<'_>, offset: u64, length_bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = i64::try_from(offset).map_err(too_large)?;
    let length = i64::try_from(length_bytes).map_err(too_large)?;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: takes numbers only; the descriptor is borrowed for the whole call.
    retried(|| unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) } as _)?;
    Ok(())
}

fn pwritev2(
    file: BorrowedFd<'_>,
    data: &[u8],
    offset: libc::off_t,
    flags: libc::c_int,
) -> io::Result<usize> {
    let vector = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: the one vector covers `data`, which is borrowed for the whole call and only read.
    let written =
        retried(|| unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, offset, flags) } as _)?;
    Ok(written as usize)
}
