//! Names: lookup and symbolic links.

use super::access::Asking;
use super::error::FsError;
use super::node::Node;
use super::operations::{Done, Entry, LookupReply, RequestContext};
use super::pending::Pending;
use super::recalling::Wanted;
use super::{FileSystem, LookupCache};
use crate::backend::Found;
use crate::backend::access::Access;
use crate::events::Invalidation;
use crate::types::{Attributes, FileKind, NodeId};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl FileSystem {
    pub(super) fn look_up(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        done: Done<LookupReply>,
    ) {
        let parent = match self.node(parent) {
            Ok(parent) => parent,
            Err(error) => return done(Err(error)),
        };
        let caller = self.asker(&parent, &context.caller);
        let search = Asking::to(&parent, Access::Search, &caller);
        if let Some(reply) = self.looked_up_ahead(&search, &parent, name) {
            return done(Ok(reply));
        }
        let pending = self.begin(context, done);
        let name = name.to_owned();
        let (known_parent, known_name) = (parent.clone(), name.clone());
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<LookupReply>>| match fs
            .nodes
            .by_name(known_parent.id, &known_name)
        {
            Some(node) => {
                fs.is_known(&node)
                    && pending.finish_with(|| Ok(LookupReply::Found(fs.give_entry(&node))))
            }
            None => {
                let absent = LookupReply::Absent {
                    ttl: Duration::ZERO,
                };
                fs.listings.lacks(&known_parent, &known_name) && pending.finish(Ok(absent))
            }
        };
        let wanted = Wanted::Name(name.clone());
        self.ask_or_known(search, wanted, &pending, known, move |fs, pending| {
            if let Err(error) = fs.ask(&Asking::way_to(&parent, &caller)) {
                return fs.fail(&pending, FsError::Backend(error));
            }
            let asked = Instant::now();
            let outcome = fs.backend.lookup(&parent.place_for(&caller), &name);
            fs.note_access(&parent, Access::Search, &caller, asked, &outcome);
            match outcome {
                Ok(found) => {
                    let known = fs.nodes.by_name(parent.id, &name);
                    let end_before = known.and_then(|node| fs.known_end(&node));
                    let node = fs.admit(&parent, &name, &found, asked);
                    let (this, told) = (fs.clone(), node.clone());
                    fs.tell_of_growth(&node, end_before, move || {
                        let entry = || Ok(LookupReply::Found(this.give_entry(&told)));
                        if !pending.finish_with(entry) {
                            this.nodes.drop_unused(&told);
                        }
                    });
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    fs.name_is_gone(&parent, &name);
                    let ttl = match fs.settings.lookup_cache {
                        LookupCache::All => fs.entry_ttl(&parent),
                        LookupCache::Positive | LookupCache::None => Duration::ZERO,
                    };
                    pending.finish(Ok(LookupReply::Absent { ttl }));
                }
                Err(error) => {
                    fs.fail(&pending, FsError::Backend(error));
                }
            }
        });
    }

    /// Takes what was found under a name over into the nodes. Not counted as a lookup.
    pub(super) fn admit(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        found: &Found,
        asked: Instant,
    ) -> Arc<Node> {
        let timeout = self.first_timeout(found.attributes.kind);
        self.note_found(parent, name, found);
        let (node, moved_from) = self.nodes.admit(parent, name, found, timeout);
        if let Some((old_parent, old_name)) = moved_from {
            let name = OsStr::from_bytes(&old_name);
            let was_only_one = node.attributes(&node.state.lock()).link_count <= 1;
            if found.attributes.link_count == 1 {
                // Its only name is this one: what the kernel remembers under the other leads nowhere now.
                self.name_is_gone(&old_parent, name);
            }
            if found.attributes.link_count == 1 || was_only_one {
                self.invalidations.push(Invalidation::Entry {
                    parent: old_parent.id,
                    name: name.to_owned(),
                });
            }
        }
        self.take_attributes(&node, found.attributes, asked);
        self.note_met(&node);
        node
    }

    /// A file has got a second name. An open tells the node and not the name: the kernel is to ask for a name of such a
    /// file each time, also for the one that it was told to believe.
    pub(super) fn doubt_name(&self, node: &Node, links_before: u32, fresh: &Attributes) {
        if links_before <= 1
            && has_more_names(fresh)
            && let Some((parent, name)) = node.parent_and_name()
        {
            let parent = parent.id;
            self.invalidations
                .push(Invalidation::Entry { parent, name });
        }
    }

    /// How long the kernel may rely on a name in this directory.
    fn entry_ttl(&self, parent: &Node) -> Duration {
        match self.settings.lookup_cache {
            LookupCache::None => Duration::ZERO,
            LookupCache::All | LookupCache::Positive => {
                let fresh_for = parent.state.lock().fresh_for();
                let shortest = self.settings.directory_min;
                // A directory not looked at for long still vouches for a name just asked for, for its shortest time; not
                // for one that is only known.
                match fresh_for < shortest && !self.health.is_away() {
                    true => shortest,
                    false => fresh_for,
                }
            }
        }
    }

    /// An entry to answer with, counted as one lookup.
    pub(super) fn give_entry(&self, node: &Arc<Node>) -> Entry {
        self.nodes.count_lookup(node);
        let (attributes, attribute_ttl) = self.shown_attributes(node);
        let entry_ttl = match node.parent_and_name() {
            _ if has_more_names(&attributes) => Duration::ZERO,
            Some((parent, _)) => self.entry_ttl(&parent),
            None => self.settings.directory_max,
        };
        Entry {
            node: node.id,
            generation: 0,
            attributes,
            entry_ttl,
            attribute_ttl,
        }
    }

    pub(super) fn link_target(&self, context: RequestContext, id: NodeId, done: Done<Vec<u8>>) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let caller = self.asker(&node, &context.caller);
        let way = Asking::way_to(&node, &caller);
        let fresh_target = {
            let state = node.state.lock();
            let target = state.link_target();
            target.filter(|_| !state.fresh_for().is_zero())
        };
        if let Some(target) = fresh_target
            && self.decided(&way) == Some(true)
        {
            return done(Ok(target));
        }
        let pending = self.begin(context, done);
        let known = node.clone();
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<Vec<u8>>>| {
            let target = known.state.lock().link_target();
            target
                .filter(|_| fs.is_known(&known))
                .is_some_and(|target| pending.finish(Ok(target)))
        };
        let (asking, wanted) = (way.clone(), Wanted::LinkTarget);
        self.ask_or_known(asking, wanted, &pending, known, move |fs, pending| {
            let read = || fs.backend.read_link(&node.place_for(&caller));
            match fs.ask(&way).and_then(|()| read()) {
                Ok(target) => {
                    // A symlink's target never changes under one inode; the version tells when the inode did.
                    let version = {
                        let mut state = node.state.lock();
                        state.set_link_target(Some(&target));
                        node.version(&state)
                    };
                    fs.names.note_link(&node.key, &version, &target);
                    pending.finish(Ok(target));
                }
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    pending.finish(Err(FsError::Stale));
                }
                Err(error) => {
                    fs.fail(&pending, FsError::Backend(error));
                }
            }
        });
    }
}

fn has_more_names(attributes: &Attributes) -> bool {
    attributes.kind == FileKind::Regular && attributes.link_count > 1
}
