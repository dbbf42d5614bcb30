//! One cache directory: its disk, its index, its space, and the files of it that are in use.
//!
//! Lock order, outermost first: `checkpointing`, `opening`, `scrubbing`, the object slot of a file, `pending`, the state of a
//! file, `active`, `doomed` and `following`. Only the first four are held across I/O.
//!
//! Each directory is complete in itself, so that one lost takes only its own share. A disk error
//! latches: the directory is out of use until the next mount, reads of it become misses elsewhere. Want of room does
//! not: see `room`.

use super::changing::Follower;
use super::checkpoint::Pending;
use super::file::CachedFile;
use super::history::{History, Loss};
use super::index::{Index, IndexError};
use super::layout::{self, LayoutError};
use super::objects::Doomed;
use super::policy::{PolicyKind, Usage};
use super::ranking::Ranking;
use super::record::{FileRecord, ObjectId};
use super::room::Room;
use super::scrub::Unsummed;
use super::space::Space;
use super::staying::Staying;
use super::write_budget::{WriteBudget, Written, today};
use crate::io::{Io, is_no_room};
use crate::metrics::CacheMetrics;
use crate::types::{FileKey, Version};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Names of indexes set aside begin with this.
const DAMAGED_PREFIX: &str = "index.damaged-";

/// Why a cache directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Index(#[from] IndexError),
}

impl OpenError {
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Io(error) | Self::Layout(LayoutError::Io(error)) => is_no_room(error),
            Self::Index(error) => matches!(error, IndexError::NoRoom),
            Self::Layout(_) => false,
        }
    }
}

pub struct CacheDirectory {
    /// As the administrator named it, for messages and status.
    pub name: String,
    pub(super) io: Arc<dyn Io>,
    pub(super) index: Index,
    pub space: Space,
    pub(super) room: Room,
    pub(super) budget: WriteBudget,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    /// The index was open once in this life.
    began: AtomicBool,
    /// Files with an `Arc` somewhere, by key.
    active: Mutex<HashMap<FileKey, Weak<CachedFile>>>,
    pub(super) pending: Mutex<Pending>,
    /// Held while a file comes into use from the index, and while one is evicted.
    pub(super) opening: Mutex<()>,
    /// One checkpoint at a time.
    pub(super) checkpointing: Mutex<()>,
    /// Counts commits of the index.
    pub(super) commits: AtomicU64,
    /// The access clock: what has been asked for so far, in 4 KiB blocks.
    pub(super) clock: AtomicU64,
    pub(super) ranking: Ranking,
    pub(super) staying: Staying,
    pub(super) next_object: AtomicU64,
    pub(super) files: AtomicU64,
    /// Objects below this id were there at start-up: unknown ones among them are orphans.
    pub(super) first_new_object: AtomicU64,
    pub(super) doomed: Mutex<Doomed>,
    /// Doomed objects that follow again when their file is changed again.
    pub(super) following: Mutex<HashMap<FileKey, Vec<Follower>>>,
    /// Held while the scrub has an object open, and by whoever asks whether somebody has.
    pub(super) scrubbing: Mutex<()>,
    pub(super) unsummed: Unsummed,
    pub(super) history: History,
    pub(super) metrics: Arc<CacheMetrics>,
    /// What start-up had to say (index rebuilt...).
    pub notices: Mutex<Vec<String>>,
}

impl CacheDirectory {
    /// Opens or creates the cache in `io`. An index that cannot be opened is set aside under another name
    /// and a new one begun; the objects it knew are swept away later. Where the disk has no room for that, the cache
    /// begins later. Its space is nil until a limit is set. Blocks on the local disk.
    pub fn open(
        name: String,
        io: Arc<dyn Io>,
        index_cache_bytes: usize,
        policy: PolicyKind,
        metrics: Arc<CacheMetrics>,
    ) -> Result<Arc<Self>, OpenError> {
        let directory = Arc::new(Self {
            name,
            index: Index::new(io.clone(), index_cache_bytes),
            io,
            space: Space::new(),
            room: Room::default(),
            budget: WriteBudget::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            began: AtomicBool::new(false),
            active: Mutex::new(HashMap::new()),
            pending: Mutex::new(Pending::default()),
            opening: Mutex::new(()),
            checkpointing: Mutex::new(()),
            commits: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            ranking: Ranking::new(policy),
            staying: Staying::default(),
            next_object: AtomicU64::new(0),
            files: AtomicU64::new(0),
            first_new_object: AtomicU64::new(0),
            doomed: Mutex::default(),
            following: Mutex::default(),
            scrubbing: Mutex::new(()),
            unsummed: Unsummed::default(),
            history: History::default(),
            metrics,
            notices: Mutex::default(),
        });
        match directory.begin() {
            Err(error) if !error.is_no_room() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        directory.look_at_room();
        Ok(directory)
    }

    /// Opens the index where it is not open. What has been claimed counts from its first opening on.
    pub(super) fn begin(&self) -> Result<(), OpenError> {
        if self.index.is_open() {
            return Ok(());
        }
        if self.began.load(Ordering::Acquire) {
            return Ok(self.index.open()?);
        }
        layout::prepare(&*self.io)?;
        match self.index.open() {
            Err(IndexError::Broken(error)) => self.begin_anew(&error)?,
            outcome => outcome?,
        }
        let mut totals = self.index.totals()?;
        self.budget.resume(totals.written);
        if totals.next_object == 0 {
            // A new index beside objects of an older one: their ids must not be given out again.
            totals.next_object = highest_object(&*self.io)? + 1;
        }
        self.space.set_used(totals.occupied_bytes);
        self.ranking
            .set_noted(totals.occupied_bytes, totals.probation_bytes);
        self.staying.set_pinned(totals.pinned);
        self.clock
            .fetch_max(totals.access_clock + 1, Ordering::AcqRel);
        self.next_object
            .store(totals.next_object, Ordering::Release);
        self.first_new_object
            .store(totals.next_object, Ordering::Release);
        self.files.store(totals.files, Ordering::Release);
        self.began.store(true, Ordering::Release);
        Ok(())
    }

    fn begin_anew(&self, error: &redb::Error) -> Result<(), OpenError> {
        let aside = set_aside(&*self.io, layout::INDEX_FILE, DAMAGED_PREFIX)?;
        self.notices.lock().push(format!(
            "cache directory {}: the index could not be read ({error}); it was set aside as {aside} and a new one \
             begun, the cached data is fetched again",
            self.name
        ));
        self.metrics.doubted.add(1);
        Ok(self.index.open()?)
    }

    /// Why the directory is out of use; `None` while it works.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub fn is_usable(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    /// Takes the directory out of use until the next mount. The first reason is kept.
    pub fn fail(&self, reason: String) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(directory = %self.name, %reason, "cache directory out of use, its files are read from the backend");
            *failure = Some(reason);
            self.failed.store(true, Ordering::Release);
        }
    }

    /// An error of the cache disk: full is not broken.
    pub fn report_disk_error(&self, doing: &str, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                tracing::debug!(directory = %self.name, doing, %error, "no room on the cache disk");
                self.found_full();
            }
            Some(libc::EFBIG) => {
                tracing::warn!(directory = %self.name, doing, %error, "too large for the cache disk, reading past the cache");
            }
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                tracing::warn!(directory = %self.name, doing, %error, "short of descriptors or memory, reading past the cache");
            }
            _ => self.fail(format!("{doing}: {error}")),
        }
    }

    /// An error of the index: without room it cannot be asked, which is not broken either.
    pub(super) fn report_index_error(&self, error: &IndexError) {
        match error {
            IndexError::NoRoom => self.found_full(),
            IndexError::Broken(_) => self.fail(error.to_string()),
        }
    }

    /// Total and free space of the disk. Blocks on it.
    pub fn disk_space(&self) -> io::Result<crate::io::DiskSpace> {
        self.io.space()
    }

    /// The most that may be written to it in a day.
    pub fn set_write_limit(&self, limit_bytes: Option<u64>) {
        self.budget.set_limit(limit_bytes);
    }

    pub fn write_limit_bytes(&self) -> Option<u64> {
        self.budget.limit_bytes()
    }

    pub fn written_today(&self) -> Written {
        self.budget.written(today())
    }

    /// Files in the index, as of the last checkpoint.
    pub fn file_count(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// The file of this key and version: the one in use, the one in the index, or a new empty one.
    /// A record of another version is dropped. May wait for the local disk.
    pub(super) fn file(
        self: &Arc<Self>,
        key: &FileKey,
        version: Version,
        ttl_seconds: Option<i64>,
    ) -> Arc<CachedFile> {
        self.note_use(key, Usage::Opened, version.size_bytes);
        let fits = |file: &CachedFile| file.version() == version && !file.is_gone();
        if let Some(file) = self.active_file(key).filter(|file| fits(file)) {
            return file;
        }
        let _opening = self.opening.lock();
        let looked_up = self.look_up(key).and_then(|(active, record)| match active {
            Some(file) if fits(&file) => Ok((Some(file), record)),
            Some(file) => {
                // Older handles go on with what they opened; its object goes when they are done.
                self.may_follow(&file, file.version());
                self.history.note_loss(key, Loss::Replaced);
                self.retire(&file);
                Ok((None, self.look_up(key)?.1))
            }
            None => Ok((None, record)),
        });
        let stored = match looked_up {
            Ok((Some(file), _)) => return file,
            Ok((None, record)) => record,
            Err(error) => {
                self.report_index_error(&error);
                // It may have a record: nothing may be begun beside that.
                return CachedFile::new(None, key.clone(), version, None);
            }
        };
        let expired = |record: &FileRecord| record.is_older_than(ttl_seconds);
        let record = match stored {
            Some(record) if record.version == version && !expired(&record) => Some(record),
            Some(record) => {
                let loss = match record.version == version {
                    true => Loss::Expired,
                    false => Loss::Replaced,
                };
                self.history.note_loss(key, loss);
                self.may_follow_mapped(key, &record);
                self.remove_record(key, record.object);
                self.doom(record.object, record.occupied_bytes());
                None
            }
            None => None,
        };
        self.activate(key, version, record)
    }

    fn activate(
        self: &Arc<Self>,
        key: &FileKey,
        version: Version,
        record: Option<FileRecord>,
    ) -> Arc<CachedFile> {
        let file = CachedFile::new(Some(self.clone()), key.clone(), version, record);
        let weak = Arc::downgrade(&file);
        self.active.lock().insert(key.clone(), weak);
        file
    }

    /// The file in use, or the one in the index; that is no use of it. May wait for the local disk.
    pub(super) fn stored_file(self: &Arc<Self>, key: &FileKey) -> Option<Arc<CachedFile>> {
        let _opening = self.opening.lock();
        match self.look_up(key) {
            Ok((Some(file), _)) => Some(file),
            Ok((None, record)) => {
                let record = record?;
                Some(self.activate(key, record.version, Some(record)))
            }
            Err(error) => {
                self.report_index_error(&error);
                None
            }
        }
    }

    pub(super) fn active_file(&self, key: &FileKey) -> Option<Arc<CachedFile>> {
        self.active.lock().get(key).and_then(Weak::upgrade)
    }

    /// The file in use and the record in the index, as they were at one instant. A record whose object is
    /// on its way out is none. Called with `opening` held.
    pub(super) fn look_up(
        &self,
        key: &FileKey,
    ) -> Result<(Option<Arc<CachedFile>>, Option<FileRecord>), IndexError> {
        loop {
            let commits = self.commits.load(Ordering::Acquire);
            let record = self.index.get(key)?;
            let record = record.filter(|record| !self.is_leaving(key, record.object));
            let active = self.active_file(key);
            // A commit in between may have taken in what a file had that is no longer in use.
            if self.commits.load(Ordering::Acquire) == commits {
                return Ok((active, record));
            }
        }
    }

    pub(super) fn forget_unused(&self) {
        self.active.lock().retain(|_, file| file.strong_count() > 0);
    }
}

/// Under a name that says when; those set aside before are removed, or they would pile up.
pub(super) fn set_aside(io: &dyn Io, file: &str, prefix: &str) -> io::Result<String> {
    let aside = format!("{prefix}{}", crate::clock::wall_clock().seconds);
    let mut before = Vec::new();
    io.list(".", &mut |name| {
        before.extend((name.starts_with(prefix) && name != aside).then(|| name.to_owned()));
        true
    })?;
    io.rename(file, &aside)?;
    for name in before {
        io.remove_file(&name)?;
    }
    io.sync_directory(".")?;
    Ok(aside)
}

fn highest_object(io: &dyn Io) -> io::Result<u64> {
    let mut highest = 0;
    for low in 0..=0xff {
        io.list(&format!("{}/{low:02x}", layout::OBJECTS), &mut |name| {
            if let Some(ObjectId(id)) = layout::object_of_name(name) {
                highest = highest.max(id);
            }
            true
        })?;
    }
    Ok(highest)
}
