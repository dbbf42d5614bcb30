//! The index of one cache directory: redb, one record per cached file, and the files in order of their
//! last use. docs/ON_DISK_FORMAT.md draws it.
//!
//! Invariant: a commit is durable when it returns, and is made only after the data it claims is.
//! Quick-repair is on, so that opening after a crash takes milliseconds.

use super::record::{FileRecord, ObjectId};
use super::storage;
use crate::io::Io;
use crate::types::FileKey;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

const FILES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("files");
/// Age (big endian, 8 bytes) then file key, so that the oldest come first.
const AGES: TableDefinition<&[u8], ()> = TableDefinition::new("ages");
const COUNTS: TableDefinition<&str, u64> = TableDefinition::new("counts");

const COUNT_FILES: &str = "files";
const COUNT_BYTES: &str = "occupied_bytes";
const COUNT_NEXT_OBJECT: &str = "next_object";
const COUNT_CLOCK: &str = "access_clock";

/// Any failure of the index; the directory goes out of use on one.
#[derive(Debug, thiserror::Error)]
#[error("cache index: {0}")]
pub struct IndexError(#[from] redb::Error);

/// redb has one error type per call; all fold into its own sum type.
fn fold<E: Into<redb::Error>>(error: E) -> IndexError {
    IndexError(error.into())
}

/// Running totals kept in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub files: u64,
    pub occupied_bytes: u64,
    /// Object ids below this may be in use.
    pub next_object: u64,
    pub access_clock: u64,
}

/// One change of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    Put(FileKey, FileRecord),
    /// Nothing if the record tells of another object by now.
    Remove(FileKey, ObjectId),
    /// The file was used at this access clock; nothing if it is not in the index.
    Touch(FileKey, u64),
    /// An age that leads to no readable record.
    DropAge(FileKey, u64),
}

/// The open index. Lookups may wait for the local disk; commits always do.
pub struct Index {
    database: Database,
}

impl Index {
    /// Opens or creates the index at `path`. An error means it cannot be believed. Blocks on the disk.
    pub fn open(disk: &dyn Io, path: &str, cache_bytes: usize) -> Result<Self, IndexError> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let database = storage::open_or_create(disk, path, &builder).map_err(fold)?;
        let index = Self { database };
        let transaction = index.begin()?;
        transaction.open_table(FILES).map_err(fold)?;
        transaction.open_table(AGES).map_err(fold)?;
        transaction.open_table(COUNTS).map_err(fold)?;
        transaction.commit().map_err(fold)?;
        Ok(index)
    }

    fn begin(&self) -> Result<redb::WriteTransaction, IndexError> {
        let mut transaction = self.database.begin_write().map_err(fold)?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(fold)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// The record of a file. A damaged record reads as none: what it claimed is not believed.
    pub fn get(&self, key: &FileKey) -> Result<Option<FileRecord>, IndexError> {
        let transaction = self.database.begin_read().map_err(fold)?;
        let files = transaction.open_table(FILES).map_err(fold)?;
        let value = files.get(&*key.0).map_err(fold)?;
        Ok(value.and_then(|bytes| FileRecord::decode(bytes.value()).ok()))
    }

    pub fn totals(&self) -> Result<Totals, IndexError> {
        let transaction = self.database.begin_read().map_err(fold)?;
        let counts = transaction.open_table(COUNTS).map_err(fold)?;
        let count = |name| -> Result<u64, IndexError> {
            Ok(counts.get(name).map_err(fold)?.map_or(0, |v| v.value()))
        };
        Ok(Totals {
            files: count(COUNT_FILES)?,
            occupied_bytes: count(COUNT_BYTES)?,
            next_object: count(COUNT_NEXT_OBJECT)?,
            access_clock: count(COUNT_CLOCK)?,
        })
    }

    /// Applies the changes and the clocks in one durable transaction; the totals after it.
    pub fn commit(
        &self,
        changes: &[Change],
        next_object: u64,
        access_clock: u64,
    ) -> Result<Totals, IndexError> {
        let transaction = self.begin()?;
        let mut totals = Totals {
            next_object,
            access_clock,
            ..Totals::default()
        };
        {
            let mut files = transaction.open_table(FILES).map_err(fold)?;
            let mut ages = transaction.open_table(AGES).map_err(fold)?;
            let mut counts = transaction.open_table(COUNTS).map_err(fold)?;
            let count = |counts: &redb::Table<&str, u64>, name| -> Result<u64, IndexError> {
                Ok(counts.get(name).map_err(fold)?.map_or(0, |v| v.value()))
            };
            totals.files = count(&counts, COUNT_FILES)?;
            totals.occupied_bytes = count(&counts, COUNT_BYTES)?;
            for change in changes {
                let (Change::Put(key, _)
                | Change::Remove(key, _)
                | Change::Touch(key, _)
                | Change::DropAge(key, _)) = change;
                let before = {
                    let held = files.get(&*key.0).map_err(fold)?;
                    held.map(|bytes| FileRecord::decode(bytes.value()).ok())
                };
                if let Change::DropAge(key, age) = change {
                    // Unless the file came back under the same age.
                    if !matches!(&before, Some(Some(record)) if record.age == *age) {
                        ages.remove(&*age_key(*age, key)).map_err(fold)?;
                    }
                    continue;
                }
                let after = match (change, &before) {
                    (Change::Put(_, record), _) => Some(record.clone()),
                    (Change::Touch(_, age), Some(Some(record))) => Some(FileRecord {
                        age: *age,
                        ..record.clone()
                    }),
                    (Change::Touch(..), _) => continue,
                    (Change::Remove(_, object), Some(Some(record))) if record.object != *object => {
                        continue;
                    }
                    (Change::Remove(..) | Change::DropAge(..), _) => None,
                };
                if let Some(before) = &before {
                    totals.files = totals.files.saturating_sub(1);
                    // A damaged record's age goes by DropAge when it comes up for eviction.
                    if let Some(record) = before {
                        totals.occupied_bytes = totals
                            .occupied_bytes
                            .saturating_sub(record.occupied_bytes());
                        ages.remove(&*age_key(record.age, key)).map_err(fold)?;
                    }
                }
                match after {
                    Some(record) => {
                        totals.files += 1;
                        totals.occupied_bytes += record.occupied_bytes();
                        ages.insert(&*age_key(record.age, key), ()).map_err(fold)?;
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
                (COUNT_NEXT_OBJECT, next_object),
                (COUNT_CLOCK, access_clock),
            ] {
                counts.insert(name, value).map_err(fold)?;
            }
        }
        transaction.commit().map_err(fold)?;
        Ok(totals)
    }

    /// Up to `limit` files from the least recently used on, after `after` (age and key of the last one seen).
    pub fn oldest(
        &self,
        after: Option<&(u64, FileKey)>,
        limit: usize,
    ) -> Result<Vec<(u64, FileKey)>, IndexError> {
        let transaction = self.database.begin_read().map_err(fold)?;
        let ages = transaction.open_table(AGES).map_err(fold)?;
        let from = after.map_or(Vec::new(), |(age, key)| {
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
            found.push((u64::from_be_bytes(*age), FileKey(key.into())));
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// Calls `each` with every record, damaged ones as `None`, in key order. The occupied bytes of the running
    /// totals at that time.
    pub fn scan(
        &self,
        mut each: impl FnMut(FileKey, Option<FileRecord>),
    ) -> Result<u64, IndexError> {
        let transaction = self.database.begin_read().map_err(fold)?;
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

fn age_key(age: u64, key: &FileKey) -> Vec<u8> {
    let mut bytes = age.to_be_bytes().to_vec();
    bytes.extend_from_slice(&key.0);
    bytes
}
