//! One device as it is found: its segments, as far as they have to be looked at.

use super::JournalError;
use super::frame::{SegmentHeader, SegmentLife, Sequence};
use super::identity::Head;
use super::recovery::Unrecovered;
use super::scanning::{Depth, Scanned, read_header, scan};
use super::segments::{FOLDER, FreeSegment, Segment, Stock, number_of, path_of};
use crate::io::{Io, IoFile, OpenMode};
use std::io;
use std::sync::Arc;

/// A file of a segment, and what its header says if that is whole.
struct FoundSegment {
    file: Arc<dyn IoFile>,
    header: Option<SegmentHeader>,
}

/// One device as it was found.
pub struct FoundDevice {
    pub head: Head,
    segments: Vec<FoundSegment>,
    numbers: Vec<u32>,
}

/// Segments of a device by their lives, and the rest.
#[derive(Default)]
pub struct ScannedDevice {
    pub scanned: Vec<Scanned>,
    free: Vec<FreeSegment>,
}

/// Looks at the segments of a device, whose head says what the newest one of the journal does. Writes nothing; what is
/// there is durable when it returns.
pub fn look_at(io: &dyn Io, head: Head) -> Result<FoundDevice, JournalError> {
    let numbers = numbers_of(io)?;
    let wanted = head.segments.max(1);
    // They were made before any head was written.
    if head.membership.epoch > 0 && numbers.len() < usize::from(wanted) {
        let there = numbers.len();
        return Err(JournalError::SegmentsMissing { there, wanted });
    }
    let mut segments = Vec::new();
    for number in &numbers {
        let file = io.open(&path_of(*number), OpenMode::ReadWrite)?;
        let header = read_header(&*file, &head)?;
        if header.is_some() {
            // After a SIGKILL it may be in memory only, and is to be built upon.
            file.sync_data()?;
        }
        segments.push(FoundSegment { file, header });
    }
    Ok(FoundDevice {
        head,
        segments,
        numbers,
    })
}

fn numbers_of(io: &dyn Io) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    let listed = io.list(FOLDER, &mut |name| {
        numbers.extend(number_of(name));
        true
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        listed => listed?,
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl FoundDevice {
    /// At less than full depth, unless nothing is found so.
    pub fn scan(&self, depth: Depth) -> Result<ScannedDevice, Unrecovered> {
        let unreadable = |error| Unrecovered {
            device: Some(self.head.device),
            error,
        };
        let all = self.scan_as_deep(depth).map_err(unreadable)?;
        match all.scanned.is_empty() && depth == Depth::AsFarAsWhole {
            true => self.scan_as_deep(Depth::Everywhere).map_err(unreadable),
            false => Ok(all),
        }
    }

    fn scan_as_deep(&self, depth: Depth) -> Result<ScannedDevice, JournalError> {
        let headers = self.segments.iter().filter_map(|segment| segment.header);
        let headers: Vec<SegmentHeader> = headers.collect();
        let trimmed = headers.iter().map(|header| header.progress.trimmed).max();
        let newest = headers.iter().map(|header| header.life).max();
        let mut all = ScannedDevice::default();
        for segment in &self.segments {
            let file = segment.file.clone();
            let is_over = |header: SegmentHeader| is_over(&header, &headers, trimmed);
            let prewritten_bytes = match segment.header.is_some_and(is_over) {
                true => self.head.segment_bytes,
                false => 0,
            };
            let scanned = match prewritten_bytes {
                0 => self.scan_segment(segment, newest, depth)?,
                _ => None,
            };
            match scanned {
                Some(scanned) => all.scanned.push(scanned),
                None => all.free.push(FreeSegment {
                    file,
                    prewritten_bytes,
                }),
            }
        }
        all.scanned.sort_by_key(|segment| segment.header.life);
        drop_what_was_cut(&mut all.scanned);
        Ok(all)
    }

    fn scan_segment(
        &self,
        segment: &FoundSegment,
        newest: Option<SegmentLife>,
        depth: Depth,
    ) -> Result<Option<Scanned>, JournalError> {
        let scan = |depth| scan(&segment.file, segment.header, &self.head, depth);
        let is_newest = |life| newest.is_none_or(|newest| life >= newest);
        match scan(depth)? {
            // What was begun behind the last whole frame tells a torn end from a loss.
            Some(scanned) if is_newest(scanned.header.life) => scan(Depth::Everywhere),
            scanned => Ok(scanned),
        }
    }
}

/// Whether a later segment was begun when all before it was what is trimmed.
fn is_over(header: &SegmentHeader, all: &[SegmentHeader], trimmed: Option<Sequence>) -> bool {
    let later = all.iter().filter(|other| other.life > header.life);
    let next = later.min_by_key(|other| other.life);
    next.zip(trimmed)
        .is_some_and(|(next, trimmed)| next.before <= trimmed)
}

/// What an earlier recovery cut off is still there in the first format, before a segment that begins at its sequence.
fn drop_what_was_cut(scanned: &mut [Scanned]) {
    let mut successor_first = None;
    for segment in scanned.iter_mut().rev() {
        if let Some(first) = successor_first {
            segment.frames.split_off(&first);
        }
        if segment.header.is_first_format {
            let first = segment.header.first;
            successor_first =
                Some(successor_first.map_or(first, |other: Sequence| other.min(first)));
        }
    }
}

impl FoundDevice {
    /// What of it goes on being needed, and what is free.
    pub fn stock(&self, all: ScannedDevice, last: Sequence, trimmed: Sequence) -> Stock {
        let mut stock = Stock {
            free: all.free,
            highest: last,
            numbers: self.numbers.clone(),
            ..Stock::default()
        };
        for segment in all.scanned {
            stock.next_life = SegmentLife(segment.header.life.0 + 1);
            let is_needed = |sequence: &&Sequence| **sequence > trimmed && **sequence <= last;
            match segment.frames.keys().filter(is_needed).max() {
                Some(last) => stock.live.push_back(Segment {
                    file: segment.file,
                    life: segment.header.life,
                    last: *last,
                }),
                None => stock.free.push(FreeSegment {
                    file: segment.file,
                    prewritten_bytes: self.head.segment_bytes,
                }),
            }
        }
        stock
    }
}
