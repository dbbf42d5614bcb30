//! The kernel's FUSE protocol as bytes: what include/uapi/linux/fuse.h defines (protocol 7.45), as far
//! as a reader needs it. Everything is in the machine's byte order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Operation codes of requests (`enum fuse_opcode`).
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Codes of notifications (`enum fuse_notify_code`), in the error field of an [`OutHeader`].
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
}

/// FUSE_GETATTR_FH: the handle in a [`GetattrIn`] is valid.
pub const GETATTR_HAS_HANDLE: u32 = 1 << 0;
/// FOPEN_DIRECT_IO.
pub const OPEN_DIRECT_IO: u32 = 1 << 0;
/// FOPEN_KEEP_CACHE.
pub const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// FOPEN_NOFLUSH.
pub const OPEN_NO_FLUSH: u32 = 1 << 5;
/// FOPEN_PARALLEL_DIRECT_WRITES: those that do not extend the file come side by side.
pub const OPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
/// FOPEN_PASSTHROUGH.
pub const OPEN_PASSTHROUGH: u32 = 1 << 7;

/// Directory entries are padded to this.
pub const DIRENT_ALIGNMENT_BYTES: usize = 8;

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InHeader {
    /// Of the whole request, this header included.
    pub length_bytes: u32,
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// Length of the extensions at the end, in units of 8 bytes.
    pub extensions_8_bytes: u16,
    pub padding: u16,
}

/// `struct fuse_out_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OutHeader {
    pub length_bytes: u32,
    /// Zero, a negative errno, or a notification code when `unique` is zero.
    pub error: i32,
    pub unique: u64,
}

/// `struct fuse_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Attr {
    pub inode: u64,
    pub size_bytes: u64,
    pub blocks_512: u64,
    pub atime_seconds: u64,
    pub mtime_seconds: u64,
    pub ctime_seconds: u64,
    pub atime_nanoseconds: u32,
    pub mtime_nanoseconds: u32,
    pub ctime_nanoseconds: u32,
    pub mode: u32,
    pub link_count: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub block_size_bytes: u32,
    pub flags: u32,
}

/// `struct fuse_entry_out`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EntryOut {
    /// Zero: there is no such name, for as long as the entry is valid.
    pub node: u64,
    pub generation: u64,
    pub entry_valid_seconds: u64,
    pub attributes_valid_seconds: u64,
    pub entry_valid_nanoseconds: u32,
    pub attributes_valid_nanoseconds: u32,
    pub attributes: Attr,
}

/// `struct fuse_attr_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AttrOut {
    pub valid_seconds: u64,
    pub valid_nanoseconds: u32,
    pub padding: u32,
    pub attributes: Attr,
}

/// `struct fuse_forget_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ForgetIn {
    pub lookups: u64,
}

/// `struct fuse_batch_forget_in`, followed by `count` [`ForgetOne`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchForgetIn {
    pub count: u32,
    pub padding: u32,
}

/// `struct fuse_forget_one`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ForgetOne {
    pub node: u64,
    pub lookups: u64,
}

/// `struct fuse_getattr_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GetattrIn {
    pub flags: u32,
    pub padding: u32,
    pub handle: u64,
}

/// `struct fuse_open_in`, of OPEN and OPENDIR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OpenIn {
    /// As open(2) has them.
    pub flags: u32,
    pub fuse_flags: u32,
}

/// `struct fuse_open_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OpenOut {
    pub handle: u64,
    pub flags: u32,
    /// With [`OPEN_PASSTHROUGH`]; padding before protocol 7.40.
    pub backing_id: u32,
}

/// `struct fuse_release_in`, of RELEASE and RELEASEDIR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReleaseIn {
    pub handle: u64,
    pub flags: u32,
    pub release_flags: u32,
    pub lock_owner: u64,
}

/// `struct fuse_read_in`, of READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReadIn {
    pub handle: u64,
    pub offset: u64,
    pub size_bytes: u32,
    pub read_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_getxattr_in`, of GETXATTR (a name follows) and LISTXATTR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GetxattrIn {
    /// Zero asks for the size.
    pub size_bytes: u32,
    pub padding: u32,
}

/// `struct fuse_getxattr_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GetxattrOut {
    pub size_bytes: u32,
    pub padding: u32,
}

/// `struct fuse_lseek_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LseekIn {
    pub handle: u64,
    pub offset: u64,
    pub whence: u32,
    pub padding: u32,
}

/// `struct fuse_lseek_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LseekOut {
    pub offset: u64,
}

/// `struct fuse_interrupt_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InterruptIn {
    pub unique: u64,
}

/// `struct fuse_statfs_out` (`struct fuse_kstatfs`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StatfsOut {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size_bytes: u32,
    pub name_length_max: u32,
    pub fragment_size_bytes: u32,
    pub padding: u32,
    pub spare: [u32; 6],
}

/// `struct fuse_dirent`, followed by the name and padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Dirent {
    pub inode: u64,
    pub next_offset: u64,
    pub name_bytes: u32,
    /// `DT_*`: the `S_IFMT` bits of the mode, shifted right by 12.
    pub kind: u32,
}

/// `struct fuse_notify_inval_inode_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InvalidateInodeOut {
    pub node: u64,
    /// Negative: attributes only.
    pub offset: i64,
    /// Zero: to the end.
    pub length_bytes: i64,
}

/// `struct fuse_notify_inval_entry_out`, followed by the name and a zero byte.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InvalidateEntryOut {
    pub parent: u64,
    pub name_bytes: u32,
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn the_structures_have_the_sizes_the_kernel_checks() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<OpenOut>(), 16);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(size_of::<InvalidateInodeOut>(), 24);
        assert_eq!(size_of::<InvalidateEntryOut>(), 16);
    }
}
