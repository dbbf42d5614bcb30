//! Listings remembered, so that a directory can be listed without the backend.

use super::node::Node;
use crate::backend::ListedName;
use crate::types::{NodeId, Version};
use lru::LruCache;
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

/// Names in all remembered listings together.
const REMEMBERED_NAMES_MAX: usize = 100_000;

/// The listings remembered, least recently used ones go first.
pub(super) struct ListingCache {
    held: Mutex<Held>,
}

struct Held {
    listings: LruCache<NodeId, Remembered>,
    names: usize,
    /// When directories were last changed through this mount: a listing begun before may lack the change.
    changed: LruCache<NodeId, Instant>,
}

/// A listing read from end to end.
#[derive(Clone)]
pub(super) struct Remembered {
    pub names: Arc<Vec<ListedName>>,
    pub version: Version,
    /// May answer while the backend is there; others only while it is away.
    pub settled: bool,
}

impl ListingCache {
    pub(super) fn new() -> Self {
        let entries = NonZeroUsize::new(4096).expect("not zero");
        Self {
            held: Mutex::new(Held {
                listings: LruCache::new(entries),
                names: 0,
                changed: LruCache::new(entries),
            }),
        }
    }

    pub(super) fn get(&self, node: &Node) -> Option<Remembered> {
        self.held.lock().listings.get(&node.id).cloned()
    }

    /// Keeps a listing whose reading began at a moment.
    pub(super) fn put(&self, node: &Node, listing: Remembered, began: Instant) {
        let mut held = self.held.lock();
        let changed = held.changed.get(&node.id);
        if changed.is_some_and(|changed| *changed >= began) {
            return;
        }
        held.names += listing.names.len();
        if let Some((_, old)) = held.listings.push(node.id, listing) {
            held.names -= old.names.len();
        }
        while held.names > REMEMBERED_NAMES_MAX {
            match held.listings.pop_lru() {
                Some((_, old)) => held.names -= old.names.len(),
                None => break,
            }
        }
    }

    /// A directory was changed through this mount.
    pub(super) fn forget(&self, node: &Node) {
        let mut held = self.held.lock();
        held.changed.put(node.id, Instant::now());
        if let Some(old) = held.listings.pop(&node.id) {
            held.names -= old.names.len();
        }
    }

    /// Whether a directory was changed through this mount after a moment.
    pub(super) fn changed_since(&self, node: &Node, when: Instant) -> bool {
        let mut held = self.held.lock();
        held.changed
            .get(&node.id)
            .is_some_and(|changed| *changed >= when)
    }

    /// The listing is known, the directory has not changed since as far as is known, and there is no such name.
    pub(super) fn lacks(&self, node: &Node, name: &OsStr) -> bool {
        let version = node.version(&node.state.lock());
        self.get(node).is_some_and(|listing| {
            listing.version == version && !listing.names.iter().any(|listed| listed.name == name)
        })
    }
}
