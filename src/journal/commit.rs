//! Group commit: whoever needs something written or synced does it for all, while the next batch fills.
//!
//! What always holds: one commit at a time, so that a batch is written only when the one before is; nobody sleeps on
//! the way of a lone fsync; a failed write or sync is never tried again into success.

use super::checksum::crc32c;
use super::frame::{FRAME_HEADER_BYTES, Progress, Sequence};
use super::record::{PIECE_BYTES_MAX, Record};
use super::segments::{Batch, Place};
use super::{
    AppendError, Generation, Journal, Piece, State, SyncMode, frame_capacity, payload_capacity,
};
use crate::io::Buffer;
use crate::types::Timestamp;
use parking_lot::MutexGuard;
use std::io;
use std::time::{Duration, Instant};

/// Segments that only what makes room may begin: records of uploads and their ends.
const RESERVED_SEGMENTS: u64 = 2;
/// Those who come just now are waited for no longer than this part of a sync takes.
const GATHERING_PART: u32 = 2;

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Programs: refused where what makes room would find none.
    Writers,
    /// What makes room.
    Uploads,
}

/// How many share a sync, and how long it takes.
#[derive(Default)]
pub(super) struct Gathering {
    waiting: usize,
    shared_last: usize,
    took_last: Duration,
}

impl Journal {
    /// Adds a record to the open batch. Returns when it can be found there; blocks while the batch before is written.
    pub fn append(&self, record: &Record, room: Room) -> Result<Sequence, AppendError> {
        let bytes = record.encode();
        let mut state = self.with_room(bytes.len(), room)?;
        state.put(&bytes);
        Ok(self.added(state, 1))
    }

    /// The same for data, which comes into one batch as a whole.
    pub fn append_data(
        &self,
        generation: Generation,
        offset: u64,
        stamp: Timestamp,
        data: &[u8],
    ) -> Result<Vec<Piece>, AppendError> {
        let mut at = offset;
        let headers: Vec<(Vec<u8>, &[u8])> = data
            .chunks(PIECE_BYTES_MAX)
            .map(|chunk| {
                let header = Record::encode_write(generation, at, stamp, chunk);
                at += chunk.len() as u64;
                (header, chunk)
            })
            .collect();
        let length = headers
            .iter()
            .map(|(header, chunk)| header.len() + chunk.len())
            .sum();
        let mut state = self.with_room(length, Room::Writers)?;
        let mut pieces = Vec::with_capacity(headers.len());
        for (header, chunk) in &headers {
            state.put(header);
            pieces.push(Piece {
                sequence: state.open.sequence,
                data_offset: state.open.payload_bytes as u32,
                length_bytes: chunk.len() as u32,
                checksum: crc32c(chunk),
            });
            state.put(chunk);
        }
        self.added(state, pieces.len() as u64);
        Ok(pieces)
    }

    fn added(&self, mut state: MutexGuard<'_, State>, records: u64) -> Sequence {
        state.figures.appended_records += records;
        if records > 0 {
            state.told = state.open.sequence;
        }
        state.open.sequence
    }

    /// The state with an open batch that takes so many bytes more.
    fn with_room(&self, length: usize, room: Room) -> Result<MutexGuard<'_, State>, AppendError> {
        let mut state = self.state.lock();
        loop {
            state.check()?;
            if state.open.buffer.is_none() {
                state = self.begin_batch(state, room)?;
                continue;
            }
            let capacity = state.open.buffer.as_ref().map_or(0, payload_capacity);
            if state.open.payload_bytes + length <= capacity {
                return Ok(state);
            }
            if state.open.payload_bytes == 0 {
                return Err(AppendError::Failed("a record larger than a batch".into()));
            }
            let sequence = state.open.sequence;
            state = self.reach(state, sequence, false)?;
        }
    }

    fn begin_batch<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        room: Room,
    ) -> Result<MutexGuard<'a, State>, AppendError> {
        if state.room_batches < self.batches_kept(room) {
            self.due.notify_one();
            return Err(AppendError::Full);
        }
        match self.pool.try_take() {
            Some(buffer) => state.open.buffer = Some(buffer),
            // One comes back with the commit that is under way.
            None => {
                let written = state.written.next();
                state = self.reach(state, written, false)?;
            }
        }
        Ok(state)
    }

    /// Room that must be left: for the batch that is being written now, and for what makes room.
    fn batches_kept(&self, room: Room) -> u64 {
        let in_a_segment = self.segment_bytes / frame_capacity(self.settings.batch_bytes) as u64;
        match room {
            Room::Uploads => 2,
            Room::Writers => 2 + RESERVED_SEGMENTS * in_a_segment,
        }
    }

    /// Returns when everything up to `sequence` survives what the mode says it survives.
    pub fn sync(&self, sequence: Sequence) -> Result<(), AppendError> {
        match self.settings.mode {
            SyncMode::Immediate | SyncMode::Batch => self.make_durable(sequence),
            SyncMode::Periodic | SyncMode::None => self.state.lock().check(),
        }
    }

    /// Returns when everything up to `sequence` is on stable storage, whatever the mode.
    pub fn make_durable(&self, sequence: Sequence) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        state.figures.waits += 1;
        self.reach(state, sequence, true).map(drop)
    }

    /// Waits for a commit, or makes it, until `sequence` is written, or synced.
    fn reach<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        sequence: Sequence,
        synced: bool,
    ) -> Result<MutexGuard<'a, State>, AppendError> {
        loop {
            state.check()?;
            let reached = match synced {
                true => state.durable,
                false => state.written,
            };
            // There is nothing in a batch that is only open.
            if reached >= sequence.min(state.last_filled()) {
                return Ok(state);
            }
            if !state.is_committing {
                state = self.commit(
                    state,
                    Commit {
                        synced,
                        empty: false,
                    },
                );
                continue;
            }
            state.gathering.waiting += usize::from(synced);
            if synced {
                self.joined.notify_one();
            }
            self.turned.wait(&mut state);
            state.gathering.waiting -= usize::from(synced);
        }
    }

    /// Writes the open batch and syncs, as far as it is asked for.
    fn commit<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        commit: Commit,
    ) -> MutexGuard<'a, State> {
        state.is_committing = true;
        if commit.synced {
            self.gather(&mut state);
            state.gathering.shared_last = state.gathering.waiting + 1;
        }
        let progress = state.progress();
        let mut batch = None;
        if state.open.payload_bytes > 0 || commit.empty {
            batch = state
                .close_batch()
                .or_else(|| self.pool.try_take().map(|b| state.empty_batch(b)));
        }
        drop(state);
        let began = Instant::now();
        let outcome = self.write(batch, progress, commit.synced);
        let mut state = self.state.lock();
        state.is_committing = false;
        match outcome {
            Ok(committed) => state.note(committed, commit, began.elapsed()),
            Err(error) => state.fail(&error),
        }
        self.turned.notify_all();
        state
    }

    /// Where several shared the last sync, as many are waited for, for a moment: one sync serves them all.
    fn gather(&self, state: &mut MutexGuard<'_, State>) {
        let expected = state.gathering.shared_last;
        if self.settings.mode != SyncMode::Batch || expected < 2 {
            return;
        }
        let deadline = Instant::now() + state.gathering.took_last / GATHERING_PART;
        while state.gathering.waiting + 1 < expected {
            if self.joined.wait_until(state, deadline).timed_out() {
                return;
            }
        }
    }

    fn write(
        &self,
        batch: Option<Batch>,
        progress: Progress,
        synced: bool,
    ) -> io::Result<Committed> {
        let mut segments = self.segments.lock();
        let mut place = None;
        if let Some(mut batch) = batch {
            let sequence = batch.sequence;
            place = Some((sequence, segments.write(&mut batch, progress)?));
        }
        if synced {
            segments.sync()?;
        }
        Ok(Committed {
            place,
            on_disk: segments.on_disk(),
            room_batches: segments.room_batches(frame_capacity(self.settings.batch_bytes) as u64),
        })
    }
}

/// What is asked of a commit.
#[derive(Clone, Copy)]
struct Commit {
    synced: bool,
    /// A batch is written also when there are no records, for what its header says.
    empty: bool,
}

struct Committed {
    place: Option<(Sequence, Place)>,
    on_disk: Progress,
    room_batches: u64,
}

impl State {
    fn put(&mut self, bytes: &[u8]) {
        let at = FRAME_HEADER_BYTES + self.open.payload_bytes;
        let buffer = self.open.buffer.as_mut().expect("a batch is open");
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        self.open.payload_bytes += bytes.len();
    }

    fn last_filled(&self) -> Sequence {
        match self.open.payload_bytes {
            0 => self.open.sequence.before(),
            _ => self.open.sequence,
        }
    }

    fn close_batch(&mut self) -> Option<Batch> {
        let buffer = self.open.buffer.take()?;
        Some(self.empty_batch(buffer))
    }

    /// The open batch's number goes with this buffer, and the next batch has the next.
    fn empty_batch(&mut self, buffer: Buffer) -> Batch {
        let batch = Batch {
            sequence: self.open.sequence,
            buffer,
            payload_bytes: self.open.payload_bytes,
        };
        self.open.sequence = self.open.sequence.next();
        self.open.payload_bytes = 0;
        batch
    }

    fn note(&mut self, committed: Committed, commit: Commit, took: Duration) {
        if let Some((sequence, place)) = committed.place {
            self.written = sequence;
            self.places.push_back((sequence, place));
            self.figures.commits += 1;
        }
        self.on_disk = committed.on_disk;
        self.room_batches = committed.room_batches;
        if commit.synced {
            self.durable = self.written;
            self.figures.syncs += 1;
            self.gathering.took_last = took;
        }
        self.forget_trimmed();
    }

    fn forget_trimmed(&mut self) {
        let trimmed = self.trims.effective;
        while self
            .places
            .front()
            .is_some_and(|(sequence, _)| *sequence <= trimmed)
        {
            self.places.pop_front();
        }
    }
}

impl Journal {
    /// Everything up to `through` is not needed any more, once all records so far are durable: they say why.
    pub fn trim(&self, through: Sequence) {
        let mut state = self.state.lock();
        let told = state.told;
        state.trims.ask(through, told);
        let is_short = state.room_batches < 2 * self.batches_kept(Room::Writers);
        drop(state);
        if is_short {
            self.due.notify_one();
        }
    }

    /// The batch that the next record comes into, or one before it.
    pub fn open_batch(&self) -> Sequence {
        self.state.lock().open.sequence
    }

    /// The batch of the last record.
    pub fn last_told(&self) -> Sequence {
        self.state.lock().told
    }

    /// Whether there is room for writers, now or before the deadline.
    pub fn wait_for_room(&self, deadline: Instant) -> bool {
        let kept = self.batches_kept(Room::Writers);
        let mut state = self.state.lock();
        while state.room_batches < kept && state.figures.failure.is_none() {
            if self.turned.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Commits what nobody waits for, until the end.
    pub(super) fn run(&self) {
        let mut state = self.state.lock();
        while !state.is_ending {
            self.due.wait_for(&mut state, self.settings.interval);
            state = self.commit_what_is_due(state);
            drop(state);
            self.prewrite_one();
            state = self.state.lock();
        }
    }

    fn commit_what_is_due<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let is_news = state.has_news();
        if state.is_committing || state.figures.failure.is_some() {
            return state;
        }
        let has_records = state.open.payload_bytes > 0;
        let synced = self.settings.mode != SyncMode::None || is_news;
        if has_records || is_news {
            state = self.commit(
                state,
                Commit {
                    synced,
                    empty: is_news,
                },
            );
        }
        state
    }

    fn prewrite_one(&self) {
        let Some(mut free) = self.segments.lock().take_unwritten() else {
            return;
        };
        if let Err(error) = free.prewrite(self.segment_bytes) {
            tracing::warn!("preparing a segment of the journal: {error}");
        }
        self.segments.lock().put_back(free);
    }

    /// Everything is written and durable when it returns, or has failed.
    pub fn shutdown(&self) {
        let mut state = self.state.lock();
        state.is_ending = true;
        self.due.notify_one();
        while state.is_committing {
            self.turned.wait(&mut state);
        }
        // What the first one makes durable the second one says.
        for _ in 0..2 {
            let empty = state.has_news();
            if state.figures.failure.is_none() && (empty || state.open.payload_bytes > 0) {
                let synced = true;
                state = self.commit(state, Commit { synced, empty });
            }
        }
    }
}

impl State {
    /// Whether the next header would say that segments are free, or that the last records were acknowledged: until one
    /// does, damage to them looks like a batch that never was.
    fn has_news(&mut self) -> bool {
        let progress = self.progress();
        progress.trimmed > self.on_disk.trimmed
            || (self.told > self.on_disk.acknowledged && self.told <= self.durable)
    }
}
