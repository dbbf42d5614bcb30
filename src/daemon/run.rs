//! Serving until the end: signals, the end of the session, shutdown in bounded time.

use super::assemble::Assembled;
use super::background::Announcer;
use super::control::{ControlSocket, Handlers, socket_directory};
use super::error::exit_status;
use super::guard::Guard;
use super::mount_table;
use super::prepare::{Prepared, with_timeout};
use super::prometheus::{MapSource, MetricsServer, StatusSource};
use super::reload::Configuration;
use super::start::MountRequest;
use super::status::{OptionStatus, State, Status};
use super::utab;
use super::{unmount, watchdog};
use crate::config::{Origin, Settings};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::sys::signal::{SigSet, Signal};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long programs that use the mount may hold up an end that was asked for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
const BUSY_RETRY: Duration = Duration::from_millis(100);
/// How long the session may go on after the mount was detached.
const DETACHED_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the components may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

const REMOUNTED: &str =
    "remounted read-only: nothing can be written here; mount -o remount,rw takes it back";

/// What the life of a mount waits for.
enum Event {
    StopAsked(&'static str),
    SessionEnded(anyhow::Result<()>),
}

/// Blocks the signals that [`serve`] waits for. Called before the first thread starts, which inherits
/// this.
pub fn block_signals() -> io::Result<()> {
    crate::sys::process::ignore_signals(&[
        Signal::SIGPIPE,
        Signal::SIGIO,
        // Sent to daemons by those who take them for requests to reopen logs or to tell statistics.
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ])?;
    let mut blocked = waited_signals();
    // Ignored all the same, it comes to the thread that waits for it (src/backend/alone.rs).
    blocked.add(Signal::SIGIO);
    Ok(blocked.thread_block()?)
}

fn waited_signals() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals
}

/// Serves until the mount is gone, then ends every part within bounded time. Returns the exit
/// status; the caller leaves by `_exit`, because threads may hang in the backend for good.
pub fn serve(
    assembled: Assembled,
    request: MountRequest,
    prepared: Prepared,
    announcer: Announcer,
) -> i32 {
    let settings = &request.resolved.settings;
    let (sender, receiver) = unbounded();
    let stopping = Arc::new(AtomicBool::new(false));
    let Assembled {
        wait,
        shutdown,
        status,
        evict,
        pins,
        why,
        scrub,
        apply,
        journal,
        back,
        watch,
        map,
        warnings,
    } = assembled;
    let configuration = Configuration::new(request.given, request.resolved.clone(), apply);
    let backend_timeout = settings.backend_timeout;
    let status = complete_status(status, &configuration, &prepared, stopping.clone());
    let (metrics, refused) = serve_metrics(settings, &status, map);
    let warnings: Vec<String> = warnings.into_iter().chain(refused.clone()).collect();
    let handlers = Handlers {
        status: Box::new(move || with_metrics(status(), refused.as_deref())),
        evict,
        pins,
        why,
        scrub,
        reload: {
            let configuration = configuration.clone();
            Box::new(move || configuration.reload())
        },
        journal,
        back,
        watch,
        stop: {
            let sender = sender.clone();
            Box::new(move || {
                let _ = sender.send(Event::StopAsked("the control socket"));
            })
        },
    };
    let control = ControlSocket::serve(
        &socket_directory(),
        &prepared.mountpoint,
        Arc::new(handlers),
    )
    .inspect_err(|error| tracing::warn!("no control socket, `status` will not work: {error}"))
    .ok();
    if let Err(error) = start_waiters(sender, wait, configuration) {
        tracing::error!("starting threads: {error}");
        announcer.failed(exit_status::SYSTEM, &format!("starting threads: {error}"));
        let _ = unmount::detach(&prepared.mountpoint);
        return exit_status::SYSTEM;
    }
    let name = called(settings, &prepared.mountpoint);
    tracing::info!("{name} serves {}", prepared.backend_path.display());
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    // Before anybody can unmount it.
    utab::note(&prepared.mountpoint);
    notify_systemd(sd_notify::NotifyState::Ready);
    if let Err(error) = watchdog::start(&prepared.mountpoint, backend_timeout) {
        tracing::warn!("no watchdog: {error}");
    }
    if let Err(error) = announcer.serving(&warnings) {
        tracing::warn!("telling that the mount serves: {error}");
    }
    let guard = Guard::start(&prepared.mountpoint)
        .inspect_err(|error| tracing::warn!("no guard: {error}"))
        .ok();
    let exit_status = wait_for_end(&receiver, &prepared.mountpoint, &stopping);
    stopping.store(true, Ordering::Release);
    drop(guard);
    notify_systemd(sd_notify::NotifyState::Stopping);
    end_components(shutdown);
    drop((control, metrics));
    // Unlocked by hand: a thread lost in the backend would keep the lock's descriptor.
    drop(prepared);
    tracing::info!("{name} has ended");
    exit_status
}

/// A mount serves without its metrics: why there are none is said where the administrator looks.
fn serve_metrics(
    settings: &Settings,
    status: &StatusSource,
    map: MapSource,
) -> (Option<MetricsServer>, Option<String>) {
    let Some(address) = &settings.metrics else {
        return (None, None);
    };
    match MetricsServer::start(address, status.clone(), map) {
        Ok(server) => (Some(server), None),
        Err(error) => (None, Some(format!("no metrics at {address}: {error}"))),
    }
}

fn with_metrics(mut status: Status, refused: Option<&str>) -> Status {
    if let Some(refused) = refused {
        status.warnings.push(refused.to_owned());
        let options = status.options.iter_mut();
        for option in options.filter(|option| option.name == "metrics") {
            option.no_effect_because = Some(refused.to_owned());
        }
    }
    status
}

/// The mountpoint, and the name the operator gave the mount if any.
fn called(settings: &Settings, mountpoint: &Path) -> String {
    match &settings.name {
        Some(name) => format!("{name} ({})", mountpoint.display()),
        None => mountpoint.display().to_string(),
    }
}

fn notify_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("systemd: {error}");
    }
}

/// Two threads: one takes signals, one waits for the session.
fn start_waiters(
    sender: Sender<Event>,
    wait: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
    configuration: Arc<Configuration>,
) -> io::Result<()> {
    let signal_sender = sender.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = waited_signals().wait() {
                if signal == Signal::SIGHUP {
                    configuration.reload_apart();
                    continue;
                }
                if signal_sender
                    .send(Event::StopAsked(signal.as_str()))
                    .is_err()
                {
                    return;
                }
            }
        })?;
    std::thread::Builder::new()
        .name("session".to_owned())
        .spawn(move || {
            let _ = sender.send(Event::SessionEnded(wait()));
        })?;
    Ok(())
}

/// Waits for the session's end, bringing it about when asked to stop.
fn wait_for_end(receiver: &Receiver<Event>, mountpoint: &Path, stopping: &AtomicBool) -> i32 {
    match receiver.recv() {
        Ok(Event::SessionEnded(result)) => return session_status(result),
        Ok(Event::StopAsked(by)) => tracing::info!("asked to stop by {by}"),
        Err(_) => return exit_status::SYSTEM,
    }
    stopping.store(true, Ordering::Release);
    notify_systemd(sd_notify::NotifyState::Stopping);
    let mount = mount_table::topmost_at(mountpoint).ok().flatten();
    if let Err(error) = take_away(mountpoint) {
        tracing::error!("unmounting {}: {error}", mountpoint.display());
    }
    let deadline = Instant::now() + DETACHED_TIMEOUT;
    loop {
        match receiver.recv_deadline(deadline) {
            Ok(Event::SessionEnded(result)) => return session_status(result),
            Ok(Event::StopAsked(_)) => {}
            Err(_) => {
                tracing::warn!("programs still use the mount; they get errors from now on");
                // Not by our end alone, which may wait for them (see `guard`).
                mount
                    .as_ref()
                    .filter(|mount| mount.is_cachefs())
                    .inspect(|mount| unmount::abort(mount));
                return exit_status::SUCCESS;
            }
        }
    }
}

fn session_status(result: anyhow::Result<()>) -> i32 {
    match result {
        Ok(()) => exit_status::SUCCESS,
        Err(error) => {
            tracing::error!("the session ended with an error: {error:#}");
            exit_status::SYSTEM
        }
    }
}

/// Unmounts; when programs use the mount for longer than [`BUSY_TIMEOUT`], detaches it.
fn take_away(mountpoint: &Path) -> io::Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match nix::mount::umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(BUSY_RETRY),
            Err(_) => return unmount::detach(mountpoint),
        }
    }
}

fn end_components(shutdown: Box<dyn FnOnce() + Send>) {
    match with_timeout(SHUTDOWN_TIMEOUT, shutdown) {
        Ok(Some(())) => {}
        Ok(None) => tracing::warn!(
            "shutdown took longer than {} s and is cut off",
            SHUTDOWN_TIMEOUT.as_secs()
        ),
        Err(error) => tracing::error!("shutdown: {error}"),
    }
}

/// Adds to the components' status what the life cycle knows.
fn complete_status(
    status: Box<dyn Fn() -> Status + Send + Sync>,
    configuration: &Arc<Configuration>,
    prepared: &Prepared,
    stopping: Arc<AtomicBool>,
) -> StatusSource {
    let started = Instant::now();
    let mountpoint = prepared.mountpoint.to_string_lossy().into_owned();
    let configuration = configuration.clone();
    let name = configuration.name().unwrap_or_else(|| mountpoint.clone());
    Arc::new(move || {
        let mut status = status();
        if stopping.load(Ordering::Acquire) {
            status.state = State::Stopping;
        }
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.pid = std::process::id();
        status.name.clone_from(&name);
        status.mountpoint.clone_from(&mountpoint);
        if !status.read_only && is_shown_read_only(Path::new(&mountpoint)) {
            status.warnings.push(REMOUNTED.to_owned());
        }
        status.uptime_seconds = started.elapsed().as_secs();
        let reports = std::mem::take(&mut status.options);
        status.options = with_reports(&configuration.in_effect(), &reports);
        status
    })
}

/// The kernel refuses changes by itself then, and does not say so to the daemon.
fn is_shown_read_only(mountpoint: &Path) -> bool {
    let mount = mount_table::topmost_at(mountpoint).ok().flatten();
    mount.is_some_and(|mount| mount.is_cachefs() && mount.shows("ro"))
}

fn with_reports(
    in_effect: &[(&'static str, String, Origin)],
    reports: &[OptionStatus],
) -> Vec<OptionStatus> {
    in_effect
        .iter()
        .map(|(name, value, origin)| {
            let report = reports.iter().find(|report| report.name == *name);
            OptionStatus {
                name: (*name).to_owned(),
                value: report
                    .filter(|report| !report.value.is_empty())
                    .map_or_else(|| value.clone(), |report| report.value.clone()),
                from: report
                    .filter(|report| !report.from.is_empty())
                    .map_or_else(|| origin.to_string(), |report| report.from.clone()),
                no_effect_because: report.and_then(|report| report.no_effect_because.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_can_say_why_an_option_has_no_effect() {
        let in_effect = [
            ("passthrough", "auto".to_owned(), Origin::Fstab),
            ("log", "info".to_owned(), Origin::Default),
        ];
        let report = OptionStatus {
            name: "passthrough".to_owned(),
            value: String::new(),
            from: String::new(),
            no_effect_because: Some("Linux 6.9 is needed".to_owned()),
        };
        let options = with_reports(&in_effect, &[report]);
        assert_eq!(options[0].value, "auto");
        assert_eq!(
            options[0].no_effect_because.as_deref(),
            Some("Linux 6.9 is needed")
        );
        assert_eq!(
            (&*options[0].from, &*options[1].from),
            ("/etc/fstab", "default")
        );
        assert_eq!(options[1].no_effect_because, None);
    }

    #[test]
    fn a_session_that_ends_by_itself_ends_the_wait() {
        let (sender, receiver) = unbounded();
        let stopping = AtomicBool::new(false);
        sender.send(Event::SessionEnded(Ok(()))).expect("open");
        assert_eq!(
            wait_for_end(&receiver, Path::new("/nonexistent"), &stopping),
            0
        );
        sender
            .send(Event::SessionEnded(Err(anyhow::anyhow!("aborted"))))
            .expect("open");
        assert_eq!(
            wait_for_end(&receiver, Path::new("/nonexistent"), &stopping),
            exit_status::SYSTEM
        );
    }
}
