//! File semantics: what a name, an attribute, an open and a read mean. Knows nothing of FUSE: requests
//! arrive through [`operations::Operations`], what the kernel is to forget leaves through a queue of `events`.
//!
//! What always holds: no verb waits for the backend on the calling thread; a request that waits ends within
//! `backend_timeout`, at an interrupt, or, where an older answer is good enough, after `revalidate_timeout` (at once
//! while the backend is away); a node has one io mode from its first open to its last release.
//!
//! - `operations`: the verbs and their answers; `error`: why one failed, the only errno map
//! - `node`, `nodes`: what the kernel knows; `open_file`: open files, directories, handles
//! - `pending`: requests that wait
//! - `revalidate`: attributes and their timeouts, versions that move on
//! - `remembering`: what is noted for a time when the backend is away; `recalling`: taken back then
//! - `opener`: who opens a file
//! - `names`: lookup, readlink; `directories`, `listings`: listings; `opening`: open and io modes; `reading`: read, seek
//! - `callers`: as whom the backend is asked; `access`: what it lets them do
//! - `changing`: changes of names and attributes; `removing`: names that go;
//!   `keeping`: what is cached over such changes; `claims`: one change at a time of a name or an inode
//! - `creating`: new files, opens for writing; `writing`: writes, sizes; `allocating`: fallocate, copy_file_range;
//!   `syncing`: fsync, close and what follows the last writer; `written`: what stays cached of a file being written
//! - `parts`: what a filesystem is made of; `new_handle`: a handle on its way to the kernel
//! - `descriptors`: what is to be closed before a name can go
//! - `unsent`: what the journal has, while the backend is away
//! - `writes`: files being changed here; `order`: which piece of work on one waits for which
//! - `locking`, `lock_table`: locks
//! - `xattrs`: extended attributes, remembered like attributes
//! - `walking`: files of a directory that are opened one after the other
//! - `explaining`: how one file stands, for `why`
//! - `mapping`: what is cached, by directory
//! - `damage`: cached blocks that are not what was stored
//! - `warming`: files fetched whole because somebody said so; `pinning`: and kept
//! - `shares`: how much each user may hold open

pub use self::callers::Identity;
use self::error::FsError;
use self::node::Node;
use self::nodes::NodeTable;
use self::open_file::{DirectoryHandle, Handle, HandleTable};
use self::operations::*;
use self::pending::{Pending, PendingTable};
use self::shares::{HandleShares, Holding};
use crate::backend::deadline::Timers;
use crate::backend::health::Health;
use crate::backend::lanes::{Lane, LaneFull};
use crate::backend::{Backend, BackendSpace, FilesystemIndex};
use crate::cache::Cache;
use crate::cache::names::Names;
use crate::events::InvalidationQueue;
use crate::metrics::CacheMetrics;
use crate::readahead;
use crate::types::{
    AttributeChange, ByteRange, Conflict, HandleId, NewNode, NodeId, Removal, RenameMode,
};
use crate::watch::{Served, Watch};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

mod access;
mod allocating;
mod callers;
mod creating;
mod changing;
mod claims;
mod compact;
mod damage;
mod descriptors;
mod directories;
mod evicting;
pub mod error;
mod explaining;
mod keeping;
mod listings;
mod lock_table;
mod locking;
mod mapping;
mod names;
mod new_handle;
mod node;
mod nodes;
mod open_file;
mod opener;
mod opening;
pub mod operations;
mod order;
mod parts;
mod pending;
mod pinning;
mod reading;
mod reads_beside;
mod recalling;
mod remembering;
mod removing;
mod revalidate;
mod shares;
mod syncing;
mod unsent;
mod writes;
mod writing;
mod written;
mod walking;
mod warming;
mod xattrs;

pub use explaining::{Explanation, Obstacle, OpenNow, ReadBy};
pub use mapping::{CacheMap, MappedDirectory, Sum};
pub use parts::{FsParts, FsSettings, KnownRoot, LookupCache};
pub use pinning::PinReport;
pub use written::KeepWritten;

/// Time between looks whether the backend is away, at least.
const AWAY_CHECK_MIN: Duration = Duration::from_millis(1);

pub struct FileSystem {
    settings: FsSettings,
    backend: Arc<dyn Backend>,
    metadata_lane: Arc<Lane>,
    write_lane: Arc<Lane>,
    locks_lane: Arc<Lane>,
    changes_lane: Arc<Lane>,
    ahead_lane: Arc<Lane>,
    warm_lane: Arc<Lane>,
    local_lane: Arc<Lane>,
    health: Arc<Health>,
    cache: Arc<Cache>,
    names: Arc<Names>,
    noted_filesystems: remembering::NotedFilesystems,
    metrics: Arc<CacheMetrics>,
    invalidations: InvalidationQueue,
    watch: Arc<Watch>,
    registry: Option<Arc<dyn BackingRegistry>>,
    nodes: NodeTable,
    handles: HandleTable<Handle>,
    directories: HandleTable<DirectoryHandle>,
    shares: Arc<HandleShares>,
    pending: Arc<PendingTable>,
    listings: listings::ListingCache,
    walks: walking::Walks,
    /// The largest window now.
    window_bytes: AtomicU64,
    xattrs: xattrs::XattrCache,
    callers: callers::Callers,
    decisions: access::AccessCache,
    writes: Arc<writes::WritesTable>,
    claims: Arc<claims::ClaimTable>,
    descriptors: Arc<descriptors::Descriptors>,
    locks: lock_table::LockTable,
    timers: Arc<Timers>,
    last_space: Mutex<Option<BackendSpace>>,
    pins: pinning::Pins,
    /// For work that outlives a request.
    me: std::sync::Weak<FileSystem>,
}

impl FileSystem {
    /// May wait for the local disk.
    pub fn new(parts: FsParts) -> Arc<Self> {
        let KnownRoot {
            place,
            attributes,
            is_fresh,
        } = parts.root;
        let (timeout, space) = match is_fresh {
            true => (parts.settings.directory_min, None),
            // Known, and asked for anew by the first use.
            false => (Duration::ZERO, parts.names.space()),
        };
        parts.names.note_root(&place.key, &attributes);
        let nodes = NodeTable::new(place, attributes, timeout);
        let fs = Arc::new_cyclic(|me| Self {
            nodes,
            shares: Arc::new(HandleShares::new(parts.settings.descriptors_max)),
            window_bytes: AtomicU64::new(parts.settings.readahead.window_bytes_max),
            settings: parts.settings,
            backend: parts.backend,
            metadata_lane: parts.metadata_lane,
            write_lane: parts.write_lane,
            locks_lane: parts.locks_lane,
            changes_lane: parts.changes_lane,
            ahead_lane: parts.ahead_lane,
            warm_lane: parts.warm_lane,
            local_lane: parts.local_lane,
            health: parts.health,
            cache: parts.cache,
            names: parts.names,
            noted_filesystems: remembering::NotedFilesystems::default(),
            metrics: parts.metrics,
            invalidations: parts.invalidations,
            registry: parts.registry,
            handles: HandleTable::new(),
            directories: HandleTable::new(),
            pending: PendingTable::new(parts.timers.clone(), parts.watch.clone()),
            watch: parts.watch,
            listings: listings::ListingCache::new(),
            walks: walking::Walks::new(),
            xattrs: xattrs::XattrCache::new(),
            callers: callers::Callers::new(parts.identity),
            decisions: access::AccessCache::new(),
            writes: Arc::default(),
            claims: Arc::default(),
            descriptors: Arc::default(),
            locks: lock_table::LockTable::new(),
            timers: parts.timers,
            last_space: Mutex::new(space),
            pins: pinning::Pins::default(),
            me: me.clone(),
        });
        fs.note_filesystem(FilesystemIndex(0));
        fs.hear_of_damage();
        fs
    }

    /// How far a stream is fetched ahead of at most, from now on.
    pub fn set_readahead_bytes(&self, window_bytes: u64) {
        self.window_bytes.store(window_bytes, Ordering::Relaxed);
    }

    fn readahead_limits(&self) -> readahead::Limits {
        readahead::Limits {
            window_bytes_max: self.window_bytes.load(Ordering::Relaxed),
            ..self.settings.readahead
        }
    }

    /// Nodes the kernel knows.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How long the oldest of the requests that wait now has done so.
    pub fn longest_wait(&self) -> Duration {
        self.pending.longest_wait()
    }

    /// Open files and directories.
    pub fn handle_count(&self) -> usize {
        self.handles.len() + self.directories.len()
    }

    fn node(&self, id: NodeId) -> Result<Arc<Node>, FsError> {
        self.nodes.get(id).ok_or(FsError::UnknownNode)
    }

    fn begin<T: Send + 'static>(&self, context: RequestContext, done: Done<T>) -> Arc<Pending<T>> {
        let (unique, thread) = (context.unique, context.caller.pid);
        self.pending
            .begin(unique, thread, self.settings.backend_timeout, done)
    }

    /// A request that may move any amount of data: it lasts as long as the backend is there, and `backend_timeout` longer.
    fn begin_transfer<T: Send + 'static>(
        &self,
        context: RequestContext,
        done: Done<T>,
    ) -> Arc<Pending<T>> {
        let pending = self
            .pending
            .begin_patient(context.unique, context.caller.pid, done);
        self.this().expire_once_silent(&pending);
        pending
    }

    /// The same for one that the journal answers, where there is one, whatever becomes of the backend.
    fn begin_write<T: Send + 'static>(
        &self,
        context: RequestContext,
        done: Done<T>,
    ) -> Arc<Pending<T>> {
        match self.settings.write_back {
            true => {
                let thread = context.caller.pid;
                self.watch.note(context.unique, Some(Served::Journal));
                self.pending.begin_patient(context.unique, thread, done)
            }
            false => self.begin_transfer(context, done),
        }
    }

    fn expire_once_silent<T: Send + 'static>(self: &Arc<Self>, pending: &Arc<Pending<T>>) {
        let left = self.health.patience_left();
        let this = self.clone();
        pending.after(
            left.unwrap_or(self.settings.backend_timeout),
            move |pending| {
                if this
                    .health
                    .patience_left()
                    .is_some_and(|left| left.is_zero())
                {
                    pending.finish(Err(FsError::BackendTimeout));
                } else {
                    this.expire_once_silent(pending);
                }
            },
        );
    }

    fn this(&self) -> Arc<FileSystem> {
        self.me
            .upgrade()
            .expect("a verb is called through an Arc, which lives as long as the call")
    }

    /// Runs `job` on a backend thread; when they are all taken the request ends at its deadline or by an answer known.
    fn on_backend<T: Send + 'static>(
        &self,
        pending: &Arc<Pending<T>>,
        job: impl FnOnce(Arc<FileSystem>, Arc<Pending<T>>) + Send + 'static,
    ) {
        self.on_lane(&self.metadata_lane, pending, job);
    }

    fn on_lane<T: Send + 'static>(
        &self,
        lane: &Lane,
        pending: &Arc<Pending<T>>,
        job: impl FnOnce(Arc<FileSystem>, Arc<Pending<T>>) + Send + 'static,
    ) {
        if !self.may_wait_for_backend(pending) {
            return;
        }
        let (this, waiting) = (self.this(), pending.clone());
        let submitted = lane.submit(move || {
            if !waiting.has_ended() {
                job(this, waiting);
            }
        });
        if let Err(LaneFull) = submitted {
            pending.finish(Err(FsError::BackendTimeout));
        }
    }

    /// Called before a request begins to depend on the backend. An absent one is waited for until `backend_timeout`
    /// after it fell silent: the kernel may ask twice for one read(2), and programs ask again and again. False if
    /// that time is over; the request has ended then.
    fn may_wait_for_backend<T: Send + 'static>(&self, pending: &Arc<Pending<T>>) -> bool {
        let Some(left) = self.health.patience_left() else {
            return true;
        };
        if left.is_zero() {
            pending.finish(Err(FsError::BackendTimeout));
            return false;
        }
        pending.after(left, |pending| {
            pending.finish(Err(FsError::BackendTimeout));
        });
        true
    }

    /// Sees to it that `known`, which must not wait, answers a request that the backend does not: after
    /// `revalidate_timeout`, or at once while it is away. `known` says whether it answers, be it later; true if it
    /// does so now.
    fn or_known<T: Send + 'static>(
        &self,
        pending: &Arc<Pending<T>>,
        known: impl FnOnce(&Arc<FileSystem>, &Arc<Pending<T>>) -> bool + Send + 'static,
    ) -> bool {
        let this = self.this();
        if self.health.is_away() {
            return pending.answer_by_known(|pending| known(&this, pending));
        }
        let latest = Instant::now() + self.settings.revalidate_timeout;
        let on_behalf = this.clone();
        pending.set_fallback(Box::new(move |pending| {
            pending.answer_by_known(|pending| known(&on_behalf, pending))
        }));
        this.fall_back_when_away(pending, latest);
        false
    }

    /// Falls back at `latest`, or as soon as the backend is away: a request that came shortly before must not wait
    /// longer than those that come after.
    fn fall_back_when_away<T: Send + 'static>(
        self: &Arc<Self>,
        pending: &Arc<Pending<T>>,
        latest: Instant,
    ) {
        let away_at = self.health.away_at().unwrap_or(latest);
        let delay = latest
            .min(away_at)
            .saturating_duration_since(Instant::now())
            .max(AWAY_CHECK_MIN);
        let this = self.clone();
        pending.after(delay, move |pending| {
            if Instant::now() >= latest || this.health.is_away() {
                pending.fall_back();
            } else {
                this.fall_back_when_away(pending, latest);
            }
        });
    }

    /// Ends a request whose backend call failed. An error that says that the server is gone is as good as silence.
    fn fail<T: Send + 'static>(&self, pending: &Arc<Pending<T>>, error: FsError) {
        let is_silence = matches!(error, FsError::Backend(_)) && self.health.is_away();
        if !(is_silence && pending.fall_back_from_failure()) {
            pending.finish(Err(error));
        }
    }
}

impl Operations for FileSystem {
    fn lookup(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        done: Done<LookupReply>,
    ) {
        self.look_up(context, parent, name, done);
    }

    fn forget(&self, node: NodeId, count: u64) {
        self.nodes.forget(node, count);
    }

    fn attributes(
        &self,
        context: RequestContext,
        node: NodeId,
        handle: Option<HandleId>,
        done: Done<AttributesReply>,
    ) {
        self.get_attributes(context, node, handle, done);
    }

    fn read_link(&self, context: RequestContext, node: NodeId, done: Done<Vec<u8>>) {
        self.link_target(context, node, done);
    }

    fn open(&self, context: RequestContext, node: NodeId, flags: i32, done: Done<OpenReply>) {
        let holding = |reply: &OpenReply| Holding::File(reply.handle);
        let Some(done) = self.shares.within(context.caller, done, holding) else {
            return;
        };
        if writing::changes(flags) {
            self.open_changing(context, node, flags, done);
        } else {
            self.open_file(context, node, flags, done);
        }
    }

    fn read(
        &self,
        context: RequestContext,
        _node: NodeId,
        handle: HandleId,
        offset: u64,
        length_bytes: usize,
        done: Done<ReadReply>,
    ) {
        self.read_file(context, handle, offset, length_bytes, done);
    }

    fn release(&self, handle: HandleId) {
        self.shares.give_back(Holding::File(handle));
        self.release_file(handle);
    }

    fn open_directory(&self, context: RequestContext, node: NodeId, done: Done<HandleId>) {
        let holding = |handle: &HandleId| Holding::Directory(*handle);
        if let Some(done) = self.shares.within(context.caller, done, holding) {
            self.open_listing(context, node, done);
        }
    }

    fn read_directory(
        &self,
        context: RequestContext,
        _node: NodeId,
        handle: HandleId,
        offset: u64,
        budget: DirectoryBudget,
        with_attributes: bool,
        done: Done<Vec<DirectoryItem>>,
    ) {
        self.read_listing(context, handle, offset, budget, with_attributes, done);
    }

    fn release_directory(&self, handle: HandleId) {
        self.shares.give_back(Holding::Directory(handle));
        if let Some(directory) = self.directories.remove(handle) {
            // Closing a descriptor of the backend may wait for it.
            let _ = self.metadata_lane.submit(move || drop(directory));
        }
    }

    fn space(&self, context: RequestContext, node: NodeId, done: Done<SpaceReply>) {
        self.get_space(context, node, done);
    }

    fn list_xattr(&self, context: RequestContext, node: NodeId, done: Done<Vec<u8>>) {
        self.xattr(context, node, None, done);
    }

    fn get_xattr(&self, context: RequestContext, node: NodeId, name: &OsStr, done: Done<Vec<u8>>) {
        match warming::Question::of(name) {
            Some(question) => self.ask_cache(context, node, question, done),
            None => self.xattr(context, node, Some(name), done),
        }
    }

    fn seek(
        &self,
        context: RequestContext,
        _node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: i32,
        done: Done<u64>,
    ) {
        self.seek_file(context, handle, offset, whence, done);
    }

    fn make(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        new: NewNode,
        done: Done<Entry>,
    ) {
        self.make_node(context, parent, name, new, done);
    }

    fn link(
        &self,
        context: RequestContext,
        node: NodeId,
        parent: NodeId,
        name: &OsStr,
        done: Done<Entry>,
    ) {
        self.link_node(context, node, parent, name, done);
    }

    fn remove(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        removal: Removal,
        done: Done<()>,
    ) {
        self.remove_name(context, parent, name, removal, done);
    }

    fn rename(
        &self,
        context: RequestContext,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        mode: RenameMode,
        done: Done<()>,
    ) {
        self.rename_node(context, from, to, mode, done);
    }

    fn change_attributes(
        &self,
        context: RequestContext,
        node: NodeId,
        change: AttributeChange,
        done: Done<AttributesReply>,
    ) {
        self.set_attributes(context, node, change, done);
    }

    fn set_xattr(
        &self,
        context: RequestContext,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        done: Done<()>,
    ) {
        self.change_xattr(context, node, name, Some((value, flags)), done);
    }

    fn remove_xattr(&self, context: RequestContext, node: NodeId, name: &OsStr, done: Done<()>) {
        self.change_xattr(context, node, name, None, done);
    }

    fn sync_directory(&self, context: RequestContext, node: NodeId, done: Done<()>) {
        self.sync(context, node, done, |fs, place| {
            fs.backend.sync_directory(place)
        });
    }

    fn sync_filesystem(&self, context: RequestContext, node: NodeId, done: Done<()>) {
        self.sync(context, node, done, |fs, place| {
            fs.backend.sync_filesystem(place)
        });
    }

    fn interrupt(&self, unique: u64) {
        self.pending.interrupt(unique);
    }

    fn path_of(&self, node: NodeId) -> Option<PathBuf> {
        Some(self.nodes.get(node)?.path())
    }

    fn create(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        creation: Creation,
        done: Done<Created>,
    ) {
        let holding = |created: &Created| Holding::File(created.open.handle);
        if let Some(done) = self.shares.within(context.caller, done, holding) {
            self.create_file(context, parent, Some(name), creation, done);
        }
    }

    fn create_unnamed(
        &self,
        context: RequestContext,
        parent: NodeId,
        creation: Creation,
        done: Done<Created>,
    ) {
        let holding = |created: &Created| Holding::File(created.open.handle);
        if let Some(done) = self.shares.within(context.caller, done, holding) {
            self.create_file(context, parent, None, creation, done);
        }
    }

    fn write(
        &self,
        context: RequestContext,
        handle: HandleId,
        write: Write<'_>,
        done: Done<usize>,
    ) {
        self.write_file(context, handle, write, done);
    }

    fn flush(&self, context: RequestContext, handle: HandleId, lock_owner: u64, done: Done<()>) {
        if self.locks.is_empty() {
            return self.flush_file(context, handle, done);
        }
        let this = self.this();
        let unlocked = move |result| this.drop_locks(handle, lock_owner, move || done(result));
        self.flush_file(context, handle, Box::new(unlocked));
    }

    fn set_lock(&self, context: RequestContext, request: LockRequest, done: Done<()>) {
        self.request_lock(context, request, done);
    }

    fn find_lock(
        &self,
        context: RequestContext,
        request: LockRequest,
        done: Done<Option<Conflict>>,
    ) {
        self.look_for_lock(context, request, done);
    }

    fn sync(&self, context: RequestContext, handle: HandleId, data_only: bool, done: Done<()>) {
        self.sync_file(context, handle, data_only, done);
    }

    fn allocate(
        &self,
        context: RequestContext,
        handle: HandleId,
        mode: i32,
        range: ByteRange,
        done: Done<()>,
    ) {
        self.allocate_range(context, handle, mode, range, done);
    }

    fn copy_range(&self, context: RequestContext, copy: RangeCopy, done: Done<u64>) {
        self.copy_file_range(context, copy, done);
    }

    fn set_size(
        &self,
        context: RequestContext,
        node: NodeId,
        handle: Option<HandleId>,
        size_bytes: u64,
        done: Done<AttributesReply>,
    ) {
        self.set_file_size(context, node, handle, size_bytes, done);
    }
}
