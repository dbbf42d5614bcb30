//! The eviction policy of one cache directory: what it is told of the files, and in which order they are to go.
//!
//! The places of files are in the index; what changes of them between two checkpoints waits for the next one.

use super::checkpoint::Use;
use super::directory::CacheDirectory;
use super::file::CachedFile;
use super::index::IndexError;
use super::policy::{
    Entry, EvictionPolicy, Heads, Moment, Place, PolicyKind, QUEUES, Queue, Usage,
};
use super::reclaim::Pass;
use super::record::FileRecord;
use super::spread;
use crate::io::ALIGNMENT_BYTES;
use crate::types::FileKey;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files looked up in the index at once.
const BATCH: usize = 64;
/// One use moves the access clock by this part of the limit at most: few read all of a file of many times the cache.
const USE_PART: u64 = 64;

pub(super) struct Ranking {
    policy: Mutex<Box<dyn EvictionPolicy>>,
    /// What the index knows, and of that what is on probation: as of the last commit, less what has gone since.
    noted_bytes: AtomicU64,
    probation_bytes: AtomicU64,
}

fn less(count: &AtomicU64, bytes: u64) {
    let take = |held: u64| Some(held.saturating_sub(bytes));
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
}

impl Ranking {
    pub fn new(kind: PolicyKind) -> Self {
        Self {
            policy: Mutex::new(kind.start()),
            noted_bytes: AtomicU64::new(0),
            probation_bytes: AtomicU64::new(0),
        }
    }

    /// As the index counts them.
    pub fn set_noted(&self, noted_bytes: u64, probation_bytes: u64) {
        self.noted_bytes.store(noted_bytes, Ordering::Relaxed);
        self.probation_bytes
            .store(probation_bytes, Ordering::Relaxed);
    }
}

fn entry(key: &FileKey, bytes: u64) -> Entry {
    Entry {
        id: spread::mix(&key.0, b"eviction"),
        blocks: bytes / ALIGNMENT_BYTES,
    }
}

impl CacheDirectory {
    fn moment(&self, now: u64) -> Moment {
        Moment {
            now,
            limit_blocks: self.space.limit_bytes() / ALIGNMENT_BYTES,
            held_blocks: self.space.used_bytes() / ALIGNMENT_BYTES,
        }
    }

    /// A file of that size is in use.
    pub(super) fn note_use(&self, key: &FileKey, usage: Usage, size_bytes: u64) {
        let clock = self.tick(size_bytes);
        self.note_used(key, Use { clock, usage });
    }

    /// So much was asked for: what the access clock says.
    fn tick(&self, size_bytes: u64) -> u64 {
        let most = self.space.limit_bytes() / ALIGNMENT_BYTES / USE_PART;
        let blocks = (size_bytes / ALIGNMENT_BYTES).min(most) + 1;
        self.clock.fetch_add(blocks, Ordering::Relaxed)
    }

    /// Where a file stands whose record is about to be written.
    pub(super) fn place_of(
        &self,
        file: &CachedFile,
        record: &FileRecord,
        used: Option<&Use>,
    ) -> Place {
        if let Some(place) = self.place_to_stay(file.stay()) {
            return place;
        }
        let key = &file.key;
        match self.index.get(key) {
            Ok(Some(before))
                if before.object == record.object && before.place.queue != Queue::PINNED =>
            {
                let moved = self.moved_place(&before, used);
                moved.unwrap_or(before.place)
            }
            _ => {
                let now = self.clock.load(Ordering::Relaxed);
                let at = self.moment(used.map_or(now, |used| used.clock));
                let mut policy = self.ranking.policy.lock();
                policy.admit(entry(key, record.occupied_bytes()), at)
            }
        }
    }

    /// The new place of a file in use, if that is worth noting.
    pub(super) fn moved_place(&self, record: &FileRecord, used: Option<&Use>) -> Option<Place> {
        let used = used?;
        if self.staying.covers(record.place) {
            return None;
        }
        let policy = self.ranking.policy.lock();
        policy.used(record.place, used.usage, self.moment(used.clock))
    }

    /// Where the file is to move rather than go; notes that.
    pub(super) fn spare(&self, key: &FileKey) -> bool {
        if self.has_moved(key) {
            return true;
        }
        let Ok(Some(record)) = self.index.get(key) else {
            return false;
        };
        let at = self.moment(self.tick(0));
        let Some(place) = self.ranking.policy.lock().spare(record.place, at) else {
            return false;
        };
        if record.place.queue == Queue::PROBATION {
            less(&self.ranking.probation_bytes, record.occupied_bytes());
        }
        self.note_move(key, place);
        true
    }

    /// The file has gone to make room.
    pub(super) fn note_evicted(&self, key: &FileKey, record: &FileRecord) {
        let bytes = record.occupied_bytes();
        less(&self.ranking.noted_bytes, bytes);
        if record.place.queue == Queue::PROBATION {
            less(&self.ranking.probation_bytes, bytes);
        }
        let at = self.moment(self.clock.load(Ordering::Relaxed));
        let mut policy = self.ranking.policy.lock();
        policy.evicted(entry(key, bytes), record.place, at);
    }
}

/// The files of a directory in the order they are to go, as the index has them.
pub(super) struct Victims<'a> {
    directory: &'a CacheDirectory,
    /// What has come in and is not in the index yet may have to go before what is.
    waits_for_unplaced: bool,
    /// What is being warmed up goes like all else.
    takes_warmed: bool,
    queues: [Ahead; QUEUES],
}

/// What is next in one queue.
#[derive(Default)]
struct Ahead {
    batch: VecDeque<(u64, FileKey)>,
    after: Option<(u64, FileKey)>,
    is_at_end: bool,
}

impl<'a> Victims<'a> {
    pub fn new(directory: &'a CacheDirectory, pass: Pass) -> Self {
        Self {
            directory,
            waits_for_unplaced: pass == Pass::Careful,
            takes_warmed: pass == Pass::Everything,
            queues: Default::default(),
        }
    }

    /// The next file with its order in the index; `None` where there is none, or none to go before those that the index
    /// does not know yet.
    pub fn next(&mut self) -> Result<Option<(u64, FileKey)>, IndexError> {
        for queue in Queue::all().filter(|queue| *queue != Queue::PINNED) {
            self.look_ahead(queue)?;
        }
        let heads = self.heads();
        let directory = self.directory;
        let at = directory.moment(directory.clock.load(Ordering::Relaxed));
        let chosen = directory.ranking.policy.lock().choose(&heads, at);
        Ok(chosen.and_then(|queue| self.queues[queue.index()].batch.pop_front()))
    }

    fn look_ahead(&mut self, queue: Queue) -> Result<(), IndexError> {
        let ahead = &mut self.queues[queue.index()];
        if !ahead.batch.is_empty() || ahead.is_at_end {
            return Ok(());
        }
        let index = &self.directory.index;
        let batch = index.first_of(queue, ahead.after.as_ref(), BATCH)?;
        ahead.is_at_end = batch.len() < BATCH;
        ahead.after = batch.last().cloned().or(ahead.after.take());
        ahead.batch = batch.into();
        Ok(())
    }

    fn heads(&self) -> Heads {
        let position = |ahead: &Ahead| {
            let (order, _) = ahead.batch.front()?;
            let place = Place::from_bits(*order);
            let stays = !self.takes_warmed && self.directory.staying.covers(place);
            (!stays).then_some(place.position)
        };
        let ranking = &self.directory.ranking;
        let noted_bytes = ranking.noted_bytes.load(Ordering::Relaxed);
        let unplaced_bytes = match self.waits_for_unplaced {
            true => self
                .directory
                .space
                .used_bytes()
                .saturating_sub(noted_bytes),
            false => 0,
        };
        Heads {
            positions: self.queues.each_ref().map(position),
            probation_blocks: ranking.probation_bytes.load(Ordering::Relaxed) / ALIGNMENT_BYTES,
            unplaced_blocks: unplaced_bytes / ALIGNMENT_BYTES,
        }
    }
}
