//! `write_mode=back`: a [`Backend`] before another one, that takes changes of bytes into a journal and brings them to the
//! other later. Names and attributes go through at once.
//!
//! What always holds: whoever asks sees a file as programs left it, also while it is being uploaded; a change is in the
//! journal before it is answered, and on stable storage before a sync is; nothing on the backend is written over that
//! somebody else put there before we looked; a name or attribute never stands for data that is not on the backend.
//! (docs/decisions/012-write-back-behind-the-backend.md)
//!
//! - `layers`: what is in the journal of one file, over what the backend has: pure
//! - `dirty`: a file that is open for writing or not on the backend as it should be; `table`: all of them
//! - `backend`: the calls of the backend; `names`: those that change names and attributes
//! - `file`: a file open for writing; `source`: one open for reading
//! - `upload`: a generation becomes the backend's; `comparing`: whether somebody else was there
//! - `beside`: what cannot become the backend's is put beside it
//! - `uploader`: the threads that do it, when, and again
//! - `replay`: what an earlier life has left

use crate::backend::Backend;
use crate::journal::{Journal, JournalFigures, Located};
use crate::types::{Credentials, FileKey, Version};
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

pub use beside::Conflicts;

mod backend;
mod beside;
mod comparing;
mod dirty;
mod file;
mod layers;
mod names;
mod replay;
mod source;
mod table;
mod upload;
mod uploader;

/// Values for [`WriteBack::start`].
#[derive(Clone, Debug)]
pub struct WriteBackSettings {
    /// How long a change waits for others of its file before it is sent to the backend.
    pub delay: Duration,
    /// Files on their way to the backend at once.
    pub parallel: usize,
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
}

/// Called when the same bytes that were of one version are of another.
pub type CarryOver = Box<dyn Fn(&FileKey, &Version, &Version) + Send + Sync>;

/// What `status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBackFigures {
    pub dirty_files: u64,
    pub dirty_bytes: u64,
    /// Files that the backend did not take when they were tried last.
    pub failing_files: u64,
    pub conflicts: Conflicts,
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
    conflicts: Mutex<Conflicts>,
    carry_over: OnceLock<CarryOver>,
    me: Weak<Self>,
}

impl WriteBack {
    /// Takes over what the journal has, and starts the threads that bring it to the backend.
    pub fn start(parts: WriteBackParts) -> io::Result<Arc<Self>> {
        let back = Arc::new_cyclic(|me| Self {
            settings: parts.settings,
            inner: parts.inner,
            journal: parts.journal,
            table: table::Table::default(),
            uploader: uploader::Uploader::default(),
            next_generation: AtomicU64::new(1),
            own: parts.own,
            host: parts.host,
            conflicts: Mutex::default(),
            carry_over: OnceLock::new(),
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

    fn this(&self) -> Arc<Self> {
        self.me
            .upgrade()
            .expect("called through an Arc, which lives as long as the call")
    }

    pub fn figures(&self) -> WriteBackFigures {
        let mut figures = WriteBackFigures {
            conflicts: self.conflicts.lock().clone(),
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

    /// Brings to the backend what it takes until the deadline; the rest stays in the journal. How many files that is.
    pub fn shutdown(&self, deadline: Instant) -> u64 {
        self.uploader.drain(deadline);
        self.uploader.end();
        let left = self.figures().dirty_files;
        self.journal.shutdown();
        left
    }
}
