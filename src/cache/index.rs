//! The index of one cache directory: redb, one record per cached file, and the files in the order they are to go. docs/ON_DISK_FORMAT.md draws it.
//!
//! Invariant: a commit is durable when it returns, and is made only after the data it claims is.
//! Quick-repair is on, so that opening after a crash takes milliseconds.
//!
//! redb goes no further after an error of its file. Where that was want of room, nothing is broken: the index is
//! closed, and opened anew as of its last commit.

use super::layout::INDEX_FILE;
use super::policy::{Place, Queue};
use super::record::{FileRecord, ObjectId};
use super::storage;
use super::sum_table::{self, SUMS};
use super::sums::NotedSums;
use super::write_budget::Written;
use crate::io::{Io, is_no_room};
use crate::types::FileKey;
use parking_lot::RwLock;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::sync::Arc;

pub(super) const FILES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("files");
/// Order of a place (big endian, 8 bytes), then file key, so that the first of a queue come first.
const AGES: TableDefinition<&[u8], ()> = TableDefinition::new("ages");
const COUNTS: TableDefinition<&str, u64> = TableDefinition::new("counts");

const COUNT_FILES: &str = "files";
const COUNT_BYTES: &str = "occupied_bytes";
const COUNT_NEXT_OBJECT: &str = "next_object";
const COUNT_CLOCK: &str = "access_clock";
const COUNT_PROBATION: &str = "probation_bytes";
const COUNT_WRITTEN_DAY: &str = "written_day";
const COUNT_WRITTEN: &str = "written_bytes";
const COUNT_PINNED_FILES: &str = "pinned_files";
const COUNT_PINNED: &str = "pinned_bytes";

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The directory goes out of use.
    #[error("cache index: {0}")]
    Broken(redb::Error),
    /// It cannot be asked until the disk has room again.
    #[error("the cache disk has no room for the index")]
    NoRoom,
}

/// redb has one error type per call; all fold into its own sum type.
pub(super) fn fold<E: Into<redb::Error>>(error: E) -> IndexError {
    match error.into() {
        redb::Error::Io(error) if is_no_room(&error) => IndexError::NoRoom,
        // Whoever met the error before knows what it was: the index is opened anew, or the directory out of use.
        redb::Error::PreviousIo => IndexError::NoRoom,
        error => IndexError::Broken(error),
    }
}

/// Files in [`Queue::PINNED`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pinned {
    pub files: u64,
    pub bytes: u64,
}

/// Running totals kept in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub files: u64,
    pub occupied_bytes: u64,
    /// Object ids below this may be in use.
    pub next_object: u64,
    pub access_clock: u64,
    /// Of the occupied bytes, those of files on probation.
    pub probation_bytes: u64,
    pub pinned: Pinned,
    /// To the disk, on the last day that something was.
    pub written: Written,
}

/// What goes up with time rather than with the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clocks {
    pub next_object: u64,
    pub access_clock: u64,
    pub written: Written,
}

/// One change of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    Put(FileKey, FileRecord),
    /// Nothing if the record tells of another object by now.
    Remove(FileKey, ObjectId),
    /// The file stands there now; nothing if it is not in the index.
    Move(FileKey, Place),
    /// An entry of this order that leads to no readable record.
    DropAge(FileKey, u64),
    /// Checksums of an object; nothing if the record tells of another one. After the record that claims the blocks.
    Sum(FileKey, ObjectId, NotedSums),
}

/// Lookups may wait for the local disk; commits always do.
pub struct Index {
    disk: Arc<dyn Io>,
    cache_bytes: usize,
    /// `None`: not opened yet, or closed for want of room.
    database: RwLock<Option<Arc<Database>>>,
}

impl Index {
    /// An index that is not open.
    pub fn new(disk: Arc<dyn Io>, cache_bytes: usize) -> Self {
        Self {
            disk,
            cache_bytes,
            database: RwLock::new(None),
        }
    }

    /// Opens or creates it. [`IndexError::Broken`] means it cannot be believed. Blocks on the disk.
    pub fn open(&self) -> Result<(), IndexError> {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        let opened = storage::open_or_create(&*self.disk, INDEX_FILE, &builder).map_err(fold)?;
        make_tables(&opened)?;
        *self.database.write() = Some(Arc::new(opened));
        Ok(())
    }

    pub fn is_open(&self) -> bool {
        self.database.read().is_some()
    }

    pub(super) fn database(&self) -> Result<Arc<Database>, IndexError> {
        self.database.read().clone().ok_or(IndexError::NoRoom)
    }

    /// The record of a file. A damaged record reads as none: what it claimed is not believed.
    pub fn get(&self, key: &FileKey) -> Result<Option<FileRecord>, IndexError> {
        let transaction = self.database()?.begin_read().map_err(fold)?;
        let files = transaction.open_table(FILES).map_err(fold)?;
        let value = files.get(&*key.0).map_err(fold)?;
        Ok(value.and_then(|bytes| FileRecord::decode(bytes.value()).ok()))
    }

    pub fn totals(&self) -> Result<Totals, IndexError> {
        let transaction = self.database()?.begin_read().map_err(fold)?;
        let counts = transaction.open_table(COUNTS).map_err(fold)?;
        let count = |name| -> Result<u64, IndexError> {
            Ok(counts.get(name).map_err(fold)?.map_or(0, |v| v.value()))
        };
        Ok(Totals {
            files: count(COUNT_FILES)?,
            occupied_bytes: count(COUNT_BYTES)?,
            next_object: count(COUNT_NEXT_OBJECT)?,
            access_clock: count(COUNT_CLOCK)?,
            probation_bytes: count(COUNT_PROBATION)?,
            pinned: Pinned {
                files: count(COUNT_PINNED_FILES)?,
                bytes: count(COUNT_PINNED)?,
            },
            written: Written {
                day: count(COUNT_WRITTEN_DAY)?,
                bytes: count(COUNT_WRITTEN)?,
            },
        })
    }

    /// Applies the changes and the clocks in one durable transaction; the totals after it. Without room for it nothing
    /// has changed.
    pub fn commit(&self, changes: &[Change], clocks: Clocks) -> Result<Totals, IndexError> {
        let outcome = self.try_commit(changes, clocks);
        if matches!(outcome, Err(IndexError::NoRoom)) {
            let closed = self.database.write().take();
            drop(closed);
            self.open()?;
        }
        outcome
    }

    fn try_commit(&self, changes: &[Change], clocks: Clocks) -> Result<Totals, IndexError> {
        let transaction = begin(&*self.database()?)?;
        let mut totals = Totals {
            next_object: clocks.next_object,
            access_clock: clocks.access_clock,
            written: clocks.written,
            ..Totals::default()
        };
        {
            let mut files = transaction.open_table(FILES).map_err(fold)?;
            let mut ages = transaction.open_table(AGES).map_err(fold)?;
            let mut counts = transaction.open_table(COUNTS).map_err(fold)?;
            let mut sums = transaction.open_table(SUMS).map_err(fold)?;
            let count = |counts: &redb::Table<&str, u64>, name| -> Result<u64, IndexError> {
                Ok(counts.get(name).map_err(fold)?.map_or(0, |v| v.value()))
            };
            totals.files = count(&counts, COUNT_FILES)?;
            totals.occupied_bytes = count(&counts, COUNT_BYTES)?;
            totals.probation_bytes = count(&counts, COUNT_PROBATION)?;
            totals.pinned.files = count(&counts, COUNT_PINNED_FILES)?;
            totals.pinned.bytes = count(&counts, COUNT_PINNED)?;
            for change in changes {
                let (Change::Put(key, _)
                | Change::Remove(key, _)
                | Change::Move(key, _)
                | Change::DropAge(key, _)
                | Change::Sum(key, ..)) = change;
                let before = {
                    let held = files.get(&*key.0).map_err(fold)?;
                    held.map(|bytes| FileRecord::decode(bytes.value()).ok())
                };
                if let Change::DropAge(key, age) = change {
                    // Unless the file came back to the same place.
                    if !matches!(&before, Some(Some(record)) if record.place.order() == *age) {
                        ages.remove(&*age_key(*age, key)).map_err(fold)?;
                    }
                    continue;
                }
                if let Change::Sum(_, object, noted) = change {
                    if matches!(&before, Some(Some(record)) if record.object == *object) {
                        sum_table::note(&mut sums, *object, noted).map_err(fold)?;
                    }
                    continue;
                }
                let after = match (change, &before) {
                    (Change::Put(_, record), _) => Some(record.clone()),
                    (Change::Move(_, place), Some(Some(record))) => Some(FileRecord {
                        place: *place,
                        ..record.clone()
                    }),
                    (Change::Move(..), _) => continue,
                    (Change::Remove(_, object), Some(Some(record))) if record.object != *object => {
                        continue;
                    }
                    (Change::Remove(..) | Change::DropAge(..) | Change::Sum(..), _) => None,
                };
                if let Some(before) = &before {
                    totals.files = totals.files.saturating_sub(1);
                    // A damaged record's age goes by DropAge when it comes up for eviction.
                    if let Some(record) = before {
                        totals.forget(record);
                        if after.as_ref().map(|after| after.object) != Some(record.object) {
                            sum_table::drop_object(&mut sums, record.object).map_err(fold)?;
                        }
                        ages.remove(&*age_key(record.place.order(), key))
                            .map_err(fold)?;
                    }
                }
                match after {
                    Some(record) => {
                        totals.files += 1;
                        totals.count(&record);
                        ages.insert(&*age_key(record.place.order(), key), ())
                            .map_err(fold)?;
                        files
                            .insert(&*key.0, record.encode().as_slice())
                            .map_err(fold)?;
                    }
                    None => {
                        files.remove(&*key.0).map_err(fold)?;
                    }
                }
            }
            for (name, value) in [
                (COUNT_FILES, totals.files),
                (COUNT_BYTES, totals.occupied_bytes),
                (COUNT_NEXT_OBJECT, clocks.next_object),
                (COUNT_CLOCK, clocks.access_clock),
                (COUNT_WRITTEN_DAY, clocks.written.day),
                (COUNT_WRITTEN, clocks.written.bytes),
                (COUNT_PROBATION, totals.probation_bytes),
                (COUNT_PINNED_FILES, totals.pinned.files),
                (COUNT_PINNED, totals.pinned.bytes),
            ] {
                counts.insert(name, value).map_err(fold)?;
            }
        }
        transaction.commit().map_err(fold)?;
        Ok(totals)
    }

    /// Up to `limit` files from the first of a queue on, after `after` (order and key of the last one seen).
    pub fn first_of(
        &self,
        queue: Queue,
        after: Option<&(u64, FileKey)>,
        limit: usize,
    ) -> Result<Vec<(u64, FileKey)>, IndexError> {
        let transaction = self.database()?.begin_read().map_err(fold)?;
        let ages = transaction.open_table(AGES).map_err(fold)?;
        let first = Place::new(queue, 0).order().to_be_bytes();
        let from = after.map_or(first.to_vec(), |(age, key)| {
            let mut next = age_key(*age, key);
            next.push(0);
            next
        });
        let mut found = Vec::new();
        for entry in ages.range::<&[u8]>(from.as_slice()..).map_err(fold)? {
            let (bytes, _) = entry.map_err(fold)?;
            let bytes = bytes.value().to_vec();
            let Some((age, key)) = bytes.split_first_chunk::<8>() else {
                continue;
            };
            let age = u64::from_be_bytes(*age);
            if found.len() == limit || Place::from_bits(age).queue != queue {
                break;
            }
            found.push((age, FileKey(key.into())));
        }
        Ok(found)
    }

    /// Calls `each` with every record, damaged ones as `None`, in key order. The occupied bytes of the running
    /// totals at that time.
    pub fn scan(
        &self,
        mut each: impl FnMut(FileKey, Option<FileRecord>),
    ) -> Result<u64, IndexError> {
        let transaction = self.database()?.begin_read().map_err(fold)?;
        let counts = transaction.open_table(COUNTS).map_err(fold)?;
        let counted = counts.get(COUNT_BYTES).map_err(fold)?;
        let files = transaction.open_table(FILES).map_err(fold)?;
        for entry in files.iter().map_err(fold)? {
            let (key, value) = entry.map_err(fold)?;
            each(
                FileKey(key.value().into()),
                FileRecord::decode(value.value()).ok(),
            );
        }
        Ok(counted.map_or(0, |bytes| bytes.value()))
    }
}

impl Totals {
    fn count(&mut self, record: &FileRecord) {
        let bytes = record.occupied_bytes();
        self.occupied_bytes += bytes;
        if record.place.queue == Queue::PROBATION {
            self.probation_bytes += bytes;
        }
        if record.place.queue == Queue::PINNED {
            self.pinned.files += 1;
            self.pinned.bytes += bytes;
        }
    }

    fn forget(&mut self, record: &FileRecord) {
        let bytes = record.occupied_bytes();
        self.occupied_bytes = self.occupied_bytes.saturating_sub(bytes);
        if record.place.queue == Queue::PROBATION {
            self.probation_bytes = self.probation_bytes.saturating_sub(bytes);
        }
        if record.place.queue == Queue::PINNED {
            self.pinned.files = self.pinned.files.saturating_sub(1);
            self.pinned.bytes = self.pinned.bytes.saturating_sub(bytes);
        }
    }
}

fn begin(database: &Database) -> Result<redb::WriteTransaction, IndexError> {
    let mut transaction = database.begin_write().map_err(fold)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(fold)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// A full disk may have no room for a commit: none is made where the tables are there.
fn make_tables(database: &Database) -> Result<(), IndexError> {
    let transaction = database.begin_read().map_err(fold)?;
    match transaction.open_table(COUNTS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        found => return found.map(|_| ()).map_err(fold),
    }
    let transaction = begin(database)?;
    transaction.open_table(FILES).map_err(fold)?;
    transaction.open_table(AGES).map_err(fold)?;
    transaction.open_table(COUNTS).map_err(fold)?;
    transaction.commit().map_err(fold)
}

fn age_key(age: u64, key: &FileKey) -> Vec<u8> {
    let mut bytes = age.to_be_bytes().to_vec();
    bytes.extend_from_slice(&key.0);
    bytes
}
