//! The service manager's watchdog (systemd.service(5), WatchdogSec): it is told again and again that the daemon serves, as
//! long as a request through the mount is answered.
//!
//! The request is one that the daemon answers by itself. On its way the kernel may ask for the root's attributes, for
//! which the daemon may wait for the backend: so much patience there is.

use crate::sys::xattr;
use crate::types::warming::ROOM_ATTRIBUTE;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So often within the period that the service manager waits.
const TIMES_A_PERIOD: u32 = 4;

/// Starts its threads where the service manager asks for that. An answer may take as long as the backend may,
/// `backend_timeout`, and half a period longer.
pub fn start(mountpoint: &Path, backend_timeout: Duration) -> io::Result<()> {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    let mountpoint = mountpoint.to_owned();
    watch(
        period / TIMES_A_PERIOD,
        backend_timeout + period / 2,
        move || is_answered(&mountpoint),
        || {
            if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                tracing::debug!("systemd: {error}");
            }
        },
    )
}

/// Whether the daemon answered, with whatever answer.
fn is_answered(mountpoint: &Path) -> bool {
    let answer = xattr::get_by_path(mountpoint, OsStr::new(ROOM_ATTRIBUTE));
    let error = answer.err().and_then(|error| error.raw_os_error());
    !matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Asks on one thread, which may be lost, and tells on another as long as there was an answer within `patience`.
fn watch(
    interval: Duration,
    patience: Duration,
    ask: impl Fn() -> bool + Send + 'static,
    tell: impl Fn() + Send + 'static,
) -> io::Result<()> {
    let answered = Arc::new(Mutex::new(Instant::now()));
    let seen = answered.clone();
    std::thread::Builder::new()
        .name("watchdog-probe".to_owned())
        .spawn(move || {
            loop {
                if ask() {
                    *answered.lock() = Instant::now();
                }
                std::thread::sleep(interval);
            }
        })?;
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || {
            let mut is_silent = false;
            loop {
                let waited = seen.lock().elapsed();
                if waited <= patience {
                    tell();
                } else if !is_silent {
                    tracing::error!(
                        "no request was answered for {} s: the service manager is to end this",
                        waited.as_secs()
                    );
                }
                is_silent = waited > patience;
                std::thread::sleep(interval);
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const INTERVAL: Duration = Duration::from_millis(5);

    #[test]
    fn it_falls_silent_when_nothing_is_answered_and_speaks_again() {
        let (told, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(true)));
        let (telling, asking) = (told.clone(), answers.clone());
        watch(
            INTERVAL,
            10 * INTERVAL,
            move || *asking.lock(),
            move || {
                telling.fetch_add(1, Ordering::AcqRel);
            },
        )
        .expect("threads");
        let times = || told.load(Ordering::Acquire);
        let wait_for = |condition: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !condition() {
                assert!(Instant::now() < deadline);
                std::thread::sleep(INTERVAL);
            }
        };
        wait_for(&|| times() > 3);
        // It waits for the answer that never comes.
        let held = answers.lock();
        wait_for(&|| {
            let before = times();
            std::thread::sleep(20 * INTERVAL);
            times() == before
        });
        drop(held);
        let before = times();
        wait_for(&|| times() > before);
    }
}
