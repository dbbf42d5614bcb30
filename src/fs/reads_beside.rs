//! Reads that may have overtaken a write.
//!
//! The kernel copies what is written into its pages, unlocks those that are whole, and sends them after that
//! (fs/fuse/file.c, fuse_fill_write_pages). In between it may forget them: because of an open, of a lock, or of
//! attributes with another time. A read sent then finds the bytes of before here, and they would stay in the pages for
//! good. So those pages of a write that were read since the write before it are forgotten again before the write is
//! acknowledged.
//!
//! Why that is enough: the kernel begins to copy a write of a node when the one before it has been acknowledged (it
//! holds the inode's lock until then), and a page that a read was sent for stays locked until that is answered.

use crate::types::ByteRange;
use parking_lot::Mutex;

/// More reads than that are taken for one from the first byte to the last.
const REMEMBERED: usize = 64;

/// What was read of a node, through the kernel's pages, since a write of it was acknowledged.
pub(super) struct ReadsBeside {
    page_bytes: u64,
    reads: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    next: u64,
    ranges: Vec<(u64, ByteRange)>,
}

/// Pages to be forgotten again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overtaken {
    /// Written as a whole: the kernel does not hold them locked.
    pub whole: Option<ByteRange>,
    /// Written in part, the first and the last. The kernel may hold them locked until the write is acknowledged.
    pub edges: [Option<ByteRange>; 2],
}

impl ReadsBeside {
    pub fn new(page_bytes: u64) -> Self {
        Self {
            page_bytes,
            reads: Mutex::default(),
        }
    }

    /// Called before the read looks whether a write has come. What it is known by for [`ReadsBeside::withdraw`].
    pub fn note(&self, range: ByteRange) -> u64 {
        let mut reads = self.reads.lock();
        let id = reads.next;
        reads.next += 1;
        if reads.ranges.len() == REMEMBERED {
            let between = hull(reads.ranges.drain(..).map(|(_, range)| range));
            reads.ranges.extend(between.map(|range| (u64::MAX, range)));
        }
        reads.ranges.push((id, range));
        id
    }

    /// The read has found a write that came before it, and waits for that.
    pub fn withdraw(&self, id: u64) {
        self.reads.lock().ranges.retain(|(noted, _)| *noted != id);
    }

    /// Called when a write through the kernel's pages has been made, before it is acknowledged.
    pub fn take(&self, written: &ByteRange) -> Overtaken {
        let reads = std::mem::take(&mut self.reads.lock().ranges);
        if reads.is_empty() || written.is_empty() {
            return Overtaken::default();
        }
        let touched = written.aligned_out(self.page_bytes);
        let whole = ByteRange::new(
            written.start.next_multiple_of(self.page_bytes),
            written.end / self.page_bytes * self.page_bytes,
        );
        let read_of = |part: ByteRange| {
            let pages = |range: &ByteRange| range.aligned_out(self.page_bytes).intersection(&part);
            let read = reads.iter().map(|(_, range)| pages(range));
            hull(read.filter(|range| !range.is_empty()))
        };
        if whole.is_empty() {
            return Overtaken {
                whole: None,
                edges: [read_of(touched), None],
            };
        }
        Overtaken {
            whole: read_of(whole),
            edges: [
                read_of(ByteRange::new(touched.start, whole.start)),
                read_of(ByteRange::new(whole.end, touched.end)),
            ],
        }
    }
}

/// From the first byte of any to the last.
fn hull(ranges: impl Iterator<Item = ByteRange>) -> Option<ByteRange> {
    ranges.reduce(|one, other| one.covering(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn pages(first: u64, end: u64) -> Option<ByteRange> {
        Some(ByteRange::new(first * PAGE, end * PAGE))
    }

    #[test]
    fn of_a_write_the_pages_that_were_read_are_found_once() {
        let reads = ReadsBeside::new(PAGE);
        reads.note(ByteRange::new(2 * PAGE, 3 * PAGE));
        reads.note(ByteRange::new(4 * PAGE, 4 * PAGE + 1));
        reads.note(ByteRange::new(9 * PAGE, 12 * PAGE));
        let written = ByteRange::new(PAGE, 8 * PAGE);
        let found = reads.take(&written);
        assert_eq!(found.whole, pages(2, 5));
        assert_eq!(found.edges, [None, None]);
        assert_eq!(reads.take(&written), Overtaken::default());
    }

    #[test]
    fn pages_written_in_part_are_told_apart() {
        let reads = ReadsBeside::new(PAGE);
        let all = ByteRange::new(0, 20 * PAGE);
        reads.note(all);
        let found = reads.take(&ByteRange::new(PAGE + 1, 4 * PAGE + 5));
        assert_eq!(found.whole, pages(2, 4));
        assert_eq!(found.edges, [pages(1, 2), pages(4, 5)]);
        reads.note(all);
        let inside = reads.take(&ByteRange::new(PAGE + 1, PAGE + 5));
        assert_eq!((inside.whole, inside.edges), (None, [pages(1, 2), None]));
        reads.note(all);
        let across = reads.take(&ByteRange::new(PAGE + 1, 2 * PAGE + 5));
        assert_eq!((across.whole, across.edges), (None, [pages(1, 3), None]));
    }

    #[test]
    fn a_read_that_waits_for_the_write_has_not_overtaken_it() {
        let reads = ReadsBeside::new(PAGE);
        let all = ByteRange::new(0, 20 * PAGE);
        let id = reads.note(all);
        reads.withdraw(id);
        assert_eq!(reads.take(&all), Overtaken::default());
    }

    #[test]
    fn many_reads_are_all_remembered() {
        let reads = ReadsBeside::new(PAGE);
        for page in 0..1000 {
            reads.note(ByteRange::at(page * PAGE, PAGE));
        }
        assert!(reads.reads.lock().ranges.len() <= REMEMBERED);
        let found = reads.take(&ByteRange::new(0, 2000 * PAGE));
        assert_eq!(found.whole, pages(0, 1000));
    }
}
