//! What has gone is remembered for a while: what is asked for again soon afterwards went too early.

use super::{Blocks, Entry};
use lru::LruCache;

/// About 10 MiB.
const ENTRIES_MAX: usize = 1 << 17;

pub struct GhostList {
    entries: LruCache<u64, Blocks>,
    blocks: Blocks,
}

impl Default for GhostList {
    fn default() -> Self {
        Self {
            entries: LruCache::unbounded(),
            blocks: 0,
        }
    }
}

impl GhostList {
    /// Remembers what has gone, and forgets what went longest ago beyond `limit_blocks`.
    pub fn remember(&mut self, entry: Entry, limit_blocks: Blocks) {
        if let Some(before) = self.entries.put(entry.id, entry.blocks) {
            self.blocks -= before;
        }
        self.blocks += entry.blocks;
        while self.blocks > limit_blocks || self.entries.len() > ENTRIES_MAX {
            let Some((_, oldest_blocks)) = self.entries.pop_lru() else {
                break;
            };
            self.blocks -= oldest_blocks;
        }
    }

    /// Whether it went lately. It is back, and forgotten here.
    pub fn recall(&mut self, id: u64) -> bool {
        let recalled = self.entries.pop(&id);
        self.blocks -= recalled.unwrap_or(0);
        recalled.is_some()
    }

    pub fn blocks(&self) -> Blocks {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, blocks: Blocks) -> Entry {
        Entry { id, blocks }
    }

    #[test]
    fn what_went_longest_ago_is_forgotten_first() {
        let mut ghosts = GhostList::default();
        for id in 0..5 {
            ghosts.remember(entry(id, 3), 10);
        }
        assert_eq!(ghosts.blocks(), 9);
        assert!(!ghosts.recall(1));
        assert!(ghosts.recall(3));
        assert!(!ghosts.recall(3));
        assert_eq!(ghosts.blocks(), 6);
    }

    #[test]
    fn what_goes_twice_counts_once_and_what_is_too_large_not_at_all() {
        let mut ghosts = GhostList::default();
        ghosts.remember(entry(1, 4), 10);
        ghosts.remember(entry(1, 6), 10);
        assert_eq!(ghosts.blocks(), 6);
        ghosts.remember(entry(2, 11), 10);
        assert_eq!(ghosts.blocks(), 0);
    }

    #[test]
    fn there_are_so_many_at_most() {
        let mut ghosts = GhostList::default();
        for id in 0..ENTRIES_MAX as u64 + 10 {
            ghosts.remember(entry(id, 1), u64::MAX);
        }
        assert_eq!(ghosts.blocks(), ENTRIES_MAX as u64);
        assert!(!ghosts.recall(9));
        assert!(ghosts.recall(10));
    }
}
