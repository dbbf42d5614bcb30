//! `write_mode=back`: a [`Backend`] before another one, that takes changes of bytes into a journal and brings them to the
//! other later. Names and attributes go through at once.
//!
//! What always holds: whoever asks sees a file as programs left it, also while it is being uploaded; a change is in the
//! journal before it is answered, and on stable storage before a sync is; nothing on the backend is written over that
//! somebody else put there before we looked; a name never stands for data that is not on the backend, an attribute never for
//! data that is not durable here.
//! (docs/decisions/012-write-back-behind-the-backend.md)
//!
//! - `layers`: what is in the journal of one file, over what the backend has: pure
//! - `dirty`: a file that is open for writing or not on the backend as it should be; `table`: all of them
//! - `backend`: the calls of the backend; `names`: those that change names; `attributes`: those of a dirty file;
//!   `losing`: a name goes
//! - `file`: a file open for writing; `source`: one open for reading; `unsent`: what is known of
//!   one without the backend
//! - `accepting`: changes of bytes are taken; `pressure`: how fast
//! - `upload`: a generation becomes the backend's; `comparing`: whether somebody else was there
//! - `beside`: what cannot become the backend's is put beside it; `conflicts`: the list of that
//! - `uploader`: the threads that do it, when, and again; `rate`: no faster than they may; `flushing`: what is left
//! - `moving`: what the backend does not take makes room in the journal
//! - `replay`: what an earlier life has left

use crate::backend::Backend;
use crate::io::Io;
use crate::journal::{Holding, Journal, JournalFigures, Located};
use crate::metrics::Counter;
use crate::types::{Credentials, FileKey, Version};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

pub use conflicts::{Conflict, ConflictKind};
pub use flushing::{DirtyFileFigures, Unsent};

mod accepting;
mod attributes;
mod backend;
mod beside;
mod comparing;
mod conflicts;
mod copies;
mod dirty;
mod file;
mod flushing;
mod layers;
mod losing;
mod moving;
mod names;
mod pressure;
mod rate;
mod replay;
mod sending;
mod source;
mod table;
mod unsent;
mod upload;
mod uploader;

/// Values for [`WriteBack::start`].
#[derive(Clone, Debug)]
pub struct WriteBackSettings {
    /// How long a change waits for others of its file before it is sent to the backend.
    pub delay: Duration,
    /// Files on their way to the backend at once.
    pub parallel: usize,
    /// The most that is sent in a second.
    pub bytes_per_second: Option<u64>,
    /// No more is taken that the backend does not have.
    pub dirty_limit_bytes: u64,
    pub conflict: ConflictAnswer,
    /// close(2) waits until what was written is durable.
    pub durable_at_close: bool,
}

/// What becomes of a file that somebody else has changed while it was dirty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConflictAnswer {
    /// Theirs stays, ours goes beside it.
    KeepBoth,
    /// Ours is written over theirs.
    Ours,
    /// Ours is given up.
    Theirs,
}

/// What [`WriteBack::start`] stands on.
pub struct WriteBackParts {
    pub settings: WriteBackSettings,
    pub inner: Arc<dyn Backend>,
    pub journal: Arc<Journal>,
    /// What the journal had.
    pub found: Vec<Located>,
    /// The daemon's own, for what an opener may not do any more.
    pub own: Credentials,
    /// In the names of files that are put beside others.
    pub host: String,
    /// Where the list of these is kept: the directories of the journal that can be used.
    pub notes: Vec<Arc<dyn Io>>,
}

/// Called when the same bytes that were of one version are of another.
pub type CarryOver = Box<dyn Fn(&FileKey, &Version, &Version) + Send + Sync>;

/// Reads what is cached of a version of a file from an offset on: all that is asked for, or nothing.
pub type ReadCached = Box<dyn Fn(&FileKey, &Version, &mut [u8], u64) -> bool + Send + Sync>;

/// What `status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBackFigures {
    pub dirty_files: u64,
    pub dirty_bytes: u64,
    /// Files that the backend did not take when they were tried last.
    pub failing_files: u64,
    pub dirty_limit_bytes: u64,
    /// The oldest ones.
    pub named: Vec<DirtyFileFigures>,
    pub conflicts: Vec<Conflict>,
    pub journal: JournalFigures,
}

/// See the module.
pub struct WriteBack {
    settings: WriteBackSettings,
    inner: Arc<dyn Backend>,
    journal: Arc<Journal>,
    table: table::Table,
    uploader: uploader::Uploader,
    next_generation: AtomicU64,
    own: Credentials,
    host: String,
    pressure: pressure::Pressure,
    rate: rate::Rate,
    sent_bytes: Counter,
    conflicts: conflicts::ConflictList,
    /// What is not on the backend at the end is not sent there any more.
    keeps_dirty: AtomicBool,
    carry_over: OnceLock<CarryOver>,
    read_cached: OnceLock<ReadCached>,
    me: Weak<Self>,
}

impl WriteBack {
    /// Takes over what the journal has, and starts the threads that bring it to the backend.
    pub fn start(parts: WriteBackParts) -> io::Result<Arc<Self>> {
        let back = Arc::new_cyclic(|me| Self {
            pressure: pressure::Pressure::new(parts.settings.dirty_limit_bytes),
            rate: rate::Rate::new(parts.settings.bytes_per_second),
            settings: parts.settings,
            inner: parts.inner,
            journal: parts.journal,
            table: table::Table::default(),
            uploader: uploader::Uploader::default(),
            next_generation: AtomicU64::new(1),
            own: parts.own,
            host: parts.host,
            sent_bytes: Counter::default(),
            conflicts: conflicts::ConflictList::load(parts.notes),
            keeps_dirty: AtomicBool::new(false),
            carry_over: OnceLock::new(),
            read_cached: OnceLock::new(),
            me: me.clone(),
        });
        back.replay(parts.found);
        for number in 0..back.settings.parallel {
            let uploading = back.clone();
            std::thread::Builder::new()
                .name(format!("upload-{number}"))
                .spawn(move || uploading.run_uploads())?;
        }
        Ok(back)
    }

    /// Who is told when a file's bytes are of another version. Called once.
    pub fn set_carry_over(&self, carry_over: CarryOver) {
        let _ = self.carry_over.set(carry_over);
    }

    /// Where files that are put beside others have from what was not written here. Called once.
    pub fn set_read_cached(&self, read_cached: ReadCached) {
        let _ = self.read_cached.set(read_cached);
    }

    fn this(&self) -> Arc<Self> {
        self.me
            .upgrade()
            .expect("called through an Arc, which lives as long as the call")
    }

    pub fn figures(&self) -> WriteBackFigures {
        let mut figures = WriteBackFigures {
            dirty_limit_bytes: self.pressure.limit_bytes(),
            named: self.name_dirty(),
            conflicts: self.conflicts.all(),
            journal: self.journal.figures(),
            ..WriteBackFigures::default()
        };
        for file in self.table.all() {
            let state = file.state();
            figures.dirty_files += u64::from(state.is_dirty());
            figures.dirty_bytes += state.dirty_bytes();
            figures.failing_files += u64::from(state.failures > 0);
        }
        figures
    }

    /// What lies beside other files, and nobody has looked at yet.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.conflicts.all()
    }

    /// These were looked at: known by what lies beside.
    pub fn forget_conflicts(&self, beside: &[PathBuf]) {
        self.conflicts.forget(beside);
    }

    /// Whoever ends the mount says so, or takes it back.
    pub fn keep_dirty_at_the_end(&self, keep: bool) {
        self.keeps_dirty.store(keep, Ordering::Relaxed);
    }

    /// Brings to the backend what it takes until the deadline, unless that was not to be; the rest stays in the journal.
    /// How many files that is.
    pub fn shutdown(&self, deadline: Instant) -> u64 {
        if !self.keeps_dirty.load(Ordering::Relaxed) {
            self.uploader.drain(deadline);
        }
        self.uploader.end();
        let left = self.figures().dirty_files;
        self.journal.shutdown(match left {
            0 => Holding::Nothing,
            _ => Holding::Something,
        });
        left
    }
}
