//! Structures of include/uapi/linux/fuse.h for locks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// FUSE_LK_FLOCK, in the flags of a [`LockIn`].
pub const LOCK_WHOLE: u32 = 1 << 0;
/// `end` of a lock that goes on to the end of the file (OFFSET_MAX).
pub const TO_THE_END: u64 = i64::MAX as u64;

/// `struct fuse_file_lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FileLock {
    pub start: u64,
    /// The last byte, not the one behind it.
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub kind: u32,
    pub pid: u32,
}

/// `struct fuse_lk_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LockIn {
    pub handle: u64,
    pub owner: u64,
    pub lock: FileLock,
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_lk_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LockOut {
    pub lock: FileLock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_the_kernel_sends() {
        assert_eq!(size_of::<LockIn>(), 48);
        assert_eq!(size_of::<LockOut>(), 24);
    }
}
