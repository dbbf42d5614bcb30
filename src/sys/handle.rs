//! File handles: name_to_handle_at(2) and open_by_handle_at(2).

#![allow(unsafe_code)]

use super::{checked, retried};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Largest handle the kernel gives (MAX_HANDLE_SZ).
pub const HANDLE_BYTES_MAX: usize = 128;

/// What a filesystem calls one of its inodes, independent of names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHandle {
    pub kind: i32,
    pub bytes: Vec<u8>,
}

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; HANDLE_BYTES_MAX],
}

/// The handle of what a descriptor (O_PATH is enough) refers to. EOPNOTSUPP where the filesystem has
/// none, EOVERFLOW where it is longer than [`HANDLE_BYTES_MAX`].
pub fn handle_of(fd: BorrowedFd<'_>) -> io::Result<FileHandle> {
    let mut raw = RawHandle {
        handle_bytes: HANDLE_BYTES_MAX as u32,
        handle_type: 0,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    let mut mount_id = 0i32;
    checked(
        // SAFETY: `raw` has the layout of struct file_handle with as many bytes behind it as it says,
        // and both pointers are writable for the duration of the call.
        unsafe {
            libc::name_to_handle_at(
                fd.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        }
        .into(),
    )?;
    let length = (raw.handle_bytes as usize).min(HANDLE_BYTES_MAX);
    Ok(FileHandle {
        kind: raw.handle_type,
        bytes: raw.f_handle[..length].to_vec(),
    })
}

/// Opens by handle. `mount` is any descriptor on the filesystem, not an O_PATH one. ESTALE if the
/// inode is gone, EPERM without CAP_DAC_READ_SEARCH. Symbolic links want O_PATH.
pub fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle: &FileHandle,
    flags: i32,
) -> io::Result<OwnedFd> {
    if handle.bytes.len() > HANDLE_BYTES_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut raw = RawHandle {
        handle_bytes: handle.bytes.len() as u32,
        handle_type: handle.kind,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    raw.f_handle[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    let fd = retried(|| {
        // SAFETY: `raw` has the layout of struct file_handle and outlives the call.
        unsafe {
            libc::open_by_handle_at(
                mount.as_raw_fd(),
                (&raw mut raw).cast(),
                flags | libc::O_CLOEXEC,
            )
        }
        .into()
    })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
