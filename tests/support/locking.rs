//! Locks on ranges: fcntl(2).

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;

/// Whom a lock belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Process,
    /// The open file description (F_OFD_SETLK).
    Description,
}

fn raw(kind: i32, (start, length): (i64, i64)) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn set(file: &File, owner: Owner, waits: bool, lock: &libc::flock) -> io::Result<()> {
    let argument = match (owner, waits) {
        (Owner::Process, false) => FcntlArg::F_SETLK(lock),
        (Owner::Process, true) => FcntlArg::F_SETLKW(lock),
        (Owner::Description, false) => FcntlArg::F_OFD_SETLK(lock),
        (Owner::Description, true) => FcntlArg::F_OFD_SETLKW(lock),
    };
    Ok(fcntl(file, argument).map(drop)?)
}

/// An exclusive lock on `range`: start and length, which is 0 for "to the end".
pub fn lock_range(file: &File, owner: Owner, waits: bool, range: (i64, i64)) -> io::Result<()> {
    set(file, owner, waits, &raw(libc::F_WRLCK, range))
}

pub fn share_range(file: &File, owner: Owner, range: (i64, i64)) -> io::Result<()> {
    set(file, owner, false, &raw(libc::F_RDLCK, range))
}

pub fn unlock_range(file: &File, owner: Owner, range: (i64, i64)) -> io::Result<()> {
    set(file, owner, false, &raw(libc::F_UNLCK, range))
}

/// Kind, start, length and process of the lock in the way of an exclusive one on `range`.
pub fn lock_in_the_way(
    file: &File,
    owner: Owner,
    range: (i64, i64),
) -> Option<(i32, i64, i64, i32)> {
    let mut lock = raw(libc::F_WRLCK, range);
    let argument = match owner {
        Owner::Process => FcntlArg::F_GETLK(&mut lock),
        Owner::Description => FcntlArg::F_OFD_GETLK(&mut lock),
    };
    fcntl(file, argument).expect("F_GETLK");
    let kind = i32::from(lock.l_type);
    (kind != libc::F_UNLCK).then_some((kind, lock.l_start, lock.l_len, lock.l_pid))
}
