//! An open /dev/fuse. Source: the kernel's fs/fuse/dev.c and include/uapi/linux/fuse.h.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const DEVICE_PATH: &str = "/dev/fuse";

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

nix::ioctl_read!(
    /// FUSE_DEV_IOC_CLONE.
    ioctl_clone, 229, 0, u32
);
nix::ioctl_write_ptr!(
    /// FUSE_DEV_IOC_BACKING_OPEN.
    ioctl_backing_open, 229, 1, BackingMap
);
nix::ioctl_write_ptr!(
    /// FUSE_DEV_IOC_BACKING_CLOSE.
    ioctl_backing_close, 229, 2, u32
);

/// One open /dev/fuse. The kernel keeps the requests it gave out per open, so a reply goes out by
/// the device that the request came in by. Closed when dropped; the connection ends with the last one.
#[derive(Debug)]
pub struct FuseDevice(OwnedFd);

impl FuseDevice {
    /// Opens /dev/fuse, not attached to any mount yet.
    pub fn open() -> io::Result<Self> {
        Ok(Self(open_device()?.into()))
    }

    /// A second descriptor of the same open file.
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Another open of the device on the same connection, with requests of its own (Linux 4.2).
    pub fn clone_connection(&self) -> io::Result<Self> {
        let device = open_device()?;
        let mut source = self.0.as_raw_fd() as u32;
        // SAFETY: both descriptors are open, `source` lives through the call and is only read.
        unsafe { ioctl_clone(device.as_raw_fd(), &mut source)? };
        Ok(Self(device.into()))
    }

    /// Reads one request. Blocks until there is one. ENODEV once unmounted; ENOENT, EINTR and EAGAIN
    /// mean "read again".
    pub fn read(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        nix::unistd::read(&self.0, buffer)
    }

    /// Writes one reply or notification, whole or not at all. A notification may block on page
    /// and directory locks. ENOENT when nobody waits for it any more.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> nix::Result<()> {
        nix::sys::uio::writev(&self.0, parts).map(|_| ())
    }

    /// Registers an open file for passthrough (Linux 6.9) and returns its id. EPERM without
    /// CAP_SYS_ADMIN or where passthrough was not negotiated, ELOOP where the file's filesystem is
    /// stacked too deep, EOPNOTSUPP where the file cannot be read this way.
    pub fn register_backing(&self, file: BorrowedFd<'_>) -> io::Result<u32> {
        let map = BackingMap {
            fd: file.as_raw_fd(),
            flags: 0,
            padding: 0,
        };
        // SAFETY: both descriptors are open, `map` has the kernel's layout and is only read.
        let id = unsafe { ioctl_backing_open(self.0.as_raw_fd(), &map)? };
        Ok(id as u32)
    }

    /// Gives a passthrough id back; opens that use it keep the file.
    pub fn unregister_backing(&self, id: u32) -> io::Result<()> {
        // SAFETY: the descriptor is open, `id` is only read.
        unsafe { ioctl_backing_close(self.0.as_raw_fd(), &id)? };
        Ok(())
    }

    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }
}

impl From<OwnedFd> for FuseDevice {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for FuseDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE_PATH)
}
