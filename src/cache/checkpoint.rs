//! From memory to the index: data is made durable first, then claimed.

use super::directory::CacheDirectory;
use super::file::CachedFile;
use super::index::{Change, Clocks, IndexError};
use super::layout;
use super::policy::{Place, Queue, Usage};
use super::record::{FileRecord, ObjectId};
use crate::io::is_no_room;
use crate::types::FileKey;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More changed objects than this are made durable by one syncfs instead of one fsync each.
const SYNC_EACH_MAX: usize = 32;
/// Object ids set aside per checkpoint beyond those in use; more than a checkpoint interval can make.
const OBJECT_ID_SLACK: u64 = 10_000_000;
/// So many files that the index does not know are reason for a checkpoint before its time: each is about a
/// kilobyte of memory until then.
const DIRTY_FILES_DUE: usize = 4096;
/// With so many, new data passes by uncached.
const DIRTY_FILES_MAX: usize = 65_536;

/// The last use of a file since the last checkpoint: all of that time count as one.
#[derive(Clone, Copy)]
pub(super) struct Use {
    /// What the access clock said.
    pub clock: u64,
    pub usage: Usage,
}

/// What the index does not know yet.
#[derive(Default)]
pub(super) struct Pending {
    dirty: HashMap<FileKey, Arc<CachedFile>>,
    removed: HashSet<(FileKey, ObjectId)>,
    /// Removals of the checkpoint under way: the index still has these records.
    being_removed: HashSet<(FileKey, ObjectId)>,
    used: HashMap<FileKey, Use>,
    /// Uses that the checkpoint under way notes: the index does not tell of them yet.
    being_used: Arc<HashMap<FileKey, Use>>,
    /// Spared by the eviction policy.
    moved: HashMap<FileKey, Place>,
    /// Age entries that lead nowhere.
    stray_ages: Vec<(FileKey, u64)>,
}

impl Pending {
    /// The file has given its object up, and the index has no record of it or will not have one soon.
    pub(super) fn forget(&mut self, file: &CachedFile) -> Option<Arc<CachedFile>> {
        let is_own = |dirty: &mut Arc<CachedFile>| std::ptr::eq(&**dirty, file);
        match self.dirty.get_mut(&file.key).is_some_and(is_own) {
            true => self.dirty.remove(&file.key),
            false => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.removed.is_empty()
            && self.used.is_empty()
            && self.moved.is_empty()
    }
}

impl CacheDirectory {
    /// Takes a file's content out of the index, its object to be removed when nobody has it. Once, however
    /// often it is called.
    pub(super) fn retire(&self, file: &CachedFile) {
        let mut pending = self.pending.lock();
        // In one step with the removal: an object that its file gave up is never taken for a stored one.
        let taken = file.take_object();
        if let Some((object, _)) = taken {
            pending.removed.insert((file.key.clone(), object));
        }
        let dirty = pending.forget(file);
        drop(pending);
        drop(dirty);
        if let Some((object, occupied_bytes)) = taken {
            self.doom(object, occupied_bytes);
        }
    }

    /// Takes this object from a file, which starts empty.
    pub(super) fn forget(&self, file: &CachedFile, object: ObjectId) {
        let mut pending = self.pending.lock();
        let Some(occupied_bytes) = file.clear_object(object) else {
            return;
        };
        pending.removed.insert((file.key.clone(), object));
        drop(pending);
        self.doom(object, occupied_bytes);
    }

    /// The object is no more: its record goes with the next checkpoint. The bytes that it took, where the file is in memory:
    /// more than the record tells of, if there was more to come in that checkpoint; none, if the file was found changed
    /// meanwhile, and its object is doomed and counts until that is swept.
    pub(super) fn give_object_up(
        &self,
        key: &FileKey,
        object: ObjectId,
        file: Option<&CachedFile>,
    ) -> Option<u64> {
        let mut pending = self.pending.lock();
        // In one step: a checkpoint in between would claim it again.
        pending.removed.insert((key.clone(), object));
        file.map(|file| file.take_object().map_or(0, |(_, bytes)| bytes))
    }

    /// The next checkpoint takes the record out, if it still tells of this object.
    pub(super) fn remove_record(&self, key: &FileKey, object: ObjectId) {
        self.pending.lock().removed.insert((key.clone(), object));
    }

    /// The record of this object is to be taken out of the index.
    pub(super) fn is_leaving(&self, key: &FileKey, object: ObjectId) -> bool {
        let pending = self.pending.lock();
        let entry = (key.clone(), object);
        pending.removed.contains(&entry) || pending.being_removed.contains(&entry)
    }

    pub(super) fn note_used(&self, key: &FileKey, used: Use) {
        let mut pending = self.pending.lock();
        let noted = pending.used.entry(key.clone()).or_insert(used);
        noted.clock = noted.clock.max(used.clock);
        if used.usage == Usage::Opened {
            noted.usage = Usage::Opened;
        }
    }

    pub(super) fn note_move(&self, key: &FileKey, place: Place) {
        self.pending.lock().moved.insert(key.clone(), place);
    }

    /// Spared since the last checkpoint.
    pub(super) fn has_moved(&self, key: &FileKey) -> bool {
        self.pending.lock().moved.contains_key(key)
    }

    /// The file has bytes that the index does not know.
    pub(super) fn mark_dirty(&self, file: &Arc<CachedFile>) -> bool {
        let mut pending = self.pending.lock();
        // Under the lock: whoever retires the file comes here afterwards.
        let replaced = match file.may_be_claimed() {
            true => pending.dirty.insert(file.key.clone(), file.clone()),
            false => None,
        };
        let due = pending.dirty.len() >= DIRTY_FILES_DUE;
        drop(pending);
        drop(replaced);
        due
    }

    /// Whether new data may be filled in: not while the disk is so slow to make it durable that the files which wait
    /// for it would take ever more memory.
    pub(super) fn takes_more(&self) -> bool {
        self.is_usable()
            && self.index.is_open()
            && self.pending.lock().dirty.len() < DIRTY_FILES_MAX
    }

    /// A checkpoint is due before its time.
    pub(super) fn has_many_dirty_files(&self) -> bool {
        self.pending.lock().dirty.len() >= DIRTY_FILES_DUE
    }

    pub(super) fn has_dirty_files(&self) -> bool {
        !self.pending.lock().dirty.is_empty()
    }

    /// Since the last checkpoint: the index has an older place of it, or none.
    pub(super) fn was_used_lately(&self, key: &FileKey) -> bool {
        let pending = self.pending.lock();
        pending.used.contains_key(key) || pending.being_used.contains_key(key)
    }

    pub(super) fn drop_age(&self, key: &FileKey, age: u64) {
        self.pending.lock().stray_ages.push((key.clone(), age));
    }

    /// Makes what was filled durable, then claims it in the index. Blocks on the local disk. What is
    /// filled meanwhile waits for the next one.
    pub fn checkpoint(&self) {
        let _one_at_a_time = self.checkpointing.lock();
        self.forget_unused();
        if !self.is_usable() || !self.has_begun() {
            return;
        }
        let (dirty, removed, used, moved, stray_ages) = {
            let mut pending = self.pending.lock();
            if pending.is_empty() {
                return;
            }
            pending.being_removed = std::mem::take(&mut pending.removed);
            pending.being_used = Arc::new(std::mem::take(&mut pending.used));
            (
                std::mem::take(&mut pending.dirty),
                pending.being_removed.clone(),
                pending.being_used.clone(),
                std::mem::take(&mut pending.moved),
                std::mem::take(&mut pending.stray_ages),
            )
        };
        // Records are taken before the sync, so that it covers all they claim.
        let mut changes: Vec<Change> = removed
            .into_iter()
            .map(|(key, object)| Change::Remove(key, object))
            .collect();
        let mut objects = Vec::new();
        for (key, file) in &dirty {
            if let Some(record) = file.record() {
                let place = self.place_of(file, &record, used.get(key));
                objects.push(record.object);
                let sums = file.take_sums(&record);
                let object = record.object;
                changes.push(Change::Put(key.clone(), FileRecord { place, ..record }));
                changes.extend(sums.map(|sums| Change::Sum(key.clone(), object, sums)));
            }
        }
        match self.sync_objects(&objects) {
            Ok(()) => {}
            Err(error) if is_no_room(&error) => return self.give_up_unsynced(dirty),
            Err(error) => return self.fail(format!("making cached data durable: {error}")),
        }
        for (key, used) in &*used {
            if !dirty.contains_key(key)
                && let Ok(Some(record)) = self.index.get(key)
                && let Some(place) = self.moved_place(&record, Some(used))
            {
                changes.push(Change::Move(key.clone(), place));
            }
        }
        // What is pinned no more moves, whoever used it.
        let moves = |key: &FileKey, place: &Place| {
            place.queue == Queue::PROBATION || !used.contains_key(key)
        };
        let spared = moved.into_iter().filter(|(key, place)| moves(key, place));
        changes.extend(spared.map(|(key, place)| Change::Move(key, place)));
        let strays = stray_ages.into_iter();
        changes.extend(strays.map(|(key, age)| Change::DropAge(key, age)));
        // Before `dirty` lets go of its files: see `look_up`.
        let committed = self.commit_with_room(&changes);
        note_sums(&dirty, &changes, committed.is_ok());
        if let Err(error) = committed {
            self.report_index_error(&error);
            return self.take_back(dirty);
        }
        self.unsummed.note(dirty.keys());
        let mut pending = self.pending.lock();
        pending.being_removed.clear();
        pending.being_used = Arc::default();
    }

    /// Whether the index is open; opens it if there is room by now.
    fn has_begun(&self) -> bool {
        match self.begin() {
            Ok(()) => true,
            Err(error) if error.is_no_room() => {
                self.found_full();
                false
            }
            Err(error) => {
                self.fail(error.to_string());
                false
            }
        }
    }

    /// Nothing was committed: the next checkpoint has it all to do again. Who used what meanwhile is forgotten.
    fn take_back(&self, dirty: HashMap<FileKey, Arc<CachedFile>>) {
        let mut replaced = Vec::new();
        let mut pending = self.pending.lock();
        let removed = std::mem::take(&mut pending.being_removed);
        pending.being_used = Arc::default();
        pending.removed.extend(removed);
        for (key, file) in dirty {
            // Retired since, or another version came in.
            if !file.may_be_claimed() || pending.dirty.contains_key(&key) {
                replaced.push(file);
            } else {
                pending.dirty.insert(key, file);
            }
        }
        drop(pending);
        drop(replaced);
    }

    /// What did not find room when it was to be made durable may read as anything.
    fn give_up_unsynced(&self, dirty: HashMap<FileKey, Arc<CachedFile>>) {
        self.found_full();
        for file in dirty.values() {
            self.retire(file);
        }
        self.take_back(dirty);
    }

    /// Called with `checkpointing` held. Blocks on the local disk.
    pub(super) fn commit_now(&self, changes: &[Change]) -> Result<(), IndexError> {
        let clocks = Clocks {
            next_object: self.next_object.load(Ordering::Relaxed) + OBJECT_ID_SLACK,
            access_clock: self.clock.load(Ordering::Relaxed),
            written: self.written_today(),
        };
        let totals = self.index.commit(changes, clocks)?;
        self.files.store(totals.files, Ordering::Relaxed);
        self.ranking
            .set_noted(totals.occupied_bytes, totals.probation_bytes);
        self.staying.set_pinned(totals.pinned);
        self.commits.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn sync_objects(&self, objects: &[ObjectId]) -> io::Result<()> {
        if objects.len() > SYNC_EACH_MAX {
            return self.io.sync_all();
        }
        for object in objects {
            match self.open_object(*object) {
                // With its modification time, which a later life compares.
                Ok(file) => file.sync_all()?,
                // Evicted meanwhile; its removal is in the next checkpoint.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    return self.io.sync_all();
                }
                Err(error) => return Err(error),
            }
            self.io
                .sync_directory(&format!("{}/{:02x}", layout::OBJECTS, object.0 & 0xff))?;
        }
        Ok(())
    }
}

/// The files learn which of their sums the index has.
fn note_sums(dirty: &HashMap<FileKey, Arc<CachedFile>>, changes: &[Change], is_noted: bool) {
    for change in changes {
        if let Change::Sum(key, _, sums) = change
            && let Some(file) = dirty.get(key)
        {
            match is_noted {
                true => file.sums_are_noted(sums),
                false => file.take_back_sums(sums),
            }
        }
    }
}
