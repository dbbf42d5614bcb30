//! Attributes and moments in few bytes, for nodes that are kept by the million.

use crate::types::{Attributes, FileKind, Timestamp};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// [`Attributes`] without the inode number, of the usual kind of file: no device, less than 2 TiB of blocks, at most
/// 65,535 names, times up to 17,000 years away.
#[derive(Clone, Copy)]
#[repr(Rust, packed(1))]
pub(super) struct CompactAttributes {
    size_bytes: u64,
    blocks_512: u32,
    atime: CompactTime,
    mtime: CompactTime,
    ctime: CompactTime,
    uid: u32,
    gid: u32,
    link_count: u16,
    /// `st_mode`: kind and permissions.
    mode: u16,
    /// The exponent of `st_blksize`, a power of two.
    block_size_log2: u8,
}

impl CompactAttributes {
    /// Of others something is lost: they do not come back as they were.
    pub fn new(from: &Attributes) -> Self {
        Self {
            size_bytes: from.size_bytes,
            blocks_512: from.blocks_512 as u32,
            atime: CompactTime::new(from.atime),
            mtime: CompactTime::new(from.mtime),
            ctime: CompactTime::new(from.ctime),
            uid: from.uid,
            gid: from.gid,
            link_count: from.link_count as u16,
            mode: (from.kind.mode_bits() | from.permissions & 0o7777) as u16,
            block_size_log2: from.block_size_bytes.checked_ilog2().unwrap_or(0) as u8,
        }
    }

    pub fn kind(self) -> FileKind {
        FileKind::from_mode(self.mode.into())
    }

    pub fn unpack(self, inode: u64) -> Attributes {
        Attributes {
            inode,
            kind: self.kind(),
            permissions: u32::from(self.mode) & 0o7777,
            link_count: self.link_count.into(),
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            size_bytes: self.size_bytes,
            blocks_512: self.blocks_512.into(),
            block_size_bytes: 1 << self.block_size_log2,
            atime: self.atime.unpack(),
            mtime: self.mtime.unpack(),
            ctime: self.ctime.unpack(),
        }
    }
}

/// Seconds in 40 bits.
#[derive(Clone, Copy)]
#[repr(Rust, packed(1))]
struct CompactTime {
    nanoseconds: u32,
    seconds_low: u32,
    seconds_high: i8,
}

impl CompactTime {
    fn new(from: Timestamp) -> Self {
        Self {
            nanoseconds: from.nanoseconds,
            seconds_low: from.seconds as u32,
            seconds_high: (from.seconds >> 32) as i8,
        }
    }

    fn unpack(self) -> Timestamp {
        Timestamp {
            seconds: i64::from(self.seconds_high) << 32 | i64::from(self.seconds_low),
            nanoseconds: self.nanoseconds,
        }
    }
}

/// Instants are kept as their distance from here.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// An `Option<Instant>` in 6 bytes, to the microsecond, for nine years.
#[derive(Clone, Copy)]
pub(super) struct Moment([u8; 6]);

impl Moment {
    pub const NEVER: Self = Self([0; 6]);

    pub fn at(when: Instant) -> Self {
        let since = when.saturating_duration_since(*EPOCH).as_micros() as u64;
        let [bytes @ .., _, _] = (1 + since).to_le_bytes();
        Self(bytes)
    }

    pub fn instant(self) -> Option<Instant> {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.0);
        let since = Duration::from_micros(u64::from_le_bytes(bytes).checked_sub(1)?);
        Some(*EPOCH + since)
    }
}

/// An instant in 4 bytes: 10 ms steps, rounded up. After 497 days it cannot be told, and reads as now.
#[derive(Clone, Copy)]
pub(super) struct CoarseMoment(u32);

impl CoarseMoment {
    const STEP_MS: u64 = 10;

    pub fn at(when: Instant) -> Self {
        let since_ms = when.saturating_duration_since(*EPOCH).as_millis() as u64;
        Self(u32::try_from(since_ms / Self::STEP_MS + 1).unwrap_or(u32::MAX))
    }

    pub fn instant(self) -> Instant {
        if self.0 == u32::MAX {
            return Instant::now();
        }
        *EPOCH + Duration::from_millis(u64::from(self.0) * Self::STEP_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Attributes {
        let time = |seconds, nanoseconds| Timestamp {
            seconds,
            nanoseconds,
        };
        Attributes {
            inode: u64::MAX - 3,
            kind: FileKind::Regular,
            permissions: 0o6755,
            link_count: 65_535,
            uid: u32::MAX - 1,
            gid: 7,
            rdev: 0,
            size_bytes: u64::MAX,
            blocks_512: u32::MAX.into(),
            block_size_bytes: 1 << 20,
            atime: time(-1, 999_999_999),
            mtime: time((1 << 39) - 1, 1),
            ctime: time(-(1 << 39), 2),
        }
    }

    fn comes_back(attributes: &Attributes) -> bool {
        CompactAttributes::new(attributes).unpack(attributes.inode) == *attributes
    }

    #[test]
    fn usual_attributes_come_back_whole() {
        assert!(comes_back(&usual()));
    }

    #[test]
    fn others_do_not_seem_to() {
        let misfits: [fn(&mut Attributes); 7] = [
            |it| it.rdev = 1,
            |it| it.blocks_512 = 1 << 32,
            |it| it.link_count = 65_536,
            |it| it.block_size_bytes = 3000,
            |it| it.block_size_bytes = 0,
            |it| it.mtime.seconds = 1 << 39,
            |it| it.ctime.seconds = -(1 << 39) - 1,
        ];
        for (which, misfit) in misfits.iter().enumerate() {
            let mut attributes = usual();
            misfit(&mut attributes);
            assert!(!comes_back(&attributes), "{which}");
        }
    }

    #[test]
    fn moments_come_back() {
        // Nothing before the epoch can be told.
        let _ = *EPOCH;
        let now = Instant::now();
        let moment = Moment::at(now).instant().expect("it was set");
        assert!(moment <= now && now - moment < Duration::from_micros(2));
        assert!(Moment::NEVER.instant().is_none());
        let coarse = CoarseMoment::at(now).instant();
        assert!(coarse >= now && coarse - now <= Duration::from_millis(10));
    }
}
