//! An open file: the version its handles read, and how the kernel reads it.

use super::descriptors::Descriptor;
use super::node::Node;
use super::opener::OpenedBy;
use super::operations::BackingId;
use super::reads_beside::ReadsBeside;
use super::writes::{FileWrites, Writer};
use crate::backend::{DirectoryStream, HeldFile, ListedName};
use crate::cache::CachedFile;
use crate::readahead::Reads;
use crate::sys::page_bytes;
use crate::types::{ByteRange, Credentials, HandleId};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// A file that lost a name while it was open. Its directory cannot be removed before it is gone.
pub(super) struct Held {
    pub file: HeldFile,
    pub in_the_way: Descriptor,
}

/// What the kernel's pages have of the present version.
#[derive(Clone, Copy)]
pub(super) enum Given {
    Nothing,
    Bytes,
    /// Nothing, and so it stays: so many reads are on their way to a newer one.
    Refused(usize),
}

/// Shared by all handles of a node; lives from its first open to its last release.
pub(super) struct OpenFile {
    pub file: ArcSwap<CachedFile>,
    /// The kernel reads the object by itself. Kept until the last handle is gone: a node has one io mode.
    pub passthrough: Option<Arc<dyn BackingId>>,
    pub handles: AtomicUsize,
    pub given: Mutex<Given>,
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
    /// Noted while `writes` is set.
    pub reads_beside: ReadsBeside,
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
            given: Mutex::new(Given::Nothing),
            filled_for_open: false,
            executing: AtomicUsize::new(0),
            held: Mutex::new(None),
            reads: Mutex::default(),
            writes: ArcSwapOption::empty(),
            reads_beside: ReadsBeside::new(page_bytes()),
        }
    }

    /// Where it is read from.
    pub fn opened(&self, node: &Arc<Node>) -> Arc<OpenedBy> {
        Arc::new(OpenedBy {
            node: node.clone(),
            reader: self.reader.clone(),
        })
    }

    /// Whether bytes of this version may be given to the kernel's pages. What follows in one read(2) is of it, too.
    pub fn give(&self, file: &Arc<CachedFile>) -> bool {
        let mut given = self.given.lock();
        if matches!(*given, Given::Refused(_)) || !Arc::ptr_eq(&self.file.load(), file) {
            return false;
        }
        *given = Given::Bytes;
        true
    }

    /// No bytes of this version are given from now on, if it is the present one and none were before.
    pub fn refuse(self: &Arc<Self>, file: &Arc<CachedFile>) -> Option<Refusal> {
        let mut given = self.given.lock();
        if !Arc::ptr_eq(&self.file.load(), file) {
            return None;
        }
        *given = match *given {
            Given::Bytes => return None,
            Given::Nothing => Given::Refused(1),
            Given::Refused(times) => Given::Refused(times + 1),
        };
        Some(Refusal {
            open: self.clone(),
            file: file.clone(),
        })
    }

    /// All handles read this version from now on. Returns the one before it.
    pub fn move_on_to(&self, file: Arc<CachedFile>) -> Arc<CachedFile> {
        let mut given = self.given.lock();
        *given = Given::Nothing;
        self.file.swap(file)
    }

    /// What is being changed by writers of this node: reads go to the backend.
    pub fn changing(&self) -> Option<Arc<FileWrites>> {
        let writes = self.writes.load_full()?;
        writes.has_begun().then_some(writes)
    }
}

/// Bytes of a version are not given while this lives, or until there is a newer one.
pub(super) struct Refusal {
    open: Arc<OpenFile>,
    file: Arc<CachedFile>,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        let mut given = self.open.given.lock();
        if let Given::Refused(times) = *given
            && Arc::ptr_eq(&self.open.file.load(), &self.file)
        {
            *given = match times {
                1 => Given::Nothing,
                _ => Given::Refused(times - 1),
            };
        }
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

    /// A read that is to be found by a write it may have overtaken ([`ReadsBeside`]).
    pub fn note_read(&self, range: ByteRange) -> Option<u64> {
        (!self.direct_io).then(|| self.open.reads_beside.note(range))
    }

    /// Whether it may be given bytes of this version.
    pub fn gives(&self, file: &Arc<CachedFile>) -> bool {
        // Past the kernel's pages: no earlier request belongs to its bytes.
        self.direct_io || self.open.give(file)
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
