//! What the scrub tells of itself.

use super::damage::Damaged;
use crate::types::FileKey;
use std::collections::VecDeque;
use std::time::Duration;

/// Damaged files that are remembered by name.
const DAMAGED_SHOWN: usize = 16;

/// Since the start.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    pub is_running: bool,
    pub passes: u64,
    /// Of the passes that were asked for, how many are done.
    pub answered: u64,
    /// Compared with their sums by the scrub, and summed for the first time.
    pub checked_bytes: u64,
    pub summed_bytes: u64,
    /// Blocks that were not what was stored, found by the scrub or by reads.
    pub bad_blocks: u64,
    pub bad_files: u64,
    /// How long it has waited for others.
    pub paused: Duration,
    pub last_pass: Option<PassReport>,
    /// The last ones.
    pub damaged: VecDeque<Damaged>,
    pub(super) last_bad: Option<FileKey>,
    /// What was counted when the pass under way began.
    pub(super) before: Option<Box<ScrubReport>>,
}

/// One pass over everything, and what else came up meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassReport {
    pub files: u64,
    pub checked_bytes: u64,
    pub summed_bytes: u64,
    pub bad_blocks: u64,
    pub bad_files: u64,
    pub took: Duration,
}

impl ScrubReport {
    pub(super) fn begin_pass(&mut self) {
        self.is_running = true;
        self.last_bad = None;
        self.before = None;
        self.before = Some(Box::new(self.clone()));
    }

    pub(super) fn end_pass(&mut self, files: u64, took: Duration) -> PassReport {
        let before = self.before.take().unwrap_or_default();
        let pass = PassReport {
            files,
            checked_bytes: self.checked_bytes - before.checked_bytes,
            summed_bytes: self.summed_bytes - before.summed_bytes,
            bad_blocks: self.bad_blocks - before.bad_blocks,
            bad_files: self.bad_files - before.bad_files,
            took,
        };
        self.is_running = false;
        self.passes += 1;
        self.last_pass = Some(pass);
        pass
    }

    /// Several parts of a file that come one after the other are one file.
    pub(super) fn note_damaged(&mut self, key: &FileKey, damaged: Damaged) {
        self.bad_blocks += damaged.blocks;
        if self.last_bad.as_ref() != Some(key) {
            self.bad_files += 1;
            self.last_bad = Some(key.clone());
        }
        self.damaged.push_back(damaged);
        if self.damaged.len() > DAMAGED_SHOWN {
            self.damaged.pop_front();
        }
    }
}
