//! Bytes on their way from the backend into an object: single flight per piece, waiters woken piece by
//! piece, and never before the version was seen unchanged *after* the piece was read.
//!
//! The way of a piece: queued (demand before readahead) -> in flight (`scheduler`) -> landed ->
//! verified (`verify`) -> an extent. `pieces` keeps the books.

use super::Cache;
use super::file::{CachedFile, Gone, State};
use super::pieces::{Priority, Source, Woken};
use crate::backend::SourceFile;
use crate::backend::access::is_refusal;
use crate::backend::lanes::LaneFull;
use crate::io::ALIGNMENT_BYTES;
use crate::types::{ByteRange, RangeSeries};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Why bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The backend has another version of the file.
    #[error("the file changed on the backend")]
    Changed,
    #[error("backend: {0}")]
    Backend(#[source] io::Error),
    /// The cache cannot take the bytes: read past it.
    #[error("no room in the cache")]
    Bypass,
    /// Whoever it was opened for may not read it; others who wait for it may.
    #[error("its first reader may not read it")]
    Refused,
    /// All backend threads wait for the server.
    #[error("too many calls wait for the backend")]
    Overloaded,
}

impl FetchError {
    /// For each of several waiters.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Changed => Self::Changed,
            Self::Backend(error) => Self::Backend(match error.raw_os_error() {
                Some(errno) => io::Error::from_raw_os_error(errno),
                None => io::Error::other(error.to_string()),
            }),
            Self::Bypass => Self::Bypass,
            Self::Refused => Self::Refused,
            Self::Overloaded => Self::Overloaded,
        }
    }

    /// Of a file that takes no more bytes.
    pub(super) fn of_gone(gone: Gone) -> Self {
        match gone {
            Gone::Changed => Self::Changed,
            Gone::Dropped | Gone::Damaged => Self::Bypass,
        }
    }

    pub(super) fn of_backend(error: io::Error) -> Self {
        match error.raw_os_error() {
            // The file this version belonged to is no more.
            Some(libc::ESTALE | libc::ENOENT) => Self::Changed,
            _ => Self::Backend(error),
        }
    }
}

impl CachedFile {
    /// Why nothing can be fetched into this file, if so.
    pub(super) fn refusal(&self, state: &State) -> Option<FetchError> {
        match state.gone {
            Some(gone) => Some(FetchError::of_gone(gone)),
            None if state.bypass || !self.is_served() => Some(FetchError::Bypass),
            None if state.trimming.is_under_way() => Some(FetchError::Bypass),
            None => None,
        }
    }
}

impl Cache {
    /// Brings `range` (clipped to the file) into the object, then calls `woken`; `ahead` is brought too, after all demand.
    /// Does not block.
    pub(super) fn fetch(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        block_bytes: u64,
        ahead: RangeSeries,
        woken: Woken,
    ) {
        let whole = ByteRange::new(0, file.size_bytes());
        let mut guard = file.state.lock();
        let state = &mut *guard;
        if let Some(error) = file.refusal(state) {
            drop(guard);
            return woken(Err(error));
        }
        if state.extents.contains(range) {
            drop(guard);
            woken(Ok(()));
            self.fetch_ahead(file, ahead);
            return;
        }
        let piece_bytes = self.fill_limits.piece_bytes();
        let blocks = range.aligned_out(block_bytes).aligned_out(ALIGNMENT_BYTES);
        for missing in state.extents.missing(blocks.intersection(&whole)) {
            state.pieces.want(missing, Priority::Demand, piece_bytes);
        }
        want_ahead(state, ahead, whole, piece_bytes);
        state.pieces.wait_for(range, woken);
        drop(guard);
        self.drive(file);
    }

    /// Brings these ranges with nobody waiting for them.
    pub fn fetch_ahead(self: &Arc<Self>, file: &Arc<CachedFile>, ahead: impl Into<RangeSeries>) {
        let ahead = ahead.into();
        if ahead.is_empty() {
            return;
        }
        let mut guard = file.state.lock();
        let state = &mut *guard;
        if file.refusal(state).is_some() {
            return;
        }
        let whole = ByteRange::new(0, file.size_bytes());
        let more = want_ahead(state, ahead, whole, self.fill_limits.piece_bytes());
        drop(guard);
        if more {
            self.drive(file);
        }
    }

    /// Brings `range` after whatever anybody else waits for, and `next` after that, then calls `woken`. Does not block.
    pub(super) fn fetch_behind_others(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        next: ByteRange,
        woken: Woken,
    ) {
        let whole = ByteRange::new(0, file.size_bytes());
        let mut guard = file.state.lock();
        let state = &mut *guard;
        if let Some(error) = file.refusal(state) {
            drop(guard);
            return woken(Err(error));
        }
        let piece_bytes = self.fill_limits.piece_bytes();
        for wanted in [range, next] {
            for missing in state.extents.missing(in_blocks(wanted, whole)) {
                state.pieces.want(missing, Priority::Warm, piece_bytes);
            }
        }
        if state.extents.contains(range) {
            drop(guard);
            woken(Ok(()));
        } else {
            state.pieces.wait_behind_others(range, woken);
            drop(guard);
        }
        self.drive(file);
    }

    /// Sees to it that the queued pieces of a file get going.
    pub(super) fn drive(self: &Arc<Self>, file: &Arc<CachedFile>) {
        let mut state = file.state.lock();
        match &state.pieces.source {
            Source::Open(_) => {
                let queued = state.pieces.take_unscheduled();
                drop(state);
                if queued.is_empty() {
                    // Given up while the source was opened, perhaps.
                    self.rest(file);
                } else {
                    self.schedule(file, queued);
                }
            }
            Source::Opening | Source::Settling(_) => {}
            Source::Closed => {
                if state.pieces.has_pieces() {
                    state.pieces.source = Source::Opening;
                    drop(state);
                    self.open_source(file);
                }
            }
        }
    }

    /// Opens backend file and object on a backend thread, then waits out the timestamp step if the version is fresh.
    fn open_source(self: &Arc<Self>, file: &Arc<CachedFile>) {
        let (cache, opening) = (self.clone(), file.clone());
        let submitted = self
            .demand_lane
            .submit(move || match cache.open_both(&opening) {
                Ok(source) => {
                    opening.state.lock().pieces.source = Source::Settling(source.clone());
                    let (driving, settled) = (cache.clone(), opening.clone());
                    cache.after_settling(&opening, move || {
                        if settled.may_be_written(&*source) {
                            // Asked anew by the next read, with a source of its own.
                            let given_up = settled.state.lock().pieces.close_source();
                            drop((source, given_up));
                            return driving.fail_fetch(&settled, &FetchError::Bypass);
                        }
                        settled.state.lock().pieces.settled();
                        driving.drive(&settled);
                    });
                }
                Err(error) => {
                    opening.state.lock().pieces.source = Source::Closed;
                    cache.fail_fetch(&opening, &error);
                }
            });
        if let Err(LaneFull) = submitted {
            file.state.lock().pieces.source = Source::Closed;
            self.fail_fetch(file, &FetchError::Overloaded);
        }
    }

    /// Opens the backend's file, for a read past the cache as for a fill. Blocks on the backend.
    pub(super) fn open_backend(
        &self,
        file: &CachedFile,
    ) -> Result<Arc<dyn SourceFile>, FetchError> {
        let place = {
            let state = file.state.lock();
            if let Some(source) = state.pieces.source() {
                return Ok(source.clone());
            }
            state.place.clone()
        };
        let placed = place.ok_or(FetchError::Changed)?;
        let asked = Instant::now();
        let place = placed.place();
        match self.backend.open(&place) {
            Ok(source) => {
                placed.note_opened(asked);
                Ok(source)
            }
            // Others may wait for the same bytes, who may have them.
            Err(error) if place.only_caller && is_refusal(&error) => Err(FetchError::Refused),
            Err(error) => Err(FetchError::of_backend(error)),
        }
    }

    fn open_both(&self, file: &CachedFile) -> Result<Arc<dyn SourceFile>, FetchError> {
        let source = self.open_backend(file)?;
        match file.ensure_object() {
            Ok(Some(_)) => Ok(source),
            Ok(None) => Err(FetchError::Bypass),
            Err(error) => {
                if let Some(directory) = &file.directory {
                    directory.report_disk_error("making an object", &error);
                }
                file.state.lock().bypass = true;
                Err(FetchError::Bypass)
            }
        }
    }
}

/// Queues what is missing of these ranges; whether there is anything new.
fn want_ahead(state: &mut State, ahead: RangeSeries, whole: ByteRange, piece_bytes: u64) -> bool {
    let mut more = false;
    for range in ahead.ranges() {
        for missing in state.extents.missing(in_blocks(range, whole)) {
            more |= state.pieces.want(missing, Priority::Ahead, piece_bytes);
        }
    }
    more
}

/// What a fill can bring of `range`: whole blocks, but for the end of the file.
fn in_blocks(range: ByteRange, whole: ByteRange) -> ByteRange {
    range.aligned_out(ALIGNMENT_BYTES).intersection(&whole)
}
