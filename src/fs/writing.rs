//! Changing bytes: every change is on the backend before it is acknowledged.
//!
//! What always holds: before the first byte of a file changes the cache has given the file up, and reads go to the
//! backend from then until the last writer is gone; objects that the kernel reads by itself are written to as the
//! backend was, before the change is acknowledged; a change goes on to its end when its request has been given up.

use super::FileSystem;
use super::error::FsError;
use super::node::Node;
use super::open_file::{Handle, Writing};
use super::operations::{AttributesReply, Done, RequestContext, Write};
use super::order::Touch;
use super::pending::Pending;
use super::reads_beside::Overtaken;
use super::writes::{FileWrites, Writer};
use crate::backend::writing::{Durability, WritableFile, WriteAccess};
use crate::cache::Followers;
use crate::events::Invalidation;
use crate::types::{ByteRange, Credentials, FileKind, HandleId, NodeId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The kernel forgets pages that nobody locks in microseconds; a write waits no longer than this for it.
const FORGETTING_LIMIT: Duration = Duration::from_millis(100);

/// Whether an open with these flags changes the file, or allows to.
pub(super) fn changes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

/// One write on its way.
#[derive(Clone)]
struct Order {
    offset: u64,
    length_bytes: usize,
    append: bool,
    durability: Durability,
    /// Stored through a mapping, of any handle.
    from_pages: bool,
    /// Who writes, where that is not the opener.
    writer: Option<Credentials>,
}

/// What a change of bytes concerns.
pub(super) struct Changing<'a> {
    pub node: &'a Arc<Node>,
    pub writes: &'a Arc<FileWrites>,
    pub file: &'a dyn WritableFile,
}

impl FileSystem {
    /// The handle, if it was opened for writing.
    pub(super) fn writing(&self, id: HandleId) -> Result<(Arc<Handle>, Writing), FsError> {
        let handle = self.handles.get(id).ok_or(FsError::UnknownNode)?;
        let writing = handle.writing.clone().ok_or(FsError::NotForWriting)?;
        Ok((handle, writing))
    }

    /// Runs `job` on a thread for writes once nothing that overlaps and came before is left.
    pub(super) fn in_order<T: Send + 'static>(
        &self,
        writes: &Arc<FileWrites>,
        range: ByteRange,
        touch: Touch,
        pending: &Arc<Pending<T>>,
        job: impl FnOnce(Arc<FileSystem>, Arc<Pending<T>>) + Send + 'static,
    ) {
        if !self.settings.write_back && !self.may_wait_for_backend(pending) {
            return;
        }
        let (this, waiting) = (self.this(), pending.clone());
        writes.order.enter(range, touch, move |turn| {
            let (on_lane, refused) = (this.clone(), waiting.clone());
            let submitted = this.write_lane.submit(move || {
                let _turn = turn;
                if !waiting.has_ended() {
                    job(on_lane, waiting);
                }
            });
            if submitted.is_err() {
                refused.finish(Err(FsError::BackendTimeout));
            }
        });
    }

    pub(super) fn write_file(
        &self,
        context: RequestContext,
        id: HandleId,
        write: Write<'_>,
        done: Done<usize>,
    ) {
        let (handle, writing) = match self.writing(id) {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        let order = self.order_of(&context, &handle, &write);
        let mut data = self.cache.buffer(write.data.len());
        data[..write.data.len()].copy_from_slice(write.data);
        let pending = self.begin_write(context, done);
        let range = order.range();
        let writes = writing.writes.clone();
        self.in_order(
            &writes,
            range,
            Touch::Changes,
            &pending,
            move |fs, pending| {
                fs.carry_out(&handle, &writing, &order, &data, pending);
            },
        );
    }

    fn order_of(&self, context: &RequestContext, handle: &Handle, write: &Write<'_>) -> Order {
        // The kernel follows a write to a cached file with an fsync of its own.
        let durability = match write.flags & libc::O_SYNC {
            libc::O_SYNC if handle.direct_io => Durability::Everything,
            libc::O_DSYNC if handle.direct_io => Durability::Data,
            _ => Durability::Accepted,
        };
        let by_caller = write.kills_set_id && !write.from_pages;
        Order {
            offset: write.offset,
            length_bytes: write.data.len(),
            append: write.flags & libc::O_APPEND != 0 && !write.from_pages,
            durability,
            from_pages: write.from_pages,
            // A write of the daemon's own would leave setuid and setgid.
            writer: by_caller.then(|| self.own_credentials(&context.caller)),
        }
    }

    fn carry_out(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        writing: &Writing,
        order: &Order,
        data: &[u8],
        pending: Arc<Pending<usize>>,
    ) {
        let data = &data[..order.length_bytes];
        let Writing { writer, writes } = writing;
        let takes_bits = order.writer.is_some() && has_set_id(&handle.node);
        let outcome = self.change_bytes(&writing.of(&handle.node), || {
            writer.unsynced.store(true, Ordering::Release);
            if order.from_pages {
                writes.mark_unsynced();
            }
            let written = write_all(writer, order, data);
            if let Some(followers) = writes.followers() {
                follow_write(&followers, order, data, &written);
            }
            written
        });
        match outcome {
            Ok(written) if takes_bits => {
                // The kernel does not know that the mode has changed.
                let (fs, handle, order) = (self.clone(), handle.clone(), order.clone());
                let id = handle.node.id;
                self.invalidations.forget_attributes_then(id, move || {
                    fs.acknowledge(&handle, &order, written, pending);
                });
            }
            Ok(written) => self.acknowledge(handle, order, written, pending),
            Err(error) => {
                pending.finish(Err(error));
            }
        }
    }

    fn acknowledge(
        &self,
        handle: &Handle,
        order: &Order,
        written: ByteRange,
        pending: Arc<Pending<usize>>,
    ) {
        let length_bytes = written.length_bytes();
        let may_leave_pages = handle.direct_io && !order.from_pages;
        if may_leave_pages && handle.open.handles.load(Ordering::Acquire) > 1 {
            // A page that another handle read beside the write may hold what was there before it. Not after a write
            // of pages: they wait for its answer.
            let reply = move || {
                pending.finish(Ok(length_bytes as usize));
            };
            // Of the end as it was before, a page has zeros where others have appended meanwhile.
            let changed = ByteRange::new(order.offset.min(written.start), written.end);
            self.invalidations
                .forget_range_then(handle.node.id, changed, reply);
            return;
        }
        // Where the kernel put the bytes into its pages: to where it took the end of the file to be.
        let assumed = ByteRange::at(order.offset, length_bytes);
        let overtaken = match may_leave_pages || order.from_pages {
            true => Overtaken::default(),
            false => handle.open.reads_beside.take(&assumed),
        };
        let (invalidations, id) = (self.invalidations.clone(), handle.node.id);
        let is_elsewhere = written.start != order.offset;
        let reply = move |pending: &Pending<usize>| {
            // Also where the request was given up before: the pages are there all the same.
            pending.finish(Ok(length_bytes as usize));
            let edges = overtaken.edges.into_iter().flatten();
            for pages in edges.chain(is_elsewhere.then_some(assumed)) {
                invalidations.push(Invalidation::Range(id, pages));
            }
        };
        let Some(pages) = overtaken.whole else {
            return reply(&pending);
        };
        // A page of several sizes may be one that the kernel holds until the answer.
        let late = reply.clone();
        pending.after(FORGETTING_LIMIT, move |pending| late(pending));
        self.invalidations
            .forget_range_then(id, pages, move || reply(&pending));
    }

    /// Makes one change of the backend: the cache gives the file up before, and what is known of its attributes goes
    /// after, however it ends.
    pub(super) fn change_bytes<T>(
        &self,
        changing: &Changing<'_>,
        make: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, FsError> {
        self.prepare_change(changing).map_err(FsError::Backend)?;
        let outcome = make();
        self.expire(changing.node);
        if self.settings.write_back {
            self.take_written(changing);
        }
        outcome.map_err(FsError::Backend)
    }

    /// What is shown of a file that is in the journal is known without the backend, which may be away.
    fn take_written(&self, changing: &Changing<'_>) {
        let asked = Instant::now();
        if let Ok(fresh) = changing.file.attributes() {
            self.take_attributes(changing.node, fresh, asked);
        }
    }

    fn prepare_change(&self, changing: &Changing<'_>) -> io::Result<()> {
        let writes = changing.writes;
        if writes.has_begun() {
            return Ok(());
        }
        let _turning = writes.turning.lock();
        if writes.has_begun() {
            return Ok(());
        }
        let keep = self.may_keep(changing)?;
        let own = self.open_with(changing.node, writes);
        let own = own.map(|open| open.file.load_full());
        let key = &changing.node.key;
        let mut followers = self.cache.begin_change(key, keep, own.as_ref());
        if followers.are_shown() {
            // What somebody else changed in the meantime must not be mixed with what we change.
            followers.keep_only(&changing.file.attributes()?.version());
        }
        followers.extend(writes.take_resting());
        writes.begin(followers);
        changing.node.state.lock().pages_current = false;
        Ok(())
    }

    pub(super) fn set_file_size(
        &self,
        context: RequestContext,
        id: NodeId,
        handle: Option<HandleId>,
        size_bytes: u64,
        done: Done<AttributesReply>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        if node.state.lock().kind() != FileKind::Regular {
            return done(Err(FsError::NotRegular));
        }
        let by_handle = handle.and_then(|handle| self.writing(handle).ok());
        let credentials = self.credentials(&context.caller);
        let pending = match by_handle {
            Some(_) => self.begin_write(context, done),
            None => self.begin_transfer(context, done),
        };
        let writes = self.writes.of(&node.key);
        self.in_order(&writes, whole_file(), Touch::Changes, &pending, {
            let writes = writes.clone();
            move |fs, pending| {
                let outcome = match by_handle {
                    Some((_, writing)) => fs.truncate(&writing.of(&node), size_bytes),
                    None => fs
                        .ask_way(&node, &credentials)
                        .and_then(|()| fs.truncate_as(&node, &writes, &credentials, size_bytes)),
                };
                pending.finish(outcome.map(|()| fs.attributes_reply(&node)));
            }
        });
    }

    fn ask_way(&self, node: &Arc<Node>, caller: &Credentials) -> Result<(), FsError> {
        let caller = self.place(node, caller).caller;
        self.ask(&self.way_unless_open(node, None, &caller))
            .map_err(FsError::Backend)
    }

    /// Truncates a file that need not be open; its attributes are taken from the backend then.
    pub(super) fn truncate_as(
        &self,
        node: &Arc<Node>,
        writes: &Arc<FileWrites>,
        caller: &Credentials,
        size_bytes: u64,
    ) -> Result<(), FsError> {
        self.refuse_if_executed(node)?;
        let place = self.place(node, caller);
        let opened = self
            .backend
            .open_writable(&place, WriteAccess::WriteOnly, caller);
        let file = opened.map_err(FsError::Backend)?;
        let changing = Changing {
            node,
            writes,
            file: &*file,
        };
        let outcome = self.truncate(&changing, size_bytes);
        self.settle(node, writes, || file.attributes());
        outcome
    }

    pub(super) fn truncate(&self, changing: &Changing<'_>, size_bytes: u64) -> Result<(), FsError> {
        self.change_bytes(changing, || {
            let outcome = changing.file.set_size(size_bytes);
            if let Some(followers) = changing.writes.followers() {
                match outcome {
                    Ok(()) => followers.set_size(size_bytes),
                    Err(_) => followers.lose_kept(),
                }
            }
            outcome
        })?;
        let asked = Instant::now();
        let fresh = changing.file.attributes().map_err(FsError::Backend)?;
        self.take_attributes(changing.node, fresh, asked);
        Ok(())
    }
}

impl Writing {
    pub fn of<'a>(&'a self, node: &'a Arc<Node>) -> Changing<'a> {
        Changing {
            node,
            writes: &self.writes,
            file: &*self.writer.file,
        }
    }
}

impl Order {
    fn range(&self) -> ByteRange {
        match self.append {
            // It goes to the end, wherever that is by then.
            true => whole_file(),
            false => ByteRange::at(self.offset, self.length_bytes as u64),
        }
    }
}

fn has_set_id(node: &Node) -> bool {
    let permissions = node.attributes(&node.state.lock()).permissions;
    permissions & (libc::S_ISUID | libc::S_ISGID) != 0
}

fn follow_write(
    followers: &Followers,
    order: &Order,
    data: &[u8],
    written: &io::Result<ByteRange>,
) {
    match written {
        Ok(written) => {
            followers.write(&data[..written.length_bytes() as usize], written.start);
            if !order.append {
                followers.doubt(ByteRange::new(written.end, order.range().end));
            }
        }
        Err(_) if order.append => followers.lose_kept(),
        Err(_) => followers.doubt(order.range()),
    }
}

pub(super) fn whole_file() -> ByteRange {
    ByteRange::new(0, u64::MAX)
}

/// Writes as much as the backend takes: an error after some bytes is told with the next write.
fn write_all(writer: &Writer, order: &Order, data: &[u8]) -> io::Result<ByteRange> {
    let (durability, by) = (order.durability, order.writer.as_ref());
    if order.append {
        let _one_at_a_time = writer.appending.lock();
        return writer.file.append(data, durability, by);
    }
    let mut done = 0;
    while done < data.len() {
        let at = order.offset + done as u64;
        match writer.file.write_at(&data[done..], at, durability, by) {
            Ok(0) => break,
            Ok(written) => done += written,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(ByteRange::at(order.offset, done as u64))
}
