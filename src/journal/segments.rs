//! The files that frames are written to: made once with all their blocks, written over and over.
//!
//! What always holds: a segment's header is durable before its first frame; frames of a segment are whole blocks and are
//! never written over while any of them is needed; one segment is synced before the next one begins.

use super::checksum::crc64;
use super::frame::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, Progress, SEGMENT_HEADER_BYTES, SegmentHeader,
    SegmentLife, Sequence,
};
use super::identity::Membership;
use crate::io::{Buffer, Io, IoFile, OpenMode};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

pub const FOLDER: &str = "segments";
/// Zeros are written in pieces of this.
const ZEROS_BYTES: u64 = 1 << 20;

pub fn path_of(number: u32) -> String {
    format!("{FOLDER}/{number:08x}")
}

/// The number in a segment's name; `None` for a name that is not ours.
pub fn number_of(name: &str) -> Option<u32> {
    (name.len() == 8)
        .then(|| u32::from_str_radix(name, 16).ok())
        .flatten()
}

/// One that holds frames.
pub struct Segment {
    pub file: Arc<dyn IoFile>,
    pub life: SegmentLife,
    pub last: Sequence,
}

/// One that holds nothing.
pub struct FreeSegment {
    pub file: Arc<dyn IoFile>,
    /// Its blocks were written before: a sync of new frames has no extents to change.
    pub is_prewritten: bool,
}

/// What is to be written as one frame: the payload with room for a header before it.
pub struct Batch {
    pub sequence: Sequence,
    pub buffer: Buffer,
    pub payload_bytes: usize,
}

/// Where a batch lies.
#[derive(Clone)]
pub struct Place {
    pub file: Arc<dyn IoFile>,
    pub payload_offset: u64,
}

pub struct Segments {
    membership: Membership,
    segment_bytes: u64,
    /// In the order of their lives; the last one is written to, if `end` tells where.
    live: VecDeque<Segment>,
    end: Option<u64>,
    is_unsynced: bool,
    /// What the last header says, and the last one that is durable.
    said: Progress,
    on_disk: Progress,
    free: Vec<FreeSegment>,
    next_life: SegmentLife,
}

impl Batch {
    pub fn payload(&self) -> &[u8] {
        &self.buffer[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.payload_bytes]
    }
}

impl Segments {
    /// `live` is what recovery found to be needed, in order. All is written to a new segment.
    pub fn new(
        membership: Membership,
        segment_bytes: u64,
        live: VecDeque<Segment>,
        free: Vec<FreeSegment>,
        next_life: SegmentLife,
    ) -> Self {
        Self {
            membership,
            segment_bytes,
            live,
            end: None,
            is_unsynced: false,
            said: Progress::default(),
            on_disk: Progress::default(),
            free,
            next_life,
        }
    }

    /// How many batches of up to `frame_bytes` are sure to find room.
    pub fn room_batches(&self, frame_bytes: u64) -> u64 {
        let here = self
            .end
            .map_or(0, |end| (self.segment_bytes - end) / frame_bytes);
        let in_one = (self.segment_bytes - SEGMENT_HEADER_BYTES) / frame_bytes;
        here + in_one * self.free.len() as u64
    }

    /// What the last durable header says.
    pub fn on_disk(&self) -> Progress {
        self.on_disk
    }

    /// Writes a batch behind the last one. ENOSPC where no segment is free.
    pub fn write(&mut self, batch: &mut Batch, progress: Progress) -> io::Result<Place> {
        let frame_bytes = FrameHeader::frame_bytes(batch.payload_bytes);
        let fits = |end: u64| end + frame_bytes <= self.segment_bytes;
        let at = match self.end {
            Some(end) if fits(end) => end,
            _ => self.begin_next(batch.sequence, progress)?,
        };
        let segment = self.live.back_mut().expect("one was begun");
        let header = FrameHeader {
            membership: self.membership,
            life: segment.life,
            sequence: batch.sequence,
            progress,
            batch_bytes: batch.payload_bytes as u32,
            shard_bytes: batch.payload_bytes as u32,
            payload_checksum: crc64(batch.payload()),
        };
        let used = FRAME_HEADER_BYTES + batch.payload_bytes;
        batch.buffer[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        // What a program read before must not go to the disk.
        batch.buffer[used..frame_bytes as usize].fill(0);
        let file = segment.file.clone();
        self.is_unsynced = true;
        self.said = progress;
        file.write_past_cache(&batch.buffer[..frame_bytes as usize], at)?;
        segment.last = batch.sequence;
        self.end = Some(at + frame_bytes);
        Ok(Place {
            file,
            payload_offset: at + FRAME_HEADER_BYTES as u64,
        })
    }

    fn begin_next(&mut self, first: Sequence, progress: Progress) -> io::Result<u64> {
        self.sync()?;
        let prewritten = self.free.iter().position(|free| free.is_prewritten);
        let chosen = prewritten.or(self.free.len().checked_sub(1));
        let chosen = chosen.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let file = self.free.swap_remove(chosen).file;
        let header = SegmentHeader {
            membership: self.membership,
            life: self.next_life,
            first,
            progress,
        };
        let mut block = [0; BLOCK_BYTES as usize];
        block[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&block, 0)?;
        file.sync_data()?;
        self.live.push_back(Segment {
            file,
            life: self.next_life,
            last: first.before(),
        });
        self.next_life = SegmentLife(self.next_life.0 + 1);
        self.end = Some(SEGMENT_HEADER_BYTES);
        Ok(SEGMENT_HEADER_BYTES)
    }

    /// Returns when all that was written is on stable storage. What its headers say is not needed becomes free.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(present) = self.live.back().filter(|_| self.is_unsynced) {
            present.file.sync_data()?;
            self.is_unsynced = false;
            self.on_disk = self.said;
            self.release(self.on_disk.trimmed);
        }
        Ok(())
    }

    fn release(&mut self, trimmed: Sequence) {
        // The present one goes on.
        let is_over = |oldest: &Segment| oldest.last <= trimmed;
        while self.live.len() > 1
            && self.live.front().is_some_and(is_over)
            && let Some(oldest) = self.live.pop_front()
        {
            self.free.push(FreeSegment {
                file: oldest.file,
                is_prewritten: true,
            });
        }
    }

    /// A free one whose blocks were never written; it is missing from the free ones until it is put back.
    pub fn take_unwritten(&mut self) -> Option<FreeSegment> {
        let at = self.free.iter().position(|free| !free.is_prewritten)?;
        // The last free one is for whoever commits.
        let is_wanted = !self.free.iter().any(|free| free.is_prewritten) && self.free.len() > 1;
        is_wanted.then(|| self.free.swap_remove(at))
    }

    pub fn put_back(&mut self, free: FreeSegment) {
        self.free.push(free);
    }
}

impl FreeSegment {
    /// Writes all blocks once. Blocks on the disk.
    pub fn prewrite(&mut self, segment_bytes: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES.min(segment_bytes) as usize];
        let mut offset = 0;
        while offset < segment_bytes {
            let length = (segment_bytes - offset).min(ZEROS_BYTES);
            self.file.write_all_at(&zeros[..length as usize], offset)?;
            offset += length;
        }
        self.file.sync_data()?;
        self.is_prewritten = true;
        Ok(())
    }
}

/// Makes the file of a segment, with all its blocks where the disk has room to spare. Its name is not durable yet.
pub fn make(io: &dyn Io, number: u32, segment_bytes: u64) -> io::Result<FreeSegment> {
    let file = io.open(&path_of(number), OpenMode::CreateNew)?;
    file.set_size(segment_bytes)?;
    file.set_blocks_aside();
    file.sync_all()?;
    Ok(FreeSegment {
        file,
        is_prewritten: false,
    })
}
