//! A mount of a fault backend with things that are known, of which some are in the cache, and things that nobody has
//! asked for yet. Timeouts are short, and all that is known has passed its attribute timeout.

use super::content::{Content, expect_content};
use super::reading::{AlignedBuffer, open_direct};
use super::stalls::Stalls;
use super::{
    BackendOptions, FaultBackend, Mount, MountOptions, Scratch, wait_until, with_time_limit,
};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
pub const BACKEND_TIMEOUT: Duration = Duration::from_secs(5);
pub const REVALIDATE_TIMEOUT: Duration = Duration::from_secs(1);
/// What scheduling on a busy machine may add.
pub const SLACK: Duration = Duration::from_millis(500);
pub const AT_ONCE: Duration = Duration::from_millis(300);
/// For whatever must end somehow.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const COLD_FILES: u64 = 80;
/// Bytes at the front of `half` that are in the cache.
pub const HALF_BYTES: usize = 65536;

pub struct Scene {
    stalls: Stalls,
    // In this order: the mount goes before its backend, the directory last.
    pub mount: Mount,
    pub backend: FaultBackend,
    pub scratch: Scratch,
}

/// Complete in the cache.
pub fn hot() -> Content {
    Content::new(41, 1, 8 * MIB)
}

/// Complete in the cache, and small.
pub fn small() -> Content {
    Content::new(42, 1, 10_000)
}

/// In the cache up to [`HALF_BYTES`].
pub fn half() -> Content {
    Content::new(43, 1, 16 * MIB)
}

/// Names known, nothing of them cached.
pub fn cold(index: u64) -> Content {
    Content::new(100 + index, 1, 2 * MIB)
}

pub fn small_cold() -> Content {
    Content::new(44, 1, 5000)
}

impl Scene {
    pub fn new(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        let plain = &backend.plain;
        hot().create(&plain.join("hot")).unwrap();
        small().create(&plain.join("small")).unwrap();
        half().create(&plain.join("half")).unwrap();
        small_cold().create(&plain.join("small_cold")).unwrap();
        small_cold().create(&plain.join("small_cold2")).unwrap();
        for index in 0..COLD_FILES {
            cold(index)
                .create(&plain.join(format!("cold{index}")))
                .unwrap();
        }
        symlink("hot", plain.join("link")).unwrap();
        for directory in ["known", "unlisted", "unlisted2"] {
            fs::create_dir(plain.join(directory)).unwrap();
            fs::write(plain.join(directory).join("inside"), "x").unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut mount_options = MountOptions::new(&scratch)
            .with(&format!("backend_timeout={}s", BACKEND_TIMEOUT.as_secs()))
            .with(&format!(
                "revalidate_timeout={}s",
                REVALIDATE_TIMEOUT.as_secs()
            ))
            .with("actimeo=1s");
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        let path = mount.path().to_owned();
        with_time_limit(&scratch, LIMIT, move || make_known(&path));
        // Attributes time out; a directory's second listing is remembered once its version has settled.
        std::thread::sleep(Duration::from_millis(2300));
        let path = mount.path().to_owned();
        with_time_limit(&scratch, LIMIT, move || {
            make_known(&path);
            std::thread::sleep(Duration::from_millis(1500));
        });
        Self {
            stalls: Stalls::watch(&scratch),
            mount,
            backend,
            scratch,
        }
    }

    /// Within this whatever does not wait for the backend has ended.
    pub fn at_once(&self) -> Duration {
        AT_ONCE + self.stalls.allowance()
    }

    /// Every use of what is known, once, and how long each took; the bytes are checked.
    pub fn use_what_is_known(&self) -> Vec<(&'static str, Duration)> {
        let path = self.mount.path().to_owned();
        with_time_limit(&self.scratch, LIMIT, move || use_known(&path))
    }

    /// Known things are delayed by `revalidate_timeout` at most, each.
    pub fn expect_known_in_time(&self) {
        for (verb, took) in self.use_what_is_known() {
            assert!(
                took < REVALIDATE_TIMEOUT + SLACK,
                "{verb} first took {took:?}"
            );
        }
    }

    /// With the backend marked away known things are not delayed at all.
    pub fn expect_known_at_once(&self) {
        for (verb, took) in self.use_what_is_known() {
            assert!(took < self.at_once(), "{verb} took {took:?}");
        }
    }

    pub fn wait_for_reachable(&self, reachable: bool, limit: Duration) {
        wait_until(limit, &format!("reachable: {reachable}"), || {
            self.mount.status()["backend"]["reachable"] == reachable
        });
    }

    /// All bytes are right, cached and not.
    pub fn expect_everything(&self) {
        let path = self.mount.path().to_owned();
        with_time_limit(&self.scratch, LIMIT, move || {
            for (name, content) in [("hot", hot()), ("small", small()), ("half", half())] {
                expect_content(&path.join(name), content);
            }
            for index in 0..COLD_FILES {
                expect_content(&path.join(format!("cold{index}")), cold(index));
            }
        });
    }
}

/// The backend has let this user read and search everything then, though not all of it was read: who asks for an attribute of
/// a user must be able to read the file, or directory.
fn make_known(path: &Path) {
    expect_content(&path.join("hot"), hot());
    expect_content(&path.join("small"), small());
    read_half(&open_direct(&path.join("half")).unwrap());
    fs::read_link(path.join("link")).unwrap();
    for directory in [path.to_owned(), path.join("known")] {
        list_long(&directory);
        for entry in fs::read_dir(directory).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    }
    nix::sys::statvfs::statvfs(path).unwrap();
    let cold = (0..COLD_FILES).map(|index| format!("cold{index}"));
    let unlisted = ["unlisted", "unlisted2"];
    for name in unlisted {
        assert!(fs::metadata(path.join(name).join("absent")).is_err());
    }
    let others = ["small_cold", "small_cold2"].into_iter().chain(unlisted);
    for name in cold.chain(others.map(str::to_owned)) {
        let absent = rustix::fs::getxattr(path.join(name), c"user.absent", &mut [0; 16][..]);
        assert_eq!(absent, Err(rustix::io::Errno::NODATA));
    }
}

/// `ls -l`, which asks for extended attributes as well.
fn list_long(directory: &Path) {
    let output = Command::new("ls").arg("-l").arg(directory).output();
    let output = output.expect("ls is there");
    assert!(output.status.success(), "ls -l: {output:?}");
}

fn read_half(file: &File) {
    let mut buffer = AlignedBuffer::new(HALF_BYTES);
    assert_eq!(file.read_at(buffer.bytes_mut(), 0).unwrap(), HALF_BYTES);
    assert_eq!(half().check(0, buffer.bytes()), Ok(()));
}

pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let value = work();
    (begin.elapsed(), value)
}

fn use_known(path: &Path) -> Vec<(&'static str, Duration)> {
    let mut times = Vec::new();
    let mut note = |verb, (took, ()): (Duration, ())| times.push((verb, took));
    note(
        "stat",
        timed(|| assert_eq!(fs::metadata(path.join("hot")).unwrap().len(), 8 * MIB)),
    );
    let (took, file) = timed(|| File::open(path.join("hot")).unwrap());
    note("open", (took, ()));
    note(
        "read",
        timed(|| hot().expect_in(&file, MIB as usize).unwrap()),
    );
    let (took, file) = timed(|| File::open(path.join("small")).unwrap());
    note("open of a small file", (took, ()));
    note(
        "its read",
        timed(|| small().expect_in(&file, 4096).unwrap()),
    );
    let (took, file) = timed(|| open_direct(&path.join("half")).unwrap());
    note("open of a half file", (took, ()));
    note("its read", timed(|| read_half(&file)));
    note(
        "readlink",
        timed(|| {
            let target = fs::read_link(path.join("link")).unwrap();
            assert_eq!(target, Path::new("hot"));
        }),
    );
    note(
        "ls",
        timed(|| {
            let names = fs::read_dir(path).unwrap().map(Result::unwrap).count();
            assert_eq!(names as u64, COLD_FILES + 9);
        }),
    );
    note("ls -l", timed(|| list_long(&path.join("known"))));
    note(
        "statfs",
        timed(|| assert!(nix::sys::statvfs::statvfs(path).unwrap().blocks() > 0)),
    );
    note(
        "an absent name of a known directory",
        timed(|| {
            let error = fs::metadata(path.join("known/absent")).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }),
    );
    times
}
