//! A file open for writing: what it is given goes into the journal.

use super::WriteBack;
use super::accepting::Position;
use super::dirty::DirtyFile;
use super::layers::Origin;
use crate::backend::SeekWhence;
use crate::backend::alone::Alone;
use crate::backend::writing::{Durability, Synced, WritableFile};
use crate::io::{FillSource, ReadAt};
use crate::journal::{ReadError, Sequence};
use crate::types::{Attributes, ByteRange, Credentials, Timestamp};
use std::io;
use std::sync::Arc;

pub(super) struct JournalledFile {
    pub back: Arc<WriteBack>,
    pub file: Arc<DirtyFile>,
    pub inner: Arc<dyn WritableFile>,
}

impl WriteBack {
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

    pub(super) fn read_origins(
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

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
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

    /// Whether bits may go with a write of who is not privileged, which only the backend can take away. The kernel says of each
    /// write whether it is such a one, and does not look at the file.
    fn has_set_id(&self) -> bool {
        let base = self.file.state().base;
        base.is_none_or(|base| base.permissions & (libc::S_ISUID | libc::S_ISGID) != 0)
    }

    /// What went past the journal is on stable storage then. Returns the last record that is to follow.
    fn synced_below(&self, data_only: bool) -> io::Result<Sequence> {
        self.file.take_refusal()?;
        let (last, is_unsynced_below) = {
            let mut state = self.file.state();
            (state.last, std::mem::take(&mut state.is_unsynced_below))
        };
        if is_unsynced_below {
            self.inner.sync(data_only)?;
        }
        Ok(last)
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
        if writer.is_some() && self.has_set_id() {
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
        if writer.is_some() && self.has_set_id() {
            return self.past_journal(|inner| inner.append(data, durability, writer));
        }
        let written = self.back.write(&self.file, Position::End, data)?;
        self.durable(durability)?;
        Ok(written)
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.back.set_size(&self.file, size_bytes)
    }

    fn set_modify_time(&self, time: Timestamp, caller: &Credentials) -> io::Result<()> {
        self.past_journal(|inner| inner.set_modify_time(time, caller))
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
        let last = self.synced_below(data_only)?;
        self.back.journal.sync(last).map_err(|_| errno(libc::EIO))
    }

    fn sync_soon(&self, synced: Synced) -> Result<(), Synced> {
        match self.file.last_if_only_journalled() {
            Some(last) => self.back.journal.sync_soon(last, synced),
            None => Err(synced),
        }
    }

    fn sync_then(&self, data_only: bool, synced: Synced) {
        match self.synced_below(data_only) {
            Ok(last) => self.back.journal.sync_then(last, synced),
            Err(error) => synced(Err(error)),
        }
    }

    fn sync_at_close(&self) -> io::Result<()> {
        match self.back.settings.durable_at_close {
            true => self.sync(false),
            false => self.file.take_refusal(),
        }
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
