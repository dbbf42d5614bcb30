//! One version of one backend file: which of its bytes are in its object, and what is under way for the rest.
//!
//! Invariants: an extent is in the map only after its bytes are readable from the object and the
//! version was seen unchanged after they were read; a file that is `gone` takes no more bytes; one whose
//! backend file changed serves none, one that was merely dropped serves its older handles what it has.

use super::changing::Following;
use super::directory::CacheDirectory;
use super::extents::ExtentMap;
use super::pieces::Pieces;
use super::policy::{Place, Queue, Usage};
use super::record::{FileRecord, ObjectId};
use super::staying::Stay;
use super::sums::FreshSums;
use super::trimming::Trimming;
use crate::backend::{Placed, SourceFile};
use crate::io::IoFile;
use crate::types::{ByteRange, FileKey, Version};
use parking_lot::{Mutex, RwLock};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

pub struct CachedFile {
    /// `None`: this file passes by uncached.
    pub(super) directory: Option<Arc<CacheDirectory>>,
    pub key: FileKey,
    size_bytes: u64,
    version: Mutex<Version>,
    /// Held shared while the backend is asked whether it still has this version, and exclusively while attributes
    /// are changed through this mount, which makes another version of the same content.
    pub(super) unchanged: RwLock<()>,
    pub(super) state: Mutex<State>,
    /// Held across the opening of the object; apart from `state`, which is never held across I/O.
    pub(super) object_file: Mutex<Option<Arc<dyn IoFile>>>,
    /// Nodes that have the file open.
    users: AtomicUsize,
    /// How often the object, or parts of it, were given up to change.
    pub(super) trims: AtomicU64,
}

pub(super) struct State {
    pub extents: ExtentMap,
    pub object: Option<StoredObject>,
    pub gone: Option<Gone>,
    /// The object was given to the kernel: it never changes again.
    pub given_to_kernel: bool,
    /// Reads go past the cache: no room, or the disk refused.
    pub bypass: bool,
    pub filled_at_seconds: i64,
    /// Knows where to fetch from; set at open.
    pub place: Option<Arc<dyn Placed>>,
    /// When this version was first seen; `None` if in an earlier life.
    pub first_seen: Option<Instant>,
    /// The object's modification time was noted after the last bytes came in.
    pub mtime_is_noted: bool,
    /// After this version was seen, nobody had the file open for writing: a write begun since shows in the version.
    pub writers_ruled_out: bool,
    /// Bytes of this version were given out while somebody had the file open for writing.
    pub given_while_written: bool,
    /// The object goes on showing the file while that is changed through this mount.
    pub following: Option<Following>,
    pub pieces: Pieces,
    /// Fetched ahead, and not read since.
    pub unread: ExtentMap,
    pub trimming: Trimming,
    pub stay: Stay,
    pub sums: FreshSums,
}

#[derive(Clone, Copy)]
pub(super) struct StoredObject {
    pub id: ObjectId,
    pub inode: u64,
    pub mtime_ns: i64,
    /// Its facts were compared with the record, or it was made in this life.
    pub trusted: bool,
}

/// Why a file serves nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// The backend has another version.
    Changed,
    /// Evicted or replaced; opening it anew begins afresh. While it has its object it is only set aside, and may stay.
    Dropped,
    /// Its object is not what was stored.
    Damaged,
}

impl State {
    /// The index may tell of what it has: nobody has given that up, but an eviction that may yet find it in use.
    fn may_be_claimed(&self) -> bool {
        match self.gone {
            None => true,
            Some(Gone::Dropped) => self.object.is_some(),
            Some(Gone::Changed | Gone::Damaged) => false,
        }
    }

    pub(super) fn set_place(&mut self, place: Arc<dyn Placed>, first_seen: Instant) {
        self.place = Some(place);
        if let Some(seen) = &mut self.first_seen {
            *seen = first_seen.min(*seen);
        }
    }
}

impl CachedFile {
    pub(super) fn new(
        directory: Option<Arc<CacheDirectory>>,
        key: FileKey,
        version: Version,
        record: Option<FileRecord>,
    ) -> Arc<Self> {
        let bypass = directory.is_none();
        let stored = record.is_some();
        let stay = match &record {
            Some(record) if record.place.queue == Queue::PINNED => Stay::Pinned,
            _ => Stay::ByPolicy,
        };
        let (extents, object, filled_at_seconds) = match record {
            Some(record) => (
                record.extents,
                Some(StoredObject {
                    id: record.object,
                    inode: record.object_inode,
                    mtime_ns: record.object_mtime_ns,
                    trusted: false,
                }),
                record.filled_at_seconds,
            ),
            None => (ExtentMap::new(), None, crate::clock::wall_clock().seconds),
        };
        Arc::new(Self {
            directory,
            key,
            size_bytes: version.size_bytes,
            version: Mutex::new(version),
            unchanged: RwLock::new(()),
            state: Mutex::new(State {
                extents,
                object,
                gone: None,
                given_to_kernel: false,
                bypass,
                filled_at_seconds,
                place: None,
                first_seen: (!stored).then(Instant::now),
                mtime_is_noted: stored,
                writers_ruled_out: stored,
                given_while_written: false,
                following: None,
                pieces: Pieces::default(),
                unread: ExtentMap::new(),
                trimming: Trimming::default(),
                stay,
                sums: FreshSums::default(),
            }),
            object_file: Mutex::new(None),
            users: AtomicUsize::new(0),
            trims: AtomicU64::new(0),
        })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn version(&self) -> Version {
        *self.version.lock()
    }

    /// The same content is of another version now, whose size is the same.
    pub(super) fn set_version(&self, version: Version) {
        let before = std::mem::replace(&mut *self.version.lock(), version);
        let mut state = self.state.lock();
        if let Some(Following::Until(shown)) = &mut state.following
            && *shown == before
        {
            *shown = version;
        }
    }

    pub(super) fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size_bytes())
    }

    /// All bytes are in the object.
    pub fn is_complete(&self) -> bool {
        let state = self.state.lock();
        state.gone.is_none()
            && !state.bypass
            && self.is_served()
            && state.extents.contains(self.whole())
    }

    /// Its directory is in use. After a failed sync the disk may have other bytes than were written: nothing
    /// is read from a directory out of use.
    pub(super) fn is_served(&self) -> bool {
        self.directory
            .as_ref()
            .is_some_and(|directory| directory.is_usable())
    }

    pub fn is_gone(&self) -> bool {
        self.state.lock().gone.is_some()
    }

    /// The index may tell of what it has, now or after an eviction that finds it in use.
    pub(super) fn may_be_claimed(&self) -> bool {
        self.state.lock().may_be_claimed()
    }

    /// Nobody is to begin to read it: the backend was seen to have another version, or the object is damaged.
    pub fn is_changed(&self) -> bool {
        let gone = self.state.lock().gone;
        matches!(gone, Some(Gone::Changed | Gone::Damaged))
    }

    /// Bytes of this version were given out while it was being written: nobody may keep them as the version's.
    pub fn was_given_while_written(&self) -> bool {
        self.state.lock().given_while_written
    }

    /// Whether a write may be under way that the version does not show (see [`SourceFile::has_writer`]). Asked
    /// after the version has settled, and until the answer was no once.
    pub(super) fn may_be_written(&self, source: &dyn SourceFile) -> bool {
        if self.state.lock().writers_ruled_out {
            return false;
        }
        let written = source.has_writer();
        let mut state = self.state.lock();
        state.writers_ruled_out = !written;
        state.given_while_written |= written;
        written
    }

    /// Reads of this file go past the cache.
    pub fn is_bypassed(&self) -> bool {
        self.state.lock().bypass
    }

    /// The bytes can be read from the object. Older handles of a dropped file keep what they have.
    pub(super) fn holds(&self, range: ByteRange) -> bool {
        self.has_served(&self.state.lock(), range)
    }

    pub(super) fn has_served(&self, state: &State, range: ByteRange) -> bool {
        let may_serve = matches!(state.gone, None | Some(Gone::Dropped));
        may_serve && self.is_served() && state.extents.contains(range)
    }

    /// The cached extents, for `seek` and for showing.
    pub fn extents(&self) -> ExtentMap {
        self.state.lock().extents.clone()
    }

    /// Counts a node that has the file open; `place` knows where the backend has it.
    pub fn begin_use(&self, place: Arc<dyn Placed>, first_seen: Instant) {
        let is_first = self.users.fetch_add(1, Ordering::AcqRel) == 0;
        let mut state = self.state.lock();
        // There may be room by now.
        state.bypass &= self.directory.is_none() || !is_first;
        state.set_place(place, first_seen);
    }

    /// Ends what `begin_use` began. After the last one descriptors are closed, the backend's first:
    /// an open file that is unlinked leaves an .nfsXXXX behind.
    pub fn end_use(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if let Some(directory) = &self.directory {
            directory.note_use(&self.key, Usage::Closed, 0);
        }
        self.note_waste();
        let source = {
            let mut state = self.state.lock();
            // Nobody goes on with the streams it was for.
            state.pieces.give_up_ahead();
            if state.pieces.is_idle() {
                state.pieces.close_source()
            } else {
                None
            }
        };
        drop(source);
        if self.state.lock().pieces.is_idle() {
            *self.object_file.lock() = None;
        }
    }

    /// A descriptor of the backend is open for it: closing it may wait for the server.
    pub fn has_source(&self) -> bool {
        self.state.lock().pieces.source().is_some()
    }

    pub fn is_used(&self) -> bool {
        self.users() > 0
    }

    /// Nodes that have the file open.
    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::Acquire)
    }

    /// From now on the object belongs to the kernel too and never changes. The descriptor to register;
    /// `None` if the file is not complete or the object cannot be had. Opens it, on the local disk.
    pub fn give_to_kernel(&self) -> Option<Arc<dyn IoFile>> {
        let file = self.object_file().ok()??;
        let mut state = self.state.lock();
        let complete = state.extents.contains(self.whole());
        if state.gone.is_some() || !self.is_served() || !complete {
            return None;
        }
        state.given_to_kernel = true;
        Some(file)
    }

    /// The object, if it has all bytes.
    pub(super) fn complete_object(&self) -> Option<ObjectId> {
        let state = self.state.lock();
        let complete = state.gone.is_none() && state.extents.contains(self.whole());
        Some(state.object.filter(|_| complete)?.id)
    }

    pub(super) fn is_given(&self) -> bool {
        self.state.lock().given_to_kernel
    }

    pub(super) fn follow(&self, following: Following) {
        self.state.lock().following = Some(following);
    }

    /// The object has, or had, bytes written into it that this version does not tell of.
    pub fn is_following(&self) -> bool {
        self.state.lock().following.is_some()
    }

    /// What the object shows where the backend has `present`.
    pub fn shown_version(&self, present: &Version) -> Version {
        match self.state.lock().following {
            Some(Following::Present) => *present,
            Some(Following::Until(version)) => version,
            None => self.version(),
        }
    }

    /// Reads the object of a file that follows: its end is the object's. Waits for the local disk.
    pub fn read_following(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.kept_object_file() {
            Some(object) => object.read_at(buffer, offset),
            None => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        }
    }

    /// The record for the index, its place left open; `None` when there is nothing to claim, or not yet.
    pub(super) fn record(&self) -> Option<FileRecord> {
        let state = self.state.lock();
        let object = state.object?;
        // A complete file is compared with its modification time later, so it is not claimed without.
        let unproven = !state.mtime_is_noted && state.extents.contains(self.whole());
        if !state.may_be_claimed() || state.extents.is_empty() || unproven {
            return None;
        }
        Some(FileRecord {
            version: self.version(),
            object: object.id,
            object_inode: object.inode,
            object_mtime_ns: object.mtime_ns,
            place: Place::new(Queue::PROBATION, 0),
            filled_at_seconds: state.filled_at_seconds,
            extents: state.extents.clone(),
        })
    }

    pub(super) fn is_coming_in(&self) -> bool {
        let state = self.state.lock();
        state.gone.is_none() && !state.pieces.is_idle()
    }
}

impl Drop for CachedFile {
    /// An object that nothing came into has no record: nobody would ever find it.
    fn drop(&mut self) {
        self.note_waste();
        let state = self.state.get_mut();
        if let Some(directory) = &self.directory
            && let Some(object) = state.object
            && state.extents.is_empty()
        {
            directory.doom(object.id, 0);
        }
    }
}
