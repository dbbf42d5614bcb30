//! Object files: made, opened, and removed once nobody has them.
//!
//! Invariant: the space of an object is given back once, by whoever removed it or found it missing; a file
//! and the index give an object up in one step, so that there is one such.

use super::directory::CacheDirectory;
use super::layout;
use super::record::ObjectId;
use crate::io::{FileFacts, IoFile, OpenMode};
use crate::types::FileKey;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Objects without a record that the kernel may still have open or mapped, and the bytes that each occupies.
pub(super) type Doomed = HashMap<ObjectId, u64>;

/// What became of an object that was to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Removal {
    Removed,
    /// It was not there.
    Absent,
    /// Somebody has it open or mapped: it stays, and counts.
    InUse,
}

/// What became of a file that was to be evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Eviction {
    Evicted { bytes: u64 },
    InUse,
    Pinned,
    NoRecord,
}

impl CacheDirectory {
    /// A new object file of `size_bytes`, sparse, open for reading and writing.
    pub(super) fn create_object(
        &self,
        size_bytes: u64,
    ) -> io::Result<(ObjectId, Arc<dyn IoFile>, FileFacts)> {
        let object = ObjectId(self.next_object.fetch_add(1, Ordering::Relaxed));
        let path = layout::object_path(object);
        let file = match self.io.open(&path, OpenMode::CreateNew) {
            // Made by a life that was killed before a checkpoint noted that such ids were given out.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.io.remove_file(&path)?;
                self.io.open(&path, OpenMode::CreateNew)?
            }
            opened => opened?,
        };
        match file.set_size(size_bytes).and_then(|()| file.facts()) {
            Ok(facts) => Ok((object, file, facts)),
            Err(error) => {
                drop(file);
                self.doom(object, 0);
                Err(error)
            }
        }
    }

    pub(super) fn open_object(&self, object: ObjectId) -> io::Result<Arc<dyn IoFile>> {
        self.io
            .open(&layout::object_path(object), OpenMode::ReadWrite)
    }

    /// From now on the object waits for the kernel to let go of it.
    pub(super) fn doom(&self, object: ObjectId, occupied_bytes: u64) {
        *self.doomed.lock().entry(object).or_default() += occupied_bytes;
    }

    /// A doomed object has these bytes, too: they go with it. False where there is none.
    pub(super) fn doom_along(&self, object: ObjectId, more_bytes: u64) -> bool {
        let mut doomed = self.doomed.lock();
        let occupied_bytes = doomed.get_mut(&object);
        let is_doomed = occupied_bytes.is_some();
        if let Some(occupied_bytes) = occupied_bytes {
            *occupied_bytes += more_bytes;
        }
        is_doomed
    }

    /// Removes doomed objects that nobody has open or mapped any more; the bytes freed.
    pub(super) fn sweep_doomed(&self) -> u64 {
        let doomed: Vec<ObjectId> = self.doomed.lock().keys().copied().collect();
        let mut freed_bytes = 0;
        for object in doomed {
            match self.remove_if_unused(object) {
                Ok(Removal::Removed | Removal::Absent) => {
                    // What it was found to have meanwhile goes with it.
                    let occupied_bytes = self.doomed.lock().remove(&object).unwrap_or_default();
                    self.space.release(occupied_bytes);
                    self.end_following(object);
                    freed_bytes += occupied_bytes;
                }
                Ok(Removal::InUse) => {}
                Err(error) => self.report_disk_error("removing an object", &error),
            }
        }
        freed_bytes
    }

    /// Objects waiting for the kernel to let go of them.
    pub fn doomed_count(&self) -> usize {
        self.doomed.lock().len()
    }

    /// Removes an object unless somebody has it open or mapped.
    fn remove_if_unused(&self, object: ObjectId) -> io::Result<Removal> {
        let file = match self.open_object(object) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removal::Absent),
            Err(error) => return Err(error),
        };
        if !file.is_exclusive() {
            return Ok(Removal::InUse);
        }
        self.io.remove_file(&layout::object_path(object))?;
        Ok(Removal::Removed)
    }

    /// Removes the object of a file that nobody uses, and its record with the next checkpoint.
    pub(super) fn evict(&self, key: &FileKey) -> io::Result<Eviction> {
        let _opening = self.opening.lock();
        let _no_scrub = self.scrubbing.lock();
        let (active, record) = match self.look_up(key) {
            Ok(found) => found,
            Err(error) => {
                self.report_index_error(&error);
                return Ok(Eviction::InUse);
            }
        };
        let Some(record) = record else {
            // What is on its way has no record yet.
            return Ok(match active.is_some_and(|file| file.is_coming_in()) {
                true => Eviction::InUse,
                false => Eviction::NoRecord,
            });
        };
        if self.is_pinned(&record, active.as_ref()) {
            return Ok(Eviction::Pinned);
        }
        let object = record.object;
        if active
            .as_ref()
            .is_some_and(|file| !file.begin_eviction(object))
        {
            return Ok(Eviction::InUse);
        }
        let removal = self.remove_if_unused(object);
        if !matches!(removal, Ok(Removal::Removed | Removal::Absent)) {
            if let Some(file) = active {
                file.cancel_eviction();
            }
            return removal.map(|_| Eviction::InUse);
        }
        let given_up = self.give_object_up(key, object, active.as_deref());
        self.note_evicted(key, &record);
        let bytes = given_up.unwrap_or_else(|| record.occupied_bytes());
        self.space.release(bytes);
        Ok(Eviction::Evicted { bytes })
    }
}
