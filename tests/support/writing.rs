//! Ways to write that programs use and the standard library does not offer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub fn read_write(path: &Path) -> File {
    open_with(path, 0).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// O_RDWR with further flags of open(2).
pub fn open_with(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

/// fallocate(2).
pub fn allocate(file: &File, mode: i32, offset: u64, length_bytes: u64) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let failed = unsafe {
        libc::fallocate(
            file.as_raw_fd(),
            mode,
            offset as libc::off_t,
            length_bytes as libc::off_t,
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// copy_file_range(2); how many bytes it copied.
pub fn copy_range(
    from: &File,
    from_offset: u64,
    to: &File,
    to_offset: u64,
    length_bytes: usize,
) -> io::Result<usize> {
    let (mut from_offset, mut to_offset) = (from_offset as i64, to_offset as i64);
    // SAFETY: both offsets are ours for the time of the call.
    let copied = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &mut from_offset,
            to.as_raw_fd(),
            &mut to_offset,
            length_bytes,
            0,
        )
    };
    if copied < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(copied as usize)
}

/// A file mapped shared, for reading and writing. The file may be closed afterwards.
pub struct WritableMapping {
    address: *mut u8,
    length_bytes: usize,
}

// SAFETY: the mapping is private to this object.
unsafe impl Send for WritableMapping {}

impl WritableMapping {
    pub fn new(file: &File, length_bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            address: address.cast(),
            length_bytes,
        })
    }

    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length_bytes);
        // SAFETY: the target lies in the mapping, as asserted, and no reference into it is held.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(offset), bytes.len());
        }
    }

    pub fn load(&self, offset: usize, length_bytes: usize) -> Vec<u8> {
        assert!(offset + length_bytes <= self.length_bytes);
        let mut bytes = vec![0; length_bytes];
        // SAFETY: the source lies in the mapping, as asserted.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.address.add(offset),
                bytes.as_mut_ptr(),
                length_bytes,
            );
        }
        bytes
    }

    /// msync(2), MS_SYNC.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: address and length are those of the mapping.
        let failed = unsafe { libc::msync(self.address.cast(), self.length_bytes, libc::MS_SYNC) };
        match failed {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for WritableMapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping, and nothing refers to it any more.
        unsafe {
            libc::munmap(self.address.cast(), self.length_bytes);
        }
    }
}
