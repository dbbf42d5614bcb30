//! What the backend said, noted for a later time when it is away: in the store of names, which outlives the daemon.
//! Nothing here waits.

use super::FileSystem;
use super::node::Node;
use crate::backend::{FilesystemIndex, Found};
use crate::types::{Attributes, NodeId, RenameMode};
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which filesystems have been noted; those with larger numbers are noted each time they are met.
#[derive(Default)]
pub(super) struct NotedFilesystems([AtomicU64; 4]);

impl NotedFilesystems {
    /// Whether it was noted before.
    fn note(&self, filesystem: FilesystemIndex) -> bool {
        let (word, bit) = (usize::from(filesystem.0 / 64), 1 << (filesystem.0 % 64));
        let Some(word) = self.0.get(word) else {
            return false;
        };
        // Mostly it was: nothing is written then.
        word.load(Ordering::Relaxed) & bit != 0 || word.fetch_or(bit, Ordering::Relaxed) & bit != 0
    }
}

impl FileSystem {
    /// A name leads to a file.
    pub(super) fn note_found(&self, parent: &Node, name: &OsStr, found: &Found) {
        self.note_filesystem(found.filesystem);
        self.names
            .note_name(&parent.key, name, &found.key, &found.attributes);
    }

    /// Of a file that has its name still.
    pub(super) fn note_attributes(&self, node: &Arc<Node>, attributes: &Attributes) {
        let Some((parent, name)) = node.parent_and_name() else {
            if node.id == NodeId::ROOT {
                self.names.note_root(&node.key, attributes);
            }
            return;
        };
        let named = self.nodes.by_name(parent.id, &name);
        if named.is_some_and(|named| Arc::ptr_eq(&named, node)) {
            self.names
                .note_name(&parent.key, &name, &node.key, attributes);
        }
    }

    pub(super) fn note_filesystem(&self, filesystem: FilesystemIndex) {
        if !self.noted_filesystems.note(filesystem)
            && let Some(known) = self.backend.known_filesystem(filesystem)
        {
            self.names.note_filesystem(&known);
        }
    }

    /// A name leads nowhere now.
    pub(super) fn name_is_gone(&self, parent: &Node, name: &OsStr) {
        self.nodes.forget_name(parent.id, name);
        self.names.forget_name(&parent.key, name);
    }

    /// Two names that renameat2(2) has changed, and the files that they led to, as far as those are known.
    pub(super) fn note_renamed(
        &self,
        from: (&Node, &OsStr),
        to: (&Node, &OsStr),
        mode: RenameMode,
        [moved, met]: [&Option<Arc<Node>>; 2],
    ) {
        let exchanged = met.as_ref().filter(|_| mode == RenameMode::Exchange);
        for ((parent, name), file) in [(from, exchanged), (to, moved.as_ref())] {
            match file {
                Some(file) => {
                    let attributes = file.attributes(&file.state.lock());
                    self.names
                        .note_name(&parent.key, name, &file.key, &attributes);
                }
                None => self.names.forget_name(&parent.key, name),
            }
        }
    }
}
