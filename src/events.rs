//! What the file semantics want the kernel to forget. `fs` puts these into a queue, `fuse` drains it
//! from threads that serve nothing and hold no lock: a notification about pages or names waits for page and
//! directory locks that a request of ours may hold. One about attributes waits for nothing, and goes a way of its
//! own past those.

use crate::types::{ByteRange, NodeId};
use crossbeam_channel::{Receiver, Sender};
use std::ffi::OsString;

/// One thing for the kernel to drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Attributes and all cached pages of a node (FUSE_NOTIFY_INVAL_INODE, offset 0, length 0).
    Node(NodeId),
    /// The cached pages of a range, not empty.
    Range(NodeId, ByteRange),
    /// Attributes only (FUSE_NOTIFY_INVAL_INODE, negative offset).
    Attributes(NodeId),
    /// One name in a directory (FUSE_NOTIFY_INVAL_ENTRY).
    Entry { parent: NodeId, name: OsString },
}

/// An invalidation on its way, and what to do once the kernel has it.
pub struct Notice {
    pub invalidation: Invalidation,
    pub then: Option<Box<dyn FnOnce() + Send>>,
}

/// The sending end, held by `fs`. The queues are unbounded on purpose: one entry per changed inode
/// that the kernel knows, and a sender must never wait for the kernel.
#[derive(Clone, Debug)]
pub struct InvalidationQueue {
    waiting: Sender<Notice>,
    quick: Sender<Notice>,
}

/// The receiving ends, held by `fuse`, one thread each.
pub struct Invalidations {
    /// Pages and names: telling the kernel may wait for its locks.
    pub waiting: Receiver<Notice>,
    /// Attributes: telling the kernel waits for nothing.
    pub quick: Receiver<Notice>,
}

impl InvalidationQueue {
    pub fn new() -> (Self, Invalidations) {
        let (waiting, waiting_end) = crossbeam_channel::unbounded();
        let (quick, quick_end) = crossbeam_channel::unbounded();
        (
            Self { waiting, quick },
            Invalidations {
                waiting: waiting_end,
                quick: quick_end,
            },
        )
    }

    /// Queues without blocking; silently dropped once the receiver is gone (unmounted).
    pub fn push(&self, invalidation: Invalidation) {
        self.send(Notice {
            invalidation,
            then: None,
        });
    }

    /// Makes the kernel forget a node's attributes, then calls `then`, on another thread. `then` is dropped uncalled
    /// when the mount is gone.
    pub fn forget_attributes_then(&self, node: NodeId, then: impl FnOnce() + Send + 'static) {
        self.send(Notice {
            invalidation: Invalidation::Attributes(node),
            then: Some(Box::new(then)),
        });
    }

    /// Makes the kernel forget the pages of a range, then calls `then`, on another thread. `then` is dropped uncalled
    /// when the mount is gone.
    pub fn forget_range_then(
        &self,
        node: NodeId,
        range: ByteRange,
        then: impl FnOnce() + Send + 'static,
    ) {
        self.send(Notice {
            invalidation: Invalidation::Range(node, range),
            then: Some(Box::new(then)),
        });
    }

    fn send(&self, notice: Notice) {
        let _ = match notice.invalidation {
            Invalidation::Attributes(_) => self.quick.send(notice),
            Invalidation::Node(_) | Invalidation::Range(..) | Invalidation::Entry { .. } => {
                self.waiting.send(notice)
            }
        };
    }
}
