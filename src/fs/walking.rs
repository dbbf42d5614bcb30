//! Walks: files of a directory that are opened one after the other are looked up ahead of the walker, and small ones
//! fetched.
//!
//! What always holds: whatever is got ready is asked for as who walks, and no longer than it goes on; a lookup is answered by it
//! for as long as the kernel itself might remember the name; an open still asks the backend (close-to-open).

use super::access::Asking;
use super::node::Node;
use super::opener::OpenedAhead;
use super::operations::{Entry, LookupReply};
use super::{FileSystem, LookupCache};
use crate::backend::ListedName;
use crate::backend::access::Access;
use crate::readahead::Walk;
use crate::types::{Credentials, FileKind, NodeId, ShortBytes};
use lru::LruCache;
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Directories whose opens are followed.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Files that are ready for a walker.
const READY_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// A walker that has not come by then will not come.
const READY_FOR: Duration = Duration::from_secs(30);

/// A name in a directory.
type Name = (NodeId, ShortBytes);

pub(super) struct Walks {
    followed: Mutex<LruCache<NodeId, Followed>>,
    ready: Mutex<Ready>,
}

/// The opens of one directory's files.
#[derive(Clone)]
enum Followed {
    /// One file of it was opened.
    Met,
    /// Its listing is being put in order.
    Preparing,
    Walked(Arc<Walked>),
}

struct Walked {
    names: Arc<Vec<ListedName>>,
    walk: Mutex<Walk>,
}

struct Ready {
    files: LruCache<Name, ReadyFile>,
    /// Fetched for walkers that have not come yet.
    unread_bytes: u64,
    /// A directory was walked to its end, and the next one is likely to be.
    follows: bool,
    is_swept: bool,
}

struct ReadyFile {
    node: Arc<Node>,
    since: Instant,
    /// The name was looked up then; else the kernel knows it.
    is_looked_up: bool,
    /// What was to be fetched of it is there.
    is_there: bool,
    fetched_bytes: u64,
}

/// Who opened a file.
#[derive(Clone)]
struct Walker {
    parent: Arc<Node>,
    caller: Option<Credentials>,
}

impl Walks {
    pub(super) fn new() -> Self {
        Self {
            followed: Mutex::new(LruCache::new(DIRECTORIES_MAX)),
            ready: Mutex::new(Ready {
                files: LruCache::new(READY_MAX),
                unread_bytes: 0,
                follows: false,
                is_swept: false,
            }),
        }
    }

    /// What is known of a directory, which is met by that.
    fn meet(&self, parent: NodeId) -> Option<Followed> {
        let mut followed = self.followed.lock();
        let known = followed.get(&parent).cloned();
        if known.is_none() {
            followed.put(parent, Followed::Met);
        }
        known
    }

    fn follow(&self, parent: NodeId, followed: Followed) {
        self.followed.lock().put(parent, followed);
    }
}

impl Ready {
    /// What it took the place of, or what there is no place for any more.
    fn put(&mut self, name: Name, file: ReadyFile) -> Option<ReadyFile> {
        let (_, replaced) = self.files.push(name, file)?;
        self.unread_bytes -= replaced.fetched_bytes;
        Some(replaced)
    }

    fn take(&mut self, name: &Name) -> Option<ReadyFile> {
        let file = self.files.pop(name)?;
        self.unread_bytes -= file.fetched_bytes;
        Some(file)
    }

    /// Those that nobody came for in time.
    fn take_old(&mut self) -> Vec<ReadyFile> {
        let mut old = Vec::new();
        while let Some((name, file)) = self.files.peek_lru()
            && file.since.elapsed() >= READY_FOR
        {
            let name = name.clone();
            old.extend(self.take(&name));
        }
        old
    }
}

impl FileSystem {
    /// Notes that a file is being opened, and gets those ready that are likely to be next. Waits for nothing.
    pub(super) fn note_open(&self, node: &Arc<Node>, caller: &Option<Credentials>) {
        if self.settings.readahead.window_bytes_max == 0 {
            return;
        }
        let Some((parent, name)) = node.parent_and_name() else {
            return;
        };
        let (was_ready, follows) = self.take_ready(parent.id, &name);
        let walker = Walker {
            parent,
            caller: caller.clone(),
        };
        match self.walks.meet(walker.parent.id) {
            Some(Followed::Walked(walked)) => {
                self.go_on(&walker, &walked, node.inode, !was_ready, follows);
            }
            Some(Followed::Met) => self.begin_walk(walker, node.inode, follows),
            None if follows => self.begin_walk(walker, node.inode, follows),
            Some(Followed::Preparing) | None => {}
        }
    }

    /// Whether a file was ready, and whether walks go from one directory to the next.
    fn take_ready(&self, parent: NodeId, name: &OsStr) -> (bool, bool) {
        let mut ready = self.walks.ready.lock();
        let taken = ready.take(&(parent, name.as_bytes().into()));
        let follows = ready.follows;
        drop(ready);
        if let Some(file) = &taken {
            self.metrics.ahead_used_bytes.add(file.fetched_bytes);
        }
        (taken.is_some_and(|file| file.is_there), follows)
    }

    /// Puts the listing in order, on a thread that has the time.
    fn begin_walk(&self, walker: Walker, inode: u64, follows: bool) {
        let Some(listing) = self.listings.get(&walker.parent) else {
            return;
        };
        self.walks.follow(walker.parent.id, Followed::Preparing);
        let this = self.this();
        let parent = walker.parent.id;
        let submitted = self.ahead_lane.submit(move || {
            let files = listing.names.iter().zip(0..);
            let files = files.filter(|(listed, _)| listed.kind == FileKind::Regular);
            let walk = Walk::new(files.map(|(listed, index)| (index, &*listed.name, listed.inode)));
            let walked = Arc::new(Walked {
                names: listing.names.clone(),
                walk: Mutex::new(walk),
            });
            this.walks.follow(parent, Followed::Walked(walked.clone()));
            this.go_on(&walker, &walked, inode, true, follows);
        });
        if submitted.is_err() {
            self.walks.follow(parent, Followed::Met);
        }
    }

    fn go_on(&self, walker: &Walker, walked: &Walked, inode: u64, is_late: bool, follows: bool) {
        let mut walk = walked.walk.lock();
        let next = walk.on_open(inode, is_late, follows);
        let is_at_end = walk.is_at_end();
        drop(walk);
        if is_late || is_at_end {
            self.walks.ready.lock().follows = is_at_end;
        }
        for index in next {
            let (this, walker) = (self.this(), walker.clone());
            let name = walked.names[index as usize].name.clone();
            let submitted = self
                .ahead_lane
                .submit(move || this.get_ready(&walker, &name));
            if submitted.is_err() {
                return;
            }
        }
    }

    /// Looks a file up and fetches it if it is small. Blocks on the backend.
    fn get_ready(self: &Arc<Self>, walker: &Walker, name: &OsStr) {
        if self.health.is_away() {
            return;
        }
        let since = Instant::now();
        let known = self.nodes.by_name(walker.parent.id, name);
        // Somebody who reads it moves on to its newest version at a time that suits him.
        if known.as_ref().is_some_and(|node| is_open(node)) {
            return;
        }
        let known = known.filter(|node| is_with_kernel(node));
        let is_looked_up = known.is_none();
        let Some(node) = known.or_else(|| self.look_up_ahead(walker, name)) else {
            return;
        };
        let is_file = node.state.lock().kind() == FileKind::Regular;
        if !is_file || self.ask(&Asking::way_to(&node, &walker.caller)).is_err() {
            self.nodes.drop_unused(&node);
            return;
        }
        let file = ReadyFile {
            node: node.clone(),
            since,
            is_looked_up,
            is_there: false,
            fetched_bytes: 0,
        };
        let key = (walker.parent.id, name.as_bytes().into());
        let replaced = self.walks.ready.lock().put(key, file);
        self.sweep_later();
        if let Some(replaced) = replaced {
            self.give_up_ready(replaced);
        }
        // Else the open that fetches it asks.
        if !self.fetch_small(walker, &node, name) {
            let read = Asking::to(&node, Access::Read, &walker.caller);
            match self.ask(&read) {
                Ok(()) => self.note_there(&(walker.parent.id, name.as_bytes().into()), 0),
                Err(_) => self.forget_ready(&(walker.parent.id, name.as_bytes().into())),
            }
        }
    }

    /// Asks for a file as the walker.
    fn look_up_ahead(&self, walker: &Walker, name: &OsStr) -> Option<Arc<Node>> {
        let asked = Instant::now();
        let Walker { parent, caller } = walker;
        self.ask(&Asking::way_to(parent, caller)).ok()?;
        let outcome = self.backend.lookup(&parent.place_for(caller), name);
        self.note_access(parent, Access::Search, caller, asked, &outcome);
        Some(self.admit(parent, name, &outcome.ok()?, asked))
    }

    /// Whether there is anything to fetch of it.
    fn fetch_small(self: &Arc<Self>, walker: &Walker, node: &Arc<Node>, name: &OsStr) -> bool {
        let (version, first_seen, is_open) = {
            let state = node.state.lock();
            (
                node.version(&state),
                state.first_seen(),
                state.open.is_some(),
            )
        };
        let size_bytes = version.size_bytes;
        let is_small = size_bytes > 0 && size_bytes <= self.settings.small_file_bytes;
        if is_open || !is_small || !self.has_room_ahead(size_bytes) {
            return false;
        }
        let file = self.cache.file(&node.key, version);
        if file.is_used() || file.is_complete() || file.is_bypassed() {
            return false;
        }
        let opened = OpenedAhead {
            fs: self.me.clone(),
            node: node.clone(),
            reader: walker.caller.clone(),
        };
        file.expect_use(Arc::new(opened), first_seen);
        let descriptor = self.descriptors.count(&node.key);
        let (this, key) = (self.clone(), (walker.parent.id, name.as_bytes().into()));
        self.cache.fetch_whole_by(
            &self.ahead_lane,
            &file,
            Box::new(move |outcome| {
                drop(descriptor);
                match outcome {
                    Ok(()) => this.note_there(&key, size_bytes),
                    Err(_) => this.forget_ready(&key),
                }
            }),
        );
        true
    }

    /// It could not be got ready, or may not be.
    fn forget_ready(&self, name: &Name) {
        let taken = self.walks.ready.lock().take(name);
        if let Some(file) = taken {
            self.give_up_ready(file);
        }
    }

    fn has_room_ahead(&self, bytes: u64) -> bool {
        let unread_bytes = self.walks.ready.lock().unread_bytes;
        unread_bytes + bytes <= self.readahead_limits().window_bytes_max
    }

    /// A file is ready, for which so many bytes were fetched.
    fn note_there(&self, name: &Name, bytes: u64) {
        self.metrics.ahead_bytes.add(bytes);
        let mut guard = self.walks.ready.lock();
        let ready = &mut *guard;
        match ready.files.peek_mut(name) {
            Some(file) => {
                file.is_there = true;
                file.fetched_bytes += bytes;
                ready.unread_bytes += bytes;
            }
            // Who opened it meanwhile had to wait the less.
            None => self.metrics.ahead_used_bytes.add(bytes),
        }
    }

    /// The answer to a lookup, where one was made ahead of it not long ago and nothing has changed since.
    pub(super) fn looked_up_ahead(
        &self,
        search: &Asking,
        parent: &Node,
        name: &OsStr,
    ) -> Option<LookupReply> {
        if self.settings.lookup_cache == LookupCache::None {
            return None;
        }
        let (node, looked_up) = {
            let ready = self.walks.ready.lock();
            let file = ready.files.peek(&(parent.id, name.as_bytes().into()))?;
            (file.is_looked_up.then(|| file.node.clone())?, file.since)
        };
        let good_for = self
            .settings
            .directory_min
            .checked_sub(looked_up.elapsed())?;
        let present = self.nodes.by_name(parent.id, name)?;
        let is_current = Arc::ptr_eq(&present, &node) && !node.is_superseded();
        let is_fresh = !node.state.lock().fresh_for().is_zero();
        if !is_current || !is_fresh || self.decided(search) != Some(true) {
            return None;
        }
        let entry = self.give_entry(&node);
        Some(LookupReply::Found(Entry {
            entry_ttl: entry.entry_ttl.min(good_for),
            ..entry
        }))
    }

    fn give_up_ready(&self, file: ReadyFile) {
        self.metrics.ahead_wasted_bytes.add(file.fetched_bytes);
        self.nodes.drop_unused(&file.node);
    }

    /// Sees to it that what nobody comes for is given up.
    fn sweep_later(self: &Arc<Self>) {
        if std::mem::replace(&mut self.walks.ready.lock().is_swept, true) {
            return;
        }
        let this = self.clone();
        self.timers
            .after(READY_FOR, Box::new(move || this.sweep_ready()));
    }

    fn sweep_ready(self: &Arc<Self>) {
        let mut ready = self.walks.ready.lock();
        let old = ready.take_old();
        ready.is_swept = false;
        let is_any_left = !ready.files.is_empty();
        drop(ready);
        old.into_iter().for_each(|file| self.give_up_ready(file));
        if is_any_left {
            self.sweep_later();
        }
    }
}

fn is_open(node: &Node) -> bool {
    node.state.lock().open.is_some()
}

/// The kernel has its name and attributes, and asks for neither.
fn is_with_kernel(node: &Node) -> bool {
    let state = node.state.lock();
    state.lookups > 0 && !state.fresh_for().is_zero()
}
