//! What `status` says of the journal.

use super::status::bytes;
use serde::{Deserialize, Serialize};

/// All zero with `write_mode=through`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// What the backend does not have yet.
    pub dirty_bytes: u64,
    /// Batches written; syncs of the device; who waited for one.
    pub commits: u64,
    pub syncs: u64,
    #[serde(default)]
    pub waits: u64,
    /// Never acknowledged, and cut off at the start.
    #[serde(default)]
    pub cut_batches: u64,
    /// "ok", why nothing is taken any more, or nothing without a journal.
    #[serde(default)]
    pub state: String,
    pub degraded_devices: u64,
}

/// All zero with `write_mode=through`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WritebackStatus {
    pub pending_files: u64,
    /// Of these, not taken by the backend when they were tried last.
    #[serde(default)]
    pub failing_files: u64,
    /// Files put beside others since the start, and the last of them.
    pub conflicts: u64,
    #[serde(default)]
    pub conflict_paths: Vec<String>,
}

impl JournalStatus {
    /// Nothing without a journal.
    pub(super) fn in_words(&self, writeback: &WritebackStatus) -> Option<String> {
        let is_there = !self.state.is_empty();
        is_there.then(|| {
            format!(
                "  journal   {}, {} in {} files not on the backend yet ({} failing), {} commits, {} syncs for {} waits, {} conflicts",
                self.state,
                bytes(self.dirty_bytes),
                writeback.pending_files,
                writeback.failing_files,
                self.commits,
                self.syncs,
                self.waits,
                writeback.conflicts
            )
        })
    }
}
