//! What is cached of a file is kept when only its attributes or names are changed through this mount, though its change
//! time, and so its version, is another then.
//!
//! Somebody else's write in the middle of such a change would not be seen if it left size and modification time alone:
//! the backend is asked right before and right after, and only versions that had settled before are carried over.

use super::FileSystem;
use super::node::Node;
use crate::cache::CachedFile;
use crate::types::{Attributes, Credentials, FileKind};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A write this long after a version was first seen shows in its modification time, whatever the steps of the clock.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

impl FileSystem {
    /// Makes a change of a node's attributes or names, after which its attributes are fresh or asked for anew. Blocks on
    /// the backend.
    pub(super) fn change_keeping<T>(
        &self,
        node: &Arc<Node>,
        caller: &Credentials,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(file) = self.content_of(node) else {
            let outcome = change();
            self.expire(node);
            return outcome;
        };
        let keeping = file.keep();
        let place = self.place(node, caller);
        let before = self.backend.attributes(&place);
        let outcome = change();
        self.expire(node);
        let asked = Instant::now();
        if outcome.is_ok()
            && let Ok(before) = before
            && before.version() == file.version()
            && let Ok(after) = self.backend.attributes(&self.place(node, caller))
            && has_same_content(&before, &after)
        {
            keeping.adopt(after.version());
            self.take_own_change(node, &after, asked);
        }
        outcome
    }

    /// The same for one that sets the modification time: nothing is kept, but what follows the file's changes goes on to.
    pub(super) fn change_times(
        &self,
        node: &Node,
        caller: &Credentials,
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let ask = || self.backend.attributes(&self.place(node, caller));
        let before = self.cache.may_follow(&node.key).then(ask);
        let outcome = change();
        self.expire(node);
        if outcome.is_ok()
            && let Some(Ok(before)) = before
            && let Ok(after) = ask()
            && before.inode == after.inode
            && before.size_bytes == after.size_bytes
        {
            let (before, after) = (before.version(), after.version());
            self.cache.times_set(&node.key, &before, &after);
        }
        outcome
    }

    /// The content to keep, if there is any.
    fn content_of(&self, node: &Node) -> Option<Arc<CachedFile>> {
        let version = {
            let state = node.state.lock();
            let is_written = |open: &Arc<_>| super::open_file::OpenFile::changing(open).is_some();
            if state.kind() != FileKind::Regular || state.open.as_ref().is_some_and(is_written) {
                return None;
            }
            node.version(&state)
        };
        let cached = self.cache.cached(&node.key, &version);
        cached.filter(|file| file.is_known_since(SETTLED_AFTER))
    }

    /// Takes attributes over of which nothing has changed that the kernel's pages depend on.
    fn take_own_change(&self, node: &Arc<Node>, fresh: &Attributes, asked: Instant) {
        let shortest = self.first_timeout(fresh.kind);
        let mut state = node.state.lock();
        if state.validated().is_some_and(|last| last > asked) {
            return;
        }
        let links_before = node.attributes(&state).link_count;
        state.set_attributes(fresh);
        state.set_timeout(shortest);
        state.set_validated(Some(asked));
        drop(state);
        self.note_attributes(node, fresh);
        self.doubt_name(node, links_before, fresh);
    }
}

/// So a change that sets the modification time keeps nothing: it would hide a foreign write in the middle of it.
fn has_same_content(before: &Attributes, after: &Attributes) -> bool {
    before.inode == after.inode
        && before.size_bytes == after.size_bytes
        && before.mtime == after.mtime
}
