//! Room on the disk, which others fill too. Some of it is kept free; when it runs short nothing new is taken, and when
//! even the index gets cramped objects give way, in the order of the eviction policy.
//!
//! What always holds: want of room takes nothing out of use. What is cached is served, what the index cannot take
//! waits, and all goes on by itself once there is room.

use super::directory::CacheDirectory;
use super::index::{Change, IndexError};
use super::pieces::PIECE_BYTES;
use super::watermarks::{Look, Watermarks};
use super::write_budget::today;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    watermarks: Mutex<Watermarks>,
    /// Files are giving way until the mark where that ends.
    is_giving_way: AtomicBool,
}

/// How it begins what is said of a full disk.
pub const DISK_FULL: &str = "disk full";

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
        self.budget.take(bytes, today()) && {
            let has_room = self.space.reserve(bytes);
            if !has_room {
                self.budget.give_back(bytes);
            }
            has_room
        }
    }

    /// Nothing was written of what was set aside.
    pub(super) fn unreserve(&self, bytes: u64) {
        self.space.give_back(bytes);
        self.budget.give_back(bytes);
    }

    /// No more is written to it today than small files.
    pub(super) fn has_written_all(&self) -> bool {
        let written_bytes = self.written_today().bytes;
        self.write_limit_bytes()
            .is_some_and(|limit| limit.saturating_sub(written_bytes) < PIECE_BYTES)
    }

    /// Before the first fill.
    pub fn set_watermarks(&self, watermarks: Watermarks) {
        self.space.set_watermarks(watermarks.held);
        *self.room.watermarks.lock() = watermarks;
    }

    /// Asks the disk for its free space.
    pub(super) fn look_at_room(&self) -> Look {
        *self.room.looked_at.lock() = Some(Instant::now());
        let space = match self.io.space() {
            Ok(space) => space,
            Err(error) => {
                self.report_disk_error("asking for the space of the disk", &error);
                return Look::default();
            }
        };
        let is_giving_way = self.room.is_giving_way.load(Ordering::Acquire);
        let watermarks = *self.room.watermarks.lock();
        let look = watermarks.look(&space, is_giving_way);
        self.space.set_room(look.room_bytes);
        // In between it stays what it was: fills come up to the mark again and again.
        if look.room_bytes == 0 || !self.index.is_open() {
            self.note_short(true);
        } else if look.room_bytes > look.little_bytes {
            self.note_short(false);
        }
        self.room
            .is_giving_way
            .store(look.is_short(), Ordering::Release);
        look
    }

    /// Lets files go where others' data, or our own, leaves less free than is to be.
    pub(super) fn give_way(&self) {
        let look = self.look_at_room();
        let is_due = |at: Instant| at.elapsed() >= GIVE_WAY_INTERVAL;
        let mut gave_way_at = self.room.gave_way_at.lock();
        if !look.is_short() || !gave_way_at.is_none_or(is_due) {
            return;
        }
        *gave_way_at = Some(Instant::now());
        drop(gave_way_at);
        self.evict_some(look.missing_bytes, look.missing_files);
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

    /// What the administrator should know where the disk is full. Asks the disk.
    pub fn shortage(&self) -> Option<String> {
        if !self.room.is_short.load(Ordering::Acquire) && self.has_room_now() {
            return None;
        }
        Some(match self.index.is_open() {
            true => format!(
                "{DISK_FULL}: what is cached is served, new data is read past the cache; make room on that disk"
            ),
            false => format!(
                "{DISK_FULL}: no room for the index, all is read past the cache; make room on that disk"
            ),
        })
    }

    /// Others may have filled the disk since the last fill looked. An error of the disk is told elsewhere.
    fn has_room_now(&self) -> bool {
        let watermarks = *self.room.watermarks.lock();
        let space = self.io.space();
        space.map_or(true, |space| watermarks.look(&space, false).room_bytes > 0)
    }

    /// Why the index cannot be asked, if so.
    pub fn unreachable(&self) -> Option<String> {
        match self.index.is_open() {
            true => None,
            false => Some(format!(
                "{DISK_FULL}: no room for the index; make room on that disk"
            )),
        }
    }

    /// Commits; where that finds no room, objects make some.
    pub(super) fn commit_with_room(&self, changes: &[Change]) -> Result<(), IndexError> {
        let outcome = self.commit_now(changes);
        if !matches!(outcome, Err(IndexError::NoRoom)) {
            return outcome;
        }
        match self.evict_some(INDEX_ROOM_BYTES, 0) {
            0 => outcome,
            _ => self.commit_now(changes),
        }
    }
}
