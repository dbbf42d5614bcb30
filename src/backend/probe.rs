//! Notices that a backend is away behind transfers that take long, or is back: one thread that, while the backend is
//! not simply reachable, asks for the root's attributes every second. It may hang in that for as long as the server does; then its return is the news.

use super::Backend;
use super::health::{CallKind, Health};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(1);

pub fn start(health: Weak<Health>, backend: Arc<dyn Backend>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("backend-probe".into())
        .spawn(move || {
            // Upgraded for one round at a time, so that the daemon's end is noticed within one.
            while let Some(health) = health.upgrade() {
                if !health.wait_until_not_reachable(INTERVAL) {
                    continue;
                }
                ask(&health, &*backend);
                drop(health);
                std::thread::sleep(INTERVAL);
            }
        })
        .map(drop)
}

fn ask(health: &Health, backend: &dyn Backend) {
    // What it answers does not matter; `health` takes note.
    let _ = health.observe(CallKind::Prompt, || backend.root());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DirectoryBackend;
    use crate::backend::health::HealthSettings;
    use crate::backend::testing::scratch;
    use std::time::Instant;

    #[test]
    fn a_backend_that_is_back_is_noticed_without_anybody_asking() {
        let directory = scratch();
        let settings = HealthSettings {
            revalidate_timeout: Duration::from_millis(100),
            backend_timeout: Duration::from_secs(10),
        };
        let health = Health::new(settings, Arc::default());
        let backend = DirectoryBackend::open(directory.path(), Arc::default()).unwrap();
        // A call that never returns: only the probe's answer can end the absence.
        let hung = health.begin(CallKind::Prompt);
        let gone = io::Error::from_raw_os_error(libc::EHOSTDOWN);
        health.begin(CallKind::Prompt).end(Some(&gone));
        assert!(health.is_away());
        health.start_probe(backend).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while health.is_away() {
            assert!(Instant::now() < deadline, "the probe did not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(hung);
    }
}
