//! Open and release: close-to-open, the io mode of a node, and the switch to another node when the one asked for
//! cannot be joined.
//!
//! | mode | when |
//! |---|---|
//! | passthrough | complete in the cache, above the small-file size; O_DIRECT opens of it read through the daemon |
//! | cached | all others, every open for writing among them; handles that only append pass the pages by |

use super::FileSystem;
use super::access::{Asking, refused};
use super::error::FsError;
use super::new_handle::NewHandle;
use super::node::Node;
use super::open_file::{Handle, OpenFile};
use super::opener::{Opener, runs};
use super::operations::{Done, OpenReply, RequestContext};
use super::pending::Pending;
use super::recalling::Wanted;
use crate::cache::{Age, CachedFile, FetchError};
use crate::types::{FileKind, HandleId, NodeId};
use crate::watch::Served;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A small file that changes while it is filled is tried this often with its newest version.
pub(super) const SMALL_FILE_TRIES: u32 = 3;

impl FileSystem {
    pub(super) fn open_file(
        &self,
        context: RequestContext,
        id: NodeId,
        flags: i32,
        done: Done<OpenReply>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let (kind, fresh) = {
            let state = node.state.lock();
            (state.kind(), !state.fresh_for().is_zero())
        };
        if kind != FileKind::Regular {
            return done(Err(FsError::NotRegular));
        }
        let opener = Opener {
            flags,
            caller: self.asker(&node, &context.caller),
            is_unasked: false,
        };
        let asking = Asking::to(&node, opener.access(), &opener.caller);
        self.note_open(&node, &opener.caller);
        let pending = self.begin(context, done);
        if !self.settings.close_to_open && fresh && self.decided(&asking) == Some(true) {
            return self.open_locally(node, opener, pending);
        }
        let (known, known_opener) = (node.clone(), opener.clone());
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<OpenReply>>| {
            let is_known = fs.is_known(&known);
            if is_known {
                let opener = Opener {
                    is_unasked: true,
                    ..known_opener.clone()
                };
                fs.open_locally(known.clone(), opener, pending.clone());
            }
            is_known
        };
        let (way, wanted) = (asking.clone(), Wanted::Nothing);
        self.ask_or_known(way, wanted, &pending, known, move |fs, pending| {
            let checked = fs.revalidate_bytes(&node, &opener.caller);
            let allowed = checked.and_then(|asked| {
                fs.ask(&asking).map_err(FsError::Backend)?;
                Ok(asked)
            });
            match allowed {
                Ok(_asked) => fs.open_version(node, opener, pending, SMALL_FILE_TRIES),
                Err(error) => fs.fail(&pending, error),
            }
        });
    }

    /// Opens what is known, on a thread that never waits for the backend.
    fn open_locally(&self, node: Arc<Node>, opener: Opener, pending: Arc<Pending<OpenReply>>) {
        let this = self.this();
        let refused = pending.clone();
        let submitted = self
            .local_lane
            .submit(move || this.open_version(node, opener, pending, SMALL_FILE_TRIES));
        if submitted.is_err() {
            refused.finish(Err(FsError::BackendTimeout));
        }
    }

    /// Opens the version last seen. Waits for the local disk only.
    pub(super) fn open_version(
        &self,
        node: Arc<Node>,
        opener: Opener,
        pending: Arc<Pending<OpenReply>>,
        tries: u32,
    ) {
        if pending.has_ended() {
            return;
        }
        let (version, first_seen, already_open) = {
            let state = node.state.lock();
            (node.version(&state), state.first_seen(), state.open.clone())
        };
        if let Some(open) = already_open {
            return self.join(&node, &open, opener.flags, &pending);
        }
        let age = match opener.is_unasked {
            true => Age::Any,
            false => Age::WithinTtl,
        };
        let file = self.cache.file_of_age(&node.key, version, age);
        file.begin_use(opener.opened(&node), first_seen);
        let small = file.size_bytes() <= self.settings.small_file_bytes;
        let needs_no_fill = file.size_bytes() == 0 || file.is_complete() || file.is_bypassed();
        if !small || needs_no_fill || self.is_away_and_unsent(&file) {
            return self.open_first(&node, file, small, false, opener, &pending);
        }
        if !self.may_wait_for_backend(&pending) {
            file.end_use();
            return;
        }
        self.cache.note_miss(&file, 0);
        let this = self.this();
        let (cache, filled) = (self.cache.clone(), file.clone());
        cache.fetch_whole(
            &filled,
            Box::new(move |outcome| match outcome {
                // Read past the cache if there is no room in it.
                Ok(()) | Err(FetchError::Bypass | FetchError::Refused) => {
                    pending.note(Served::Fill);
                    this.open_first(&node, file, small, true, opener, &pending);
                }
                Err(error) => {
                    file.end_use();
                    this.retry_open(node, opener, pending, tries, error);
                }
            }),
        );
    }

    /// The file changed between the stat and the fill: once more with its newest version.
    fn retry_open(
        &self,
        node: Arc<Node>,
        opener: Opener,
        pending: Arc<Pending<OpenReply>>,
        tries: u32,
        error: FetchError,
    ) {
        if !matches!(error, FetchError::Changed) || tries == 0 {
            pending.finish(Err(fetch_failed(error)));
            return;
        }
        self.on_backend(&pending, move |fs, pending| {
            match fs.revalidate_bytes(&node, &opener.caller) {
                Ok(_asked) => fs.open_version(node, opener, pending, tries - 1),
                Err(error) => {
                    pending.finish(Err(error));
                }
            }
        });
    }

    /// The first open of a node decides its io mode.
    fn open_first(
        &self,
        node: &Arc<Node>,
        file: Arc<CachedFile>,
        small: bool,
        filled_for_open: bool,
        opener: Opener,
        pending: &Arc<Pending<OpenReply>>,
    ) {
        let passthrough = if small || self.settings.direct_io {
            None
        } else {
            self.register(&file)
        };
        let mut state = node.state.lock();
        if let Some(open) = state.open.clone() {
            // Another open was first.
            drop(state);
            file.end_use();
            return self.join(node, &open, opener.flags, pending);
        }
        if node.version(&state) != file.version() {
            // Moved on while the open was being prepared.
            drop(state);
            file.end_use();
            pending.finish(Err(FsError::Stale));
            return;
        }
        let keep_cache =
            std::mem::replace(&mut state.pages_current, true) && !file.was_given_while_written();
        let open = Arc::new(OpenFile {
            filled_for_open,
            ..OpenFile::new(file, passthrough, opener.caller)
        });
        state.open = Some(open.clone());
        drop(state);
        self.answer(self.reader(node, open, opener.flags, keep_cache), pending);
    }

    fn reader(
        &self,
        node: &Arc<Node>,
        open: Arc<OpenFile>,
        flags: i32,
        keep_cache: bool,
    ) -> NewHandle {
        let executes = runs(flags);
        if executes {
            open.executing.fetch_add(1, Ordering::AcqRel);
        }
        let handle = Handle {
            direct_io: self.is_direct(flags),
            executes,
            ..Handle::new(node.clone(), open)
        };
        self.new_handle(handle, keep_cache)
    }

    /// The kernel itself refuses to write to a program that runs, of one node: a file may have several.
    pub(super) fn refuse_if_executed(&self, node: &Node) -> Result<(), FsError> {
        let runs = |node: &Arc<Node>| {
            let open = node.state.lock().open.clone();
            open.is_some_and(|open| open.executing.load(Ordering::Acquire) > 0)
        };
        match self.nodes.of_file(node).iter().any(runs) {
            true => Err(FsError::BeingExecuted),
            false => Ok(()),
        }
    }

    /// Whether reads and writes of a handle pass the kernel's pages by. Those that append do: the kernel would put the bytes
    /// where it takes the end of the file to be, and somebody else may have moved that.
    pub(super) fn is_direct(&self, flags: i32) -> bool {
        let only_appends = flags & libc::O_APPEND != 0 && flags & libc::O_ACCMODE == libc::O_WRONLY;
        self.settings.direct_io || flags & libc::O_DIRECT != 0 || only_appends
    }

    /// One more handle for a node that is open, if it is open with the version that an open must see now.
    fn join(
        &self,
        node: &Arc<Node>,
        open: &Arc<OpenFile>,
        flags: i32,
        pending: &Arc<Pending<OpenReply>>,
    ) {
        let is_nameless = node.is_nameless();
        let mut state = node.state.lock();
        let still_open = state
            .open
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, open));
        let file = open.file.load_full();
        let present = node.version(&state);
        let same = present == file.shown_version(&present) && !file.is_changed();
        // What is being changed here has no version to differ from, and what has no name no other node to go to.
        if !still_open || !(same || open.changing().is_some() || is_nameless) {
            drop(state);
            let pending = pending.clone();
            let refuse = move || {
                pending.finish(Err(FsError::Stale));
            };
            return match still_open {
                true => self.supersede_then(node, refuse),
                false => refuse(),
            };
        }
        open.handles.fetch_add(1, Ordering::AcqRel);
        let keep_cache =
            std::mem::replace(&mut state.pages_current, true) && !file.was_given_while_written();
        drop(state);
        self.answer(self.reader(node, open.clone(), flags, keep_cache), pending);
    }

    /// From now on lookups give another node. Of this one the kernel asks for attributes each time, also of those that
    /// it was told to believe before: `act` is called, on another thread, when it has forgotten them.
    pub(super) fn supersede_then(&self, node: &Node, act: impl FnOnce() + Send + 'static) {
        self.nodes.supersede(node);
        self.invalidations.forget_attributes_then(node.id, act);
    }

    /// Gives the handle to the kernel, or closes it again if the request has ended otherwise.
    pub(super) fn answer(&self, new: NewHandle, pending: &Arc<Pending<OpenReply>>) {
        let node = new.handle().node.clone();
        let waiting = pending.clone();
        if new.handle().open.passthrough.is_some() {
            pending.note(Served::Passthrough);
        }
        let behind = std::mem::replace(&mut node.state.lock().kernel_behind, false);
        let answer = move || {
            waiting.finish_with(|| Ok(new.reply()));
        };
        if behind {
            // An open shows the newest size (close-to-open), and the kernel reads no further than the size it knows.
            self.invalidations.forget_attributes_then(node.id, answer);
        } else {
            answer();
        }
    }

    /// Hands a complete object to the kernel; `None`: reads come to the daemon.
    fn register(&self, file: &CachedFile) -> Option<Arc<dyn super::operations::BackingId>> {
        let registry = self
            .registry
            .as_ref()
            .filter(|_| self.settings.passthrough && file.is_complete())
            .filter(|_| !self.writes.is_expected(&file.key))
            // What a lock lets see is newer than what the kernel was given.
            .filter(|_| !self.locks.is_noted(&file.key))?;
        let object = file.give_to_kernel()?;
        match registry.register(object.descriptor()?) {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::debug!(%error, "the kernel did not take an object for passthrough");
                None
            }
        }
    }

    pub(super) fn release_file(&self, handle: HandleId) {
        if let Some(closed) = self.handles.remove(handle) {
            self.drop_locks_of_handle(handle, &closed.node);
            self.close_handle(closed);
        }
    }

    pub(super) fn close_handle(&self, handle: Arc<Handle>) {
        if handle.executes {
            handle.open.executing.fetch_sub(1, Ordering::AcqRel);
        }
        match handle.writing.clone() {
            Some(writing) => self.close_writer(handle, writing),
            None => {
                self.close(&handle.node, &handle.open);
            }
        }
    }

    /// One handle of a node less; whether it was the last.
    pub(super) fn close(&self, node: &Arc<Node>, open: &Arc<OpenFile>) -> bool {
        let forgotten = {
            let mut state = node.state.lock();
            if open.handles.fetch_sub(1, Ordering::AcqRel) != 1 {
                return false;
            }
            if state
                .open
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, open))
            {
                state.open = None;
                // Half-written bytes may be among the kernel's pages, under the version of the whole; and beside what
                // was written here others may have written.
                if open.file.load().was_given_while_written() || open.changing().is_some() {
                    state.pages_current = false;
                }
            }
            state.lookups == 0
        };
        if forgotten {
            // The kernel forgot the node before this release was told.
            self.nodes.drop_unused(node);
        }
        let held = open.held.lock().take();
        let is_removed = held.is_some() && node.is_superseded();
        if let Some(held) = held {
            let (this, key) = (self.this(), node.key.clone());
            // The file goes with it, if nobody else has it.
            let _ = self.changes_lane.submit(move || {
                drop(held.file);
                this.descriptors.wait_until_closed(&key);
                drop(held.in_the_way);
            });
        }
        let file = open.file.load_full();
        // Closing the backend's descriptor may wait for the server.
        let submitted = self.local_or_backend(&file, move |file| file.end_use());
        if let Err(file) = submitted {
            file.end_use();
        }
        if is_removed {
            self.cache.note_removed(node.key.clone());
        }
        true
    }

    fn local_or_backend(
        &self,
        file: &Arc<CachedFile>,
        act: impl FnOnce(&CachedFile) + Send + 'static,
    ) -> Result<(), Arc<CachedFile>> {
        if !file.has_source() {
            act(file);
            return Ok(());
        }
        let closing = file.clone();
        self.metadata_lane
            .submit(move || act(&closing))
            .map_err(|_| file.clone())
    }
}

/// A fetch that failed, as a request's error.
pub(super) fn fetch_failed(error: FetchError) -> FsError {
    match error {
        FetchError::Changed => FsError::Stale,
        FetchError::Backend(error) => FsError::Backend(error),
        FetchError::Bypass => FsError::Disk(std::io::Error::from_raw_os_error(libc::EIO)),
        FetchError::Refused => FsError::Backend(refused()),
        FetchError::Overloaded => FsError::BackendTimeout,
    }
}
