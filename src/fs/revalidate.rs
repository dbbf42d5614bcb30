//! Attributes and how long they are good for; what happens when the backend shows a new version.

use super::FileSystem;
use super::access::Asking;
use super::descriptors::Descriptor;
use super::error::FsError;
use super::node::Node;
use super::operations::{AttributesReply, Done, RequestContext, SpaceReply};
use super::pending::Pending;
use super::recalling::Wanted;
use super::writes::FileWrites;
use crate::backend::access::{Access, is_refusal};
use crate::backend::{BackendSpace, Found, HeldFile, Place};
use crate::events::Invalidation;
use crate::readahead::Reads;
use crate::types::{Attributes, ByteRange, Credentials, FileKind, HandleId, NodeId};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The smallest that there is.
const PAGE_BYTES: u64 = 4096;

/// A file that the server was asked for by opening it. Dropped, it is closed, which may wait for the server.
pub(super) struct Asked {
    _file: HeldFile,
    _in_the_way: Descriptor,
}

impl FileSystem {
    fn timeouts(&self, kind: FileKind) -> (Duration, Duration) {
        match kind {
            FileKind::Directory => (self.settings.directory_min, self.settings.directory_max),
            _ => (self.settings.attributes_min, self.settings.attributes_max),
        }
    }

    /// The first timeout of a file just met.
    pub(super) fn first_timeout(&self, kind: FileKind) -> Duration {
        self.timeouts(kind).0
    }

    /// Takes fresh attributes over. Their timeout doubles while nothing changes, up to the maximum, as the NFS
    /// client does it. A node that is open with a new version moves on, unless the kernel reads it by itself.
    pub(super) fn take_attributes(&self, node: &Arc<Node>, fresh: Attributes, asked: Instant) {
        self.cache.observe_clock(node.filesystem, fresh.ctime);
        let last = node.state.lock().validated();
        if last.is_none_or(|last| last <= asked) {
            self.note_attributes(node, &fresh);
        }
        let (shortest, longest) = self.timeouts(fresh.kind);
        let mut state = node.state.lock();
        if state.validated().is_some_and(|last| last > asked) {
            // Overtaken by the answer to a later question.
            return;
        }
        let links_before = node.attributes(&state).link_count;
        if state
            .open
            .as_ref()
            .is_some_and(|open| open.changing().is_some())
        {
            // Reads go to the backend, and writes through the kernel's pages: nothing is to be forgotten.
            state.set_attributes(&fresh);
            state.set_first_seen(Instant::now());
            state.set_timeout(shortest);
            state.set_validated(Some(asked));
            drop(state);
            self.doubt_name(node, links_before, &fresh);
            return;
        }
        let changed = node.version(&state) != fresh.version();
        if changed {
            state.set_timeout(shortest);
            // What was read under the old version may stay in the kernel only where it is still in use as such.
            state.pages_current = false;
            state.kernel_behind = true;
            state.set_first_seen(Instant::now());
            state.set_link_target(None);
        } else if state.validated().is_some_and(|last| asked > last) {
            let longer = (state.timeout() * 2).clamp(shortest, longest);
            state.set_timeout(longer);
        }
        state.set_attributes(&fresh);
        state.set_validated(Some(asked));
        let open = state.open.clone();
        let first_seen = state.first_seen();
        drop(state);
        self.doubt_name(node, links_before, &fresh);
        if changed {
            self.note_met(node);
        }
        let Some(open) = open.filter(|open| open.passthrough.is_none()) else {
            return;
        };
        let held = open.file.load();
        // One given up without a new version was found unreadable on the way: it begins afresh.
        if held.version() == fresh.version() && !held.is_changed() {
            return;
        }
        let new = self.cache.file(&node.key, fresh.version());
        new.begin_use(open.opened(node), first_seen);
        // What was fetched ahead was of the old version.
        *open.reads.lock() = Reads::default();
        open.move_on_to(new).end_use();
        self.invalidations.push(Invalidation::Node(node.id));
    }

    /// Asks the backend whether the name the node was found under still leads to it, and takes its attributes. `Stale`
    /// makes the kernel look the name up again: also where it has let the caller pass by rights of before.
    pub(super) fn revalidate_name(
        &self,
        node: &Arc<Node>,
        caller: &Option<Credentials>,
    ) -> Result<(), FsError> {
        let lookup = |parent: &Place, name: &OsStr| Ok((self.backend.lookup(parent, name)?, None));
        self.revalidate_by(node, caller, lookup).map(drop)
    }

    /// The same for a file whose bytes are about to be read. What is to be kept until the request has its answer.
    pub(super) fn revalidate_bytes(
        &self,
        node: &Arc<Node>,
        caller: &Option<Credentials>,
    ) -> Result<Option<Asked>, FsError> {
        let open = node.state.lock().open.clone();
        // Nobody else keeps to himself what he changes of a file with a writer here.
        let has_writer = open.is_some_and(|open| open.writes.load().is_some());
        if has_writer || !self.backend.asks_by_opening(node.filesystem) {
            return self.revalidate_name(node, caller).map(|()| None);
        }
        let in_the_way = self.descriptors.count(&node.key);
        let held = self.revalidate_by(node, caller, |parent, name| {
            self.backend.lookup_opened(parent, name)
        })?;
        Ok(held.map(|file| Asked {
            _file: file,
            _in_the_way: in_the_way,
        }))
    }

    fn revalidate_by(
        &self,
        node: &Arc<Node>,
        caller: &Option<Credentials>,
        lookup: impl FnOnce(&Place, &OsStr) -> io::Result<(Found, Option<HeldFile>)>,
    ) -> Result<Option<HeldFile>, FsError> {
        let asked = Instant::now();
        let failed = FsError::Backend;
        let Some((parent, name)) = node.parent_and_name() else {
            return Ok(None);
        };
        if node.is_nameless() {
            let fresh = self.backend.attributes(&node.place_for(caller));
            self.take_at_open(node, fresh.map_err(failed)?, asked)?;
            return Ok(None);
        }
        let found = lookup(&parent.place_for(caller), &name);
        self.note_access(&parent, Access::Search, caller, asked, &found);
        match found {
            Ok((found, held)) if node.is_of(&found) => {
                self.take_at_open(node, found.attributes, asked)?;
                Ok(held)
            }
            Ok(_) => {
                self.name_is_gone(&parent, &name);
                Err(FsError::Stale)
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.name_is_gone(&parent, &name);
                Err(FsError::Stale)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// `Stale` where the kernel has let the caller pass by other rights.
    fn take_at_open(
        &self,
        node: &Arc<Node>,
        fresh: Attributes,
        asked: Instant,
    ) -> Result<(), FsError> {
        let before = node.attributes(&node.state.lock());
        self.take_attributes(node, fresh, asked);
        match rights(&before) == rights(&fresh) {
            true => Ok(()),
            false => Err(FsError::Stale),
        }
    }

    /// The attributes to show the kernel. Where it reads a version by itself that has another size, they are that
    /// version's; else times are as they are now, which a program may just have set.
    pub(super) fn shown_attributes(&self, node: &Node) -> (Attributes, Duration) {
        let mut state = node.state.lock();
        state.kernel_behind = false;
        let mut attributes = node.attributes(&state);
        let mut ttl = state.fresh_for();
        if let Some(open) = &state.open
            && open.passthrough.is_some()
        {
            let version = open.file.load().shown_version(&attributes.version());
            if version.size_bytes != attributes.size_bytes {
                attributes.size_bytes = version.size_bytes;
                attributes.mtime = version.mtime;
                attributes.ctime = version.ctime;
            }
        }
        if node.is_superseded() {
            ttl = Duration::ZERO;
        }
        attributes.inode = node.shown_inode();
        (attributes, ttl)
    }

    pub(super) fn attributes_reply(&self, node: &Node) -> AttributesReply {
        let (attributes, ttl) = self.shown_attributes(node);
        AttributesReply { attributes, ttl }
    }

    /// Whether what is known of a node may stand in for an absent backend.
    pub(super) fn is_known(&self, node: &Node) -> bool {
        node.state.lock().validated().is_some()
    }

    pub(super) fn get_attributes(
        &self,
        context: RequestContext,
        id: NodeId,
        handle: Option<HandleId>,
        done: Done<AttributesReply>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let caller = self.asker(&node, &context.caller);
        let way = self.way_unless_open(&node, handle, &caller);
        let fresh = !node.state.lock().fresh_for().is_zero();
        if fresh && self.decided(&way) == Some(true) {
            return done(Ok(self.attributes_reply(&node)));
        }
        let pending = self.begin(context, done);
        let known = node.clone();
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<AttributesReply>>| {
            fs.is_known(&known) && pending.finish_with(|| Ok(fs.attributes_reply(&known)))
        };
        let (asking, wanted) = (way.clone(), Wanted::Nothing);
        self.ask_or_known(asking, wanted, &pending, known, move |fs, pending| {
            let asked = Instant::now();
            match fs
                .ask(&way)
                .and_then(|()| fs.ask_attributes(&node, &caller))
            {
                Ok((fresh, _asked)) => {
                    let end_before = fs.known_end(&node);
                    fs.take_attributes(&node, fresh, asked);
                    let (this, told) = (fs.clone(), node.clone());
                    fs.tell_of_growth(&node, end_before, move || {
                        pending.finish_with(|| Ok(this.attributes_reply(&told)));
                    });
                }
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    pending.finish(fs.attributes_of_the_lost(&node).ok_or(FsError::Stale));
                }
                Err(error) => match fs
                    .attributes_of_the_open(&node)
                    .filter(|_| is_refusal(&error))
                {
                    Some(reply) => {
                        pending.finish(Ok(reply));
                    }
                    None => {
                        fs.fail(&pending, FsError::Backend(error));
                    }
                },
            }
        });
    }

    /// Where a file ends as far as is known here, if the kernel has pages of it.
    pub(super) fn known_end(&self, node: &Node) -> Option<u64> {
        let state = node.state.lock();
        let open = state.open.as_ref()?;
        let end = node.attributes(&state).size_bytes;
        open.passthrough.is_none().then_some(end)
    }

    /// Behind the end a page of the kernel has zeros: it forgets that before it hears, by what `tell` does, that the file has
    /// grown. It would forget it by itself, but only after it has shown the new size to others.
    pub(super) fn tell_of_growth(
        &self,
        node: &Arc<Node>,
        end_before: Option<u64>,
        tell: impl FnOnce() + Send + 'static,
    ) {
        let has_grown = |end: &u64| node.attributes(&node.state.lock()).size_bytes > *end;
        let page = end_before.filter(has_grown).map(last_page);
        match page.filter(|page| !page.is_empty()) {
            Some(page) => self.invalidations.forget_range_then(node.id, page, tell),
            None => tell(),
        }
    }

    /// The way there matters to nobody who has the file open (fstat(2), of which the kernel does not tell).
    pub(super) fn way_unless_open(
        &self,
        node: &Arc<Node>,
        handle: Option<HandleId>,
        caller: &Option<Credentials>,
    ) -> Asking {
        let is_open = handle.is_some() || node.state.lock().open.is_some();
        match is_open {
            true => Asking::way_to(node, &None),
            false => Asking::way_to(node, caller),
        }
    }

    /// Blocks on the backend. By a writer's descriptor where there is one: it is good for an unlinked file, too.
    fn ask_attributes(
        &self,
        node: &Node,
        caller: &Option<Credentials>,
    ) -> io::Result<(Attributes, Option<Asked>)> {
        let open = node.state.lock().open.clone();
        let is_open = open.is_some();
        let writes = open.and_then(|open| open.writes.load_full());
        let place = node.place_for(caller);
        let by_name = |writes: Option<Arc<FileWrites>>| {
            let answer = writes.and_then(|writes| writes.attributes());
            answer.unwrap_or_else(|| self.backend.attributes(&place))
        };
        if !is_open || writes.is_some() || !self.backend.asks_by_opening(node.filesystem) {
            return by_name(writes).map(|fresh| (fresh, None));
        }
        let in_the_way = self.descriptors.count(&node.key);
        let (fresh, held) = self.backend.attributes_opened(&place)?;
        let asked = held.map(|file| Asked {
            _file: file,
            _in_the_way: in_the_way,
        });
        Ok((fresh, asked))
    }

    /// A file removed on the backend while it is open here still has the attributes it had (fstat(2)), and so has a
    /// directory removed through this mount, of which the kernel tells no longer whether it is open.
    fn attributes_of_the_lost(&self, node: &Node) -> Option<AttributesReply> {
        let lasts = {
            let state = node.state.lock();
            state.open.is_some() || state.kind() == FileKind::Directory && node.is_superseded()
        };
        lasts.then(|| {
            let (mut attributes, _) = self.shown_attributes(node);
            attributes.link_count = 0;
            AttributesReply {
                attributes,
                ttl: Duration::ZERO,
            }
        })
    }

    /// fstat(2), and a read(2) that asks where the file ends, take no right beyond the one to open: a server that refuses
    /// by now takes none away.
    fn attributes_of_the_open(&self, node: &Node) -> Option<AttributesReply> {
        let state = node.state.lock();
        let is_open = state.open.is_some() && state.kind() == FileKind::Regular;
        drop(state);
        is_open.then(|| AttributesReply {
            ttl: Duration::ZERO,
            ..self.attributes_reply(node)
        })
    }

    pub(super) fn get_space(&self, context: RequestContext, id: NodeId, done: Done<SpaceReply>) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let caller = self.asker(&node, &context.caller);
        let pending = self.begin(context, done);
        if self.or_known(&pending, move |fs, pending| {
            let last = fs.last_space.lock().filter(|_| fs.may_bridge());
            last.is_some_and(|last| pending.finish(Ok(space_reply(last))))
        }) {
            return;
        }
        self.on_backend(&pending, move |fs, pending| {
            match fs.backend.space(&node.place_for(&caller)) {
                Ok(space) => {
                    *fs.last_space.lock() = Some(space);
                    fs.names.note_space(&space);
                    pending.finish(Ok(space_reply(space)));
                }
                Err(error) => {
                    fs.fail(&pending, FsError::Backend(error));
                }
            }
        });
    }
}

/// The one with the end in it; empty where it ends with a page.
fn last_page(end: u64) -> ByteRange {
    let begin = end - end % PAGE_BYTES;
    ByteRange::new(begin, end.next_multiple_of(PAGE_BYTES))
}

fn space_reply(space: BackendSpace) -> SpaceReply {
    SpaceReply {
        blocks: space.blocks,
        blocks_free: space.blocks_free,
        blocks_available: space.blocks_available,
        files: space.files,
        files_free: space.files_free,
        block_size_bytes: space.block_size_bytes,
        fragment_size_bytes: space.fragment_size_bytes,
        name_length_max: space.name_length_max,
    }
}

/// What the kernel decides by who may open a file.
fn rights(attributes: &Attributes) -> (u32, u32, u32) {
    (attributes.permissions, attributes.uid, attributes.gid)
}
