//! Changes of names and attributes on a backend that errs and hangs: the error is told, nothing wrong stays, and a
//! change that went on after its caller was told of a time-out is taken over.

mod support;

use nix::sys::signal::Signal;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use support::process::send;
use support::waiter::Waiter;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);
const BACKEND_TIMEOUT: Duration = Duration::from_secs(3);
const ERRNOS: [i32; 6] = [
    libc::EIO,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EACCES,
    libc::ESTALE,
    libc::ETIMEDOUT,
];

struct Scene {
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

impl Scene {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        let timeout = format!("backend_timeout={}s", BACKEND_TIMEOUT.as_secs());
        let options = MountOptions::new(&scratch)
            .with(&timeout)
            .with("revalidate_timeout=1s")
            .with("actimeo=1s");
        let mount = Mount::start(&scratch, &backend.mountpoint, options);
        Self {
            mount,
            backend,
            scratch,
        }
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let seen = self.mount.path().to_owned();
        with_time_limit(&self.scratch, LIMIT, move || work(&seen))
    }
}

/// One change, in a directory of its own that has `file`, `dir` and an attribute.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    operation: Operation,
    act: fn(&Path) -> io::Result<()>,
    /// What the backend shows once it is done.
    is_done: fn(&Path) -> bool,
}

fn cases() -> [Case; 10] {
    use rustix::fs::{XattrFlags, lgetxattr, lremovexattr, lsetxattr};
    let case = |name, operation, act, is_done| Case {
        name,
        operation,
        act,
        is_done,
    };
    [
        case(
            "mkdir",
            Operation::Mkdir,
            |top| fs::create_dir(top.join("new")),
            |top| top.join("new").is_dir(),
        ),
        case(
            "mknod",
            Operation::Mknod,
            |top| {
                use rustix::fs::{CWD, FileType, Mode, mknodat};
                let mode = Mode::from_raw_mode(0o600);
                Ok(mknodat(CWD, top.join("new"), FileType::Fifo, mode, 0)?)
            },
            |top| top.join("new").exists(),
        ),
        case(
            "symlink",
            Operation::Symlink,
            |top| symlink("file", top.join("new")),
            |top| top.join("new").is_symlink(),
        ),
        case(
            "link",
            Operation::Link,
            |top| fs::hard_link(top.join("file"), top.join("new")),
            |top| top.join("new").exists(),
        ),
        case(
            "unlink",
            Operation::Unlink,
            |top| fs::remove_file(top.join("file")),
            |top| !top.join("file").exists(),
        ),
        case(
            "rmdir",
            Operation::Rmdir,
            |top| fs::remove_dir(top.join("dir")),
            |top| !top.join("dir").exists(),
        ),
        case(
            "rename",
            Operation::Rename,
            |top| fs::rename(top.join("file"), top.join("new")),
            |top| top.join("new").exists() && !top.join("file").exists(),
        ),
        case(
            "chmod",
            Operation::Setattr,
            |top| fs::set_permissions(top.join("file"), Permissions::from_mode(0o4751)),
            |top| fs::metadata(top.join("file")).is_ok_and(|facts| mode_of(&facts) == 0o4751),
        ),
        case(
            "setxattr",
            Operation::Setxattr,
            |top| {
                let path = top.join("file");
                Ok(lsetxattr(path, c"user.new", b"1", XattrFlags::empty())?)
            },
            |top| lgetxattr(top.join("file"), c"user.new", &mut [0u8; 8][..]).is_ok(),
        ),
        case(
            "removexattr",
            Operation::Removexattr,
            |top| Ok(lremovexattr(top.join("file"), c"user.old")?),
            |top| lgetxattr(top.join("file"), c"user.old", &mut [0u8; 8][..]).is_err(),
        ),
    ]
}

fn mode_of(facts: &fs::Metadata) -> u32 {
    facts.permissions().mode() & 0o7777
}

fn prepare(top: &Path) {
    fs::create_dir(top).unwrap();
    fs::create_dir(top.join("dir")).unwrap();
    fs::write(top.join("file"), b"some bytes").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(top.join("file"), c"user.old", b"1", flags).unwrap();
}

/// All names the mount shows are those of the backend.
fn expect_same_names(seen: &Path, plain: &Path) {
    let names = |top: &Path| {
        let entries = fs::read_dir(top).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(seen), names(plain), "{}", seen.display());
    for name in names(plain) {
        let kind = |top: &Path| fs::symlink_metadata(top.join(&name)).unwrap().file_type();
        assert_eq!(kind(seen), kind(plain), "{name:?}");
    }
}

#[test]
fn each_error_of_each_change_passes_and_does_not_stay() {
    let scene = Scene::new("changing-errors");
    for case in cases() {
        for errno in ERRNOS {
            let name = format!("{}-{errno}", case.name);
            let plain = scene.backend.plain.join(&name);
            prepare(&plain);
            let rule = Rule::new(case.operation, &format!("{name}*"), Action::Errno(errno));
            scene.backend.add_rule(rule);
            let top = name.clone();
            let failed = scene.run(move |seen| (case.act)(&seen.join(top)));
            let told = failed.expect_err(&name).raw_os_error();
            assert_eq!(told, Some(errno), "{name}");
            assert!(!(case.is_done)(&plain), "{name}: nothing was done");
            scene.backend.clear_rules();
            scene.run(move |seen| {
                let top = seen.join(&name);
                // After a time-out the backend counts as away until it is heard of again.
                let deadline = Instant::now() + Duration::from_secs(5);
                while let Err(error) = (case.act)(&top) {
                    assert!(Instant::now() < deadline, "{name}: afterwards {error}");
                    std::thread::sleep(Duration::from_millis(20));
                }
                assert!((case.is_done)(&plain), "{name}: done on the backend");
                assert!((case.is_done)(&top), "{name}: shown");
                expect_same_names(&top, &plain);
            });
        }
    }
}

#[test]
fn a_change_that_hangs_ends_in_time_delays_nobody_elsewhere_and_is_taken_over() {
    let scene = Scene::new("changing-hung");
    for case in cases() {
        let plain = scene.backend.plain.join(case.name);
        prepare(&plain);
        prepare(&scene.backend.plain.join(format!("beside-{}", case.name)));
        let name = case.name;
        // Known to the kernel, as it is to who changes it.
        scene.run(move |seen| {
            for name in ["file", "dir"] {
                fs::metadata(seen.join(case.name).join(name)).unwrap();
            }
        });
        let rule = Rule::new(case.operation, &format!("{name}/*"), Action::Hang);
        let rule = scene.backend.add_rule(rule);
        let seen = scene.mount.path().to_owned();
        let changing = std::thread::spawn(move || {
            let began = Instant::now();
            let outcome = (case.act)(&seen.join(case.name));
            (outcome, began.elapsed())
        });
        std::thread::sleep(Duration::from_millis(300));
        scene.run(move |seen| {
            let began = Instant::now();
            let beside = seen.join(format!("beside-{name}"));
            fs::create_dir(beside.join("quick")).unwrap();
            fs::rename(beside.join("quick"), beside.join("moved")).unwrap();
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{name}: beside it"
            );
        });
        let (outcome, took) = changing.join().unwrap();
        let told = outcome.expect_err(name).raw_os_error();
        assert_eq!(told, Some(libc::ETIMEDOUT), "{name}");
        let latest = BACKEND_TIMEOUT + Duration::from_secs(1);
        assert!(took < latest, "{name}: after {took:?}");
        assert!(!(case.is_done)(&plain));
        scene.backend.remove_rule(rule);
        assert_eq!(scene.backend.release(Some(rule)), 1, "{name}");
        scene.run(move |seen| {
            wait_until(Duration::from_secs(5), name, || {
                (case.is_done)(&plain) && (case.is_done)(&seen.join(name))
            });
            expect_same_names(&seen.join(name), &plain);
        });
    }
}

/// The second waits for the first, though nobody waits for that any more, and finds what it led to.
#[test]
fn a_name_stays_closed_to_other_changes_until_its_change_is_known() {
    let scene = Scene::new("changing-closed");
    let top = scene.backend.plain.join("top");
    prepare(&top);
    let rule = Rule::new(Operation::Setattr, "top/file", Action::Hang).limit_calls(1);
    scene.backend.add_rule(rule);
    let chmod = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    let first = scene.run(move |seen| chmod(&seen.join("top/file"), 0o600));
    assert_eq!(first.unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
    let seen = scene.mount.join("top/file");
    let second = std::thread::spawn(move || chmod(&seen, 0o640));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!second.is_finished(), "it waits for the first");
    assert_eq!(scene.backend.release(None), 1);
    second.join().unwrap().unwrap();
    let mode = |top: &Path| mode_of(&fs::metadata(top.join("file")).unwrap());
    assert_eq!(mode(&top), 0o640);
    assert_eq!(scene.run(move |seen| mode(&seen.join("top"))), 0o640);
}

/// On NFS it would be renamed rather than removed, and be in the way of its directory's removal.
#[test]
fn a_file_just_closed_is_closed_on_the_backend_before_it_loses_its_name() {
    let scene = Scene::new("changing-just-closed");
    type Use = fn(&File);
    let uses: [(&str, Use); 2] = [
        ("written", |mut file| file.write_all(b"text").unwrap()),
        ("locked", |file| file.lock().unwrap()),
    ];
    for (name, use_file) in uses {
        fs::write(scene.backend.plain.join(name), "before").unwrap();
        let slow = Rule::new(Operation::Flush, name, Action::DelayMs(400));
        scene.backend.add_rule(slow);
        let hung = scene
            .backend
            .add_rule(Rule::new(Operation::Unlink, name, Action::Hang));
        let path = scene.mount.join(name);
        let removing = std::thread::spawn(move || {
            let file = File::options().write(true).open(&path).unwrap();
            use_file(&file);
            drop(file);
            fs::remove_file(&path).unwrap();
        });
        scene.backend.wait_for_hung(1);
        let calls = scene.backend.counters().under_way;
        let closing = calls.get(&Operation::Flush).copied().unwrap_or_default();
        assert_eq!(closing, 0, "{name}: it is removed while it is being closed");
        scene.backend.remove_rule(hung);
        scene.backend.release(None);
        removing.join().unwrap();
    }
}

/// The NFS client keeps them under hidden names until then.
#[test]
fn a_directory_is_removed_once_the_nameless_files_in_it_are_closed() {
    let scene = Scene::new("changing-nameless");
    let directory = scene.mount.join("directory");
    fs::create_dir(&directory).unwrap();
    let not_empty = Rule::new(
        Operation::Rmdir,
        "directory",
        Action::Errno(libc::ENOTEMPTY),
    );
    scene.backend.add_rule(not_empty.clone().limit_calls(1));
    let refused = fs::remove_dir(&directory).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTEMPTY), "as it is");
    let file = File::create(directory.join("file")).unwrap();
    fs::remove_file(directory.join("file")).unwrap();
    let refusing = scene.backend.add_rule(not_empty);
    let removing = std::thread::spawn(move || fs::remove_dir(directory));
    wait_until(Duration::from_secs(10), "a refusal", || {
        scene.backend.counters().rule_hits.contains_key(&refusing)
    });
    scene.backend.remove_rule(refusing);
    drop(file);
    removing.join().unwrap().unwrap();
}

#[test]
#[ignore = "run by others as their child"]
fn waiter_process() {
    support::waiter::serve();
}

#[test]
fn a_waiting_change_ends_within_a_second_of_a_signal_that_ends_its_program() {
    let scene = Scene::new("changing-interrupted");
    for (name, signal) in [("int", Signal::SIGINT), ("kill", Signal::SIGKILL)] {
        fs::create_dir(scene.backend.plain.join(name)).unwrap();
        let rule = Rule::new(Operation::Mkdir, &format!("{name}/*"), Action::Hang);
        let rule = scene.backend.add_rule(rule);
        let path = scene.mount.join(name).join("new");
        let mut waiter = Waiter::start("waiter_process", "mkdir", &path);
        waiter.go();
        std::thread::sleep(Duration::from_millis(500));
        assert!(!waiter.has_ended(), "it waits");
        send(waiter.pid(), signal);
        let ended = waiter.wait(Duration::from_secs(1));
        assert!(ended.is_some(), "{signal}: not within a second");
        scene.backend.remove_rule(rule);
        scene.backend.release(Some(rule));
        scene.run(move |_| {
            wait_until(Duration::from_secs(5), "what was begun to show", || {
                path.is_dir()
            });
        });
    }
}

#[test]
fn with_dirsync_a_changed_name_is_on_stable_storage_when_it_is_answered() {
    for (options, synced) in [(&[][..], false), (&["dirsync"], true), (&["sync"], true)] {
        let scratch = Scratch::new("changing-dirsync");
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        let path = mount.path().to_owned();
        with_time_limit(&scratch, LIMIT, move || {
            fs::create_dir(path.join("dir")).unwrap();
            fs::rename(path.join("dir"), path.join("moved")).unwrap();
            fs::remove_dir(path.join("moved")).unwrap();
            drop(File::create(path.join("file")).unwrap());
        });
        let calls = backend.counters().calls(Operation::Fsyncdir);
        assert_eq!(calls >= 4, synced, "{options:?}: {calls} calls");
    }
}
