//! The files that frames are written to: made once with all their blocks, written over and over.
//!
//! What always holds: a segment's header is durable before its first frame; frames of a segment are whole blocks and are
//! never written over while any of them is needed; one segment is synced before the next one begins.

use super::checksum::crc64;
use super::frame::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentLife,
    Sequence,
};
use super::stripe::Spread;
use crate::io::{Io, IoFile, OpenMode};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

pub const FOLDER: &str = "segments";
/// Zeros are written in pieces of this, each synced: whoever commits meanwhile waits for one of them.
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

/// Which file a segment is. None has the inode number 0.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FileIdentity {
    pub inode: u64,
    /// Nanoseconds since 1970; 0 where the filesystem tells none.
    pub birth_ns: i64,
}

/// Which file the first segment is: it is made with the device, and stays. With another one in its place the directory is
/// a copy.
pub fn first_file(io: &dyn Io) -> io::Result<FileIdentity> {
    let file = match io.open(&path_of(0), OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileIdentity::default()),
        opened => opened?,
    };
    let facts = file.facts()?;
    Ok(FileIdentity {
        inode: facts.inode,
        birth_ns: facts.birth_ns as i64,
    })
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
    /// Blocks up to here were written before: a sync of new frames has no extents to change.
    pub prewritten_bytes: u64,
}

/// Where a shard of a batch lies.
#[derive(Clone)]
pub struct ShardPlace {
    pub device: u8,
    pub index: u8,
    pub file: Arc<dyn IoFile>,
    pub payload_offset: u64,
    pub checksum: u64,
}

/// The segments of one device.
pub struct Segments {
    spread: Spread,
    device: u8,
    segment_bytes: u64,
    /// In the order of their lives; the last one is written to, if `end` tells where.
    live: VecDeque<Segment>,
    end: Option<u64>,
    is_unsynced: bool,
    free: Vec<FreeSegment>,
    next_life: SegmentLife,
    /// The highest batch in any of them.
    highest: Sequence,
}

/// What a device is found to have, or begins with.
#[derive(Default)]
pub struct Stock {
    /// What is needed, in the order of their lives.
    pub live: VecDeque<Segment>,
    pub free: Vec<FreeSegment>,
    pub next_life: SegmentLife,
    pub highest: Sequence,
    /// Numbers of files that are there, free ones among them; sorted.
    pub numbers: Vec<u32>,
}

impl Stock {
    pub fn count(&self) -> usize {
        self.live.len() + self.free.len()
    }
}

/// A number of segments as a head says it: so many at least.
pub fn in_a_head(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

impl Segments {
    pub fn count(&self) -> usize {
        self.live.len() + self.free.len()
    }

    /// All is written to a new segment.
    pub fn new(spread: Spread, device: u8, segment_bytes: u64, stock: Stock) -> Self {
        Self {
            spread,
            device,
            segment_bytes,
            live: stock.live,
            end: None,
            is_unsynced: false,
            free: stock.free,
            next_life: stock.next_life,
            highest: stock.highest,
        }
    }

    /// How many frames of up to `frame_bytes` are sure to find room.
    pub fn room_frames(&self, frame_bytes: u64) -> u64 {
        let here = self
            .end
            .map_or(0, |end| (self.segment_bytes - end) / frame_bytes);
        let in_one = (self.segment_bytes - SEGMENT_HEADER_BYTES) / frame_bytes;
        here + in_one * self.free.len() as u64
    }

    /// Writes a frame behind the last one: the shard, which begins behind the room for a header. Which life it is in and
    /// what the shard's checksum is, is put into the header. ENOSPC where no segment is free.
    pub fn write(&mut self, mut header: FrameHeader, frame: &mut [u8]) -> io::Result<ShardPlace> {
        let frame_bytes = header.bytes();
        let used = FRAME_HEADER_BYTES + header.stripe.shard_bytes as usize;
        let fits = |end: u64| end + frame_bytes <= self.segment_bytes;
        let at = match self.end {
            Some(end) if fits(end) => end,
            _ => self.begin_next(&header)?,
        };
        let segment = self.live.back_mut().expect("one was begun");
        header.life = segment.life;
        header.payload_checksum = crc64(&frame[FRAME_HEADER_BYTES..used]);
        frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        // What a program read before must not go to the disk.
        frame[used..frame_bytes as usize].fill(0);
        let file = segment.file.clone();
        self.is_unsynced = true;
        let frame = &frame[..frame_bytes as usize];
        match header.index < header.stripe.data {
            // Uploads read it, and nobody reads the others while this one is there.
            true => file.write_behind(frame, at)?,
            false => file.write_past_cache(frame, at)?,
        }
        segment.last = segment.last.max(header.sequence);
        self.highest = self.highest.max(header.sequence);
        self.end = Some(at + frame_bytes);
        Ok(ShardPlace {
            device: self.device,
            index: header.index,
            file,
            payload_offset: at + FRAME_HEADER_BYTES as u64,
            checksum: header.payload_checksum,
        })
    }

    fn begin_next(&mut self, frame: &FrameHeader) -> io::Result<u64> {
        self.sync()?;
        let most_prewritten = self.free.iter().enumerate();
        let chosen = most_prewritten.max_by_key(|(_, free)| free.prewritten_bytes);
        let (chosen, _) = chosen.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let file = self.free.swap_remove(chosen).file;
        let header = SegmentHeader {
            membership: frame.membership,
            spread: self.spread,
            device: self.device,
            life: self.next_life,
            first: frame.sequence,
            before: self.highest,
            is_first_format: false,
            progress: frame.progress,
        };
        let mut block = [0; BLOCK_BYTES as usize];
        block[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&block, 0)?;
        file.sync_data()?;
        self.live.push_back(Segment {
            file,
            life: self.next_life,
            last: frame.sequence.before(),
        });
        self.next_life = SegmentLife(self.next_life.0 + 1);
        self.end = Some(SEGMENT_HEADER_BYTES);
        Ok(SEGMENT_HEADER_BYTES)
    }

    /// Returns when all that was written is on stable storage.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(present) = self.live.back().filter(|_| self.is_unsynced) {
            present.file.sync_data()?;
            if present.file.facts()?.link_count == 0 {
                // What nobody can find again is not kept.
                return Err(io::Error::other("the journal's files were removed"));
            }
            self.is_unsynced = false;
        }
        Ok(())
    }

    /// Up to `trimmed` nothing is needed, as enough durable headers say: what holds no more than that is free.
    pub fn release(&mut self, trimmed: Sequence) {
        // The present one goes on.
        let is_over = |oldest: &Segment| oldest.last <= trimmed;
        while self.live.len() > 1
            && self.live.front().is_some_and(is_over)
            && let Some(oldest) = self.live.pop_front()
        {
            self.free.push(FreeSegment {
                file: oldest.file,
                prewritten_bytes: self.segment_bytes,
            });
        }
    }

    /// Writes a piece of a free segment whose blocks were never written, so that there is one that was. False where there
    /// is nothing to do. Blocks on the disk.
    pub fn prewrite_some(&mut self) -> io::Result<bool> {
        let is_done = |free: &FreeSegment| free.prewritten_bytes >= self.segment_bytes;
        if self.free.iter().any(is_done) {
            return Ok(false);
        }
        let begun = self
            .free
            .iter_mut()
            .max_by_key(|free| free.prewritten_bytes);
        match begun {
            Some(free) => free.prewrite_some(self.segment_bytes).map(|()| true),
            None => Ok(false),
        }
    }
}

impl FreeSegment {
    fn prewrite_some(&mut self, segment_bytes: u64) -> io::Result<()> {
        let length = (segment_bytes - self.prewritten_bytes).min(ZEROS_BYTES);
        let zeros = vec![0; length as usize];
        self.file.write_all_at(&zeros, self.prewritten_bytes)?;
        self.file.sync_data()?;
        self.prewritten_bytes += length;
        Ok(())
    }
}

/// Whether a frame was ever written to a directory's segments, which begin with zeros. Changes nothing.
pub fn has_any_frame(io: &dyn Io) -> io::Result<bool> {
    let mut paths = Vec::new();
    let listed = io.list(FOLDER, &mut |name| {
        paths.push(format!("{FOLDER}/{name}"));
        true
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        listed => listed?,
    }
    let mut first = vec![0; FRAME_HEADER_BYTES];
    for path in paths {
        let file = io.open(&path, OpenMode::Read)?;
        let read = file.read_at(&mut first, SEGMENT_HEADER_BYTES)?;
        if first[..read].iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the file of a segment, with all its blocks where the disk has room to spare. Its name is not durable yet.
pub fn make(io: &dyn Io, number: u32, segment_bytes: u64) -> io::Result<FreeSegment> {
    let file = io.open(&path_of(number), OpenMode::CreateNew)?;
    file.set_size(segment_bytes)?;
    file.set_blocks_aside();
    file.sync_all()?;
    Ok(FreeSegment {
        file,
        prewritten_bytes: 0,
    })
}
