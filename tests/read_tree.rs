//! Promise 1, the whole tree: everything reads through the mount as on the backend, cold, warm and after
//! restarts, and what is warm is not fetched again.

mod support;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::*;

/// The index is made durable at least every 5 s.
const CHECKPOINT: Duration = Duration::from_secs(6);

/// Everything of one name that a program can see and that does not move by itself.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: (i64, i64),
    size_bytes: u64,
    target: Option<PathBuf>,
    data_hash: u64,
    /// Another name of the same inode, the first in order.
    same_as: Option<PathBuf>,
}

impl Seen {
    fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}

fn survey(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut paths = Vec::new();
    collect(root, root, &mut paths);
    paths.sort();
    let mut first_of: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for relative in paths {
        let_kernel_forget(seen.len());
        let path = root.join(&relative);
        let facts = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let kind = facts.file_type();
        let key = (facts.dev(), facts.ino());
        let first = first_of.entry(key).or_insert_with(|| relative.clone());
        seen.insert(
            relative.clone(),
            Seen {
                mode: facts.mode(),
                owner: (facts.uid(), facts.gid()),
                links: if kind.is_dir() { 0 } else { facts.nlink() },
                modified: (facts.mtime(), facts.mtime_nsec()),
                size_bytes: if kind.is_dir() { 0 } else { facts.len() },
                target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
                data_hash: if kind.is_file() { hash_of(&path) } else { 0 },
                same_as: (*first != relative).then(|| first.clone()),
            },
        );
    }
    seen
}

/// The fault backend holds a descriptor for every name that the kernel knows of it, and has a limit of them.
fn let_kernel_forget(names: usize) {
    if names > 0 && names.is_multiple_of(4000) {
        reading::drop_caches().unwrap();
    }
}

fn collect(root: &Path, directory: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
    for entry in entries {
        let entry = entry.unwrap_or_else(|e| panic!("{directory:?}: {e}"));
        let path = entry.path();
        into.push(path.strip_prefix(root).unwrap().to_owned());
        let_kernel_forget(into.len());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, into);
        }
    }
}

fn hash_of(path: &Path) -> u64 {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = DefaultHasher::new();
    loop {
        match file
            .read(&mut buffer)
            .unwrap_or_else(|e| panic!("{path:?}: {e}"))
        {
            0 => return hasher.finish(),
            count => hasher.write(&buffer[..count]),
        }
    }
}

fn generate(root: &Path, random: &mut Random) {
    let sizes = [
        0,
        1,
        511,
        4095,
        4096,
        4097,
        16 << 10,
        (16 << 10) + 1,
        100_000,
        1 << 20,
        (4 << 20) + 3,
        17 << 20,
    ];
    for (index, size) in sizes.iter().enumerate() {
        let content = Content::new(random.next(), 1, *size);
        content
            .create(&root.join(format!("size-{index}-{size}")))
            .unwrap();
    }
    for directory in 0..20 {
        let path = root.join(format!("directory {directory}"));
        fs::create_dir(&path).unwrap();
        for index in 0..25 {
            let size_bytes = random.below(60_000);
            let content = Content::new(random.next(), 1, size_bytes);
            content.create(&path.join(format!("file{index}"))).unwrap();
        }
    }
    let mut deep = root.to_owned();
    for level in 0..60 {
        deep.push(format!("level{level}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"bottom").unwrap();

    fs::hard_link(root.join("size-8-100000"), root.join("hard link")).unwrap();
    fs::hard_link(root.join("size-8-100000"), deep.join("far link")).unwrap();
    symlink("size-3-4095", root.join("relative")).unwrap();
    symlink("nowhere/at/all", root.join("dangling")).unwrap();
    symlink("/etc/hostname", root.join("absolute")).unwrap();
    symlink("directory 1", root.join("to a directory")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not\xffutf8\xfe\n")), b"bytes").unwrap();
    fs::write(root.join("n".repeat(255)), b"long").unwrap();
    fs::write(root.join(OsString::from("\u{e9}".repeat(127))), b"accents").unwrap();

    let sparse = File::create(root.join("sparse")).unwrap();
    for offset in [3 << 20, 40 << 20, (64 << 20) - 4096] {
        let content = Content::new(random.next(), 1, u64::MAX);
        sparse
            .write_all_at(&content.bytes(offset, 4096), offset)
            .unwrap();
    }
    File::create(root.join("only a hole"))
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    let secret = root.join("mode 0600");
    fs::write(&secret, b"secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(root.join("directory 2"), fs::Permissions::from_mode(0o1755)).unwrap();
}

/// Fills may go on behind the last read.
fn wait_for_quiet(backend: &FaultBackend) {
    let mut last = backend.counters().bytes_read;
    let mut quiet_since = std::time::Instant::now();
    wait_until(Duration::from_secs(60), "fills to end", || {
        let now = backend.counters().bytes_read;
        if now != last {
            last = now;
            quiet_since = std::time::Instant::now();
        }
        quiet_since.elapsed() > Duration::from_secs(1)
    });
}

fn assert_same(expected: &BTreeMap<PathBuf, Seen>, seen: &BTreeMap<PathBuf, Seen>, pass: &str) {
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        seen.keys().collect::<Vec<_>>(),
        "{pass}: names"
    );
    for (path, facts) in expected {
        assert_eq!(facts, &seen[path], "{pass}: {}", path.display());
    }
}

/// All passes over one tree; `limit` bounds each.
fn check_tree(scratch: &Scratch, backend: &FaultBackend, limit: Duration) {
    let expected = survey(&backend.plain);
    let options = MountOptions::new(scratch).with("cache_size=20G");
    let mut mount = Mount::start(scratch, &backend.mountpoint, options);
    let files = expected.values().filter(|seen| seen.is_file()).count();
    let bytes: u64 = expected.values().map(|seen| seen.size_bytes).sum();
    println!("{files} files, {} MB", bytes / 1_000_000);
    let pass = |mount: &Mount, name: &str| {
        let path = mount.path().to_owned();
        let began = std::time::Instant::now();
        let seen = with_time_limit(scratch, limit, move || survey(&path));
        println!("{name}: equal after {:.1?}", began.elapsed());
        assert_same(&expected, &seen, name);
    };
    let warm_pass = |mount: &Mount, name: &str| {
        backend.reset_counters();
        pass(mount, name);
        let counters = backend.counters();
        assert_eq!(
            counters.bytes_read, 0,
            "{name}: {:?}",
            counters.reads_by_file
        );
        println!("{name}: 0 data bytes read from the backend");
    };
    pass(&mount, "cold");
    wait_for_quiet(backend);
    warm_pass(&mount, "warm");
    mount.umount();
    mount.remount();
    warm_pass(&mount, "after umount");
    std::thread::sleep(CHECKPOINT);
    mount.kill9();
    mount.remount();
    warm_pass(&mount, "after kill -9");
    mount.umount();
}

#[test]
fn a_generated_tree_reads_the_same_cold_warm_and_after_restarts() {
    let scratch = Scratch::new("tree");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    generate(&backend.plain, &mut Random::from_environment("tree"));
    // Old enough that no timestamp is young when the fills begin.
    std::thread::sleep(Duration::from_millis(100));
    check_tree(&scratch, &backend, Duration::from_secs(120));
}

/// A tree of this machine with at least 20,000 files and 2 GB: the one CACHEFS_TREE names, or the first of those
/// that most machines have.
fn real_tree() -> PathBuf {
    if let Some(named) = std::env::var_os("CACHEFS_TREE") {
        return named.into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    let rustup =
        std::env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    [
        rustup.join("toolchains"),
        "/usr".into(),
        "/opt".into(),
        home,
    ]
    .into_iter()
    .filter(|root| root.is_dir())
    .find(|root| {
        let (files, bytes) = extent_of(root);
        println!(
            "{}: {files} files, {} MB",
            root.display(),
            bytes / 1_000_000
        );
        files >= 20_000 && bytes >= 2_000_000_000
    })
    .expect("a tree of 2 GB and 20,000 files; CACHEFS_TREE may name one")
}

/// Regular files below a directory, and their bytes.
fn extent_of(root: &Path) -> (u64, u64) {
    let mut paths = Vec::new();
    collect(root, root, &mut paths);
    paths
        .iter()
        .filter_map(|path| fs::symlink_metadata(root.join(path)).ok())
        .filter(|facts| facts.is_file())
        .fold((0, 0), |(files, bytes), facts| {
            (files + 1, bytes + facts.len())
        })
}

/// The real tree at another place, read-only: whatever becomes of a test, its tree stays.
fn show_real_tree(at: &Path) {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    let bind = MsFlags::MS_BIND;
    mount(Some(&real_tree()), at, none, bind, none).expect("root may bind");
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, at, none, read_only, none).expect("root may make it read-only");
}

/// With CACHEFS_LONG=1.
#[test]
fn a_real_tree_reads_the_same_cold_warm_and_after_restarts() {
    if !long_run() {
        return;
    }
    let scratch = Scratch::new("real-tree");
    let tree = scratch.directory("tree");
    show_real_tree(&tree);
    let backend = FaultBackend::start_on(&scratch, tree, BackendOptions::default());
    check_tree(&scratch, &backend, Duration::from_secs(1200));
}

/// The real tree with CACHEFS_LONG=1, a generated one without.
#[test]
fn mounted_over_the_backends_own_path_it_reads_the_same_and_umount_gives_the_backend_back() {
    let scratch = Scratch::new("own-path");
    let own = scratch.directory("own");
    if long_run() {
        show_real_tree(&own);
    } else {
        generate(&own, &mut Random::from_environment("own-path"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let expected = survey(&own);
    let mut options = MountOptions::new(&scratch).with("cache_size=20G");
    options.mountpoint.clone_from(&own);
    let mut mount = Mount::start(&scratch, &own, options);
    for name in ["cold", "warm"] {
        let path = own.clone();
        let seen = with_time_limit(&scratch, Duration::from_secs(1200), move || survey(&path));
        assert_same(&expected, &seen, name);
    }
    mount.umount();
    assert_same(&expected, &survey(&own), "after umount");
}

#[test]
fn inode_numbers_of_any_kind_are_shown_as_they_are() {
    let scratch = Scratch::new("inode-numbers");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    for name in ["one", "high", "other"] {
        fs::write(backend.plain.join(name), name).unwrap();
    }
    let by_path = [("one".to_owned(), 1), ("high".to_owned(), u64::MAX - 7)].into();
    backend.set_inodes(InodeNumbers {
        set_bits: 1 << 63,
        by_path,
    });
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let path = mount.path().to_owned();
    let other = fs::metadata(backend.mountpoint.join("other"))
        .unwrap()
        .ino();
    let numbers = with_time_limit(&scratch, Duration::from_secs(20), move || {
        ["one", "high", "other"].map(|name| {
            assert_eq!(fs::read(path.join(name)).unwrap(), name.as_bytes());
            fs::metadata(path.join(name)).unwrap().ino()
        })
    });
    assert_eq!(numbers, [1, u64::MAX - 7, other]);
}

#[test]
fn holes_are_found_and_files_over_4_gib_read() {
    let scratch = Scratch::new("holes");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let content = Content::new(11, 1, u64::MAX);
    let far = (5 << 30) + 4096;
    let plain = File::create(backend.plain.join("sparse")).unwrap();
    plain
        .write_all_at(&content.bytes(far, 10_000), far)
        .unwrap();
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let path = mount.join("sparse");
    with_time_limit(&scratch, Duration::from_secs(60), move || {
        let file = File::open(path).unwrap();
        let seek = |to| rustix::fs::seek(&file, to).unwrap();
        assert_eq!(file.metadata().unwrap().len(), far + 10_000);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), far);
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), 0);
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(far)), far + 10_000);
        let bytes = support::reading::read_range(&file, far, 10_000).unwrap();
        assert_eq!(content.check(far, &bytes), Ok(()));
        let hole = support::reading::read_range(&file, 1 << 32, 4096).unwrap();
        assert_eq!(hole, vec![0; 4096]);
    });
}

#[test]
fn every_change_is_refused_as_read_only() {
    let scratch = Scratch::new("read-only");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    fs::write(backend.plain.join("file"), b"text").unwrap();
    fs::create_dir(backend.plain.join("dir")).unwrap();
    let options = MountOptions::new(&scratch).with("ro");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let path = mount.path().to_owned();
    let results = with_time_limit(&scratch, Duration::from_secs(20), move || {
        [
            ("create", File::create(path.join("new")).map(drop)),
            (
                "write",
                File::options()
                    .append(true)
                    .open(path.join("file"))
                    .map(drop),
            ),
            ("unlink", fs::remove_file(path.join("file"))),
            ("mkdir", fs::create_dir(path.join("new"))),
            ("rmdir", fs::remove_dir(path.join("dir"))),
            ("rename", fs::rename(path.join("file"), path.join("new"))),
            ("link", fs::hard_link(path.join("file"), path.join("new"))),
            ("symlink", symlink("file", path.join("new"))),
            (
                "chmod",
                fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o644)),
            ),
        ]
    });
    for (verb, result) in results {
        let errno = result.err().and_then(|error| error.raw_os_error());
        assert_eq!(errno, Some(libc::EROFS), "{verb}");
    }
}
