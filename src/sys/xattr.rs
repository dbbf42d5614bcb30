//! Extended attributes of what a descriptor refers to. fgetxattr(2) refuses O_PATH descriptors, so the inode is
//! reached through /proc/self/fd, which works for symbolic links too.

#![allow(unsafe_code)]

use super::{checked, path, retried};
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Enough for nearly all values and lists; tried first.
const USUAL_BYTES: usize = 1024;
/// The kernel's bound for a value and for a list (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const BYTES_MAX: usize = 65536;

/// The attribute names, each followed by a zero byte. EOPNOTSUPP where there are none to have.
pub fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let path = path::proc_path(fd);
    with_room(|buffer| {
        // SAFETY: `path` is zero-terminated, the buffer writable for the length given.
        unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// The same by its path, of a symbolic link itself.
pub fn list_by_path(path: &Path) -> io::Result<Vec<u8>> {
    let path = path::c_string(path.as_os_str())?;
    with_room(|buffer| {
        // SAFETY: `path` is zero-terminated, the buffer writable for the length given.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// The value of one attribute; ENODATA if it is not there.
pub fn get(fd: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<u8>> {
    let path = path::proc_path(fd);
    let name = path::c_string(name)?;
    with_room(|buffer| {
        // SAFETY: both strings are zero-terminated, the buffer writable for the length given.
        unsafe {
            libc::getxattr(
                path.as_ptr(),
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        }
    })
}

/// The same by its path, of a symbolic link itself.
pub fn get_by_path(path: &Path, name: &OsStr) -> io::Result<Vec<u8>> {
    let path = path::c_string(path.as_os_str())?;
    let name = path::c_string(name)?;
    with_room(|buffer| {
        // SAFETY: both strings are zero-terminated, the buffer writable for the length given.
        unsafe {
            libc::lgetxattr(
                path.as_ptr(),
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        }
    })
}

/// setxattr(2) with XATTR_* flags.
pub fn set(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
    let path = path::proc_path(fd);
    let name = path::c_string(name)?;
    // SAFETY: both strings are zero-terminated, the value readable for the length given.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    };
    checked(result.into()).map(drop)
}

/// ENODATA if there is no such attribute.
pub fn remove(fd: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let path = path::proc_path(fd);
    let name = path::c_string(name)?;
    // SAFETY: both strings are zero-terminated.
    checked(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }.into()).map(drop)
}

fn with_room(mut call: impl FnMut(&mut [u8]) -> libc::ssize_t) -> io::Result<Vec<u8>> {
    for room_bytes in [USUAL_BYTES, BYTES_MAX] {
        let mut value = vec![0u8; room_bytes];
        match retried(|| call(&mut value) as libc::c_long) {
            Ok(length) => {
                value.truncate(length as usize);
                return Ok(value);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => continue,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::E2BIG))
}
