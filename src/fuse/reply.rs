//! One reply: the right, and the duty, to answer one request on the device it came in by.

use super::encode;
use crate::fs::error::FsError;
use crate::sys::fuse_device::FuseDevice;
use crate::watch::{Outcome, Watch};
use std::io::IoSlice;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Answers one request, exactly once. Dropped unanswered (a handler panicked, or lost it) it answers
/// EIO, so that no program waits for ever.
pub struct Reply {
    device: Arc<FuseDevice>,
    unique: u64,
    is_answered: bool,
    watch: Option<Arc<Watch>>,
    outcome: Outcome,
}

impl Reply {
    pub fn new(device: Arc<FuseDevice>, unique: u64) -> Self {
        Self {
            device,
            unique,
            is_answered: false,
            watch: None,
            outcome: Outcome::default(),
        }
    }

    /// Tells `watch`, which knows of the request, how it ends.
    pub fn watched_by(mut self, watch: Arc<Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// So much data was moved.
    pub fn having_moved(mut self, moved_bytes: usize) -> Self {
        self.outcome.moved_bytes = moved_bytes as u64;
        self
    }

    /// A program will be told this errno of a reply that is none.
    pub fn meaning(mut self, errno: i32) -> Self {
        self.outcome.errno = errno;
        self
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
        tracing::trace!(request = self.unique, %error, "request failed");
        self.errno(error.errno());
    }

    /// Before the program goes on: what it does next is told after this.
    fn tell(&mut self, errno: i32) {
        if let Some(watch) = self.watch.take() {
            let outcome = match errno {
                0 => self.outcome,
                errno => Outcome {
                    errno,
                    moved_bytes: 0,
                },
            };
            watch.end(self.unique, outcome);
        }
    }

    fn send(&mut self, errno: i32, payload: &[u8]) {
        self.is_answered = true;
        self.tell(errno);
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
                request = self.unique,
                payload_bytes = payload.len(),
                "the kernel refused a reply: {error}"
            ),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_answered {
            tracing::error!(
                request = self.unique,
                "a request was dropped; answering EIO"
            );
            self.send(libc::EIO, &[]);
        }
    }
}
