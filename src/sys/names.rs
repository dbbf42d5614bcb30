//! Changing names and attributes: mknodat(2), mkdirat(2), symlinkat(2), linkat(2), unlinkat(2), renameat2(2), fchmodat(2),
//! fchownat(2), utimensat(2), fsync(2), syncfs(2). Names are single components, relative to an open directory; files are
//! descriptors, for which O_PATH is enough where not said otherwise.

#![allow(unsafe_code)]

use super::{checked, path};
use crate::types::{TimeChange, Timestamp};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An id that fchownat(2) leaves as it is.
const SAME_ID: u32 = u32::MAX;

/// mknodat(2): `mode` with the kind of node, `device` as the kernel encodes it in 32 bits.
pub fn make_node(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mode: u32,
    device: u32,
) -> io::Result<()> {
    let name = path::c_string(name)?;
    let device = decoded_device(device);
    // SAFETY: `name` is zero-terminated and outlives the call.
    let result = unsafe { libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, device) };
    checked(result.into()).map(drop)
}

/// new_decode_dev in linux/kdev_t.h: 12 bits of major between 20 bits of minor.
fn decoded_device(device: u32) -> libc::dev_t {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    libc::makedev(major, minor)
}

pub fn make_directory(directory: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    let name = path::c_string(name)?;
    // SAFETY: `name` is zero-terminated and outlives the call.
    let result = unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) };
    checked(result.into()).map(drop)
}

pub fn make_symlink(directory: BorrowedFd<'_>, name: &OsStr, target: &OsStr) -> io::Result<()> {
    let name = path::c_string(name)?;
    let target = path::c_string(target)?;
    // SAFETY: both strings are zero-terminated and outlive the call.
    let result = unsafe { libc::symlinkat(target.as_ptr(), directory.as_raw_fd(), name.as_ptr()) };
    checked(result.into()).map(drop)
}

/// linkat(2) of an open file, symbolic links themselves included. Reached through /proc/self/fd, because
/// AT_EMPTY_PATH wants a capability.
pub fn link(file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let file = path::proc_path(file);
    let name = path::c_string(name)?;
    // SAFETY: both strings are zero-terminated and outlive the call.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            file.as_ptr(),
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    checked(result.into()).map(drop)
}

/// unlinkat(2) of anything but a directory.
pub fn unlink(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    unlinkat(directory, name, 0)
}

pub fn remove_directory(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    unlinkat(directory, name, libc::AT_REMOVEDIR)
}

fn unlinkat(directory: BorrowedFd<'_>, name: &OsStr, flags: i32) -> io::Result<()> {
    let name = path::c_string(name)?;
    // SAFETY: `name` is zero-terminated and outlives the call.
    let result = unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), flags) };
    checked(result.into()).map(drop)
}

/// renameat2(2) with RENAME_* flags.
pub fn rename(
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
    flags: u32,
) -> io::Result<()> {
    let (old, new) = (path::c_string(from.1)?, path::c_string(to.1)?);
    // SAFETY: both strings are zero-terminated and outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.0.as_raw_fd(),
            old.as_ptr(),
            to.0.as_raw_fd(),
            new.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// chmod(2), through /proc/self/fd: fchmod(2) refuses O_PATH descriptors. EOPNOTSUPP for a symbolic link.
pub fn set_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let file = path::proc_path(file);
    // SAFETY: `file` is zero-terminated and outlives the call.
    checked(unsafe { libc::chmod(file.as_ptr(), mode) }.into()).map(drop)
}

/// fchownat(2); `None` leaves an id as it is. A symbolic link itself changes its owner.
pub fn set_owner(file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    // SAFETY: the empty string is zero-terminated.
    let result = unsafe {
        libc::fchownat(
            file.as_raw_fd(),
            c"".as_ptr(),
            uid.unwrap_or(SAME_ID),
            gid.unwrap_or(SAME_ID),
            libc::AT_EMPTY_PATH,
        )
    };
    checked(result.into()).map(drop)
}

/// utimensat(2): access and modification time. A symbolic link itself changes its times.
pub fn set_times(file: BorrowedFd<'_>, access: TimeChange, modify: TimeChange) -> io::Result<()> {
    let times = [time_of(access), time_of(modify)];
    // SAFETY: the empty string is zero-terminated, and both times outlive the call.
    let result = unsafe {
        libc::utimensat(
            file.as_raw_fd(),
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    checked(result.into()).map(drop)
}

fn time_of(change: TimeChange) -> libc::timespec {
    let (tv_sec, tv_nsec) = match change {
        TimeChange::Keep => (0, libc::UTIME_OMIT),
        TimeChange::Now => (0, libc::UTIME_NOW),
        TimeChange::To(Timestamp {
            seconds,
            nanoseconds,
        }) => (seconds, nanoseconds.into()),
    };
    libc::timespec { tv_sec, tv_nsec }
}

/// fsync(2), of a directory too; the descriptor must not be an O_PATH one.
pub fn sync(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::fsync(file.as_raw_fd()) }.into()).map(drop)
}

/// syncfs(2) of the filesystem the file is on; the descriptor must not be an O_PATH one.
pub fn sync_filesystem(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::syncfs(file.as_raw_fd()) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::MetadataExt;

    fn located(directory: &OwnedFd, name: &str) -> OwnedFd {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        path::open_beneath(directory.as_fd(), OsStr::new(name), flags).expect("it is there")
    }

    #[test]
    fn links_are_made_and_changed_themselves_and_not_what_they_lead_to() {
        let scratch = tempfile::tempdir().expect("scratch");
        let directory = path::open_directory(scratch.path()).expect("a directory");
        let at = |name| OsStr::new(name);
        std::fs::write(scratch.path().join("file"), b"x").expect("written");
        make_symlink(directory.as_fd(), at("link"), at("file")).expect("symlink");
        let link_fd = located(&directory, "link");
        link(link_fd.as_fd(), directory.as_fd(), at("second")).expect("link");
        let facts = |name| std::fs::symlink_metadata(scratch.path().join(name)).expect("stat");
        assert_eq!(facts("second").ino(), facts("link").ino());
        let early = TimeChange::To(Timestamp {
            seconds: -7,
            nanoseconds: 123_456_789,
        });
        let before = facts("file").mtime();
        set_times(link_fd.as_fd(), TimeChange::Keep, early).expect("times");
        assert_eq!(
            (facts("link").mtime(), facts("link").mtime_nsec()),
            (-7, 123_456_789)
        );
        assert_eq!(facts("file").mtime(), before);
        let error = set_mode(link_fd.as_fd(), 0o600).expect_err("a link has no mode");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_device_number_comes_back_as_the_kernel_packs_it() {
        let (major, minor) = (0xabc, 0xd_ef12);
        let packed = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        assert_eq!(decoded_device(packed), libc::makedev(major, minor));
    }

    #[test]
    fn a_rename_may_be_told_to_replace_nothing() {
        let scratch = tempfile::tempdir().expect("scratch");
        let directory = path::open_directory(scratch.path()).expect("a directory");
        make_directory(directory.as_fd(), OsStr::new("a"), 0o700).expect("a");
        make_node(directory.as_fd(), OsStr::new("b"), libc::S_IFREG | 0o600, 0).expect("b");
        let (a, b) = (
            (directory.as_fd(), OsStr::new("a")),
            (directory.as_fd(), OsStr::new("b")),
        );
        let error = rename(a, b, libc::RENAME_NOREPLACE).expect_err("b is there");
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        rename(a, b, libc::RENAME_EXCHANGE).expect("exchanged");
        remove_directory(b.0, b.1).expect("the directory is b now");
        unlink(a.0, a.1).expect("the file is a now");
        sync(directory.as_fd()).expect("fsync");
        sync_filesystem(directory.as_fd()).expect("syncfs");
    }
}
