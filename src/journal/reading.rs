//! Reading data back.

use super::checksum::{crc32c, crc64};
use super::frame::FRAME_HEADER_BYTES;
use super::segments::ShardPlace;
use super::stripe::Stripe;
use super::{Journal, Located, Piece, ReadError, Record, Sequence, State};
use crate::io::{ALIGNMENT_BYTES, BufferPool};
use crate::types::ByteRange;
use std::io;

/// Where a batch lies, as far as its devices are there.
#[derive(Clone)]
pub struct Place {
    pub stripe: Stripe,
    /// One to a device.
    pub shards: Vec<ShardPlace>,
}

impl ShardPlace {
    /// Whether the disk has what was written, whatever is in memory of it.
    pub fn check_on_disk(&self, stripe: &Stripe) -> Result<(), ReadError> {
        let shard_bytes = stripe.shard_bytes as usize;
        let blocks = ByteRange::at(self.payload_offset, shard_bytes as u64);
        let blocks = blocks.aligned_out(ALIGNMENT_BYTES);
        let pool = BufferPool::new(1, blocks.length_bytes() as usize, false)?;
        let mut buffer = pool.try_take().expect("nobody else has this pool");
        let read = self.file.read_past_cache(&mut buffer, blocks.start)?;
        let skip = (self.payload_offset - blocks.start) as usize;
        match buffer[..read].get(skip..skip + shard_bytes) {
            Some(shard) if crc64(shard) == self.checksum => Ok(()),
            _ => Err(ReadError::Damaged),
        }
    }

    /// The whole shard, if it is what was written.
    pub fn read(&self, stripe: &Stripe) -> Result<Vec<u8>, ReadError> {
        let mut shard = vec![0; stripe.shard_bytes as usize];
        let read = self.file.read_at(&mut shard, self.payload_offset)?;
        match read == shard.len() && crc64(&shard) == self.checksum {
            true => Ok(shard),
            false => Err(ReadError::Damaged),
        }
    }
}

impl Place {
    /// How many more of its shards may be lost; negative where too many are.
    pub fn strength(&self) -> i64 {
        self.shards.len() as i64 - i64::from(self.stripe.data)
    }

    /// The batch, from as many shards as it takes.
    pub fn read_batch(&self) -> Result<Vec<u8>, ReadError> {
        let wanted = usize::from(self.stripe.data);
        let (mut sound, mut failure) = (Vec::with_capacity(wanted), ReadError::Damaged);
        // Data before parity: there is nothing to compute then.
        let mut shards: Vec<&ShardPlace> = self.shards.iter().collect();
        shards.sort_by_key(|shard| shard.index);
        for place in shards {
            match place.read(&self.stripe) {
                Ok(shard) => sound.push((place.index, shard)),
                Err(error) => failure = error,
            }
            if sound.len() == wanted {
                break;
            }
        }
        self.stripe.join(sound).ok_or(failure)
    }

    /// A range of the batch that `is_right`: as it lies there, from one device after the other, else put together anew.
    fn read(
        &self,
        at: usize,
        into: &mut [u8],
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(), ReadError> {
        let mut outcome = Err(ReadError::Damaged);
        let copies = match self.stripe.data {
            1 => self.shards.len(),
            _ => 1,
        };
        for copy in 0..copies {
            match self.read_as_it_lies(copy, at, into) {
                Ok(true) if is_right(into) => return Ok(()),
                Ok(_) => {}
                Err(error) => outcome = Err(ReadError::Disk(error)),
            }
        }
        if self.stripe.data > 1 {
            let batch = self.read_batch()?;
            into.copy_from_slice(&batch[at..at + into.len()]);
            if is_right(into) {
                return Ok(());
            }
        }
        outcome
    }

    /// From one of the copies, or from the shards that hold it. False where one of these is not there, or ends too early.
    fn read_as_it_lies(&self, copy: usize, at: usize, into: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        for (index, from, length) in self.stripe.parts(at, into.len()) {
            let place = match self.stripe.data {
                1 => self.shards.get(copy),
                _ => self.shards.iter().find(|shard| shard.index == index),
            };
            let Some(place) = place else {
                return Ok(false);
            };
            let part = &mut into[filled..filled + length];
            if place
                .file
                .read_at(part, place.payload_offset + from as u64)?
                < length
            {
                return Ok(false);
            }
            filled += length;
        }
        Ok(true)
    }
}

impl Place {
    /// See [`Journal::expect`].
    fn expect(&self, at: usize, length: usize) {
        for (index, from, length) in self.stripe.parts(at, length) {
            let place = match self.stripe.data {
                1 => self.shards.first(),
                _ => self.shards.iter().find(|shard| shard.index == index),
            };
            if let Some(place) = place {
                let from = place.payload_offset + from as u64;
                place.file.expect(from, length as u64);
            }
        }
    }
}

impl Located {
    /// The data of a write.
    pub fn piece(&self) -> Option<Piece> {
        match &self.record {
            Record::Write {
                length_bytes,
                checksum,
                ..
            } => Some(Piece {
                sequence: self.sequence,
                data_offset: self.data_offset,
                length_bytes: *length_bytes,
                checksum: *checksum,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
impl Piece {
    /// One that no journal holds.
    pub fn for_tests(number: u32, length_bytes: u32) -> Self {
        Self {
            sequence: Sequence(1),
            data_offset: number,
            length_bytes,
            checksum: 0,
        }
    }
}

impl Journal {
    /// Reads part of a piece, which begins `skip` bytes behind its beginning. Waits for the disk.
    pub fn read(&self, piece: &Piece, skip: usize, into: &mut [u8]) -> Result<(), ReadError> {
        let Some(place) = self.find(piece, skip, into)? else {
            return Ok(());
        };
        let is_right = |bytes: &[u8]| crc32c(bytes) == piece.checksum;
        let read = |whole: &mut [u8]| {
            let outcome = place.read(piece.data_offset as usize, whole, is_right);
            // Written over by now, perhaps.
            self.state.lock().check_needed(piece.sequence)?;
            outcome
        };
        let length = piece.length_bytes as usize;
        if into.len() == length {
            return read(into);
        }
        let mut whole = vec![0; length];
        read(&mut whole)?;
        into.copy_from_slice(&whole[skip..skip + into.len()]);
        Ok(())
    }

    /// A piece is read soon: begins to bring it into memory, unless it is there. Does not wait for its bytes.
    pub fn expect(&self, piece: &Piece) {
        let place = self.state.lock().place(piece.sequence);
        if let Some(place) = place {
            place.expect(piece.data_offset as usize, piece.length_bytes as usize);
        }
    }

    /// Where the batch of a piece lies on the disk; `None` where it is in memory, and was read.
    fn find(
        &self,
        piece: &Piece,
        skip: usize,
        into: &mut [u8],
    ) -> Result<Option<Place>, ReadError> {
        let mut state = self.state.lock();
        loop {
            state.check_needed(piece.sequence)?;
            if piece.sequence == state.open.sequence {
                let buffer = state.open.buffer.as_ref().expect("it has the piece");
                let at = FRAME_HEADER_BYTES + piece.data_offset as usize + skip;
                into.copy_from_slice(&buffer[at..at + into.len()]);
                return Ok(None);
            }
            if let Some(place) = state.place(piece.sequence) {
                return Ok(Some(place));
            }
            // It is being written.
            if let Some(failure) = &state.figures.failure {
                return Err(ReadError::Disk(io::Error::other(failure.to_string())));
            }
            self.turned.wait(&mut state);
        }
    }
}

impl State {
    fn check_needed(&self, sequence: Sequence) -> Result<(), ReadError> {
        match sequence > self.trims.effective {
            true => Ok(()),
            false => Err(ReadError::Trimmed),
        }
    }

    pub(super) fn place(&self, sequence: Sequence) -> Option<Place> {
        self.place_at(sequence).map(|at| self.places[at].1.clone())
    }

    /// Where a batch lies now, if it is needed still.
    pub(super) fn put_place(&mut self, sequence: Sequence, place: Place) {
        if let Some(at) = self.place_at(sequence) {
            self.places[at].1 = place;
        }
    }

    /// These devices' shards of a batch are not what they should be.
    pub(super) fn forget_shards(&mut self, sequence: Sequence, devices: &[u8]) {
        if let Some(at) = self.place_at(sequence) {
            let shards = &mut self.places[at].1.shards;
            shards.retain(|shard| !devices.contains(&shard.device));
        }
    }

    fn place_at(&self, sequence: Sequence) -> Option<usize> {
        let places = &self.places;
        places
            .binary_search_by_key(&sequence, |(held, _)| *held)
            .ok()
    }
}
