//! Listings: streamed from the backend, so that a directory of any size takes bounded memory; small ones are
//! remembered ([`super::listings`]), so that they can be listed again without it.

use super::FileSystem;
use super::access::Asking;
use super::error::FsError;
use super::listings::Remembered;
use super::node::Node;
use super::open_file::{DirectoryHandle, DirectoryReading, Streaming};
use super::operations::{DirectoryBudget, DirectoryItem, Done, RequestContext};
use super::pending::Pending;
use super::recalling::Wanted;
use crate::backend::access::Access;
use crate::backend::{DirectoryStream, ListedName};
use crate::types::{Credentials, FileKind, HandleId, NodeId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names a remembered listing has at most.
const LISTING_NAMES_MAX: usize = 20_000;
/// A listing read this soon after its directory changed may miss the change of the same timestamp step.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// A reply that has taken this long is given as it is: attributes of a whole one, asked of a slow server name by
/// name, would take longer than anybody waits.
const REPLY_TIME: Duration = Duration::from_millis(500);
/// "." and ".." come first.
const DOTS: u64 = 2;

impl FileSystem {
    pub(super) fn open_listing(&self, context: RequestContext, id: NodeId, done: Done<HandleId>) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let caller = self.asker(&node, &context.caller);
        if node.is_superseded() {
            // Removed here, while programs stand in it.
            return done(Ok(self.known_directory(node, caller, Arc::default())));
        }
        let asking = Asking::to(&node, Access::Read, &caller);
        let remembered = self.listings.get(&node);
        let (fresh, version) = {
            let state = node.state.lock();
            (!state.fresh_for().is_zero(), node.version(&state))
        };
        if let Some(listing) = &remembered
            && fresh
            && listing.settled
            && listing.version == version
            && self.decided(&asking) == Some(true)
        {
            return done(Ok(self.known_directory(
                node,
                caller,
                listing.names.clone(),
            )));
        }
        let pending = self.begin(context, done);
        let (known, known_caller) = (node.clone(), caller.clone());
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<HandleId>>| {
            let listing = fs.listings.get(&known);
            listing.is_some_and(|listing| {
                let (node, opener) = (known.clone(), known_caller.clone());
                pending.finish_with(|| Ok(fs.known_directory(node, opener, listing.names)))
            })
        };
        let wanted = Wanted::Listing;
        self.ask_or_known(asking, wanted, &pending, known, move |fs, pending| {
            if let Err(error) = fs.open_stream(&node, &caller, remembered, &pending) {
                fs.fail(&pending, FsError::Backend(error));
            }
        });
    }

    fn known_directory(
        &self,
        node: Arc<Node>,
        opener: Option<Credentials>,
        names: Arc<Vec<ListedName>>,
    ) -> HandleId {
        self.directories.insert(Arc::new(DirectoryHandle {
            node,
            opener,
            listing: Mutex::new(DirectoryReading::Known {
                names,
                since: Instant::now(),
            }),
        }))
    }

    fn open_stream(
        &self,
        node: &Arc<Node>,
        opener: &Option<Credentials>,
        remembered: Option<Remembered>,
        pending: &Arc<Pending<HandleId>>,
    ) -> io::Result<()> {
        self.ask(&Asking::way_to(node, opener))?;
        let place = node.place_for(opener);
        let asked = Instant::now();
        let fresh = self.backend.attributes(&place)?;
        self.take_attributes(node, fresh, asked);
        if let Some(listing) = remembered
            && listing.settled
            && listing.version == fresh.version()
        {
            self.ask(&Asking::to(node, Access::Read, opener))?;
            let opener = opener.clone();
            pending.finish_with(|| Ok(self.known_directory(node.clone(), opener, listing.names)));
            return Ok(());
        }
        let asked = Instant::now();
        let stream = self.backend.open_directory(&place);
        self.note_access(node, Access::Read, opener, asked, &stream);
        let streaming = Streaming::new(stream?);
        pending.finish_with(|| {
            Ok(self.directories.insert(Arc::new(DirectoryHandle {
                node: node.clone(),
                opener: opener.clone(),
                listing: Mutex::new(DirectoryReading::Streaming(streaming)),
            })))
        });
        Ok(())
    }

    pub(super) fn read_listing(
        &self,
        context: RequestContext,
        handle: HandleId,
        offset: u64,
        budget: DirectoryBudget,
        with_attributes: bool,
        done: Done<Vec<DirectoryItem>>,
    ) {
        let Some(directory) = self.directories.get(handle) else {
            return done(Err(FsError::UnknownNode));
        };
        let known = directory
            .listing
            .try_lock()
            .and_then(|reading| match &*reading {
                // Read from its beginning once more (rewinddir(3)) it shows what has changed since.
                DirectoryReading::Known { since, .. }
                    if offset == 0 && self.listings.changed_since(&directory.node, *since) =>
                {
                    None
                }
                DirectoryReading::Known { names, .. } => Some(names.clone()),
                DirectoryReading::Streaming(_) => None,
            });
        if let Some(names) = known {
            let may_look = self.may_look_at_names(&directory);
            let mut reply = Reply::new(self, &directory.node, budget, with_attributes && may_look);
            reply.dots(offset);
            for index in offset.saturating_sub(DOTS)..names.len() as u64 {
                if !reply.known_name(index, &names[index as usize]) {
                    break;
                }
            }
            return done(Ok(reply.items));
        }
        let pending = self.begin(context, done);
        self.on_backend(&pending, move |fs, pending| {
            let mut reading = directory.listing.lock();
            let streaming = match fs.streaming(&directory, &mut reading) {
                Ok(streaming) => streaming,
                Err(error) => return fs.fail(&pending, FsError::Backend(error)),
            };
            let outcome = fs.read_stream(
                &directory,
                streaming,
                offset,
                budget,
                with_attributes && !fs.health.is_away(),
            );
            drop(reading);
            // Names not taken by anybody (interrupted) are read again from their offset.
            pending.finish(outcome);
        });
    }

    /// Who may list a directory may not be able to search it.
    fn may_look_at_names(&self, directory: &DirectoryHandle) -> bool {
        let search = Asking::to(&directory.node, Access::Search, &directory.opener);
        self.last_decided(&search) == Some(true)
    }

    /// The directory as the backend has it now, where it was known before.
    fn streaming<'a>(
        &self,
        directory: &DirectoryHandle,
        reading: &'a mut DirectoryReading,
    ) -> std::io::Result<&'a mut Streaming> {
        if let DirectoryReading::Known { .. } = reading {
            let place = directory.node.place_for(&directory.opener);
            let stream = self.backend.open_directory(&place)?;
            *reading = DirectoryReading::Streaming(Streaming::new(stream));
        }
        match reading {
            DirectoryReading::Streaming(streaming) => Ok(streaming),
            DirectoryReading::Known { .. } => unreachable!("it was made to stream"),
        }
    }

    /// Blocks on the backend.
    fn read_stream(
        &self,
        directory: &DirectoryHandle,
        streaming: &mut Streaming,
        offset: u64,
        budget: DirectoryBudget,
        with_attributes: bool,
    ) -> Result<Vec<DirectoryItem>, FsError> {
        let failed = FsError::Backend;
        let node = &directory.node;
        let mut reply = Reply::new(self, node, budget, with_attributes);
        reply.dots(offset);
        let wanted = offset.saturating_sub(DOTS);
        if wanted < streaming.at {
            streaming.rewind().map_err(failed)?;
        }
        while streaming.at < wanted && streaming.fetch().map_err(failed)? {
            streaming.pass();
        }
        let began = Instant::now();
        while streaming.fetch().map_err(failed)? {
            let Some(listed) = streaming.names.front() else {
                break;
            };
            let is_late = began.elapsed() > REPLY_TIME && !reply.items.is_empty();
            if is_late || !reply.has_room(&listed.name) {
                break;
            }
            let entry = if with_attributes {
                streaming.entry(self, node, listed)
            } else {
                None
            };
            let index = streaming.at;
            let listed = listed.clone();
            reply.push(index, &listed, entry);
            streaming.pass();
        }
        if streaming.ended
            && streaming.names.is_empty()
            && let Some(names) = streaming.collected.take()
        {
            self.remember(directory, names, streaming.began);
        }
        Ok(reply.items)
    }

    /// Keeps a listing read from end to end if the directory is still the one it was read of.
    fn remember(&self, directory: &DirectoryHandle, names: Vec<ListedName>, began: Instant) {
        let node = &directory.node;
        let (before, first_seen) = {
            let state = node.state.lock();
            (node.version(&state), state.first_seen())
        };
        let asked = Instant::now();
        let Ok(after) = self.backend.attributes(&node.place_for(&directory.opener)) else {
            return;
        };
        if after.version() != before {
            return;
        }
        self.take_attributes(node, after, asked);
        if !self.listings.changed_since(node, began) {
            self.names.note_listing(&node.key, &before, &names);
        }
        self.listings.put(
            node,
            Remembered {
                names: Arc::new(names),
                version: before,
                settled: first_seen.elapsed() > SETTLED_AFTER || self.is_long_unchanged(node),
            },
            began,
        );
    }

    /// Last changed so long ago that no clock skew allowed for makes it recent.
    fn is_long_unchanged(&self, node: &Node) -> bool {
        let changed = node.version(&node.state.lock()).ctime.seconds;
        let age = crate::clock::wall_clock().seconds - changed;
        self.backend.has_local_clock(node.filesystem) && age > SETTLED_AFTER.as_secs() as i64
    }
}

impl Streaming {
    fn new(stream: Box<dyn DirectoryStream>) -> Self {
        Self {
            stream: Some(stream),
            names: VecDeque::new(),
            at: 0,
            ended: false,
            collected: Some(Vec::new()),
            began: Instant::now(),
        }
    }

    /// Sees to it that a name is at hand; false at the end.
    fn fetch(&mut self) -> std::io::Result<bool> {
        if self.names.is_empty() && !self.ended {
            let mut names = Vec::new();
            if let Some(stream) = &mut self.stream {
                stream.next_names(&mut names)?;
            }
            self.ended = names.is_empty();
            if let Some(collected) = &mut self.collected {
                if collected.len() + names.len() > LISTING_NAMES_MAX {
                    self.collected = None;
                } else {
                    collected.extend(names.iter().cloned());
                }
            }
            self.names.extend(names);
        }
        Ok(!self.names.is_empty())
    }

    fn pass(&mut self) {
        self.names.pop_front();
        self.at += 1;
    }

    fn rewind(&mut self) -> std::io::Result<()> {
        if let Some(stream) = &mut self.stream {
            stream.rewind()?;
        }
        self.names.clear();
        self.at = 0;
        self.ended = false;
        self.collected = Some(Vec::new());
        self.began = Instant::now();
        Ok(())
    }

    /// `None` when the attributes cannot be had: the name is listed all the same.
    fn entry(
        &self,
        fs: &FileSystem,
        parent: &Arc<Node>,
        listed: &ListedName,
    ) -> Option<super::operations::Entry> {
        let asked = Instant::now();
        let found = self.stream.as_ref()?.lookup(&listed.name).ok()?;
        let node = fs.admit(parent, &listed.name, &found, asked);
        Some(fs.give_entry(&node))
    }
}

/// A reply being filled up to its budget.
struct Reply<'a> {
    fs: &'a FileSystem,
    node: &'a Arc<Node>,
    budget: DirectoryBudget,
    with_attributes: bool,
    used_bytes: usize,
    items: Vec<DirectoryItem>,
}

impl<'a> Reply<'a> {
    fn new(
        fs: &'a FileSystem,
        node: &'a Arc<Node>,
        budget: DirectoryBudget,
        with_attributes: bool,
    ) -> Self {
        Self {
            fs,
            node,
            budget,
            with_attributes,
            used_bytes: 0,
            items: Vec::new(),
        }
    }

    fn cost(&self, name: &OsStr) -> usize {
        (self.budget.entry_overhead_bytes + name.len()).next_multiple_of(8)
    }

    fn has_room(&self, name: &OsStr) -> bool {
        self.used_bytes + self.cost(name) <= self.budget.total_bytes
    }

    fn add(&mut self, item: DirectoryItem) {
        self.used_bytes += self.cost(&item.name);
        self.items.push(item);
    }

    fn dots(&mut self, offset: u64) {
        let parent = self.node.parent_and_name().map(|(parent, _)| parent);
        let parent_inode = parent.as_ref().unwrap_or(self.node).shown_inode();
        let dots = [(".", self.node.shown_inode()), ("..", parent_inode)];
        for (index, (name, inode)) in dots.into_iter().enumerate().skip(offset as usize) {
            if self.has_room(OsStr::new(name)) {
                self.add(DirectoryItem {
                    name: OsString::from(name),
                    inode,
                    kind: FileKind::Directory,
                    next_offset: index as u64 + 1,
                    entry: None,
                });
            }
        }
    }

    fn push(&mut self, index: u64, listed: &ListedName, entry: Option<super::operations::Entry>) {
        let inode = entry.map_or(listed.inode, |entry| entry.attributes.inode);
        let kind = entry.map_or(listed.kind, |entry| entry.attributes.kind);
        self.add(DirectoryItem {
            name: listed.name.clone(),
            inode,
            kind,
            next_offset: index + 1 + DOTS,
            entry,
        });
    }

    /// From a remembered listing: attributes where they are known and still good. False when the reply is full.
    fn known_name(&mut self, index: u64, listed: &ListedName) -> bool {
        if !self.has_room(&listed.name) {
            return false;
        }
        let node = self
            .with_attributes
            .then(|| self.fs.nodes.by_name(self.node.id, &listed.name))
            .flatten()
            .filter(|node| !node.state.lock().fresh_for().is_zero());
        let entry = node.map(|node| self.fs.give_entry(&node));
        self.push(index, listed, entry);
        true
    }
}
