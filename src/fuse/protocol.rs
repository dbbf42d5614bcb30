//! What is negotiated with the kernel before the first request: fuser reads INIT and answers it with
//! what [`Handshake`] asks for.

use super::mount::{Access, DeviceNumber};
use fuser::{InitFlags, KernelConfig};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// The most the kernel may ask or send in one request.
pub const MAX_REQUEST_BYTES: u32 = 1024 * 1024;

/// Where files for passthrough lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passthrough {
    Off,
    /// On a filesystem of its own disk.
    PlainDisk,
    /// On a filesystem that is stacked on another one (overlayfs, ecryptfs); then nothing can be
    /// stacked on the mount.
    StackedDisk,
}

impl Passthrough {
    fn max_stack_depth(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::PlainDisk => 1,
            Self::StackedDisk => 2,
        }
    }
}

/// What was agreed, and what this kernel or machine lacks.
#[derive(Clone, Debug)]
pub struct ProtocolReport {
    /// The kernel's FUSE protocol version, major and minor.
    pub kernel_version: (u32, u32),
    /// Names of the flags in use, as linux/fuse.h has them.
    pub flags: Vec<String>,
    /// Flags we asked for and the kernel does not have.
    pub missing_flags: Vec<String>,
    /// Whether the kernel can read complete files by itself, or why not.
    pub passthrough: Result<(), String>,
    /// Why reader threads share one device descriptor, if they have to.
    pub shared_device: Option<String>,
    /// What the kernel reads ahead in cached files, or why it could not be set.
    pub read_ahead_bytes: Result<u64, String>,
    pub max_request_bytes: u32,
    /// `st_dev` of the mount; the minor number names it under /sys/fs/fuse/connections.
    pub device: DeviceNumber,
}

/// What INIT settled.
#[derive(Clone, Copy, Debug)]
pub struct Negotiated {
    pub version: (u32, u32),
    pub in_use: InitFlags,
    pub missing: InitFlags,
}

impl Negotiated {
    pub fn has_passthrough(&self) -> bool {
        self.in_use.contains(InitFlags::FUSE_PASSTHROUGH)
    }
}

/// Asks for what we want of the kernel when INIT comes; answers nothing else, since its session is
/// never run.
pub struct Handshake {
    pub passthrough: Passthrough,
    pub max_background: u16,
    pub default_permissions: bool,
    /// Locks come to us; else the kernel keeps them.
    pub locks: bool,
    pub result: Arc<Mutex<Option<Negotiated>>>,
}

impl Handshake {
    /// Absent on purpose: WRITEBACK_CACHE (excludes passthrough); CACHE_SYMLINKS (a symlink may change
    /// behind us); EXPORT_SUPPORT (wants lookups of "." by node number).
    fn wanted(&self) -> InitFlags {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            // The backend applies the umask, or a directory's default ACL in its place.
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_HAS_EXPIRE_ONLY
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        if self.passthrough != Passthrough::Off {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
        }
        if self.locks {
            wanted |= InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS;
        }
        // It switches the kernel's permission checks on.
        if self.default_permissions {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        wanted
    }
}

impl fuser::Filesystem for Handshake {
    fn init(&mut self, _request: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = self.wanted();
        let in_use = wanted & config.capabilities();
        let refused = |what| io::Error::other(format!("{what} refused"));
        config
            .add_capabilities(in_use)
            .map_err(|_| refused("flags"))?;
        config
            .set_max_write(MAX_REQUEST_BYTES)
            .map_err(|_| refused("max_write"))?;
        config
            .set_max_background(self.max_background)
            .map_err(|_| refused("max_background"))?;
        // At the limit itself: below it the kernel would hold back readahead.
        config
            .set_congestion_threshold(self.max_background)
            .map_err(|_| refused("congestion_threshold"))?;
        config
            .set_max_stack_depth(self.passthrough.max_stack_depth())
            .map_err(|_| refused("max_stack_depth"))?;
        let version = config.kernel_abi();
        *self.result.lock() = Some(Negotiated {
            version: (version.0, version.1),
            in_use,
            missing: wanted - in_use,
        });
        Ok(())
    }
}

/// The names of the flags that are set.
pub fn names(flags: InitFlags) -> Vec<String> {
    flags
        .iter_names()
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// How fuser's own check of callers is set; it never runs, ours does.
pub fn session_acl(access: Access) -> fuser::SessionACL {
    match access {
        Access::Owner => fuser::SessionACL::Owner,
        Access::OwnerAndRoot => fuser::SessionACL::RootAndOwner,
        Access::Everyone => fuser::SessionACL::All,
    }
}
