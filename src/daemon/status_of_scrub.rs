//! What `status` says of checksums, and `scrub --wait` prints.

use crate::types::bytes_in_words as bytes;
use serde::{Deserialize, Serialize};

/// Since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubStatus {
    /// A pass over all that is cached is under way.
    pub running: bool,
    /// Complete ones.
    pub passes: u64,
    /// Of those that were asked for, how many are done.
    pub answered: u64,
    /// Compared with their sums by the scrub; summed for the first time.
    pub checked_bytes: u64,
    pub summed_bytes: u64,
    /// Blocks of 4 KiB that were not what was stored, and the files they were found in, by the scrub or by reads.
    pub bad_blocks: u64,
    pub bad_files: u64,
    /// How long it waited for those who read or fetch.
    pub paused_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_pass: Option<PassStatus>,
    /// The last files that had bad blocks.
    pub damaged: Vec<DamagedStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassStatus {
    pub files: u64,
    pub checked_bytes: u64,
    pub summed_bytes: u64,
    /// What reads found meanwhile among them.
    pub bad_blocks: u64,
    pub bad_files: u64,
    pub seconds: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DamagedStatus {
    /// Relative to the backend's root; absent where nobody has looked at the file since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// On the backend.
    pub inode: u64,
    /// Where the first bad block begins.
    pub offset: u64,
    pub blocks: u64,
    /// Since 1970.
    pub at_seconds: i64,
}

impl ScrubStatus {
    /// `None` where nothing was checked or summed yet.
    pub fn in_words(&self) -> Option<String> {
        let is_idle = self.checked_bytes + self.summed_bytes + self.bad_blocks == 0;
        if is_idle && !self.running {
            return None;
        }
        let last = self.damaged.last().map_or_else(String::new, |damaged| {
            format!(", the last in {}", damaged.name())
        });
        Some(format!(
            "  scrub     {} passes{}, {} checked, {} summed first, {} bad blocks in {} files{last}",
            self.passes,
            match self.running {
                true => " and one under way",
                false => "",
            },
            bytes(self.checked_bytes),
            bytes(self.summed_bytes),
            self.bad_blocks,
            self.bad_files
        ))
    }
}

impl PassStatus {
    pub fn in_words(&self) -> String {
        format!(
            "{} files, {} checked, {} summed first, {} bad blocks in {} files, {:.1} s",
            self.files,
            bytes(self.checked_bytes),
            bytes(self.summed_bytes),
            self.bad_blocks,
            self.bad_files,
            self.seconds
        )
    }
}

impl DamagedStatus {
    fn name(&self) -> String {
        match &self.path {
            Some(path) => path.clone(),
            None => format!("inode {}", self.inode),
        }
    }
}
