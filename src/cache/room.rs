//! Room on the disk, which others fill too. Some of it is kept free; when it runs short nothing new is taken, and when
//! even the index gets cramped objects give way, in the order of the eviction policy.
//!
//! What always holds: want of room takes nothing out of use. What is cached is served, what the index cannot take
//! waits, and all goes on by itself once there is room.

use super::directory::CacheDirectory;
use super::index::{Change, IndexError};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of a disk this part is kept free: enough for the index, and for the filesystem to work well.
const KEPT_FREE_PART: u64 = 64;
const KEPT_FREE_BYTES_MAX: u64 = 1 << 30;
/// Fills go by what was seen of the disk so long ago at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Objects give way to others' data so often at most: some filesystems take a while to show what was freed, and a
/// program that takes every byte is not to have the whole cache at once.
const GIVE_WAY_INTERVAL: Duration = Duration::from_secs(10);
/// What a commit that found no room is given.
const INDEX_ROOM_BYTES: u64 = 8 << 20;

/// What was last seen of the room on the disk.
#[derive(Default)]
pub(super) struct Room {
    looked_at: Mutex<Option<Instant>>,
    gave_way_at: Mutex<Option<Instant>>,
    is_short: AtomicBool,
}

fn kept_free_bytes(total_bytes: u64) -> u64 {
    (total_bytes / KEPT_FREE_PART).min(KEPT_FREE_BYTES_MAX)
}

impl CacheDirectory {
    /// Sets bytes aside for a fill; false where new data has to pass by.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        if !self.takes_more() {
            return false;
        }
        let seen = *self.room.looked_at.lock();
        if seen.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
            self.look_at_room();
        }
        self.space.reserve(bytes)
    }

    /// Asks the disk for its free space; the bytes that are missing to what the index is to have.
    pub(super) fn look_at_room(&self) -> u64 {
        *self.room.looked_at.lock() = Some(Instant::now());
        let space = match self.io.space() {
            Ok(space) => space,
            Err(error) => {
                self.report_disk_error("asking for the space of the disk", &error);
                return 0;
            }
        };
        let kept_bytes = kept_free_bytes(space.total_bytes);
        let room_bytes = space.available_bytes.saturating_sub(kept_bytes);
        self.space.set_room(room_bytes);
        // In between it stays what it was: fills come up to the mark again and again.
        if room_bytes == 0 || !self.index.is_open() {
            self.note_short(true);
        } else if room_bytes > kept_bytes / 4 {
            self.note_short(false);
        }
        (kept_bytes / 2).saturating_sub(space.available_bytes)
    }

    /// Lets objects go where the room for the index runs short.
    pub(super) fn give_way(&self) {
        let missing_bytes = self.look_at_room();
        let is_due = |at: Instant| at.elapsed() >= GIVE_WAY_INTERVAL;
        let mut gave_way_at = self.room.gave_way_at.lock();
        if missing_bytes == 0 || !gave_way_at.is_none_or(is_due) {
            return;
        }
        *gave_way_at = Some(Instant::now());
        drop(gave_way_at);
        self.evict_bytes(missing_bytes);
    }

    /// The disk refused something for want of room, whatever its figures say.
    pub(super) fn found_full(&self) {
        self.space.set_room(0);
        *self.room.looked_at.lock() = Some(Instant::now());
        self.note_short(true);
    }

    fn note_short(&self, is_short: bool) {
        if self.room.is_short.swap(is_short, Ordering::AcqRel) == is_short {
            return;
        }
        match is_short {
            true => {
                tracing::warn!(directory = %self.name, "no room on the cache disk: new data is read past the cache");
            }
            false => {
                tracing::info!(directory = %self.name, "there is room on the cache disk again")
            }
        }
    }

    /// What the administrator should know where the disk is full.
    pub fn shortage(&self) -> Option<String> {
        if !self.room.is_short.load(Ordering::Acquire) {
            return None;
        }
        Some(match self.index.is_open() {
            true => "disk full: what is cached is served, new data is read past the cache; make room on that disk",
            false => "disk full: no room for the index, all is read past the cache; make room on that disk",
        }.to_owned())
    }

    /// Why the index cannot be asked, if so.
    pub fn unreachable(&self) -> Option<String> {
        match self.index.is_open() {
            true => None,
            false => Some("disk full: no room for the index; make room on that disk".to_owned()),
        }
    }

    /// Commits; where that finds no room, objects make some.
    pub(super) fn commit_with_room(&self, changes: &[Change]) -> Result<(), IndexError> {
        let outcome = self.commit_now(changes);
        if !matches!(outcome, Err(IndexError::NoRoom)) {
            return outcome;
        }
        match self.evict_bytes(INDEX_ROOM_BYTES) {
            0 => outcome,
            _ => self.commit_now(changes),
        }
    }
}
