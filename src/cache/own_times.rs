//! Times set through this mount. What is cached goes with the version they made old, but the bytes are those they were: an
//! object that follows its file's changes, or may come to, goes on to do so.
//!
//! Invariant: an object is said to have a version's bytes only if it had those of the version right before, which was
//! asked for then.

use super::Cache;
use super::changing::{Follower, Following};
use super::directory::CacheDirectory;
use super::file::CachedFile;
use crate::types::{FileKey, Version};
use std::sync::Arc;

/// Another mode, owner or name changes ctime and no byte.
pub fn has_bytes_of(one: &Version, other: &Version) -> bool {
    let ctime = other.ctime;
    Version { ctime, ..*one } == *other
}

impl Cache {
    /// Whether there is an object that times set concern.
    pub fn may_follow(&self, key: &FileKey) -> bool {
        let mut usable = self.directories.iter().filter(|one| one.is_usable());
        usable.any(|directory| directory.has_any(key))
    }

    /// The file had this version right before its times were set through this mount, and has that one now. Waits for the
    /// local disk.
    pub fn times_set(&self, key: &FileKey, before: &Version, after: &Version) {
        for directory in self.directories.iter().filter(|one| one.is_usable()) {
            directory.times_set(key, before, after);
        }
    }
}

impl CacheDirectory {
    fn has_any(&self, key: &FileKey) -> bool {
        self.following.lock().contains_key(key)
            || self.active_file(key).is_some()
            || matches!(self.index.get(key), Ok(Some(_)))
    }

    fn times_set(self: &Arc<Self>, key: &FileKey, before: &Version, after: &Version) {
        let _opening = self.opening.lock();
        let users: Vec<_> = {
            let mut following = self.following.lock();
            let followers = following.get_mut(key).into_iter().flatten();
            followers
                .filter_map(|follower| follower.take_times(before, after))
                .collect()
        };
        for user in users.iter().filter(|user| user.is_following()) {
            user.follow(Following::Until(*after));
        }
        let (active, record) = match self.look_up(key) {
            Ok(found) => found,
            Err(error) => return self.report_index_error(&error),
        };
        let is_shown = |version: &Version| has_bytes_of(version, before);
        match (active, record) {
            (Some(file), _) if is_shown(&file.version()) && file.is_given() => {
                self.may_follow(&file, *after);
            }
            (None, Some(record)) if is_shown(&record.version) => {
                if let Some((mut follower, _)) = self.still_mapped(key, &record) {
                    follower.take_times(before, after);
                    self.keep_following(follower);
                }
            }
            _ => {}
        }
    }
}

impl Follower {
    /// Who has it in use as a file, if it has the version's bytes and somebody does.
    fn take_times(&mut self, before: &Version, after: &Version) -> Option<Arc<CachedFile>> {
        if !has_bytes_of(&self.version, before) {
            return None;
        }
        self.version = *after;
        self.user.upgrade()
    }
}
