//! What stands in a segment that is found: its header, and the frames of its present life.

use super::JournalError;
use super::checksum::crc64;
use super::frame::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, Progress, SEGMENT_HEADER_BYTES, SegmentHeader,
    SegmentLife, Sequence, Unreadable,
};
use super::identity::Head;
use crate::io::IoFile;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Headers are looked for in so much at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A segment as it was found.
pub struct Scanned {
    pub file: Arc<dyn IoFile>,
    pub header: SegmentHeader,
    pub frames: BTreeMap<Sequence, Frame>,
    /// Of frames whose header is whole and their payload is not: they were begun.
    pub damaged: BTreeSet<Sequence>,
    pub progress: Progress,
}

/// Where the payload of a whole frame lies.
pub struct Frame {
    pub header: FrameHeader,
    pub payload_offset: u64,
}

/// What was seen of a segment so far.
struct Scan<'a> {
    file: &'a dyn IoFile,
    head: &'a Head,
    header: Option<SegmentHeader>,
    /// Frames of others are passed over. Where the header is damaged, the newest life that was met.
    life: Option<SegmentLife>,
    frames: BTreeMap<Sequence, Frame>,
    damaged: BTreeSet<Sequence>,
    progress: Progress,
}

/// The header of a segment, if it is one of this journal's and this device's.
pub fn read_header(file: &dyn IoFile, head: &Head) -> Result<Option<SegmentHeader>, JournalError> {
    let mut bytes = [0; FRAME_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    match SegmentHeader::decode(&bytes[..read]) {
        Ok(header) if is_own(&header, head) => Ok(Some(header)),
        // Of another journal, or of another device of this one.
        Ok(_) | Err(Unreadable::Garbled) => Ok(None),
        Err(Unreadable::Newer(found)) => Err(JournalError::NewerFormat { found }),
    }
}

fn is_own(header: &SegmentHeader, head: &Head) -> bool {
    header.membership.journal == head.membership.journal && header.device == head.device
}

/// How far a segment is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Up to the first frame that is not whole.
    AsFarAsWhole,
    Everywhere,
}

/// `None` for a segment that holds nothing. One whose own header is damaged is told by its newest frames: its use before
/// that, if it is one, is not needed any more, as other headers say.
pub fn scan(
    file: &Arc<dyn IoFile>,
    header: Option<SegmentHeader>,
    head: &Head,
    depth: Depth,
) -> Result<Option<Scanned>, JournalError> {
    let mut scan = Scan {
        file: &**file,
        head,
        header,
        life: header.map(|header| header.life),
        frames: BTreeMap::new(),
        damaged: BTreeSet::new(),
        progress: header.map_or_else(Progress::default, |header| header.progress),
    };
    let mut blocks = Blocks::new(&**file);
    let mut at = SEGMENT_HEADER_BYTES;
    while at + BLOCK_BYTES <= head.segment_bytes {
        let found = blocks.frame_at(at, head)?;
        let taken = match found.filter(|found| at + found.bytes() <= head.segment_bytes) {
            Some(found) => scan.take(at, &found)?,
            None => None,
        };
        if taken.is_none() && depth == Depth::AsFarAsWhole {
            break;
        }
        // Behind a frame that is not whole there may be others: they tell what was acknowledged.
        at += taken.unwrap_or(BLOCK_BYTES);
    }
    Ok(scan.end(file))
}

impl Scan<'_> {
    /// The bytes of a frame, if it is a whole one of the present life.
    fn take(&mut self, at: u64, found: &FrameHeader) -> Result<Option<u64>, JournalError> {
        match self.life {
            Some(life) if found.life == life => {}
            Some(life) if found.life < life || self.header.is_some() => return Ok(None),
            _ => {
                self.life = Some(found.life);
                self.frames.clear();
                self.damaged.clear();
            }
        }
        self.progress.raise(found.progress);
        let frame = Frame {
            header: *found,
            payload_offset: at + FRAME_HEADER_BYTES as u64,
        };
        if crc64(&frame.read(self.file)?) != found.payload_checksum {
            self.damaged.insert(found.sequence);
            return Ok(None);
        }
        if self.is_in_place(found) {
            self.frames.insert(found.sequence, frame);
        }
        Ok(Some(found.bytes()))
    }

    /// Whether it is the shard that this device is given, of a batch that is not cut off.
    fn is_in_place(&self, found: &FrameHeader) -> bool {
        let (stripe, sequence, head) = (&found.stripe, found.sequence, self.head);
        found.index == head.spread.shard_of(stripe, sequence.0, head.device)
            && head.believes(found.membership.epoch, sequence)
    }

    /// Where the header is damaged, it may follow anything.
    fn end(self, file: &Arc<dyn IoFile>) -> Option<Scanned> {
        let unknown = Sequence(u64::MAX);
        let told = self.life.map(|life| SegmentHeader {
            membership: self.head.membership,
            spread: self.head.spread,
            device: self.head.device,
            life,
            first: self.frames.keys().next().copied().unwrap_or(unknown),
            before: unknown,
            is_first_format: false,
            progress: self.progress,
        });
        self.header.or(told).map(|header| Scanned {
            file: file.clone(),
            header,
            frames: self.frames,
            damaged: self.damaged,
            progress: self.progress,
        })
    }
}

impl Frame {
    /// Shorter than it should be where the file has ended.
    pub fn read(&self, file: &dyn IoFile) -> Result<Vec<u8>, JournalError> {
        let mut payload = vec![0; self.header.stripe.shard_bytes as usize];
        let read = file.read_at(&mut payload, self.payload_offset)?;
        payload.truncate(read);
        Ok(payload)
    }
}

/// The blocks of a file in order, many at a time.
struct Blocks<'a> {
    file: &'a dyn IoFile,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl<'a> Blocks<'a> {
    fn new(file: &'a dyn IoFile) -> Self {
        Self {
            file,
            chunk: Vec::new(),
            chunk_at: 0,
        }
    }

    /// The header of a frame of this journal, if there is one.
    fn frame_at(&mut self, at: u64, head: &Head) -> Result<Option<FrameHeader>, JournalError> {
        let is_own = |header: &FrameHeader| {
            header.membership.journal == head.membership.journal && header.stripe.is_possible()
        };
        match FrameHeader::decode(self.block_at(at)?) {
            Ok(header) => Ok(Some(header).filter(is_own)),
            Err(Unreadable::Garbled) => Ok(None),
            Err(Unreadable::Newer(found)) => Err(JournalError::NewerFormat { found }),
        }
    }

    fn block_at(&mut self, at: u64) -> Result<&[u8], JournalError> {
        let end = self.chunk_at + self.chunk.len() as u64;
        if at < self.chunk_at || at + BLOCK_BYTES > end {
            self.chunk.resize(CHUNK_BYTES, 0);
            let read = self.file.read_at(&mut self.chunk, at)?;
            self.chunk.truncate(read);
            self.chunk_at = at;
        }
        Ok(&self.chunk[(at - self.chunk_at) as usize..])
    }
}

impl Progress {
    pub fn raise(&mut self, other: Progress) {
        self.acknowledged = self.acknowledged.max(other.acknowledged);
        self.trimmed = self.trimmed.max(other.trimmed);
    }
}
