//! Files the kernel reads by itself: passthrough ids of one connection.

use crate::fs::operations::{BackingId, BackingRegistry};
use crate::sys::fuse_device::FuseDevice;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

/// Registers descriptors with the kernel. Holds the connection weakly: ids outlive an unmount without
/// keeping it.
pub struct KernelRegistry {
    device: Weak<FuseDevice>,
    is_negotiated: bool,
}

impl KernelRegistry {
    pub fn new(device: &Arc<FuseDevice>, is_negotiated: bool) -> Self {
        Self {
            device: Arc::downgrade(device),
            is_negotiated,
        }
    }
}

impl BackingRegistry for KernelRegistry {
    fn register(&self, file: BorrowedFd<'_>) -> io::Result<Arc<dyn BackingId>> {
        if !self.is_negotiated {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let device = self
            .device
            .upgrade()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))?;
        let id = device.register_backing(file)?;
        Ok(Arc::new(Registered {
            device: self.device.clone(),
            id,
        }))
    }
}

struct Registered {
    device: Weak<FuseDevice>,
    id: u32,
}

impl BackingId for Registered {
    fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Without the device the connection has ended, and its registrations with it.
        if let Some(device) = self.device.upgrade()
            && let Err(error) = device.unregister_backing(self.id)
        {
            tracing::warn!(id = self.id, "giving back a passthrough id: {error}");
        }
    }
}
