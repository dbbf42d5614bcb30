//! The promises of the cache, kept on simulated disks before a backend in memory that changes, fails and
//! hangs when a test wants it to. Each test is named after its promise; random ones print their seed, take one
//! from CACHEFS_SEED, and run longer with CACHEFS_LONG=1.

mod backend;
mod changes;
mod crashes;
mod eviction;
mod faults;
mod files;
mod full;
mod gate;
mod limit;
mod many_disks;
mod one_version;
mod settling;
mod single_flight;

use super::policy::{PolicyKind, Queue};
use super::reclaim::Evicted;
use super::scrub::{Checksums, ScrubSettings};
use super::{
    Cache, CacheDirectory, CacheParts, CacheSettings, CachedFile, FetchError, ReadDone, ReadPlan,
};
use crate::backend::deadline::Timers;
use crate::backend::health::{Health, HealthSettings};
use crate::backend::lanes::{Lane, LaneSettings};
use crate::io::simulator::{FaultPlan, Simulation};
use crate::io::{Buffer, Io};
use crate::metrics::{BackendMetrics, CacheMetrics};
use crate::types::{ByteRange, FileKey, RangeSeries};
use backend::FakeBackend;
use crossbeam_channel::{Receiver, bounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Whatever takes longer is stuck.
const SOON: Duration = Duration::from_secs(20);
const INDEX_CACHE_BYTES: usize = 1 << 20;

/// A cache with everything around it.
struct World {
    simulation: Arc<Simulation>,
    backend: Arc<FakeBackend>,
    cache: Arc<Cache>,
    metrics: Arc<CacheMetrics>,
}

struct Setup {
    seed: u64,
    devices: Vec<&'static str>,
    /// Of each directory.
    limit_bytes: u64,
    fill_parallelism: usize,
    checkpoint_interval: Duration,
    policy: PolicyKind,
    checksums: Checksums,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            devices: vec!["disk"],
            limit_bytes: 1 << 30,
            fill_parallelism: 4,
            // Tests say when.
            checkpoint_interval: Duration::from_secs(3600),
            policy: PolicyKind::S3Fifo,
            checksums: Checksums::None,
        }
    }
}

/// How often a random test does what it does.
fn rounds(usual: u64, long: u64) -> u64 {
    let is_long = std::env::var_os("CACHEFS_LONG").is_some();
    if is_long { long } else { usual }
}

fn open_directory(
    disk: Arc<dyn Io>,
    name: &str,
    setup: &Setup,
    metrics: &Arc<CacheMetrics>,
) -> Result<Arc<CacheDirectory>, super::OpenError> {
    let directory = CacheDirectory::open(
        name.to_owned(),
        disk,
        INDEX_CACHE_BYTES,
        setup.policy,
        metrics.clone(),
    )?;
    directory.space.set_limit(setup.limit_bytes);
    Ok(directory)
}

fn start_cache(
    setup: &Setup,
    directories: Vec<Arc<CacheDirectory>>,
    backend: &Arc<FakeBackend>,
    metrics: &Arc<CacheMetrics>,
) -> Arc<Cache> {
    let backend_metrics = Arc::new(BackendMetrics::default());
    let settings = HealthSettings {
        revalidate_timeout: Duration::from_secs(10),
        backend_timeout: Duration::from_secs(60),
    };
    let health = Health::new(settings, backend_metrics.clone());
    let lane = LaneSettings {
        max_threads: 8,
        max_lost_threads: 8,
        queue_limit: 10_000,
    };
    Cache::start(CacheParts {
        settings: CacheSettings {
            fill_parallelism: setup.fill_parallelism,
            clock_skew: Duration::ZERO,
            ttl: None,
            min_file_size_bytes: 0,
            checkpoint_interval: setup.checkpoint_interval,
            scrub: ScrubSettings {
                checksums: setup.checksums,
                bytes_per_second: 1 << 40,
                // Tests say when.
                interval: Duration::from_secs(3600),
            },
        },
        directories,
        backend: backend.clone(),
        demand_lane: Lane::new("demand", lane, health.clone()),
        checks_lane: Lane::new("checks", lane, health.clone()),
        timers: Timers::start().unwrap(),
        health,
        take_buffer: Arc::new(Buffer::unpooled),
        metrics: metrics.clone(),
        backend_metrics,
    })
    .unwrap()
}

impl World {
    fn new(setup: &Setup) -> Self {
        let simulation = Arc::new(Simulation::new(setup.seed, FaultPlan::none()));
        let backend = FakeBackend::new(setup.seed);
        Self::on(setup, simulation, backend)
    }

    /// A life of the cache on a machine that runs.
    fn on(setup: &Setup, simulation: Arc<Simulation>, backend: Arc<FakeBackend>) -> Self {
        let metrics = Arc::new(CacheMetrics::default());
        let directories = setup
            .devices
            .iter()
            .map(|name| open_directory(simulation.device(name), name, setup, &metrics).unwrap())
            .collect();
        let cache = start_cache(setup, directories, &backend, &metrics);
        Self {
            simulation,
            backend,
            cache,
            metrics,
        }
    }

    /// A clean end and a new start.
    fn restart(self, setup: &Setup) -> Self {
        self.cache.shutdown();
        self.simulation.run_until_idle();
        self.simulation.restart();
        Self::on(setup, self.simulation.clone(), self.backend.clone())
    }

    fn directory(&self) -> &Arc<CacheDirectory> {
        &self.cache.directories()[0]
    }

    /// The newest version, in use.
    fn open(&self, key: &FileKey) -> Arc<CachedFile> {
        let version = self.backend.version(key);
        let file = self.cache.file(key, version);
        file.begin_use(Arc::new(self.backend.place(key)), Instant::now());
        file
    }

    fn start_read(
        &self,
        file: &Arc<CachedFile>,
        plan: ReadPlan,
    ) -> Receiver<Result<Vec<u8>, FetchError>> {
        let (sender, receiver) = bounded(1);
        let done: ReadDone = Box::new(move |outcome| {
            let bytes = outcome.map(|(buffer, length_bytes)| buffer[..length_bytes].to_vec());
            let _ = sender.send(bytes);
        });
        let buffer = self.cache.buffer(plan.length_bytes);
        self.cache.read(file, plan, buffer, done);
        receiver
    }

    fn read(&self, file: &Arc<CachedFile>, range: ByteRange) -> Result<Vec<u8>, FetchError> {
        let reading = self.start_read(file, plan(range));
        reading.recv_timeout(SOON).expect("the read is answered")
    }

    /// Reads, and checks the bytes against the version that the file is of.
    fn check(&self, file: &Arc<CachedFile>, range: ByteRange) {
        let bytes = self.read(file, range).expect("nothing is planned to fail");
        self.compare(file, range, &bytes);
    }

    fn compare(&self, file: &CachedFile, range: ByteRange, bytes: &[u8]) {
        let content = self.backend.content(&file.version());
        let end = (range.end as usize).min(content.len());
        let start = (range.start as usize).min(end);
        let wrong: Vec<usize> = (0..bytes.len().max(end - start))
            .filter(|at| bytes.get(*at) != content[start..end].get(*at))
            .collect();
        if let (Some(first), Some(last)) = (wrong.first(), wrong.last()) {
            panic!(
                "{range:?} of {:?} is not what {:?} has: {} bytes differ, from {} to {}, zeros: {}",
                file.key,
                file.version(),
                wrong.len(),
                start + first,
                start + last,
                bytes[*first..=*last].iter().all(|byte| *byte == 0),
            );
        }
    }

    fn fill(&self, key: &FileKey) {
        let file = self.open(key);
        self.check(&file, whole(&file));
        assert!(file.is_complete() || file.is_bypassed());
        file.end_use();
    }

    /// Evicts a file that nobody uses. A reader hears of its bytes before the fetch has let go of the file.
    fn evict(&self, key: &FileKey) {
        eventually("the file is let go of", || {
            self.cache.evict_files(std::slice::from_ref(key)).in_use == 0
        });
    }

    /// Removes what is doomed. A reader hears of its bytes before the fetch has let go of the object.
    fn sweep(&self) {
        eventually("all that is doomed is gone", || {
            self.directory().sweep_doomed();
            self.directory().doomed_count() == 0
        });
    }

    /// Evicts a file that nobody uses, without the checkpoints before and after it.
    fn evict_unnoted(&self, key: &FileKey) -> Evicted {
        let deadline = Instant::now() + SOON;
        loop {
            let mut evicted = Evicted::default();
            self.directory().evict_counted(key, &mut evicted);
            if evicted.in_use == 0 {
                return evicted;
            }
            assert!(Instant::now() < deadline, "{key:?} is not let go of");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn fetch_whole(&self, file: &Arc<CachedFile>) -> Result<(), FetchError> {
        let (sender, receiver) = bounded(1);
        let woken = Box::new(move |outcome| {
            let _ = sender.send(outcome);
        });
        self.cache.fetch_whole(file, woken);
        receiver.recv_timeout(SOON).expect("the fetch is answered")
    }

    /// With nobody using anything: all can be evicted, and then nothing is left, on the books or on the disk.
    fn check_books(&self) {
        let directory = self.directory();
        let deadline = Instant::now() + SOON;
        loop {
            let evicted = self.cache.evict_all();
            directory.sweep_doomed();
            // A fill may be on its way still.
            if directory.space.held_bytes() == 0 && directory.doomed_count() == 0 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{} bytes in use, {} reserved, {} claimed, {} doomed, {:?} on the disk, at last {evicted:?}",
                self.used_bytes(),
                directory.space.reserved_bytes(),
                recount(directory),
                directory.doomed_count(),
                self.objects(),
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        directory.checkpoint();
        assert_eq!(recount(directory), 0);
        assert_eq!(self.eviction_order(), []);
        eventually("no object is left", || self.objects().is_empty());
    }

    /// The names of all objects on the first disk.
    fn objects(&self) -> Vec<String> {
        let disk = self.simulation.device(&self.directory().name);
        let mut names = Vec::new();
        for low in 0..=0xff {
            let listed = disk.list(&format!("objects/{low:02x}"), &mut |name| {
                names.push(name.to_owned());
                true
            });
            listed.unwrap();
        }
        names
    }

    /// Queue after queue, as the index has them.
    fn eviction_order(&self) -> Vec<FileKey> {
        let index = &self.directory().index;
        let queues = Queue::all().map(|queue| index.first_of(queue, None, 1000).unwrap());
        queues.flatten().map(|(_, key)| key).collect()
    }

    fn used_bytes(&self) -> u64 {
        self.directory().space.used_bytes()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.backend.release();
        self.cache.shutdown();
    }
}

fn whole(file: &CachedFile) -> ByteRange {
    ByteRange::new(0, file.size_bytes())
}

fn plan(range: ByteRange) -> ReadPlan {
    ReadPlan {
        offset: range.start,
        length_bytes: range.length_bytes() as usize,
        block_bytes: 16 << 10,
        ahead: RangeSeries::default(),
        random: false,
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the records claim, counted anew.
fn recount(directory: &CacheDirectory) -> u64 {
    let mut bytes = 0;
    let scanned = directory.index.scan(|_, record| {
        bytes += record.map_or(0, |record| record.occupied_bytes());
    });
    scanned.unwrap();
    bytes
}
