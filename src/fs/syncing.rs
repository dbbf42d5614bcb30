//! fsync, close, and what follows the last writer of a file.

use super::FileSystem;
use super::error::FsError;
use super::node::Node;
use super::open_file::{Handle, OpenFile, Writing};
use super::operations::{Done, RequestContext};
use super::writes::{FileWrites, Writer};
use crate::events::Invalidation;
use crate::types::{Attributes, HandleId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl FileSystem {
    /// close(2) of one descriptor of the handle.
    pub(super) fn flush_file(&self, context: RequestContext, id: HandleId, done: Done<()>) {
        let Some(handle) = self.handles.get(id) else {
            return done(Err(FsError::UnknownNode));
        };
        match &handle.writing {
            Some(writing) if writing.writer.is_unsynced() => {
                self.sync_by(context, &writing.writer, false, done);
            }
            _ => done(Ok(())),
        }
    }

    /// fsync(2): of all that was written to the file here, by whomever.
    pub(super) fn sync_file(
        &self,
        context: RequestContext,
        id: HandleId,
        data_only: bool,
        done: Done<()>,
    ) {
        let Some(handle) = self.handles.get(id) else {
            return done(Err(FsError::UnknownNode));
        };
        let unsynced = handle.open.writes.load_full().and_then(|writes| {
            let writers = writes.writers();
            writers.into_iter().find(|writer| writer.is_unsynced())
        });
        match (unsynced, &handle.writing) {
            (None, _) => done(Ok(())),
            // A descriptor's own sync covers the file, and tells the descriptor's own errors.
            (Some(_), Some(writing)) => self.sync_by(context, &writing.writer, data_only, done),
            (Some(other), None) => self.sync_by(context, &other, data_only, done),
        }
    }

    fn sync_by(
        &self,
        context: RequestContext,
        writer: &Arc<Writer>,
        data_only: bool,
        done: Done<()>,
    ) {
        let (pending, writer) = (self.begin_transfer(context, done), writer.clone());
        self.on_lane(&self.write_lane, &pending, move |_, pending| {
            pending.finish(writer.sync(data_only).map_err(FsError::Backend));
        });
    }

    pub(super) fn close_writer(&self, handle: &Arc<Handle>, writing: &Writing) {
        let Writing { writer, writes } = writing.clone();
        writes.remove(&writer);
        let was_last = self.close(&handle.node, &handle.open);
        // At once, so that the next open begins afresh.
        let ended = was_last && writes.end();
        let (this, node) = (self.this(), handle.node.clone());
        // Refused, the descriptor is closed here: nothing else can be done with it.
        let _ = self.write_lane.submit(move || {
            // Mapped stores may have come after the last close(2).
            if writer.is_unsynced()
                && let Err(error) = writer.sync(false)
            {
                tracing::error!(%error, "what was written after the last close could not be made durable");
            }
            if ended {
                this.rest(&writes, &writer);
            } else {
                this.settle(&node, &writes, || writer.file.attributes());
            }
        });
    }

    /// Takes over what changes led to, once nobody writes any more: those who have the file open for reading go on
    /// with the version there is now. Blocks on the backend.
    pub(super) fn settle(
        &self,
        node: &Arc<Node>,
        writes: &Arc<FileWrites>,
        ask: impl FnOnce() -> io::Result<Attributes>,
    ) {
        let _turning = writes.turning.lock();
        if writes.has_writers() || !writes.has_begun() {
            return;
        }
        let asked = Instant::now();
        let fresh = ask().ok();
        let open = node.state.lock().open.clone();
        let open = open.filter(|open| {
            let attached = open.writes.load_full();
            attached.is_some_and(|held| Arc::ptr_eq(&held, writes))
        });
        match (&open, fresh) {
            (Some(open), Some(fresh)) => self.move_on(node, open, fresh),
            // Without a version to go on with, reads stay with the backend.
            (Some(_), None) => return,
            (None, _) => {}
        }
        if writes.end() {
            writes.rest(fresh.map(|fresh| fresh.version()));
        }
        if let Some(fresh) = fresh {
            self.take_attributes(node, fresh, asked);
        }
    }

    fn move_on(&self, node: &Arc<Node>, open: &OpenFile, fresh: Attributes) {
        let new = self.cache.file(&node.key, fresh.version());
        new.begin_use(open.opened(node), Instant::now());
        open.delivered.store(false, Ordering::Release);
        let old = open.file.swap(new);
        old.end_use();
        open.writes.store(None);
        // Beside what was written here others may have written.
        self.invalidations.push(Invalidation::Node(node.id));
    }

    fn rest(&self, writes: &FileWrites, writer: &Writer) {
        let _turning = writes.turning.lock();
        let version = match writes.wants_version() {
            true => writer.file.attributes().ok().map(|found| found.version()),
            false => None,
        };
        writes.rest(version);
    }
}
