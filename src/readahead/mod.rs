//! Which bytes to fetch beyond those asked for. Pure: fed with the reads of one file, by whatever handles, answers with
//! plans; knows nothing of files, threads or time.
//!
//! What always holds: a plan never reaches beyond the file, nor further ahead of a stream than the bound given; a
//! stream is not planned the same bytes twice; reads that follow no order get nothing beyond their own block; what was
//! planned in vain stays below half of what was used, and a first allowance.
//!
//! - `stream`: reads that follow one another, forward or backward; `strided`: at equal distances
//! - `candidates`: reads that may turn out to be either
//! - `walk`: the files of a directory, opened one after the other

use crate::types::{ByteRange, RangeSeries};
use candidates::{Candidates, Pattern};
use stream::Stream;
use strided::Strided;
pub use walk::Walk;

mod candidates;
mod stream;
mod strided;
mod walk;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod traces;

/// Smallest unit of a fetch; scattered reads fetch just this much around them.
pub const BLOCK_BYTES_MIN: u64 = 16 << 10;
/// Largest unit of a fetch.
pub const BLOCK_BYTES_MAX: u64 = 4 << 20;
/// Streams of one file that are followed at once; the one read longest ago gives way.
const STREAMS_MAX: usize = 32;
/// What may be planned in vain before a stream has to earn it.
const ALLOWANCE_BYTES: u64 = 4 << 20;
/// What is remembered of use and waste is halved here: the past counts less and less.
const MEMORY_BYTES: u64 = 1 << 30;

/// Bounds that do not change while a file is open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest window in bytes; zero turns readahead off.
    pub window_bytes_max: u64,
    /// A fixed unit of fetch, where the administrator asked for one.
    pub block_bytes: Option<u64>,
}

/// What to fetch for one read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The range asked for is rounded out to this.
    pub block_bytes: u64,
    /// Fetched as well, with nobody waiting; may be empty.
    pub ahead: RangeSeries,
    /// The read follows no order.
    pub random: bool,
    /// The stream had to wait, and may look no further ahead.
    pub is_bounded: bool,
}

/// One read: what is asked for, and of how large a file.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub range: ByteRange,
    pub file_size_bytes: u64,
    /// The bytes were not there yet.
    pub is_late: bool,
}

/// The reads of one file so far.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    streams: Vec<Followed>,
    candidates: Candidates,
    count: u64,
    /// Planned, and then read.
    used_bytes: u64,
    /// Planned for streams that have ended, and not read.
    wasted_bytes: u64,
}

#[derive(Clone, Debug)]
struct Followed {
    kind: Kind,
    last_read: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Stream(Stream),
    Strided(Strided),
}

impl Reads {
    /// Notes a read and answers with what to fetch.
    pub fn on_read(&mut self, read: Read, limits: &Limits) -> Plan {
        if read.range.is_empty() {
            return unordered(limits, false);
        }
        self.count += 1;
        if let Some(index) = self.follower(read.range) {
            let used_bytes = self.streams[index].advance(&read, &mut self.candidates);
            self.note_used(used_bytes);
            self.streams[index].last_read = self.count;
            return self.plan(index, &read, limits);
        }
        match self.candidates.on_read(read.range) {
            Pattern::Stream(stream) => self.follow(Kind::Stream(stream), &read, limits),
            Pattern::Strided(strided) => self.follow(Kind::Strided(strided), &read, limits),
            Pattern::Young => unordered(limits, false),
            Pattern::None => unordered(limits, true),
        }
    }

    /// The stream that a read goes on with: the one it is nearest to.
    fn follower(&self, range: ByteRange) -> Option<usize> {
        let distances = self.streams.iter().enumerate();
        distances
            .filter_map(|(index, followed)| Some((followed.distance(range)?, index)))
            .min()
            .map(|(_, index)| index)
    }

    fn follow(&mut self, kind: Kind, read: &Read, limits: &Limits) -> Plan {
        if self.streams.len() >= STREAMS_MAX {
            let oldest = self.streams.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, followed)| followed.last_read);
            if let Some((index, _)) = oldest {
                let ended = self.streams.swap_remove(index);
                self.wasted_bytes += ended.unread_bytes();
            }
        }
        let last_read = self.count;
        self.streams.push(Followed { kind, last_read });
        self.plan(self.streams.len() - 1, read, limits)
    }

    fn plan(&mut self, index: usize, read: &Read, limits: &Limits) -> Plan {
        let others = self.streams.iter().enumerate();
        let unread_bytes: u64 = others
            .filter(|(other, _)| *other != index)
            .map(|(_, followed)| followed.unread_bytes())
            .sum();
        let in_vain_bytes = self.wasted_bytes + unread_bytes;
        let trust = match in_vain_bytes > ALLOWANCE_BYTES + self.used_bytes / 2 {
            true => Trust::Small,
            false => Trust::Full,
        };
        let followed = &mut self.streams[index];
        let plan = match &mut followed.kind {
            Kind::Stream(stream) => Plan {
                block_bytes: limits.block_bytes.unwrap_or(stream.block_bytes()),
                is_bounded: trust == Trust::Full && stream.is_bounded(limits),
                ahead: stream.ahead(trust, read.file_size_bytes, limits).into(),
                random: false,
            },
            Kind::Strided(strided) => Plan {
                block_bytes: limits.block_bytes.unwrap_or(BLOCK_BYTES_MIN),
                ahead: strided.ahead(trust, read.file_size_bytes, limits),
                random: true,
                is_bounded: false,
            },
        };
        if followed.has_ended(read.file_size_bytes) {
            self.streams.swap_remove(index);
        }
        plan
    }

    fn note_used(&mut self, bytes: u64) {
        self.used_bytes += bytes;
        if self.used_bytes + self.wasted_bytes > MEMORY_BYTES {
            self.used_bytes /= 2;
            self.wasted_bytes /= 2;
        }
    }
}

impl Followed {
    /// How far a read is from where the next one was expected; `None` if it is not of this stream.
    fn distance(&self, range: ByteRange) -> Option<u64> {
        match &self.kind {
            Kind::Stream(stream) => stream.distance(range),
            Kind::Strided(strided) => strided.distance(range),
        }
    }

    /// Goes on with a read, and with those that had overtaken it; how many bytes of them were planned before.
    fn advance(&mut self, read: &Read, candidates: &mut Candidates) -> u64 {
        match &mut self.kind {
            Kind::Stream(stream) => {
                let mut used_bytes = stream.advance(read.range, read.is_late);
                while let Some(overtaking) =
                    candidates.take_if(|range| stream.distance(range).is_some())
                {
                    used_bytes += stream.advance(overtaking, read.is_late);
                }
                used_bytes
            }
            Kind::Strided(strided) => strided.advance(read.range),
        }
    }

    fn unread_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Stream(stream) => stream.unread_bytes(),
            Kind::Strided(strided) => strided.unread_bytes(),
        }
    }

    fn has_ended(&self, file_size_bytes: u64) -> bool {
        match &self.kind {
            Kind::Stream(stream) => stream.has_ended(file_size_bytes),
            Kind::Strided(_) => false,
        }
    }
}

/// How much a stream may get ahead of what it has proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    Full,
    /// Much was planned in vain for the reads of this file.
    Small,
}

impl Trust {
    /// The largest window of a stream that has read so many bytes in order.
    fn window_bytes(self, run_bytes: u64) -> u64 {
        match self {
            Self::Full => run_bytes.saturating_mul(4),
            Self::Small => run_bytes / 8,
        }
    }
}

/// For a read that is no stream, or none yet.
fn unordered(limits: &Limits, random: bool) -> Plan {
    Plan {
        block_bytes: limits.block_bytes.unwrap_or(BLOCK_BYTES_MIN),
        ahead: RangeSeries::default(),
        random,
        is_bounded: false,
    }
}
