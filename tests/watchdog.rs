//! What systemd is told of a mount, by whoever plays it here.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::mount::PROGRAM;
use support::scratch::mount_at;
use support::*;

const LIMIT: Duration = Duration::from_secs(20);
const PERIOD: Duration = Duration::from_secs(1);

struct Service {
    manager: UnixDatagram,
    child: Child,
    options: MountOptions,
}

impl Service {
    fn start(scratch: &Scratch, backend: &FaultBackend) -> Self {
        let socket = scratch.path().join("notify.sock");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        let options = MountOptions::new(scratch)
            .with("backend_timeout=2s")
            .with("revalidate_timeout=200ms");
        let mut command = Command::new(PROGRAM);
        command
            .arg("mount")
            .arg(&backend.mountpoint)
            .arg(&options.mountpoint)
            .args(["-f", "-o", &options.option_text()])
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", PERIOD.as_micros().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = support::process::spawn(command).expect("the program starts");
        scratch.processes().add(child.id() as i32);
        let service = Self {
            manager,
            child,
            options,
        };
        service.wait_for("READY=1");
        service
    }

    fn next(&self) -> String {
        let mut message = [0; 512];
        let length = self.manager.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    fn wait_for(&self, wanted: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.next().contains(wanted) {
            assert!(Instant::now() < deadline, "no {wanted}");
        }
    }

    fn empty(&self) {
        self.manager.set_nonblocking(true).unwrap();
        while self.manager.recv(&mut [0; 512]).is_ok() {}
        self.manager.set_nonblocking(false).unwrap();
    }
}

#[test]
fn the_watchdog_hears_of_a_mount_as_long_as_it_serves_whatever_the_backend_does() {
    let scratch = Scratch::new("watchdog");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    fs::write(backend.plain.join("file"), "x").unwrap();
    let mut service = Service::start(&scratch, &backend);
    for _ in 0..3 {
        service.wait_for("WATCHDOG=1");
    }
    // A server that hangs is no fault of the daemon's.
    backend.stop();
    let began = Instant::now();
    while began.elapsed() < 4 * PERIOD {
        service.wait_for("WATCHDOG=1");
    }
    backend.resume();
    // A daemon that stands still is.
    let pid = service.child.id() as i32;
    support::process::send(pid, nix::sys::signal::Signal::SIGSTOP);
    service.empty();
    service.manager.set_read_timeout(Some(2 * PERIOD)).unwrap();
    assert!(service.manager.recv(&mut [0; 512]).is_err());
    service.manager.set_read_timeout(Some(LIMIT)).unwrap();
    support::process::send(pid, nix::sys::signal::Signal::SIGCONT);
    service.wait_for("WATCHDOG=1");
    support::process::send(pid, nix::sys::signal::Signal::SIGTERM);
    service.wait_for("STOPPING=1");
    let ended = support::process::wait_for(&mut service.child, LIMIT);
    assert!(ended.is_some_and(|status| status.success()));
    assert!(mount_at(&service.options.mountpoint).is_none());
}

#[test]
fn a_restart_after_kill_9_leaves_a_mount_that_is_connected() {
    let scratch = Scratch::new("restart");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    fs::write(backend.plain.join("file"), "x").unwrap();
    let mut service = Service::start(&scratch, &backend);
    let file = service.options.mountpoint.join("file");
    assert_eq!(fs::read(&file).unwrap(), b"x");
    for _ in 0..sample_or_full(2, 20) {
        support::process::kill_now(service.child.id() as i32);
        support::process::wait_for(&mut service.child, LIMIT).expect("it ends");
        let error = fs::read(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
        // What Restart=on-failure does: the same command once more.
        fs::remove_file(scratch.path().join("notify.sock")).unwrap();
        service = Service::start(&scratch, &backend);
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
    support::process::send(service.child.id() as i32, nix::sys::signal::Signal::SIGTERM);
    let ended = support::process::wait_for(&mut service.child, LIMIT);
    assert!(ended.is_some_and(|status| status.success()));
}
