//! Tells the kernel what to forget. On a thread of its own that serves nothing: a notification waits
//! for page and directory locks, which are held by requests that wait for us.

use super::encode::{self, NodePart};
use crate::events::{Invalidation, Notice};
use crate::sys::fuse_device::FuseDevice;
use crossbeam_channel::{Receiver, select};
use std::io::IoSlice;

/// Writes notifications until the connection ends, `stop` is closed, or nobody can queue any more.
pub fn run(device: &FuseDevice, queue: &Receiver<Notice>, stop: &Receiver<()>) {
    loop {
        let Notice { invalidation, then } = select! {
            recv(queue) -> received => match received {
                Ok(notice) => notice,
                Err(_) => return,
            },
            recv(stop) -> _ => return,
        };
        let bytes = encoded(&invalidation);
        match device.write(&[IoSlice::new(&bytes)]) {
            // ENOENT: the kernel does not know the node or the name, so there is nothing to forget.
            // ENOTDIR: the parent's number is in use for a file by now.
            Ok(()) | Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            Err(nix::Error::ENODEV | nix::Error::ENOTCONN | nix::Error::EPERM) => return,
            Err(error) => tracing::warn!("the kernel did not forget {invalidation:?}: {error}"),
        }
        if let Some(then) = then {
            then();
        }
    }
}

fn encoded(invalidation: &Invalidation) -> Vec<u8> {
    match invalidation {
        Invalidation::Node(node) => encode::invalidate_node(*node, NodePart::AttributesAndPages),
        Invalidation::Range(node, range) => encode::invalidate_node(*node, NodePart::Pages(*range)),
        Invalidation::Attributes(node) => encode::invalidate_node(*node, NodePart::AttributesOnly),
        Invalidation::Entry { parent, name } => encode::invalidate_entry(*parent, name),
    }
}
