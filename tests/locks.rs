//! Locks taken through the mount are locks on the backend: its other clients see them, they end with their owner, and what
//! they let see is no older than they are.

mod support;

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::locking::*;
use support::process::{kill_now, send};
use support::waiter::Waiter;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
/// For what needs no more than an answer of the backend.
const SOON: Duration = Duration::from_secs(2);

struct Scene {
    mount: Mount,
    plain: PathBuf,
    scratch: Scratch,
}

impl Scene {
    fn new(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        std::fs::write(plain.join("file"), vec![b'a'; 600_000]).unwrap();
        let mut mount_options = MountOptions::new(&scratch).with("actimeo=3600");
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &plain, mount_options);
        Self {
            mount,
            plain,
            scratch,
        }
    }

    fn run(&self, work: impl FnOnce(&Path, &Path) + Send + 'static) {
        let (seen, direct) = (self.mount.join("file"), self.plain.join("file"));
        with_time_limit(&self.scratch, LIMIT, move || work(&seen, &direct));
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn try_flock(file: &File, exclusive: bool) -> io::Result<()> {
    let operation = match exclusive {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    Ok(flock(file, operation)?)
}

#[test]
fn a_lock_on_the_whole_file_excludes_other_clients_of_the_backend() {
    let scene = Scene::new("locks-whole", &[]);
    scene.run(|seen, direct| {
        let (here, there) = (open(seen), open(direct));
        let other_here = File::open(seen).unwrap();
        try_flock(&here, true).unwrap();
        for other in [&there, &other_here] {
            assert_eq!(errno(try_flock(other, false)), Some(libc::EWOULDBLOCK));
        }
        // Into a shared one, which others may share.
        try_flock(&here, false).unwrap();
        try_flock(&there, false).unwrap();
        try_flock(&other_here, false).unwrap();
        assert_eq!(errno(try_flock(&there, true)), Some(libc::EWOULDBLOCK));
        flock(&here, FlockOperation::Unlock).unwrap();
        drop(other_here);
        wait_until(SOON, "the closed one's lock to go", || {
            try_flock(&there, true).is_ok()
        });
        assert_eq!(errno(try_flock(&here, false)), Some(libc::EWOULDBLOCK));
        drop(there);
        try_flock(&here, true).unwrap();
    });
}

#[test]
fn a_lock_on_a_range_excludes_other_clients_of_the_backend() {
    let scene = Scene::new("locks-range", &[]);
    scene.run(|seen, direct| {
        for owner in [Owner::Process, Owner::Description] {
            let (here, there) = (open(seen), open(direct));
            lock_range(&here, owner, false, (10, 20)).unwrap();
            let outside = [(0, 10), (30, 0)];
            for range in outside {
                lock_range(&there, Owner::Description, false, range).unwrap();
                unlock_range(&there, Owner::Description, range).unwrap();
            }
            let refused = lock_range(&there, Owner::Description, false, (29, 1));
            assert_eq!(errno(refused), Some(libc::EAGAIN));
            let found = lock_in_the_way(&there, Owner::Description, (0, 0));
            assert_eq!(
                found.map(|found| (found.0, found.1, found.2)),
                Some((libc::F_WRLCK, 10, 20))
            );
            // Half of it goes, half becomes shared.
            unlock_range(&here, owner, (10, 10)).unwrap();
            share_range(&here, owner, (20, 10)).unwrap();
            share_range(&there, Owner::Description, (0, 0)).unwrap();
            let refused = lock_range(&here, owner, false, (25, 1));
            assert!(matches!(errno(refused), Some(libc::EAGAIN | libc::EACCES)));
            let found = lock_in_the_way(&here, owner, (100, 1)).expect("the other client's");
            assert_eq!((found.0, found.1, found.2), (libc::F_RDLCK, 0, 0));
            drop(here);
            drop(there);
        }
    });
}

/// POSIX: a process loses its locks on a file with the first descriptor of it that it closes.
#[test]
fn closing_any_descriptor_lets_go_of_a_processs_locks_and_of_no_others() {
    let scene = Scene::new("locks-close", &[]);
    scene.run(|seen, direct| {
        let (first, second) = (open(seen), open(seen));
        let there = open(direct);
        let free = |range| lock_in_the_way(&there, Owner::Description, range).is_none();
        lock_range(&first, Owner::Process, false, (0, 10)).unwrap();
        lock_range(&second, Owner::Process, false, (10, 10)).unwrap();
        let described = open(seen);
        lock_range(&described, Owner::Description, false, (20, 10)).unwrap();
        assert!(!free((0, 1)) && !free((10, 1)) && !free((20, 1)));
        drop(first);
        assert!(free((0, 20)), "all of the process's go");
        assert!(!free((20, 1)), "the description's stays");
        drop(second);
        assert!(!free((20, 1)), "the description's stays");
        drop(described);
        wait_until(SOON, "the description's lock to go", || free((0, 0)));
    });
    let pid = scene.mount.pid();
    wait_until(SOON, "no descriptor to be left", || {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        !open.flatten().any(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|to| to == scene.plain.join("file"))
        })
    });
}

#[test]
#[ignore = "run by others as their child"]
fn waiter_process() {
    support::waiter::serve();
}

#[test]
fn a_lock_ends_with_the_process_that_held_it_and_is_told_with_its_number() {
    let scene = Scene::new("locks-killed", &[]);
    let mut holder = Waiter::start("waiter_process", "lock", &scene.mount.join("file"));
    let pid = holder.pid();
    holder.go();
    let there = open(&scene.plain.join("file"));
    wait_until(SOON, "the lock to be taken", || {
        lock_in_the_way(&there, Owner::Description, (0, 0)).is_some()
    });
    scene.run(move |seen, _| {
        let here = open(seen);
        let found = lock_in_the_way(&here, Owner::Process, (0, 0));
        assert_eq!(found, Some((libc::F_WRLCK, 10, 20, pid)));
        let found = lock_in_the_way(&here, Owner::Process, (5, 1));
        assert_eq!(found, None);
    });
    kill_now(pid);
    wait_until(SOON, "the lock to end with its process", || {
        lock_in_the_way(&there, Owner::Description, (0, 0)).is_none()
    });
    assert!(holder.wait(SOON).is_some());
}

/// Waits for a lock on a thread; says when it got it.
fn waiting(path: &Path, owner: Owner) -> mpsc::Receiver<Instant> {
    let (sender, granted) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let file = open(&path);
        lock_range(&file, owner, true, (0, 0)).unwrap();
        let granted_at = Instant::now();
        unlock_range(&file, owner, (0, 0)).unwrap();
        let _ = sender.send(granted_at);
    });
    granted
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_free() {
    let scene = Scene::new("locks-waiting", &[]);
    scene.run(|seen, direct| {
        let holders = [("another client", open(direct)), ("this mount", open(seen))];
        for (who, holder) in holders {
            lock_range(&holder, Owner::Description, false, (5, 5)).unwrap();
            let granted = waiting(seen, Owner::Description);
            std::thread::sleep(Duration::from_millis(600));
            assert!(granted.try_recv().is_err(), "{who} still holds it");
            let freed_at = Instant::now();
            unlock_range(&holder, Owner::Description, (5, 5)).unwrap();
            let granted_at = granted.recv_timeout(SOON).expect("it is free");
            assert!(granted_at >= freed_at, "{who}");
        }
        // A queue of them: each gets it in its turn.
        let holder = open(seen);
        lock_range(&holder, Owner::Description, false, (0, 0)).unwrap();
        let all: Vec<_> = (0..20).map(|_| waiting(seen, Owner::Description)).collect();
        std::thread::sleep(Duration::from_millis(100));
        drop(holder);
        for granted in all {
            granted
                .recv_timeout(Duration::from_secs(10))
                .expect("its turn");
        }
    });
}

#[test]
fn who_is_woken_while_it_asks_for_a_lock_is_not_forgotten() {
    let scratch = Scratch::new("locks-woken");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    std::fs::write(backend.plain.join("file"), "text").unwrap();
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let elsewhere = open(&backend.mountpoint.join("file"));
    try_flock(&elsewhere, true).unwrap();
    let (waiting, beside) = (open(&mount.join("file")), open(&mount.join("file")));
    lock_range(&beside, Owner::Description, false, (0, 1)).unwrap();
    let slow = backend.add_rule(Rule::new(Operation::Open, "file", Action::Hang));
    let waiter = std::thread::spawn(move || flock(&waiting, FlockOperation::LockExclusive));
    backend.wait_for_hung(1);
    unlock_range(&beside, Owner::Description, (0, 1)).unwrap();
    backend.remove_rule(slow);
    backend.release(None);
    // It asks a second time, and finds the lock taken.
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(500) {
        assert!(!waiter.is_finished(), "{:?}", waiter.join());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(elsewhere);
    waiter.join().unwrap().unwrap();
}

#[test]
fn waiting_for_a_lock_ends_with_a_signal_and_leaves_none_behind() {
    use nix::sys::signal::Signal;
    let scene = Scene::new("locks-interrupted", &[]);
    let there = open(&scene.plain.join("file"));
    for (kind, signal) in [
        ("lock", Signal::SIGINT),
        ("lock", Signal::SIGKILL),
        ("flock", Signal::SIGINT),
        ("flock", Signal::SIGKILL),
    ] {
        lock_range(&there, Owner::Description, false, (0, 0)).unwrap();
        try_flock(&there, true).unwrap();
        let mut waiter = Waiter::start("waiter_process", kind, &scene.mount.join("file"));
        waiter.go();
        std::thread::sleep(Duration::from_millis(400));
        assert!(!waiter.has_ended(), "{kind}: it waits");
        send(waiter.pid(), signal);
        let ended = waiter.wait(Duration::from_secs(1));
        assert!(ended.is_some(), "{kind} and {signal}: not within a second");
        unlock_range(&there, Owner::Description, (0, 0)).unwrap();
        flock(&there, FlockOperation::Unlock).unwrap();
        std::thread::sleep(Duration::from_millis(400));
        lock_range(&there, Owner::Description, false, (0, 0)).unwrap();
        try_flock(&there, true).unwrap();
        unlock_range(&there, Owner::Description, (0, 0)).unwrap();
        flock(&there, FlockOperation::Unlock).unwrap();
    }
}

/// Two clients that take turns under a lock: each sees what the other wrote, with all timeouts at an hour.
fn a_granted_lock_shows_what_was_written_before(test: &str, options: &[&str]) {
    let scene = Scene::new(test, options);
    let rounds = sample_or_full(30, 300);
    scene.run(move |seen, direct| {
        let (here, there) = (open(seen), open(direct));
        let reader = File::open(seen).unwrap();
        for round in 0..rounds {
            let byte = [b'b' + (round % 20) as u8; 1];
            lock_range(&there, Owner::Description, true, (0, 0)).unwrap();
            there.write_all_at(&byte, 5000).unwrap();
            unlock_range(&there, Owner::Description, (0, 0)).unwrap();
            for file in [&here, &reader] {
                let share = share_range(file, Owner::Description, (0, 0));
                share.unwrap();
                let mut found = [0];
                file.read_exact_at(&mut found, 5000).unwrap();
                assert_eq!(found, byte, "round {round}");
                unlock_range(file, Owner::Description, (0, 0)).unwrap();
            }
            // And the other way round.
            lock_range(&here, Owner::Description, true, (0, 0)).unwrap();
            here.write_all_at(&[round as u8], 9000).unwrap();
            unlock_range(&here, Owner::Description, (0, 0)).unwrap();
            lock_range(&there, Owner::Description, true, (0, 0)).unwrap();
            let mut found = [0];
            there.read_exact_at(&mut found, 9000).unwrap();
            assert_eq!(found, [round as u8], "round {round}");
            unlock_range(&there, Owner::Description, (0, 0)).unwrap();
        }
    });
}

#[test]
fn a_granted_lock_shows_what_was_written_before_it() {
    a_granted_lock_shows_what_was_written_before("locks-revalidate", &[]);
}

#[test]
fn a_granted_lock_shows_what_was_written_before_it_with_direct_io() {
    a_granted_lock_shows_what_was_written_before("locks-revalidate-direct", &["direct_io"]);
}

/// A reader without writers beside it on this mount: what it has cached is given up for what is newer.
#[test]
fn a_lock_for_reading_revalidates_what_is_cached() {
    for options in [&["passthrough=off"][..], &[]] {
        let scene = Scene::new("locks-reader", options);
        scene.run(|seen, direct| {
            // The file is known to be locked from its first lock on, and not given to the kernel after that.
            let first = File::open(seen).unwrap();
            try_flock(&first, false).unwrap();
            drop(first);
            let there = open(direct);
            let mut bytes = vec![0; 600_000];
            for round in 0..5u8 {
                let reader = File::open(seen).unwrap();
                reader.read_exact_at(&mut bytes, 0).unwrap();
                there.write_all_at(&[round + 1], 123_456).unwrap();
                try_flock(&reader, false).unwrap();
                let mut found = [0];
                reader.read_exact_at(&mut found, 123_456).unwrap();
                assert_eq!(found, [round + 1]);
            }
        });
    }
}

#[test]
fn locks_can_be_kept_on_this_machine() {
    let scene = Scene::new("locks-local", &["locks=local"]);
    scene.run(|seen, direct| {
        let (here, other, there) = (open(seen), open(seen), open(direct));
        try_flock(&here, true).unwrap();
        lock_range(&here, Owner::Description, false, (0, 0)).unwrap();
        assert_eq!(errno(try_flock(&other, true)), Some(libc::EWOULDBLOCK));
        try_flock(&there, true).unwrap();
        lock_range(&there, Owner::Description, false, (0, 0)).unwrap();
    });
}
