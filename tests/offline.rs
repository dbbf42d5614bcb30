//! Mounting while the server is away: what is known of an earlier mount is served, and nothing of it is believed once the
//! server is back.

mod support;

use rustix::fs::XattrFlags;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::scene::{AT_ONCE, BACKEND_TIMEOUT, LIMIT, SLACK, timed};
use support::*;

const DIRECTORIES: u64 = 10;
const FILES_EACH: u64 = 20;
/// A mount must be up within this, server or not.
const UP_WITHIN: Duration = Duration::from_secs(2);
/// For a server that is back to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// What becomes of the server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    /// It takes no call any more.
    Stopped,
    /// Every call on its mount fails.
    Killed,
    /// Its directory is there, and empty, as at boot.
    NotMounted,
}

/// A server, what is mounted of it, and the plain files.
struct Place {
    mount: Mount,
    backend: Option<FaultBackend>,
    plain: PathBuf,
    options: BackendOptions,
    scratch: Scratch,
}

fn content(directory: u64, file: u64) -> Content {
    let size = [1, 700, 5000, 40_000, 300_000][(file % 5) as usize];
    Content::new(directory * 1000 + file, 1, size)
}

fn make_tree(plain: &Path) {
    for directory in 0..DIRECTORIES {
        let path = plain.join(format!("d{directory}/below"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..FILES_EACH {
            let name = path.join(format!("f{file}"));
            content(directory, file).create(&name).unwrap();
        }
        symlink("f3", path.join("link")).unwrap();
        symlink("/nowhere", path.join("dangling")).unwrap();
        fs::hard_link(path.join("f4"), path.join("second")).unwrap();
    }
    fs::create_dir(plain.join("unlisted")).unwrap();
    fs::write(plain.join("unlisted/inside"), "x").unwrap();
    std::thread::sleep(Duration::from_millis(100));
}

/// Name, facts and content of everything below a directory, the directory `unlisted` left out.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().to_owned();
            if below == Path::new("unlisted") {
                continue;
            }
            let facts = fs::symlink_metadata(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            all.insert(below, describe(&path, &facts));
            if facts.is_dir() {
                waiting.push(path);
            }
        }
    }
    all
}

fn describe(path: &Path, facts: &fs::Metadata) -> String {
    let shown = |error: io::Error| format!("{error}");
    let content = if facts.is_symlink() {
        fs::read_link(path).map(|target| target.display().to_string())
    } else if facts.is_dir() {
        Ok(String::new())
    } else {
        let sum = |bytes: Vec<u8>| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        fs::read(path).map(|bytes| format!("{} {:x}", bytes.len(), sum(bytes)))
    };
    // Link counts and times of directories change with what is in them; a directory's size is its disk's.
    let size = if facts.is_dir() { 0 } else { facts.len() };
    format!(
        "{:o} {}:{} {size} {}.{} {}",
        facts.mode(),
        facts.uid(),
        facts.gid(),
        facts.mtime(),
        facts.mtime_nsec(),
        content.unwrap_or_else(shown)
    )
}

impl Place {
    fn new(test: &str, options: BackendOptions, words: &[&str], fill: impl Fn(&Path)) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        fill(&plain);
        let backend = FaultBackend::start_on(&scratch, plain.clone(), options);
        let mut mount_options = MountOptions::new(&scratch).with("actimeo=1s");
        for word in words {
            mount_options = mount_options.with(word);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        Self {
            mount,
            backend: Some(backend),
            plain,
            options,
            scratch,
        }
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let seen = self.mount.path().to_owned();
        with_time_limit(&self.scratch, LIMIT, move || work(&seen))
    }

    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        self.run(snapshot)
    }

    /// What is known is on disk, and so many files are in the index: a daemon killed now loses nothing of it.
    fn wait_until_kept(&self, files: u64) {
        wait_until(LIMIT, "what is known to be kept", || {
            let status = self.mount.status();
            status["cache"]["files"].as_u64() >= Some(files) && status["names"]["waiting"] == 0
        });
    }

    fn lose_server(&mut self, loss: Loss) {
        match loss {
            Loss::Stopped => self.backend.as_ref().unwrap().stop(),
            Loss::Killed => self.backend.as_mut().unwrap().vanish(),
            Loss::NotMounted => self.backend = None,
        }
    }

    fn bring_server_back(&mut self) {
        match &self.backend {
            Some(backend) if process_runs(backend.pid()) => backend.resume(),
            _ => {
                self.backend = None;
                let (plain, options) = (self.plain.clone(), self.options);
                self.backend = Some(FaultBackend::start_on(&self.scratch, plain, options));
            }
        }
        wait_until(NOTICED_WITHIN, "the server to be found", || {
            self.mount.status()["backend"]["state"] == "reachable"
        });
    }

    /// Mounts and answers a first question in time.
    fn remount_in_time(&mut self) {
        let (took, ()) = timed(|| {
            self.mount.remount();
            self.run(|seen| assert!(fs::metadata(seen).unwrap().is_dir()));
        });
        assert!(took < UP_WITHIN, "mounting took {took:?}");
    }

    fn expect_away(&self) {
        let status = self.mount.status();
        assert_eq!(status["state"], "degraded", "{status}");
        assert_eq!(status["backend"]["state"], "away", "{status}");
        assert_eq!(status["backend"]["reachable"], false, "{status}");
        assert!(status["backend"]["away_seconds"].is_u64(), "{status}");
    }
}

fn process_runs(pid: i32) -> bool {
    !matches!(support::process::state(pid), None | Some('Z'))
}

fn times() -> [String; 2] {
    [
        format!("backend_timeout={}s", BACKEND_TIMEOUT.as_secs()),
        "revalidate_timeout=1s".to_owned(),
    ]
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

/// Each of these on what the server would have to be asked for ends with an error in time.
fn expect_errors_in_time(seen: &Path) {
    let unknown = |took: Duration, outcome: io::Result<()>, what: &str| {
        assert_eq!(errno(outcome), Some(libc::ETIMEDOUT), "{what}");
        assert!(took < BACKEND_TIMEOUT + SLACK, "{what} took {took:?}");
    };
    let file = seen.join("d0/below/f1");
    let (took, outcome) = timed(|| fs::create_dir(seen.join("d0/new")));
    unknown(took, outcome, "mkdir");
    let (took, outcome) = timed(|| File::create_new(seen.join("d0/new")).map(drop));
    unknown(took, outcome, "create");
    let (took, outcome) = timed(|| File::options().write(true).open(&file).map(drop));
    unknown(took, outcome, "opening for writing");
    let (took, outcome) = timed(|| fs::rename(&file, seen.join("d0/moved")));
    unknown(took, outcome, "rename");
    let (took, outcome) = timed(|| fs::set_permissions(&file, Permissions::from_mode(0o600)));
    unknown(took, outcome, "chmod");
    // The server was never asked who may go there.
    let (took, outcome) = timed(|| fs::metadata(seen.join("unlisted/inside")).map(drop));
    unknown(took, outcome, "a lookup");
    let (took, outcome) = timed(|| fs::metadata(seen.join("d0/below/absent")).map(drop));
    assert_eq!(errno(outcome), Some(libc::ENOENT));
    assert!(took < AT_ONCE, "a name known to be absent took {took:?}");
}

/// Changed in place, deleted, renamed, replaced, made anew, closed, linked elsewhere.
fn change_on_server(plain: &Path) {
    let in_first = |name: &str| plain.join("d1/below").join(name);
    let another = Content::new(9999, 2, 5000);
    let file = File::options().write(true).open(in_first("f2")).unwrap();
    another.write_to(&file).unwrap();
    fs::remove_file(in_first("f5")).unwrap();
    fs::rename(in_first("f6"), in_first("renamed")).unwrap();
    Content::new(8888, 2, 300_000)
        .replace(&in_first("f9"))
        .unwrap();
    fs::write(in_first("made"), "anew").unwrap();
    fs::set_permissions(in_first("f10"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(in_first("link")).unwrap();
    symlink("f7", in_first("link")).unwrap();
    fs::rename(plain.join("d2"), plain.join("d1/moved")).unwrap();
    fs::remove_dir_all(plain.join("d3")).unwrap();
}

fn comes_up_without_its_server(test: &str, loss: Loss, is_killed: bool) {
    let times = times();
    let words: Vec<&str> = times.iter().map(String::as_str).collect();
    let mut place = Place::new(test, BackendOptions::default(), &words, make_tree);
    let before = snapshot(&place.plain);
    assert_eq!(place.snapshot(), before);
    match is_killed {
        true => {
            place.wait_until_kept(DIRECTORIES * FILES_EACH);
            place.mount.kill9();
        }
        false => place.mount.umount(),
    }
    place.lose_server(loss);
    place.remount_in_time();
    place.expect_away();

    let (took, seen) = timed(|| place.snapshot());
    println!(
        "{} names listed, looked at and read in {took:?}",
        seen.len()
    );
    assert_eq!(seen, before);
    let found = place.run(|seen| {
        let output = Command::new("find").arg(seen).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    });
    // And the root itself, and `unlisted`, of which only the name is known.
    assert_eq!(found, before.len() + 2);
    assert!(place.mount.status_number("backend.stale_answers") > 0);
    place.run(expect_errors_in_time);
    assert_eq!(place.snapshot(), before, "after changes that failed");

    change_on_server(&place.plain);
    place.bring_server_back();
    assert_eq!(place.snapshot(), snapshot(&place.plain));
    assert_eq!(place.mount.status()["state"], "serving");
    place.run(|seen| {
        fs::write(seen.join("d0/new"), "new").unwrap();
        fs::remove_file(seen.join("d0/new")).unwrap();
    });
    place.mount.umount();
}

#[test]
fn a_mount_comes_up_with_its_server_stopped() {
    comes_up_without_its_server("offline-stopped", Loss::Stopped, false);
}

#[test]
fn a_killed_daemon_comes_up_with_its_server_stopped() {
    comes_up_without_its_server("offline-killed", Loss::Stopped, true);
}

#[test]
fn a_mount_comes_up_with_its_server_gone() {
    comes_up_without_its_server("offline-gone", Loss::Killed, true);
}

#[test]
fn an_empty_directory_is_not_taken_for_the_backend_that_was_mounted_there() {
    comes_up_without_its_server("offline-bare", Loss::NotMounted, false);
}

#[test]
fn what_the_kernel_and_the_daemon_forgot_is_known_while_the_server_is_away() {
    let times = times();
    let words: Vec<&str> = times.iter().map(String::as_str).collect();
    let mut place = Place::new(
        "offline-forgotten",
        BackendOptions::default(),
        &words,
        make_tree,
    );
    let before = place.snapshot();
    place.run(|_| support::reading::drop_caches().unwrap());
    std::thread::sleep(Duration::from_millis(1200));
    place.lose_server(Loss::Stopped);
    // Within a limit that a wait for each name would exceed.
    assert_eq!(place.snapshot(), before);
}

/// Larger than small files: read by passthrough when complete.
fn large() -> Content {
    Content::new(71, 1, 2 << 20)
}

fn make_users_tree(plain: &Path) {
    let make = |name: &str, owner: u32, mode: u32| {
        let path = plain.join(name);
        match name.rsplit('/').next() {
            Some("large") => large().create(&path).unwrap(),
            Some(last) if last.starts_with("file") => fs::write(&path, name).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    make("dir", USER, 0o755);
    make("dir/large", USER, 0o600);
    make("dir/file-for-all", USER, 0o644);
    make("dir/file-for-all2", USER, 0o644);
    make("home", USER, 0o700);
    make("home/file", USER, 0o644);
    rustix::fs::setxattr(
        plain.join("dir/large"),
        c"user.x",
        b"1",
        XattrFlags::empty(),
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(50));
}

fn read(uid: u32, path: PathBuf) -> io::Result<Vec<u8>> {
    as_user(uid, || fs::read(path))
}

#[test]
fn decisions_of_an_earlier_life_stand_and_unknown_ones_are_refused() {
    let times = times();
    let words: Vec<&str> = times.iter().map(String::as_str).collect();
    let squash = BackendOptions {
        squash: true,
        ..BackendOptions::default()
    };
    let mut place = Place::new("offline-users", squash, &words, make_users_tree);
    place.run(|seen| {
        read(USER, seen.join("dir/large")).unwrap();
        read(USER, seen.join("dir/file-for-all")).unwrap();
        read(USER, seen.join("dir/file-for-all2")).unwrap();
        read(USER, seen.join("home/file")).unwrap();
        read(OTHER_USER, seen.join("dir/file-for-all")).unwrap();
        assert_eq!(errno(fs::read(seen.join("dir/large"))), Some(libc::EACCES));
    });
    place.wait_until_kept(4);
    place.mount.kill9();
    place.lose_server(Loss::Stopped);
    place.mount.remount();
    place.expect_away();
    place.run(|seen| {
        let bytes = read(USER, seen.join("dir/large")).unwrap();
        assert_eq!(large().check(0, &bytes), Ok(()));
        read(USER, seen.join("dir/file-for-all2")).unwrap();
        read(USER, seen.join("home/file")).unwrap();
        read(OTHER_USER, seen.join("dir/file-for-all")).unwrap();
        for refused in [
            read(OTHER_USER, seen.join("dir/file-for-all2")),
            read(OTHER_USER, seen.join("home/file")),
            read(OTHER_USER, seen.join("dir/large")),
            fs::read(seen.join("dir/file-for-all")),
            fs::read(seen.join("dir/large")),
        ] {
            let errno = errno(refused);
            assert!(
                matches!(errno, Some(libc::EACCES | libc::ETIMEDOUT)),
                "{errno:?}"
            );
        }
    });
    let plain = place.plain.join("dir/file-for-all");
    fs::set_permissions(plain, Permissions::from_mode(0o600)).unwrap();
    place.bring_server_back();
    place.run(|seen| {
        read(OTHER_USER, seen.join("dir/file-for-all2")).unwrap();
        let closed = read(OTHER_USER, seen.join("dir/file-for-all"));
        assert_eq!(errno(closed), Some(libc::EACCES));
    });
}

#[test]
fn an_absence_is_bridged_for_as_long_as_stale_allows_restarts_included() {
    let words = ["backend_timeout=2s", "revalidate_timeout=500ms", "stale=8s"];
    let mut place = Place::new(
        "offline-stale",
        BackendOptions::default(),
        &words,
        make_tree,
    );
    let first = |seen: &Path| fs::metadata(seen.join("d0/below/f0")).map(drop);
    place.run(first).unwrap();
    place.lose_server(Loss::Stopped);
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(1100));
    place.run(first).unwrap();
    assert!(place.mount.status_number("backend.stale_answers") > 0);
    wait_until(LIMIT, "an absence too long to be bridged", || {
        errno(place.run(first)) == Some(libc::EIO)
    });
    let bridged = began.elapsed();
    assert!(bridged >= Duration::from_secs(8), "{bridged:?}");
    let told = place.mount.status()["warnings"].to_string();
    assert!(told.contains("longer than `stale`"), "{told}");
    // The absence has been noted by now.
    std::thread::sleep(Duration::from_millis(1500));
    place.mount.umount();
    place.mount.remount();
    wait_until(LIMIT, "the same after a restart", || {
        errno(place.run(first)) == Some(libc::EIO)
    });
    assert!(place.mount.status_number("backend.away_seconds") >= 8);
    assert_eq!(place.mount.status_number("backend.stale_answers"), 0);
    place.bring_server_back();
    place.run(first).unwrap();
}

#[test]
fn what_is_older_than_its_ttl_is_served_while_the_server_is_away() {
    let words = ["backend_timeout=2s", "revalidate_timeout=500ms", "ttl=1s"];
    let mut place = Place::new("offline-ttl", BackendOptions::default(), &words, make_tree);
    let file = |seen: &Path| fs::read(seen.join("d0/below/f0"));
    let there = place.run(file).unwrap();
    place.lose_server(Loss::Stopped);
    std::thread::sleep(Duration::from_millis(1500));
    for _ in 0..2 {
        assert!(place.run(file).unwrap() == there);
    }
    place.bring_server_back();
    assert!(place.run(file).unwrap() == there);
}

#[test]
fn with_stale_off_nothing_stands_in_for_the_server() {
    let words = [
        "backend_timeout=2s",
        "revalidate_timeout=500ms",
        "stale=off",
    ];
    let mut place = Place::new("offline-off", BackendOptions::default(), &words, make_tree);
    let first = |seen: &Path| fs::metadata(seen.join("d0/below/f0")).map(drop);
    place.run(first).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    place.lose_server(Loss::Stopped);
    for _ in 0..3 {
        let outcome = place.run(first);
        assert_eq!(errno(outcome), Some(libc::ETIMEDOUT));
    }
    assert_eq!(place.mount.status_number("backend.stale_answers"), 0);
    place.bring_server_back();
    place.run(first).unwrap();
}

#[test]
fn what_is_there_now_is_served_where_it_is_no_bare_mountpoint() {
    let mut place = Place::new("offline-moved", BackendOptions::default(), &[], make_tree);
    place.snapshot();
    place.mount.umount();
    // The same filesystem, emptied.
    for entry in fs::read_dir(&place.plain).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    place.mount.remount();
    assert_eq!(place.snapshot(), BTreeMap::new());
    place.mount.umount();
    // Another one, with something in it.
    let bare = place.backend.take().unwrap().mountpoint.clone();
    fs::write(bare.join("local"), "here").unwrap();
    place.mount.remount();
    assert_eq!(place.mount.status()["backend"]["state"], "reachable");
    let seen = place.run(|seen| fs::read(seen.join("local")).unwrap());
    assert_eq!(seen, b"here");
    place.mount.umount();
    fs::remove_file(bare.join("local")).unwrap();
}

#[test]
fn without_anything_known_a_mount_without_its_server_fails_in_time() {
    let words = ["backend_timeout=2s", "revalidate_timeout=500ms"];
    let mut place = Place::new(
        "offline-unknown",
        BackendOptions::default(),
        &words,
        make_tree,
    );
    place.snapshot();
    place.mount.umount();
    place.lose_server(Loss::Stopped);
    let store = place.mount.cache_dir().join("names.redb");
    for is_missing in [false, true] {
        match is_missing {
            true => fs::remove_file(&store).unwrap(),
            false => fs::write(&store, "no database").unwrap(),
        }
        let (took, output) = timed(|| place.mount.try_mount(LIMIT));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(32), "{told}");
        assert!(told.contains("no answer within 2 s"), "{told}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert!(support::scratch::mount_at(place.mount.path()).is_none());
    }
    place.backend.as_ref().unwrap().resume();
    place.mount.remount();
    assert_eq!(place.snapshot(), snapshot(&place.plain));
}
