//! The table of checksums in the index: a chunk of blocks of one object a row. docs/ON_DISK_FORMAT.md draws it.
//!
//! Invariant: sums are written and go in the commit that writes or removes the record which tells of their object.

use super::index::{Index, IndexError, fold};
use super::record::ObjectId;
use super::sums::{NotedSums, SUM_BLOCK_BYTES, Sum};
use crate::types::{ByteRange, FileKey};
use redb::{ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition, TableError};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// Of a chunk of 1 MiB.
pub(super) const BLOCKS_PER_CHUNK: u64 = 256;
const TAG_BYTES: usize = 8;

/// Object and chunk; the content's tag, then the sums of the chunk's blocks (0: unknown), those at its end left out.
pub(super) const SUMS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("sums");

pub(super) type SumTable<'a> = Table<'a, (u64, u64), &'static [u8]>;

fn decode(row: &[u8], tag: u64) -> Vec<Option<Sum>> {
    let Some((found, sums)) = row.split_first_chunk::<TAG_BYTES>() else {
        return Vec::new();
    };
    // Of what the object had before a program that knew no sums changed it.
    if u64::from_le_bytes(*found) != tag {
        return Vec::new();
    }
    let words = sums.chunks_exact(4).map(|word| {
        let word = word.try_into().expect("four bytes");
        NonZeroU32::new(u32::from_le_bytes(word)).map(Sum)
    });
    words.take(BLOCKS_PER_CHUNK as usize).collect()
}

fn encode(sums: &[Option<Sum>], tag: u64) -> Vec<u8> {
    let mut row = tag.to_le_bytes().to_vec();
    for sum in sums {
        let word = sum.map_or(0, |sum| sum.0.get());
        row.extend_from_slice(&word.to_le_bytes());
    }
    row
}

/// Nothing is known of an object from here on.
pub(super) fn drop_object(table: &mut SumTable, object: ObjectId) -> Result<(), StorageError> {
    table.retain_in((object.0, 0)..=(object.0, u64::MAX), |_, _| false)
}

pub(super) fn note(
    table: &mut SumTable,
    object: ObjectId,
    noted: &NotedSums,
) -> Result<(), StorageError> {
    for range in noted.void.ranges() {
        make_void(table, object, noted.tag, *range)?;
    }
    let mut chunks: BTreeMap<u64, Vec<(usize, Sum)>> = BTreeMap::new();
    for (block, sum) in &noted.sums {
        let at = (block % BLOCKS_PER_CHUNK) as usize;
        let chunk = chunks.entry(block / BLOCKS_PER_CHUNK).or_default();
        chunk.push((at, *sum));
    }
    for (chunk, news) in chunks {
        let mut sums = row(table, object, chunk, noted.tag)?;
        for (at, sum) in news {
            if sums.len() <= at {
                sums.resize(at + 1, None);
            }
            sums[at] = Some(sum);
        }
        table.insert((object.0, chunk), encode(&sums, noted.tag).as_slice())?;
    }
    Ok(())
}

fn make_void(
    table: &mut SumTable,
    object: ObjectId,
    tag: u64,
    range: ByteRange,
) -> Result<(), StorageError> {
    let first = range.start / SUM_BLOCK_BYTES;
    let end = range.end.div_ceil(SUM_BLOCK_BYTES);
    let chunks = first / BLOCKS_PER_CHUNK..end.div_ceil(BLOCKS_PER_CHUNK);
    for chunk in chunks {
        let mut sums = row(table, object, chunk, tag)?;
        for (at, sum) in sums.iter_mut().enumerate() {
            let block = chunk * BLOCKS_PER_CHUNK + at as u64;
            *sum = sum.filter(|_| !(first..end).contains(&block));
        }
        let key = (object.0, chunk);
        match sums.iter().any(Option::is_some) {
            true => drop(table.insert(key, encode(&sums, tag).as_slice())?),
            false => drop(table.remove(key)?),
        }
    }
    Ok(())
}

fn row(
    table: &SumTable,
    object: ObjectId,
    chunk: u64,
    tag: u64,
) -> Result<Vec<Option<Sum>>, StorageError> {
    let row = table.get((object.0, chunk))?;
    Ok(row.map_or_else(Vec::new, |row| decode(row.value(), tag)))
}

impl Index {
    /// What is known of the blocks of a chunk, as of the last commit; it may end early.
    pub(super) fn sums(
        &self,
        object: ObjectId,
        tag: u64,
        chunk: u64,
    ) -> Result<Vec<Option<Sum>>, IndexError> {
        let transaction = self.database()?.begin_read().map_err(fold)?;
        let table = match transaction.open_table(SUMS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            opened => opened.map_err(fold)?,
        };
        let row = table.get((object.0, chunk)).map_err(fold)?;
        Ok(row.map_or_else(Vec::new, |row| decode(row.value(), tag)))
    }

    /// Up to `limit` files after `after`, in the order of their keys.
    pub(super) fn keys_after(
        &self,
        after: Option<&FileKey>,
        limit: usize,
    ) -> Result<Vec<FileKey>, IndexError> {
        let transaction = self.database()?.begin_read().map_err(fold)?;
        let files = transaction.open_table(super::index::FILES).map_err(fold)?;
        let mut from = after.map_or(Vec::new(), |key| key.0.to_vec());
        if after.is_some() {
            from.push(0);
        }
        let mut keys = Vec::new();
        for entry in files
            .range::<&[u8]>(from.as_slice()..)
            .map_err(fold)?
            .take(limit)
        {
            let (key, _) = entry.map_err(fold)?;
            keys.push(FileKey(key.value().into()));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::extents::ExtentMap;
    use crate::cache::index::{Change, Clocks};
    use crate::cache::policy::Place;
    use crate::cache::record::FileRecord;
    use crate::cache::sums::content_tag;
    use crate::io::simulator::{FaultPlan, Simulation};
    use crate::types::{Timestamp, Version};

    fn record(object: u64, ctime_seconds: i64) -> FileRecord {
        let at = |seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        };
        FileRecord {
            version: Version {
                inode: 1,
                size_bytes: 4 << 20,
                mtime: at(1),
                ctime: at(ctime_seconds),
            },
            object: ObjectId(object),
            object_inode: 1,
            object_mtime_ns: 0,
            place: Place::from_bits(0),
            filled_at_seconds: 0,
            extents: ExtentMap::new(),
        }
    }

    fn noted(record: &FileRecord, blocks: &[u64], void: &[ByteRange]) -> NotedSums {
        let sum = Sum(NonZeroU32::MAX);
        let mut ranges = ExtentMap::new();
        void.iter().for_each(|range| ranges.insert(*range));
        NotedSums {
            tag: content_tag(&record.version),
            void: ranges,
            sums: blocks.iter().map(|block| (*block, sum)).collect(),
        }
    }

    fn known(index: &Index, record: &FileRecord) -> Vec<u64> {
        let tag = content_tag(&record.version);
        let chunks = (0..4).flat_map(|chunk| {
            let sums = index.sums(record.object, tag, chunk).expect("it is open");
            let blocks = (chunk * BLOCKS_PER_CHUNK..).zip(sums);
            blocks.filter_map(|(block, sum)| sum.map(|_| block))
        });
        chunks.collect()
    }

    #[test]
    fn sums_come_and_go_with_the_record_of_their_object() {
        let simulation = Simulation::new(1, FaultPlan::none());
        let index = Index::new(simulation.device("disk"), 1 << 20);
        index.open().expect("a new one can be made");
        let commit = |changes: &[Change]| {
            index
                .commit(changes, Clocks::default())
                .expect("there is room");
        };
        let key = FileKey([1, 2, 3].as_slice().into());
        let (first, other) = (record(7, 1), record(8, 1));
        commit(&[
            Change::Put(key.clone(), first.clone()),
            Change::Sum(
                key.clone(),
                first.object,
                noted(&first, &[0, 255, 256, 700], &[]),
            ),
            Change::Sum(key.clone(), other.object, noted(&other, &[1], &[])),
        ]);
        assert_eq!(known(&index, &first), [0, 255, 256, 700]);
        assert!(known(&index, &other).is_empty());
        // Another mode is the same content, another size is not.
        let same = record(7, 2);
        commit(&[Change::Put(key.clone(), same.clone())]);
        assert_eq!(known(&index, &same), [0, 255, 256, 700]);
        let mut longer = first.clone();
        longer.version.size_bytes += 1;
        assert!(known(&index, &longer).is_empty());
        let piece = ByteRange::at(1 << 20, 1 << 20);
        let block = ByteRange::at(255 * SUM_BLOCK_BYTES, SUM_BLOCK_BYTES);
        let change = noted(&first, &[257], &[piece, block]);
        commit(&[Change::Sum(key.clone(), first.object, change)]);
        assert_eq!(known(&index, &first), [0, 257, 700]);
        commit(&[Change::Put(key.clone(), other.clone())]);
        assert!(known(&index, &first).is_empty());
        commit(&[
            Change::Sum(key.clone(), other.object, noted(&other, &[1], &[])),
            Change::Remove(key.clone(), first.object),
        ]);
        assert_eq!(known(&index, &other), [1]);
        commit(&[Change::Remove(key, other.object)]);
        assert!(known(&index, &other).is_empty());
    }
}
