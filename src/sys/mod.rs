//! Safe wrappers of system calls, one file per family, under names close to the calls' own. Nothing here
//! knows what the daemon does; every function returns the kernel's errno as `io::Error` and
//! blocks exactly as long as the call it wraps.
//!
//! - `path`: openat2 beneath a directory, reopening a descriptor, readlink
//! - `handle`: name_to_handle_at and open_by_handle_at
//! - `stat`: statx and statfs
//! - `dirents`: getdents64
//! - `xattr`: extended attributes of a descriptor, O_PATH ones included
//! - `credentials`: acting for files as another user, umask
//! - `locks`: advisory locks
//! - `names`: making, linking, renaming and removing names, changing attributes
//! - `mountinfo`: the mounts of this process
//! - `lease`: write leases that are held for a while, and the clock of timestamps
//! - `disk`: preadv2, statx, leases, raw directory reading
//! - `pipe`: pipes of a chosen size
//! - `write`: pwritev2 with its flags
//! - `wakeup`: eventfd
//! - `affinity`: which processors a thread may run on
//! - `process`: fork into the background, signals, leaving without destructors, waiting for another
//!   process
//! - `handle_probe`: whether a directory's filesystem gives out file handles
//! - `fusermount`: the helper that mounts for ordinary users
//! - `linear_map`: bytes mapped by vector instructions, which are no system call, but as unsafe
//! - `fuse_device`: an open /dev/fuse: requests in, replies out, clones, passthrough registration

pub mod affinity;
pub mod credentials;
pub mod dirents;
pub mod disk;
pub mod fuse_device;
pub mod fusermount;
pub mod handle;
pub mod handle_probe;
pub mod lease;
pub mod linear_map;
pub mod locks;
pub mod mountinfo;
pub mod names;
pub mod path;
pub mod pipe;
pub mod process;
pub mod stat;
pub mod wakeup;
pub mod write;
pub mod xattr;

use nix::unistd::{SysconfVar, sysconf};
use std::io;
use std::sync::LazyLock;

/// What the machine's page size is where it does not tell.
const PAGE_BYTES_USUAL: u64 = 4096;

/// The machine's page size (sysconf(3)).
pub fn page_bytes() -> u64 {
    static PAGE_BYTES: LazyLock<u64> = LazyLock::new(|| {
        let told = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        told.map_or(PAGE_BYTES_USUAL, |bytes| bytes as u64)
    });
    *PAGE_BYTES
}

/// The result of a system call that answers -1 on error.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Repeats a call for as long as a signal interrupts it.
fn retried(mut call: impl FnMut() -> libc::c_long) -> io::Result<libc::c_long> {
    loop {
        match checked(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}
