//! fsync, close, and what follows the last writer of a file.

use super::FileSystem;
use super::error::FsError;
use super::node::Node;
use super::open_file::{Handle, OpenFile, Writing};
use super::operations::{Done, RequestContext};
use super::order::Touch;
use super::pending::Pending;
use super::writes::{FileWrites, Writer};
use super::writing::whole_file;
use crate::events::Invalidation;
use crate::types::{Attributes, HandleId};
use std::io;
use std::sync::Arc;
use std::time::Instant;

impl FileSystem {
    /// close(2) of one descriptor of the handle.
    pub(super) fn flush_file(&self, context: RequestContext, id: HandleId, done: Done<()>) {
        let Some(handle) = self.handles.get(id) else {
            return done(Err(FsError::UnknownNode));
        };
        let Some(writing) = handle.writing.clone() else {
            return done(Ok(()));
        };
        let Writing { writer, writes } = writing;
        match (writes.keeps(), writer.is_unsynced()) {
            (true, _) => self.sync_and_conclude(context, handle.node.clone(), writer, writes, done),
            (false, true) => {
                let sync = |writer: &Writer| writer.sync_at_close();
                self.sync_by(context, &writes, &writer, sync, done);
            }
            (false, false) => done(Ok(())),
        }
    }

    fn sync_and_conclude(
        &self,
        context: RequestContext,
        node: Arc<Node>,
        writer: Arc<Writer>,
        writes: Arc<FileWrites>,
        done: Done<()>,
    ) {
        let pending = self.begin_write(context, done);
        self.in_order(
            &writes.clone(),
            whole_file(),
            Touch::Changes,
            &pending,
            move |fs, pending| {
                let outcome = match writer.is_unsynced() {
                    true => writer.sync_at_close(),
                    false => Ok(()),
                };
                writes.note_sync(&outcome);
                if outcome.is_ok() {
                    fs.conclude(&node, &writes, &writer);
                }
                pending.finish(outcome.map_err(FsError::Backend));
            },
        );
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
        if self.settings.write_back {
            return self.sync_journalled(context, handle, data_only, done);
        }
        let Some(writes) = handle.open.writes.load_full() else {
            return done(Ok(()));
        };
        let sync = move |writer: &Writer| writer.sync(data_only);
        let writers = writes.writers();
        let unsynced = writers.into_iter().find(|writer| writer.is_unsynced());
        let own = handle.writing.as_ref().map(|writing| &writing.writer);
        match (unsynced, own) {
            (None, _) => done(Ok(())),
            // A descriptor's own sync covers the file, and tells the descriptor's own errors.
            (Some(_), Some(own)) => self.sync_by(context, &writes, own, sync, done),
            (Some(other), None) => self.sync_by(context, &writes, &other, sync, done),
        }
    }

    fn sync_by(
        &self,
        context: RequestContext,
        writes: &Arc<FileWrites>,
        writer: &Arc<Writer>,
        sync: impl FnOnce(&Writer) -> io::Result<()> + Send + 'static,
        done: Done<()>,
    ) {
        let pending = self.begin_write(context, done);
        let (writer, writes) = (writer.clone(), writes.clone());
        self.on_write_lane(&pending, move |_, pending| {
            let outcome = sync(&writer);
            writes.note_sync(&outcome);
            pending.finish(outcome.map_err(FsError::Backend));
        });
    }

    /// What was closed is in the journal, too, and need not be on stable storage.
    fn sync_journalled(
        &self,
        context: RequestContext,
        handle: Arc<Handle>,
        data_only: bool,
        done: Done<()>,
    ) {
        let pending = self.begin_write(context, done);
        let Some(writing) = &handle.writing else {
            return self.on_write_lane(&pending, move |fs, pending| {
                let outcome = fs.backend.sync_written(&handle.node.key);
                pending.finish(outcome.map_err(FsError::Backend));
            });
        };
        let waiting = pending.clone();
        let synced = move |outcome: io::Result<()>| {
            waiting.finish(outcome.map_err(FsError::Backend));
        };
        writing
            .writer
            .sync_then(data_only, Box::new(synced), |may_block| {
                self.on_write_lane(&pending, |_, _| may_block());
            });
    }

    /// Runs `job` where it may wait for the backend, if that is what writes wait for.
    fn on_write_lane(
        &self,
        pending: &Arc<Pending<()>>,
        job: impl FnOnce(Arc<FileSystem>, Arc<Pending<()>>) + Send + 'static,
    ) {
        if !self.settings.write_back {
            return self.on_lane(&self.write_lane, pending, job);
        }
        let (this, waiting, refused) = (self.this(), pending.clone(), pending.clone());
        let submitted = self.write_lane.submit(move || job(this, waiting));
        if submitted.is_err() {
            refused.finish(Err(FsError::BackendTimeout));
        }
    }

    pub(super) fn close_writer(&self, handle: Arc<Handle>, writing: Writing) {
        let Writing { writer, writes } = writing;
        let unsynced = writer.is_unsynced();
        if unsynced {
            writes.note_unsynced_gone();
        }
        writes.remove(&writer);
        let was_last = self.close(&handle.node, &handle.open);
        // At once, so that the next open begins afresh.
        let ended = was_last && writes.end();
        let this = self.this();
        // Refused, the descriptor is closed here: nothing else can be done with it.
        let _ = self.write_lane.submit(move || {
            this.sync_last(&writer, &writes);
            if unsynced {
                writes.note_synced_gone();
            }
            if ended {
                this.rest(&handle.node, &writes, &writer);
            } else {
                this.settle(&handle.node, &writes, || writer.file.attributes());
            }
            if !writes.has_writers() {
                writes.let_go();
            }
        });
    }

    /// Mapped stores may have come after the last close(2).
    fn sync_last(&self, writer: &Writer, writes: &FileWrites) {
        if !writer.is_unsynced() {
            return;
        }
        let outcome = writer.sync_at_close();
        writes.note_sync(&outcome);
        if let Err(error) = outcome {
            tracing::error!(%error, "what was written after the last close could not be made durable");
        }
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
        let open = self.open_with(node, writes);
        if let (Some(fresh), Some(followers)) = (&fresh, writes.followers()) {
            self.believe_kept(node, writes, &followers, fresh.version());
        }
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
        self.go_on_with(node, open, &fresh);
        open.writes.store(None);
        // Beside what was written here others may have written.
        self.invalidations.push(Invalidation::Node(node.id));
    }

    fn rest(&self, node: &Node, writes: &FileWrites, writer: &Writer) {
        let _turning = writes.turning.lock();
        let resting = writes.take_resting();
        writes.rest(None);
        // Without any, or while they follow anew, the version that the changes led to is of no use.
        let Some(followers) = resting else {
            return;
        };
        let version = writer.file.attributes().ok().map(|found| found.version());
        if let Some(version) = version {
            self.believe_kept(node, writes, &followers, version);
        }
        followers.rest(version);
    }
}
