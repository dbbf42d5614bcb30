//! Where the index keeps its bytes: redb's storage on an [`IoFile`], so that the index runs on the
//! simulator as on a disk.
//!
//! No locks are taken for redb: the cache directory is locked by the daemon that uses it. An error ends the
//! use of the database, as redb goes no further after one: whoever owns it opens it anew.

use crate::io::{Io, IoFile, OpenMode};
use redb::{Builder, Database, DatabaseError};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Opens the database at `path`, or makes it. Blocks on the disk, long where a repair is needed.
///
/// A new one is made under another name, `path` with ".new" appended, and renamed when it is durable:
/// redb refuses a file whose first initialization was cut off, and takes an empty one for new, so
/// neither must ever be found under the name. A file there that is empty, or no database, is an error
/// (InvalidData): the caller sets it aside.
pub fn open_or_create(
    disk: &dyn Io,
    path: &str,
    builder: &Builder,
) -> Result<Database, DatabaseError> {
    let file = match disk.open(path, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(disk, path, builder)?,
        Err(error) => return Err(error.into()),
    };
    if file.facts()?.size_bytes == 0 {
        let empty = io::Error::new(io::ErrorKind::InvalidData, "the index file is empty");
        return Err(empty.into());
    }
    builder.create_with_backend(IndexStorage::new(file))
}

/// A new database, durable with its name, and closed.
fn create(disk: &dyn Io, path: &str, builder: &Builder) -> Result<Arc<dyn IoFile>, DatabaseError> {
    let unfinished = format!("{path}.new");
    match disk.remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = disk.open(&unfinished, OpenMode::CreateNew)?;
    // Returns with all synced that makes a database; what closing adds may get lost.
    drop(builder.create_with_backend(IndexStorage::new(file.clone()))?);
    disk.rename(&unfinished, path)?;
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    disk.sync_directory(directory)?;
    Ok(file)
}

/// redb's view of one file. Every call blocks on the disk.
pub struct IndexStorage {
    file: Arc<dyn IoFile>,
}

impl IndexStorage {
    /// Over a file open for reading and writing; empty means a new database.
    pub fn new(file: Arc<dyn IoFile>) -> Self {
        Self { file }
    }
}

impl fmt::Debug for IndexStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexStorage").finish_non_exhaustive()
    }
}

impl redb::StorageBackend for IndexStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.facts()?.size_bytes)
    }

    /// UnexpectedEof where the file ends before `out` is full.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut moved = 0;
        while moved < out.len() {
            match self.file.read_at(&mut out[moved..], offset + moved as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => moved += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_len(&self, length_bytes: u64) -> io::Result<()> {
        // What redb writes later is to find room on a disk that somebody else has filled meanwhile.
        self.file.set_size(length_bytes)?;
        self.file.set_blocks_aside();
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // What was written before may be lost from then on: not even for want of room is that tried again.
        self.file.sync_data().map_err(io::Error::other)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
