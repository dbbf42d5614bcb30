//! What stands before the payload of a frame and at the beginning of a segment, as bytes (docs/ON_DISK_FORMAT.md draws
//! them).

use super::checksum::crc32c;
use super::identity::{JOURNAL_FORMAT, Membership};
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
    pub life: SegmentLife,
    pub sequence: Sequence,
    pub progress: Progress,
    /// Of the whole batch, before it was cut into shards.
    pub batch_bytes: u32,
    /// Of what follows this header.
    pub shard_bytes: u32,
    pub payload_checksum: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub membership: Membership,
    pub life: SegmentLife,
    /// The first batch in it: those of earlier segments end before.
    pub first: Sequence,
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
    reserved: [u8; 24],
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
    reserved: [u8; 32],
}

const _: () = assert!(size_of::<RawFrame>() == FRAME_HEADER_BYTES);
const _: () = assert!(size_of::<RawSegment>() == FRAME_HEADER_BYTES);

impl Common {
    fn new(magic: [u8; 8], membership: &Membership) -> Self {
        Self {
            magic,
            checksum: U32::ZERO,
            format: U16::new(JOURNAL_FORMAT),
            data_shards: membership.data_shards,
            parity_shards: membership.parity_shards,
            shard_index: membership.shard_index,
            unused: [0; 3],
        }
    }

    fn membership(&self, journal: [u8; 16], epoch: U64, device_set: U64) -> Membership {
        Membership {
            journal,
            epoch: epoch.get(),
            device_set: device_set.get(),
            data_shards: self.data_shards,
            parity_shards: self.parity_shards,
            shard_index: self.shard_index,
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
        JOURNAL_FORMAT => Ok(bytes),
        newer => Err(Unreadable::Newer(newer)),
    }
}

impl FrameHeader {
    /// Bytes on the device of a frame with so much payload.
    pub fn frame_bytes(shard_bytes: usize) -> u64 {
        ((FRAME_HEADER_BYTES + shard_bytes) as u64).next_multiple_of(BLOCK_BYTES)
    }

    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let membership = &self.membership;
        let raw = RawFrame {
            common: Common::new(FRAME_MAGIC, membership),
            shard_bytes: U32::new(self.shard_bytes),
            batch_bytes: U32::new(self.batch_bytes),
            unused: U32::ZERO,
            journal: membership.journal,
            epoch: U64::new(membership.epoch),
            device_set: U64::new(membership.device_set),
            life: U64::new(self.life.0),
            sequence: U64::new(self.sequence.0),
            acknowledged: U64::new(self.progress.acknowledged.0),
            trimmed: U64::new(self.progress.trimmed.0),
            payload_checksum: U64::new(self.payload_checksum),
            reserved: [0; 24],
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        seal(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let bytes = open(bytes, FRAME_MAGIC)?;
        let raw = RawFrame::ref_from_bytes(bytes).map_err(|_| Unreadable::Garbled)?;
        Ok(Self {
            membership: raw
                .common
                .membership(raw.journal, raw.epoch, raw.device_set),
            life: SegmentLife(raw.life.get()),
            sequence: Sequence(raw.sequence.get()),
            progress: Progress {
                acknowledged: Sequence(raw.acknowledged.get()),
                trimmed: Sequence(raw.trimmed.get()),
            },
            batch_bytes: raw.batch_bytes.get(),
            shard_bytes: raw.shard_bytes.get(),
            payload_checksum: raw.payload_checksum.get(),
        })
    }
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let membership = &self.membership;
        let raw = RawSegment {
            common: Common::new(SEGMENT_MAGIC, membership),
            unused: [U32::ZERO; 3],
            journal: membership.journal,
            epoch: U64::new(membership.epoch),
            device_set: U64::new(membership.device_set),
            life: U64::new(self.life.0),
            first: U64::new(self.first.0),
            acknowledged: U64::new(self.progress.acknowledged.0),
            trimmed: U64::new(self.progress.trimmed.0),
            reserved: [0; 32],
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        seal(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let bytes = open(bytes, SEGMENT_MAGIC)?;
        let raw = RawSegment::ref_from_bytes(bytes).map_err(|_| Unreadable::Garbled)?;
        Ok(Self {
            membership: raw
                .common
                .membership(raw.journal, raw.epoch, raw.device_set),
            life: SegmentLife(raw.life.get()),
            first: Sequence(raw.first.get()),
            progress: Progress {
                acknowledged: Sequence(raw.acknowledged.get()),
                trimmed: Sequence(raw.trimmed.get()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn membership()(
            journal in any::<[u8; 16]>(), epoch in any::<u64>(), device_set in any::<u64>(),
            data_shards in any::<u8>(), parity_shards in any::<u8>(), shard_index in any::<u8>(),
        ) -> Membership {
            Membership { journal, epoch, device_set, data_shards, parity_shards, shard_index }
        }
    }

    prop_compose! {
        fn progress()(acknowledged in any::<u64>(), trimmed in any::<u64>()) -> Progress {
            Progress { acknowledged: Sequence(acknowledged), trimmed: Sequence(trimmed) }
        }
    }

    prop_compose! {
        fn frame()(
            membership in membership(), progress in progress(), life in any::<u64>(),
            sequence in any::<u64>(), batch_bytes in any::<u32>(), shard_bytes in any::<u32>(),
            payload_checksum in any::<u64>(),
        ) -> FrameHeader {
            FrameHeader {
                membership, progress, life: SegmentLife(life), sequence: Sequence(sequence),
                batch_bytes, shard_bytes, payload_checksum,
            }
        }
    }

    proptest! {
        #[test]
        fn headers_come_back_and_one_flipped_bit_or_a_lost_byte_is_noticed(
            frame in frame(), first in any::<u64>(), bit in 0usize..FRAME_HEADER_BYTES * 8,
            length in 0usize..FRAME_HEADER_BYTES,
        ) {
            let segment = SegmentHeader {
                membership: frame.membership, life: frame.life, first: Sequence(first),
                progress: frame.progress,
            };
            prop_assert_eq!(FrameHeader::decode(&frame.encode()), Ok(frame));
            prop_assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
            prop_assert_eq!(SegmentHeader::decode(&frame.encode()), Err(Unreadable::Garbled));
            let (mut frame, mut segment) = (frame.encode(), segment.encode());
            prop_assert_eq!(FrameHeader::decode(&frame[..length]), Err(Unreadable::Garbled));
            frame[bit / 8] ^= 1 << (bit % 8);
            segment[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(FrameHeader::decode(&frame).is_err());
            prop_assert!(SegmentHeader::decode(&segment).is_err());
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = FrameHeader::decode(&bytes);
            let _ = SegmentHeader::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let header = SegmentHeader {
            membership: Membership::alone([7; 16]),
            life: SegmentLife(1),
            first: Sequence(1),
            progress: Progress::default(),
        };
        let mut bytes = header.encode();
        bytes[12..14].copy_from_slice(&(JOURNAL_FORMAT + 1).to_le_bytes());
        seal(&mut bytes);
        let newer = Err(Unreadable::Newer(JOURNAL_FORMAT + 1));
        assert_eq!(SegmentHeader::decode(&bytes), newer);
    }
}
