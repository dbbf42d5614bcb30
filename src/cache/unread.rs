//! What was fetched ahead of its readers, and what became of it.

use super::file::CachedFile;
use crate::backend::Placed;
use crate::types::ByteRange;
use std::sync::Arc;
use std::time::Instant;

impl CachedFile {
    /// Somebody is likely to open it: it can be fetched until then.
    pub fn expect_use(&self, place: Arc<dyn Placed>, first_seen: Instant) {
        let mut state = self.state.lock();
        if !self.is_used() {
            state.set_place(place, first_seen);
        }
    }

    /// Bytes are given to somebody: what of them was fetched ahead was worth it.
    pub(super) fn note_read(&self, range: ByteRange) {
        let mut state = self.state.lock();
        if state.unread.is_empty() {
            return;
        }
        let used_bytes = state.unread.take(range);
        drop(state);
        if let Some(directory) = &self.directory {
            directory.metrics.ahead_used_bytes.add(used_bytes);
        }
    }

    /// What was fetched ahead and not read will not be missed.
    pub(super) fn note_waste(&self) {
        let unread = std::mem::take(&mut self.state.lock().unread);
        if let Some(directory) = &self.directory {
            directory
                .metrics
                .ahead_wasted_bytes
                .add(unread.total_bytes());
        }
    }
}
