//! Input that is meant to break a filesystem, or that nobody thought of: very deep trees, very many links, attributes at
//! their limits, files that are none, users who take all they can get.

mod support;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags, mkdirat, mknodat, openat};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::content::expect_content;
use support::*;

const LIMIT: Duration = Duration::from_secs(600);

/// A plain directory and its mount.
struct Pair {
    mount: Mount,
    plain: PathBuf,
    scratch: Scratch,
}

impl Pair {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        let options = MountOptions::new(&scratch);
        Self::with(scratch, plain, options)
    }

    fn with(scratch: Scratch, plain: PathBuf, options: MountOptions) -> Self {
        for (path, mode) in [(scratch.path(), 0o755), (&*plain, 0o1777)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let mount = Mount::start(&scratch, &plain, options);
        Self {
            mount,
            plain,
            scratch,
        }
    }

    fn run(&self, work: impl FnOnce(&Path, &Path) + Send + 'static) {
        let (seen, plain) = (self.mount.path().to_owned(), self.plain.clone());
        with_time_limit(&self.scratch, LIMIT, move || work(&seen, &plain));
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

fn open_directory(parent: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// A chain of directories, a file in the last: made, read, renamed at its top and read, then removed from the bottom. Its
/// path is longer than any path may be.
fn a_deep_tree(root: &Path, depth: usize) {
    const NAME: &str = "a-directory-in-the-deep";
    let top = open_directory(CWD, root.to_str().unwrap()).unwrap();
    let mode = Mode::from_raw_mode(0o755);
    let mut here = top.try_clone().unwrap();
    for level in 0..depth {
        mkdirat(&here, NAME, mode).unwrap_or_else(|error| panic!("level {level}: {error}"));
        here = open_directory(&here, NAME).unwrap_or_else(|error| panic!("level {level}: {error}"));
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = File::from(openat(&here, "file", flags, Mode::from_raw_mode(0o644)).unwrap());
    (&file).write_all(b"at the bottom").unwrap();
    drop(file);
    let read = |directory: &OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut text = String::new();
        File::from(openat(directory, "file", flags, Mode::empty()).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "at the bottom");
    };
    read(&here);
    rustix::fs::renameat(&top, NAME, &top, "moved").unwrap();
    read(&here);
    support::reading::drop_caches().unwrap();
    read(&here);
    rustix::fs::unlinkat(&here, "file", AtFlags::empty()).unwrap();
    for level in (0..depth).rev() {
        let parent = open_directory(&here, "..").unwrap();
        let name = if level == 0 { "moved" } else { NAME };
        rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
            .unwrap_or_else(|error| panic!("level {level}: {error}"));
        here = parent;
    }
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn a_tree_deeper_than_any_path_is_made_read_moved_and_removed() {
    let pair = Pair::new("hostile-deep");
    pair.run(|seen, _| a_deep_tree(seen, sample_or_full(400, 4096)));
}

#[test]
fn a_file_with_very_many_names_is_one_file() {
    let pair = Pair::new("hostile-links");
    pair.run(|seen, plain| {
        let names = sample_or_full(2_000, 60_000);
        fs::write(seen.join("file"), "one").unwrap();
        fs::create_dir(seen.join("names")).unwrap();
        for number in 0..names {
            fs::hard_link(seen.join("file"), seen.join(format!("names/{number}"))).unwrap();
        }
        let first = fs::metadata(seen.join("file")).unwrap();
        assert_eq!(first.nlink(), names + 1);
        fs::write(seen.join(format!("names/{}", names / 2)), "two").unwrap();
        let mut listed = 0;
        for entry in fs::read_dir(seen.join("names")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().ino(), first.ino());
            listed += 1;
        }
        assert_eq!(listed, names);
        for number in [0, names / 3, names - 1] {
            let text = fs::read(seen.join(format!("names/{number}"))).unwrap();
            assert_eq!(text, b"two");
        }
        fs::remove_dir_all(seen.join("names")).unwrap();
        assert_eq!(fs::metadata(seen.join("file")).unwrap().nlink(), 1);
        assert_eq!(fs::read(plain.join("file")).unwrap(), b"two");
    });
}

#[test]
fn extended_attributes_at_their_limits_answer_as_the_disk_does() {
    let pair = Pair::new("hostile-xattrs");
    pair.run(|seen, plain| {
        fs::write(plain.join("native"), "").unwrap();
        fs::write(plain.join("file"), "").unwrap();
        let both = [seen.join("file"), plain.join("native")];
        let long_name = format!("user.{}", "n".repeat(250));
        let too_long = format!("user.{}", "n".repeat(251));
        let names = ["user.a", &long_name, &too_long, "user.", "nospace.a", ""];
        for name in names {
            for length in [0, 1, 1000, 3000, 4096, 65_535, 65_536, 65_537] {
                let value = vec![b'v'; length];
                let set = |path: &PathBuf| -> Result<Vec<u8>, i32> {
                    let set = rustix::fs::setxattr(path, name, &value, XattrFlags::empty());
                    let mut found = vec![0; 70_000];
                    let got = set.and_then(|()| rustix::fs::getxattr(path, name, &mut found[..]));
                    let length = got.map_err(|error| error.raw_os_error())?;
                    found.truncate(length);
                    let _ = rustix::fs::removexattr(path, name);
                    Ok(found)
                };
                let [here, native] = both.each_ref().map(set);
                assert_eq!(here, native, "{name:.20} with {length} bytes");
            }
        }
        // As many as there is room for.
        for number in 0.. {
            let name = format!("user.{number:04}");
            let set = |path: &PathBuf| {
                let set = rustix::fs::setxattr(path, &*name, &[0; 16], XattrFlags::empty());
                set.map_err(|error| error.raw_os_error())
            };
            let [here, native] = both.each_ref().map(set);
            assert_eq!(here, native, "{name}");
            if here.is_err() || number == 500 {
                break;
            }
        }
        let list = |path: &PathBuf| {
            let mut names = vec![0; 65_536];
            let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
            let mut names: Vec<Vec<u8>> = names[..length]
                .split(|byte| *byte == 0)
                .map(<[u8]>::to_vec)
                .collect();
            names.sort();
            names
        };
        assert_eq!(list(&both[0]), list(&both[1]));
    });
}

#[test]
fn what_is_no_regular_file_never_stops_the_daemon() {
    let pair = Pair::new("hostile-special");
    pair.run(|seen, plain| {
        let make = |name: &str, kind, device| {
            mknodat(
                CWD,
                plain.join(name),
                kind,
                Mode::from_raw_mode(0o666),
                device,
            )
            .unwrap();
        };
        make("pipe", FileType::Fifo, 0);
        // A driver that is not there.
        make(
            "device",
            FileType::CharacterDevice,
            rustix::fs::makedev(242, 7),
        );
        make("socket", FileType::Socket, 0);
        assert_eq!(errno(File::open(seen.join("socket"))), Some(libc_enxio()));
        assert_eq!(errno(File::open(seen.join("device"))), Some(libc_enxio()));
        // Both ends of the pipe through the mount.
        let path = seen.join("pipe");
        let writer = std::thread::spawn(move || fs::write(path, "through a pipe").unwrap());
        assert_eq!(fs::read(seen.join("pipe")).unwrap(), b"through a pipe");
        writer.join().unwrap();

        // A name that is known as a regular file turns into each of them: no open waits for it.
        for round in 0..sample_or_full(30, 1000) {
            let name = format!("turning{round}");
            Content::new(round, 1, 10_000)
                .create(&plain.join(&name))
                .unwrap();
            let first = File::open(seen.join(&name));
            let other = ["pipe", "device", "socket"][round as usize % 3];
            let turn = plain.join(format!("{name}.new"));
            fs::hard_link(plain.join(other), &turn).unwrap();
            let turning = std::thread::spawn({
                let to = plain.join(&name);
                move || fs::rename(turn, to).unwrap()
            });
            for _ in 0..20 {
                let open = fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(OFlags::NONBLOCK.bits() as i32)
                    .open(seen.join(&name));
                drop(open);
            }
            turning.join().unwrap();
            drop(first);
            fs::remove_file(plain.join(&name)).unwrap();
        }
        Content::new(1, 1, 100_000)
            .create(&plain.join("after"))
            .unwrap();
        expect_content(&seen.join("after"), Content::new(1, 1, 100_000));
    });
}

fn libc_enxio() -> i32 {
    rustix::io::Errno::NXIO.raw_os_error()
}

#[test]
fn names_of_any_bytes_are_told_of_without_harm() {
    let pair = Pair::new("hostile-names");
    let names: Vec<OsString> = [
        &b"new\nline"[..],
        b"\x1b[31mred",
        b"\xff\xfe",
        b"-o",
        b"..\\..",
        b"$(reboot)",
        &[b'x'; 255],
    ]
    .into_iter()
    .map(|name| OsString::from_vec(name.to_vec()))
    .collect();
    for name in &names {
        fs::write(pair.plain.join(name), "content").unwrap();
    }
    let all = names.clone();
    pair.run(move |seen, _| {
        for name in &all {
            assert_eq!(fs::read(seen.join(name)).unwrap(), b"content");
        }
    });
    let evict = |name: &OsString| {
        let mut command = std::process::Command::new(support::mount::PROGRAM);
        let path = pair.mount.join(name);
        command.arg("evict").arg(pair.mount.path()).arg(&path);
        let output = support::process::run(command, Duration::from_secs(20));
        let told = [&output.stdout[..], &output.stderr].concat();
        assert!(!told.contains(&0x1b), "{}", String::from_utf8_lossy(&told));
        output.status.success()
    };
    for name in &names {
        assert!(evict(name), "{}", name.display());
    }
    assert!(!evict(&OsString::from("\x1b[31mmissing")));
    assert!(!pair.mount.log().contains('\x1b'));
}

/// Opens, locks, attributes and names without end, as a user who is not root.
fn flood(seen: &Path, worker: usize, ends: &AtomicBool, refused: &AtomicUsize) {
    let mut held = Vec::new();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let path = seen.join(format!("flood/{worker}-{number}"));
        let made = as_user(USER, || {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            (&file).write_all(b"flood")?;
            let _ = rustix::fs::setxattr(&path, "user.flood", b"1", XattrFlags::empty());
            let _ = support::locking::lock_range(
                &file,
                support::locking::Owner::Description,
                false,
                (0, 1),
            );
            Ok(file)
        });
        match made {
            Ok(file) => held.push(file),
            Err(_) => {
                refused.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn a_user_who_takes_all_there_is_leaves_others_enough() {
    const DESCRIPTORS: usize = 1200;
    let scratch = Scratch::new("hostile-flood");
    let plain = scratch.directory("plain");
    let content = Content::new(9, 1, 300_000);
    for number in 0..40 {
        content
            .create(&plain.join(format!("cached{number}")))
            .unwrap();
    }
    fs::create_dir(plain.join("flood")).unwrap();
    fs::set_permissions(plain.join("flood"), Permissions::from_mode(0o777)).unwrap();
    let options = MountOptions {
        descriptors_max: Some(DESCRIPTORS),
        ..MountOptions::new(&scratch)
    };
    let pair = Pair::with(scratch, plain, options);
    pair.run(move |seen, _| {
        for number in 0..20 {
            expect_content(&seen.join(format!("cached{number}")), content);
        }
    });
    let ends = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicUsize::new(0));
    let floods: Vec<_> = (0..4)
        .map(|worker| {
            let seen = pair.mount.path().to_owned();
            let (ends, refused) = (ends.clone(), refused.clone());
            std::thread::spawn(move || flood(&seen, worker, &ends, &refused))
        })
        .collect();
    wait_until(Duration::from_secs(60), "the flood to be refused", || {
        refused.load(Ordering::Relaxed) > 100
    });
    pair.run(move |seen, _| {
        for number in 0..40 {
            let began = Instant::now();
            expect_content(&seen.join(format!("cached{number}")), content);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "{number} took {took:?}");
        }
        // Another user has a share too.
        let own = as_user(OTHER_USER, || File::create(seen.join("own"))).unwrap();
        own.write_all_at(b"mine", 0).unwrap();
        drop(own);
        assert_eq!(fs::read_dir(seen).unwrap().count(), 42);
    });
    ends.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    let descriptors = || {
        let open = fs::read_dir(format!("/proc/{}/fd", pair.mount.pid()));
        open.unwrap().count()
    };
    wait_until(Duration::from_secs(30), "the flood to go", || {
        descriptors() < DESCRIPTORS / 4
    });
}
