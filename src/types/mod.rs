//! Words shared by every layer. Plain data, no behaviour beyond arithmetic.

use std::fmt;
use std::sync::Arc;

pub use changes::{AttributeChange, NewNode, Removal, RenameMode, TimeChange};
pub use locks::{Conflict, LockFamily, LockKind, LockOwner, RangeLock};
pub use range_series::RangeSeries;
pub use short_bytes::ShortBytes;
pub use units::bytes_in_words;

mod changes;
pub mod codec;
mod locks;
pub mod printable;
mod range_series;
mod short_bytes;
mod units;
pub mod warming;

/// A half-open range of bytes in a file: `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    /// The range `start..end`; an inverted pair gives the empty range at `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// The range of `length_bytes` bytes from `start`, cut at the largest offset.
    pub fn at(start: u64, length_bytes: u64) -> Self {
        Self::new(start, start.saturating_add(length_bytes))
    }

    pub fn length_bytes(&self) -> u64 {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    pub fn contains(&self, other: &ByteRange) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    pub fn overlaps(&self, other: &ByteRange) -> bool {
        self.start < other.end && other.start < self.end
    }

    pub fn intersection(&self, other: &ByteRange) -> ByteRange {
        ByteRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The smallest range that covers both.
    pub fn covering(&self, other: &ByteRange) -> ByteRange {
        ByteRange::new(self.start.min(other.start), self.end.max(other.end))
    }

    /// The smallest range of whole `block_bytes` blocks that covers this one.
    pub fn aligned_out(&self, block_bytes: u64) -> ByteRange {
        let start = self.start / block_bytes * block_bytes;
        let end = self
            .end
            .checked_next_multiple_of(block_bytes)
            .unwrap_or(u64::MAX);
        ByteRange::new(start, end)
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A point in time as filesystems keep it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What kind of inode this is (`S_IFMT`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// The kind in a `st_mode`; an unknown one is treated as a socket, which nobody can open.
    pub fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Self::Regular,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::Socket,
        }
    }

    /// The `S_IFMT` bits of this kind.
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }
}

/// Attributes of one inode, as statx(2) gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// The backend's inode number.
    pub inode: u64,
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `st_mode & 0o7777`.
    pub permissions: u32,
    pub link_count: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device node, as `makedev(3)` encodes it for the kernel.
    pub rdev: u32,
    pub size_bytes: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks_512: u64,
    pub block_size_bytes: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

impl Attributes {
    /// What identifies this content of the file.
    pub fn version(&self) -> Version {
        Version {
            inode: self.inode,
            size_bytes: self.size_bytes,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}

/// What identifies one content of a backend file, beside its [`FileKey`]. NFS shows neither birth
/// time nor change attribute, so ctime is the witness that a program cannot put back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    pub inode: u64,
    pub size_bytes: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

/// Names one backend file for as long as it exists, over restarts and renames: filesystem id and
/// backend handle where handles can be trusted, else filesystem id, inode and birth time.
/// Encoded once by `backend`, opaque bytes to everybody else; at most 160 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey(pub ShortBytes);

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The kernel's name for one of our inodes. 1 is the root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    pub const ROOT: NodeId = NodeId(1);
}

/// An open file or directory. Never reused while the daemon lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HandleId(pub u64);

/// Who asks: the ids the kernel sends with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// Whose rights a call of the backend uses: a caller's file-system identity.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Arc<[u32]>,
}
