//! What goes into the open batch, and what leaves the journal at its other end.

use super::checksum::crc32c;
use super::frame::{FRAME_HEADER_BYTES, Sequence};
use super::record::{PIECE_BYTES_MAX, Record};
use super::{AppendError, Generation, Journal, Piece, State, frame_capacity, payload_capacity};
use crate::types::Timestamp;
use parking_lot::MutexGuard;
use std::time::Instant;

/// Segments that only what makes room may begin: records of uploads and their ends.
pub(super) const RESERVED_SEGMENTS: u64 = 2;

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Programs: refused where what makes room would find none.
    Writers,
    /// What makes room.
    Uploads,
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
        room: Room,
    ) -> Result<Vec<Piece>, AppendError> {
        let mut at = offset;
        let headers: Vec<(Vec<u8>, &[u8], u32)> = data
            .chunks(PIECE_BYTES_MAX)
            .map(|chunk| {
                let checksum = crc32c(chunk);
                let header = Record::encode_write(generation, at, stamp, chunk.len(), checksum);
                at += chunk.len() as u64;
                (header, chunk, checksum)
            })
            .collect();
        let length = headers
            .iter()
            .map(|(header, chunk, _)| header.len() + chunk.len())
            .sum();
        let mut state = self.with_room(length, room)?;
        let mut pieces = Vec::with_capacity(headers.len());
        for (header, chunk, checksum) in &headers {
            state.put(header);
            pieces.push(Piece {
                sequence: state.open.sequence,
                data_offset: state.open.payload_bytes as u32,
                length_bytes: chunk.len() as u32,
                checksum: *checksum,
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
        if state.is_heavy() && !state.is_committing {
            self.due.notify_one();
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
            state = self.make_way(state);
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
                state = self.reach(state, written)?;
            }
        }
        Ok(state)
    }

    /// Room that must be left: for the batch that is being written now, and for what makes room.
    pub(super) fn batches_kept(&self, room: Room) -> u64 {
        let in_a_segment = self.segment_bytes / frame_capacity(self.settings.batch_bytes) as u64;
        match room {
            Room::Uploads => 2,
            Room::Writers => 2 + RESERVED_SEGMENTS * in_a_segment,
        }
    }

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

    /// What is sure to find room, for whoever asks.
    pub fn room_bytes(&self, room: Room) -> u64 {
        let batches = self.state.lock().room_batches;
        let left = batches.saturating_sub(self.batches_kept(room));
        left * self.settings.batch_bytes as u64
    }

    /// What all segments have together.
    pub fn size_bytes(&self) -> u64 {
        self.settings.size_bytes
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
}

impl State {
    fn put(&mut self, bytes: &[u8]) {
        let at = FRAME_HEADER_BYTES + self.open.payload_bytes;
        let buffer = self.open.buffer.as_mut().expect("a batch is open");
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        self.open.payload_bytes += bytes.len();
    }
}
