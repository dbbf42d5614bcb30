//! Attributes changed through this mount make another version of a file whose content is the same: what is cached of
//! it is kept.

use super::file::CachedFile;
use super::{Cache, CacheDirectory};
use crate::types::{FileKey, Version};
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;
use std::time::Duration;

/// A cached file whose version nobody compares with the backend's meanwhile.
pub struct Keeping<'a> {
    file: &'a Arc<CachedFile>,
    _alone: RwLockWriteGuard<'a, ()>,
}

impl Cache {
    /// What is cached of this version of a file, if anything is. May wait for the local disk.
    pub fn cached(&self, key: &FileKey, version: &Version) -> Option<Arc<CachedFile>> {
        let mut usable = self.directories.iter().filter(|one| one.is_usable());
        let directory = usable.find(|directory| directory.has(key, version))?;
        Some(directory.file(key, *version, None))
    }
}

impl CacheDirectory {
    fn has(&self, key: &FileKey, version: &Version) -> bool {
        match self.active_file(key) {
            Some(file) => file.version() == *version && !file.is_gone(),
            None => matches!(self.index.get(key), Ok(Some(record)) if record.version == *version),
        }
    }
}

impl CachedFile {
    /// This content was first seen that long ago at least, or in an earlier life.
    pub fn is_known_since(&self, age: Duration) -> bool {
        let first_seen = self.state.lock().first_seen;
        first_seen.is_none_or(|seen| seen.elapsed() >= age)
    }

    /// Waits for who compares the version just now.
    pub fn keep(self: &Arc<Self>) -> Keeping<'_> {
        Keeping {
            file: self,
            _alone: self.unchanged.write(),
        }
    }
}

impl Keeping<'_> {
    /// The content is that of this version from now on.
    pub fn adopt(self, version: Version) {
        self.file.set_version(version);
        if let Some(directory) = &self.file.directory {
            directory.mark_dirty(self.file);
        }
    }
}
