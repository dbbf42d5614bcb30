//! Errors and slowness of the backend: the caller gets the error, nothing wrong stays, and a slow backend is not
//! called away.

mod support;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use support::content::expect_content;
use support::reading::read_range;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const KIB: u64 = 1 << 10;
const ERRNOS: [i32; 4] = [libc::EIO, libc::ETIMEDOUT, libc::ESTALE, libc::EACCES];

/// What is done through the mount on a file nobody has touched, and what of the backend fails in it.
#[derive(Clone, Copy, Debug)]
struct Case {
    operation: Operation,
    /// Prefix of the file; each errno has one of its own.
    prefix: &'static str,
    act: fn(&Path) -> io::Result<()>,
}

fn content(name: &str) -> Content {
    let seed = name.bytes().fold(7u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let size = if name.starts_with("large") { 300 } else { 5 };
    Content::new(seed, 1, size * KIB)
}

fn read_all(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap().to_str().unwrap();
    content(name).expect_in(&File::open(path)?, 65536)
}

fn get_note(path: &Path) -> io::Result<()> {
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(path, c"user.note", &mut value[..])?;
    assert_eq!(&value[..length], b"told");
    Ok(())
}

fn list_xattrs(path: &Path) -> io::Result<()> {
    let mut names = [0u8; 256];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    assert!(names[..length].starts_with(b"user.note"));
    Ok(())
}

fn list(path: &Path) -> io::Result<()> {
    let names = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    assert_eq!(names.len(), 2);
    Ok(())
}

fn stat(path: &Path) -> io::Result<()> {
    fs::symlink_metadata(path).map(drop)
}

fn read_link(path: &Path) -> io::Result<()> {
    assert_eq!(fs::read_link(path)?, Path::new("target"));
    Ok(())
}

fn cases() -> Vec<Case> {
    let case = |operation, prefix, act| Case {
        operation,
        prefix,
        act,
    };
    vec![
        case(Operation::Lookup, "stat", stat),
        case(Operation::Getattr, "stat-getattr", stat),
        case(Operation::Open, "small-open", read_all),
        case(Operation::Open, "large-open", read_all),
        case(Operation::Read, "small-read", read_all),
        case(Operation::Read, "large-read", read_all),
        case(Operation::Readlink, "link", read_link),
        case(Operation::Opendir, "dir-open", list),
        case(Operation::Readdir, "dir-read", list),
        case(Operation::Getxattr, "xattr-get", get_note),
        case(Operation::Listxattr, "xattr-list", list_xattrs),
    ]
}

fn make(plain: &Path, name: &str) {
    let path = plain.join(name);
    if name.starts_with("link") {
        symlink("target", path).unwrap();
    } else if name.starts_with("dir") {
        fs::create_dir(&path).unwrap();
        fs::write(path.join("one"), "1").unwrap();
        fs::write(path.join("two"), "2").unwrap();
    } else {
        content(name).create(&path).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&path, c"user.note", b"told", flags).unwrap();
    }
}

fn start(
    test: &str,
    options: BackendOptions,
    fill: impl Fn(&Path),
) -> (Mount, FaultBackend, Scratch) {
    let scratch = Scratch::new(test);
    let backend = FaultBackend::start(&scratch, options);
    fill(&backend.plain);
    std::thread::sleep(Duration::from_millis(100));
    let options = MountOptions::new(&scratch)
        .with("backend_timeout=20s")
        .with("revalidate_timeout=2s")
        .with("actimeo=1s");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    (mount, backend, scratch)
}

#[test]
fn each_error_of_each_operation_passes_and_does_not_stay() {
    let names = || {
        cases()
            .into_iter()
            .flat_map(|case| ERRNOS.map(|errno| (case, errno, format!("{}-{errno}", case.prefix))))
    };
    let (mount, backend, scratch) = start("errors", BackendOptions::default(), |plain| {
        names().for_each(|(_, _, name)| make(plain, &name));
    });
    for (case, errno, name) in names() {
        let pattern = format!("{name}*");
        backend.add_rule(Rule::new(case.operation, &pattern, Action::Errno(errno)));
        let (path, act) = (mount.join(&name), case.act);
        let failed = with_time_limit(&scratch, LIMIT, {
            let path = path.clone();
            move || act(&path)
        });
        let error = failed.expect_err(&format!("{name}: no error"));
        assert_eq!(error.raw_os_error(), Some(errno), "{name}: {error}");
        backend.clear_rules();
        let again = with_time_limit(&scratch, LIMIT, move || {
            // After a time-out the backend counts as away until it is heard of again.
            let deadline = Instant::now() + Duration::from_secs(3);
            loop {
                match act(&path) {
                    Err(_) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    outcome => break outcome,
                }
            }
        });
        again.unwrap_or_else(|error| panic!("{name}: afterwards {error}"));
    }
    assert_eq!(mount.status()["backend"]["reachable"], true);
}

#[test]
fn a_read_that_fails_in_the_middle_leaves_what_was_read_right() {
    let large = Content::new(9, 1, 4096 * KIB);
    let (mount, backend, scratch) = start("middle", BackendOptions::default(), |plain| {
        large.create(&plain.join("large")).unwrap();
    });
    for errno in ERRNOS {
        backend.add_rule(
            Rule::new(Operation::Read, "large", Action::Errno(errno))
                .probability(0.5, errno as u64),
        );
    }
    let path = mount.join("large");
    let open = path.clone();
    with_time_limit(&scratch, LIMIT, move || {
        for offset in (0..4096 * KIB).step_by(128 << 10) {
            let Ok(file) = File::open(&open) else {
                continue;
            };
            let mut bytes = vec![0; 128 << 10];
            if let Ok(read) = file.read_at(&mut bytes, offset) {
                assert_eq!(large.check(offset, &bytes[..read]), Ok(()));
            }
        }
    });
    backend.clear_rules();
    wait_until(Duration::from_secs(5), "reachable again", || {
        mount.status()["backend"]["reachable"] == true
    });
    with_time_limit(&scratch, LIMIT, move || expect_content(&path, large));
}

#[test]
fn short_reads_are_completed() {
    let (mount, backend, scratch) = start("short", BackendOptions::default(), |plain| {
        make(plain, "large-short");
    });
    backend.add_rule(Rule::new(
        Operation::Read,
        "large-short",
        Action::ShortBytes(4096),
    ));
    let path = mount.join("large-short");
    with_time_limit(&scratch, LIMIT, move || read_all(&path)).unwrap();
}

fn never_away(mount: &Mount) {
    assert_eq!(mount.status()["backend"]["reachable"], true);
    let log = mount.log();
    assert!(!log.contains("the backend is away"), "{log}");
}

#[test]
fn a_backend_with_50_ms_a_call_is_never_called_away() {
    let network = Network {
        latency_us: 50_000,
        bandwidth_bytes_per_s: None,
    };
    let options = BackendOptions {
        network,
        ..BackendOptions::default()
    };
    let (mount, backend, scratch) = start("slow", options, |plain| {
        for index in 0..40 {
            make(plain, &format!("small-{index}"));
        }
        make(plain, "large-slow");
    });
    let path = mount.path().to_owned();
    backend.reset_counters();
    with_time_limit(&scratch, LIMIT, move || {
        let began = Instant::now();
        let listed = std::process::Command::new("ls")
            .arg("-l")
            .arg(&path)
            .output();
        assert!(listed.unwrap().status.success());
        println!("ls -l of 41 names took {:?}", began.elapsed());
        println!("{:?}", backend.counters().operations);
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for index in (reader..40).step_by(8) {
                        read_all(&path.join(format!("small-{index}"))).unwrap();
                    }
                });
            }
            scope.spawn(|| read_all(&path.join("large-slow")).unwrap());
        });
    });
    never_away(&mount);
}

#[test]
fn a_thin_link_full_of_data_is_not_called_away() {
    let large = Content::new(10, 1, 4096 * KIB);
    let options = BackendOptions {
        network: Network {
            latency_us: 5000,
            bandwidth_bytes_per_s: Some(1_500_000),
        },
        ..BackendOptions::default()
    };
    let (mount, _backend, scratch) = start("thin", options, |plain| {
        large.create(&plain.join("large")).unwrap();
    });
    let path = mount.join("large");
    with_time_limit(&scratch, LIMIT, move || {
        let file = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            for piece in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    let mut bytes = vec![0; 4096];
                    file.read_exact_at(&mut bytes, piece * 1024 * KIB).unwrap();
                });
            }
        });
        expect_content(&path, large);
    });
    never_away(&mount);
}

/// As of an export that was withdrawn.
#[test]
fn a_server_that_refuses_by_now_takes_no_open_file_away() {
    let scratch = Scratch::new("refuses-by-now");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    for name in ["open", "closed"] {
        fs::write(backend.plain.join(name), vec![1; 300_000]).unwrap();
    }
    let options = MountOptions::new(&scratch)
        .with("passthrough=off")
        .with("actimeo=0");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    fs::read(mount.join("closed")).unwrap();
    let file = File::open(mount.join("open")).unwrap();
    assert!(read_range(&file, 0, 300_000).unwrap() == vec![1; 300_000]);
    let refusal = Rule::new(None, "*", Action::Errno(libc::EACCES));
    let refusal = backend.add_rule(refusal);
    let mut last = vec![0; 8192];
    assert_eq!(file.read_at(&mut last, 295_000).unwrap(), 5000);
    assert_eq!(file.metadata().unwrap().len(), 300_000);
    for refused in [stat(&mount.join("closed")), read_all(&mount.join("closed"))] {
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
    backend.remove_rule(refusal);
    assert_eq!(fs::read(mount.join("closed")).unwrap().len(), 300_000);
}
