//! A file open for reading, as it is here.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::file::seek_in_whole;
use crate::backend::{Place, SeekWhence, SourceFile};
use crate::io::{FillSource, ReadAt};
use crate::types::Attributes;
use std::io;
use std::sync::{Arc, OnceLock};

pub(super) struct JournalledSource {
    back: Arc<WriteBack>,
    place: Place,
    /// Opened when something is wanted of it: the journal may have all there is.
    below: OnceLock<Arc<dyn SourceFile>>,
}

impl JournalledSource {
    pub fn new(back: Arc<WriteBack>, place: &Place) -> Self {
        Self {
            back,
            place: place.clone(),
            below: OnceLock::new(),
        }
    }

    fn below(&self) -> io::Result<&Arc<dyn SourceFile>> {
        if let Some(below) = self.below.get() {
            return Ok(below);
        }
        let opened = self.back.inner.open(&self.place)?;
        Ok(self.below.get_or_init(|| opened))
    }

    /// It may be open for writing at one time, clean at another, and then be another's.
    fn file(&self) -> Option<Arc<DirtyFile>> {
        self.back.table.get(&self.place.key)
    }

    fn shown(&self) -> Option<Attributes> {
        self.file()?.shown_without_asking()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let below = |into: &mut [u8], at| self.below()?.read_at(into, at);
        match self.file() {
            Some(file) => self.back.read(&file, buffer, offset, |into, at| {
                file.state().has_read_below = true;
                below(into, at)
            }),
            None => below(buffer, offset),
        }
    }
}

impl SourceFile for Arc<JournalledSource> {
    fn attributes(&self) -> io::Result<Attributes> {
        match self.shown() {
            Some(shown) => Ok(shown),
            None => self
                .back
                .overlaid(&self.place.key, || self.below()?.attributes()),
        }
    }

    fn source(&self) -> FillSource {
        FillSource::Reader(self.clone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(buffer, offset)
    }

    /// Our own descriptors have it open.
    fn has_writer(&self) -> bool {
        let is_ours = self.file().is_some_and(|file| file.is_dirty());
        let below = self.below.get();
        !is_ours && below.is_some_and(|below| below.has_writer())
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        match self.shown() {
            Some(shown) => seek_in_whole(shown.size_bytes, offset, whence),
            None => self.below()?.seek(offset, whence),
        }
    }
}

impl ReadAt for JournalledSource {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(buffer, offset)
    }
}
