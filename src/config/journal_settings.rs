//! Values of the options about writing back.

use super::error::ConfigError;
use super::settings::WriteMode;
use super::units::{MIB, show_size};
use crate::journal::Spread;
use std::path::PathBuf;
use std::time::Duration;

/// Where changes are before the backend has them, and how they get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    pub directories: Vec<PathBuf>,
    pub erasure: Spread,
    /// In each directory.
    pub size_bytes: u64,
    pub fsync: FsyncMode,
    /// What nobody waits for is written this often.
    pub interval: Duration,
    /// A changed file waits so long for more changes.
    pub writeback_delay: Duration,
    pub writeback_parallel: usize,
    /// The most that is sent to the backend in a second.
    pub writeback_bytes_per_second: Option<u64>,
    /// `None`: half of the journal.
    pub dirty_limit_bytes: Option<u64>,
    pub close: CloseMode,
    pub conflict: ConflictMode,
}

/// What close(2) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    Nothing,
    /// What was written is in the journal.
    Durable,
}

/// What becomes of a file that somebody else has changed before what was written here came to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictMode {
    KeepBoth,
    Ours,
    Theirs,
}

/// What fsync(2) waits for in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncMode {
    Immediate,
    Batch,
    Periodic,
    None,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            directories: Vec::new(),
            erasure: Spread::ALONE,
            size_bytes: 1024 * MIB,
            fsync: FsyncMode::Batch,
            interval: Duration::from_millis(100),
            writeback_delay: Duration::from_secs(1),
            writeback_parallel: 8,
            writeback_bytes_per_second: None,
            dirty_limit_bytes: None,
            close: CloseMode::Nothing,
            conflict: ConflictMode::KeepBoth,
        }
    }
}

impl JournalOptions {
    /// An error where values contradict one another.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.dirty_limit_bytes {
            Some(limit) if limit > self.size_bytes => Err(ConfigError::Contradiction(format!(
                "dirty_limit={} is larger than journal_size={}, which has to hold it; lower the first or raise the second",
                show_size(limit),
                show_size(self.size_bytes)
            ))),
            _ => Ok(()),
        }
    }

    /// It must be said where the journal is where there is one, and makes no sense where there is none.
    pub(super) fn check_places(&self, write_mode: WriteMode) -> Result<(), ConfigError> {
        let is_nowhere = self.directories.is_empty();
        let unasked = |option: &'static str| Err(ConfigError::NoJournal { option });
        match write_mode {
            WriteMode::Back if is_nowhere => Err(ConfigError::NoJournalDirectory),
            WriteMode::Through if !is_nowhere => unasked("journal_dir"),
            WriteMode::Through if self.erasure != Spread::ALONE => unasked("erasure"),
            WriteMode::Back => self.check_number(),
            WriteMode::Through => Ok(()),
        }
    }

    /// One that is not named is missed by nobody, and the journal goes without it.
    fn check_number(&self) -> Result<(), ConfigError> {
        let (named, wanted) = (self.directories.len(), self.erasure.devices());
        match named == usize::from(wanted) {
            true => Ok(()),
            false => Err(ConfigError::Contradiction(format!(
                "journal_dir names {named} directories, and erasure={} takes {wanted}: name as many, also one that is lost, or say \
                 another erasure=k+m",
                self.erasure
            ))),
        }
    }
}
