//! The index record of one cached file, as bytes (docs/ON_DISK_FORMAT.md draws it).

use super::extents::ExtentMap;
use super::policy::Place;
use crate::io::ALIGNMENT_BYTES;
use crate::types::{ByteRange, Timestamp, Version};
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Names one object file in one cache directory. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectId(pub u64);

/// What the index knows of one cached file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    pub version: Version,
    pub object: ObjectId,
    /// Inode number of the object file, so that a file put in its place is noticed.
    pub object_inode: u64,
    /// Modification time of the object when it was last made durable, nanoseconds.
    pub object_mtime_ns: i64,
    /// Among all files, for the eviction policy.
    pub place: Place,
    /// When the first byte was filled, seconds since 1970: the `ttl` counts from here.
    pub filled_at_seconds: i64,
    pub extents: ExtentMap,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    checksum: U32,
    extent_count: U32,
    inode: U64,
    size_bytes: U64,
    mtime_seconds: I64,
    ctime_seconds: I64,
    mtime_nanoseconds: U32,
    ctime_nanoseconds: U32,
    object: U64,
    object_inode: U64,
    object_mtime_ns: I64,
    place: U64,
    filled_at_seconds: I64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Extent {
    start: U64,
    end: U64,
}

/// Why stored bytes are no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("index record damaged: {0}")]
pub struct DamagedRecord(&'static str);

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

impl FileRecord {
    /// Bytes the extents occupy on disk, each rounded out to whole 4 KiB blocks.
    pub fn occupied_bytes(&self) -> u64 {
        occupied_bytes(&self.extents)
    }

    pub fn is_complete(&self) -> bool {
        self.extents
            .contains(ByteRange::new(0, self.version.size_bytes))
    }

    /// Since its first byte was filled.
    pub fn is_older_than(&self, ttl_seconds: Option<i64>) -> bool {
        let age_seconds = crate::clock::wall_clock().seconds - self.filled_at_seconds;
        ttl_seconds.is_some_and(|ttl| age_seconds >= ttl)
    }

    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            checksum: U32::new(0),
            extent_count: U32::new(self.extents.ranges().len() as u32),
            inode: U64::new(self.version.inode),
            size_bytes: U64::new(self.version.size_bytes),
            mtime_seconds: I64::new(self.version.mtime.seconds),
            ctime_seconds: I64::new(self.version.ctime.seconds),
            mtime_nanoseconds: U32::new(self.version.mtime.nanoseconds),
            ctime_nanoseconds: U32::new(self.version.ctime.nanoseconds),
            object: U64::new(self.object.0),
            object_inode: U64::new(self.object_inode),
            object_mtime_ns: I64::new(self.object_mtime_ns),
            place: U64::new(self.place.bits()),
            filled_at_seconds: I64::new(self.filled_at_seconds),
        };
        let mut bytes = header.as_bytes().to_vec();
        for range in self.extents.ranges() {
            let extent = Extent {
                start: U64::new(range.start),
                end: U64::new(range.end),
            };
            bytes.extend_from_slice(extent.as_bytes());
        }
        let sum = checksum(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedRecord> {
        let (header, rest) =
            Header::read_from_prefix(bytes).map_err(|_| DamagedRecord("too short"))?;
        if checksum(&bytes[4..]) != header.checksum.get() {
            return Err(DamagedRecord("checksum"));
        }
        let count = header.extent_count.get() as usize;
        if rest.len() != count * size_of::<Extent>() {
            return Err(DamagedRecord("length"));
        }
        let mut extents = ExtentMap::new();
        for chunk in rest.chunks_exact(size_of::<Extent>()) {
            let extent = Extent::read_from_bytes(chunk).map_err(|_| DamagedRecord("extent"))?;
            if extent.start.get() >= extent.end.get() || extent.end.get() > header.size_bytes.get()
            {
                return Err(DamagedRecord("extent out of bounds"));
            }
            extents.insert(ByteRange::new(extent.start.get(), extent.end.get()));
        }
        Ok(Self {
            version: Version {
                inode: header.inode.get(),
                size_bytes: header.size_bytes.get(),
                mtime: Timestamp {
                    seconds: header.mtime_seconds.get(),
                    nanoseconds: header.mtime_nanoseconds.get(),
                },
                ctime: Timestamp {
                    seconds: header.ctime_seconds.get(),
                    nanoseconds: header.ctime_nanoseconds.get(),
                },
            },
            object: ObjectId(header.object.get()),
            object_inode: header.object_inode.get(),
            object_mtime_ns: header.object_mtime_ns.get(),
            place: Place::from_bits(header.place.get()),
            filled_at_seconds: header.filled_at_seconds.get(),
            extents,
        })
    }
}

/// Disk bytes of a set of extents, each rounded out to whole 4 KiB blocks.
pub fn occupied_bytes(extents: &ExtentMap) -> u64 {
    extents.ranges().iter().map(|range| occupied(*range)).sum()
}

/// Disk bytes of one range.
pub fn occupied(range: ByteRange) -> u64 {
    range.aligned_out(ALIGNMENT_BYTES).length_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(ranges: &[(u64, u64)]) -> FileRecord {
        let mut extents = ExtentMap::new();
        for (start, length) in ranges {
            extents.insert(ByteRange::at(*start, *length));
        }
        FileRecord {
            version: Version {
                inode: u64::MAX,
                size_bytes: 1 << 40,
                mtime: Timestamp {
                    seconds: -1,
                    nanoseconds: 999_999_999,
                },
                ctime: Timestamp {
                    seconds: 1 << 33,
                    nanoseconds: 1,
                },
            },
            object: ObjectId(7),
            object_inode: 8,
            object_mtime_ns: -9,
            place: Place::from_bits(10),
            filled_at_seconds: 11,
            extents,
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            ranges in prop::collection::vec((0u64..1 << 39, 1u64..1 << 30), 0..20)
        ) {
            let record = sample(&ranges);
            prop_assert_eq!(FileRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..(100 + 32) * 8) {
            let mut bytes = sample(&[(0, 5), (4096, 5)]).encode();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(FileRecord::decode(&bytes).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = FileRecord::decode(&bytes);
        }
    }
}
