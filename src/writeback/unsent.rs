//! What the journal has of a file, without the backend.

use super::WriteBack;
use super::dirty::{DirtyFile, FileState};
use super::file::{JournalledFile, errno};
use super::layers::{Origin, origins};
use crate::backend::Place;
use crate::backend::unsent::Unsent;
use crate::backend::writing::{WritableFile, WriteAccess};
use crate::journal::ReadError;
use crate::types::{Attributes, ByteRange, Credentials, FileKey, Timestamp, Version};
use std::io;
use std::sync::Arc;

impl Unsent for WriteBack {
    fn as_it_is_here(&self, key: &FileKey, known: Attributes) -> Attributes {
        match self.table.get(key) {
            Some(file) => file.shown(known),
            None => known,
        }
    }

    fn change_time_there(&self, key: &FileKey) -> Option<Timestamp> {
        let file = self.table.get(key)?;
        let state = file.state();
        let base = state.base.map(|base| base.ctime);
        base.or(state.ctime).filter(|_| state.is_dirty())
    }

    fn is_unsent(&self, key: &FileKey, version: &Version) -> bool {
        let file = self.table.get(key);
        file.is_some_and(|file| file.state().is_shown_as(version))
    }

    fn read_unsent(
        &self,
        key: &FileKey,
        version: &Version,
        buffer: &mut [u8],
        offset: u64,
    ) -> Option<io::Result<usize>> {
        let file = self.table.get(key)?;
        let range = ByteRange::at(offset, buffer.len() as u64);
        let here = origins_here(&file, version, range)?;
        let below = |_: &mut [u8], _| Err(errno(libc::EIO));
        match self.read_origins(&here, buffer, offset, &below) {
            Ok(read) => Some(Ok(read)),
            // The backend has it by now.
            Err(ReadError::Trimmed) => None,
            Err(ReadError::Disk(error)) => Some(Err(error)),
            Err(ReadError::Damaged) => Some(Err(errno(libc::EIO))),
        }
    }

    fn open_unsent(
        &self,
        place: &Place,
        access: WriteAccess,
        opener: &Credentials,
    ) -> Option<Arc<dyn WritableFile>> {
        self.table.get(&place.key).filter(|file| file.is_dirty())?;
        let file = self.table.open(place, opener);
        let inner = file.state().writable_by(access, opener);
        let Some(inner) = inner else {
            self.close(&file);
            return None;
        };
        let back = self.this();
        Some(Arc::new(JournalledFile { back, file, inner }))
    }
}

/// Where bytes of this version are; `None` where the backend has some of them.
fn origins_here(
    file: &DirtyFile,
    version: &Version,
    range: ByteRange,
) -> Option<Vec<(ByteRange, Origin)>> {
    let state = file.state();
    if !state.is_shown_as(version) {
        return None;
    }
    let found = origins(&state.layers(), range);
    let are_here = found.iter().all(|(_, origin)| *origin != Origin::Backend);
    are_here.then_some(found)
}

impl FileState {
    /// Dirty, and of this version.
    fn is_shown_as(&self, version: &Version) -> bool {
        self.top().is_some_and(|top| {
            (top.size_bytes, top.stamp) == (version.size_bytes, version.mtime)
                && self.place.inode == version.inode
        })
    }

    /// The descriptor that is held of a dirty file, for whom the backend has let write to it last.
    fn writable_by(
        &self,
        access: WriteAccess,
        opener: &Credentials,
    ) -> Option<Arc<dyn WritableFile>> {
        let is_known = self.is_dirty() && self.base.is_some() && self.opener == *opener;
        let held = self.file.clone().filter(|_| is_known)?;
        (access == WriteAccess::WriteOnly || held.is_readable()).then_some(held)
    }
}
