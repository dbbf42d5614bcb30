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

/// Has the dirty pages of a range written, and does not wait for them (sync_file_range(2)); nothing where the kernel or
/// the filesystem knows no such thing. An error may be told here alone: ext4 drops pages that it finds no block for, and
/// no later fsync(2) tells of that (fs/ext4/inode.c, `mpage_map_and_submit_extent`).
pub fn begin_sync(file: BorrowedFd<'_>, offset: u64, length_bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = i64::try_from(offset).map_err(too_large)?;
    let length = i64::try_from(length_bytes).map_err(too_large)?;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: takes numbers only; the descriptor is borrowed for the whole call.
    let begun =
        retried(|| unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) } as _);
    match begun {
        Err(error) if !is_unsupported(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ESPIPE | libc::ENOSYS | libc::EOPNOTSUPP)
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn an_error_of_sending_is_told_and_want_of_it_is_none() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(begin_sync(reader.as_fd(), 0, 1).is_ok());
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH);
        let nameless = options.open("/").unwrap();
        let told = begin_sync(nameless.as_fd(), 0, 1).unwrap_err();
        assert_eq!(told.raw_os_error(), Some(libc::EBADF));
    }
}
