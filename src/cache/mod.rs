//! The cache: clean copies of backend data in sparse objects on one or several local directories.
//!
//! What always holds: bytes are given out only of the version asked for, and only after that version was seen
//! unchanged after they were read; data is durable before the index claims it; the space limit counts what is in
//! flight; an object the kernel has open or mapped is never punched or counted as gone, and changed only to follow
//! its file, with its record out of the index.
//!
//! - `file`: one version of one file: extents, object, users ([`CachedFile`])
//! - `reading`: reads, from the object or past the cache
//! - `fetch`, `whole`: backend to object, in pieces or in one go; `pieces`: what is on its way, and who waits;
//!   `scheduler`: which piece goes next; `pacing`: how much readahead at once; `unread`: what became of it; `verify`: how pieces become extents or are given up; `settling`: how
//!   fresh a version may be; `server_clock`: what a server's own timestamps tell of its clock
//! - `directory`: one cache directory: index, space, failure; `checkpoint`: from memory to the index;
//!   `objects`: object files and their removal
//! - `index`, `record`, `storage`: redb and what is in it
//! - `changing`: what becomes of a file that is changed through this mount
//! - `kept`: what is kept of it meanwhile; `content`: whose an object is then
//! - `keeping`: content kept over changes of attributes
//! - `own_times`: times set through this mount
//! - `letting_go`: files about to lose their name
//! - `telling`: what is cached of one file; `history`: what became of files lately
//! - `layout`: names on disk and the format mark
//! - `names`: what is known of the backend's names, kept over restarts
//! - `extents`: which bytes are there
//! - `space`: the limit; `room`: a disk that others fill; `watermarks`: when files go; `write_budget`: what is
//!   written in a day
//! - `sums`: checksums of blocks; `sum_table`: as the index keeps them; `checked`: reads that are checked; `scrub`: all is,
//!   in the background
//! - `policy`: which file goes; `ranking`: what it is told of them; `reclaim`: eviction; `trimming`: of
//!   parts of files in use; `staying`: what no policy is asked about; `pins`: which names are pinned; `allowance`: how much of that there may be; `warming`: whole files fetched behind all others; `recovery`: the sweep after start-up; `spread`: which directory holds what

use crate::backend::deadline::Timers;
use crate::backend::health::Health;
use crate::backend::lanes::Lane;
use crate::backend::{Backend, FilesystemIndex};
use crate::io::Buffer;
use crate::metrics::{BackendMetrics, CacheMetrics};
use crate::types::{FileKey, RangeSeries, Timestamp, Version};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use allowance::Allowance;
pub use changing::Followers;
pub use directory::{CacheDirectory, OpenError};
pub use fetch::FetchError;
pub use file::CachedFile;
pub use fill_limits::FillCounts;
pub use history::{Loss, Miss};
pub use keeping::Keeping;
pub use kept::Keep;
pub use layout::{FORMAT_FILE, LayoutError, check as check_layout};
pub use own_times::has_bytes_of;
pub use pins::PinList;
pub use reclaim::Evicted;
pub use telling::{Stored, Told};
pub use warming::Errand;

mod allowance;
mod changing;
mod checkpoint;
mod content;
pub mod directory;
mod extents;
mod fetch;
mod file;
mod file_object;
mod fill_limits;
mod history;
mod index;
mod layout;
mod keeping;
mod kept;
mod letting_go;
pub mod names;
mod objects;
mod own_times;
mod pacing;
mod pieces;
mod pins;
pub mod policy;
mod ranking;
mod reading;
mod reclaim;
mod record;
mod recovery;
pub mod room;
mod scheduler;
pub mod scrub;
mod server_clock;
mod settling;
mod space;
mod spread;
mod staying;
pub mod storage;
mod sum_table;
mod sums;
mod telling;
mod checked;
mod unread;
mod trimming;
mod verify;
mod warming;
pub mod watermarks;
mod whole;
mod write_budget;
#[cfg(test)]
mod tests;

/// Values the cache works with.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Pieces in flight at once, over all files, to begin with.
    pub fill_parallelism: usize,
    /// How far the server's clock and ours may differ.
    pub clock_skew: Duration,
    /// Content older than this is fetched anew; `None`: kept as long as it is right.
    pub ttl: Option<Duration>,
    /// Files smaller than this pass by uncached.
    pub min_file_size_bytes: u64,
    /// Time between checkpoints of the index.
    pub checkpoint_interval: Duration,
    pub scrub: scrub::ScrubSettings,
}

/// Gives a buffer of at least so many bytes, from a pool or of its own.
pub type TakeBuffer = Arc<dyn Fn(usize) -> Buffer + Send + Sync>;

/// Receives the buffer and the number of bytes at its front.
pub type ReadDone = Box<dyn FnOnce(Result<(Buffer, usize), FetchError>) + Send>;

/// The outcome of an attempt that does not wait.
pub enum Attempt {
    Done(Buffer, usize),
    /// All bytes are in the object, but not in memory.
    OnDisk(Buffer),
    /// Some bytes have to come from the backend.
    Missing(Buffer),
}

/// One read and what to fetch along with it.
#[derive(Clone, Copy, Debug)]
pub struct ReadPlan {
    pub offset: u64,
    pub length_bytes: usize,
    /// Fetches are rounded out to this.
    pub block_bytes: u64,
    /// Fetched too, with nobody waiting.
    pub ahead: RangeSeries,
    /// Cold reads here are scattered: no use for the page cache's readahead.
    pub random: bool,
}

pub struct Cache {
    settings: CacheSettings,
    directories: Vec<Arc<CacheDirectory>>,
    backend: Arc<dyn Backend>,
    demand_lane: Arc<Lane>,
    checks_lane: Arc<Lane>,
    timers: Arc<Timers>,
    health: Arc<Health>,
    scheduler: Mutex<scheduler::Scheduler>,
    fill_limits: fill_limits::FillLimits,
    server_clock: server_clock::ServerClock,
    reclaim: reclaim::Reclaim,
    sessions: Mutex<allowance::Sessions>,
    pins: PinList,
    scrub: scrub::Scrub,
    take_buffer: TakeBuffer,
    pub metrics: Arc<CacheMetrics>,
    backend_metrics: Arc<BackendMetrics>,
    stopping: Mutex<bool>,
    stop: Condvar,
    closing: Mutex<()>,
    closed: Condvar,
    /// Without a name on the backend since the last checkpoint.
    removed: Mutex<Vec<FileKey>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a cache is made of.
pub struct CacheParts {
    pub settings: CacheSettings,
    pub directories: Vec<Arc<CacheDirectory>>,
    pub backend: Arc<dyn Backend>,
    pub demand_lane: Arc<Lane>,
    /// For reads that are checked: waits for the local disk only.
    pub checks_lane: Arc<Lane>,
    pub timers: Arc<Timers>,
    pub health: Arc<Health>,
    pub take_buffer: TakeBuffer,
    pub metrics: Arc<CacheMetrics>,
    pub backend_metrics: Arc<BackendMetrics>,
}

/// How long ago cached content may have been fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    WithinTtl,
    /// There is nobody to fetch it from.
    Any,
}

impl Cache {
    /// Starts the checkpoint, reclaim and sweep threads.
    pub fn start(parts: CacheParts) -> io::Result<Arc<Self>> {
        let pins = PinList::load(&parts.directories);
        let in_flight_max = parts.settings.fill_parallelism;
        let fill_limits = fill_limits::FillLimits::new(in_flight_max, pieces::PIECE_BYTES);
        let cache = Arc::new(Self {
            fill_limits,
            settings: parts.settings,
            directories: parts.directories,
            backend: parts.backend,
            demand_lane: parts.demand_lane,
            checks_lane: parts.checks_lane,
            timers: parts.timers,
            health: parts.health,
            scheduler: Mutex::default(),
            server_clock: server_clock::ServerClock::default(),
            reclaim: reclaim::Reclaim::default(),
            sessions: Mutex::default(),
            pins,
            scrub: scrub::Scrub::default(),
            take_buffer: parts.take_buffer,
            metrics: parts.metrics,
            backend_metrics: parts.backend_metrics,
            stopping: Mutex::new(false),
            stop: Condvar::new(),
            closing: Mutex::new(()),
            closed: Condvar::new(),
            removed: Mutex::default(),
            threads: Mutex::new(Vec::new()),
        });
        let mut threads = vec![
            cache.spawn("cache-reclaim", |cache| cache.reclaim_loop())?,
            cache.spawn("cache-checkpoint", |cache| cache.checkpoint_loop())?,
            cache.spawn("cache-sweep", |cache| cache.sweep())?,
        ];
        if cache.settings.scrub.checksums != scrub::Checksums::None {
            cache
                .directories
                .iter()
                .for_each(|directory| directory.unsummed.want());
            threads.push(cache.spawn("cache-scrub", |cache| cache.scrub_loop())?);
        }
        cache.threads.lock().append(&mut threads);
        cache.reclaim.wake();
        Ok(cache)
    }

    fn spawn(
        self: &Arc<Self>,
        name: &str,
        body: impl FnOnce(Arc<Self>) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let cache = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(cache))
    }

    fn checkpoint_loop(&self) {
        loop {
            let mut stopping = self.stopping.lock();
            if !*stopping {
                self.stop
                    .wait_for(&mut stopping, self.settings.checkpoint_interval);
            }
            let last = *stopping;
            drop(stopping);
            self.tend_sessions();
            for directory in &self.directories {
                directory.checkpoint();
                if directory.doomed_count() > 0 || directory.look_at_room().is_short() {
                    self.reclaim.wake();
                }
            }
            self.drop_removed();
            if last {
                return;
            }
            if self.has_unsummed_files() {
                self.scrub.wake();
            }
        }
    }

    fn sweep(&self) {
        for directory in &self.directories {
            let swept = directory.sweep_orphans(&|| *self.stopping.lock());
            if swept.orphans > 0 {
                tracing::info!(directory = %directory.name, orphans = swept.orphans, "objects without a record removed");
            }
        }
    }

    /// Ends the threads after a last checkpoint. Waits for the local disk, never for the backend.
    pub fn shutdown(&self) {
        *self.stopping.lock() = true;
        self.stop.notify_all();
        self.reclaim.stop();
        self.scrub.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }

    pub fn directories(&self) -> &[Arc<CacheDirectory>] {
        &self.directories
    }

    /// There may be more in the cache than it may take now.
    pub fn limits_have_changed(&self) {
        self.reclaim.wake();
    }

    /// Pieces on their way to a disk now.
    pub fn pieces_in_flight(&self) -> usize {
        self.scheduler.lock().in_flight()
    }

    /// The cached file of this key and version, empty if nothing of it is cached. May wait for the local disk.
    pub fn file(&self, key: &FileKey, version: Version) -> Arc<CachedFile> {
        self.file_of_age(key, version, Age::WithinTtl)
    }

    /// The same. What is older is given up for it.
    pub fn file_of_age(&self, key: &FileKey, version: Version, age: Age) -> Arc<CachedFile> {
        let is_cached = version.size_bytes >= self.settings.min_file_size_bytes;
        let ttl_seconds = match age {
            Age::WithinTtl => self.ttl_seconds(),
            Age::Any => None,
        };
        match self.directory_of(key).filter(|_| is_cached) {
            Some(directory) => directory.file(key, version, ttl_seconds),
            None => CachedFile::new(None, key.clone(), version, None),
        }
    }

    /// Where a file is cached.
    fn directory_of(&self, key: &FileKey) -> Option<&Arc<CacheDirectory>> {
        let usable = self
            .directories
            .iter()
            .enumerate()
            .filter(|(_, directory)| directory.is_usable())
            .map(|(index, directory)| {
                let weight = directory.space.limit_bytes().max(1) as f64;
                (index, directory.name.as_str(), weight)
            });
        spread::choose(key, usable).map(|index| &self.directories[index])
    }

    /// Notes a change time just seen on a filesystem of the backend.
    pub fn observe_clock(&self, filesystem: FilesystemIndex, ctime: Timestamp) {
        self.server_clock
            .observe(filesystem, ctime, self.settings.clock_skew);
    }
}
