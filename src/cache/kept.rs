//! What is kept of a file while it is changed through this mount: its extents and its object, into which goes what goes
//! to the backend. At the end they are the content of the version that the changes led to.
//!
//! Invariants: an extent's bytes are those that the backend has, as far as we made them; what is in doubt is no extent;
//! no record in the index tells of the object; its space is counted before its bytes are written.

use super::Cache;
use super::changing::zero;
use super::content::{Content, KeptObject};
use super::directory::CacheDirectory;
use super::extents::ExtentMap;
use super::file::StoredObject;
use super::record::occupied_bytes;
use super::write_budget::today;
use crate::io::ALIGNMENT_BYTES;
use crate::types::{ByteRange, FileKey, Version};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};

/// More zeros than this are fetched rather than written.
const ZEROS_BYTES_MAX: u64 = 1 << 20;

/// What is wanted of a file that is about to be changed.
#[derive(Clone, Copy)]
pub struct Keep {
    /// Seen on the backend just now.
    pub present: Version,
    /// Nobody else can change the file meanwhile: what nobody wrote behind its end is zeros.
    pub alone: bool,
}

pub(super) struct Kept {
    cache: Weak<Cache>,
    key: FileKey,
    directory: Arc<CacheDirectory>,
    alone: bool,
    /// Held across its making.
    object: Mutex<Option<KeptObject>>,
    state: Mutex<State>,
}

struct State {
    extents: ExtentMap,
    /// Whole blocks that are counted.
    blocks: ExtentMap,
    size_bytes: u64,
    filled_at_seconds: i64,
    /// Nothing is kept after all.
    lost: bool,
}

impl Kept {
    pub fn new(
        cache: &Arc<Cache>,
        key: &FileKey,
        directory: Arc<CacheDirectory>,
        keep: Keep,
        content: Option<Content>,
    ) -> Self {
        let (object, extents, filled_at_seconds) = match content {
            Some(content) => (
                Some(content.object),
                content.extents,
                content.filled_at_seconds,
            ),
            None => (None, ExtentMap::new(), crate::clock::wall_clock().seconds),
        };
        let mut blocks = ExtentMap::new();
        for range in extents.ranges() {
            blocks.insert(range.aligned_out(ALIGNMENT_BYTES));
        }
        // Two extents in one block were counted twice.
        let counted = occupied_bytes(&extents);
        directory.space.release(counted - blocks.total_bytes());
        Self {
            cache: Arc::downgrade(cache),
            key: key.clone(),
            directory,
            alone: keep.alone,
            object: Mutex::new(object),
            state: Mutex::new(State {
                extents,
                blocks,
                size_bytes: keep.present.size_bytes,
                filled_at_seconds,
                lost: false,
            }),
        }
    }

    /// The backend has taken these bytes.
    pub fn write(&self, data: &[u8], offset: u64) {
        let range = ByteRange::at(offset, data.len() as u64);
        let stored = self.reserve(range) && self.store(data, offset);
        self.grow_to(range.start);
        let mut state = self.state.lock();
        state.size_bytes = state.size_bytes.max(range.end);
        match stored && !state.lost {
            true => state.extents.insert(range),
            false => state.extents.remove(range),
        }
    }

    fn reserve(&self, range: ByteRange) -> bool {
        self.state.lock().reserve(range, self)
    }

    fn wake_reclaim(&self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.reclaim.wake();
        }
    }

    fn store(&self, data: &[u8], offset: u64) -> bool {
        let stored = self
            .object()
            .and_then(|object| object.file.write_past_cache(data, offset));
        if let Err(error) = &stored {
            self.directory
                .report_disk_error("keeping what was written", error);
        }
        stored.is_ok() && self.directory.is_usable()
    }

    fn object(&self) -> io::Result<KeptObject> {
        let mut slot = self.object.lock();
        if let Some(object) = &*slot {
            return Ok(object.clone());
        }
        let (id, file, facts) = self.directory.create_object(0)?;
        let inode = facts.inode;
        Ok(slot.insert(KeptObject { id, file, inode }).clone())
    }

    /// The file is at least this long now; what is between was not written.
    fn grow_to(&self, size_bytes: u64) {
        let mut state = self.state.lock();
        let gap = ByteRange::new(state.size_bytes, size_bytes);
        let is_known = self.alone && gap.length_bytes() <= ZEROS_BYTES_MAX;
        if is_known && state.reserve(gap, self) {
            state.extents.insert(gap);
        }
        state.size_bytes = state.size_bytes.max(size_bytes);
    }

    pub fn set_size(&self, size_bytes: u64) {
        if let Some(object) = self.object.lock().clone()
            && let Err(error) = object.file.set_size(size_bytes)
        {
            self.directory
                .report_disk_error("following a truncation", &error);
            return self.lose();
        }
        let mut state = self.state.lock();
        if size_bytes >= state.size_bytes {
            drop(state);
            return self.grow_to(size_bytes);
        }
        state.size_bytes = size_bytes;
        state.extents.remove(ByteRange::new(size_bytes, u64::MAX));
        let before = state.blocks.total_bytes();
        let end = size_bytes.next_multiple_of(ALIGNMENT_BYTES);
        state.blocks.remove(ByteRange::new(end, u64::MAX));
        let freed = before - state.blocks.total_bytes();
        drop(state);
        self.directory.space.release(freed);
    }

    /// Zeros where the file has bytes there; with `may_grow` up to the end of the range.
    pub fn zero(&self, range: ByteRange, may_grow: bool) {
        let size_bytes = self.state.lock().size_bytes;
        let inside = range.intersection(&ByteRange::new(0, size_bytes));
        let is_kept = inside.length_bytes() <= ZEROS_BYTES_MAX && self.reserve(inside);
        let zeroed = is_kept && self.store_zeros(inside);
        let mut state = self.state.lock();
        match zeroed && !state.lost {
            true => state.extents.insert(inside),
            false => state.extents.remove(inside),
        }
        drop(state);
        if may_grow && range.end > size_bytes {
            self.set_size(range.end);
        }
    }

    fn store_zeros(&self, range: ByteRange) -> bool {
        let zeroed = self.object().and_then(|object| {
            // Up to its end only: what is behind reads as zeros when the object grows.
            zero(&*object.file, range, false)
        });
        if let Err(error) = &zeroed {
            self.directory.report_disk_error("following a hole", error);
        }
        zeroed.is_ok()
    }

    pub fn has_extents(&self) -> bool {
        !self.state.lock().extents.is_empty()
    }

    /// What the backend has there is not known.
    pub fn doubt(&self, range: ByteRange) {
        self.state.lock().extents.remove(range);
    }

    /// The backend's bytes there are others now, and the file reaches that far.
    pub fn miss(&self, range: ByteRange) {
        self.grow_to(range.end);
        self.doubt(range);
    }

    /// What the backend has is not known.
    pub fn lose(&self) {
        let mut state = self.state.lock();
        state.lost = true;
        state.extents.clear();
    }

    /// Reads what is kept of the whole range, up to the end of the file. Waits for the local disk.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let wanted = ByteRange::at(offset, buffer.len() as u64);
        let range = {
            let state = self.state.lock();
            let whole = ByteRange::new(0, state.size_bytes);
            // Somebody else may have made it longer.
            let ends_here = self.alone || wanted.end <= whole.end;
            let range = wanted.intersection(&whole);
            let is_kept = ends_here && !state.lost && state.extents.contains(range);
            is_kept.then_some(range)?
        };
        let length = range.length_bytes() as usize;
        if length == 0 {
            return Some(0);
        }
        let object = self.object.lock().clone()?;
        let read = object.file.read_at(&mut buffer[..length], offset).ok()?;
        // What was not written lies behind the object's end.
        buffer[read..length].fill(0);
        Some(length)
    }

    /// The changes have led to this version: from now on the file is cached as such, unless something is already.
    pub fn adopt(mut self, version: Version) -> bool {
        self.try_adopt(version).unwrap_or_else(|error| {
            self.directory
                .report_disk_error("keeping what was written", &error);
            false
        })
    }

    fn try_adopt(&mut self, version: Version) -> io::Result<bool> {
        let state = self.state.get_mut();
        let extents = whole_blocks(&state.extents, version.size_bytes);
        let is_right = state.size_bytes == version.size_bytes && !state.lost;
        let filled_at_seconds = state.filled_at_seconds;
        if !is_right || extents.is_empty() || !self.is_wanted(&version) {
            return Ok(false);
        }
        let object = self.object()?;
        if object.file.facts()?.size_bytes != version.size_bytes {
            object.file.set_size(version.size_bytes)?;
        }
        let stored = StoredObject {
            id: object.id,
            inode: object.inode,
            mtime_ns: object.file.facts()?.mtime_ns as i64,
            trusted: true,
        };
        let claimed = occupied_bytes(&extents);
        let file = self.directory.file(&self.key, version, None);
        let adopted = file.take_content(stored, extents, filled_at_seconds);
        if adopted {
            let counted = std::mem::take(&mut self.state.get_mut().blocks).total_bytes();
            self.directory.space.release(counted - claimed);
            *self.object.get_mut() = None;
            self.directory.mark_dirty(&file);
        }
        Ok(adopted)
    }

    fn is_wanted(&self, version: &Version) -> bool {
        let cache = self.cache.upgrade();
        cache.is_some_and(|cache| cache.settings.min_file_size_bytes <= version.size_bytes)
            && self.directory.is_usable()
    }
}

impl State {
    /// Whether there is room for these bytes; it is theirs from now on.
    fn reserve(&mut self, range: ByteRange, kept: &Kept) -> bool {
        let blocks = range.aligned_out(ALIGNMENT_BYTES);
        let missing = self.blocks.missing(blocks);
        let bytes: u64 = missing.iter().map(ByteRange::length_bytes).sum();
        let directory = &kept.directory;
        if self.lost || !directory.takes_more() {
            return false;
        }
        // What is written over again wears the disk, too, and takes no more room.
        if !directory.budget.take(range.length_bytes(), today()) {
            return false;
        }
        let has_room = directory.space.reserve(bytes);
        if has_room {
            directory.space.commit(bytes);
            self.blocks.insert(blocks);
        }
        if !has_room || directory.space.excess_over_high() > 0 {
            kept.wake_reclaim();
        }
        has_room
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let counted = self.state.get_mut().blocks.total_bytes();
        match self.object.get_mut().take() {
            Some(object) => self.directory.doom(object.id, counted),
            None => self.directory.space.release(counted),
        }
    }
}

/// What a fill, which brings whole blocks, will not write over.
fn whole_blocks(extents: &ExtentMap, size_bytes: u64) -> ExtentMap {
    let mut whole = ExtentMap::new();
    for range in extents.ranges() {
        let start = range.start.next_multiple_of(ALIGNMENT_BYTES);
        let end = match range.end == size_bytes {
            true => range.end,
            false => range.end / ALIGNMENT_BYTES * ALIGNMENT_BYTES,
        };
        whole.insert(ByteRange::new(start, end));
    }
    whole
}

impl Cache {
    /// Room for what is written to a file; `None` where such a file passes by uncached.
    pub(super) fn keep(
        self: &Arc<Self>,
        key: &FileKey,
        keep: Keep,
        content: Option<(Arc<CacheDirectory>, Content)>,
    ) -> Option<Arc<Kept>> {
        let (directory, content) = match content {
            Some((directory, content)) => (directory, Some(content)),
            None => (self.directory_of(key)?.clone(), None),
        };
        Some(Arc::new(Kept::new(self, key, directory, keep, content)))
    }
}
