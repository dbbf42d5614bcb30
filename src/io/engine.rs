//! Which engine carries reads and fills out, and why.
//!
//! What always holds: reads and fills share no thread and no queue; stopping waits for local
//! reads for a moment and for the backend never.

use super::blocking::{FillWork, WorkerPool};
use super::requests::{FillRequest, ReadRequest};
use super::ring;
use super::splice::{CHAIN_MAX_BYTES, FillRing, PlainFills};
use super::uring::{ReadRing, Submission};
use super::{Buffer, BufferPool, numa};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub use super::settings::{EngineKind, EngineReport, EngineSettings, FeatureReport};

/// How long [`Engine::shutdown`] waits for reads that the disk still works on.
const READ_GRACE: Duration = Duration::from_secs(2);
const BLOCKING_READERS_MAX: u32 = 64;

/// The buffers that reads go to, in two sizes.
pub struct ReadBuffers {
    small: BufferPool,
    large: BufferPool,
}

impl ReadBuffers {
    fn new(settings: &EngineSettings) -> io::Result<Self> {
        let whole_pages = |bytes: usize| bytes.max(1).next_multiple_of(4096);
        let pool = |slots: usize, bytes| {
            BufferPool::new(slots.max(1), whole_pages(bytes), settings.huge_pages)
        };
        Ok(Self {
            small: pool(settings.small_buffers, settings.small_buffer_bytes)?,
            large: pool(settings.large_buffers, settings.large_buffer_bytes)?,
        })
    }

    /// A buffer of at least `length_bytes`, without waiting: of the smallest class that fits and has one left,
    /// else from the heap (then not for O_DIRECT).
    pub fn take(&self, length_bytes: usize) -> Buffer {
        [&self.small, &self.large]
            .into_iter()
            .filter(|pool| pool.slot_bytes() >= length_bytes)
            .find_map(BufferPool::try_take)
            .unwrap_or_else(|| Buffer::unpooled(length_bytes))
    }

    /// Buffers handed out now, both classes.
    pub fn in_use(&self) -> usize {
        [&self.small, &self.large]
            .iter()
            .map(|pool| pool.slots() - pool.free_slots())
            .sum()
    }

    /// Address and length of each region, in the order of [`ReadBuffers::region_index`].
    pub(crate) fn regions(&self) -> [(*mut u8, usize); 2] {
        [self.small.region(), self.large.region()]
    }

    /// The region that a buffer lies in.
    pub(crate) fn region_index(&self, buffer: &Buffer) -> Option<u16> {
        if buffer.belongs_to(&self.small) {
            Some(0)
        } else if buffer.belongs_to(&self.large) {
            Some(1)
        } else {
            None
        }
    }
}

/// Carries out reads and fills for every cache disk of the daemon.
pub struct Engine {
    buffers: Arc<ReadBuffers>,
    readers: Readers,
    fills: Option<FillRing>,
    plain_fills: PlainFills,
    report: Mutex<EngineReport>,
    numa_aware: bool,
    numa_placed: AtomicBool,
}

enum Readers {
    Uring {
        rings: Vec<ReadRing>,
        polled: Option<ReadRing>,
        next: AtomicUsize,
        lone: LoneRead,
    },
    Blocking(WorkerPool<ReadRequest>),
}

/// A small read with no other beside it is carried out by its caller: handing it to a ring's thread and
/// waking that costs a third of what the disk takes. One at a time, so that a disk that hangs holds one caller.
struct LoneRead {
    /// Whether such reads are made: not where a way of submitting was asked for.
    wanted: bool,
    under_way: AtomicBool,
}

impl LoneRead {
    const BYTES_MAX: usize = 64 << 10;

    fn try_enter(&self, rings: &[ReadRing], request: &ReadRequest) -> bool {
        self.wanted
            && request.length_bytes <= Self::BYTES_MAX
            && rings.iter().all(ReadRing::is_idle)
            && !self.under_way.swap(true, Ordering::Acquire)
    }

    fn leave(&self) {
        self.under_way.store(false, Ordering::Release);
    }
}

impl Engine {
    /// Starts the engine's threads; call it after the last fork. Where io_uring is not to be had the
    /// blocking engine runs, and the report says why. Fails only without memory for the buffers.
    pub fn start(settings: EngineSettings) -> io::Result<Arc<Self>> {
        let buffers = Arc::new(ReadBuffers::new(&settings)?);
        let fill_parallelism = settings.fill_parallelism.clamp(1, 64);
        let plain_fills = PlainFills {
            workers: Arc::new(WorkerPool::<FillWork>::new("cache-fill", fill_parallelism)),
            buffers: Arc::new(BufferPool::new(
                fill_parallelism,
                CHAIN_MAX_BYTES as usize,
                false,
            )?),
        };
        let mut report = EngineReport {
            engine: "uring",
            reason: String::new(),
            features: Vec::new(),
        };
        let started = match settings.kind {
            EngineKind::Blocking => Err("asked for".to_owned()),
            EngineKind::Auto | EngineKind::Uring => ring::usable().and_then(|()| {
                let readers = start_rings(&settings, &buffers, &mut report)
                    .map_err(|error| format!("io_uring for reads: {error}"))?;
                let fills = FillRing::start(fill_parallelism, plain_fills.clone())
                    .map_err(|error| format!("io_uring for fills: {error}"))?;
                Ok((readers, fills))
            }),
        };
        let (readers, fills) = match started {
            Ok((readers, fills)) => {
                report.reason =
                    "io_uring and all its operations used here are available".to_owned();
                (readers, Some(fills))
            }
            Err(reason) => {
                report.engine = "blocking";
                report.reason = reason;
                report_rings_missing(&settings, &mut report);
                let threads = settings.queue_depth.clamp(1, BLOCKING_READERS_MAX);
                let pool = WorkerPool::new("cache-read", threads as usize);
                (Readers::Blocking(pool), None)
            }
        };
        if settings.huge_pages {
            let outcome = buffers.large.huge_pages();
            let in_use = outcome.is_ok();
            let detail = outcome.unwrap_or_else(|reason| reason);
            report.set("huge_pages", in_use, detail);
        }
        if settings.numa_aware {
            let detail = match fills {
                Some(_) => "no cache disk opened yet",
                None => "the blocking engine's threads run anywhere",
            };
            report.set("numa", false, detail);
        }
        Ok(Arc::new(Self {
            buffers,
            readers,
            fills,
            plain_fills,
            report: Mutex::new(report),
            numa_aware: settings.numa_aware,
            numa_placed: AtomicBool::new(false),
        }))
    }

    pub fn report(&self) -> EngineReport {
        self.report.lock().clone()
    }

    pub fn buffers(&self) -> &ReadBuffers {
        &self.buffers
    }

    /// See [`ReadBuffers::take`].
    pub fn take_buffer(&self, length_bytes: usize) -> Buffer {
        self.buffers.take(length_bytes)
    }

    /// Takes nothing more (later requests complete with ECANCELED), cancels what has not begun, waits two seconds
    /// at most for reads under way, and for fills not at all: those in a hung backend complete when it
    /// answers, if the process still lives.
    pub fn shutdown(&self) {
        self.stop(READ_GRACE);
    }

    fn stop(&self, grace: Duration) {
        if let Some(fills) = &self.fills {
            fills.stop();
        }
        self.plain_fills.workers.stop(Duration::ZERO);
        match &self.readers {
            Readers::Uring { rings, polled, .. } => {
                for ring in polled.iter().chain(rings) {
                    ring.stop(grace);
                }
            }
            Readers::Blocking(pool) => pool.stop(grace),
        }
    }

    /// Starts a read; the request's length fits its buffer.
    pub(crate) fn read(&self, request: ReadRequest, polled_disk: bool) {
        match &self.readers {
            Readers::Blocking(pool) => pool.submit(request),
            Readers::Uring {
                rings,
                polled,
                next,
                lone,
            } => match polled {
                Some(ring) if polled_disk && request.direct.is_some() => ring.submit(request),
                _ if lone.try_enter(rings, &request) => {
                    request.carry_out();
                    lone.leave();
                }
                _ => rings[next.fetch_add(1, Ordering::Relaxed) % rings.len()].submit(request),
            },
        }
    }

    /// Starts a read on the ring that polls, where there is one.
    pub(crate) fn read_polled(&self, request: ReadRequest) {
        match &self.readers {
            Readers::Uring {
                polled: Some(ring), ..
            } => ring.submit(request),
            _ => self.read(request, false),
        }
    }

    /// Starts a fill; the request has been checked.
    pub(crate) fn fill(&self, request: FillRequest) {
        match &self.fills {
            Some(ring) => ring.submit(request),
            None => self.plain_fills.submit(request),
        }
    }

    /// Whether this is the engine with io_uring.
    pub(crate) fn has_rings(&self) -> bool {
        self.fills.is_some()
    }

    /// Whether there is a ring that polls for completions, so that a disk may be tried with it.
    pub(crate) fn has_polled_reads(&self) -> bool {
        matches!(
            &self.readers,
            Readers::Uring {
                polled: Some(_),
                ..
            }
        )
    }

    /// Keeps what a disk turned out to be able to do.
    pub(crate) fn report_polling(&self, in_use: bool, detail: String) {
        let mut report = self.report.lock();
        let known = report
            .features
            .iter()
            .any(|f| f.name == "polling" && f.in_use);
        if in_use || !known {
            report.set("polling", in_use, detail);
        }
    }

    /// Moves the rings' threads next to the disk with this device number, once, if that was asked for.
    pub(crate) fn place_near(&self, device_major: u32, device_minor: u32) {
        if !self.numa_aware || self.numa_placed.load(Ordering::Relaxed) {
            return;
        }
        let Readers::Uring { rings, polled, .. } = &self.readers else {
            return;
        };
        let threads = rings
            .iter()
            .chain(polled)
            .map(ReadRing::thread)
            .chain(self.fills.iter().map(|ring| ring.thread));
        let outcome = numa::confine_near(device_major, device_minor, threads);
        self.numa_placed.store(outcome.is_ok(), Ordering::Relaxed);
        let in_use = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|reason| reason);
        self.report.lock().set("numa", in_use, detail);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The last owner may be a completion on one of our own threads: signal, do not wait.
        self.stop(Duration::ZERO);
    }
}

fn start_rings(
    settings: &EngineSettings,
    buffers: &Arc<ReadBuffers>,
    report: &mut EngineReport,
) -> io::Result<Readers> {
    let queue_depth = settings.queue_depth.clamp(1, 4096);
    let fixed = settings.fixed_buffers;
    let start = |submission, other: Option<&ReadRing>| {
        ReadRing::start(submission, queue_depth, buffers.clone(), fixed, other)
    };
    let sqpoll = settings.sq_poll_idle.and_then(|idle| {
        match start(Submission::KernelThread { idle }, None) {
            Ok(started) => {
                let detail = format!("kernel thread, asleep after {} ms", idle.as_millis());
                report.set("sqpoll", true, detail);
                Some(started)
            }
            Err(error) => {
                report.set("sqpoll", false, format!("the kernel refuses it: {error}"));
                None
            }
        }
    });
    let mut started = match sqpoll {
        Some(started) => vec![started],
        None => {
            // One thread reaps a few hundred thousand reads a second; machines with many processors have
            // disks that do more.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            (0..(processors / 8).clamp(1, 4))
                .map(|_| start(Submission::RingThread, None))
                .collect::<io::Result<Vec<_>>>()?
        }
    };
    if fixed {
        match started
            .iter_mut()
            .find_map(|s| s.registration.as_ref().err())
        {
            None => {
                let bytes: usize = buffers.regions().iter().map(|region| region.1).sum();
                report.set("fixed_buffers", true, format!("{bytes} bytes registered"));
            }
            Some(error) => report.set(
                "fixed_buffers",
                false,
                format!("registering failed ({error}); give CAP_IPC_LOCK or raise LimitMEMLOCK"),
            ),
        }
    }
    let rings: Vec<_> = started.into_iter().map(|started| started.ring).collect();
    let polled =
        settings.polling.then(
            || match start(Submission::PolledCompletion, rings.first()) {
                Ok(started) => {
                    report.set("polling", false, "no cache disk opened yet");
                    Some(started.ring)
                }
                Err(error) => {
                    report.set("polling", false, format!("the kernel refuses it: {error}"));
                    None
                }
            },
        );
    Ok(Readers::Uring {
        rings,
        polled: polled.flatten(),
        next: AtomicUsize::new(0),
        lone: LoneRead {
            wanted: settings.sq_poll_idle.is_none() && !settings.polling,
            under_way: AtomicBool::new(false),
        },
    })
}

/// Without rings these have no effect, whatever was found out about them before.
fn report_rings_missing(settings: &EngineSettings, report: &mut EngineReport) {
    let asked = [
        ("sqpoll", settings.sq_poll_idle.is_some()),
        ("polling", settings.polling),
        ("fixed_buffers", settings.fixed_buffers),
    ];
    for (name, asked) in asked {
        if asked {
            report.set(name, false, "the blocking engine has no rings");
        }
    }
}
