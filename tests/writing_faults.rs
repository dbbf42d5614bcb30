//! A backend that fails or hangs while it is written to: the program is told, once; nobody else is delayed; what was
//! acknowledged is there; nothing wrong is left in the cache.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use support::writing::{self, open_with};
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const BACKEND_TIMEOUT: Duration = Duration::from_secs(3);

struct Place {
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

impl Place {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        let options = MountOptions::new(&scratch)
            .with(&format!("backend_timeout={}s", BACKEND_TIMEOUT.as_secs()));
        let mount = Mount::start(&scratch, &backend.mountpoint, options);
        Self {
            mount,
            backend,
            scratch,
        }
    }

    fn fail(&self, operation: Operation, errno: i32, calls: u64) {
        let rule = Rule::new(operation, "file*", Action::Errno(errno)).limit_calls(calls);
        self.backend.add_rule(rule);
    }

    /// The mount shows what the backend has.
    fn expect_agreement(&self, name: &str) {
        let here = fs::read(self.mount.join(name)).unwrap();
        assert!(
            here == fs::read(self.backend.plain.join(name)).unwrap(),
            "{name} differs"
        );
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// close(2), whose error the standard library drops.
fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn create(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

#[test]
fn an_error_of_a_write_reaches_the_program_and_nothing_wrong_is_kept() {
    let place = Place::new("write-errors");
    fs::write(place.backend.plain.join("file"), vec![1u8; 400_000]).unwrap();
    let path = place.mount.join("file");
    assert_eq!(fs::read(&path).unwrap().len(), 400_000);
    for code in [
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EIO,
        libc::ESTALE,
        libc::EFBIG,
    ] {
        let file = open_with(&path, 0).unwrap();
        place.fail(Operation::Write, code, 1);
        assert_eq!(errno(file.write_all_at(&[2; 5000], 70_000)), Some(code));
        // Told once: the next one works, and so does close.
        file.write_all_at(&[3; 5000], 90_000).unwrap();
        close(file).unwrap();
        place.expect_agreement("file");
        place.backend.clear_rules();
    }
}

#[test]
fn an_error_of_a_sync_reaches_fsync_or_close_once() {
    let place = Place::new("sync-errors");
    let path = place.mount.join("file");
    for code in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
        let file = create(&path);
        file.write_all_at(b"bytes", 0).unwrap();
        place.fail(Operation::Fsync, code, 1);
        assert_eq!(errno(file.sync_all()), Some(code), "fsync");
        file.sync_all().unwrap();
        file.write_all_at(b"more", 0).unwrap();
        place.fail(Operation::Fsync, code, 1);
        assert_eq!(errno(close(file)), Some(code), "close");
        place.expect_agreement("file");
    }
}

#[test]
fn errors_of_create_truncation_and_allocation_pass() {
    let place = Place::new("create-errors");
    for code in [
        libc::ENOSPC,
        libc::EACCES,
        libc::EIO,
        libc::EDQUOT,
        libc::EROFS,
    ] {
        place.fail(Operation::Create, code, 1);
        let made = File::create(place.mount.join("file-new"));
        assert_eq!(errno(made), Some(code), "create");
        let file = create(&place.mount.join("file"));
        place.fail(Operation::Setattr, code, 1);
        assert_eq!(errno(file.set_len(10)), Some(code), "ftruncate");
        file.set_len(20).unwrap();
        place.fail(Operation::Fallocate, code, 1);
        assert_eq!(
            errno(writing::allocate(&file, 0, 0, 4096)),
            Some(code),
            "fallocate"
        );
        drop(file);
        place.expect_agreement("file");
        fs::remove_file(place.mount.join("file")).unwrap();
    }
}

#[test]
fn close_and_fsync_sync_the_backend_when_something_was_written_and_only_then() {
    let place = Place::new("sync-counts");
    let syncs = || place.backend.counters().calls(Operation::Fsync);
    let path = place.mount.join("file");
    let file = create(&path);
    file.write_all_at(b"bytes", 0).unwrap();
    assert_eq!(syncs(), 0);
    file.sync_data().unwrap();
    assert_eq!(syncs(), 1);
    close(file).unwrap();
    assert_eq!(syncs(), 1, "nothing was written since");
    let file = create(&path);
    file.write_all_at(b"bytes", 0).unwrap();
    close(file).unwrap();
    assert_eq!(syncs(), 2, "close");
    close(create(&path)).unwrap();
    assert_eq!(syncs(), 2, "nothing was written");
    for flags in [libc::O_SYNC, libc::O_DSYNC, libc::O_DSYNC | libc::O_DIRECT] {
        let before = syncs();
        let file = open_with(&path, flags).unwrap();
        file.write_all_at(b"synchronous", 0).unwrap();
        assert!(syncs() > before, "flags {flags:o}");
    }
}

#[test]
fn a_write_that_hangs_delays_nobody_else_and_ends_in_time() {
    let place = Place::new("hung-write");
    let plain = &place.backend.plain;
    fs::write(plain.join("file"), b"before").unwrap();
    fs::write(plain.join("other"), b"other").unwrap();
    let (path, other) = (place.mount.join("file"), place.mount.join("other"));
    let file = open_with(&path, 0).unwrap();
    let rule = Rule::new(Operation::Write, "file", Action::Hang);
    let rule = place.backend.add_rule(rule);
    let writer = std::thread::spawn(move || {
        let began = Instant::now();
        (
            errno(file.write_all_at(b"behind", 0)),
            began.elapsed(),
            file,
        )
    });
    place.backend.wait_for_hung(1);
    let (read, written) = (other.clone(), place.mount.join("another"));
    with_time_limit(&place.scratch, Duration::from_secs(5), move || {
        let began = Instant::now();
        assert_eq!(fs::read(read).unwrap(), b"other");
        fs::write(written, b"written meanwhile").unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    });
    // The backend answers others: a transfer goes on for as long as it takes.
    place.backend.stop();
    std::thread::sleep(Duration::from_millis(100));
    let (outcome, took, file) = writer.join().unwrap();
    assert_eq!(outcome, Some(libc::ETIMEDOUT));
    assert!(
        took < BACKEND_TIMEOUT * 2 + Duration::from_secs(3),
        "{took:?}"
    );
    place.backend.resume();
    place.backend.remove_rule(rule);
    place.backend.release(None);
    // Its real result is taken over.
    wait_until(LIMIT, "the write to have happened", || {
        fs::read(plain.join("file")).unwrap() == b"behind"
    });
    drop(file);
    wait_until(LIMIT, "the mount to show it", || {
        fs::read(&path).is_ok_and(|bytes| bytes == b"behind")
    });
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_synced_or_closed() {
    let mut place = Place::new("killed-writer");
    for round in 0..5u8 {
        let name = format!("file{round}");
        let synced = create(&place.mount.join(&name));
        synced.write_all_at(&vec![round; 300_000], 0).unwrap();
        synced.sync_all().unwrap();
        fs::write(place.mount.join("closed"), vec![round; 500_000]).unwrap();
        place.mount.kill9();
        assert!(fs::read(place.backend.plain.join(&name)).unwrap() == vec![round; 300_000]);
        assert!(fs::read(place.backend.plain.join("closed")).unwrap() == vec![round; 500_000]);
        drop(synced);
        place.mount.remount();
        place.expect_agreement("closed");
        place.expect_agreement(&name);
    }
}

#[test]
fn a_writer_that_handles_its_signals_is_not_interrupted_and_a_killed_one_is() {
    let place = Place::new("signalled-writer");
    let path = place.mount.join("file");
    fs::write(&path, b"before").unwrap();
    place
        .backend
        .add_rule(Rule::new(Operation::Write, "file", Action::Hang));
    // Signals of an interval timer every 10 ms.
    let script = "import os,signal,sys\n\
        signal.signal(signal.SIGALRM, lambda *a: None)\n\
        f = os.open(sys.argv[1], os.O_WRONLY)\n\
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n\
        os.write(f, b'during')\n";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(&path);
    let mut child = process::spawn(command).unwrap();
    place.backend.wait_for_hung(1);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        child.try_wait().unwrap().is_none(),
        "interrupted by a signal it handles"
    );
    process::kill_now(child.id() as i32);
    let ended = process::wait_for(&mut child, Duration::from_secs(1));
    assert!(ended.is_some(), "a killed writer waits on");
    place.backend.clear_rules();
    place.backend.release(None);
}

/// A file that is written to in place while others read it: each read finds a prefix of what was done.
#[test]
fn a_log_is_followed_while_it_is_written() {
    let place = Place::new("followed-log");
    let path = place.mount.join("file");
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(&path)
        .unwrap();
    let reader = File::open(&path).unwrap();
    let mut expected: Vec<u8> = Vec::new();
    for line in 0..300 {
        let text = format!("line {line}\n");
        log.write_all(text.as_bytes()).unwrap();
        expected.extend(text.as_bytes());
        let mut seen = vec![0; expected.len() + 10];
        let count = reader.read_at(&mut seen, 0).unwrap();
        assert!(seen[..count] == expected, "line {line}: {count} bytes seen");
    }
}
