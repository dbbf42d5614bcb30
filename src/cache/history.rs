//! What became of files lately: why bytes that were cached are not any more, and when a read found none. For whoever
//! asks; nothing is decided by it, and the oldest is forgotten.

use crate::types::{FileKey, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;

const FILES_MAX: usize = 4096;

/// Why something is not cached any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// To make room, or because somebody said so.
    Evicted,
    /// Parts of a file in use went to make room.
    Trimmed,
    /// The backend has another version.
    Replaced,
    /// It was older than `ttl`.
    Expired,
    /// Its object was not what the index told of.
    Doubted,
}

/// A read that had to wait for the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miss {
    pub at: Timestamp,
    pub offset: u64,
    /// What had become of the file before; `None`: nothing that is remembered.
    pub loss: Option<Loss>,
}

#[derive(Clone, Copy, Default)]
struct Lately {
    loss: Option<Loss>,
    miss: Option<Miss>,
}

/// Of one cache directory.
pub(super) struct History(Mutex<LruCache<FileKey, Lately>>);

impl Default for History {
    fn default() -> Self {
        let files = NonZeroUsize::new(FILES_MAX).expect("not zero");
        // Grows with what is noted.
        let mut table = LruCache::unbounded();
        table.resize(files);
        Self(Mutex::new(table))
    }
}

impl History {
    pub fn note_loss(&self, key: &FileKey, loss: Loss) {
        let mut files = self.0.lock();
        files.get_or_insert_mut(key.clone(), Lately::default).loss = Some(loss);
    }

    pub fn note_miss(&self, key: &FileKey, offset: u64) {
        let at = crate::clock::wall_clock();
        let mut files = self.0.lock();
        let lately = files.get_or_insert_mut(key.clone(), Lately::default);
        lately.miss = Some(Miss {
            at,
            offset,
            loss: lately.loss,
        });
    }

    pub fn last_miss(&self, key: &FileKey) -> Option<Miss> {
        self.0.lock().peek(key)?.miss
    }

    pub fn last_loss(&self, key: &FileKey) -> Option<Loss> {
        self.0.lock().peek(key)?.loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> FileKey {
        FileKey(number.to_le_bytes().as_slice().into())
    }

    #[test]
    fn a_miss_tells_what_was_lost_before_it_and_the_oldest_is_forgotten() {
        let history = History::default();
        history.note_miss(&key(0), 5);
        let miss = history.last_miss(&key(0)).expect("noted");
        assert_eq!((miss.offset, miss.loss), (5, None));
        history.note_loss(&key(0), Loss::Evicted);
        history.note_miss(&key(0), 6);
        let miss = history.last_miss(&key(0)).expect("noted");
        assert_eq!((miss.offset, miss.loss), (6, Some(Loss::Evicted)));
        (1..=FILES_MAX).for_each(|number| history.note_loss(&key(number), Loss::Trimmed));
        assert_eq!(history.last_miss(&key(0)), None);
        assert_eq!(history.last_loss(&key(1)), Some(Loss::Trimmed));
    }
}
