//! An open file: the version its handles read, and how the kernel reads it.

use super::descriptors::Descriptor;
use super::node::Node;
use super::opener::OpenedBy;
use super::operations::BackingId;
use super::writes::{FileWrites, Writer};
use crate::backend::{DirectoryStream, HeldFile, ListedName};
use crate::cache::CachedFile;
use crate::readahead::Reads;
use crate::types::{Credentials, HandleId};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// A file that lost a name while it was open. Its directory cannot be removed before it is gone.
pub(super) struct Held {
    pub file: HeldFile,
    pub in_the_way: Descriptor,
}

/// Shared by all handles of a node; lives from its first open to its last release.
pub(super) struct OpenFile {
    pub file: ArcSwap<CachedFile>,
    /// The kernel reads the object by itself. Kept until the last handle is gone: a node has one io mode.
    pub passthrough: Option<Arc<dyn BackingId>>,
    pub handles: AtomicUsize,
    /// Bytes of the present version were given to a program.
    pub delivered: AtomicBool,
    /// Filled for this very open: its reads are no hits, though they find all bytes in the cache.
    pub filled_for_open: bool,
    /// Handles by which the kernel runs the file as a program.
    pub executing: AtomicUsize,
    /// Keeps the file where it lost a name while it was open.
    pub held: Mutex<Option<Held>>,
    /// In which order its bytes are read, by whichever handle.
    pub reads: Mutex<Reads>,
    /// Set while somebody has the file open for writing here.
    pub writes: ArcSwapOption<FileWrites>,
    /// Who opened it first, where the backend decides by that: with whose rights it is read for all who were let open it.
    pub reader: Option<Credentials>,
}

impl OpenFile {
    pub fn new(
        file: Arc<CachedFile>,
        passthrough: Option<Arc<dyn BackingId>>,
        reader: Option<Credentials>,
    ) -> Self {
        Self {
            reader,
            file: ArcSwap::new(file),
            passthrough,
            handles: AtomicUsize::new(1),
            delivered: AtomicBool::new(false),
            filled_for_open: false,
            executing: AtomicUsize::new(0),
            held: Mutex::new(None),
            reads: Mutex::default(),
            writes: ArcSwapOption::empty(),
        }
    }

    /// Where it is read from.
    pub fn opened(&self, node: &Arc<Node>) -> Arc<OpenedBy> {
        Arc::new(OpenedBy {
            node: node.clone(),
            reader: self.reader.clone(),
        })
    }

    /// What is being changed by writers of this node: reads go to the backend.
    pub fn changing(&self) -> Option<Arc<FileWrites>> {
        let writes = self.writes.load_full()?;
        writes.has_begun().then_some(writes)
    }
}

pub(super) struct Handle {
    pub node: Arc<Node>,
    pub open: Arc<OpenFile>,
    pub direct_io: bool,
    /// Counted in [`OpenFile::executing`].
    pub executes: bool,
    pub writing: Option<Writing>,
}

impl Handle {
    /// One for reading, through the kernel's page cache.
    pub fn new(node: Arc<Node>, open: Arc<OpenFile>) -> Self {
        Self {
            node,
            open,
            direct_io: false,
            executes: false,
            writing: None,
        }
    }
}

/// What a handle opened for writing has beside others.
#[derive(Clone)]
pub(super) struct Writing {
    pub writer: Arc<Writer>,
    pub writes: Arc<FileWrites>,
}

/// An open directory.
pub(super) struct DirectoryHandle {
    pub node: Arc<Node>,
    /// Who opened it, where the backend decides by that.
    pub opener: Option<Credentials>,
    pub listing: Mutex<DirectoryReading>,
}

/// Where an open directory is read from.
pub(super) enum DirectoryReading {
    /// Names known from before, taken at a moment.
    Known {
        names: Arc<Vec<ListedName>>,
        since: Instant,
    },
    /// From the backend, bit by bit.
    Streaming(Streaming),
}

pub(super) struct Streaming {
    pub stream: Option<Box<dyn DirectoryStream>>,
    /// Names fetched and not yet passed; the first has index `at`.
    pub names: std::collections::VecDeque<ListedName>,
    pub at: u64,
    pub ended: bool,
    /// All names so far, while they are few enough to be remembered.
    pub collected: Option<Vec<ListedName>>,
    /// When reading from the beginning began.
    pub began: Instant,
}

/// Handles by id. Ids are never used twice.
pub(super) struct HandleTable<T> {
    shards: [RwLock<HashMap<u64, Arc<T>>>; 16],
    next: AtomicU64,
}

impl<T> HandleTable<T> {
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            next: AtomicU64::new(1),
        }
    }

    pub fn insert(&self, handle: Arc<T>) -> HandleId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shards[id as usize % 16].write().insert(id, handle);
        HandleId(id)
    }

    pub fn get(&self, id: HandleId) -> Option<Arc<T>> {
        self.shards[id.0 as usize % 16].read().get(&id.0).cloned()
    }

    pub fn remove(&self, id: HandleId) -> Option<Arc<T>> {
        self.shards[id.0 as usize % 16].write().remove(&id.0)
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}
