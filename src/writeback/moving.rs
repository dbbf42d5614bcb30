//! What the backend does not take must not keep the rest from being trimmed: it is told again at the other end of the
//! journal.
//!
//! What always holds: a copy stands for what it was made of only once all of it is in the journal, and all copies of a file do so
//! at once; a crash before that finds the old, after that the new.

use super::WriteBack;
use super::dirty::{DirtyFile, Frozen};
use super::layers::Layer;
use super::upload::UploadError;
use crate::journal::{BaseSum, Beginning, Generation, Record, Room};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Copying is worth it where at least so many times as much becomes free in the end.
const GAIN: u64 = 2;
/// Headers of records and batches that are not full.
const OVERHEAD: u64 = 2;

impl WriteBack {
    /// The journal is short of room: what stands at its end and is not taken by the backend goes to its front, as far as that
    /// makes room.
    pub(super) fn make_room(&self) {
        let newest = Generation(self.next_generation.load(Ordering::Relaxed));
        while let Some(file) = self.oldest_before(newest) {
            let Some(_uploading) = file.uploading.try_lock() else {
                return;
            };
            if !self.is_worth_moving(&file) {
                return;
            }
            if let Err(error) = self.move_forward(&file) {
                tracing::warn!(%error, "what the backend does not take could not be moved within the journal");
                return;
            }
            let path = file.state().place.path.clone();
            tracing::debug!(?path, "moved forward in the journal");
        }
    }

    /// The file that keeps the journal from being trimmed.
    fn oldest_before(&self, newest: Generation) -> Option<Arc<DirtyFile>> {
        let (_, oldest) = self.table.oldest()?;
        if oldest >= newest {
            return None;
        }
        let is_it = |file: &Arc<DirtyFile>| {
            let state = file.state();
            state
                .layers()
                .iter()
                .any(|layer| layer.generation == oldest)
        };
        self.table.all().into_iter().find(is_it)
    }

    fn is_worth_moving(&self, file: &DirtyFile) -> bool {
        let (is_refused, own_bytes) = {
            let state = file.state();
            let is_touched = state.layers().iter().any(|layer| layer.touched.is_some());
            (
                state.failures > 0 && !state.is_nameless && !is_touched,
                state.dirty_bytes(),
            )
        };
        let left = self.journal.room_bytes(Room::Uploads);
        let used = self.journal.size_bytes().saturating_sub(left);
        is_refused
            && own_bytes.saturating_mul(OVERHEAD) < left
            && self.pressure.dirty_bytes().saturating_mul(GAIN) < used
    }

    /// Called by who holds `uploading`.
    fn move_forward(&self, file: &Arc<DirtyFile>) -> Result<(), UploadError> {
        let _turn = file.turn.lock();
        let (frozen, open) = {
            let state = file.state();
            (state.frozen.clone(), state.open.clone())
        };
        let mut copies = Copies {
            back: self,
            file,
            pairs: Vec::new(),
        };
        let frozen = frozen
            .map(|frozen| copies.copy_frozen(&frozen))
            .transpose()?;
        let open = open.map(|open| copies.copy(&open, None)).transpose()?;
        copies.take_effect()?;
        let mut state = file.state();
        // Removed meanwhile: replay knows what that means for the copies.
        if copies.are_of(&state.layers()) {
            state.frozen = frozen;
            state.open = open;
            copies.end_old();
        }
        Ok(())
    }

    pub(super) fn append_intent(
        &self,
        generation: Generation,
        base: &[BaseSum],
    ) -> Result<(), UploadError> {
        let mut parts = base.chunks(super::upload::SUMS_IN_A_RECORD);
        let mut next = Some(parts.next().unwrap_or_default());
        while let Some(base) = next {
            let base = base.to_vec();
            let record = Record::Intent { generation, base };
            self.journal.append(&record, Room::Uploads)?;
            next = parts.next();
        }
        Ok(())
    }
}

/// Copies of one file's layers. Dropped before they take effect, they are forgotten.
struct Copies<'a> {
    back: &'a WriteBack,
    file: &'a DirtyFile,
    /// What was copied, and the copy.
    pairs: Vec<(Layer, Layer)>,
}

impl Copies<'_> {
    fn copy_frozen(&mut self, frozen: &Frozen) -> Result<Frozen, UploadError> {
        let sums = frozen.intent.as_deref().map(Vec::as_slice);
        let layer = self.copy(&frozen.layer, sums)?;
        Ok(Frozen {
            layer: Arc::new(layer),
            intent: frozen.intent.clone(),
        })
    }

    fn copy(&mut self, layer: &Layer, sums: Option<&[BaseSum]>) -> Result<Layer, UploadError> {
        let back = self.back;
        let beginning = self.beginning(layer);
        let (generation, base) = (beginning.generation, beginning.base);
        let first = back.table.begin(generation, &back.journal);
        let copy = Layer::new(generation, first, base, layer.floor, layer.stamp);
        self.pairs.push((layer.clone(), copy));
        back.journal
            .append(&Record::Begin(beginning), Room::Uploads)?;
        let (_, copy) = self.pairs.last_mut().expect("just pushed");
        for (range, part) in layer.extents.iter() {
            let mut data = vec![0; range.length_bytes() as usize];
            back.journal.read(&part.piece, part.skip, &mut data)?;
            let pieces = back.journal.append_data(
                generation,
                range.start,
                layer.stamp,
                &data,
                Room::Uploads,
            )?;
            copy.write(range.start, &pieces, layer.stamp);
        }
        let size = Record::Size {
            generation,
            size_bytes: layer.size_bytes,
            stamp: layer.stamp,
        };
        back.journal.append(&size, Room::Uploads)?;
        copy.set_size(layer.size_bytes, layer.stamp);
        copy.first_stamp = layer.first_stamp;
        let copy = copy.clone();
        if let Some(sums) = sums {
            back.append_intent(generation, sums)?;
        }
        Ok(copy)
    }

    fn beginning(&self, layer: &Layer) -> Beginning {
        let state = self.file.state();
        let follows = self.pairs.last().map(|(_, below)| below.generation);
        let number = self.back.next_generation.fetch_add(1, Ordering::Relaxed);
        Beginning {
            generation: Generation(number),
            key: self.file.key.clone(),
            inode: state.place.inode,
            path: state.place.path.clone(),
            base: match follows {
                None => state.expected(layer),
                Some(_) => None,
            },
            follows,
            size_bytes: layer.floor,
            is_nameless: state.is_nameless,
            is_copy: true,
            opener: state.opener.clone(),
        }
    }

    fn take_effect(&self) -> Result<(), UploadError> {
        let generations = |(old, new): &(Layer, Layer)| (old.generation, new.generation);
        let pairs = self.pairs.iter().map(generations).collect();
        let moved = Record::Moved { pairs };
        let sequence = self.back.journal.append(&moved, Room::Uploads)?;
        Ok(self.back.journal.make_durable(sequence)?)
    }

    /// From the top down.
    fn are_of(&self, layers: &[&Layer]) -> bool {
        let copied = self.pairs.iter().rev().map(|(old, _)| old.generation);
        copied.eq(layers.iter().map(|layer| layer.generation))
    }

    /// What was copied is not needed any more.
    fn end_old(&mut self) {
        for (old, _) in std::mem::take(&mut self.pairs) {
            self.back
                .table
                .end(old.generation, old.first, &self.back.journal);
        }
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        for (_, copy) in &self.pairs {
            self.back
                .table
                .end(copy.generation, copy.first, &self.back.journal);
        }
    }
}
