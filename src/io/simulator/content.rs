//! The bytes of one file: sparse 4 KiB blocks, shared between copies until one is changed.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const BLOCK_BYTES: u64 = 4096;

type Block = [u8; BLOCK_BYTES as usize];

/// Size and blocks of a file. What has no block reads as zeros.
///
/// Invariant: no byte at or past `size_bytes` is other than zero, unless `put` placed it there and
/// `cut` has not run since.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub size_bytes: u64,
    blocks: BTreeMap<u64, Arc<Block>>,
}

/// The parts of `offset..offset + length_bytes` in each unit of `unit_bytes`: the unit's number, the
/// offset in it, and the range of the whole that lies there.
pub(super) fn units(
    offset: u64,
    length_bytes: usize,
    unit_bytes: u64,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let end = offset + length_bytes as u64;
    let mut position = offset;
    std::iter::from_fn(move || {
        if position >= end {
            return None;
        }
        let start = position;
        let unit = start / unit_bytes;
        position = ((unit + 1) * unit_bytes).min(end);
        let range = (start - offset) as usize..(position - offset) as usize;
        Some((unit, (start % unit_bytes) as usize, range))
    })
}

impl Content {
    /// Like pread(2): the bytes moved, fewer than asked only at the end of the file.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let available = self.size_bytes.saturating_sub(offset);
        let length_bytes = (buffer.len() as u64).min(available) as usize;
        for (block, within, range) in units(offset, length_bytes, BLOCK_BYTES) {
            let into = &mut buffer[range];
            match self.blocks.get(&block) {
                Some(bytes) => into.copy_from_slice(&bytes[within..within + into.len()]),
                None => into.fill(0),
            }
        }
        length_bytes
    }

    /// Writes, growing the file where need be.
    pub fn write(&mut self, data: &[u8], offset: u64) {
        self.put(data, offset);
        if !data.is_empty() {
            self.size_bytes = self.size_bytes.max(offset + data.len() as u64);
        }
    }

    /// Places bytes without regard to the size.
    pub fn put(&mut self, data: &[u8], offset: u64) {
        for (block, within, range) in units(offset, data.len(), BLOCK_BYTES) {
            let from = &data[range];
            let bytes = self
                .blocks
                .entry(block)
                .or_insert_with(|| Arc::new([0; BLOCK_BYTES as usize]));
            Arc::make_mut(bytes)[within..within + from.len()].copy_from_slice(from);
        }
    }

    /// Drops every byte at or past `end`, without regard to the size.
    pub fn cut(&mut self, end: u64) {
        drop(self.blocks.split_off(&end.div_ceil(BLOCK_BYTES)));
        let within = (end % BLOCK_BYTES) as usize;
        if within > 0
            && let Some(bytes) = self.blocks.get_mut(&(end / BLOCK_BYTES))
        {
            Arc::make_mut(bytes)[within..].fill(0);
        }
    }

    /// Gives back the blocks that lie in a range whole.
    pub fn free(&mut self, offset: u64, length_bytes: u64) {
        let end = (offset + length_bytes) / BLOCK_BYTES;
        let mut rest = self.blocks.split_off(&offset.div_ceil(BLOCK_BYTES));
        self.blocks.append(&mut rest.split_off(&end));
    }

    pub fn resize(&mut self, size_bytes: u64) {
        if size_bytes < self.size_bytes {
            self.cut(size_bytes);
        }
        self.size_bytes = size_bytes;
    }

    pub fn allocated_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }

    pub fn has_block(&self, block: u64) -> bool {
        self.blocks.contains_key(&block)
    }

    /// Takes over one block, or its absence, from another content.
    pub fn take_block(&mut self, block: u64, from: &Content) {
        match from.blocks.get(&block) {
            Some(bytes) => self.blocks.insert(block, bytes.clone()),
            None => self.blocks.remove(&block),
        };
    }

    /// Flips one bit; false in a hole.
    pub fn flip_bit(&mut self, offset: u64, bit: u32) -> bool {
        match self.blocks.get_mut(&(offset / BLOCK_BYTES)) {
            Some(bytes) => {
                Arc::make_mut(bytes)[(offset % BLOCK_BYTES) as usize] ^= 1 << (bit % 8);
                true
            }
            None => false,
        }
    }
}
