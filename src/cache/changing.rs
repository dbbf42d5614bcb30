//! A cached file that is about to be changed through this mount is given up: its record leaves the index, its object
//! is kept up to date for the version to come (`kept`), or goes when nobody has it. An object that the kernel reads by itself, for handles or mappings, *follows* the
//! changes until then: what was written to the backend is written into it, too.
//!
//! Invariants: what is cached is given up before the first byte changes, and durably before a byte of an object does;
//! an object follows only while its bytes are those of the backend's present version.

use super::Cache;
use super::content::Content;
use super::directory::CacheDirectory;
use super::fetch::FetchError;
use super::file::CachedFile;
use super::history::Loss;
use super::kept::{Keep, Kept};
use super::own_times::has_bytes_of;
use super::record::{FileRecord, ObjectId, occupied};
use crate::io::IoFile;
use crate::types::{ByteRange, FileKey, Version};
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};

/// Zeros are written in pieces of this.
const ZEROS_BYTES: usize = 1 << 20;

/// What an object shows whose file is, or was, changed through this mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Following {
    /// The backend's present bytes.
    Present,
    /// What the backend had after the last of the changes.
    Until(Version),
}

/// An object without a record that follows, or may do so again.
pub(super) struct Follower {
    key: FileKey,
    directory: Arc<CacheDirectory>,
    object: ObjectId,
    /// Nobody may have it in use as a file any more: a mapping outlives all handles.
    pub(super) user: Weak<CachedFile>,
    pub(super) version: Version,
}

/// What was in the cache of a file that is about to be changed.
#[derive(Default)]
struct GivenUp {
    file: Option<Arc<CachedFile>>,
    follower: Option<OpenFollower>,
    content: Option<Content>,
}

type OpenFollower = (Follower, Arc<dyn IoFile>);

/// Objects that follow the changes of one file now.
#[derive(Default)]
pub struct Followers {
    /// Read by the kernel.
    shown: Vec<OpenFollower>,
    /// For the version to come.
    kept: Mutex<Option<Arc<Kept>>>,
}

impl Cache {
    /// Gives up what is cached of a file. What is left are objects the kernel reads by itself, each with the version
    /// it has the bytes of, and what is to be kept. `own` is what the node that changes has in use. Blocks on the local
    /// disk.
    pub fn begin_change(
        self: &Arc<Self>,
        key: &FileKey,
        keep: Option<Keep>,
        own: Option<&Arc<CachedFile>>,
    ) -> Followers {
        let mut followers = Followers::default();
        let mut content = None;
        let wanted = keep.and_then(|keep| self.prepare_to_keep(key, keep));
        for directory in self.directories.iter().filter(|one| one.is_usable()) {
            directory.resume_following(key, &mut followers);
            let given_up = directory.give_up(key, wanted.as_ref(), own);
            if let Some(follower) = given_up.follower {
                directory.checkpoint();
                directory.disown(key, &follower);
                followers.shown.push(follower);
            }
            if let Some(file) = given_up.file {
                self.fail_fetch(&file, &FetchError::Changed);
                self.reclaim.wake();
            }
            if let Some(taken) = given_up.content {
                content = Some((directory.clone(), taken));
            }
        }
        followers.kept = Mutex::new(keep.and_then(|keep| self.keep(key, keep, content)));
        followers
    }

    /// The same for a file that was just made: there is nothing to give up.
    pub fn begin_new(self: &Arc<Self>, key: &FileKey, keep: Keep) -> Followers {
        Followers {
            shown: Vec::new(),
            kept: Mutex::new(self.keep(key, keep, None)),
        }
    }
}

impl CacheDirectory {
    pub(super) fn keep_following(&self, follower: Follower) {
        let key = follower.key.clone();
        self.following.lock().entry(key).or_default().push(follower);
    }

    /// The object is gone, and with it whoever it could follow for.
    pub(super) fn end_following(&self, object: ObjectId) {
        let mut following = self.following.lock();
        following.retain(|_, followers| {
            followers.retain(|follower| follower.object != object);
            !followers.is_empty()
        });
    }

    /// A file gives way to another version: the kernel may go on reading its object, which has the bytes of `version`, and
    /// the difference may be one of attributes only.
    pub(super) fn may_follow(self: &Arc<Self>, file: &Arc<CachedFile>, version: Version) {
        if let Some(object) = file.complete_object() {
            self.keep_following(Follower {
                key: file.key.clone(),
                directory: self.clone(),
                object,
                user: Arc::downgrade(file),
                version,
            });
        }
    }

    /// The same for a file that nobody has open.
    pub(super) fn may_follow_mapped(self: &Arc<Self>, key: &FileKey, record: &FileRecord) {
        self.keep_following(self.mapped_follower(key, record));
    }

    fn mapped_follower(self: &Arc<Self>, key: &FileKey, record: &FileRecord) -> Follower {
        Follower {
            key: key.clone(),
            directory: self.clone(),
            object: record.object,
            user: Weak::new(),
            version: record.version,
        }
    }

    fn resume_following(&self, key: &FileKey, into: &mut Followers) {
        let Some(idle) = self.following.lock().remove(key) else {
            return;
        };
        for follower in idle {
            // Removed with its last mapping, perhaps.
            if let Ok(file) = self.open_object(follower.object) {
                into.shown.push((follower, file));
            }
        }
    }

    /// Takes the content of a file out of use and out of the index: the file if it was in use, its object if the
    /// kernel may go on reading that, and else its content if it is that of the `wanted` file.
    fn give_up(
        self: &Arc<Self>,
        key: &FileKey,
        wanted: Option<&Arc<CachedFile>>,
        own: Option<&Arc<CachedFile>>,
    ) -> GivenUp {
        let no_checkpoint = wanted.and_then(|_| self.between_checkpoints());
        let _opening = self.opening.lock();
        let _no_scrub = self.scrubbing.lock();
        let (active, record) = match self.look_up(key) {
            Ok(found) => found,
            Err(error) => {
                self.report_index_error(&error);
                (self.active_file(key), None)
            }
        };
        let (mut follower, mut content) = (None, None);
        if let Some(file) = &active {
            let is_it = |other: Option<&Arc<CachedFile>>| {
                other.is_some_and(|other| Arc::ptr_eq(other, file))
            };
            let has_others = file.users() > usize::from(is_it(own));
            follower = self.read_by_kernel(file, has_others);
            let is_free = follower.is_none() && !has_others;
            if is_it(wanted) && is_free && no_checkpoint.is_some() {
                content = self.take_content(file);
            }
            self.retire(file);
        }
        let taken = content.as_ref().map(|content| content.object.id);
        let left = record
            .filter(|record| taken != Some(record.object) && !self.is_leaving(key, record.object));
        if let Some(record) = left {
            follower = follower.or_else(|| self.still_mapped(key, &record));
            self.remove_record(key, record.object);
            self.doom(record.object, record.occupied_bytes());
        }
        self.history.note_loss(key, Loss::Replaced);
        GivenUp {
            file: active,
            follower,
            content,
        }
    }

    /// A record that stays for want of room is not to be believed in a later life: from now on, durably, its object has
    /// another modification time.
    fn disown(&self, key: &FileKey, (follower, file): &OpenFollower) {
        let left = self.index.get(key);
        if matches!(&left, Ok(record) if record.as_ref().is_none_or(|record| record.object != follower.object))
        {
            return;
        }
        let disowned = file
            .facts()
            .and_then(|facts| file.set_size(facts.size_bytes))
            .and_then(|()| file.sync_all());
        if let Err(error) = disowned {
            self.report_disk_error("disowning an object", &error);
        }
    }

    fn read_by_kernel(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        has_others: bool,
    ) -> Option<OpenFollower> {
        let object = file.complete_object()?;
        let opened = match file.kept_object_file() {
            Some(opened) => opened,
            None => self.open_object(object).ok()?,
        };
        // Given to it a moment ago, it may not have opened it yet.
        let is_held = (has_others && file.is_given()) || !opened.is_exclusive();
        let follower = Follower {
            key: file.key.clone(),
            directory: self.clone(),
            object,
            user: Arc::downgrade(file),
            version: file.version(),
        };
        is_held.then_some((follower, opened))
    }

    /// The object of a file nobody has open: only a mapping can hold it.
    pub(super) fn still_mapped(
        self: &Arc<Self>,
        key: &FileKey,
        record: &FileRecord,
    ) -> Option<OpenFollower> {
        let whole = ByteRange::new(0, record.version.size_bytes);
        let opened = self.open_object(record.object).ok()?;
        let is_held = record.extents.contains(whole) && !opened.is_exclusive();
        is_held.then(|| (self.mapped_follower(key, record), opened))
    }
}

impl Followers {
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty() && self.kept.lock().is_none()
    }

    pub fn keep(&self) -> bool {
        self.kept().is_some_and(|kept| kept.has_extents())
    }

    /// There are objects that the kernel reads by itself.
    pub fn are_shown(&self) -> bool {
        !self.shown.is_empty()
    }

    /// With those that have followed all along.
    pub fn extend(&mut self, others: Option<Followers>) {
        let shown = others.into_iter().flat_map(|others| others.shown);
        self.shown.extend(shown);
    }

    fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.lock().clone()
    }

    /// Those with other bytes than the backend has now stay as they are.
    pub fn keep_only(&mut self, present: &Version) {
        self.shown
            .retain(|(follower, _)| has_bytes_of(&follower.version, present));
        for (follower, _) in &self.shown {
            follower.show(Following::Present);
        }
    }

    pub fn write(&self, data: &[u8], offset: u64) {
        if let Some(kept) = self.kept() {
            kept.write(data, offset);
        }
        self.each("following a write", |file| file.write_all_at(data, offset));
    }

    pub fn set_size(&self, size_bytes: u64) {
        if let Some(kept) = self.kept() {
            kept.set_size(size_bytes);
        }
        self.each("following a truncation", |file| file.set_size(size_bytes));
    }

    /// Zeros where the file has bytes there; with `may_grow` up to the end of the range.
    pub fn zero(&self, range: ByteRange, may_grow: bool) {
        if let Some(kept) = self.kept() {
            kept.zero(range, may_grow);
        }
        self.each("following a hole", |file| zero(file, range, may_grow));
    }

    /// The backend may or may not have taken a change of this range.
    pub fn doubt(&self, range: ByteRange) {
        if let Some(kept) = self.kept() {
            kept.doubt(range);
        }
    }

    /// The backend has other bytes there, which did not come this way.
    pub fn miss(&self, range: ByteRange) {
        if let Some(kept) = self.kept() {
            kept.miss(range);
        }
    }

    /// Nothing is kept after all.
    pub fn lose_kept(&self) {
        if let Some(kept) = self.kept.lock().take() {
            kept.lose();
        }
    }

    /// Reads what is kept, if all that is asked for is. Waits for the local disk.
    pub fn read_kept(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        self.kept()?.read(buffer, offset)
    }

    /// The changes have led to this version: what was kept is cached as such. Whether it is.
    pub fn adopt_kept(&self, version: Version) -> bool {
        let kept = self.kept.lock().take().and_then(Arc::into_inner);
        kept.is_some_and(|kept| kept.adopt(version))
    }

    /// The changes have ended with this version; `None` where that could not be told.
    pub fn rest(self, version: Option<Version>) {
        let Some(version) = version else {
            return;
        };
        for (mut follower, file) in self.shown {
            drop(file);
            follower.show(Following::Until(version));
            follower.note_growth(&version);
            follower.version = version;
            let directory = follower.directory.clone();
            directory.keep_following(follower);
        }
    }

    fn each(&self, doing: &str, act: impl Fn(&dyn IoFile) -> io::Result<()>) {
        for (follower, file) in &self.shown {
            if let Err(error) = act(&**file) {
                // The kernel reads on without us: all that can be done is to say so.
                tracing::error!(
                    object = follower.object.0,
                    "an open or mapped file shows old bytes until it is opened again"
                );
                follower.directory.report_disk_error(doing, &error);
            }
        }
    }
}

pub(super) fn zero(file: &dyn IoFile, range: ByteRange, may_grow: bool) -> io::Result<()> {
    let size_bytes = file.facts()?.size_bytes;
    let inside = range.intersection(&ByteRange::new(0, size_bytes));
    let zeros = vec![0; ZEROS_BYTES.min(inside.length_bytes() as usize)];
    let mut offset = inside.start;
    while offset < inside.end {
        let length = (inside.end - offset).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], offset)?;
        offset += length;
    }
    if may_grow && range.end > size_bytes {
        file.set_size(range.end)?;
    }
    Ok(())
}

impl Follower {
    fn show(&self, following: Following) {
        if let Some(user) = self.user.upgrade() {
            user.follow(following);
        }
    }

    /// What the object takes more than it did counts.
    fn note_growth(&self, version: &Version) {
        let taken = |size_bytes| occupied(ByteRange::new(0, size_bytes));
        let more = taken(version.size_bytes).saturating_sub(taken(self.version.size_bytes));
        if self.directory.doom_along(self.object, more) {
            self.directory.space.grow(more);
        }
    }
}
