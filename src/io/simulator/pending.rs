//! What a file's changes do to the disk between the write and the sync.
//!
//! The unit of the disk is the 512-byte sector: it holds the state after some change that touched it,
//! old or new, each sector for itself, so writes are lost, torn and reordered at will. Sizes are
//! metadata and keep their order: the disk knows the first few of them. A sector freed by a shrinking
//! that the disk does not know keeps what it had before it.

use super::content::{Content, units};
use super::dice::Dice;
use std::collections::HashMap;

pub(super) const SECTOR_BYTES: u64 = 512;

/// A change that the disk need not have yet.
pub(super) struct PendingChange {
    pub change: Change,
    /// The size of the file after it.
    pub size_after_bytes: u64,
}

pub(super) enum Change {
    Write {
        data: Vec<u8>,
        /// Where the data goes to on the disk: where it was written, or elsewhere, or nowhere.
        landing_offset: Option<u64>,
    },
    Resize,
}

/// How much of the pending changes reached the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Everything,
    Nothing,
    /// Some data and some sizes.
    Some,
    /// Some data and every size: what a failed sync leaves, as the metadata is journalled apart.
    SomeData,
}

impl Fate {
    /// What a power cut does to one device: all, nothing, or any part.
    pub fn of_a_power_cut(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0 => Self::Everything,
            1 => Self::Nothing,
            _ => Self::Some,
        }
    }
}

/// Brings `durable` to what the disk holds after these changes met this fate.
pub(super) fn land(durable: &mut Content, pending: &[PendingChange], fate: Fate, dice: &mut Dice) {
    let sizes_known = match fate {
        Fate::Everything | Fate::SomeData => pending.len(),
        Fate::Nothing => 0,
        Fate::Some => dice.below(pending.len() as u64 + 1) as usize,
    };
    let size_bytes = match sizes_known {
        0 => durable.size_bytes,
        known => pending[known - 1].size_after_bytes,
    };
    let newest = match fate {
        Fate::Everything => None,
        _ => Some(newest_landed(pending, fate, dice)),
    };
    let mut freed_from_sector = u64::MAX;
    for (index, pending) in pending.iter().enumerate() {
        match &pending.change {
            Change::Write {
                data,
                landing_offset: Some(offset),
            } => match &newest {
                None => durable.put(data, *offset),
                Some(newest) => {
                    for (sector, within, range) in units(*offset, data.len(), SECTOR_BYTES) {
                        let landed = newest.get(&sector).is_some_and(|newest| index <= *newest);
                        if landed && sector < freed_from_sector {
                            durable.put(&data[range], sector * SECTOR_BYTES + within as u64);
                        }
                    }
                }
            },
            Change::Write { .. } => {}
            Change::Resize if index < sizes_known => durable.cut(pending.size_after_bytes),
            Change::Resize => {
                let first_freed = pending.size_after_bytes.div_ceil(SECTOR_BYTES);
                freed_from_sector = freed_from_sector.min(first_freed);
            }
        }
    }
    durable.cut(size_bytes);
    durable.size_bytes = size_bytes;
}

/// For each sector the last change that reached it; those before it, of the same sector, came along,
/// as the page they share was written as a whole.
fn newest_landed(pending: &[PendingChange], fate: Fate, dice: &mut Dice) -> HashMap<u64, usize> {
    let mut newest = HashMap::new();
    if fate == Fate::Nothing {
        return newest;
    }
    for (index, pending) in pending.iter().enumerate() {
        let Change::Write {
            data,
            landing_offset: Some(offset),
        } = &pending.change
        else {
            continue;
        };
        let (whole, torn) = match dice.below(3) {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        for (sector, _, _) in units(*offset, data.len(), SECTOR_BYTES) {
            if whole || (torn && dice.chance(0.5)) {
                newest.insert(sector, index);
            }
        }
    }
    newest
}
