//! Structures of include/uapi/linux/fuse.h for changes of names and attributes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of `valid` in a [`SetattrIn`] (FATTR_*).
pub mod valid {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const HANDLE: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// `struct fuse_mknod_in`, followed by the name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MknodIn {
    /// As the program gave it: the umask is not applied.
    pub mode: u32,
    pub device: u32,
    pub umask: u32,
    pub padding: u32,
}

/// `struct fuse_mkdir_in`, followed by the name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MkdirIn {
    pub mode: u32,
    pub umask: u32,
}

/// `struct fuse_rename_in`, followed by the old and the new name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RenameIn {
    pub new_parent: u64,
}

/// `struct fuse_rename2_in`, followed by the old and the new name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Rename2In {
    pub new_parent: u64,
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_link_in`, followed by the new name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LinkIn {
    pub node: u64,
}

/// `struct fuse_setattr_in`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SetattrIn {
    pub valid: u32,
    pub padding: u32,
    pub handle: u64,
    pub size_bytes: u64,
    pub lock_owner: u64,
    pub atime_seconds: u64,
    pub mtime_seconds: u64,
    pub ctime_seconds: u64,
    pub atime_nanoseconds: u32,
    pub mtime_nanoseconds: u32,
    pub ctime_nanoseconds: u32,
    pub mode: u32,
    pub unused4: u32,
    pub uid: u32,
    pub gid: u32,
    pub unused5: u32,
}

/// `struct fuse_setxattr_in` without FUSE_SETXATTR_EXT, followed by the name and the value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SetxattrIn {
    pub size_bytes: u32,
    /// XATTR_*, as setxattr(2) has them.
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_the_kernel_sends() {
        assert_eq!(size_of::<MknodIn>(), 16);
        assert_eq!(size_of::<MkdirIn>(), 8);
        assert_eq!(size_of::<Rename2In>(), 16);
        assert_eq!(size_of::<SetattrIn>(), 88);
        assert_eq!(size_of::<SetxattrIn>(), 8);
    }
}
