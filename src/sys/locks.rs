//! Advisory locks that belong to an open file description: fcntl(2) with F_OFD_SETLK and F_OFD_GETLK, flock(2). None of
//! these waits for another holder.

#![allow(unsafe_code)]

use super::checked;
use crate::types::{Conflict, LockKind, RangeLock};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// EAGAIN when another description's lock is in the way; EBADF when the descriptor's access does not allow the kind.
pub fn set_range(file: BorrowedFd<'_>, lock: RangeLock) -> io::Result<()> {
    let raw = raw_lock(lock)?;
    // SAFETY: `raw` outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw) };
    checked(result.into()).map(drop)
}

/// The first lock of another description that would be in the way.
pub fn conflict(file: BorrowedFd<'_>, lock: RangeLock) -> io::Result<Option<Conflict>> {
    let mut raw = raw_lock(lock)?;
    // SAFETY: `raw` is writable for the duration of the call.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut raw) }.into())?;
    let kind = match i32::from(raw.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => LockKind::Shared,
        _ => LockKind::Exclusive,
    };
    Ok(Some(Conflict {
        lock: RangeLock {
            kind,
            start: raw.l_start as u64,
            length_bytes: (raw.l_len != 0).then_some(raw.l_len as u64),
        },
        pid: u32::try_from(raw.l_pid).ok().filter(|pid| *pid > 0),
    }))
}

/// EWOULDBLOCK when another description's lock is in the way.
pub fn set_whole(file: BorrowedFd<'_>, kind: LockKind) -> io::Result<()> {
    let operation = match kind {
        LockKind::Shared => libc::LOCK_SH,
        LockKind::Exclusive => libc::LOCK_EX,
        LockKind::Unlocked => libc::LOCK_UN,
    };
    // SAFETY: no memory is involved.
    checked(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) }.into()).map(drop)
}

fn raw_lock(lock: RangeLock) -> io::Result<libc::flock> {
    let offset = |bytes: u64| {
        i64::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
    };
    let kind = match lock.kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlocked => libc::F_UNLCK,
    };
    Ok(libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: offset(lock.start)?,
        l_len: offset(lock.length_bytes.unwrap_or(0))?,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn lock(kind: LockKind, start: u64, length_bytes: Option<u64>) -> RangeLock {
        RangeLock {
            kind,
            start,
            length_bytes,
        }
    }

    #[test]
    fn two_descriptions_exclude_one_another_and_see_by_what() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("file");
        let open = || {
            let mut options = std::fs::File::options();
            options.create(true).truncate(false).read(true).write(true);
            options.open(&path).expect("opened")
        };
        let (one, other) = (open(), open());
        let held = lock(LockKind::Exclusive, 10, Some(20));
        set_range(one.as_fd(), held).expect("free");
        let wanted = lock(LockKind::Shared, 0, None);
        let refused = set_range(other.as_fd(), wanted).expect_err("taken");
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
        let found = conflict(other.as_fd(), wanted).expect("asked");
        assert_eq!(
            found.map(|found| (found.lock, found.pid)),
            Some((held, None))
        );
        assert_eq!(conflict(one.as_fd(), wanted).expect("asked"), None);
        set_whole(one.as_fd(), LockKind::Exclusive).expect("another family");
        let refused = set_whole(other.as_fd(), LockKind::Shared).expect_err("taken");
        assert_eq!(refused.raw_os_error(), Some(libc::EWOULDBLOCK));
        drop(one);
        set_range(other.as_fd(), wanted).expect("closing unlocks");
        set_whole(other.as_fd(), LockKind::Exclusive).expect("closing unlocks");
    }
}
