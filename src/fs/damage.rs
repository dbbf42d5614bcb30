//! Cached blocks that turned out not to be what was stored: the kernel may have pages of them.

use super::FileSystem;
use crate::events::Invalidation;
use crate::types::{ByteRange, FileKey};
use std::path::PathBuf;
use std::sync::Weak;

impl FileSystem {
    /// From now on the cache tells of what it found damaged.
    pub(super) fn hear_of_damage(&self) {
        let me: Weak<FileSystem> = self.me.clone();
        self.cache
            .on_damage(Box::new(move |key, inode, ranges: &[ByteRange]| {
                me.upgrade()?.forget_pages(key, inode, ranges)
            }));
    }

    /// Where the file was last found, if the kernel knows it.
    fn forget_pages(&self, key: &FileKey, inode: u64, ranges: &[ByteRange]) -> Option<PathBuf> {
        let nodes = self.nodes.of_key(key, inode);
        for node in &nodes {
            for range in ranges {
                self.invalidations
                    .push(Invalidation::Range(node.id, *range));
            }
        }
        let current = nodes.iter().find(|node| !node.is_superseded());
        current.or(nodes.first()).map(|node| node.path())
    }
}
