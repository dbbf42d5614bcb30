//! Write leases (fcntl(2), F_SETLEASE with F_WRLCK): while one is held nobody else has the file open or mapped, and who
//! wants to open or truncate it waits until it is given back. SIGIO tells the holder of that.

#![allow(unsafe_code)]

use super::checked;
use crate::types::Timestamp;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes the lease. EAGAIN where somebody else has the file open; other errors where leases are not to be had.
pub fn take(file: BorrowedFd<'_>) -> io::Result<()> {
    own(file)?;
    set(file, libc::F_WRLCK)
}

/// Has SIGIO sent to the process. F_SETLEASE by itself has it sent to the thread that calls it, and to nobody once that has
/// ended: who wants to open the file would wait until the kernel breaks the lease (45 s; lease_setup in fs/locks.c).
fn own(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETOWN takes an integer and touches no memory of ours.
    let failed = unsafe {
        let process = libc::getpid();
        libc::fcntl(file.as_raw_fd(), libc::F_SETOWN, process)
    };
    checked(failed.into()).map(drop)
}

/// Gives the lease back, if it is held.
pub fn give_back(file: BorrowedFd<'_>) {
    // Not held any more, there is nothing to give back.
    let _ = set(file, libc::F_UNLCK);
}

/// Held since it was taken, and nobody waits for it.
pub fn is_held(file: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GETLEASE takes no argument and touches no memory of ours.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_WRLCK }
}

fn set(file: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }.into()).map(drop)
}

/// The clock that local filesystems take their timestamps from: it moves in steps, and what changes now gets a time that
/// is not earlier.
pub fn timestamp_clock() -> io::Result<Timestamp> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the result points to a struct of the right size.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, time.as_mut_ptr()) };
    checked(failed.into())?;
    // SAFETY: the call succeeded in filling it.
    let time = unsafe { time.assume_init() };
    Ok(Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec as u32,
    })
}
