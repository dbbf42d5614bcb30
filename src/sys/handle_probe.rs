//! name_to_handle_at(2), only far enough to know whether it works.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for the largest handle the kernel gives out (MAX_HANDLE_SZ).
#[repr(C)]
struct HandleBuffer {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    handle: [u8; 128],
}

/// The length in bytes of the handle of this directory. EOPNOTSUPP where the filesystem has none. Blocks
/// on the filesystem.
pub fn handle_length_bytes(directory: BorrowedFd<'_>) -> io::Result<usize> {
    let mut buffer = HandleBuffer {
        handle_bytes: 128,
        handle_type: 0,
        handle: [0; 128],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the buffer has the layout of struct file_handle followed by the 128 bytes it announces;
    // the path is a constant C string; both out pointers live through the call.
    let result = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            c"".as_ptr(),
            std::ptr::from_mut(&mut buffer).cast::<libc::file_handle>(),
            &mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(buffer.handle_bytes as usize)
}
