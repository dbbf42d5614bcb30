//! Changes of bytes are taken into the journal: as fast as there is room for them.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::file::errno;
use super::layers::Layer;
use super::losing::told_of_loss;
use crate::clock::wall_clock;
use crate::journal::{AppendError, Beginning, Generation, Record, Room, Sequence};
use crate::types::ByteRange;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Room is waited for this long, then it is ENOSPC.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// Below this part of the journal writers are slowed down.
const JOURNAL_PART_KEPT: u64 = 4;

/// Where a write goes.
#[derive(Clone, Copy)]
pub(super) enum Position {
    At(u64),
    End,
}

impl WriteBack {
    /// Puts bytes into the journal. Blocks while it is full.
    pub(super) fn write(
        &self,
        file: &Arc<DirtyFile>,
        position: Position,
        data: &[u8],
    ) -> io::Result<ByteRange> {
        let length = data.len() as u64;
        self.slow_down(length);
        self.with_room(length, || {
            let _turn = file.turn.lock();
            file.take_refusal()?;
            let offset = match position {
                Position::At(offset) => offset,
                Position::End => self.end_of(file)?,
            };
            let end = offset.checked_add(length);
            if end.is_none_or(|end| end > i64::MAX as u64) {
                return Err(errno(libc::EFBIG).into());
            }
            let generation = self.begin_layer(file)?;
            let stamp = wall_clock();
            let pieces =
                self.journal
                    .append_data(generation, offset, stamp, data, Room::Writers)?;
            let last = pieces.last().map(|piece| piece.sequence);
            self.change(file, |layer| layer.write(offset, &pieces, stamp), last);
            Ok(ByteRange::at(offset, length))
        })
    }

    pub(super) fn set_size(&self, file: &Arc<DirtyFile>, size_bytes: u64) -> io::Result<()> {
        if size_bytes > i64::MAX as u64 {
            return Err(errno(libc::EFBIG));
        }
        self.with_room(0, || {
            let _turn = file.turn.lock();
            file.take_refusal()?;
            let generation = self.begin_layer(file)?;
            let stamp = wall_clock();
            let record = Record::Size {
                generation,
                size_bytes,
                stamp,
            };
            let sequence = self.journal.append(&record, Room::Writers)?;
            self.change(
                file,
                |layer| layer.set_size(size_bytes, stamp),
                Some(sequence),
            );
            Ok(())
        })
    }

    /// The end of the file as it is now: on the backend, where nothing is dirty.
    fn end_of(&self, file: &DirtyFile) -> io::Result<u64> {
        let below = {
            let state = file.state();
            match (state.top(), &state.file) {
                (Some(top), _) => return Ok(top.size_bytes),
                (None, below) => below.clone(),
            }
        };
        let below = below.ok_or_else(|| errno(libc::EBADF))?;
        let fresh = below.attributes()?;
        file.state().move_base(fresh);
        Ok(fresh.size_bytes)
    }

    /// The generation that takes changes; called in the file's turn.
    fn begin_layer(&self, file: &Arc<DirtyFile>) -> Result<Generation, WriteError> {
        let beginning = {
            let state = file.state();
            if let Some(open) = &state.open {
                return Ok(open.generation);
            }
            let size_bytes = state.size_bytes().ok_or_else(|| errno(libc::EIO))?;
            let follows = state.frozen.as_ref().map(|frozen| frozen.layer.generation);
            Beginning {
                generation: Generation(self.next_generation.fetch_add(1, Ordering::Relaxed)),
                key: file.key.clone(),
                inode: state.place.inode,
                path: state.place.path.clone(),
                base: state
                    .base
                    .filter(|_| follows.is_none())
                    .map(|base| base.version()),
                follows,
                size_bytes,
                is_nameless: state.is_nameless,
                is_copy: false,
                opener: state.opener.clone(),
            }
        };
        let (generation, base, size_bytes) =
            (beginning.generation, beginning.base, beginning.size_bytes);
        let first = self.table.begin(generation, &self.journal);
        let begun = self
            .journal
            .append(&Record::Begin(beginning), Room::Writers);
        if let Err(error) = begun {
            self.table.end(generation, first, &self.journal);
            return Err(error.into());
        }
        let layer = Layer::new(generation, first, base, size_bytes, wall_clock());
        let told = {
            let mut state = file.state();
            if !state.is_dirty() {
                state.ctime = state.base.map(|base| base.ctime);
                state.has_read_below = false;
            }
            state.open = Some(layer);
            told_of_loss(generation, &state)
        };
        if let Some(record) = told {
            self.tell_of_loss(&record);
        }
        self.uploader.schedule(file, self.settings.delay);
        Ok(generation)
    }

    pub(super) fn change(
        &self,
        file: &DirtyFile,
        change: impl FnOnce(&mut Layer),
        sequence: Option<Sequence>,
    ) {
        let (before, after) = {
            let mut state = file.state();
            state.changes = state.changes.wrapping_add(1);
            if let Some(sequence) = sequence {
                state.last = sequence;
            }
            let open = state.open.as_mut().expect("begun in this turn");
            let before = open.extents.total_bytes();
            change(open);
            (before, open.extents.total_bytes())
        };
        match after >= before {
            true => self.pressure.add(after - before),
            false => self.pressure.ease(before - after),
        }
    }

    /// Has what is dirty sent where it is much, and holds a writer up for a moment where uploads are behind.
    fn slow_down(&self, bytes: u64) {
        let left = self.journal.room_bytes(Room::Writers);
        let is_short = left < self.journal.size_bytes() / JOURNAL_PART_KEPT;
        if is_short || self.pressure.is_felt() {
            self.uploader.hurry(is_short);
        }
        let left = is_short.then_some(left);
        let pause = self.pressure.pause(bytes, left, Instant::now());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }

    /// Tries until there is room in the journal, and below the limit for so many bytes.
    fn with_room<T>(
        &self,
        bytes: u64,
        attempt: impl Fn() -> Result<T, WriteError>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + ROOM_TIMEOUT;
        loop {
            if !self.pressure.wait_for_room(bytes, deadline) {
                return Err(errno(libc::ENOSPC));
            }
            match attempt() {
                Ok(done) => return Ok(done),
                Err(WriteError::Other(error)) => return Err(error),
                Err(WriteError::Journal(AppendError::Full)) => {
                    self.uploader.hurry(true);
                    if !self.journal.wait_for_room(deadline) {
                        return Err(errno(libc::ENOSPC));
                    }
                }
                Err(WriteError::Journal(AppendError::Failed(_))) => return Err(errno(libc::EIO)),
            }
        }
    }
}

/// Why a change was not taken.
enum WriteError {
    Journal(AppendError),
    Other(io::Error),
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        Self::Journal(error)
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}
