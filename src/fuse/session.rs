//! From mounting to unmounted: a [`Channel`] is mounted and negotiated but answers nothing yet; a
//! [`Serving`] has threads that do.

use super::dispatch::Dispatcher;
use super::invalidate;
use super::mount::{self, FuseError, MountPlan, Mounted, UnmountMode};
use super::protocol::{
    self, Handshake, MAX_REQUEST_BYTES, Negotiated, Passthrough, ProtocolReport,
};
use super::registry::KernelRegistry;
use crate::events::Invalidations;
use crate::fs::operations::{BackingRegistry, Operations};
use crate::io::{Buffer, BufferPool};
use crate::sys::fuse_device::FuseDevice;
use crate::watch::Watch;
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A request is its header and arguments beside at most [`MAX_REQUEST_BYTES`] of data.
const READ_BUFFER_BYTES: usize = MAX_REQUEST_BYTES as usize + 4096;

/// Reads that fail one after another, for reasons that do not end a connection, before a thread ends.
const READ_FAILURES_MAX: u32 = 100;

/// How to mount and serve.
#[derive(Clone, Debug)]
pub struct MountSettings {
    pub plan: MountPlan,
    pub passthrough: Passthrough,
    /// Locks come to us; else the kernel keeps them.
    pub locks: bool,
    /// Threads that read requests, at least 1.
    pub reader_threads: usize,
    /// Requests of the kernel's own (readahead, releases) under way at once.
    pub max_background: u16,
    /// How far the kernel reads ahead in cached files.
    pub read_ahead_bytes: u64,
}

/// A mount that nobody serves yet: programs that use it wait. Dropped, it is unmounted.
pub struct Channel {
    mounted: MountGuard,
    device: Arc<FuseDevice>,
    readers: Vec<Arc<FuseDevice>>,
    registry: Arc<KernelRegistry>,
    report: ProtocolReport,
    settings: MountSettings,
}

impl Channel {
    /// Mounts and negotiates; on error nothing stays mounted. Blocks for a few milliseconds. No thread
    /// is started, so the process may still fork afterwards.
    pub fn mount(settings: MountSettings) -> Result<Self, FuseError> {
        let (opened, mounted) = mount::mount(&settings.plan)?;
        let mounted = MountGuard(Arc::new(mounted));
        let device = Arc::new(opened.duplicate().map_err(FuseError::Device)?);
        let negotiated = negotiate(&settings, opened)?;
        let (readers, shared_device) = reader_devices(&device, settings.reader_threads.max(1))?;
        let passthrough = probe_passthrough(&settings, &negotiated, &device);
        let number = mounted.0.device_number();
        let report = ProtocolReport {
            kernel_version: negotiated.version,
            flags: protocol::names(negotiated.in_use),
            missing_flags: protocol::names(negotiated.missing),
            passthrough,
            shared_device,
            read_ahead_bytes: mount::set_read_ahead(number, settings.read_ahead_bytes)
                .map_err(|error| error.to_string()),
            max_request_bytes: MAX_REQUEST_BYTES,
            device: number,
        };
        Ok(Self {
            registry: Arc::new(KernelRegistry::new(&device, report.passthrough.is_ok())),
            mounted,
            device,
            readers,
            report,
            settings,
        })
    }

    /// Registers files for passthrough on this connection.
    pub fn registry(&self) -> Arc<dyn BackingRegistry> {
        self.registry.clone()
    }

    pub fn protocol(&self) -> &ProtocolReport {
        &self.report
    }

    /// Starts the threads that answer, and those that tell the kernel what to forget.
    pub fn serve<O: Operations + ?Sized>(
        self,
        operations: Arc<O>,
        invalidations: Invalidations,
        watch: Arc<Watch>,
    ) -> Result<Serving, FuseError> {
        let plan = &self.settings.plan;
        let dispatcher = Arc::new(Dispatcher::new(
            operations,
            plan.access,
            nix::unistd::getuid().as_raw(),
            MAX_REQUEST_BYTES as usize,
            watch,
        ));
        let buffers = BufferPool::new(self.readers.len(), READ_BUFFER_BYTES, false)
            .map_err(FuseError::Memory)?;
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let mut serving = Serving {
            mounted: self.mounted,
            readers: Vec::new(),
            invalidators: Vec::new(),
            stop: Some(stop),
            report: self.report,
        };
        let Invalidations { waiting, quick } = invalidations;
        for (name, queue) in [("fuse-forget", waiting), ("fuse-forget-attr", quick)] {
            let (device, stopped) = (self.device.clone(), stopped.clone());
            serving.invalidators.push(spawn(name, move || {
                invalidate::run(&device, &queue, &stopped)
            })?);
        }
        for (index, device) in self.readers.into_iter().enumerate() {
            let dispatcher = dispatcher.clone();
            let buffer = buffers.try_take().expect("one slot per reader");
            serving
                .readers
                .push(spawn(&format!("fuse-{index}"), move || {
                    read_requests(&device, &dispatcher, buffer)
                })?);
        }
        Ok(serving)
    }
}

/// A mount that answers. Dropped, it is detached, and its threads end with the last program that
/// lets go of it.
pub struct Serving {
    mounted: MountGuard,
    readers: Vec<JoinHandle<Result<(), FuseError>>>,
    invalidators: Vec<JoinHandle<()>>,
    /// Closing it ends the invalidators.
    stop: Option<Sender<()>>,
    report: ProtocolReport,
}

impl Serving {
    pub fn protocol(&self) -> &ProtocolReport {
        &self.report
    }

    /// Unmounts from any thread, also while another one is in [`Serving::wait`].
    pub fn unmounter(&self) -> Unmounter {
        Unmounter(self.mounted.0.clone())
    }

    /// Unmounts; see [`Mounted::unmount`].
    pub fn unmount(&self, mode: UnmountMode) -> Result<(), FuseError> {
        self.mounted.0.unmount(mode)
    }

    /// Blocks until the filesystem is unmounted and no program uses it any more.
    pub fn wait(mut self) -> Result<(), FuseError> {
        let mut outcome = Ok(());
        for reader in self.readers.drain(..) {
            let ended = reader.join().unwrap_or_else(|_| {
                Err(FuseError::Read(std::io::Error::other(
                    "a reader thread panicked",
                )))
            });
            outcome = outcome.and(ended);
        }
        drop(self.stop.take());
        for invalidator in self.invalidators.drain(..) {
            let _ = invalidator.join();
        }
        outcome
    }
}

/// Unmounts what a [`Serving`] serves.
#[derive(Clone)]
pub struct Unmounter(Arc<Mounted>);

impl Unmounter {
    /// See [`Mounted::unmount`].
    pub fn unmount(&self, mode: UnmountMode) -> Result<(), FuseError> {
        self.0.unmount(mode)
    }
}

/// Detaches on drop, so that no error path leaves a dead mount behind.
struct MountGuard(Arc<Mounted>);

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Err(error) = self.0.unmount(UnmountMode::Detach) {
            tracing::warn!("{error}");
        }
    }
}

/// Lets fuser answer INIT on `device`.
fn negotiate(settings: &MountSettings, device: FuseDevice) -> Result<Negotiated, FuseError> {
    let result = Arc::new(Mutex::new(None));
    let handshake = Handshake {
        passthrough: settings.passthrough,
        max_background: settings.max_background,
        locks: settings.locks,
        default_permissions: settings.plan.default_permissions,
        result: result.clone(),
    };
    // The session ends here: its descriptor is closed, ours is another one of the same open device.
    fuser::Session::from_fd(
        handshake,
        device.into_descriptor(),
        protocol::session_acl(settings.plan.access),
        fuser::Config::default(),
    )
    .map_err(FuseError::Negotiation)?;
    let negotiated = *result.lock();
    negotiated.ok_or_else(|| FuseError::Negotiation(std::io::Error::other("INIT never came")))
}

/// One device per reader, clones where the kernel makes them, else all the same one and why.
fn reader_devices(
    device: &Arc<FuseDevice>,
    count: usize,
) -> Result<(Vec<Arc<FuseDevice>>, Option<String>), FuseError> {
    let mut readers = vec![device.clone()];
    while readers.len() < count {
        match device.clone_connection() {
            Ok(clone) => readers.push(Arc::new(clone)),
            Err(error) => return Ok((vec![device.clone(); count], Some(error.to_string()))),
        }
    }
    Ok((readers, None))
}

/// Whether files can be registered: negotiated, and allowed to this process.
fn probe_passthrough(
    settings: &MountSettings,
    negotiated: &Negotiated,
    device: &FuseDevice,
) -> Result<(), String> {
    if settings.passthrough == Passthrough::Off {
        return Err("switched off".to_owned());
    }
    if !negotiated.has_passthrough() {
        return Err("this kernel does not have it (Linux 6.9)".to_owned());
    }
    let probe =
        nix::sys::memfd::memfd_create(c"passthrough-probe", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .map_err(|error| format!("no file to try it with: {error}"))?;
    match device.register_backing(probe.as_fd()) {
        Ok(id) => device
            .unregister_backing(id)
            .map_err(|error| error.to_string()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err("it needs CAP_SYS_ADMIN".to_owned())
        }
        Err(error) => Err(format!("the kernel refuses to register files: {error}")),
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, FuseError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(FuseError::Thread)
}

/// Reads and dispatches until the connection ends. A panic costs its request an EIO, not the thread.
fn read_requests<O: Operations + ?Sized>(
    device: &Arc<FuseDevice>,
    dispatcher: &Dispatcher<O>,
    mut buffer: Buffer,
) -> Result<(), FuseError> {
    // Present before the kernel copies into it, so that no request is lost to a page fault.
    buffer.fill(0);
    let mut failures = 0;
    loop {
        match device.read(&mut buffer) {
            Ok(length_bytes) => {
                failures = 0;
                let request = &buffer[..length_bytes];
                let handled =
                    catch_unwind(AssertUnwindSafe(|| dispatcher.dispatch(device, request)));
                if handled.is_err() {
                    tracing::error!("a request handler panicked; its request got EIO");
                }
            }
            // The request was given up between being queued and being read; or a signal came.
            Err(nix::Error::ENOENT | nix::Error::EINTR | nix::Error::EAGAIN) => {}
            Err(nix::Error::ENODEV | nix::Error::ECONNABORTED) => return Ok(()),
            Err(error) => {
                failures += 1;
                tracing::error!("reading a request: {error}");
                if failures == READ_FAILURES_MAX {
                    return Err(FuseError::Read(error.into()));
                }
                std::thread::sleep(Duration::from_millis(u64::from(failures)));
            }
        }
    }
}
