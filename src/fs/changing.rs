//! Changes of names and attributes. Each runs on a thread of the changes lane with the rights of its caller, and is on the
//! backend when it is answered. What ended before its change did (deadline, interrupt) is taken over all the same, and
//! the kernel is told to look again.

use super::FileSystem;
use super::access::Asking;
use super::claims::Claim;
use super::error::FsError;
use super::node::Node;
use super::operations::{AttributesReply, Done, Entry, RequestContext};
use super::pending::Pending;
use crate::backend::Place;
use crate::events::Invalidation;
use crate::types::{AttributeChange, Credentials, NewNode, NodeId, TimeChange};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Instant;

impl FileSystem {
    /// Runs `act` once nobody else changes what it claims, and answers with what `answer` makes of its result; `answer`
    /// is not called for a request that has ended. `act` is not called for one that ended before its turn.
    pub(super) fn change<X: Send + 'static, T: Send + 'static>(
        &self,
        context: RequestContext,
        claims: Vec<Claim>,
        done: Done<T>,
        act: impl FnOnce(&Arc<FileSystem>, &Credentials) -> io::Result<X> + Send + 'static,
        answer: impl FnOnce(&Arc<FileSystem>, X) -> T + Send + 'static,
    ) {
        if self.settings.read_only {
            return done(Err(FsError::ReadOnly));
        }
        let pending = self.begin_change(context, done);
        if !self.may_wait_for_backend(&pending) {
            return;
        }
        let (this, waiting, touched) = (self.this(), pending.clone(), claims.clone());
        let queued = self.claims.when_free(claims, move |claimed| {
            let (lane, refused) = (this.changes_lane.clone(), waiting.clone());
            let submitted = lane.submit(move || {
                if !waiting.has_ended() {
                    let caller = this.credentials(&context.caller);
                    let way = this.ask_ways(&touched, &caller);
                    let result = way.and_then(|()| act(&this, &caller));
                    this.answer_change(&waiting, &touched, result, answer);
                }
                drop(claimed);
            });
            if submitted.is_err() {
                refused.finish(Err(FsError::BackendTimeout));
            }
        });
        if queued.is_err() {
            pending.finish(Err(FsError::BackendTimeout));
        }
    }

    /// Whether the caller can get to the directories where names change, and to what is not open. Whether the directories
    /// themselves are open to them the change will show. Blocks on the backend.
    fn ask_ways(&self, touched: &[Claim], caller: &Credentials) -> io::Result<()> {
        for claim in touched {
            let (Claim::Name(id, _) | Claim::Inode(id)) = claim;
            if let Some(node) = self.nodes.get(*id) {
                let caller = self.place(&node, caller).caller;
                match claim {
                    Claim::Name(..) => self.ask(&Asking::way_to(&node, &caller))?,
                    Claim::Inode(_) => self.ask(&self.way_unless_open(&node, None, &caller))?,
                }
            }
        }
        Ok(())
    }

    /// A program that handles its signals does not expect mkdir(2) to fail for one.
    fn begin_change<T: Send + 'static>(
        &self,
        context: RequestContext,
        done: Done<T>,
    ) -> Arc<Pending<T>> {
        let thread = context.caller.pid;
        let pending = self.pending.begin_patient(context.unique, thread, done);
        pending.after(self.settings.backend_timeout, |pending| {
            pending.finish(Err(FsError::BackendTimeout));
        });
        pending
    }

    fn answer_change<X, T: Send + 'static>(
        self: &Arc<Self>,
        pending: &Arc<Pending<T>>,
        touched: &[Claim],
        result: io::Result<X>,
        answer: impl FnOnce(&Arc<FileSystem>, X) -> T,
    ) {
        // What the kernel took for absent is there.
        let surprised = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EEXIST));
        let answered = pending.finish_with(|| match result {
            Ok(changed) => Ok(answer(self, changed)),
            Err(error) => Err(FsError::Backend(error)),
        });
        if !answered || surprised {
            self.make_kernel_look_again(touched);
        }
    }

    fn make_kernel_look_again(&self, touched: &[Claim]) {
        for claim in touched {
            self.invalidations.push(match claim {
                Claim::Name(parent, name) => Invalidation::Entry {
                    parent: *parent,
                    name: name.clone(),
                },
                Claim::Inode(node) => Invalidation::Attributes(*node),
            });
        }
    }

    /// The names in a directory are others now.
    pub(super) fn names_changed(&self, directory: &Node) {
        self.listings.forget(directory);
        self.names.forget_listing(&directory.key);
        self.expire(directory);
    }

    /// With `dirsync`: changed names are on stable storage. Blocks on the backend.
    pub(super) fn sync_names<T>(
        &self,
        directory: &Node,
        caller: &Credentials,
        changed: T,
    ) -> io::Result<T> {
        if self.settings.sync_names {
            let place = self.place(directory, caller);
            self.backend.sync_directory(&place)?;
        }
        Ok(changed)
    }

    /// What is known of a file's attributes, by any of its nodes, is outdated by a change of ours.
    pub(super) fn expire(&self, node: &Node) {
        let now = Instant::now();
        for one in self.nodes.of_file(node) {
            one.state.lock().expire(now);
        }
    }

    pub(super) fn make_node(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        new: NewNode,
        done: Done<Entry>,
    ) {
        let parent = match self.node(parent) {
            Ok(parent) => parent,
            Err(error) => return done(Err(error)),
        };
        let mut new = new;
        if let NewNode::Node { mode, .. } | NewNode::Directory { mode, .. } = &mut new {
            *mode = self.callers.mode_of_new(&context.caller, *mode);
        }
        let name = name.to_owned();
        let (directory, made) = (parent.clone(), name.clone());
        self.change(
            context,
            vec![Claim::Name(parent.id, name.clone())],
            done,
            move |fs, caller| {
                let asked = Instant::now();
                let place = fs.place(&parent, caller);
                let outcome = fs.backend.make(&place, &name, &new, caller);
                fs.names_changed(&parent);
                fs.sync_names(&parent, caller, (outcome?, asked))
            },
            move |fs, (found, asked)| {
                let node = fs.admit(&directory, &made, &found, asked);
                fs.give_entry(&node)
            },
        );
    }

    pub(super) fn link_node(
        &self,
        context: RequestContext,
        node: NodeId,
        parent: NodeId,
        name: &OsStr,
        done: Done<Entry>,
    ) {
        let (node, parent) = match (self.node(node), self.node(parent)) {
            (Ok(node), Ok(parent)) => (node, parent),
            (Err(error), _) | (_, Err(error)) => return done(Err(error)),
        };
        let name = name.to_owned();
        let (directory, made) = (parent.clone(), name.clone());
        let claims = vec![Claim::Name(parent.id, name.clone()), Claim::Inode(node.id)];
        self.change(
            context,
            claims,
            done,
            move |fs, caller| {
                let outcome = fs.change_keeping(&node, caller, || {
                    let (place, directory) = (fs.place(&node, caller), fs.place(&parent, caller));
                    fs.backend.link(&place, &directory, &name, caller)
                });
                fs.names_changed(&parent);
                let found = outcome?;
                fs.sync_names(&parent, caller, (found, Instant::now()))
            },
            move |fs, (found, asked)| {
                let node = fs.admit(&directory, &made, &found, asked);
                fs.give_entry(&node)
            },
        );
    }

    pub(super) fn set_attributes(
        &self,
        context: RequestContext,
        id: NodeId,
        change: AttributeChange,
        done: Done<AttributesReply>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let changed = node.clone();
        self.change(
            context,
            vec![Claim::Inode(id)],
            done,
            move |fs, caller| {
                let set = || {
                    let place = fs.place(&node, caller);
                    fs.backend.set_attributes(&place, &change, caller)
                };
                match change.modify_time {
                    TimeChange::Keep => fs.change_keeping(&node, caller, set)?,
                    TimeChange::Now | TimeChange::To(_) => fs.change_times(&node, caller, set)?,
                }
                fs.take_fresh_attributes(&node, caller)
            },
            move |fs, ()| fs.attributes_reply(&changed),
        );
    }

    /// Asks for the attributes after a change of ours. Blocks on the backend.
    fn take_fresh_attributes(&self, node: &Arc<Node>, caller: &Credentials) -> io::Result<()> {
        if !node.state.lock().fresh_for().is_zero() {
            return Ok(());
        }
        let asked = Instant::now();
        let fresh = self.backend.attributes(&self.place(node, caller))?;
        self.take_attributes(node, fresh, asked);
        Ok(())
    }

    /// Sets an extended attribute to a value, with the flags of setxattr(2), or removes it.
    pub(super) fn change_xattr(
        &self,
        context: RequestContext,
        id: NodeId,
        name: &OsStr,
        to: Option<(&[u8], i32)>,
        done: Done<()>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let name = name.to_owned();
        let to = to.map(|(value, flags)| (value.to_vec(), flags));
        self.change(
            context,
            vec![Claim::Inode(id)],
            done,
            move |fs, caller| {
                let outcome = fs.change_keeping(&node, caller, || {
                    let place = fs.place(&node, caller);
                    match &to {
                        Some((value, flags)) => {
                            fs.backend.set_xattr(&place, &name, value, *flags, caller)
                        }
                        None => fs.backend.remove_xattr(&place, &name, caller),
                    }
                });
                fs.xattrs.forget(&node, &name, &fs.names);
                outcome
            },
            |_, ()| (),
        );
    }

    /// Nothing waits here to be written: what is synced is the backend.
    pub(super) fn sync(
        &self,
        context: RequestContext,
        id: NodeId,
        done: Done<()>,
        sync: impl FnOnce(&FileSystem, &Place) -> io::Result<()> + Send + 'static,
    ) {
        if self.settings.read_only {
            return done(Ok(()));
        }
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let act =
            move |fs: &Arc<FileSystem>, caller: &Credentials| sync(fs, &fs.place(&node, caller));
        self.change(context, Vec::new(), done, act, |_, ()| ());
    }
}
