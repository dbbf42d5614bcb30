//! What a batch tells of: records, one after the other, as bytes (docs/ON_DISK_FORMAT.md draws them).

use crate::types::codec::{Reader, Writer};
use crate::types::{Credentials, FileKey, Timestamp, Version};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What was written to one file from the first change after an upload, or after it was clean, until the next upload
/// takes it. Numbered over the life of the journal, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u64);

/// Data is cut into pieces of at most this, each with a checksum of its own.
pub const PIECE_BYTES_MAX: usize = 64 << 10;

/// Of the header of a write, behind kind and length.
const WRITE_HEADER_BYTES: usize = 32;
/// Linux has no more (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// A generation begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beginning {
    pub generation: Generation,
    pub key: FileKey,
    pub inode: u64,
    /// Beneath the backend's root.
    pub path: PathBuf,
    /// What the backend had; `None`: what the generation before leads to.
    pub base: Option<Version>,
    /// The generation before, where it was on its way then.
    pub follows: Option<Generation>,
    pub size_bytes: u64,
    /// The file had lost its last name.
    pub is_nameless: bool,
    /// It stands for another one from [`Record::Moved`] on, and for nothing before.
    pub is_copy: bool,
    pub opener: Credentials,
}

/// What was on the backend in a range before it was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseSum {
    pub offset: u64,
    pub length_bytes: u32,
    pub checksum: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Begin(Beginning),
    /// Bytes of a file; where the journal has them is told beside the record.
    Write {
        generation: Generation,
        offset: u64,
        stamp: Timestamp,
        length_bytes: u32,
        checksum: u32,
    },
    /// The file has this size from here on.
    Size {
        generation: Generation,
        size_bytes: u64,
        stamp: Timestamp,
    },
    /// An upload is about to write to the backend.
    Intent {
        generation: Generation,
        base: Vec<BaseSum>,
    },
    /// All of a generation is on the backend's stable storage, which has this version now.
    Done {
        generation: Generation,
        version: Option<Version>,
    },
    /// Nobody needs this generation any more: its file lost its last name.
    Forget {
        generation: Generation,
    },
    /// Its file is about to lose what may be its last name, because somebody here says so.
    Losing {
        generation: Generation,
    },
    /// It has not.
    Kept {
        generation: Generation,
    },
    /// Attributes of the file are about to be changed on the backend, its modification time among them where one is given.
    Touch {
        generation: Generation,
        modify_time: Option<Timestamp>,
    },
    /// That was done: the backend has this version below the generation.
    Base {
        generation: Generation,
        version: Version,
    },
    /// All of these generations is told again by others, the second of each pair: what was told before is not needed.
    Moved {
        pairs: Vec<(Generation, Generation)>,
    },
}

const BEGIN: u8 = 1;
const WRITE: u8 = 2;
const SIZE: u8 = 3;
const INTENT: u8 = 4;
const DONE: u8 = 5;
const FORGET: u8 = 6;
const MOVED: u8 = 7;
const TOUCH: u8 = 8;
const BASE: u8 = 9;
const LOSING: u8 = 10;
const KEPT: u8 = 11;

/// Flags of a beginning.
const NAMELESS: u8 = 1;
const COPY: u8 = 2;

impl Record {
    pub fn generation(&self) -> Generation {
        match self {
            Self::Begin(beginning) => beginning.generation,
            Self::Write { generation, .. }
            | Self::Size { generation, .. }
            | Self::Intent { generation, .. }
            | Self::Done { generation, .. }
            | Self::Touch { generation, .. }
            | Self::Base { generation, .. }
            | Self::Forget { generation }
            | Self::Losing { generation }
            | Self::Kept { generation } => *generation,
            Self::Moved { pairs } => pairs.last().map_or(Generation(0), |(_, to)| *to),
        }
    }

    /// A record without data.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Begin(beginning) => (BEGIN, beginning.encode()),
            Self::Write { .. } => unreachable!("data is encoded where it lies"),
            Self::Size {
                generation,
                size_bytes,
                stamp,
            } => {
                let body = Writer::default().u64(generation.0).u64(*size_bytes);
                (SIZE, put_time(body, *stamp))
            }
            Self::Intent { generation, base } => (INTENT, encode_intent(*generation, base)),
            Self::Done {
                generation,
                version,
            } => (
                DONE,
                put_version(Writer::default().u64(generation.0), version),
            ),
            Self::Forget { generation } => (FORGET, Writer::default().u64(generation.0)),
            Self::Losing { generation } => (LOSING, Writer::default().u64(generation.0)),
            Self::Kept { generation } => (KEPT, Writer::default().u64(generation.0)),
            Self::Moved { pairs } => (MOVED, encode_pairs(pairs)),
            Self::Touch {
                generation,
                modify_time,
            } => {
                let body = Writer::default().u64(generation.0);
                let time = modify_time.iter();
                (TOUCH, time.fold(body, |body, time| put_time(body, *time)))
            }
            Self::Base {
                generation,
                version,
            } => {
                let body = Writer::default().u64(generation.0);
                (BASE, put_version(body, &Some(*version)))
            }
        };
        let bytes = Writer::default().u8(kind).u32(body.0.len() as u32);
        bytes.rest(&body.0)
    }

    /// What stands before a piece of data.
    pub fn encode_write(
        generation: Generation,
        offset: u64,
        stamp: Timestamp,
        length_bytes: usize,
        checksum: u32,
    ) -> Vec<u8> {
        let header = Writer::default()
            .u8(WRITE)
            .u32((WRITE_HEADER_BYTES + length_bytes) as u32)
            .u64(generation.0)
            .u64(offset);
        put_time(header, stamp).u32(checksum).0
    }
}

impl Beginning {
    fn flags(&self) -> u8 {
        let nameless = if self.is_nameless { NAMELESS } else { 0 };
        let copy = if self.is_copy { COPY } else { 0 };
        nameless | copy
    }

    fn encode(&self) -> Writer {
        let body = Writer::default()
            .u64(self.generation.0)
            .u64(self.inode)
            .u64(self.size_bytes)
            .u64(self.follows.map_or(0, |before| before.0))
            .u8(self.flags())
            .text(&self.key.0)
            .text(self.path.as_os_str().as_bytes());
        let body = put_version(body, &self.base)
            .u32(self.opener.uid)
            .u32(self.opener.gid);
        let groups = self.opener.groups.iter();
        groups.fold(body, |body, group| body.u32(*group))
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let generation = Generation(reader.u64()?);
        let (inode, size_bytes) = (reader.u64()?, reader.u64()?);
        let follows = Some(Generation(reader.u64()?)).filter(|before| before.0 != 0);
        let flags = reader
            .u8()
            .filter(|flags| flags & !(NAMELESS | COPY) == 0)?;
        let key = FileKey(reader.text()?.into());
        let path = PathBuf::from(OsStr::from_bytes(reader.text()?));
        let base = version(reader)?;
        let (uid, gid) = (reader.u32()?, reader.u32()?);
        if !reader.0.len().is_multiple_of(4) || reader.0.len() / 4 > GROUPS_MAX {
            return None;
        }
        let groups = std::iter::from_fn(|| reader.u32()).collect();
        Some(Self {
            generation,
            key,
            inode,
            path,
            base,
            follows,
            size_bytes,
            is_nameless: flags & NAMELESS != 0,
            is_copy: flags & COPY != 0,
            opener: Credentials { uid, gid, groups },
        })
    }
}

fn encode_intent(generation: Generation, base: &[BaseSum]) -> Writer {
    let body = Writer::default().u64(generation.0);
    base.iter().fold(body, |body, sum| {
        body.u64(sum.offset).u32(sum.length_bytes).u64(sum.checksum)
    })
}

fn encode_pairs(pairs: &[(Generation, Generation)]) -> Writer {
    let both = |body: Writer, (from, to): &(Generation, Generation)| body.u64(from.0).u64(to.0);
    pairs.iter().fold(Writer::default(), both)
}

fn decode_pairs(mut reader: Reader<'_>) -> Option<Vec<(Generation, Generation)>> {
    let mut pairs = Vec::new();
    while !reader.0.is_empty() {
        pairs.push((Generation(reader.u64()?), Generation(reader.u64()?)));
    }
    Some(pairs)
}

fn put_time(into: Writer, time: Timestamp) -> Writer {
    into.i64(time.seconds).u32(time.nanoseconds)
}

fn put_version(into: Writer, version: &Option<Version>) -> Writer {
    let Some(version) = version else {
        return into.u8(0);
    };
    let into = into.u8(1).u64(version.inode).u64(version.size_bytes);
    put_time(put_time(into, version.mtime), version.ctime)
}

fn time(reader: &mut Reader<'_>) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: reader.i64()?,
        nanoseconds: reader.u32()?,
    })
}

/// `None` where the bytes are none; a version may be absent.
fn version(reader: &mut Reader<'_>) -> Option<Option<Version>> {
    if reader.u8()? == 0 {
        return Some(None);
    }
    Some(Some(Version {
        inode: reader.u64()?,
        size_bytes: reader.u64()?,
        mtime: time(reader)?,
        ctime: time(reader)?,
    }))
}

/// The records of a batch, each with where its data begins in the payload. `None` where the bytes are none of ours.
pub fn decode_batch(payload: &[u8]) -> Option<Vec<(Record, usize)>> {
    let mut reader = Reader(payload);
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        let kind = reader.u8()?;
        let length = reader.u32()? as usize;
        let body = reader.bytes(length)?;
        let body_at = payload.len() - reader.0.len() - length;
        let record = decode_record(kind, Reader(body))?;
        records.push((record, body_at + WRITE_HEADER_BYTES));
    }
    Some(records)
}

fn decode_record(kind: u8, mut reader: Reader<'_>) -> Option<Record> {
    if kind == BEGIN {
        return Beginning::decode(&mut reader).map(Record::Begin);
    }
    if kind == MOVED {
        return decode_pairs(reader).map(|pairs| Record::Moved { pairs });
    }
    let generation = Generation(reader.u64()?);
    Some(match kind {
        WRITE => Record::Write {
            generation,
            offset: reader.u64()?,
            stamp: time(&mut reader)?,
            checksum: reader.u32()?,
            length_bytes: reader.0.len() as u32,
        },
        SIZE => Record::Size {
            generation,
            size_bytes: reader.u64()?,
            stamp: time(&mut reader)?,
        },
        INTENT => Record::Intent {
            generation,
            base: decode_sums(reader)?,
        },
        DONE => Record::Done {
            generation,
            version: version(&mut reader)?,
        },
        FORGET => Record::Forget { generation },
        LOSING => Record::Losing { generation },
        KEPT => Record::Kept { generation },
        TOUCH => Record::Touch {
            generation,
            modify_time: match reader.0.is_empty() {
                true => None,
                false => Some(time(&mut reader)?),
            },
        },
        BASE => Record::Base {
            generation,
            version: version(&mut reader)??,
        },
        _ => return None,
    })
}

fn decode_sums(mut reader: Reader<'_>) -> Option<Vec<BaseSum>> {
    let mut sums = Vec::new();
    while !reader.0.is_empty() {
        sums.push(BaseSum {
            offset: reader.u64()?,
            length_bytes: reader.u32()?,
            checksum: reader.u64()?,
        });
    }
    Some(sums)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
