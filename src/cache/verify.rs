//! How a fetch ends: pieces that landed are verified and become extents, or are given up.
//!
//! Invariant: every way a piece or a fetch can end wakes whoever waits for it and gives back or takes into
//! use the space reserved for it, once.

use super::Cache;
use super::fetch::FetchError;
use super::file::{CachedFile, Gone};
use super::history::Loss;
use super::record::occupied;
use crate::types::ByteRange;
use std::sync::Arc;

impl Cache {
    pub(super) fn piece_landed(self: &Arc<Self>, file: &Arc<CachedFile>, range: ByteRange) {
        let mut state = file.state.lock();
        if state.pieces.is_ahead(range) {
            state.unread.insert(range);
            self.metrics.ahead_bytes.add(range.length_bytes());
        }
        let verifies = state.pieces.land(range);
        drop(state);
        if !verifies {
            return;
        }
        let (cache, verified) = (self.clone(), file.clone());
        let submitted = self
            .demand_lane
            .submit(move || cache.verify_landed(&verified));
        if submitted.is_err() {
            file.state.lock().pieces.refuse_verification();
            self.fail_fetch(file, &FetchError::Overloaded);
        }
    }

    /// Looks at the version once for all pieces that landed, until none is left. Blocks on the backend.
    fn verify_landed(self: &Arc<Self>, file: &Arc<CachedFile>) {
        loop {
            let next = file.state.lock().pieces.begin_verification();
            let Some((landed, source)) = next else {
                break;
            };
            let unchanged = file.unchanged.read();
            let verdict = match source.attributes() {
                Ok(attributes) if attributes.version() == file.version() => Ok(()),
                Ok(_) => Err(FetchError::Changed),
                Err(error) => Err(FetchError::of_backend(error)),
            };
            drop(unchanged);
            if verdict.is_ok() {
                self.publish(file, &landed);
            }
            file.state.lock().pieces.end_verification();
            if let Err(error) = verdict {
                self.cancel_reservations(file, &landed);
                match error {
                    FetchError::Changed => self.discard(file),
                    error => self.fail_fetch(file, &error),
                }
            }
        }
        self.rest(file);
    }

    fn cancel_reservations(&self, file: &CachedFile, ranges: &[ByteRange]) {
        if let Some(directory) = &file.directory {
            for range in ranges {
                directory.space.cancel(occupied(*range));
            }
        }
    }

    /// Verified pieces become extents, and whoever waits for them goes on.
    pub(super) fn publish(self: &Arc<Self>, file: &Arc<CachedFile>, ranges: &[ByteRange]) {
        let Some(directory) = &file.directory else {
            return;
        };
        let mut guard = file.state.lock();
        let state = &mut *guard;
        if let Some(gone) = state.gone {
            drop(guard);
            self.cancel_reservations(file, ranges);
            return self.fail_fetch(file, &FetchError::of_gone(gone));
        }
        for range in ranges {
            // What came in on two ways counts once.
            let missing = state.extents.missing(*range);
            let new: u64 = missing.into_iter().map(occupied).sum();
            state.extents.insert(*range);
            directory.space.commit(new);
            directory.space.cancel(occupied(*range) - new);
        }
        let complete = state.extents.contains(ByteRange::new(0, file.size_bytes()));
        state.mtime_is_noted = false;
        let extents = &state.extents;
        let woken = state.pieces.take_waiters(|range| extents.contains(range));
        drop(guard);
        if complete && let Ok(Some(object)) = file.object_file() {
            file.note_complete(&*object);
        }
        if directory.mark_dirty(file) {
            self.stop.notify_all();
        }
        for waiter in woken {
            waiter(Ok(()));
        }
        if directory.space.excess_over_high() > 0 {
            self.reclaim.wake();
        }
    }

    /// Closes descriptors of a file that nobody uses any more and nothing is on its way to. Does not block: the
    /// backend's is closed on a thread that may wait for it.
    pub(super) fn rest(self: &Arc<Self>, file: &CachedFile) {
        if file.is_used() {
            return;
        }
        let mut state = file.state.lock();
        if !state.pieces.is_idle() {
            return;
        }
        let source = state.pieces.close_source();
        drop(state);
        if let Some(source) = source {
            // Refused, it is closed here: nothing else can be done with it.
            let cache = self.clone();
            let _ = self.demand_lane.submit(move || {
                drop(source);
                cache.note_closed();
            });
        }
        file.close_object_file();
    }

    /// One piece failed: those who wait for it hear of it, the others go on.
    pub(super) fn fail_piece(
        self: &Arc<Self>,
        file: &CachedFile,
        range: ByteRange,
        error: &FetchError,
    ) {
        let mut state = file.state.lock();
        state.pieces.remove(range);
        let woken = state.pieces.take_waiters(|wanted| wanted.overlaps(&range));
        drop(state);
        for waiter in woken {
            waiter(Err(error.again()));
        }
        self.rest(file);
    }

    /// Nothing of this file comes for now: all who wait hear of it, what is queued is dropped.
    pub(super) fn fail_fetch(self: &Arc<Self>, file: &CachedFile, error: &FetchError) {
        let (landed, woken) = file.state.lock().pieces.give_up();
        self.cancel_reservations(file, &landed);
        for waiter in woken {
            waiter(Err(error.again()));
        }
        self.rest(file);
    }

    /// The backend has another version: the object goes whole, and nobody is given a byte of it any more.
    pub(super) fn discard(self: &Arc<Self>, file: &Arc<CachedFile>) {
        let before = file.state.lock().gone.replace(Gone::Changed);
        if let Some(directory) = &file.directory
            && before != Some(Gone::Changed)
        {
            directory.metrics.fills_discarded.add(1);
            directory.history.note_loss(&file.key, Loss::Replaced);
            directory.retire(file);
            self.reclaim.wake();
        }
        self.fail_fetch(file, &FetchError::Changed);
    }
}
