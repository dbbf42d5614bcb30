//! What can be changed of a file beside its bytes.

use super::Timestamp;
use std::ffi::OsString;

/// Something that gets a new inode. The umask is the caller's: the backend applies it, except where a default
/// ACL of the directory stands in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewNode {
    /// A regular file, pipe, socket or device: `mode` says which, `device` is as the kernel encodes it.
    Node {
        mode: u32,
        device: u32,
        umask: u32,
    },
    Directory {
        mode: u32,
        umask: u32,
    },
    Symlink {
        target: OsString,
    },
}

/// What a name to be removed must lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// unlink(2)
    File,
    /// rmdir(2)
    Directory,
}

/// renameat2(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    Replace,
    /// RENAME_NOREPLACE
    NoReplace,
    /// RENAME_EXCHANGE
    Exchange,
}

/// One of a file's times, as utimensat(2) changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimeChange {
    #[default]
    Keep,
    /// The backend's present time (UTIME_NOW), which needs less of a right than a time of one's own.
    Now,
    To(Timestamp),
}

/// Changes of attributes, made in this order: owner, mode, times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttributeChange {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Permission bits with setuid, setgid and sticky.
    pub permissions: Option<u32>,
    pub access_time: TimeChange,
    pub modify_time: TimeChange,
}

impl AttributeChange {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
