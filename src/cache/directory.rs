//! One cache directory: its disk, its index, its space, and the files of it that are in use.
//!
//! Lock order, outermost first: `checkpointing`, `opening`, the object slot of a file, `pending`, the state of a
//! file, `active`, `doomed` and `following`. Only the first three are held across I/O.
//!
//! Each directory is complete in itself, so that one lost takes only its own share. A disk error
//! latches: the directory is out of use until the next mount, reads of it become misses elsewhere.

use super::changing::Follower;
use super::checkpoint::Pending;
use super::file::CachedFile;
use super::index::{Index, IndexError};
use super::layout::{self, LayoutError};
use super::objects::Doomed;
use super::record::{FileRecord, ObjectId};
use super::space::Space;
use crate::io::Io;
use crate::metrics::CacheMetrics;
use crate::types::{FileKey, Version};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

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

pub struct CacheDirectory {
    /// As the administrator named it, for messages and status.
    pub name: String,
    pub(super) io: Arc<dyn Io>,
    pub(super) index: Index,
    pub space: Space,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    /// Files with an `Arc` somewhere, by key.
    active: Mutex<HashMap<FileKey, Weak<CachedFile>>>,
    pub(super) pending: Mutex<Pending>,
    /// Held while a file comes into use from the index, and while one is evicted.
    pub(super) opening: Mutex<()>,
    /// One checkpoint at a time.
    pub(super) checkpointing: Mutex<()>,
    /// Counts commits of the index.
    pub(super) commits: AtomicU64,
    /// The access clock: the eviction order.
    pub(super) clock: AtomicU64,
    pub(super) next_object: AtomicU64,
    pub(super) files: AtomicU64,
    /// Objects below this id were there at start-up: unknown ones among them are orphans.
    pub(super) first_new_object: u64,
    pub(super) doomed: Mutex<Vec<Doomed>>,
    /// Doomed objects that follow again when their file is changed again.
    pub(super) following: Mutex<HashMap<FileKey, Vec<Follower>>>,
    pub(super) metrics: Arc<CacheMetrics>,
    /// What start-up had to say (index rebuilt...).
    pub notices: Mutex<Vec<String>>,
}

impl CacheDirectory {
    /// Opens or creates the cache in `io`. An index that cannot be opened is set aside under another name
    /// and a new one begun; the objects it knew are swept away later. Its space is nil until a limit is set.
    /// Blocks on the local disk.
    pub fn open(
        name: String,
        io: Arc<dyn Io>,
        index_cache_bytes: usize,
        metrics: Arc<CacheMetrics>,
    ) -> Result<Arc<Self>, OpenError> {
        layout::prepare(&*io)?;
        let mut notices = Vec::new();
        let index = match Index::open(&*io, layout::INDEX_FILE, index_cache_bytes) {
            Ok(index) => index,
            Err(error) => {
                let aside = format!("index.damaged-{}", crate::clock::wall_clock().seconds);
                io.rename(layout::INDEX_FILE, &aside)?;
                io.sync_directory(".")?;
                notices.push(format!(
                    "cache directory {name}: the index could not be read ({error}); it was set aside as {aside} and a new one \
                     begun, the cached data is fetched again"
                ));
                metrics.doubted.add(1);
                Index::open(&*io, layout::INDEX_FILE, index_cache_bytes)?
            }
        };
        let mut totals = index.totals()?;
        if totals.next_object == 0 {
            // A new index beside objects of an older one: their ids must not be given out again.
            totals.next_object = highest_object(&*io)? + 1;
        }
        let space = Space::new();
        space.set_used(totals.occupied_bytes);
        Ok(Arc::new(Self {
            name,
            io,
            index,
            space,
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            active: Mutex::new(HashMap::new()),
            pending: Mutex::new(Pending::default()),
            opening: Mutex::new(()),
            checkpointing: Mutex::new(()),
            commits: AtomicU64::new(0),
            clock: AtomicU64::new(totals.access_clock + 1),
            next_object: AtomicU64::new(totals.next_object),
            files: AtomicU64::new(totals.files),
            first_new_object: totals.next_object,
            doomed: Mutex::new(Vec::new()),
            following: Mutex::default(),
            metrics,
            notices: Mutex::new(notices),
        }))
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
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                tracing::warn!(directory = %self.name, doing, %error, "no room on the cache disk, reading past the cache");
            }
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                tracing::warn!(directory = %self.name, doing, %error, "short of descriptors or memory, reading past the cache");
            }
            _ => self.fail(format!("{doing}: {error}")),
        }
    }

    /// Total and free space of the disk. Blocks on it.
    pub fn disk_space(&self) -> io::Result<crate::io::DiskSpace> {
        self.io.space()
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
        self.touch(key);
        let fits = |file: &CachedFile| file.version() == version && !file.is_gone();
        if let Some(file) = self.active_file(key).filter(|file| fits(file)) {
            return file;
        }
        let _opening = self.opening.lock();
        let looked_up = self.look_up(key).and_then(|(active, record)| match active {
            Some(file) if fits(&file) => Ok((Some(file), record)),
            Some(file) => {
                // Older handles go on with what they opened; its object goes when they are done.
                self.may_follow(&file);
                self.retire(&file);
                Ok((None, self.look_up(key)?.1))
            }
            None => Ok((None, record)),
        });
        let stored = match looked_up {
            Ok((Some(file), _)) => return file,
            Ok((None, record)) => record,
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        };
        let expired = |record: &FileRecord| {
            ttl_seconds.is_some_and(|ttl| {
                crate::clock::wall_clock().seconds - record.filled_at_seconds >= ttl
            })
        };
        let record = match stored {
            Some(record) if record.version == version && !expired(&record) => Some(record),
            Some(record) => {
                self.may_follow_mapped(key, &record);
                self.remove_record(key, record.object);
                self.doom(record.object, record.occupied_bytes());
                None
            }
            None => None,
        };
        let file = CachedFile::new(Some(self.clone()), key.clone(), version, record);
        let weak = Arc::downgrade(&file);
        self.active.lock().insert(key.clone(), weak);
        file
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
