//! A file open for writing: what it is given goes into the journal.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::layers::{Layer, Origin};
use crate::backend::SeekWhence;
use crate::backend::alone::Alone;
use crate::backend::writing::{Durability, WritableFile};
use crate::clock::wall_clock;
use crate::io::{FillSource, ReadAt};
use crate::journal::{AppendError, Beginning, Generation, ReadError, Record, Room, Sequence};
use crate::types::{Attributes, ByteRange, Credentials};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A full journal is waited for this long, then it is ENOSPC.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct JournalledFile {
    pub back: Arc<WriteBack>,
    pub file: Arc<DirtyFile>,
    pub inner: Arc<dyn WritableFile>,
}

/// Where a write goes.
#[derive(Clone, Copy)]
enum Position {
    At(u64),
    End,
}

impl WriteBack {
    /// Puts bytes into the journal. Blocks while it is full.
    fn write(
        &self,
        file: &Arc<DirtyFile>,
        position: Position,
        data: &[u8],
    ) -> io::Result<ByteRange> {
        self.with_room(|| {
            let _turn = file.turn.lock();
            file.take_refusal()?;
            let offset = match position {
                Position::At(offset) => offset,
                Position::End => self.end_of(file)?,
            };
            let end = offset.checked_add(data.len() as u64);
            if end.is_none_or(|end| end > i64::MAX as u64) {
                return Err(errno(libc::EFBIG).into());
            }
            let generation = self.begin_layer(file)?;
            let stamp = wall_clock();
            let pieces = self.journal.append_data(generation, offset, stamp, data)?;
            file.change(
                |layer| layer.write(offset, &pieces, stamp),
                pieces.last().map(|piece| piece.sequence),
            );
            Ok(ByteRange::at(offset, data.len() as u64))
        })
    }

    fn set_size(&self, file: &Arc<DirtyFile>, size_bytes: u64) -> io::Result<()> {
        if size_bytes > i64::MAX as u64 {
            return Err(errno(libc::EFBIG));
        }
        self.with_room(|| {
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
            file.change(|layer| layer.set_size(size_bytes, stamp), Some(sequence));
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
        {
            let mut state = file.state();
            if !state.is_dirty() {
                state.ctime = state.base.map(|base| base.ctime);
            }
            state.open = Some(layer);
        }
        self.uploader.schedule(file, self.settings.delay);
        Ok(generation)
    }

    /// Tries until there is room in the journal.
    fn with_room<T>(&self, attempt: impl Fn() -> Result<T, WriteError>) -> io::Result<T> {
        let deadline = Instant::now() + ROOM_TIMEOUT;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(WriteError::Other(error)) => return Err(error),
                Err(WriteError::Journal(AppendError::Full)) => {
                    self.uploader.hurry();
                    if !self.journal.wait_for_room(deadline) {
                        return Err(errno(libc::ENOSPC));
                    }
                }
                Err(WriteError::Journal(AppendError::Failed(_))) => return Err(errno(libc::EIO)),
            }
        }
    }

    /// Reads a file as it is here; `below` reads what the backend has.
    pub(super) fn read(
        &self,
        file: &DirtyFile,
        buffer: &mut [u8],
        offset: u64,
        below: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        loop {
            let Some(origins) = file.origins(range) else {
                return below(buffer, offset);
            };
            match self.read_origins(&origins, buffer, offset, &below) {
                // It is on the backend by now.
                Err(ReadError::Trimmed) => {}
                Err(ReadError::Disk(error)) => return Err(error),
                Err(ReadError::Damaged) => return Err(errno(libc::EIO)),
                Ok(read) => return Ok(read),
            }
        }
    }

    fn read_origins(
        &self,
        origins: &[(ByteRange, Origin)],
        buffer: &mut [u8],
        offset: u64,
        below: &impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<usize, ReadError> {
        let mut done = 0;
        for (range, origin) in origins {
            let start = (range.start - offset) as usize;
            done = start + range.length_bytes() as usize;
            let into = &mut buffer[start..done];
            match origin {
                Origin::Journal(part) => self.journal.read(&part.piece, part.skip, into)?,
                Origin::Zeros => into.fill(0),
                Origin::Backend => {
                    let read = below(into, range.start)?;
                    into[read..].fill(0);
                }
            }
        }
        Ok(done)
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

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl DirtyFile {
    fn change(&self, change: impl FnOnce(&mut Layer), sequence: Option<Sequence>) {
        let mut state = self.state();
        state.changes = state.changes.wrapping_add(1);
        if let Some(sequence) = sequence {
            state.last = sequence;
        }
        let open = state.open.as_mut().expect("begun in this turn");
        change(open);
    }
}

impl JournalledFile {
    /// Makes a change on the backend itself, where it has all that came before.
    fn past_journal<T>(
        &self,
        act: impl FnOnce(&dyn WritableFile) -> io::Result<T>,
    ) -> io::Result<T> {
        self.back.with_settled(&self.file, || {
            self.file.state().is_unsynced_below = true;
            act(&*self.inner)
        })
    }

    fn durable(&self, durability: Durability) -> io::Result<()> {
        match durability {
            Durability::Accepted => Ok(()),
            Durability::Data | Durability::Everything => self.sync(true),
        }
    }
}

impl WritableFile for JournalledFile {
    fn attributes(&self) -> io::Result<Attributes> {
        match self.file.shown_without_asking() {
            Some(shown) => Ok(shown),
            None => self
                .back
                .overlaid(&self.file.key, || self.inner.attributes()),
        }
    }

    fn hold_alone(&self) -> Option<Arc<Alone>> {
        None
    }

    fn is_readable(&self) -> bool {
        self.inner.is_readable()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.back.read(&self.file, buffer, offset, |into, at| {
            self.inner.read_at(into, at)
        })
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        let Some(shown) = self.file.shown_without_asking() else {
            return self.inner.seek(offset, whence);
        };
        seek_in_whole(shown.size_bytes, offset, whence)
    }

    fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<usize> {
        if writer.is_some() {
            // Set-id bits go with it, which only the backend can take away.
            return self.past_journal(|inner| inner.write_at(data, offset, durability, writer));
        }
        let position = Position::At(offset);
        let written = self.back.write(&self.file, position, data)?;
        self.durable(durability)?;
        Ok(written.length_bytes() as usize)
    }

    fn append(
        &self,
        data: &[u8],
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<ByteRange> {
        if writer.is_some() {
            return self.past_journal(|inner| inner.append(data, durability, writer));
        }
        let written = self.back.write(&self.file, Position::End, data)?;
        self.durable(durability)?;
        Ok(written)
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.back.set_size(&self.file, size_bytes)
    }

    fn allocate(&self, mode: i32, range: ByteRange) -> io::Result<()> {
        self.past_journal(|inner| inner.allocate(mode, range))
    }

    fn copy_from(
        &self,
        source: &FillSource,
        source_offset: u64,
        range: ByteRange,
    ) -> io::Result<u64> {
        self.past_journal(|inner| inner.copy_from(source, source_offset, range))
    }

    fn source(&self) -> FillSource {
        match self.file.is_dirty() {
            // No descriptor has its bytes.
            true => FillSource::Reader(Arc::new(Merged {
                back: self.back.clone(),
                file: self.file.clone(),
                inner: self.inner.clone(),
            })),
            false => self.inner.source(),
        }
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.file.take_refusal()?;
        let (last, is_unsynced_below) = {
            let mut state = self.file.state();
            (state.last, std::mem::take(&mut state.is_unsynced_below))
        };
        if is_unsynced_below {
            self.inner.sync(data_only)?;
        }
        self.back.journal.sync(last).map_err(|_| errno(libc::EIO))
    }

    fn sync_at_close(&self) -> io::Result<()> {
        self.file.take_refusal()
    }
}

/// lseek(2): to take a whole file for data, with a hole at its end, is always right.
pub(super) fn seek_in_whole(size_bytes: u64, offset: u64, whence: SeekWhence) -> io::Result<u64> {
    match whence {
        _ if offset >= size_bytes => Err(errno(libc::ENXIO)),
        SeekWhence::Data => Ok(offset),
        SeekWhence::Hole => Ok(size_bytes),
    }
}

impl Drop for JournalledFile {
    fn drop(&mut self) {
        self.back.close(&self.file);
    }
}

/// The bytes of a file as they are here.
struct Merged {
    back: Arc<WriteBack>,
    file: Arc<DirtyFile>,
    inner: Arc<dyn WritableFile>,
}

impl ReadAt for Merged {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.back.read(&self.file, buffer, offset, |into, at| {
            self.inner.read_at(into, at)
        })
    }
}
