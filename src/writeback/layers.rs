//! What is in the journal of one file, as layers over what the backend has: pure.

use crate::journal::{Generation, Piece, Sequence};
use crate::types::{ByteRange, Timestamp, Version};
use std::collections::BTreeMap;

/// Part of a piece of data in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    pub piece: Piece,
    /// Where the part begins in it.
    pub skip: usize,
}

/// Where bytes of a file come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    Journal(Part),
    Zeros,
    Backend,
}

/// Ranges of a file, and where the journal has them.
#[derive(Clone, Default, Debug)]
pub struct Extents {
    by_start: BTreeMap<u64, (u64, Part)>,
    total_bytes: u64,
}

/// One generation of a file.
#[derive(Clone, Debug)]
pub struct Layer {
    pub generation: Generation,
    /// The batch in which it begins.
    pub first: Sequence,
    /// What the backend had; `None`: what the layer below leads to.
    pub base: Option<Version>,
    pub extents: Extents,
    pub size_bytes: u64,
    /// The lowest size since the beginning: from there on nothing below is seen.
    pub floor: u64,
    /// Of the first change, and of the last.
    pub first_stamp: Timestamp,
    pub stamp: Timestamp,
    /// Bytes that were written, those written over included.
    pub written_bytes: u64,
    /// Attributes are being changed below it, or were when a crash came.
    pub touched: Option<Touch>,
    was_resized: bool,
}

/// A change of a file's attributes that leaves its bytes alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// Where that is changed.
    pub modify_time: Option<Timestamp>,
}

impl Touch {
    /// Whether it may lead from one version to the other.
    pub fn leads(&self, from: &Version, to: &Version) -> bool {
        let has_our_time = to.mtime == from.mtime || self.modify_time == Some(to.mtime);
        has_our_time && from.inode == to.inode && from.size_bytes == to.size_bytes
    }
}

impl Extents {
    pub fn insert(&mut self, range: ByteRange, piece: Piece) {
        self.remove(range);
        if !range.is_empty() {
            let part = Part { piece, skip: 0 };
            self.put(range, part);
        }
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: ByteRange) {
        let reaching = self.by_start.range(..range.start).next_back();
        let first = match reaching {
            Some((start, (end, _))) if *end > range.start => *start,
            _ => range.start,
        };
        let touched: Vec<_> = self
            .by_start
            .range(first..range.end.max(first))
            .map(|(start, (end, part))| (*start, *end, *part))
            .collect();
        for (start, end, part) in touched {
            self.by_start.remove(&start);
            self.total_bytes -= end - start;
            if start < range.start {
                self.put(ByteRange::new(start, range.start), part);
            }
            if end > range.end {
                let skip = part.skip + (range.end - start) as usize;
                self.put(ByteRange::new(range.end, end), Part { skip, ..part });
            }
        }
    }

    fn put(&mut self, range: ByteRange, part: Part) {
        self.by_start.insert(range.start, (range.end, part));
        self.total_bytes += range.length_bytes();
    }

    /// All, in order, none overlapping the next.
    pub fn iter(&self) -> impl Iterator<Item = (ByteRange, Part)> + '_ {
        self.by_start
            .iter()
            .map(|(start, (end, part))| (ByteRange::new(*start, *end), *part))
    }

    /// What of a range is there, in order, cut to it.
    pub fn within(&self, range: ByteRange) -> Vec<(ByteRange, Part)> {
        let before = self.by_start.range(..range.start).next_back();
        let from = before.map_or(range.start, |(start, _)| *start);
        self.by_start
            .range(from..range.end.max(from))
            .map(|(start, (end, part))| (ByteRange::new(*start, *end), *part))
            .filter(|(held, _)| held.overlaps(&range))
            .map(|(held, part)| {
                let cut = held.intersection(&range);
                let skip = part.skip + (cut.start - held.start) as usize;
                (cut, Part { skip, ..part })
            })
            .collect()
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

impl Layer {
    pub fn new(
        generation: Generation,
        first: Sequence,
        base: Option<Version>,
        size_bytes: u64,
        stamp: Timestamp,
    ) -> Self {
        Self {
            generation,
            first,
            base,
            extents: Extents::default(),
            size_bytes,
            floor: size_bytes,
            first_stamp: stamp,
            stamp,
            written_bytes: 0,
            touched: None,
            was_resized: false,
        }
    }

    /// Bytes from `offset` on, in pieces that follow one another.
    pub fn write(&mut self, offset: u64, pieces: &[Piece], stamp: Timestamp) {
        self.note_stamp(stamp);
        let mut at = offset;
        for piece in pieces {
            let range = ByteRange::at(at, piece.length_bytes.into());
            self.extents.insert(range, *piece);
            self.written_bytes += range.length_bytes();
            at = range.end;
        }
        self.size_bytes = self.size_bytes.max(at);
    }

    fn note_stamp(&mut self, stamp: Timestamp) {
        if self.changes_nothing() {
            self.first_stamp = stamp;
        }
        self.stamp = stamp;
    }

    /// It was begun, and nothing came.
    pub fn changes_nothing(&self) -> bool {
        self.written_bytes == 0 && !self.was_resized
    }

    pub fn set_size(&mut self, size_bytes: u64, stamp: Timestamp) {
        self.note_stamp(stamp);
        self.extents.remove(ByteRange::new(size_bytes, u64::MAX));
        self.size_bytes = size_bytes;
        self.floor = self.floor.min(size_bytes);
        self.was_resized = true;
    }
}

/// Where the bytes of a range come from, in order, without gaps, up to the size that the top layer says. `layers` from
/// the top down.
pub fn origins(layers: &[&Layer], range: ByteRange) -> Vec<(ByteRange, Origin)> {
    let Some((top, below)) = layers.split_first() else {
        return match range.is_empty() {
            true => Vec::new(),
            false => vec![(range, Origin::Backend)],
        };
    };
    let range = range.intersection(&ByteRange::new(0, top.size_bytes));
    let mut found = Vec::new();
    let mut at = range.start;
    for (held, part) in top.extents.within(range) {
        found.extend(beneath(top, below, ByteRange::new(at, held.start)));
        found.push((held, Origin::Journal(part)));
        at = held.end;
    }
    found.extend(beneath(top, below, ByteRange::new(at, range.end)));
    found
}

fn beneath(top: &Layer, below: &[&Layer], range: ByteRange) -> Vec<(ByteRange, Origin)> {
    let seen = range.intersection(&ByteRange::new(0, top.floor));
    let mut found = match seen.is_empty() {
        true => Vec::new(),
        false => origins(below, seen),
    };
    let end = found.last().map_or(range.start, |(last, _)| last.end);
    let zeros = ByteRange::new(end, range.end);
    if !zeros.is_empty() {
        found.push((zeros, Origin::Zeros));
    }
    found
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
