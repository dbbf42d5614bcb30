//! What of one file is on its way, and who waits for it. Bookkeeping only: no threads, no locks, no I/O.
//!
//! Invariants: queued and in-flight pieces do not overlap one another; a byte that is in a piece, landed, under
//! verification or comes with the whole file is not queued again, so that nothing is written over bytes that were
//! verified meanwhile; a waiter is handed out once.

use super::fetch::FetchError;
use crate::backend::SourceFile;
use crate::types::ByteRange;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One splice chain moves at most this (a pipe holds 1 MiB).
pub(super) const PIECE_BYTES: u64 = 1 << 20;

pub(super) type Woken = Box<dyn FnOnce(Result<(), FetchError>) + Send>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Priority {
    Demand,
    Ahead,
    /// After all others.
    Warm,
}

#[derive(Default)]
pub(super) struct Pieces {
    pub source: Source,
    /// Queued and in-flight pieces by their start.
    pieces: BTreeMap<u64, Piece>,
    landed: Vec<ByteRange>,
    /// Landed, and their version is being looked at.
    under_verification: Vec<ByteRange>,
    verifying: bool,
    /// A small file is being read in one go.
    pub whole: bool,
    waiters: Vec<Waiter>,
}

/// Where pieces are read from.
#[derive(Default)]
pub(super) enum Source {
    #[default]
    Closed,
    Opening,
    /// Open, but the version is so fresh that a fill must not begin yet.
    Settling(Arc<dyn SourceFile>),
    Open(Arc<dyn SourceFile>),
}

#[derive(Clone, Copy)]
struct Piece {
    range: ByteRange,
    in_flight: bool,
    priority: Priority,
    /// Nobody waited for it when it was queued.
    is_ahead: bool,
    /// The scheduler queue it stands in, if any.
    scheduled: Option<Priority>,
}

struct Waiter {
    range: ByteRange,
    woken: Woken,
}

impl Pieces {
    /// Nothing is on its way, and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.pieces.is_empty()
            && self.landed.is_empty()
            && !self.verifying
            && !self.whole
            && self.waiters.is_empty()
            && !matches!(self.source, Source::Opening | Source::Settling(_))
    }

    /// The backend's file, if a descriptor of it is open.
    pub fn source(&self) -> Option<&Arc<dyn SourceFile>> {
        match &self.source {
            Source::Open(source) | Source::Settling(source) => Some(source),
            Source::Closed | Source::Opening => None,
        }
    }

    /// Gives the backend descriptor up; the caller drops it outside its locks.
    pub fn close_source(&mut self) -> Option<Arc<dyn SourceFile>> {
        match std::mem::take(&mut self.source) {
            Source::Open(source) | Source::Settling(source) => Some(source),
            Source::Closed | Source::Opening => None,
        }
    }

    /// The version has settled: pieces may be read.
    pub fn settled(&mut self) {
        self.source = match std::mem::take(&mut self.source) {
            Source::Settling(source) => Source::Open(source),
            other => other,
        };
    }

    /// Queues what of `range` is not on its way yet, cut at multiples of `piece_bytes`. Whether there is
    /// anything new.
    pub fn want(&mut self, range: ByteRange, priority: Priority, piece_bytes: u64) -> bool {
        let gaps = self.not_under_way(range);
        for gap in &gaps {
            let mut start = gap.start;
            while start < gap.end {
                let end = gap.end.min((start / piece_bytes + 1) * piece_bytes);
                self.pieces.insert(
                    start,
                    Piece {
                        range: ByteRange::new(start, end),
                        in_flight: false,
                        priority,
                        is_ahead: priority == Priority::Ahead,
                        scheduled: None,
                    },
                );
                start = end;
            }
        }
        !gaps.is_empty()
    }

    /// The parts of `range` on no way yet.
    fn not_under_way(&self, range: ByteRange) -> Vec<ByteRange> {
        if self.whole {
            return Vec::new();
        }
        let before = self.pieces.range(..range.start).next_back();
        let mut busy: Vec<ByteRange> = before
            .into_iter()
            .chain(self.pieces.range(range.start..range.end))
            .map(|(_, piece)| piece.range)
            .chain(self.landed.iter().copied())
            .chain(self.under_verification.iter().copied())
            .filter(|held| held.overlaps(&range))
            .collect();
        busy.sort_by_key(|held| held.start);
        let mut gaps = Vec::new();
        let mut from = range.start;
        for held in busy {
            if held.start > from {
                gaps.push(ByteRange::new(from, held.start));
            }
            from = from.max(held.end);
        }
        if from < range.end {
            gaps.push(ByteRange::new(from, range.end));
        }
        gaps
    }

    /// Somebody waits for `range`; pieces queued as readahead there go with the demand now.
    pub fn wait_for(&mut self, range: ByteRange, woken: Woken) {
        self.waiters.push(Waiter { range, woken });
        for piece in self.pieces.values_mut() {
            if piece.range.overlaps(&range) {
                piece.priority = Priority::Demand;
            }
        }
    }

    /// The same for somebody whom all others go before.
    pub fn wait_behind_others(&mut self, range: ByteRange, woken: Woken) {
        self.waiters.push(Waiter { range, woken });
    }

    /// Somebody waits until all of a range is there that this is a part of.
    pub fn is_awaited(&self, part: &ByteRange) -> bool {
        self.waiters
            .iter()
            .any(|waiter| waiter.range.overlaps(part))
    }

    /// Pieces that stand in no queue of their priority yet; from now on they do.
    pub fn take_unscheduled(&mut self) -> Vec<(u64, Priority)> {
        let mut taken = Vec::new();
        for (start, piece) in &mut self.pieces {
            if !piece.in_flight && piece.scheduled != Some(piece.priority) {
                piece.scheduled = Some(piece.priority);
                taken.push((*start, piece.priority));
            }
        }
        taken
    }

    /// Whether the object is being written to, or what was written is not verified yet.
    pub fn has_bytes_under_way(&self) -> bool {
        !self.pieces.is_empty() || !self.landed.is_empty() || self.verifying
    }

    /// Bytes may still come into the object, whatever is given up now.
    pub fn is_moving(&self) -> bool {
        self.whole || self.pieces.values().any(|piece| piece.in_flight)
    }

    pub fn has_pieces(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Takes a queued piece into flight, and what to read it from. `None` if another queue entry began it,
    /// it was given up, or nothing may be read yet.
    pub fn begin(&mut self, start: u64) -> Option<(ByteRange, Arc<dyn SourceFile>)> {
        let Source::Open(source) = &self.source else {
            return None;
        };
        let piece = self
            .pieces
            .get_mut(&start)
            .filter(|piece| !piece.in_flight)?;
        piece.in_flight = true;
        Some((piece.range, source.clone()))
    }

    /// A piece taken into flight that did not begin: queued again, in no queue yet.
    pub fn put_back(&mut self, start: u64) {
        if let Some(piece) = self.pieces.get_mut(&start) {
            piece.in_flight = false;
            piece.scheduled = None;
        }
    }

    /// A piece ended without landing.
    pub fn remove(&mut self, range: ByteRange) {
        self.pieces.remove(&range.start);
    }

    /// Whether a piece was queued as readahead, be it waited for by now.
    pub fn is_ahead(&self, range: ByteRange) -> bool {
        self.pieces
            .get(&range.start)
            .is_some_and(|piece| piece.is_ahead)
    }

    /// Gives up what has not begun and nobody waits for.
    pub fn give_up_ahead(&mut self) {
        self.pieces
            .retain(|_, piece| piece.in_flight || piece.priority == Priority::Demand);
    }

    /// A piece is in the object. Whether the caller is to start a verification.
    pub fn land(&mut self, range: ByteRange) -> bool {
        self.pieces.remove(&range.start);
        self.landed.push(range);
        !std::mem::replace(&mut self.verifying, true)
    }

    /// All that landed, to be verified with one look at the version, and whom to ask. `None`: there is nothing,
    /// and the verification has ended.
    pub fn begin_verification(&mut self) -> Option<(Vec<ByteRange>, Arc<dyn SourceFile>)> {
        match &self.source {
            Source::Open(source) if !self.landed.is_empty() => {
                let source = source.clone();
                let landed = std::mem::take(&mut self.landed);
                self.under_verification.clone_from(&landed);
                Some((landed, source))
            }
            _ => {
                self.verifying = false;
                None
            }
        }
    }

    /// What was under verification is extents now, or given up.
    pub fn end_verification(&mut self) {
        self.under_verification.clear();
    }

    /// No verification could be started.
    pub fn refuse_verification(&mut self) {
        self.verifying = false;
    }

    /// Gives up all that is not in flight: what landed without being verified, and everybody who waits.
    pub fn give_up(&mut self) -> (Vec<ByteRange>, Vec<Woken>) {
        self.pieces.retain(|_, piece| piece.in_flight);
        let landed = std::mem::take(&mut self.landed);
        (landed, self.take_waiters(|_| true))
    }

    /// Those who wait for a range that `ends` says has come to its end.
    pub fn take_waiters(&mut self, ends: impl Fn(ByteRange) -> bool) -> Vec<Woken> {
        let waiters = std::mem::take(&mut self.waiters);
        let (ended, kept): (Vec<Waiter>, Vec<Waiter>) =
            waiters.into_iter().partition(|waiter| ends(waiter.range));
        self.waiters = kept;
        ended.into_iter().map(|waiter| waiter.woken).collect()
    }
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
