//! Whole files brought into the cache because somebody said so, behind whatever anybody else waits for.
//!
//! What always holds: a file that has no place in its allowance is not fetched, and one that finds no room waits for eviction a
//! while, never for good.

use super::allowance::Allowance;
use super::fetch::FetchError;
use super::file::CachedFile;
use super::policy::{Blocks, Queue};
use super::record::occupied;
use super::staying::Stay;
use super::{Cache, CacheDirectory};
use crate::backend::lanes::Lane;
use crate::types::warming::{Held, Room, Warmed};
use crate::types::{ByteRange, FileKey, Version};
use std::sync::Arc;
use std::time::Duration;

/// So much of a file is asked for at once, and as much again while that comes.
const WINDOW_BYTES: u64 = 32 << 20;
/// What finds no room tries again, while eviction makes some.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
const TRIES_MAX: u32 = 100;

/// One file on its way.
pub struct Errand {
    pub file: Arc<CachedFile>,
    pub allowance: Arc<Allowance>,
    /// For files that come in one go.
    pub lane: Arc<Lane>,
    pub is_small: bool,
    /// Whether anybody still waits for it.
    pub is_wanted: Box<dyn Fn() -> bool + Send>,
    pub done: Box<dyn FnOnce(Result<Warmed, FetchError>) + Send>,
}

struct UnderWay {
    errand: Errand,
    directory: usize,
    /// What was missing when it began.
    missing_bytes: u64,
    /// Of the allowance.
    taken_bytes: u64,
    /// Why it stayed before.
    stayed: Stay,
    tries: u32,
}

impl Cache {
    /// The most that is kept of what is warmed up.
    pub fn room_to_stay(&self) -> Room {
        let of_one = |directory: &Arc<CacheDirectory>| directory.staying_bytes_max();
        let usable = self.directories.iter().filter(|one| one.is_usable());
        let pinned_bytes = usable.clone().map(|one| one.staying.pinned().bytes).sum();
        Room {
            bytes: usable.map(of_one).sum::<u64>().saturating_sub(pinned_bytes),
        }
    }

    /// What is there of a version, of the last `ttl`. Waits for the local disk.
    pub fn held(&self, key: &FileKey, version: &Version) -> Held {
        let size_bytes = version.size_bytes;
        let is_cached = size_bytes >= self.settings.min_file_size_bytes;
        let directory = self.directory_of(key).filter(|_| is_cached);
        Held {
            size_bytes,
            cached_bytes: directory
                .map_or(0, |one| one.held_bytes(key, version, self.ttl_seconds())),
            is_confirmed: false,
        }
    }

    pub(super) fn ttl_seconds(&self) -> Option<i64> {
        self.settings.ttl.map(|ttl| ttl.as_secs() as i64)
    }

    /// Brings a file that is in use whole, and lets it stay. Waits for the local disk, never for the backend.
    pub fn keep_whole(self: &Arc<Self>, errand: Errand) {
        let file = &errand.file;
        let bytes = file.size_bytes();
        let Some((directory, index)) = self.place_of_file(file) else {
            return errand
                .leave("it is smaller than min_cache_file_size, or its cache disk is out of use");
        };
        // An object that is not there any more is found out now.
        let _ = file.object_file();
        let missing_bytes = file.missing_bytes();
        let stays_already = directory.stays_for(file, &errand.allowance, index);
        let needed_bytes = match stays_already {
            true => 0,
            false => occupied(ByteRange::new(0, bytes)),
        };
        let has_room = errand.allowance.take(index, needed_bytes);
        if !has_room && (missing_bytes > 0 || errand.allowance.is_pin()) {
            return errand.leave("no room in the cache beside what is kept there");
        }
        let stayed = file.stay();
        if has_room && !stays_already {
            directory.let_stay(file, errand.allowance.stay(directory));
        }
        if missing_bytes == 0 {
            return (errand.done)(Ok(Warmed::Cached { bytes }));
        }
        self.go_on(UnderWay {
            errand,
            directory: index,
            missing_bytes,
            taken_bytes: needed_bytes,
            stayed,
            tries: 0,
        });
    }

    fn place_of_file<'a>(&self, file: &'a CachedFile) -> Option<(&'a Arc<CacheDirectory>, usize)> {
        let own = file.directory.as_ref().filter(|own| own.is_usable())?;
        let index = self
            .directories
            .iter()
            .position(|one| Arc::ptr_eq(one, own))?;
        Some((own, index))
    }

    fn go_on(self: &Arc<Self>, under_way: UnderWay) {
        let file = under_way.errand.file.clone();
        let Some(first) = file.first_missing() else {
            return under_way.arrive();
        };
        if !(under_way.errand.is_wanted)() {
            return under_way.fail(FetchError::Bypass);
        }
        let is_small = under_way.errand.is_small;
        let lane = under_way.errand.lane.clone();
        let cache = self.clone();
        let woken = Box::new(move |outcome| match outcome {
            Ok(()) => cache.go_on(under_way),
            Err(FetchError::Bypass) => cache.try_again(under_way),
            Err(error) => under_way.fail(error),
        });
        if is_small {
            return self.fetch_whole_by(&lane, &file, woken);
        }
        let start = first / WINDOW_BYTES * WINDOW_BYTES;
        let window = ByteRange::at(start, WINDOW_BYTES);
        let next = ByteRange::at(window.end, WINDOW_BYTES);
        let whole = ByteRange::new(0, file.size_bytes());
        self.fetch_behind_others(&file, window.intersection(&whole), next, woken);
    }

    /// The cache did not take it: if that is for want of room, and there may be some soon.
    fn try_again(self: &Arc<Self>, mut under_way: UnderWay) {
        let directory = &self.directories[under_way.directory];
        let reason = match directory.failure().or_else(|| directory.shortage()) {
            Some(reason) => reason,
            None if directory.has_written_all() => "write_limit is reached for today".to_owned(),
            None if under_way.tries >= under_way.tries_max() => under_way.give_up(directory),
            None => {
                under_way.tries += 1;
                self.reclaim.wake();
                let cache = self.clone();
                let again = Box::new(move || cache.go_on(under_way));
                self.timers.after(TRY_AGAIN_AFTER, again);
                return;
            }
        };
        under_way.leave(&reason);
    }
}

impl UnderWay {
    fn arrive(self) {
        let bytes = self.errand.file.size_bytes();
        let fetched_bytes = self.missing_bytes;
        self.errand.allowance.note_room(self.directory, true);
        (self.errand.done)(Ok(Warmed::Fetched {
            bytes,
            fetched_bytes,
        }));
    }

    /// After one that has waited in vain the others need not.
    fn tries_max(&self) -> u32 {
        match self.errand.allowance.finds_no_room(self.directory) {
            true => 1,
            false => TRIES_MAX,
        }
    }

    fn give_up(&self, directory: &CacheDirectory) -> String {
        let piece_bytes = WINDOW_BYTES.min(self.missing_bytes);
        let reason = match directory.space.has_place_for(piece_bytes) {
            true if directory.space.has_disk_for(piece_bytes) => {
                return "another program is writing to it".to_owned();
            }
            true => "no room on the cache disk: less of it is free than bstop leaves to others",
            false => "no room in the cache: what is there is in use",
        };
        self.errand.allowance.note_room(self.directory, false);
        reason.to_owned()
    }

    /// What came of it stays for no other reason than before.
    fn let_go(&self) {
        let file = &self.errand.file;
        if let Some(directory) = &file.directory {
            directory.let_stay(file, self.stayed);
        }
        let allowance = &self.errand.allowance;
        allowance.give_back(self.directory, self.taken_bytes);
    }

    fn leave(self, reason: &str) {
        self.let_go();
        self.errand.leave(reason);
    }

    /// What is pinned remains so: the rest comes when the backend answers.
    fn fail(self, error: FetchError) {
        if !self.errand.allowance.is_pin() {
            self.let_go();
        }
        (self.errand.done)(Err(error));
    }
}

impl Errand {
    fn leave(self, reason: &str) {
        let bytes = self.file.size_bytes();
        let reason = reason.to_owned();
        (self.done)(Ok(Warmed::Left { bytes, reason }));
    }
}

impl CachedFile {
    fn missing(&self) -> Vec<ByteRange> {
        let whole = ByteRange::new(0, self.size_bytes());
        self.state.lock().extents.missing(whole)
    }

    fn missing_bytes(&self) -> u64 {
        self.missing().iter().map(ByteRange::length_bytes).sum()
    }

    fn first_missing(&self) -> Option<u64> {
        self.missing().first().map(|range| range.start)
    }
}

impl CacheDirectory {
    fn held_bytes(&self, key: &FileKey, version: &Version, ttl_seconds: Option<i64>) -> u64 {
        let _opening = self.opening.lock();
        let looked_up = match self.look_up(key) {
            Ok(found) => found,
            Err(error) => {
                self.report_index_error(&error);
                return 0;
            }
        };
        match looked_up {
            (Some(file), _) if !file.is_gone() => match file.version() == *version {
                true => file.extents().total_bytes(),
                false => 0,
            },
            (_, Some(record)) if record.version == *version => {
                match record.is_older_than(ttl_seconds) {
                    true => 0,
                    false => record.extents.total_bytes(),
                }
            }
            _ => 0,
        }
    }

    /// It was counted in this allowance before, by another name or in another turn.
    fn stays_for(&self, file: &CachedFile, allowance: &Allowance, index: usize) -> bool {
        if file.stay() == Stay::Pinned {
            return !allowance.is_pin();
        }
        let since = allowance.since(index);
        let is_later = |at: Blocks| !allowance.is_pin() && at >= since;
        match file.stay() {
            Stay::Warmed(at) => is_later(at),
            _ => matches!(self.index.get(&file.key), Ok(Some(record))
                if record.place.queue == Queue::WARMED && is_later(record.place.position)),
        }
    }
}
