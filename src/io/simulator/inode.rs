//! One file of a simulated device: what programs see, what the disk has, and what lies between.

use super::content::{BLOCK_BYTES, Content};
use super::dice::Dice;
use super::pending::{Change, Fate, PendingChange, land};
use std::collections::BTreeSet;

/// A regular file.
pub(super) struct Inode {
    /// The present path, for rules that name one; stays when the name is removed.
    pub path: String,
    /// What reads through the page cache see, once [`Inode::refresh`] ran for their range.
    pub view: Content,
    /// What is on the disk for certain.
    pub durable: Content,
    pub pending: Vec<PendingChange>,
    /// Blocks in the page cache.
    resident: BTreeSet<u64>,
    /// The disk has other data than was written: blocks not resident have to be looked at there.
    pub diverged: bool,
    pub mtime_ns: i128,
    pub durable_mtime_ns: i128,
    pub open_files: usize,
    /// Submitted reads and fills that have not ended.
    pub in_flight: usize,
    pub is_mapped: bool,
}

/// Where the data of a write goes on the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Landing {
    Faithful,
    Lost,
    Misdirected,
}

impl Inode {
    pub fn new(path: String, now_ns: i128) -> Self {
        Self {
            path,
            view: Content::default(),
            durable: Content::default(),
            pending: Vec::new(),
            resident: BTreeSet::new(),
            diverged: false,
            mtime_ns: now_ns,
            durable_mtime_ns: now_ns,
            open_files: 0,
            in_flight: 0,
            is_mapped: false,
        }
    }

    /// What the disk would hold if everything pending went there now, faults included.
    pub fn on_disk(&self) -> Content {
        let mut content = self.durable.clone();
        // Everything lands, so there is nothing for the dice to decide.
        land(
            &mut content,
            &self.pending,
            Fate::Everything,
            &mut Dice::new(0),
        );
        content
    }

    /// Brings what the page cache does not hold of a range from the disk into the view.
    fn refresh(&mut self, offset: u64, length_bytes: u64) {
        let end = offset
            .saturating_add(length_bytes)
            .min(self.view.size_bytes);
        if offset >= end {
            return;
        }
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        if self.diverged {
            let disk = self.on_disk();
            for block in blocks.clone() {
                if !self.resident.contains(&block) {
                    self.view.take_block(block, &disk);
                }
            }
        }
        self.resident.extend(blocks);
    }

    pub fn read(&mut self, buffer: &mut [u8], offset: u64) -> usize {
        self.refresh(offset, buffer.len() as u64);
        self.view.read(buffer, offset)
    }

    /// Past the page cache, what is dirty written out first.
    pub fn read_direct(&mut self, buffer: &mut [u8], offset: u64) -> usize {
        if self.diverged {
            self.on_disk().read(buffer, offset)
        } else {
            self.view.read(buffer, offset)
        }
    }

    /// What the page cache holds from `offset` on; `None` if that is nothing.
    pub fn read_resident(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let end = (offset.saturating_add(buffer.len() as u64)).min(self.view.size_bytes);
        if offset >= end {
            return Some(0);
        }
        let mut reach = offset;
        while reach < end && self.resident.contains(&(reach / BLOCK_BYTES)) {
            reach = (reach / BLOCK_BYTES + 1) * BLOCK_BYTES;
        }
        let length_bytes = reach.min(end) - offset;
        (length_bytes > 0).then(|| self.view.read(&mut buffer[..length_bytes as usize], offset))
    }

    /// Writes; `direct` leaves the range out of the page cache, as O_DIRECT does.
    pub fn write(
        &mut self,
        data: &[u8],
        offset: u64,
        direct: bool,
        landing: Landing,
        now_ns: i128,
        dice: &mut Dice,
    ) {
        if data.is_empty() {
            return;
        }
        // A block written in part is read first.
        self.refresh(offset, 1);
        self.refresh(offset + data.len() as u64 - 1, 1);
        self.view.write(data, offset);
        let blocks = offset / BLOCK_BYTES..(offset + data.len() as u64).div_ceil(BLOCK_BYTES);
        if direct {
            for block in blocks {
                self.resident.remove(&block);
            }
        } else {
            self.resident.extend(blocks);
        }
        self.mtime_ns = now_ns;
        self.diverged |= landing != Landing::Faithful;
        let landing_offset = match landing {
            Landing::Faithful => Some(offset),
            Landing::Lost => None,
            Landing::Misdirected => self.other_offset(data.len() as u64, offset, dice),
        };
        self.pending.push(PendingChange {
            change: Change::Write {
                data: data.to_vec(),
                landing_offset,
            },
            size_after_bytes: self.view.size_bytes,
        });
    }

    /// Some other place in the file, whole sectors away; none if the file has no room for one.
    fn other_offset(&self, length_bytes: u64, offset: u64, dice: &mut Dice) -> Option<u64> {
        let sector_bytes = super::pending::SECTOR_BYTES;
        let within = offset % sector_bytes;
        let room = self.view.size_bytes.checked_sub(length_bytes + within)?;
        let places = room / sector_bytes + 1;
        let own = offset / sector_bytes;
        let other = dice.below(places - 1);
        (places > 1).then(|| (if other < own { other } else { other + 1 }) * sector_bytes + within)
    }

    /// To the disk it is a write of zeros, which a power cut may tear as any other.
    pub fn punch(&mut self, offset: u64, length_bytes: u64, now_ns: i128, dice: &mut Dice) {
        let end = (offset + length_bytes).min(self.view.size_bytes);
        let zeros = vec![0; end.saturating_sub(offset) as usize];
        self.write(&zeros, offset, false, Landing::Faithful, now_ns, dice);
        self.view.free(offset, length_bytes);
    }

    pub fn resize(&mut self, size_bytes: u64, now_ns: i128) {
        // The last block is cleared past the new size, so it is read first.
        self.refresh(size_bytes.min(self.view.size_bytes).saturating_sub(1), 1);
        self.view.resize(size_bytes);
        drop(self.resident.split_off(&size_bytes.div_ceil(BLOCK_BYTES)));
        self.mtime_ns = now_ns;
        self.pending.push(PendingChange {
            change: Change::Resize,
            size_after_bytes: size_bytes,
        });
    }

    /// fdatasync(2): the modification time alone need not become durable.
    pub fn sync_data(&mut self, dice: &mut Dice) {
        let resized = self.durable.size_bytes != self.view.size_bytes;
        land(&mut self.durable, &self.pending, Fate::Everything, dice);
        self.pending.clear();
        if resized {
            self.durable_mtime_ns = self.mtime_ns;
        }
    }

    /// A sync that failed: pages clean in the cache that the disk does not have.
    pub fn fail_sync(&mut self, dice: &mut Dice) {
        if !self.pending.is_empty() {
            land(&mut self.durable, &self.pending, Fate::SomeData, dice);
            self.pending.clear();
            self.diverged = true;
        }
    }

    /// Flips a bit of durable data that no page hides any more; false in a hole.
    pub fn flip_bit(&mut self, offset: u64, bit: u32) -> bool {
        let flipped = offset < self.durable.size_bytes && self.durable.flip_bit(offset, bit);
        if flipped {
            self.diverged = true;
            self.resident.remove(&(offset / BLOCK_BYTES));
        }
        flipped
    }

    /// Writes out and forgets the page cache (not durable by that).
    pub fn drop_pages(&mut self) {
        self.resident.clear();
    }

    /// The machine stops: only what the disk holds is left.
    pub fn lose_power(&mut self, fate: Fate, dice: &mut Dice) {
        land(&mut self.durable, &self.pending, fate, dice);
        self.pending.clear();
        self.view = self.durable.clone();
        self.resident.clear();
        self.diverged = false;
        if fate != Fate::Everything && dice.chance(0.5) {
            self.mtime_ns = self.durable_mtime_ns;
        }
        self.durable_mtime_ns = self.mtime_ns;
        self.end_of_process();
    }

    /// The process died: its open files and requests are gone.
    pub fn end_of_process(&mut self) {
        self.open_files = 0;
        self.in_flight = 0;
        self.is_mapped = false;
    }
}
