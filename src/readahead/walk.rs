//! The files of a directory, opened one after the other: in the order of its listing, or by their names. They are
//! followed as if they stood behind one another in one file, so that what holds for streams holds for walks: several
//! walkers, either direction, windows that grow with use, nothing for opens without an order.

use super::{Limits, Read, Reads};
use crate::types::ByteRange;
use std::collections::HashMap;
use std::ffi::OsStr;

/// What one file stands for.
const FILE_BYTES: u64 = 256 << 10;
/// Files ahead of a walker at most.
const FILES_MAX: u64 = 64;
const LIMITS: Limits = Limits {
    window_bytes_max: FILES_MAX * FILE_BYTES,
    block_bytes: None,
};

/// The opens of one directory's files so far.
#[derive(Debug, Default)]
pub struct Walk {
    listed: Order,
    by_name: Order,
}

/// Files by an order, each told by its index in the listing.
#[derive(Debug, Default)]
struct Order {
    files: Vec<u32>,
    /// By inode number.
    positions: HashMap<u64, u32>,
    opens: Reads,
    /// Opens that followed it.
    opens_in_order: u32,
    is_at_end: bool,
}

impl Walk {
    /// Of the files of a listing: their index there, name and inode number.
    pub fn new<'names>(files: impl Iterator<Item = (u32, &'names OsStr, u64)>) -> Self {
        let mut files: Vec<_> = files.collect();
        let listed = Order::new(&files);
        files.sort_unstable_by_key(|(_, name, _)| *name);
        Self {
            listed,
            by_name: Order::new(&files),
        }
    }

    /// Notes an open of a file, which was ready or not; the files to get ready, by their index in the listing.
    /// `follows`: a directory before this one was walked to its end.
    pub fn on_open(&mut self, inode: u64, is_late: bool, follows: bool) -> Vec<u32> {
        let listed = self.listed.on_open(inode, is_late, follows);
        let by_name = self.by_name.on_open(inode, is_late, follows);
        match self.by_name.opens_in_order > self.listed.opens_in_order {
            true => by_name,
            false => listed,
        }
    }

    /// Somebody has come to the last file in order.
    pub fn is_at_end(&self) -> bool {
        self.listed.is_at_end || self.by_name.is_at_end
    }
}

impl Order {
    fn new(files: &[(u32, &OsStr, u64)]) -> Self {
        let positions = files.iter().zip(0..);
        Self {
            files: files.iter().map(|(index, _, _)| *index).collect(),
            positions: positions
                .map(|((_, _, inode), position)| (*inode, position))
                .collect(),
            opens: Reads::default(),
            opens_in_order: 0,
            is_at_end: false,
        }
    }

    fn on_open(&mut self, inode: u64, is_late: bool, follows: bool) -> Vec<u32> {
        let Some(position) = self.positions.get(&inode).copied().map(u64::from) else {
            return Vec::new();
        };
        self.is_at_end |= position + 1 == self.files.len() as u64;
        let file = ByteRange::at(position * FILE_BYTES, FILE_BYTES);
        let half = file.start + FILE_BYTES / 2;
        let steps = match position == 0 && follows {
            // A beginning that needs no second open to be believed.
            true => [
                ByteRange::new(file.start, half),
                ByteRange::new(half, file.end),
            ],
            false => [ByteRange::default(), file],
        };
        let mut ahead = Vec::new();
        for range in steps.into_iter().filter(|range| !range.is_empty()) {
            let read = Read {
                range,
                file_size_bytes: self.files.len() as u64 * FILE_BYTES,
                is_late,
            };
            let plan = self.opens.on_read(read, &LIMITS);
            if !plan.random {
                self.opens_in_order = self.opens_in_order.saturating_add(1);
                ahead.extend(plan.ahead.ranges().flat_map(|range| self.files_in(range)));
            }
        }
        ahead
    }

    /// Each file belongs to the plan that has its beginning.
    fn files_in(&self, range: ByteRange) -> impl Iterator<Item = u32> {
        let positions = range.start.div_ceil(FILE_BYTES)..range.end.div_ceil(FILE_BYTES);
        positions.filter_map(|position| self.files.get(position as usize).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const FILES: u32 = 1000;

    /// Listed in another order than their names have.
    fn names() -> Vec<String> {
        (0..FILES)
            .map(|index| format!("{:04}", index * 7 % FILES))
            .collect()
    }

    fn walk(names: &[String]) -> Walk {
        let files = names.iter().zip(0..);
        Walk::new(files.map(|(name, index)| (index, OsStr::new(name), inode(index))))
    }

    fn inode(index: u32) -> u64 {
        u64::from(index) + 5000
    }

    /// Opens files in an order; how many were not asked for in time, and how many were asked for in vain.
    fn late_and_wasted(order: &[u32]) -> (usize, usize) {
        let mut walk = walk(&names());
        let mut ready = HashSet::new();
        let mut late = 0;
        for index in order {
            let is_late = !ready.remove(index);
            late += usize::from(is_late);
            for file in walk.on_open(inode(*index), is_late, false) {
                assert!(ready.insert(file), "{file} is asked for twice");
            }
            assert!(ready.len() as u64 <= FILES_MAX, "{} are ready", ready.len());
        }
        (late, ready.len())
    }

    #[test]
    fn a_walk_in_the_order_of_the_listing_is_ahead_after_two_files() {
        let order: Vec<u32> = (0..FILES).collect();
        assert_eq!(late_and_wasted(&order), (2, 0));
    }

    #[test]
    fn a_walk_in_the_order_of_names_is_ahead_too() {
        let names = names();
        let mut order: Vec<u32> = (0..FILES).collect();
        order.sort_by_key(|index| &names[*index as usize]);
        assert_eq!(late_and_wasted(&order), (2, 0));
    }

    #[test]
    fn several_walkers_take_turns() {
        let order: Vec<u32> = (0..250)
            .flat_map(|step| (0..4).map(move |walker| walker * 250 + step))
            .collect();
        let mut walk = walk(&names());
        let mut ready = HashSet::new();
        let late = order.iter().filter(|index| {
            let is_late = !ready.contains(*index);
            ready.extend(walk.on_open(inode(**index), is_late, false));
            is_late
        });
        let late = late.count();
        assert!(late <= 40, "{late} of {FILES} were late");
    }

    #[test]
    fn opens_without_an_order_ask_for_next_to_nothing() {
        let mut order: Vec<u32> = (0..FILES).collect();
        order.sort_by_key(|index| u64::from(index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7);
        let (_, wasted) = late_and_wasted(&order[..500]);
        assert!(wasted <= 48, "{wasted} were asked for in vain");
    }

    #[test]
    fn a_directory_after_one_that_was_walked_needs_one_open() {
        let mut walk = walk(&names());
        assert!(!walk.on_open(inode(0), true, true).is_empty());
        assert!(!walk.is_at_end());
    }
}
