//! Which component gets which setting: the only place where all of them are known.

use super::control::{ChangeJournal, ChangePins, Evict, Evicted, Scrub, Why};
use super::disks::{Disk, ill_placed, open_disks, refuse_untouched, set_limits, warnings};
use super::journal_control::{AskBack, answering};
use super::journal_status;
use super::journalling;
use super::offline::{find_backend, look_for};
use super::pinning::change_pins;
use super::prepare::Prepared;
use super::prometheus::MapSource;
use super::reload::Apply;
use super::report::Reporter;
use super::status::Status;
use super::tuning::{Tuned, Tuning};
use super::why::{Surroundings, explain};
use crate::backend::Backend;
use crate::backend::deadline::Timers;
use crate::backend::health::{Health, HealthSettings};
use crate::backend::lanes::{Lane, LaneSettings};
use crate::backend::observed::ObservedBackend;
use crate::cache::names::Names;
use crate::cache::policy::PolicyKind;
use crate::cache::scrub::{Checksums, ScrubSettings};
use crate::cache::{Cache, CacheParts, CacheSettings};
use crate::config::{
    Access, ChecksumKind, EngineChoice, EvictionPolicy, Identity, KeepWritten, LockPlace,
    LookupCache, PassthroughChoice, Settings, WriteMode,
};
use crate::events::InvalidationQueue;
use crate::fs::operations::BackingRegistry;
use crate::fs::{self, FileSystem, FsParts, FsSettings};
use crate::fuse::{self, Channel, MountPlan, MountSettings, Passthrough};
use crate::io::engine::{Engine, EngineKind, EngineSettings};
use crate::metrics::{BackendMetrics, CacheMetrics};
use crate::readahead;
use crate::sys::credentials;
use crate::watch::Watch;
use anyhow::{Context, bail};
use nix::mount::MsFlags;
use std::sync::Arc;
use std::time::Duration;

/// The index is made durable this often; what was filled since is fetched again after a crash.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);
/// Requests of the kernel's own under way: hung readaheads must not stop other reads.
const MAX_BACKGROUND: u16 = 4096;
/// What the kernel reads ahead in cached files: as much as one request asks for where we read ahead of that, else what
/// it does for any mount.
const KERNEL_READ_AHEAD_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=1 << 20;
const METADATA_THREADS: usize = 32;
const CHANGE_THREADS: usize = 32;
const LOCK_THREADS: usize = 16;
const DEMAND_THREADS: usize = 32;
const WRITE_THREADS: usize = 32;
const AHEAD_THREADS: usize = 16;
const WARM_THREADS: usize = 32;
const LOCAL_THREADS: usize = 4;
const CHECK_THREADS: usize = 8;
/// Threads that may hang in the backend for good before further calls are refused.
const LOST_THREADS_MAX: usize = 256;
const QUEUE_MAX: usize = 100_000;

/// The running filesystem, as the life cycle sees it.
pub struct Assembled {
    /// Returns when the kernel has ended the session (unmounted or aborted). Called once, on a
    /// thread of its own.
    pub wait: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
    /// Ends the components and makes the index durable. Called once, after the session's end; the
    /// caller bounds its time.
    pub shutdown: Box<dyn FnOnce() + Send>,
    /// The state now; `pid`, `name`, `mountpoint`, `version`, `uptime_seconds` and `options` values
    /// are filled in by the caller, `no_effect_because` of options is taken from here.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    /// Drops cached data: [`super::control::Request::Evict`].
    pub evict: Evict,
    /// Keeps data in the cache, and lets go of it.
    pub pins: ChangePins,
    pub why: Why,
    pub scrub: Scrub,
    /// Gives the cache the limits of these settings.
    pub apply: Apply,
    pub journal: ChangeJournal,
    pub back: AskBack,
    pub watch: Arc<Watch>,
    pub map: MapSource,
    /// What the administrator should hear at once, a sentence each.
    pub warnings: Vec<String>,
}

/// Makes every component from the settings and mounts. On return the mount serves. Called once, in the
/// process that stays, with the signals of [`super::run`] blocked.
pub fn assemble(settings: &Settings, prepared: &Prepared) -> anyhow::Result<Assembled> {
    let backend_metrics = Arc::new(BackendMetrics::default());
    let cache_metrics = Arc::new(CacheMetrics::default());
    let engine = start_engine(settings)?;
    let (disks, lost) = open_disks(prepared, &engine, policy(settings), &cache_metrics)?;
    set_limits(settings, &disks)?;

    let health = Health::new(
        HealthSettings {
            revalidate_timeout: settings.revalidate_timeout,
            backend_timeout: settings.backend_timeout,
        },
        backend_metrics.clone(),
    );
    let names = open_names(&disks)?;
    let found = find_backend(settings, prepared, &names, &backend_metrics)?;
    if let Some(reason) = &found.absence {
        health.begin_away(reason.clone(), names.absent_for());
    }
    let directory = found.directory;
    directory
        .watch_leases()
        .context("starting a thread for leases")?;
    let observed: Arc<dyn Backend> = ObservedBackend::new(directory.clone(), health.clone());
    let root_key = found.root.place.key.clone();
    let (back, journal_devices) = match prepared.journal_directories.is_empty() {
        true => (None, None),
        false => {
            let below = observed.clone();
            let (back, devices) =
                journalling::start(settings, prepared, &disks, &engine, below, &root_key)?;
            (Some(back), Some(devices))
        }
    };
    let backend = match &back {
        Some(back) => back.clone() as Arc<dyn Backend>,
        None => observed.clone(),
    };
    let timers = Timers::start().context("starting the timer thread")?;

    // Local work must not be taken for calls on the backend.
    let local_health = Health::new(health.settings(), Arc::default());
    let buffers = engine.clone();
    let cache = Cache::start(CacheParts {
        settings: cache_settings(settings),
        directories: disks.iter().map(|disk| disk.cache.clone()).collect(),
        backend: backend.clone(),
        demand_lane: lane("demand", DEMAND_THREADS, &health),
        checks_lane: lane("checks", CHECK_THREADS, &local_health),
        timers: timers.clone(),
        health: health.clone(),
        take_buffer: Arc::new(move |length| buffers.take_buffer(length)),
        metrics: cache_metrics.clone(),
        backend_metrics: backend_metrics.clone(),
    })
    .context("starting the cache's threads")?;
    let local_lane = lane("local", LOCAL_THREADS, &local_health);
    if let Some(back) = &back {
        journalling::carry_over(back, &cache, &local_lane);
        journalling::lend_cached(back, &cache);
    }

    prepared.mounter.rejoin().context("process group")?;
    let channel = Channel::mount(mount_settings(settings, prepared))?;
    let protocol = channel.protocol().clone();
    let surroundings = Surroundings {
        no_passthrough: protocol.passthrough.clone().err(),
        has_checksums: settings.checksum != ChecksumKind::None,
        back: back.clone(),
    };
    let registry: Option<Arc<dyn BackingRegistry>> =
        protocol.passthrough.is_ok().then(|| channel.registry());
    let (invalidations, invalidated) = InvalidationQueue::new();
    let watch = Arc::new(Watch::default());
    let parts = FsParts {
        settings: fs_settings(settings),
        backend: backend.clone(),
        identity: identity(settings).context("the daemon's groups")?,
        metadata_lane: lane("metadata", METADATA_THREADS, &health),
        locks_lane: lane("locks", LOCK_THREADS, &health),
        write_lane: lane("writes", WRITE_THREADS, &health),
        changes_lane: lane("changes", CHANGE_THREADS, &health),
        ahead_lane: lane("ahead", AHEAD_THREADS, &health),
        warm_lane: lane("warm", WARM_THREADS, &health),
        local_lane,
        health: health.clone(),
        timers,
        cache: cache.clone(),
        names: names.clone(),
        root: found.root,
        metrics: cache_metrics.clone(),
        invalidations,
        watch: watch.clone(),
        registry,
    };
    let filesystem = FileSystem::new(parts);
    health
        .start_probe(observed)
        .context("starting the backend's probe")?;
    let told = health.clone();
    names
        .start(move || told.absent_for())
        .context("starting the thread that keeps names")?;
    if found.absence.is_some() {
        let path = prepared.backend_name.clone();
        look_for(path, directory.clone(), health.clone()).context("looking for the backend")?;
    }
    let serving = channel.serve(filesystem.clone(), invalidated, watch.clone())?;
    let tuned = Tuned {
        cache: cache.clone(),
        filesystem: filesystem.clone(),
        metrics: cache_metrics.clone(),
        health: health.clone(),
    };
    let tuning = Tuning::start(settings, tuned).context("starting the thread that tunes")?;

    let away = found.absence.map(away_at_start);
    let passed_by = match back {
        Some(_) => None,
        None => journalling::passed_by(&disks, &root_key),
    };
    let of_journal = back
        .as_ref()
        .map(|back| journal_status::warnings(settings, &back.figures()));
    let of_journal = of_journal.into_iter().flatten().chain(passed_by.clone());
    let warnings = away.into_iter().chain(warnings(prepared, &disks, &lost));
    let warnings = warnings.chain(of_journal).collect();
    let reporter = Reporter {
        backend_path: found.path,
        backend: directory,
        backend_metrics,
        health,
        cache: cache.clone(),
        cache_metrics,
        names: names.clone(),
        disks: disks.iter().map(|disk| disk.local.clone()).collect(),
        lost,
        engine: engine.clone(),
        protocol,
        filesystem: filesystem.clone(),
        tuning: tuning.clone(),
        back: back.clone(),
        settings: settings.clone(),
        ill_placed: ill_placed(prepared),
        passed_by,
        reader_threads: reader_threads(settings),
    };
    filesystem
        .start_pins(settings.pin_interval)
        .context("starting the thread that looks through what is pinned")?;
    let (pinning, ending) = (filesystem.clone(), filesystem.clone());
    let (explaining, mapped) = (filesystem.clone(), filesystem.clone());
    let evicting = filesystem;
    let (evictable, scrubbed, limited) = (cache.clone(), cache.clone(), cache.clone());
    let asked_of = back.clone();
    Ok(Assembled {
        warnings,
        wait: Box::new(move || serving.wait().map_err(anyhow::Error::from)),
        shutdown: Box::new(move || {
            ending.stop_pins();
            tuning.stop();
            if let Some(back) = &back {
                journalling::shut_down(back);
            }
            cache.shutdown();
            names.shutdown();
            engine.shutdown();
        }),
        status: Box::new(move || reporter.status()),
        apply: Box::new(move |settings| {
            set_limits(settings, &disks)?;
            limited.limits_have_changed();
            Ok(())
        }),
        journal: Box::new(move |change| {
            let journal = journal_devices.as_ref();
            let journal =
                journal.context("it has no journal: it is mounted with write_mode=through")?;
            journal.change(change)
        }),
        pins: Box::new(move |change| change_pins(&pinning, change)),
        why: Box::new(move |path| {
            explain(&explaining, path, &surroundings).context("looking at the backend")
        }),
        back: answering(asked_of),
        watch,
        map: Arc::new(move |limit| mapped.map_of_cache(limit)),
        scrub: Box::new(move || {
            let asked = scrubbed.ask_for_scrub();
            asked.context(
                "mounted with checksum=none: there is nothing to compare what is cached with; mount with checksum=scrub",
            )
        }),
        evict: Box::new(move |paths| {
            let evicted = evicting.evict(paths).context("looking at the backend")?;
            refuse_untouched(&evictable, &evicted)?;
            Ok(Evicted {
                files: evicted.files,
                bytes: evicted.bytes,
                files_in_use: evicted.in_use,
                files_pinned: evicted.pinned,
            })
        }),
    })
}

/// A daemon that is not root can be nobody else.
fn identity(settings: &Settings) -> std::io::Result<fs::Identity> {
    if settings.identity == Identity::Caller && nix::unistd::geteuid().is_root() {
        return Ok(fs::Identity::Caller);
    }
    Ok(fs::Identity::Daemon(credentials::own()?))
}

/// In the first cache directory that works.
fn open_names(disks: &[Disk]) -> anyhow::Result<Arc<Names>> {
    let disk = disks.first().context("no cache directory is open")?;
    Ok(Names::open(disk.local.clone(), &disk.cache.name))
}

fn away_at_start(reason: String) -> String {
    format!("the backend is away: {reason}; what is known is served until it is there")
}

fn lane(name: &'static str, threads: usize, health: &Arc<Health>) -> Arc<Lane> {
    Lane::new(
        name,
        LaneSettings {
            max_threads: threads,
            max_lost_threads: LOST_THREADS_MAX,
            queue_limit: QUEUE_MAX,
        },
        health.clone(),
    )
}

fn start_engine(settings: &Settings) -> anyhow::Result<Arc<Engine>> {
    let io = &settings.io;
    let engine = Engine::start(EngineSettings {
        kind: match io.engine {
            EngineChoice::Auto => EngineKind::Auto,
            EngineChoice::Uring => EngineKind::Uring,
            EngineChoice::Blocking => EngineKind::Blocking,
        },
        queue_depth: io.queue_depth,
        polling: io.polling,
        fixed_buffers: io.fixed_buffers,
        sq_poll_idle: io.submission_polling_idle,
        huge_pages: io.huge_pages,
        numa_aware: io.numa_aware,
        fill_parallelism: settings.max_concurrent_fills,
        ..EngineSettings::default()
    })
    .context("memory for read buffers")?;
    let report = engine.report();
    if io.engine == EngineChoice::Uring && report.engine != "uring" {
        bail!(
            "io_engine=uring: io_uring cannot be used here: {}; use io_engine=auto to go on without",
            report.reason
        );
    }
    Ok(engine)
}

fn cache_settings(settings: &Settings) -> CacheSettings {
    CacheSettings {
        fill_parallelism: settings.max_concurrent_fills,
        clock_skew: settings.clock_skew,
        ttl: settings.cache_ttl,
        min_file_size_bytes: settings.min_cache_file_size_bytes,
        checkpoint_interval: CHECKPOINT_INTERVAL,
        scrub: ScrubSettings {
            checksums: match settings.checksum {
                ChecksumKind::None => Checksums::None,
                ChecksumKind::Scrub => Checksums::Scrub,
                ChecksumKind::Fill => Checksums::Fill,
                ChecksumKind::Read => Checksums::Read,
            },
            bytes_per_second: settings.scrub_bytes_per_second,
            interval: settings.scrub_interval,
        },
    }
}

fn policy(settings: &Settings) -> PolicyKind {
    match settings.eviction {
        EvictionPolicy::S3Fifo => PolicyKind::S3Fifo,
        EvictionPolicy::Lru => PolicyKind::Lru,
        EvictionPolicy::Lfu => PolicyKind::Lfu,
        EvictionPolicy::Arc => PolicyKind::Arc,
    }
}

fn fs_settings(settings: &Settings) -> FsSettings {
    FsSettings {
        attributes_min: settings.attributes.file_min,
        attributes_max: settings.attributes.file_max,
        directory_min: settings.attributes.directory_min,
        directory_max: settings.attributes.directory_max,
        lookup_cache: match settings.lookup_cache {
            LookupCache::All => fs::LookupCache::All,
            LookupCache::Positive => fs::LookupCache::Positive,
            LookupCache::None => fs::LookupCache::None,
        },
        close_to_open: settings.attributes.close_to_open,
        revalidate_timeout: settings.revalidate_timeout,
        backend_timeout: settings.backend_timeout,
        stale: settings.stale,
        small_file_bytes: settings.small_file_size_bytes,
        passthrough: wants_passthrough(settings),
        direct_io: settings.direct_io,
        read_only: settings.mount_flags.read_only,
        write_back: settings.write_mode == WriteMode::Back,
        keep_written: match settings.keep_written {
            KeepWritten::Proven => fs::KeepWritten::Proven,
            KeepWritten::Always => fs::KeepWritten::Always,
            KeepWritten::Never => fs::KeepWritten::Never,
        },
        sync_names: settings.mount_flags.sync || settings.mount_flags.sync_names,
        descriptors_max: descriptors_max(),
        readahead: readahead::Limits {
            window_bytes_max: settings.readahead_max_bytes,
            block_bytes: settings.block_size_bytes,
        },
    }
}

/// What the kernel reads by itself nobody checks.
fn wants_passthrough(settings: &Settings) -> bool {
    settings.passthrough == PassthroughChoice::Auto && settings.checksum != ChecksumKind::Read
}

fn descriptors_max() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    // Without an answer what every system allows.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft as usize)
}

fn reader_threads(settings: &Settings) -> usize {
    settings.fuse_threads.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 8)
    })
}

fn mount_settings(settings: &Settings, prepared: &Prepared) -> MountSettings {
    let words = &settings.mount_flags;
    // Whatever is made belongs to the daemon then.
    let as_daemon = settings.identity == Identity::Daemon;
    let flags = [
        (words.read_only, MsFlags::MS_RDONLY),
        (!words.allow_suid || as_daemon, MsFlags::MS_NOSUID),
        (!words.allow_devices || as_daemon, MsFlags::MS_NODEV),
        (!words.allow_exec, MsFlags::MS_NOEXEC),
        (!words.update_atime, MsFlags::MS_NOATIME),
        (words.sync, MsFlags::MS_SYNCHRONOUS),
        (words.sync_names, MsFlags::MS_DIRSYNC),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(MsFlags::empty(), |flags, (_, flag)| flags | flag);
    let access = match settings.access() {
        Some(Access::Owner) => fuse::Access::Owner,
        Some(Access::OwnerAndRoot) => fuse::Access::OwnerAndRoot,
        Some(Access::Everybody) => fuse::Access::Everyone,
        None if nix::unistd::geteuid().is_root() => fuse::Access::Everyone,
        None => fuse::Access::Owner,
    };
    MountSettings {
        plan: MountPlan {
            mountpoint: prepared.mountpoint.clone(),
            source_name: prepared.source.to_string_lossy().into_owned(),
            access,
            default_permissions: true,
            flags,
        },
        passthrough: match wants_passthrough(settings) {
            true => Passthrough::PlainDisk,
            false => Passthrough::Off,
        },
        locks: settings.locks == LockPlace::Backend,
        reader_threads: reader_threads(settings),
        max_background: MAX_BACKGROUND,
        read_ahead_bytes: settings.readahead_max_bytes.clamp(
            *KERNEL_READ_AHEAD_BYTES.start(),
            *KERNEL_READ_AHEAD_BYTES.end(),
        ),
    }
}
