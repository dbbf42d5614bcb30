//! Reading data back.

use super::checksum::crc32c;
use super::frame::FRAME_HEADER_BYTES;
use super::segments::Place;
use super::{Journal, Located, Piece, ReadError, Record, Sequence, State};
use std::io;

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
        let mut whole = vec![0; piece.length_bytes as usize];
        let at = place.payload_offset + u64::from(piece.data_offset);
        let read = place.file.read_at(&mut whole, at)?;
        // Written over by now, perhaps.
        self.state.lock().check_needed(piece.sequence)?;
        if read < whole.len() || crc32c(&whole) != piece.checksum {
            return Err(ReadError::Damaged);
        }
        into.copy_from_slice(&whole[skip..skip + into.len()]);
        Ok(())
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

    fn place(&self, sequence: Sequence) -> Option<Place> {
        let found = self
            .places
            .binary_search_by_key(&sequence, |(held, _)| *held);
        found.ok().map(|at| self.places[at].1.clone())
    }
}
