//! Why a mount does not come up: each message tells the operator what is wrong and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigError;

/// Exit statuses, as mount(8) defines them.
pub mod exit_status {
    pub const SUCCESS: i32 = 0;
    /// Incorrect invocation or permissions.
    pub const USAGE: i32 = 1;
    /// System error (out of memory, cannot fork...).
    pub const SYSTEM: i32 = 2;
    /// The mount failed.
    pub const MOUNT_FAILED: i32 = 32;
}

/// A start-up error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Options(#[from] ConfigError),
    #[error("no backend given: name the directory to cache with nfs_backend=DIR")]
    NoBackend,
    #[error("backend {}: does not exist; is the export mounted?", .0.display())]
    BackendMissing(PathBuf),
    #[error("backend {}: not a directory", .0.display())]
    BackendNotDirectory(PathBuf),
    #[error("backend {}: not readable by uid {uid}: {source}", path.display())]
    BackendNotReadable {
        path: PathBuf,
        uid: u32,
        source: io::Error,
    },
    #[error("backend {}: no answer within {seconds} s; is the server up?", path.display())]
    BackendHung { path: PathBuf, seconds: u64 },
    #[error(
        "backend {}: nothing is mounted at {}, though /etc/fstab has a filesystem for it; \
         `mount {}` first, or take that line away",
        path.display(), mountpoint.display(), mountpoint.display()
    )]
    BackendNotMounted { path: PathBuf, mountpoint: PathBuf },
    #[error("mountpoint {}: does not exist; create it first", .0.display())]
    MountpointMissing(PathBuf),
    #[error("mountpoint {}: not a directory", .0.display())]
    MountpointNotDirectory(PathBuf),
    #[error("mountpoint {}: {source}", path.display())]
    Mountpoint { path: PathBuf, source: io::Error },
    #[error(
        "mountpoint {}: busy: '{mounted}' is mounted there already; `nfs-cachefs umount {}` first",
        path.display(), path.display()
    )]
    MountpointBusy { path: PathBuf, mounted: String },
    #[error(
        "mountpoint {}: lies inside the backend {}, which would then contain itself; \
         mount beside it, or over its own path",
        mountpoint.display(), backend.display()
    )]
    MountpointInsideBackend {
        mountpoint: PathBuf,
        backend: PathBuf,
    },
    #[error("cache directory {}: {problem}", path.display())]
    CacheDirectory {
        path: PathBuf,
        problem: CacheDirectoryProblem,
    },
    #[error("journal directory {}: {problem}", path.display())]
    JournalDirectory {
        path: PathBuf,
        problem: CacheDirectoryProblem,
    },
    #[error("none of the cache directories can be used: {0}")]
    NoCacheDirectory(String),
    #[error("{0}")]
    System(String),
    #[error("{0:#}")]
    Component(anyhow::Error),
}

/// What is wrong with a cache directory.
#[derive(Debug, thiserror::Error)]
pub enum CacheDirectoryProblem {
    #[error("a symbolic link; name the directory itself")]
    Symlink,
    #[error("not a directory")]
    NotDirectory,
    #[error("does not exist and cannot be made: {0}; {hint}", hint = cannot_create_hint(.0))]
    CannotCreate(io::Error),
    #[error("cannot be opened: {0}")]
    CannotOpen(io::Error),
    #[error(
        "belongs to uid {owner_uid}, not to uid {our_uid} that runs this; chown it or name another"
    )]
    NotOurs { owner_uid: u32, our_uid: u32 },
    #[error("others may write to it (mode {mode:04o}); chmod 0700 it")]
    WritableByOthers { mode: u32 },
    #[error("lies inside the backend {}; name one on a local disk outside it", .0.display())]
    InsideBackend(PathBuf),
    #[error("the backend {} lies inside it; name another", .0.display())]
    ContainsBackend(PathBuf),
    #[error("lies inside the mountpoint {}, which would hide it; name one outside", .0.display())]
    InsideMountpoint(PathBuf),
    #[error("the mountpoint {} lies inside it; name another", .0.display())]
    ContainsMountpoint(PathBuf),
    #[error("lies inside the cache directory {}; name one beside it", .0.display())]
    InsideAnother(PathBuf),
    #[error("contains the cache directory {}; name one beside it", .0.display())]
    ContainsAnother(PathBuf),
    #[error("named twice")]
    NamedTwice,
    #[error(
        "in use by the mount at {mountpoint} (pid {pid}); give each mount directories of its own"
    )]
    InUse { mountpoint: String, pid: String },
    #[error(
        "its filesystem ({filesystem}) cannot do O_DIRECT ({source}); name one on ext4, xfs or btrfs"
    )]
    NoDirectIo {
        filesystem: String,
        source: io::Error,
    },
    #[error("its filesystem ({0}) keeps no holes in files; name one on ext4, xfs or btrfs")]
    NoHoles(String),
    #[error("its disk is full; make room there or name another")]
    Full,
    #[error("{0}; the disk fails or is read-only")]
    Broken(io::Error),
    #[error("its disk has not answered within {} s; look at it first: dmesg | tail", .0.as_secs())]
    Hangs(Duration),
    #[error("its disk is not mounted at {}; mount it there, or name another directory", .mountpoint.display())]
    NotMounted { mountpoint: PathBuf },
}

fn cannot_create_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "name one that you may make (cache_dir or journal_dir), or mount as root"
        }
        io::ErrorKind::StorageFull => "make room on that disk, or name another",
        _ => "is the disk mounted?",
    }
}

impl CacheDirectoryProblem {
    /// Whether the disk, not the choice of the operator, is at fault: with several cache directories
    /// such a one is left out and its share is a miss.
    pub fn is_loss_of_disk(&self) -> bool {
        match self {
            Self::CannotCreate(error) | Self::CannotOpen(error) | Self::Broken(error) => {
                !matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
            }
            Self::Full | Self::Hangs(_) | Self::NotMounted { .. } => true,
            Self::Symlink
            | Self::NotDirectory
            | Self::NotOurs { .. }
            | Self::WritableByOthers { .. }
            | Self::InsideBackend(_)
            | Self::ContainsBackend(_)
            | Self::InsideMountpoint(_)
            | Self::ContainsMountpoint(_)
            | Self::InsideAnother(_)
            | Self::ContainsAnother(_)
            | Self::NamedTwice
            | Self::InUse { .. }
            | Self::NoDirectIo { .. }
            | Self::NoHoles(_) => false,
        }
    }
}

impl StartError {
    /// The exit status of this error, as mount(8) defines them.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::Options(_) | Self::NoBackend => exit_status::USAGE,
            Self::System(_) => exit_status::SYSTEM,
            Self::BackendMissing(_)
            | Self::BackendNotDirectory(_)
            | Self::BackendNotReadable { .. }
            | Self::BackendHung { .. }
            | Self::BackendNotMounted { .. }
            | Self::MountpointMissing(_)
            | Self::MountpointNotDirectory(_)
            | Self::Mountpoint { .. }
            | Self::MountpointBusy { .. }
            | Self::MountpointInsideBackend { .. }
            | Self::CacheDirectory { .. }
            | Self::JournalDirectory { .. }
            | Self::NoCacheDirectory(_)
            | Self::Component(_) => exit_status::MOUNT_FAILED,
        }
    }
}
