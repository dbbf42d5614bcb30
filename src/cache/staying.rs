//! What stays although the eviction policy would let it go: pinned files, and what is being warmed up for as long as that
//! goes on. Both stand in queues of their own, so that eviction asks for no file whether it stays.

use super::Cache;
use super::allowance::Allowance;
use super::directory::CacheDirectory;
use super::file::CachedFile;
use super::index::{IndexError, Pinned};
use super::pins::{Paths, PinList};
use super::policy::{Blocks, Place, Queue};
use super::record::{FileRecord, occupied};
use crate::types::{ByteRange, FileKey, Version};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Looked up in the index at once.
const FILES_AT_ONCE: usize = 256;
/// No warm-up goes on.
const NEVER: Blocks = Blocks::MAX;

/// Why a file stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stay {
    #[default]
    ByPolicy,
    /// It was warmed up when the access clock said this.
    Warmed(Blocks),
    Pinned,
}

/// Of one directory.
pub(super) struct Staying {
    /// What was warmed up from here on stays.
    warmed_since: AtomicU64,
    pinned: Mutex<Pinned>,
}

impl Default for Staying {
    fn default() -> Self {
        Self {
            warmed_since: AtomicU64::new(NEVER),
            pinned: Mutex::default(),
        }
    }
}

impl Staying {
    pub fn set_warmed_since(&self, since: Option<Blocks>) {
        self.warmed_since
            .store(since.unwrap_or(NEVER), Ordering::Release);
    }

    /// As the index counts them.
    pub fn set_pinned(&self, pinned: Pinned) {
        *self.pinned.lock() = pinned;
    }

    pub fn pinned(&self) -> Pinned {
        *self.pinned.lock()
    }

    /// Whether what stands there is no matter of the policy.
    pub fn covers(&self, place: Place) -> bool {
        match place.queue {
            Queue::PINNED => true,
            Queue::WARMED => place.position >= self.warmed_since.load(Ordering::Acquire),
            _ => false,
        }
    }
}

fn occupied_whole(version: &Version) -> u64 {
    occupied(ByteRange::new(0, version.size_bytes))
}

impl CachedFile {
    pub(super) fn stay(&self) -> Stay {
        self.state.lock().stay
    }

    /// Nothing of it is to be given up.
    pub(super) fn is_to_stay(&self) -> bool {
        let at = match self.stay() {
            Stay::ByPolicy => return false,
            Stay::Pinned => return true,
            Stay::Warmed(at) => Place::new(Queue::WARMED, at),
        };
        let directory = self.directory.as_ref();
        directory.is_some_and(|directory| directory.staying.covers(at))
    }
}

impl CacheDirectory {
    /// From the next checkpoint on the index tells so, too.
    pub(super) fn let_stay(&self, file: &Arc<CachedFile>, stay: Stay) {
        let before = std::mem::replace(&mut file.state.lock().stay, stay);
        if before != stay {
            self.mark_dirty(file);
        }
    }

    /// Where a file stands that stays.
    pub(super) fn place_to_stay(&self, stay: Stay) -> Option<Place> {
        match stay {
            Stay::ByPolicy => None,
            Stay::Warmed(at) => Some(Place::new(Queue::WARMED, at)),
            Stay::Pinned => Some(Place::new(
                Queue::PINNED,
                self.clock.load(Ordering::Relaxed),
            )),
        }
    }

    /// The most that may stay: what eviction makes room for.
    pub fn staying_bytes_max(&self) -> u64 {
        self.space.low_bytes()
    }

    /// Those of the pinned files that are not to be pinned any more go the way of all others. Waits for the local disk.
    fn unpin_others(&self, is_pinned: &dyn Fn(&FileKey) -> bool) -> Result<(), IndexError> {
        if self.staying.pinned().files == 0 && !self.has_dirty_files() {
            return Ok(());
        }
        self.checkpoint();
        let mut after = None;
        loop {
            let index = &self.index;
            let batch = index.first_of(Queue::PINNED, after.as_ref(), FILES_AT_ONCE)?;
            let Some(last) = batch.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let others = batch.iter().filter(|(_, key)| !is_pinned(key));
            others.for_each(|(_, key)| self.unpin(key));
        }
    }

    fn pin_whole(self: &Arc<Self>, key: &FileKey, version: &Version) {
        if let Some(file) = self.active_file(key).filter(|file| !file.is_gone()) {
            if file.version() == *version {
                self.let_stay(&file, Stay::Pinned);
            }
            return;
        }
        let record = self.index.get(key);
        let is_it = matches!(record, Ok(Some(record)) if record.version == *version);
        if let Some(place) = self.place_to_stay(Stay::Pinned).filter(|_| is_it) {
            self.note_move(key, place);
        }
    }

    fn unpin(&self, key: &FileKey) {
        if let Some(file) = self.active_file(key) {
            file.state.lock().stay = Stay::ByPolicy;
        }
        let now = self.clock.load(Ordering::Relaxed);
        self.note_move(key, Place::new(Queue::PROBATION, now));
    }

    pub(super) fn is_pinned(&self, record: &FileRecord, file: Option<&Arc<CachedFile>>) -> bool {
        match file {
            Some(file) => file.stay() == Stay::Pinned,
            None => record.place.queue == Queue::PINNED,
        }
    }
}

impl Cache {
    /// The names that are pinned.
    pub fn pins(&self) -> &PinList {
        &self.pins
    }

    /// Durable when it returns. Blocks on the local disks.
    pub fn change_pins(&self, change: impl FnOnce(&mut Paths)) -> io::Result<()> {
        self.pins.change(&self.directories, change)
    }

    /// Files and bytes that are pinned, as of the last checkpoint.
    pub fn pinned(&self) -> Pinned {
        let mut all = Pinned::default();
        for directory in &self.directories {
            let pinned = directory.staying.pinned();
            all.files += pinned.files;
            all.bytes += pinned.bytes;
        }
        all
    }

    /// The most that may be pinned.
    pub fn pinned_bytes_max(&self) -> u64 {
        let usable = self.directories.iter().filter(|one| one.is_usable());
        usable.map(|one| one.staying_bytes_max()).sum()
    }

    /// All of this version is pinned, and there is room for it in this allowance. Waits for the local disk.
    pub fn count_pinned(&self, allowance: &Allowance, key: &FileKey, version: &Version) -> bool {
        let own = self.directory_of(key);
        let index = self
            .directories
            .iter()
            .position(|one| own.is_some_and(|own| Arc::ptr_eq(one, own)));
        self.is_pinned_whole(key, version)
            && index.is_some_and(|index| allowance.take(index, occupied_whole(version)))
    }

    /// Lets files stay that are in the cache as a whole; nothing evicts them from its return on. Waits for the local disks.
    pub fn pin_whole(&self, files: &[(FileKey, Version)]) {
        for (key, version) in files {
            if let Some(directory) = self.directory_of(key) {
                directory.pin_whole(key, version);
            }
        }
        for directory in self.directories.iter().filter(|one| one.is_usable()) {
            directory.checkpoint();
        }
    }

    /// All of this version is there to stay. Waits for the local disk.
    pub fn is_pinned_whole(&self, key: &FileKey, version: &Version) -> bool {
        let Some(directory) = self.directory_of(key) else {
            return false;
        };
        match directory.active_file(key) {
            Some(file) if !file.is_gone() => {
                file.version() == *version && file.stay() == Stay::Pinned && file.is_complete()
            }
            _ => matches!(directory.index.get(key), Ok(Some(record))
                if record.version == *version && record.is_complete() && record.place.queue == Queue::PINNED),
        }
    }

    /// All but these are pinned no more.
    pub fn unpin_others(&self, is_pinned: &dyn Fn(&FileKey) -> bool) {
        for directory in self.directories.iter().filter(|one| one.is_usable()) {
            if let Err(error) = directory.unpin_others(is_pinned) {
                directory.report_index_error(&error);
            }
        }
        // There may have been more of it than the cache may take now.
        self.limits_have_changed();
    }
}
