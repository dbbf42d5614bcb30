//! A file that is open for writing, or not on the backend as programs left it.

use super::layers::{Layer, Origin, origins};
use crate::backend::Place;
use crate::backend::writing::WritableFile;
use crate::journal::{BaseSum, Sequence};
use crate::types::{Attributes, ByteRange, Credentials, FileKey, Timestamp, Version};
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// `uploading` is taken before `turn`, and `turn` before `state`. The first two are held across calls of the backend and
/// the journal, on purpose: one upload at a time, and changes in the order they came.
pub(super) struct DirtyFile {
    pub key: FileKey,
    pub uploading: Mutex<()>,
    pub turn: Mutex<()>,
    state: Mutex<FileState>,
}

pub(super) struct FileState {
    /// Takes changes.
    pub open: Option<Layer>,
    /// On its way to the backend.
    pub frozen: Option<Frozen>,
    /// What the backend has, without the layers; `None` after a restart, until it was asked.
    pub base: Option<Attributes>,
    pub place: Place,
    pub opener: Credentials,
    /// A descriptor to upload by: kept while it is open here or dirty.
    pub file: Option<Arc<dyn WritableFile>>,
    pub handles: usize,
    pub is_nameless: bool,
    /// It may have another name than it has here.
    pub is_name_doubtful: bool,
    /// How often it was about to lose a name, and how often that has come to its end.
    pub losses: (u32, u32),
    /// A crash came while it was losing what may have been its last name.
    pub was_losing: bool,
    /// Why the backend did not take what was acknowledged; told once.
    pub refusal: Option<i32>,
    /// The batch of the last change.
    pub last: Sequence,
    /// Changes so far: each gives the file another version.
    pub changes: u32,
    /// Since the first of them something was read from below them, which may be somebody else's by now, and be cached.
    pub has_read_below: bool,
    /// The change time of the backend before the first of them.
    pub ctime: Option<Timestamp>,
    /// Uploads that have failed, one after the other, and why the last one did.
    pub failures: u32,
    pub trouble: Option<Arc<str>>,
    /// Something was changed on the backend past the journal, and not synced there.
    pub is_unsynced_below: bool,
}

/// A layer on its way, and what the backend had below it, once that is durable in the journal.
#[derive(Clone)]
pub(super) struct Frozen {
    pub layer: Arc<Layer>,
    pub intent: Option<Arc<Vec<BaseSum>>>,
}

impl DirtyFile {
    pub fn new(key: FileKey, place: Place, opener: Credentials) -> Self {
        Self {
            key,
            uploading: Mutex::new(()),
            turn: Mutex::new(()),
            state: Mutex::new(FileState {
                open: None,
                frozen: None,
                base: None,
                place,
                opener,
                file: None,
                handles: 0,
                is_nameless: false,
                is_name_doubtful: false,
                losses: (0, 0),
                was_losing: false,
                refusal: None,
                last: Sequence::default(),
                changes: 0,
                has_read_below: false,
                ctime: None,
                failures: 0,
                trouble: None,
                is_unsynced_below: false,
            }),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock()
    }

    pub fn is_dirty(&self) -> bool {
        self.state.lock().is_dirty()
    }

    /// The error that the backend gave for what was acknowledged, if it was not told yet.
    pub fn take_refusal(&self) -> io::Result<()> {
        match self.state.lock().refusal.take() {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    }

    /// The last record of it, if that is all that a sync has to wait for. Never blocks: `None` where that cannot be told.
    pub fn last_if_only_journalled(&self) -> Option<Sequence> {
        let state = self.state.try_lock()?;
        let nothing_else = state.refusal.is_none() && !state.is_unsynced_below;
        nothing_else.then_some(state.last)
    }

    /// Attributes as programs left them, for those that the backend has.
    pub fn shown(&self, of_backend: Attributes) -> Attributes {
        self.state.lock().shown(of_backend)
    }

    /// Attributes without asking the backend, where there is something that it does not have.
    pub fn shown_without_asking(&self) -> Option<Attributes> {
        let state = self.state.lock();
        let base = state.base.filter(|_| state.is_dirty())?;
        Some(state.shown(base))
    }

    /// Where the bytes of a range come from; `None` where all come from the backend.
    pub fn origins(&self, range: ByteRange) -> Option<Vec<(ByteRange, Origin)>> {
        let state = self.state.lock();
        let layers = state.layers();
        (!layers.is_empty()).then(|| origins(&layers, range))
    }
}

impl FileState {
    /// From the top down.
    pub fn layers(&self) -> Vec<&Layer> {
        let frozen = self.frozen.iter().map(|frozen| &*frozen.layer);
        self.open.iter().chain(frozen).collect()
    }

    pub fn top(&self) -> Option<&Layer> {
        self.layers().first().copied()
    }

    pub fn is_dirty(&self) -> bool {
        self.open.is_some() || self.frozen.is_some()
    }

    pub fn note_success(&mut self) {
        self.failures = 0;
        self.trouble = None;
    }

    pub fn is_needed(&self) -> bool {
        self.handles > 0 || self.is_dirty()
    }

    pub fn dirty_bytes(&self) -> u64 {
        self.layers()
            .iter()
            .map(|layer| layer.extents.total_bytes())
            .sum()
    }

    fn shown(&self, of_backend: Attributes) -> Attributes {
        let Some(top) = self.top() else {
            return of_backend;
        };
        let ctime = self.ctime.unwrap_or(of_backend.ctime);
        Attributes {
            size_bytes: top.size_bytes,
            mtime: top.stamp,
            // The server's clock tells how old a version is, and ours knows nothing of it.
            ctime: later_by(ctime, self.changes),
            blocks_512: of_backend.blocks_512.max(self.dirty_bytes().div_ceil(512)),
            ..of_backend
        }
    }

    /// The version that is cached with the base and what was written here, and with nothing else.
    pub fn cached_version(&self) -> Option<Version> {
        let base = self.base.filter(|_| !self.has_read_below)?;
        Some(self.shown_version(&base))
    }

    /// What programs saw last, where the backend has these attributes now.
    pub fn shown_version(&self, of_backend: &Attributes) -> Version {
        self.shown(*of_backend).version()
    }

    pub fn size_bytes(&self) -> Option<u64> {
        self.top()
            .map(|top| top.size_bytes)
            .or(self.base.map(|base| base.size_bytes))
    }

    /// Whether what has this name may be another file with the same key: a file that somebody else has removed gives its inode
    /// number to the next, once nobody has it open.
    pub fn may_be_another(&self, path: &Path, found: &Attributes) -> bool {
        let layers = self.layers();
        let expected = layers.last().and_then(|lowest| self.expected(lowest));
        let is_as_expected = expected.is_some_and(|known| {
            (known.size_bytes, known.mtime) == (found.size_bytes, found.mtime)
        });
        self.file.is_none() && self.place.path != path && !is_as_expected
    }

    /// Its name here is its only one, and nobody else has moved it, as far as is known.
    pub fn has_known_names(&self) -> bool {
        !self.is_name_doubtful && self.base.is_some_and(|base| base.link_count == 1)
    }

    /// What the next upload has to find on the backend.
    pub fn expected(&self, layer: &Layer) -> Option<Version> {
        layer.base.or(self.base.map(|base| base.version()))
    }

    /// The backend has these attributes after a change that was ours and changed no byte.
    pub fn move_base(&mut self, fresh: Attributes) {
        let is_ours = !self.is_dirty()
            || self.base.is_some_and(|base| {
                base.size_bytes == fresh.size_bytes && base.mtime == fresh.mtime
            });
        if !is_ours {
            return;
        }
        let before = self.base.replace(fresh).map(|base| base.version());
        if let Some(open) = &mut self.open
            && open.base.is_some()
            && open.base == before
        {
            open.base = Some(fresh.version());
        }
    }
}

fn later_by(time: Timestamp, nanoseconds: u32) -> Timestamp {
    let total = u64::from(time.nanoseconds) + u64::from(nanoseconds);
    Timestamp {
        seconds: time.seconds + (total / 1_000_000_000) as i64,
        nanoseconds: (total % 1_000_000_000) as u32,
    }
}
