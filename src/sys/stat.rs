//! Attributes of inodes and filesystems: statx(2), fstatfs(2), FS_IOC_GETFSUUID.

#![allow(unsafe_code)]

use super::{checked, path, retried};
use crate::types::{Attributes, FileKind, Timestamp};
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The inode is a point where a filesystem gets mounted on access (linux/stat.h).
const STATX_ATTR_AUTOMOUNT: u64 = 0x1000;

/// FS_IOC_GETFSUUID (linux/fs.h, Linux 6.9): _IOR(0x15, 0, struct fsuuid2).
const FS_IOC_GETFSUUID: libc::c_ulong = 0x8011_1500;

/// How hard statx(2) tries to be right on a remote filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Ask the server (AT_STATX_FORCE_SYNC).
    Server,
    /// As stat(2) does it: what an open has just brought is not asked for again (AT_STATX_SYNC_AS_STAT).
    Usual,
    /// Whatever is known here; no traffic where it can be avoided (AT_STATX_DONT_SYNC).
    Known,
}

/// An inode's attributes and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub attributes: Attributes,
    /// `st_dev` as (major, minor): tells the subvolumes of one mount apart.
    pub device: (u32, u32),
    /// The mount's id, as in /proc/self/mountinfo.
    pub mount_id: u64,
    /// Whether a filesystem would be mounted here on access and is not yet.
    pub is_automount_point: bool,
}

/// statx(2) of what a descriptor refers to; O_PATH is enough.
pub fn stat(fd: BorrowedFd<'_>, freshness: Freshness) -> io::Result<Stat> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    let raw = statx(fd, c"", libc::AT_EMPTY_PATH | sync_flag(freshness), mask)?;
    Ok(convert(&raw))
}

/// The kind of the inode a name refers to, without following a link or mounting anything.
pub fn kind_of(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<FileKind> {
    let name = path::c_string(name)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let raw = statx(directory, &name, flags, libc::STATX_TYPE)?;
    Ok(FileKind::from_mode(raw.stx_mode.into()))
}

/// Time of birth, where the filesystem tells one.
pub fn birth_time(fd: BorrowedFd<'_>) -> io::Result<Option<Timestamp>> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let raw = statx(fd, c"", flags, libc::STATX_BTIME)?;
    let told = raw.stx_mask & libc::STATX_BTIME != 0;
    Ok(told.then(|| timestamp(&raw.stx_btime)))
}

fn sync_flag(freshness: Freshness) -> i32 {
    match freshness {
        Freshness::Server => libc::AT_STATX_FORCE_SYNC,
        Freshness::Usual => libc::AT_STATX_SYNC_AS_STAT,
        Freshness::Known => libc::AT_STATX_DONT_SYNC,
    }
}

fn statx(fd: BorrowedFd<'_>, name: &CStr, flags: i32, mask: u32) -> io::Result<libc::statx> {
    // SAFETY: struct statx is plain integers, for which all zeros is a valid value.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    retried(|| {
        // SAFETY: `name` is zero-terminated and `raw` writable for the duration of the call.
        unsafe { libc::statx(fd.as_raw_fd(), name.as_ptr(), flags, mask, &mut raw) }.into()
    })?;
    Ok(raw)
}

fn convert(raw: &libc::statx) -> Stat {
    let mode = u32::from(raw.stx_mode);
    Stat {
        attributes: Attributes {
            inode: raw.stx_ino,
            kind: FileKind::from_mode(mode),
            permissions: mode & 0o7777,
            link_count: raw.stx_nlink,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            rdev: kernel_device(raw.stx_rdev_major, raw.stx_rdev_minor),
            size_bytes: raw.stx_size,
            blocks_512: raw.stx_blocks,
            block_size_bytes: raw.stx_blksize,
            atime: timestamp(&raw.stx_atime),
            mtime: timestamp(&raw.stx_mtime),
            ctime: timestamp(&raw.stx_ctime),
        },
        device: (raw.stx_dev_major, raw.stx_dev_minor),
        mount_id: raw.stx_mnt_id,
        is_automount_point: raw.stx_attributes & STATX_ATTR_AUTOMOUNT != 0,
    }
}

/// The kernel's 32-bit encoding of a device number: 12 bits of major between 20 bits of minor
/// (new_encode_dev in linux/kdev_t.h).
fn kernel_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn timestamp(raw: &libc::statx_timestamp) -> Timestamp {
    Timestamp {
        seconds: raw.tv_sec,
        nanoseconds: raw.tv_nsec,
    }
}

/// What fstatfs(2) tells of a filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilesystemStat {
    /// `f_fsid`; zero where the filesystem gives none.
    pub id: u64,
    pub block_size_bytes: u32,
    pub fragment_size_bytes: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length_max: u32,
}

/// fstatfs(2); O_PATH is enough. Asks the server of a remote filesystem.
pub fn filesystem_stat(fd: BorrowedFd<'_>) -> io::Result<FilesystemStat> {
    // SAFETY: struct statfs64 is plain integers, for which all zeros is a valid value.
    let mut raw: libc::statfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: `raw` is writable for the duration of the call.
    retried(|| unsafe { libc::fstatfs64(fd.as_raw_fd(), &mut raw) }.into())?;
    // SAFETY: fsid_t is two 32-bit integers, whose fields libc keeps private.
    let id: [u32; 2] = unsafe { std::mem::transmute(raw.f_fsid) };
    let fragment = if raw.f_frsize == 0 {
        raw.f_bsize
    } else {
        raw.f_frsize
    };
    Ok(FilesystemStat {
        id: u64::from(id[0]) | u64::from(id[1]) << 32,
        block_size_bytes: raw.f_bsize as u32,
        fragment_size_bytes: fragment as u32,
        blocks: raw.f_blocks,
        blocks_free: raw.f_bfree,
        blocks_available: raw.f_bavail,
        files: raw.f_files,
        files_free: raw.f_ffree,
        name_length_max: raw.f_namelen as u32,
    })
}

/// The filesystem's UUID (FS_IOC_GETFSUUID); `None` where it or the kernel has none to tell. The
/// descriptor must not be an O_PATH one.
pub fn filesystem_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    #[repr(C)]
    struct FilesystemUuid {
        length: u8,
        bytes: [u8; 16],
    }
    let mut raw = FilesystemUuid {
        length: 0,
        bytes: [0; 16],
    };
    // SAFETY: the request writes a struct fsuuid2, whose layout `raw` has.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID, &mut raw) };
    (checked(result.into()).is_ok() && raw.length == 16).then_some(raw.bytes)
}
