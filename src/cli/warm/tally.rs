//! What became of all the files: each is counted once.

use super::workers::Outcome;
use crate::types::warming::Warmed;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// They were there.
    pub cached_files: u64,
    pub cached_bytes: u64,
    pub fetched_files: u64,
    /// What was missing of them.
    pub fetched_bytes: u64,
    /// Bytes of files that are whole in the cache now.
    pub whole_bytes: u64,
    /// They cannot be cached, or (with --check) are not.
    pub left_files: u64,
    pub left_bytes: u64,
    pub failed_files: u64,
    /// Of those that are there (with --check): the server did not answer whether they are still the same.
    pub unconfirmed_files: u64,
}

impl Tally {
    /// The reason where a file is not in the cache.
    pub fn count(&mut self, outcome: &Outcome) -> Option<String> {
        match outcome {
            Outcome::Warmed(Warmed::Cached { bytes }) => self.count_cached(*bytes),
            Outcome::Warmed(Warmed::Fetched {
                bytes,
                fetched_bytes,
            }) => {
                self.fetched_files += 1;
                self.fetched_bytes += fetched_bytes;
                self.whole_bytes += bytes;
                None
            }
            Outcome::Warmed(Warmed::Left { bytes, reason }) => {
                self.left_files += 1;
                self.left_bytes += bytes;
                Some(reason.clone())
            }
            Outcome::Held(held) if held.is_whole() => {
                self.unconfirmed_files += u64::from(!held.is_confirmed);
                self.count_cached(held.size_bytes)
            }
            Outcome::Held(held) => {
                self.left_files += 1;
                self.left_bytes += held.size_bytes - held.cached_bytes;
                Some(format!(
                    "{} of {} bytes are cached",
                    held.cached_bytes, held.size_bytes
                ))
            }
            Outcome::Failed(reason) => {
                self.failed_files += 1;
                Some(reason.clone())
            }
        }
    }

    fn count_cached(&mut self, bytes: u64) -> Option<String> {
        self.cached_files += 1;
        self.cached_bytes += bytes;
        self.whole_bytes += bytes;
        None
    }

    pub fn files(&self) -> u64 {
        self.cached_files + self.fetched_files + self.left_files + self.failed_files
    }

    /// Bytes that are done with.
    pub fn bytes(&self) -> u64 {
        self.whole_bytes + self.left_bytes
    }

    pub fn is_complete(&self) -> bool {
        self.left_files == 0 && self.failed_files == 0
    }
}
