//! Why a journal cannot be used: each message says what was found, that nothing was touched, and what to do.

use super::{HEAD_FILE, Spread};
use std::io;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(
        "written by a newer nfs-cachefs (journal format {found}); it was left untouched: upgrade nfs-cachefs, or choose \
         another journal_dir and what it holds waits"
    )]
    NewerFormat { found: u16 },
    #[error(
        "not a journal of nfs-cachefs, and not empty ({found:?} is there); it was left untouched: choose an empty directory \
         as journal_dir"
    )]
    Foreign { found: String },
    #[error(
        "its {HEAD_FILE} is damaged; it was left untouched: `nfs-cachefs journal rebuild` makes it anew from the other \
         directories while they serve; where too few are left, restore that file, or move the directory aside: the next \
         mount says how to go on without what it holds"
    )]
    HeadDamaged,
    #[error(
        "its {HEAD_FILE} is missing, and there is something in its segments; it was left untouched: restore that file, or move \
         the directory aside: the next mount says how to go on without what it holds"
    )]
    HeadMissing,
    #[error(
        "it holds what was written to another backend ({backend}); it was left untouched: mount that one to have it sent \
         there, or choose another journal_dir"
    )]
    OtherBackend { backend: String },
    #[error(
        "it holds what was written to the directory that was at {path}, and another one is there now; it was left untouched: \
         is the export mounted? If another one is meant to be there, choose another journal_dir"
    )]
    BackendReplaced { path: String },
    #[error(
        "acknowledged writes are lost: batch {first} is missing or damaged, and all up to {acknowledged} were \
         acknowledged; it was left untouched: restore the disk, or move the directory aside: the next mount says how to go on \
         without what it holds"
    )]
    Lost { first: u64, acknowledged: u64 },
    #[error(
        "batch {sequence} is whole and says what this program does not understand; it was left untouched: mount with the \
         program that wrote it"
    )]
    Strange { sequence: u64 },
    #[error(
        "its disk has {available_bytes} bytes free, and the journal wants {needed_bytes}; make room, or make journal_size smaller"
    )]
    NoRoom {
        needed_bytes: u64,
        available_bytes: u64,
    },
    #[error("{0}")]
    Unusable(String),
    #[error(
        "journal_dir names {named} directories, and erasure={erasure} takes {}: name as many, or say another erasure=k+m",
        erasure.devices()
    )]
    OtherNumber { named: usize, erasure: Spread },
    #[error(
        "its journal was made with erasure={found}, and the mount says {erasure}; it was left untouched: mount with \
         erasure={found}, and with all its directories"
    )]
    OtherErasure { found: Spread, erasure: Spread },
    #[error(
        "it belongs to another journal than the others; all were left untouched: name directories of one journal only"
    )]
    AnotherJournal,
    #[error(
        "it and {other} say that they are the same device; both were left untouched: name one of them only"
    )]
    Copy { other: String },
    #[error(
        "too many devices of the journal are missing: {0}; all were left untouched: bring them back, or move the \
         directories aside to go on without what they hold"
    )]
    TooFew(String),
    #[error(
        "those that are missing may have gone on without the others: {0}; all were left untouched: bring them back, or \
         move the directories aside to go on without what they hold"
    )]
    NotTheLast(String),
    #[error(
        "{copies}: not the directory that was in use, but a copy of it; the journal did not end well, and no more may be lost: \
         what was acknowledged last may be missing there ({report}); all were left untouched: bring the directories back \
         that were in use. If these are all there is, `{accept}` takes them for all that was written"
    )]
    Copies {
        copies: String,
        report: String,
        accept: String,
    },
    #[error(
        "{there} of its {wanted} segments are there; all was left untouched: bring the others back, or move the directory \
         aside to go on without what it holds"
    )]
    SegmentsMissing { there: usize, wanted: u16 },
    #[error(
        "the journal {journal} of this backend is not there. It was in {directories}; {holding} what was written and the \
         backend does not have. The directories that are named now are empty, or another journal's; all were left \
         untouched: mount its disks, and name its directories. If it is lost for good, `{forget}` gives up what it held"
    )]
    Elsewhere {
        journal: String,
        directories: String,
        holding: &'static str,
        forget: String,
    },
    #[error(
        "its directories are older than they should be: they were last written to in epoch {found}, and epoch {known} is \
         known of; all were left untouched: bring back the last ones. If they are lost for good, `{forget}` gives up what \
         came later"
    )]
    OutOfDate {
        found: u64,
        known: u64,
        forget: String,
    },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{name}: {error}")]
    Of {
        name: String,
        error: Box<JournalError>,
    },
}

impl JournalError {
    /// Of this directory.
    pub(super) fn at(self, name: String) -> Self {
        let error = Box::new(self);
        Self::Of { name, error }
    }
}
