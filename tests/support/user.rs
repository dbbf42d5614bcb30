//! Other users: what a program of theirs would do, on this thread.

use nfs_cachefs::sys::credentials::{as_caller, with_umask};
use nfs_cachefs::types::Credentials;
use std::io;

/// A user who is not root, in a group of their own and in [`SHARED_GROUP`].
pub const USER: u32 = 41234;
pub const OTHER_USER: u32 = 41235;
pub const SHARED_GROUP: u32 = 41300;

/// Runs `act` as a user; it must not start a thread.
pub fn as_user<T>(uid: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let user = Credentials {
        uid,
        gid: uid,
        groups: [uid, SHARED_GROUP].into(),
    };
    as_caller(&user, act)
}

/// Runs `act` under a umask.
pub fn under_umask<T>(umask: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    with_umask(umask, act)
}
