//! Structures of include/uapi/linux/fuse.h for changes of bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// FUSE_WRITE_CACHE: written from the kernel's pages, on nobody's behalf.
pub const WRITE_FROM_PAGES: u32 = 1 << 0;
/// FUSE_WRITE_KILL_SUIDGID.
pub const WRITE_KILLS_SET_ID: u32 = 1 << 2;
/// FUSE_FSYNC_FDATASYNC.
pub const FSYNC_DATA_ONLY: u32 = 1 << 0;

/// `struct fuse_create_in`, of CREATE and TMPFILE, followed by the name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CreateIn {
    /// As open(2) has them.
    pub flags: u32,
    pub mode: u32,
    pub umask: u32,
    pub open_flags: u32,
}

/// `struct fuse_write_in`, followed by the data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct WriteIn {
    pub handle: u64,
    pub offset: u64,
    pub size_bytes: u32,
    pub write_flags: u32,
    pub lock_owner: u64,
    /// As open(2) has them, as they are for this write.
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_write_out`, of WRITE and COPY_FILE_RANGE.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct WriteOut {
    pub size_bytes: u32,
    pub padding: u32,
}

/// `struct fuse_flush_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FlushIn {
    pub handle: u64,
    pub unused: u32,
    pub padding: u32,
    pub lock_owner: u64,
}

/// `struct fuse_fsync_in`, of FSYNC and FSYNCDIR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FsyncIn {
    pub handle: u64,
    pub fsync_flags: u32,
    pub padding: u32,
}

/// `struct fuse_fallocate_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FallocateIn {
    pub handle: u64,
    pub offset: u64,
    pub length_bytes: u64,
    /// As fallocate(2) has it.
    pub mode: u32,
    pub padding: u32,
}

/// `struct fuse_copy_file_range_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CopyFileRangeIn {
    pub from: u64,
    pub from_offset: u64,
    pub to_node: u64,
    pub to: u64,
    pub to_offset: u64,
    pub length_bytes: u64,
    pub flags: u64,
}

/// `struct fuse_copy_file_range_out`, of COPY_FILE_RANGE_64.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CopyFileRangeOut {
    pub copied_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_the_kernel_checks() {
        assert_eq!(size_of::<CreateIn>(), 16);
        assert_eq!(size_of::<WriteIn>(), 40);
        assert_eq!(size_of::<WriteOut>(), 8);
        assert_eq!(size_of::<FlushIn>(), 24);
        assert_eq!(size_of::<FsyncIn>(), 16);
        assert_eq!(size_of::<FallocateIn>(), 32);
        assert_eq!(size_of::<CopyFileRangeIn>(), 56);
        assert_eq!(size_of::<CopyFileRangeOut>(), 8);
    }
}
