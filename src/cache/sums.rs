//! Checksums of cached blocks: what is known of them before the index knows it.
//!
//! Invariants: a sum is of bytes that the object has there, or is about to get from the same version; what leaves the
//! extents has no sum any more; a block without one is unknown, never bad. Sums belong to one object in one hand
//! ([`CachedFile`]): whoever changes its bytes takes it away, and the sums go with the record.

use super::extents::ExtentMap;
use super::file::CachedFile;
use super::record::{FileRecord, ObjectId};
use super::sum_table::BLOCKS_PER_CHUNK;
use crate::io::{ALIGNMENT_BYTES, FillSource};
use crate::types::{ByteRange, Version};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// What has one sum: fills and holes come in whole blocks of this, but for the end of a file.
pub(super) const SUM_BLOCK_BYTES: u64 = ALIGNMENT_BYTES;

/// CRC-32C of one block; where that is 0, 1: nothing is 0 on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum(pub NonZeroU32);

impl Sum {
    pub fn of(block: &[u8]) -> Self {
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, block) as u32;
        Self(NonZeroU32::new(sum).unwrap_or(NonZeroU32::MIN))
    }
}

/// Tells contents that one object had one after the other apart. Change times are left out: another mode or owner is
/// the same content.
pub(super) fn content_tag(version: &Version) -> u64 {
    let mut bytes = version.size_bytes.to_le_bytes().to_vec();
    bytes.extend_from_slice(&version.mtime.seconds.to_le_bytes());
    bytes.extend_from_slice(&version.mtime.nanoseconds.to_le_bytes());
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes)
}

/// Of one file, what the index does not know yet.
#[derive(Default)]
pub(super) struct FreshSums {
    /// By the number of the block.
    sums: BTreeMap<u64, Sum>,
    /// What the index may have of these holds no more.
    void: ExtentMap,
}

/// What one commit notes of one object.
#[derive(Clone, Debug)]
pub(super) struct NotedSums {
    pub tag: u64,
    pub void: ExtentMap,
    pub sums: BTreeMap<u64, Sum>,
}

/// What is known of one block before the index is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fresh {
    Sum(Sum),
    /// Whatever the index says.
    Unknown,
    AskIndex,
}

/// The numbers of the blocks that a range touches.
pub(super) fn blocks_of(range: ByteRange) -> std::ops::Range<u64> {
    range.start / SUM_BLOCK_BYTES..range.end.div_ceil(SUM_BLOCK_BYTES)
}

pub(super) fn block_range(block: u64, size_bytes: u64) -> ByteRange {
    let whole = ByteRange::new(0, size_bytes);
    ByteRange::at(block * SUM_BLOCK_BYTES, SUM_BLOCK_BYTES).intersection(&whole)
}

/// The sums of bytes that begin with a block, the last of which may be a part of one.
pub(super) fn sums_of(bytes: &[u8]) -> impl Iterator<Item = Sum> {
    bytes.chunks(SUM_BLOCK_BYTES as usize).map(Sum::of)
}

impl FreshSums {
    pub fn insert(&mut self, first_block: u64, sums: impl IntoIterator<Item = Sum>) {
        self.sums.extend((first_block..).zip(sums));
    }

    pub fn make_void(&mut self, range: ByteRange) {
        let blocks = blocks_of(range);
        self.sums.retain(|block, _| !blocks.contains(block));
        self.void.insert(range.aligned_out(SUM_BLOCK_BYTES));
    }

    pub fn get(&self, block: u64) -> Fresh {
        let range = ByteRange::at(block * SUM_BLOCK_BYTES, SUM_BLOCK_BYTES);
        match self.sums.get(&block) {
            Some(sum) => Fresh::Sum(*sum),
            None if self.void.contains(range) => Fresh::Unknown,
            None => Fresh::AskIndex,
        }
    }

    fn take(&mut self, record: &FileRecord) -> Option<NotedSums> {
        if self.sums.is_empty() && self.void.is_empty() {
            return None;
        }
        let is_claimed = |block: u64| {
            let range = block_range(block, record.version.size_bytes);
            record.extents.contains(range)
        };
        let claimed = self.sums.iter().filter(|(block, _)| is_claimed(**block));
        Some(NotedSums {
            tag: content_tag(&record.version),
            sums: claimed.map(|(block, sum)| (*block, *sum)).collect(),
            void: std::mem::take(&mut self.void),
        })
    }

    /// The index has these now.
    fn forget(&mut self, noted: &NotedSums) {
        self.sums
            .retain(|block, sum| noted.sums.get(block) != Some(sum));
    }

    /// The index has not: whatever was void is void still, if nothing came since.
    fn take_back(&mut self, noted: &NotedSums) {
        noted
            .void
            .ranges()
            .iter()
            .for_each(|range| self.void.insert(*range));
    }
}

impl CachedFile {
    /// A source that is summed as it is read.
    pub(super) fn summed(self: &Arc<Self>, source: FillSource) -> FillSource {
        let file = self.clone();
        let watch = Arc::new(move |bytes: &[u8], offset| file.note_sums(bytes, offset));
        FillSource::Watched(Arc::new(source), watch)
    }

    /// These bytes are about to be in the object, from a block's beginning on.
    pub(super) fn note_sums(&self, bytes: &[u8], offset: u64) {
        let sums: Vec<Sum> = sums_of(bytes).collect();
        let mut state = self.state.lock();
        state.sums.insert(offset / SUM_BLOCK_BYTES, sums);
    }

    /// What the next commit is to note beside this record of the file.
    pub(super) fn take_sums(&self, record: &FileRecord) -> Option<NotedSums> {
        self.state.lock().sums.take(record)
    }

    pub(super) fn sums_are_noted(&self, noted: &NotedSums) {
        self.state.lock().sums.forget(noted);
    }

    pub(super) fn take_back_sums(&self, noted: &NotedSums) {
        self.state.lock().sums.take_back(noted);
    }

    /// What is known of the blocks of a range, the index asked for those that are not fresh. Waits for the local disk.
    pub(super) fn known_sums(&self, object: ObjectId, range: ByteRange) -> Vec<Option<Sum>> {
        let blocks = blocks_of(range);
        let fresh: Vec<Fresh> = {
            let state = self.state.lock();
            blocks.clone().map(|block| state.sums.get(block)).collect()
        };
        let mut chunk: Option<(u64, Vec<Option<Sum>>)> = None;
        let mut ask = |block: u64| {
            let number = block / BLOCKS_PER_CHUNK;
            if chunk.as_ref().is_none_or(|(held, _)| *held != number) {
                chunk = Some((number, self.sums_in_index(object, number)));
            }
            let (_, sums) = chunk.as_ref()?;
            *sums.get((block % BLOCKS_PER_CHUNK) as usize)?
        };
        let known = |(block, fresh): (u64, Fresh)| match fresh {
            Fresh::Sum(sum) => Some(sum),
            Fresh::Unknown => None,
            Fresh::AskIndex => ask(block),
        };
        blocks.zip(fresh).map(known).collect()
    }

    fn sums_in_index(&self, object: ObjectId, chunk: u64) -> Vec<Option<Sum>> {
        let Some(directory) = &self.directory else {
            return Vec::new();
        };
        let tag = content_tag(&self.version());
        directory
            .index
            .sums(object, tag, chunk)
            .unwrap_or_else(|error| {
                directory.report_index_error(&error);
                Vec::new()
            })
    }
}

/// Which of the blocks of `range`, whose bytes these are, have another sum than is known.
pub(super) fn bad_blocks(
    bytes: &[u8],
    range: ByteRange,
    known: &[Option<Sum>],
    size_bytes: u64,
) -> Vec<ByteRange> {
    let found = blocks_of(range).zip(sums_of(bytes)).zip(known);
    let is_bad = found.filter(|((_, found), known)| known.is_some_and(|known| known != *found));
    let mut bad = ExtentMap::new();
    is_bad.for_each(|((block, _), _)| bad.insert(block_range(block, size_bytes)));
    bad.ranges().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    const BLOCK: u64 = SUM_BLOCK_BYTES;

    fn record(blocks: std::ops::Range<u64>) -> FileRecord {
        let mut extents = ExtentMap::new();
        extents.insert(ByteRange::new(blocks.start * BLOCK, blocks.end * BLOCK));
        let at = Timestamp {
            seconds: 5,
            nanoseconds: 6,
        };
        FileRecord {
            version: Version {
                inode: 1,
                size_bytes: 100 * BLOCK,
                mtime: at,
                ctime: at,
            },
            object: ObjectId(1),
            object_inode: 1,
            object_mtime_ns: 0,
            place: crate::cache::policy::Place::from_bits(0),
            filled_at_seconds: 0,
            extents,
        }
    }

    fn sum(number: u32) -> Sum {
        Sum(NonZeroU32::new(number).expect("not zero"))
    }

    #[test]
    fn only_what_a_record_claims_is_noted_and_the_rest_waits() {
        let mut fresh = FreshSums::default();
        fresh.insert(0, (1..=4).map(sum));
        let noted = fresh.take(&record(0..2)).expect("there are some");
        assert_eq!(noted.sums.len(), 2);
        // Read back and summed anew meanwhile.
        fresh.insert(1, [sum(9)]);
        fresh.forget(&noted);
        let left: Vec<u64> = fresh.sums.keys().copied().collect();
        assert_eq!(left, [1, 2, 3]);
    }

    #[test]
    fn what_left_the_extents_is_unknown_until_it_is_summed_again_whatever_a_commit_does_meanwhile()
    {
        let mut fresh = FreshSums::default();
        fresh.insert(0, [sum(1)]);
        let first = fresh.take(&record(0..1)).expect("there are some");
        fresh.make_void(ByteRange::new(0, BLOCK));
        fresh.forget(&first);
        assert_eq!(fresh.get(0), Fresh::Unknown);
        let second = fresh.take(&record(0..1)).expect("void is news");
        assert_eq!(fresh.get(0), Fresh::AskIndex);
        fresh.take_back(&second);
        assert_eq!(fresh.get(0), Fresh::Unknown);
        fresh.insert(0, [sum(2)]);
        assert_eq!(fresh.get(0), Fresh::Sum(sum(2)));
    }

    #[test]
    fn a_flipped_bit_is_found_in_its_block_and_nothing_unknown_is_bad() {
        let size_bytes = 3 * BLOCK + 100;
        let mut bytes = vec![7; size_bytes as usize];
        let whole = ByteRange::new(0, size_bytes);
        let known: Vec<_> = sums_of(&bytes).map(Some).collect();
        assert_eq!(bad_blocks(&bytes, whole, &known, size_bytes), []);
        for at in [BLOCK, 3 * BLOCK + 99] {
            bytes[at as usize] ^= 0x10;
        }
        let bad = bad_blocks(&bytes, whole, &known, size_bytes);
        let end = ByteRange::new(3 * BLOCK, size_bytes);
        assert_eq!(bad, [ByteRange::at(BLOCK, BLOCK), end]);
        assert_eq!(bad_blocks(&bytes, whole, &[None; 4], size_bytes), []);
    }
}
