//! A large file that somebody has open cannot go, but parts of it can: pieces that were not read since the last look, by
//! holes punched into its object.
//!
//! What always holds: only an object that is not complete loses bytes, since the kernel never had it (see
//! `give_to_kernel`). The extents go from memory first, then durably from the index, then the hole is punched. Meanwhile
//! what is missing passes by uncached; a read that was under way is made again.

use super::directory::CacheDirectory;
use super::extents::ExtentMap;
use super::file::{CachedFile, State};
use super::history::Loss;
use super::pieces::PIECE_BYTES;
use super::record::{ObjectId, occupied};
use crate::io::IoFile;
use crate::types::ByteRange;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Of one file.
#[derive(Default)]
pub(super) struct Trimming {
    /// Pieces read since the hand went by, a bit each.
    read: Vec<u64>,
    /// The piece that the next look begins with.
    hand: u64,
    /// No extents any more, but in the object still.
    is_under_way: bool,
}

/// Bytes about to leave an object.
pub(super) struct Trimmed {
    file: Arc<CachedFile>,
    object: Arc<dyn IoFile>,
    id: ObjectId,
    ranges: Vec<ByteRange>,
    bytes: u64,
}

/// What became of bytes that are to be fetched again.
pub(super) enum Cut {
    Parts(Trimmed),
    /// They are part of an object that goes whole or not at all.
    Whole,
    /// Something else is under way.
    Busy,
    /// They are not there any more.
    Nothing,
}

impl Trimming {
    pub fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    pub fn note_read(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / PIECE_BYTES, (range.end - 1) / PIECE_BYTES);
        let words = last as usize / 64 + 1;
        if self.read.len() < words {
            self.read.resize(words, 0);
        }
        for piece in first..=last {
            self.read[piece as usize / 64] |= 1 << (piece % 64);
        }
    }

    /// Whether the piece was read since this was asked last.
    fn was_read(&mut self, piece: u64) -> bool {
        let Some(word) = self.read.get_mut(piece as usize / 64) else {
            return false;
        };
        let bit = 1 << (piece % 64);
        let was_read = *word & bit != 0;
        *word &= !bit;
        was_read
    }

    /// Once round, from the hand on, what was not read; never all there is.
    fn pick(&mut self, extents: &ExtentMap, wanted_bytes: u64) -> Vec<ByteRange> {
        let spare_bytes = extents.total_bytes().saturating_sub(PIECE_BYTES);
        let parts = in_pieces(extents);
        let at_hand = parts.partition_point(|part| part.start / PIECE_BYTES < self.hand);
        let (mut picked, mut bytes) = (Vec::new(), 0);
        for part in parts[at_hand..].iter().chain(&parts[..at_hand]) {
            if bytes >= wanted_bytes || bytes + part.length_bytes() > spare_bytes {
                break;
            }
            let piece = part.start / PIECE_BYTES;
            self.hand = piece + 1;
            if !self.was_read(piece) {
                picked.push(*part);
                bytes += part.length_bytes();
            }
        }
        picked
    }
}

/// The extents, cut at multiples of [`PIECE_BYTES`].
pub(super) fn in_pieces(extents: &ExtentMap) -> Vec<ByteRange> {
    let mut parts = Vec::new();
    for range in extents.ranges() {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min((start / PIECE_BYTES + 1) * PIECE_BYTES);
            parts.push(ByteRange::new(start, end));
            start = end;
        }
    }
    parts
}

impl CachedFile {
    /// The bytes can be read from the object, and are about to be: with what [`CachedFile::was_trimmed`] is asked
    /// afterwards.
    pub(super) fn begin_read(&self, range: ByteRange) -> Option<u64> {
        let mut state = self.state.lock();
        if !self.has_served(&state, range) {
            return None;
        }
        state.trimming.note_read(range);
        Some(self.trims.load(Ordering::Acquire))
    }

    /// What was read from the object since may be holes.
    pub(super) fn was_trimmed(&self, since: u64) -> bool {
        self.trims.load(Ordering::Acquire) != since
    }

    fn begin_trim(self: &Arc<Self>, wanted_bytes: u64) -> Option<Trimmed> {
        let object = self.kept_object_file().filter(|_| !self.is_to_stay())?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let id = state.object.filter(|object| object.trusted)?.id;
        let is_complete = state.extents.contains(ByteRange::new(0, self.size_bytes()));
        let is_busy = state.trimming.is_under_way || state.pieces.whole;
        if state.gone.is_some() || state.given_to_kernel || is_complete || is_busy {
            return None;
        }
        let mut ranges = state.trimming.pick(&state.extents, wanted_bytes);
        // Whoever waits for the rest of what it reads would wait for good.
        ranges.retain(|range| !state.pieces.is_awaited(range));
        if ranges.is_empty() {
            return None;
        }
        Some(self.take_out(state, object, id, ranges))
    }

    fn take_out(
        self: &Arc<Self>,
        state: &mut State,
        object: Arc<dyn IoFile>,
        id: ObjectId,
        ranges: Vec<ByteRange>,
    ) -> Trimmed {
        for range in &ranges {
            state.extents.remove(*range);
            state.sums.make_void(*range);
        }
        state.trimming.is_under_way = true;
        self.trims.fetch_add(1, Ordering::AcqRel);
        Trimmed {
            file: self.clone(),
            object,
            id,
            bytes: ranges.iter().map(|range| occupied(*range)).sum(),
            ranges,
        }
    }

    /// Takes whole blocks out of the extents, to be followed by [`CacheDirectory::finish_trims`]. An object that is complete
    /// may have been the kernel's in an earlier life: only if nobody has it now. Waits for the local disk.
    pub(super) fn cut_out(self: &Arc<Self>, wanted: &[ByteRange]) -> Cut {
        let Ok(Some(object)) = self.object_file() else {
            return Cut::Nothing;
        };
        let is_exclusive = object.is_exclusive();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let is_there = |range: &&ByteRange| state.extents.contains(**range);
        let ranges: Vec<ByteRange> = wanted.iter().filter(is_there).copied().collect();
        let Some(stored) = state.object.filter(|_| state.gone.is_none()) else {
            return Cut::Nothing;
        };
        if ranges.is_empty() {
            return Cut::Nothing;
        }
        let is_awaited = ranges.iter().any(|range| state.pieces.is_awaited(range));
        if state.trimming.is_under_way || state.pieces.whole || is_awaited {
            return Cut::Busy;
        }
        let cut_bytes: u64 = ranges.iter().map(ByteRange::length_bytes).sum();
        let is_complete = state.extents.contains(ByteRange::new(0, self.size_bytes()));
        let is_all = cut_bytes == state.extents.total_bytes();
        if state.given_to_kernel || is_all || is_complete && !is_exclusive {
            return Cut::Whole;
        }
        let trimmed = self.take_out(state, object, stored.id, ranges);
        drop(guard);
        if let Some(directory) = &self.directory {
            directory.note_trim(&trimmed);
        }
        Cut::Parts(trimmed)
    }

    /// The extents are back where nothing was punched; false when the file has given its object up meanwhile.
    fn end_trim(&self, kept: &[ByteRange]) -> bool {
        let mut state = self.state.lock();
        state.trimming.is_under_way = false;
        if state.object.is_none() {
            return false;
        }
        kept.iter().for_each(|range| state.extents.insert(*range));
        true
    }
}

impl CacheDirectory {
    /// Takes parts of a file that is in use out of its extents, if it is one that can lose some.
    pub(super) fn begin_trim(&self, file: &Arc<CachedFile>, wanted_bytes: u64) -> Option<Trimmed> {
        let trimmed = file.begin_trim(wanted_bytes)?;
        self.note_trim(&trimmed);
        Some(trimmed)
    }

    fn note_trim(&self, trimmed: &Trimmed) {
        self.space.begin_release(trimmed.bytes);
        self.history.note_loss(&trimmed.file.key, Loss::Trimmed);
        self.mark_dirty(&trimmed.file);
    }

    /// Punches the holes, once the index claims none of these bytes. Blocks on the local disk.
    pub(super) fn finish_trims(&self, trims: Vec<Trimmed>) {
        if trims.is_empty() {
            return;
        }
        self.checkpoint();
        for trimmed in trims {
            self.finish_trim(&trimmed);
        }
    }

    fn finish_trim(&self, trimmed: &Trimmed) {
        if self.may_be_claimed(trimmed) {
            if trimmed.file.end_trim(&trimmed.ranges) {
                return self.space.end_release(trimmed.bytes, false);
            }
            // They go with the object, which was given up without them.
            let have_left = !self.doom_along(trimmed.id, trimmed.bytes);
            return self.space.end_release(trimmed.bytes, have_left);
        }
        let punched = trimmed.ranges.iter().try_for_each(|range| {
            let length_bytes = occupied(*range);
            trimmed.object.punch(range.start, length_bytes)
        });
        if let Err(error) = punched {
            self.report_disk_error("punching a hole", &error);
        }
        trimmed.file.end_trim(&[]);
        self.space.end_release(trimmed.bytes, true);
        self.metrics.trimmed_bytes.add(trimmed.bytes);
    }

    fn may_be_claimed(&self, trimmed: &Trimmed) -> bool {
        match self.index.get(&trimmed.file.key) {
            Ok(Some(record)) if record.object == trimmed.id => trimmed
                .ranges
                .iter()
                .any(|range| record.extents.missing(*range) != [*range]),
            Ok(_) => false,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(numbers: std::ops::Range<u64>) -> ByteRange {
        ByteRange::new(numbers.start * PIECE_BYTES, numbers.end * PIECE_BYTES)
    }

    #[test]
    fn what_was_read_since_the_last_look_stays_for_one_more_and_something_always_does() {
        let mut extents = ExtentMap::new();
        extents.insert(pieces(0..3));
        extents.insert(pieces(10..12));
        let mut trimming = Trimming::default();
        trimming.note_read(pieces(0..1));
        trimming.note_read(ByteRange::at(10 * PIECE_BYTES + 5, 1));
        let picked = trimming.pick(&extents, 2 * PIECE_BYTES);
        assert_eq!(picked, [pieces(1..2), pieces(2..3)]);
        picked.into_iter().for_each(|range| extents.remove(range));
        assert_eq!(
            trimming.pick(&extents, u64::MAX),
            [pieces(11..12), pieces(0..1)]
        );
        extents.remove(pieces(11..12));
        extents.remove(pieces(0..1));
        assert_eq!(trimming.pick(&extents, u64::MAX), []);
    }
}
