//! The object of a cached file: made, opened, believed or not, and given up.

use super::file::{CachedFile, Gone, StoredObject};
use super::history::Loss;
use super::record::{ObjectId, occupied_bytes};
use super::sums::FreshSums;
use crate::io::IoFile;
use std::io;
use std::sync::Arc;

impl CachedFile {
    /// The descriptor, as long as the file is in use.
    pub(super) fn kept_object_file(&self) -> Option<Arc<dyn IoFile>> {
        self.object_file.lock().clone()
    }

    /// The open object, if the file has one. One stored in an earlier life is compared with its record
    /// first; on any doubt the file starts empty. Waits for the local disk.
    pub(super) fn object_file(&self) -> io::Result<Option<Arc<dyn IoFile>>> {
        let mut slot = self.object_file.lock();
        if let Some(file) = &*slot {
            return Ok(Some(file.clone()));
        }
        let (Some(directory), Some(object)) = (&self.directory, self.state.lock().object) else {
            return Ok(None);
        };
        let opened = directory.open_object(object.id);
        let file = match opened {
            Ok(file) if object.trusted => file,
            Ok(file) => match self.doubt(&*file, &object) {
                None => {
                    if let Some(object) = &mut self.state.lock().object {
                        object.trusted = true;
                    }
                    file
                }
                Some(reason) => {
                    self.forget_object(&object, &reason);
                    return Ok(None);
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Gone files lose their objects in the course of things.
                if !self.is_gone() {
                    self.lose_object(&object);
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let complete = self.state.lock().extents.contains(self.whole());
        file.set_random_access(!complete);
        *slot = Some(file.clone());
        Ok(Some(file))
    }

    /// Why an object found on disk is not the one the record tells of.
    fn doubt(&self, file: &dyn IoFile, object: &StoredObject) -> Option<String> {
        let facts = match file.facts() {
            Ok(facts) => facts,
            Err(error) => return Some(format!("its attributes cannot be read: {error}")),
        };
        let complete = self.state.lock().extents.contains(self.whole());
        if !facts.is_regular || facts.link_count != 1 {
            Some("it is not a plain file of its own".to_owned())
        } else if facts.inode != object.inode {
            Some("another file was put in its place".to_owned())
        } else if facts.size_bytes != self.size_bytes() {
            Some(format!(
                "it has {} bytes, not {}",
                facts.size_bytes,
                self.size_bytes()
            ))
        } else if complete && facts.mtime_ns != i128::from(object.mtime_ns) {
            Some("it was written to by somebody else".to_owned())
        } else {
            None
        }
    }

    fn note_doubt(&self, object: &StoredObject, reason: &str) {
        if let Some(directory) = &self.directory {
            tracing::warn!(directory = %directory.name, object = object.id.0, reason, "cached object not believed, fetching it again");
            directory.metrics.doubted.add(1);
            directory.history.note_loss(&self.key, Loss::Doubted);
        }
    }

    /// The object is another one than was recorded: the file starts empty.
    fn forget_object(&self, object: &StoredObject, reason: &str) {
        self.note_doubt(object, reason);
        if let Some(directory) = &self.directory {
            directory.forget(self, object.id);
        }
    }

    /// The object is not there, although nobody evicted it. One of an earlier life may never have been
    /// durable: the file starts empty. One of this life was removed under our hands, and what is on its way
    /// to it is lost: older handles read past the cache, the next open begins afresh.
    fn lose_object(&self, object: &StoredObject) {
        const REASON: &str = "the object file is missing";
        if !object.trusted {
            return self.forget_object(object, REASON);
        }
        self.note_doubt(object, REASON);
        if let Some(directory) = &self.directory {
            directory.retire(self);
        }
    }

    /// Empties the file of this object; the bytes it took.
    pub(super) fn clear_object(&self, id: ObjectId) -> Option<u64> {
        let mut state = self.state.lock();
        state.object.take_if(|object| object.id == id)?;
        let occupied = occupied_bytes(&state.extents);
        state.extents.clear();
        state.sums = FreshSums::default();
        state.filled_at_seconds = crate::clock::wall_clock().seconds;
        Some(occupied)
    }

    /// Gives the file a new, empty object if it has none; `None` if the file is gone. Waits for the local disk.
    pub(super) fn ensure_object(&self) -> io::Result<Option<Arc<dyn IoFile>>> {
        if let Some(file) = self.object_file()? {
            return Ok(Some(file));
        }
        let mut slot = self.object_file.lock();
        if let Some(file) = &*slot {
            return Ok(Some(file.clone()));
        }
        let directory = self
            .directory
            .as_ref()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        if self.is_gone() {
            return Ok(None);
        }
        let (id, file, facts) = directory.create_object(self.size_bytes())?;
        file.set_random_access(true);
        let mut state = self.state.lock();
        if state.gone.is_some() {
            drop(state);
            drop(file);
            directory.doom(id, 0);
            return Ok(None);
        }
        state.object = Some(StoredObject {
            id,
            inode: facts.inode,
            mtime_ns: facts.mtime_ns as i64,
            trusted: true,
        });
        drop(state);
        *slot = Some(file.clone());
        Ok(Some(file))
    }

    /// The descriptor if it is open already. Never blocks on a disk.
    pub(super) fn open_object_file(&self) -> Option<Arc<dyn IoFile>> {
        self.object_file.try_lock()?.clone()
    }

    /// Notes the object's modification time once the last byte is in, so that a later life can tell
    /// whether anybody wrote to it.
    pub(super) fn note_complete(&self, file: &dyn IoFile) {
        file.set_random_access(false);
        if let Ok(facts) = file.facts() {
            let mut state = self.state.lock();
            if let Some(object) = &mut state.object {
                object.mtime_ns = facts.mtime_ns as i64;
                state.mtime_is_noted = true;
            }
        }
    }

    /// Marks the content gone and hands its object over to be removed: id and bytes on disk. Reads that
    /// began keep their descriptor.
    pub(super) fn take_object(&self) -> Option<(ObjectId, u64)> {
        let mut state = self.state.lock();
        state.gone.get_or_insert(Gone::Dropped);
        let occupied = occupied_bytes(&state.extents);
        let object = state.object.take();
        drop(state);
        object.map(|object| (object.id, occupied))
    }

    /// Sets the file aside for its eviction if this is its object, nobody uses it and nothing is on its
    /// way to it. To be followed by [`CachedFile::take_object`] or [`CachedFile::cancel_eviction`].
    pub(super) fn begin_eviction(&self, id: ObjectId) -> bool {
        let mut state = self.state.lock();
        let is_its = state.object.is_some_and(|object| object.id == id);
        if !is_its || state.gone.is_some() || self.is_used() || !state.pieces.is_idle() {
            return false;
        }
        state.gone = Some(Gone::Dropped);
        drop(state);
        self.close_object_file();
        true
    }

    /// The object stays after all, unless the file was found changed meanwhile.
    pub(super) fn cancel_eviction(&self) {
        let mut state = self.state.lock();
        if state.gone == Some(Gone::Dropped) && state.object.is_some() {
            state.gone = None;
        }
    }

    pub(super) fn close_object_file(&self) {
        *self.object_file.lock() = None;
    }
}
