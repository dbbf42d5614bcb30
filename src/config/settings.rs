//! [`Settings`]: everything an operator can choose, as plain data. Fields that are `None` are chosen
//! by the daemon from what it finds.

use super::cache_size::{CacheSize, MINIMUM_CACHE_BYTES};
use super::error::ConfigError;
use super::journal_settings::JournalOptions;
use super::units::{KIB, MIB, show_duration, show_size};
use super::watermarks::Watermarks;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything an operator can choose for one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where further settings were looked for.
    pub config: ConfigFile,
    /// The directory being cached, when named by an option.
    pub backend: Option<PathBuf>,
    /// Empty: one directory under /var/cache/nfs-cachefs.
    pub cache_directories: Vec<PathBuf>,
    pub cache_size: CacheSize,
    /// A power of two; `None`: by file size and access pattern.
    pub block_size_bytes: Option<u64>,
    /// Fill pieces on their way to the cache disks at once.
    pub max_concurrent_fills: usize,
    /// How fills are made follows from what they bring.
    pub adaptive: bool,
    pub eviction: EvictionPolicy,
    pub watermarks: Watermarks,
    /// What may be written to the cache disks in a day; `None`: as much as comes.
    pub write_limit_bytes: Option<u64>,
    pub checksum: ChecksumKind,
    /// The most that is read in a second to check what is cached.
    pub scrub_bytes_per_second: u64,
    /// All that is cached is checked so often.
    pub scrub_interval: Duration,
    /// Content first fetched longer ago than this is fetched anew at the next open; `None`: kept for as long as it is right.
    pub cache_ttl: Option<Duration>,
    /// What is pinned is looked through this often.
    pub pin_interval: Duration,
    /// Reads of every handle come to the daemon and bypass the kernel's page cache.
    pub direct_io: bool,
    /// The largest readahead window of one stream; 0: none.
    pub readahead_max_bytes: u64,
    /// Smaller files are read past the cache.
    pub min_cache_file_size_bytes: u64,
    /// Files up to this size are filled whole before an open replies, and never given to passthrough.
    pub small_file_size_bytes: u64,
    /// `None`: everybody when the daemon runs as root, else the owner.
    pub allow_other: Option<bool>,
    pub allow_root: Option<bool>,
    pub mount_flags: MountFlags,
    pub write_mode: WriteMode,
    pub journal: JournalOptions,
    pub locks: LockPlace,
    pub keep_written: KeepWritten,
    pub identity: Identity,
    pub io: IoSettings,
    pub passthrough: PassthroughChoice,
    pub attributes: AttributeTimeouts,
    pub lookup_cache: LookupCache,
    /// How long a call on the backend may take before it is an error.
    pub backend_timeout: Duration,
    /// How long an operation that could be answered from what is known waits for the backend.
    pub revalidate_timeout: Duration,
    /// How long what is known may be served while the backend is away.
    pub stale: Duration,
    /// How far the server's clock may be from ours.
    pub clock_skew: Duration,
    /// Threads that read requests; `None`: by the number of CPUs.
    pub fuse_threads: Option<usize>,
    pub log: LogLevel,
    /// `None`: stderr in the foreground, syslog in the background.
    pub log_file: Option<PathBuf>,
    /// Where metrics are told; `None`: nowhere.
    pub metrics: Option<MetricsAddress>,
    /// How this mount is called in logs and status; `None`: the mountpoint.
    pub name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionPolicy {
    S3Fifo,
    Lru,
    Lfu,
    Arc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    None,
    /// Made after the fill.
    Scrub,
    /// Made during the fill.
    Fill,
    /// So, and checked at every read.
    Read,
}

/// Who may use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Owner,
    OwnerAndRoot,
    Everybody,
}

/// Words of mount(8) that the kernel keeps with the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountFlags {
    pub read_only: bool,
    pub allow_suid: bool,
    pub allow_devices: bool,
    pub allow_exec: bool,
    pub update_atime: bool,
    /// Every write is on stable storage before it is answered, and every changed name.
    pub sync: bool,
    /// Every changed name is.
    pub sync_names: bool,
}

/// When a change is on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Before it is answered.
    Through,
    /// Later: it is in the journal before.
    Back,
}

/// As whom the backend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As whoever asks here.
    Caller,
    /// As the daemon's own user.
    Daemon,
}

/// Where locks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockPlace {
    /// Where the backend's other clients see them.
    Backend,
    /// Among the programs of this mount.
    Local,
}

/// Which files stay cached while they are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepWritten {
    /// Those that provably nobody else had open meanwhile.
    Proven,
    Always,
    Never,
}

/// How local disks are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoSettings {
    pub engine: EngineChoice,
    /// The older spelling; `None` when not given. Checked against `engine`.
    pub nvme_use_io_uring: Option<bool>,
    pub queue_depth: u32,
    /// Completions are polled for instead of waited for (IORING_SETUP_IOPOLL).
    pub polling: bool,
    /// A kernel thread takes submissions and sleeps after this idle time; `None`: no such thread.
    pub submission_polling_idle: Option<Duration>,
    pub fixed_buffers: bool,
    pub huge_pages: bool,
    pub numa_aware: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    Auto,
    Uring,
    Blocking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassthroughChoice {
    Auto,
    Off,
}

/// How long attributes, names and listings are believed, as nfs(5) has it: between the two bounds, the
/// longer the older the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeTimeouts {
    pub file_min: Duration,
    pub file_max: Duration,
    pub directory_min: Duration,
    pub directory_max: Duration,
    /// Every open asks the backend whether the file is still the same.
    pub close_to_open: bool,
}

/// Which names are remembered, as nfs(5) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupCache {
    All,
    Positive,
    None,
}

/// The settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    /// Of a mount by root, where it exists.
    Usual,
    At(PathBuf),
    Off,
}

/// Where a server of this machine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// Of the loopback interface.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: ConfigFile::Usual,
            backend: None,
            cache_directories: Vec::new(),
            cache_size: CacheSize::Derived,
            block_size_bytes: None,
            max_concurrent_fills: 32,
            adaptive: true,
            eviction: EvictionPolicy::S3Fifo,
            watermarks: Watermarks::default(),
            write_limit_bytes: None,
            checksum: ChecksumKind::None,
            scrub_bytes_per_second: 32 * MIB,
            scrub_interval: Duration::from_secs(7 * 86_400),
            cache_ttl: None,
            pin_interval: Duration::from_secs(15 * 60),
            direct_io: false,
            readahead_max_bytes: 64 * MIB,
            min_cache_file_size_bytes: 0,
            small_file_size_bytes: 256 * KIB,
            allow_other: None,
            allow_root: None,
            mount_flags: MountFlags {
                read_only: false,
                allow_suid: true,
                allow_devices: true,
                allow_exec: true,
                update_atime: true,
                sync: false,
                sync_names: false,
            },
            write_mode: WriteMode::Through,
            journal: JournalOptions::default(),
            locks: LockPlace::Backend,
            keep_written: KeepWritten::Proven,
            identity: Identity::Caller,
            io: IoSettings {
                engine: EngineChoice::Auto,
                nvme_use_io_uring: None,
                queue_depth: 128,
                polling: false,
                submission_polling_idle: None,
                fixed_buffers: true,
                huge_pages: false,
                numa_aware: false,
            },
            passthrough: PassthroughChoice::Auto,
            attributes: AttributeTimeouts {
                file_min: Duration::from_secs(3),
                file_max: Duration::from_secs(60),
                directory_min: Duration::from_secs(30),
                directory_max: Duration::from_secs(60),
                close_to_open: true,
            },
            lookup_cache: LookupCache::All,
            backend_timeout: Duration::from_secs(30),
            revalidate_timeout: Duration::from_secs(1),
            stale: Duration::from_secs(24 * 3600),
            clock_skew: Duration::from_secs(3600),
            fuse_threads: None,
            log: LogLevel::Info,
            log_file: None,
            metrics: None,
            name: None,
        }
    }
}

impl Settings {
    /// The checks that need more than one option; called once, at the end of parsing.
    pub(super) fn validated(mut self) -> Result<Self, ConfigError> {
        self.check_access()?;
        self.check_cache_size()?;
        self.watermarks.check()?;
        self.check_attribute_bounds()?;
        self.check_deadlines()?;
        self.journal.check()?;
        self.choose_engine()?;
        Ok(self)
    }

    /// An error where a mount could not go by them as far as its journal is concerned.
    pub(super) fn check_journal_places(&self) -> Result<(), ConfigError> {
        self.journal.check_places(self.write_mode)
    }

    /// Who may use the mount; `None`: as is usual for the user who mounts.
    pub fn access(&self) -> Option<Access> {
        match (self.allow_other, self.allow_root) {
            (Some(true), _) => Some(Access::Everybody),
            (_, Some(true)) => Some(Access::OwnerAndRoot),
            (None, None) => None,
            (Some(false), _) | (_, Some(false)) => Some(Access::Owner),
        }
    }

    fn check_access(&self) -> Result<(), ConfigError> {
        if self.allow_other == Some(true) && self.allow_root == Some(true) {
            return Err(ConfigError::Contradiction(
                "allow_other lets every user in, allow_root only root besides the user who mounts; leave one of them out"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn check_cache_size(&self) -> Result<(), ConfigError> {
        let CacheSize::Bytes(cache_bytes) = self.cache_size else {
            return Ok(());
        };
        if let Some(block_bytes) = self.block_size_bytes
            && block_bytes > cache_bytes
        {
            return Err(ConfigError::Contradiction(format!(
                "block_size={} is larger than cache_size={}; make the cache larger or the blocks smaller",
                show_size(block_bytes),
                show_size(cache_bytes)
            )));
        }
        if cache_bytes < MINIMUM_CACHE_BYTES {
            return Err(ConfigError::BadValue {
                name: "cache_size".to_owned(),
                value: show_size(cache_bytes),
                expected: format!("at least {}", show_size(MINIMUM_CACHE_BYTES)),
            });
        }
        Ok(())
    }

    fn check_attribute_bounds(&self) -> Result<(), ConfigError> {
        let timeouts = &self.attributes;
        for (low_name, low, high_name, high) in [
            ("acregmin", timeouts.file_min, "acregmax", timeouts.file_max),
            (
                "acdirmin",
                timeouts.directory_min,
                "acdirmax",
                timeouts.directory_max,
            ),
        ] {
            if low > high {
                return Err(ConfigError::Contradiction(format!(
                    "{low_name}={} is longer than {high_name}={}; lower the first or raise the second",
                    show_duration(low),
                    show_duration(high)
                )));
            }
        }
        Ok(())
    }

    fn check_deadlines(&self) -> Result<(), ConfigError> {
        if self.revalidate_timeout > self.backend_timeout {
            return Err(ConfigError::Contradiction(format!(
                "revalidate_timeout={} is longer than backend_timeout={}, which ends every call before; \
                 lower the first or raise the second",
                show_duration(self.revalidate_timeout),
                show_duration(self.backend_timeout)
            )));
        }
        Ok(())
    }

    fn choose_engine(&mut self) -> Result<(), ConfigError> {
        match (self.io.nvme_use_io_uring, self.io.engine) {
            (Some(false), EngineChoice::Uring) | (Some(true), EngineChoice::Blocking) => {
                return Err(ConfigError::Contradiction(
                    "nvme_use_io_uring and io_engine ask for different engines; keep io_engine only"
                        .to_owned(),
                ));
            }
            (Some(false), EngineChoice::Auto) => self.io.engine = EngineChoice::Blocking,
            (Some(false), EngineChoice::Blocking)
            | (Some(true), EngineChoice::Auto | EngineChoice::Uring)
            | (None, _) => {}
        }
        let rings_only = [
            ("nvme_polling_mode", self.io.polling),
            (
                "nvme_sq_poll_idle_ms",
                self.io.submission_polling_idle.is_some(),
            ),
        ];
        if self.io.engine == EngineChoice::Blocking
            && let Some((name, _)) = rings_only.iter().find(|(_, asked)| *asked)
        {
            return Err(ConfigError::Contradiction(format!(
                "{name} needs io_uring, which is switched off by io_engine=blocking or \
                 nvme_use_io_uring=0; drop one of them"
            )));
        }
        Ok(())
    }
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl std::fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
