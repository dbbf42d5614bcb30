//! The content of a cached file that is about to be changed is taken from it, and what the changes led to is given to the
//! file of the new version: an object changes hands, with its extents.
//!
//! Invariants: an object is in one hand; before it is in the hand of who changes it, no record tells of it.

use super::Cache;
use super::directory::CacheDirectory;
use super::extents::ExtentMap;
use super::file::{CachedFile, Gone, StoredObject};
use super::index::{Change, IndexError};
use super::kept::Keep;
use super::record::{ObjectId, occupied_bytes};
use crate::io::IoFile;
use crate::types::FileKey;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A checkpoint is waited for this long before what was cached is given up.
const MARK_PATIENCE: Duration = Duration::from_millis(200);

/// An object that changes with its file.
#[derive(Clone)]
pub(super) struct KeptObject {
    pub id: ObjectId,
    pub file: Arc<dyn IoFile>,
    pub inode: u64,
}

/// What a file had in the cache when its changes began.
pub(super) struct Content {
    pub object: KeptObject,
    pub extents: ExtentMap,
    pub filled_at_seconds: i64,
}

impl Cache {
    /// Opens what is cached of the version that is about to be changed, on the local disk.
    pub(super) fn prepare_to_keep(&self, key: &FileKey, keep: Keep) -> Option<Arc<CachedFile>> {
        let file = self.cached(key, &keep.present)?;
        file.object_file().ok()??;
        Some(file)
    }
}

impl CacheDirectory {
    /// Held, no checkpoint is about to write a record. `None` if one takes too long.
    pub(super) fn between_checkpoints(&self) -> Option<MutexGuard<'_, ()>> {
        self.checkpointing.try_lock_for(MARK_PATIENCE)
    }

    /// Takes the content out of a file, and its record out of the index for good: from now on its bytes may change.
    /// `None` where they are changing still. Nobody else has it in use. Called between checkpoints; blocks on the local disk.
    pub(super) fn take_content(&self, file: &CachedFile) -> Option<Content> {
        let object = file.kept_object_file()?;
        let mut pending = self.pending.lock();
        let content = file.give_content(object)?;
        pending.forget(file);
        drop(pending);
        let id = content.object.id;
        match self.remove_now(&file.key, id) {
            Ok(()) => Some(content),
            Err(error) => {
                self.report_index_error(&error);
                self.remove_record(&file.key, id);
                self.doom(id, occupied_bytes(&content.extents));
                None
            }
        }
    }

    fn remove_now(&self, key: &FileKey, object: ObjectId) -> Result<(), IndexError> {
        let stored = self.index.get(key)?;
        match stored.is_some_and(|record| record.object == object) {
            true => self.commit_now(&[Change::Remove(key.clone(), object)]),
            false => Ok(()),
        }
    }
}

impl CachedFile {
    fn give_content(&self, file: Arc<dyn IoFile>) -> Option<Content> {
        let mut state = self.state.lock();
        let is_busy = state.pieces.is_moving() || state.trimming.is_under_way();
        if state.gone.is_some() || is_busy {
            return None;
        }
        let object = state.object.take_if(|object| object.trusted)?;
        // Nobody reads by this version any more, and what is being read may be another's already.
        state.gone = Some(Gone::Changed);
        self.trims.fetch_add(1, Ordering::AcqRel);
        Some(Content {
            object: KeptObject {
                id: object.id,
                file,
                inode: object.inode,
            },
            extents: std::mem::take(&mut state.extents),
            filled_at_seconds: state.filled_at_seconds,
        })
    }

    /// False where the file has some content already, or some on its way.
    pub(super) fn take_content(
        &self,
        object: StoredObject,
        extents: ExtentMap,
        filled_at_seconds: i64,
    ) -> bool {
        let mut state = self.state.lock();
        if state.object.is_some() || state.gone.is_some() || !state.pieces.is_idle() {
            return false;
        }
        state.object = Some(object);
        state.extents = extents;
        state.filled_at_seconds = filled_at_seconds;
        state.mtime_is_noted = true;
        // Who says that all its changes are known vouches for that.
        state.first_seen = None;
        true
    }
}
