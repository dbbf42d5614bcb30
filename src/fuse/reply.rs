//! One reply: the right, and the duty, to answer one request on the device it came in by.

use super::encode;
use crate::fs::error::FsError;
use crate::sys::fuse_device::FuseDevice;
use std::io::IoSlice;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Answers one request, exactly once. Dropped unanswered (a handler panicked, or lost it) it answers
/// EIO, so that no program waits for ever.
pub struct Reply {
    device: Arc<FuseDevice>,
    unique: u64,
    is_answered: bool,
}

impl Reply {
    pub fn new(device: Arc<FuseDevice>, unique: u64) -> Self {
        Self {
            device,
            unique,
            is_answered: false,
        }
    }

    pub fn data(mut self, payload: &[u8]) {
        self.send(0, payload);
    }

    pub fn structure<T: IntoBytes + Immutable>(mut self, payload: &T) {
        self.send(0, payload.as_bytes());
    }

    pub fn success(mut self) {
        self.send(0, &[]);
    }

    /// `errno` is positive.
    pub fn errno(mut self, errno: i32) {
        self.send(errno, &[]);
    }

    pub fn error(self, error: &FsError) {
        tracing::trace!(unique = self.unique, %error, "request failed");
        self.errno(error.errno());
    }

    fn send(&mut self, errno: i32, payload: &[u8]) {
        self.is_answered = true;
        let header = encode::reply_header(self.unique, errno, payload.len());
        let head = IoSlice::new(header.as_bytes());
        let sent = if payload.is_empty() {
            self.device.write(&[head])
        } else {
            self.device.write(&[head, IoSlice::new(payload)])
        };
        match sent {
            // ENOENT: nobody waits for it any more; ENODEV, EPERM: the connection has ended.
            Ok(()) | Err(nix::Error::ENOENT | nix::Error::ENODEV | nix::Error::EPERM) => {}
            Err(error) => tracing::error!(
                unique = self.unique,
                payload_bytes = payload.len(),
                "the kernel refused a reply: {error}"
            ),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_answered {
            tracing::error!(unique = self.unique, "a request was dropped; answering EIO");
            self.send(libc::EIO, &[]);
        }
    }
}
