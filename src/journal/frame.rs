//! What stands before the payload of a frame and at the beginning of a segment, as bytes (docs/ON_DISK_FORMAT.md draws
//! them).

use super::checksum::crc32c;
use super::identity::{JOURNAL_FORMAT, JOURNAL_FORMAT_ALONE, Membership};
use super::stripe::{Spread, Stripe};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Frames begin at multiples of this, and so does what is written to a device.
pub const BLOCK_BYTES: u64 = 4096;
pub const FRAME_HEADER_BYTES: usize = 128;
/// A segment's own header takes its first block.
pub const SEGMENT_HEADER_BYTES: u64 = BLOCK_BYTES;

const FRAME_MAGIC: [u8; 8] = *b"cachefsJ";
const SEGMENT_MAGIC: [u8; 8] = *b"cachefsS";
/// The checksum covers what stands behind it.
const CHECKSUM_END: usize = 12;

/// Which use of a segment this is: goes up whenever one is begun, over the whole life of the journal. What an earlier
/// use left in the file has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentLife(pub u64);

impl Default for SegmentLife {
    /// The first one.
    fn default() -> Self {
        Self(1)
    }
}

/// The number of a batch: one more than that of the batch before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// What every header says of how far the journal has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Everything up to this was on stable storage when the header was written.
    pub acknowledged: Sequence,
    /// Everything up to this is not needed any more.
    pub trimmed: Sequence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub membership: Membership,
    /// Which shard of the stripe follows.
    pub index: u8,
    pub stripe: Stripe,
    pub life: SegmentLife,
    pub sequence: Sequence,
    pub progress: Progress,
    /// Of what follows this header.
    pub payload_checksum: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub membership: Membership,
    pub spread: Spread,
    pub device: u8,
    pub life: SegmentLife,
    /// The first batch in it.
    pub first: Sequence,
    /// No earlier segment of the device has a batch beyond this. The first format has those that were cut off beyond it.
    pub before: Sequence,
    pub is_first_format: bool,
    pub progress: Progress,
}

/// Why bytes are no header of this journal's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// Never written, written in part, or damaged.
    Garbled,
    /// Of a format that this program does not know.
    Newer(u16),
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Common {
    magic: [u8; 8],
    checksum: U32,
    format: U16,
    data_shards: u8,
    parity_shards: u8,
    shard_index: u8,
    unused: [u8; 3],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFrame {
    common: Common,
    shard_bytes: U32,
    batch_bytes: U32,
    unused: U32,
    journal: [u8; 16],
    epoch: U64,
    device_set: U64,
    life: U64,
    sequence: U64,
    acknowledged: U64,
    trimmed: U64,
    payload_checksum: U64,
    batch_checksum: U64,
    reserved: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSegment {
    common: Common,
    unused: [U32; 3],
    journal: [u8; 16],
    epoch: U64,
    device_set: U64,
    life: U64,
    first: U64,
    acknowledged: U64,
    trimmed: U64,
    before: U64,
    reserved: [u8; 24],
}

const _: () = assert!(size_of::<RawFrame>() == FRAME_HEADER_BYTES);
const _: () = assert!(size_of::<RawSegment>() == FRAME_HEADER_BYTES);

impl Common {
    fn new(magic: [u8; 8], data_shards: u8, parity_shards: u8, index: u8) -> Self {
        Self {
            magic,
            checksum: U32::ZERO,
            format: U16::new(JOURNAL_FORMAT),
            data_shards,
            parity_shards,
            shard_index: index,
            unused: [0; 3],
        }
    }
}

/// Puts the checksum over what stands behind it.
fn seal(bytes: &mut [u8]) {
    let sum = crc32c(&bytes[CHECKSUM_END..]);
    bytes[CHECKSUM_END - 4..CHECKSUM_END].copy_from_slice(&sum.to_le_bytes());
}

/// Looks at what all headers have in common.
fn open(bytes: &[u8], magic: [u8; 8]) -> Result<&[u8], Unreadable> {
    let bytes = bytes.get(..FRAME_HEADER_BYTES).ok_or(Unreadable::Garbled)?;
    let (common, _) = Common::ref_from_prefix(bytes).map_err(|_| Unreadable::Garbled)?;
    if common.magic != magic || common.checksum.get() != crc32c(&bytes[CHECKSUM_END..]) {
        return Err(Unreadable::Garbled);
    }
    match common.format.get() {
        JOURNAL_FORMAT | JOURNAL_FORMAT_ALONE => Ok(bytes),
        newer => Err(Unreadable::Newer(newer)),
    }
}

impl FrameHeader {
    /// Bytes on the device of a frame with so much payload.
    pub fn frame_bytes(shard_bytes: usize) -> u64 {
        ((FRAME_HEADER_BYTES + shard_bytes) as u64).next_multiple_of(BLOCK_BYTES)
    }

    /// The whole frame's.
    pub fn bytes(&self) -> u64 {
        Self::frame_bytes(self.stripe.shard_bytes as usize)
    }

    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let (membership, stripe) = (&self.membership, &self.stripe);
        let raw = RawFrame {
            common: Common::new(FRAME_MAGIC, stripe.data, stripe.parity, self.index),
            shard_bytes: U32::new(stripe.shard_bytes),
            batch_bytes: U32::new(stripe.batch_bytes),
            unused: U32::ZERO,
            journal: membership.journal,
            epoch: U64::new(membership.epoch),
            device_set: U64::new(membership.device_set),
            life: U64::new(self.life.0),
            sequence: U64::new(self.sequence.0),
            acknowledged: U64::new(self.progress.acknowledged.0),
            trimmed: U64::new(self.progress.trimmed.0),
            payload_checksum: U64::new(self.payload_checksum),
            batch_checksum: U64::new(stripe.batch_checksum),
            reserved: [0; 16],
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        seal(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let bytes = open(bytes, FRAME_MAGIC)?;
        let raw = RawFrame::ref_from_bytes(bytes).map_err(|_| Unreadable::Garbled)?;
        // One copy of the batch, in the first format.
        let batch_checksum = match raw.common.format.get() {
            JOURNAL_FORMAT_ALONE => raw.payload_checksum,
            _ => raw.batch_checksum,
        };
        Ok(Self {
            membership: Membership {
                journal: raw.journal,
                epoch: raw.epoch.get(),
                device_set: raw.device_set.get(),
            },
            index: raw.common.shard_index,
            stripe: Stripe {
                data: raw.common.data_shards,
                parity: raw.common.parity_shards,
                batch_bytes: raw.batch_bytes.get(),
                shard_bytes: raw.shard_bytes.get(),
                batch_checksum: batch_checksum.get(),
            },
            life: SegmentLife(raw.life.get()),
            sequence: Sequence(raw.sequence.get()),
            progress: Progress {
                acknowledged: Sequence(raw.acknowledged.get()),
                trimmed: Sequence(raw.trimmed.get()),
            },
            payload_checksum: raw.payload_checksum.get(),
        })
    }
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let membership = &self.membership;
        let Spread { data, parity } = self.spread;
        let raw = RawSegment {
            common: Common::new(SEGMENT_MAGIC, data, parity, self.device),
            unused: [U32::ZERO; 3],
            journal: membership.journal,
            epoch: U64::new(membership.epoch),
            device_set: U64::new(membership.device_set),
            life: U64::new(self.life.0),
            first: U64::new(self.first.0),
            acknowledged: U64::new(self.progress.acknowledged.0),
            trimmed: U64::new(self.progress.trimmed.0),
            before: U64::new(self.before.0),
            reserved: [0; 24],
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        seal(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let bytes = open(bytes, SEGMENT_MAGIC)?;
        let raw = RawSegment::ref_from_bytes(bytes).map_err(|_| Unreadable::Garbled)?;
        let first = Sequence(raw.first.get());
        let is_first_format = raw.common.format.get() == JOURNAL_FORMAT_ALONE;
        Ok(Self {
            membership: Membership {
                journal: raw.journal,
                epoch: raw.epoch.get(),
                device_set: raw.device_set.get(),
            },
            spread: Spread {
                data: raw.common.data_shards,
                parity: raw.common.parity_shards,
            },
            device: raw.common.shard_index,
            life: SegmentLife(raw.life.get()),
            first,
            before: match is_first_format {
                true => first.before(),
                false => Sequence(raw.before.get()),
            },
            is_first_format,
            progress: Progress {
                acknowledged: Sequence(raw.acknowledged.get()),
                trimmed: Sequence(raw.trimmed.get()),
            },
        })
    }
}

/// Makes a header what the first format had.
#[cfg(test)]
pub fn to_first_format(bytes: &mut [u8]) {
    bytes[12..14].copy_from_slice(&JOURNAL_FORMAT_ALONE.to_le_bytes());
    let own = match bytes[..8] == FRAME_MAGIC {
        true => 104,
        false => 96,
    };
    bytes[own..FRAME_HEADER_BYTES].fill(0);
    seal(&mut bytes[..FRAME_HEADER_BYTES]);
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
