//! [`DirectoryBackend`] on real directories and mounts.

use super::filesystems::Filesystem;
use super::testing::{Mounted, scratch};
use super::*;
use crate::types::FileKind;
use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn open(path: &Path) -> Arc<DirectoryBackend> {
    DirectoryBackend::open(path, Arc::default()).unwrap()
}

fn root(backend: &DirectoryBackend) -> Place {
    backend.root().unwrap().0
}

/// Looks up `name` in `parent`, as a place.
fn find(backend: &DirectoryBackend, parent: &Place, name: &str) -> io::Result<Place> {
    find_raw(backend, parent, OsStr::new(name))
}

fn find_raw(backend: &DirectoryBackend, parent: &Place, name: &OsStr) -> io::Result<Place> {
    let found = backend.lookup(parent, name)?;
    Ok(Place {
        caller: None,
        only_caller: false,
        filesystem: found.filesystem,
        key: found.key,
        inode: found.attributes.inode,
        path: parent.path.join(name),
        held: None,
    })
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn contents(backend: &DirectoryBackend, place: &Place) -> Vec<u8> {
    let file = backend.open(place).unwrap();
    let mut bytes = vec![0; 64 * 1024];
    let length = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(length);
    bytes
}

fn names(backend: &DirectoryBackend, place: &Place) -> HashSet<OsString> {
    let mut stream = backend.open_directory(place).unwrap();
    let mut all = HashSet::new();
    loop {
        let mut some = Vec::new();
        stream.next_names(&mut some).unwrap();
        if some.is_empty() {
            return all;
        }
        assert!(some.len() <= 512, "bounded");
        for listed in some {
            assert!(all.insert(listed.name), "listed once");
        }
    }
}

/// Runs a test on the scratch filesystem (usually with handles) and on a tmpfs (without).
fn everywhere(test: impl Fn(&Path)) {
    let directory = scratch();
    let disk = directory.path().join("disk");
    let memory = directory.path().join("memory");
    fs::create_dir(&disk).unwrap();
    fs::create_dir(&memory).unwrap();
    test(&disk);
    if let Some(_mounted) = Mounted::tmpfs(&memory) {
        test(&memory);
    }
}

#[test]
fn files_directories_links_and_attributes_are_what_the_system_says() {
    everywhere(|path| {
        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/file"), b"0123456789").unwrap();
        symlink("some/target", path.join("link")).unwrap();
        let backend = open(path);
        let root = root(&backend);
        let sub = find(&backend, &root, "sub").unwrap();
        let file = find(&backend, &sub, "file").unwrap();
        let attributes = backend.attributes(&file).unwrap();
        let metadata = fs::metadata(path.join("sub/file")).unwrap();
        assert_eq!(attributes.kind, FileKind::Regular);
        assert_eq!(attributes.inode, metadata.ino());
        assert_eq!(attributes.size_bytes, 10);
        assert_eq!(attributes.permissions, metadata.mode() & 0o7777);
        assert_eq!(attributes.mtime.seconds, metadata.mtime());
        assert_eq!(
            i64::from(attributes.ctime.nanoseconds),
            metadata.ctime_nsec()
        );
        let source = backend.open(&file).unwrap();
        let mut buffer = [0; 20];
        assert_eq!(source.read_at(&mut buffer, 3).unwrap(), 7);
        assert_eq!(&buffer[..7], b"3456789");
        assert_eq!(source.attributes().unwrap().size_bytes, 10);
        let link = find(&backend, &root, "link").unwrap();
        assert_eq!(backend.read_link(&link).unwrap(), b"some/target");
        assert_eq!(errno(backend.read_link(&file)), Some(libc::EINVAL));
        assert_eq!(errno(backend.open(&link)), Some(libc::ELOOP));
        assert_eq!(errno(backend.open(&sub)), Some(libc::EISDIR));
        assert_eq!(errno(backend.open_directory(&file)), Some(libc::ENOTDIR));
        assert_eq!(errno(find(&backend, &file, "x")), Some(libc::ENOTDIR));
        assert_eq!(errno(find(&backend, &root, "absent")), Some(libc::ENOENT));
        let listed = names(&backend, &root);
        assert_eq!(listed, HashSet::from(["sub".into(), "link".into()]));
        let space = backend.space(&root).unwrap();
        assert!(space.blocks > 0 && space.block_size_bytes > 0 && space.name_length_max == 255);
        assert_ne!(
            backend.has_local_clock(file.filesystem),
            backend.filesystems()[0].remote
        );
    });
}

#[test]
fn extended_attributes_of_files_and_links_are_read() {
    let directory = scratch();
    let path = directory.path().join("file");
    fs::write(&path, b"").unwrap();
    let long = vec![b'x'; 3000];
    let set = |name: &std::ffi::CStr, value: &[u8]| {
        std::process::Command::new("setfattr")
            .args(["-n", name.to_str().unwrap(), "-v"])
            .arg(OsStr::from_bytes(value))
            .arg(&path)
            .status()
            .is_ok_and(|status| status.success())
    };
    let backend = open(directory.path());
    let file = find(&backend, &root(&backend), "file").unwrap();
    assert_eq!(
        errno(backend.get_xattr(&file, OsStr::new("user.none"))),
        Some(libc::ENODATA)
    );
    if !set(c"user.short", b"value") || !set(c"user.long", &long) {
        eprintln!("no setfattr, or no user attributes here: the values are left out");
        return;
    }
    assert_eq!(
        backend.get_xattr(&file, OsStr::new("user.short")).unwrap(),
        b"value"
    );
    assert_eq!(
        backend.get_xattr(&file, OsStr::new("user.long")).unwrap(),
        long
    );
    let list = backend.list_xattr(&file).unwrap();
    let listed: HashSet<_> = list.split(|byte| *byte == 0).collect();
    assert!(listed.contains(&b"user.short"[..]) && listed.contains(&b"user.long"[..]));
}

#[test]
fn no_name_leads_out_of_the_tree() {
    everywhere(|path| {
        let tree = path.join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(path.join("secret"), b"secret").unwrap();
        symlink("/", tree.join("slash")).unwrap();
        symlink("..", tree.join("up")).unwrap();
        let backend = open(&tree);
        let root = root(&backend);
        for name in ["..", ".", "", "../secret", "slash/etc", "/etc", "a\0b"] {
            assert_eq!(
                errno(find(&backend, &root, name)),
                Some(libc::EINVAL),
                "{name:?}"
            );
        }
        for name in ["slash", "up"] {
            let link = find(&backend, &root, name).unwrap();
            assert_eq!(backend.attributes(&link).unwrap().kind, FileKind::Symlink);
            assert!(find(&backend, &link, "etc").is_err());
            assert!(find(&backend, &link, "secret").is_err());
            assert_eq!(errno(backend.open_directory(&link)), Some(libc::ENOTDIR));
        }
        // A path in a place is not trusted either.
        for path in ["../secret", "up/secret", "/etc/passwd"] {
            let place = Place {
                caller: None,
                only_caller: false,
                key: FileKey([0; 25].as_slice().into()),
                path: path.into(),
                ..root.clone()
            };
            assert_eq!(
                errno(backend.attributes(&place)),
                Some(libc::ESTALE),
                "{path}"
            );
        }
    });
}

#[test]
fn a_directory_swapped_with_a_link_during_lookups_never_leads_out() {
    everywhere(|path| {
        fs::create_dir(path.join("dir")).unwrap();
        fs::write(path.join("dir/passwd"), b"ours").unwrap();
        symlink("/etc", path.join("evil")).unwrap();
        let device = fs::metadata(path).unwrap().dev();
        let ours = fs::metadata(path.join("dir/passwd")).unwrap().ino();
        let backend = open(path);
        let root = root(&backend);
        let dir = find(&backend, &root, "dir").unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for (from, to) in [("dir", "t"), ("evil", "dir"), ("dir", "evil"), ("t", "dir")]
                    {
                        fs::rename(path.join(from), path.join(to)).unwrap();
                    }
                }
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            let (mut seen, mut tries) = (0, 0);
            while tries < 3000 || (seen == 0 && Instant::now() < deadline) {
                tries += 1;
                let parent = find(&backend, &root, "dir").unwrap_or_else(|_| dir.clone());
                if let Ok(place) = find(&backend, &parent, "passwd") {
                    assert_eq!(place.inode, ours);
                    seen +=
                        usize::from(contents_if_there(&backend, &place) == Some(b"ours".into()));
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(seen > 0);
        });
        assert_eq!(fs::metadata(path).unwrap().dev(), device);
    });
}

fn contents_if_there(backend: &DirectoryBackend, place: &Place) -> Option<Vec<u8>> {
    let file = backend.open(place).ok()?;
    let mut bytes = vec![0; 1024];
    let length = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

#[test]
fn names_may_be_any_bytes_and_255_long() {
    everywhere(|path| {
        let long = "n".repeat(255);
        let odd = OsStr::from_bytes(b"\xff\xfe bad \xc3( \n\\040");
        fs::write(path.join(&long), b"long").unwrap();
        fs::write(path.join(odd), b"odd").unwrap();
        let backend = open(path);
        let root = root(&backend);
        assert_eq!(
            contents(&backend, &find(&backend, &root, &long).unwrap()),
            b"long"
        );
        assert_eq!(
            contents(&backend, &find_raw(&backend, &root, odd).unwrap()),
            b"odd"
        );
        let too_long = "n".repeat(256);
        assert_eq!(
            errno(find(&backend, &root, &too_long)),
            Some(libc::ENAMETOOLONG)
        );
        assert_eq!(
            names(&backend, &root),
            HashSet::from([long.into(), odd.into()])
        );
    });
}

#[test]
fn a_deep_path_beyond_path_max_is_walked() {
    let directory = scratch();
    let Some(_mounted) = Mounted::tmpfs(directory.path()) else {
        return;
    };
    let backend = open(directory.path());
    let mut place = root(&backend);
    let name = "d".repeat(250);
    // Made relative to descriptors, since no path names it in one piece.
    let mut made = fs::File::open(directory.path()).unwrap();
    for _ in 0..20 {
        nix::sys::stat::mkdirat(&made, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let flags = nix::fcntl::OFlag::O_DIRECTORY;
        let next = nix::fcntl::openat(&made, name.as_str(), flags, nix::sys::stat::Mode::empty());
        made = next.unwrap().into();
        place = find(&backend, &place, &name).unwrap();
    }
    assert!(place.path.as_os_str().len() > libc::PATH_MAX as usize);
    // A second backend knows no descriptor yet and, on tmpfs, has only the path.
    let fresh = open(directory.path());
    assert_eq!(
        fresh.attributes(&place).unwrap().inode,
        made.metadata().unwrap().ino()
    );
}

#[test]
fn hard_links_have_one_key_and_a_rename_keeps_it() {
    everywhere(|path| {
        fs::write(path.join("one"), b"linked").unwrap();
        fs::hard_link(path.join("one"), path.join("two")).unwrap();
        let backend = open(path);
        let root = root(&backend);
        let one = find(&backend, &root, "one").unwrap();
        let two = find(&backend, &root, "two").unwrap();
        assert_eq!(one.key, two.key);
        assert!(one.key.0.len() <= 160);
        fs::create_dir(path.join("elsewhere")).unwrap();
        fs::rename(path.join("one"), path.join("elsewhere/three")).unwrap();
        let elsewhere = find(&backend, &root, "elsewhere").unwrap();
        let three = find(&backend, &elsewhere, "three").unwrap();
        assert_eq!(three.key, two.key);
        // The old place: found by its handle, or plainly gone.
        match one.key.0[8] {
            1 => assert_eq!(contents(&backend, &one), b"linked"),
            _ => assert_eq!(errno(backend.open(&one)), Some(libc::ESTALE)),
        }
        // A new backend on the same directory, as after a restart, makes the same keys.
        let again = open(path);
        assert_eq!(find(&again, &root, "two").unwrap().key, two.key);
        assert_eq!(contents(&again, &three), b"linked");
    });
}

#[test]
fn another_file_in_a_files_place_is_stale_and_never_served() {
    everywhere(|path| {
        let backend = open(path);
        let root = root(&backend);
        let mut keys = HashSet::new();
        let mut inodes = HashSet::new();
        for round in 0..50 {
            fs::write(path.join("file"), round.to_string()).unwrap();
            let place = find(&backend, &root, "file").unwrap();
            inodes.insert(place.inode);
            assert!(keys.insert(place.key.clone()), "a new file has a new key");
            fs::remove_file(path.join("file")).unwrap();
            assert_eq!(errno(backend.open(&place)), Some(libc::ESTALE));
            fs::write(path.join("file"), b"another").unwrap();
            assert_eq!(errno(backend.open(&place)), Some(libc::ESTALE));
            assert_eq!(errno(backend.attributes(&place)), Some(libc::ESTALE));
            fs::remove_file(path.join("file")).unwrap();
        }
        eprintln!("{} inode numbers for 50 files", inodes.len());
    });
}

#[test]
fn pipes_and_devices_are_never_opened() {
    let directory = scratch();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let backend = open(directory.path());
    let place = find(&backend, &root(&backend), "pipe").unwrap();
    assert_eq!(backend.attributes(&place).unwrap().kind, FileKind::Fifo);
    // Would hang if it were opened.
    assert_eq!(errno(backend.open(&place)), Some(libc::ENXIO));
}

#[test]
fn submounts_are_crossed_and_told_apart() {
    let directory = scratch();
    let tree = directory.path().join("tree");
    let other = directory.path().join("other");
    for path in [&tree, &other, &tree.join("bind"), &tree.join("memory")] {
        fs::create_dir(path).unwrap();
    }
    fs::create_dir(other.join("sub")).unwrap();
    fs::write(other.join("sub/file"), b"bound").unwrap();
    fs::write(tree.join("plain"), b"plain").unwrap();
    let Some(_bind) = Mounted::bind(&other, &tree.join("bind")) else {
        return;
    };
    let memory = Mounted::tmpfs(&tree.join("memory")).unwrap();
    fs::write(tree.join("memory/file"), b"memory").unwrap();

    let backend = open(&tree);
    let root = root(&backend);
    let bind = find(&backend, &root, "bind").unwrap();
    let sub = find(&backend, &bind, "sub").unwrap();
    let bound = find(&backend, &sub, "file").unwrap();
    assert_eq!(contents(&backend, &bound), b"bound");
    let in_memory = find(&backend, &root, "memory").unwrap();
    let file = find(&backend, &in_memory, "file").unwrap();
    assert_eq!(contents(&backend, &file), b"memory");
    let plain = find(&backend, &root, "plain").unwrap();
    assert_eq!(plain.filesystem, FilesystemIndex(0));
    let indexes = HashSet::from([plain.filesystem, bound.filesystem, file.filesystem]);
    assert_eq!(indexes.len(), 3);
    let described = backend.filesystems();
    assert_eq!(described.len(), 3);
    assert_eq!(described[usize::from(file.filesystem.0)].fstype, "tmpfs");
    assert!(!described[usize::from(file.filesystem.0)].keeps_handles);
    assert_eq!(names(&backend, &bind), HashSet::from(["sub".into()]));

    // Unmounted and mounted anew: another filesystem (a tmpfs has an id of its own each time).
    drop(memory);
    let _memory = Mounted::tmpfs(&tree.join("memory")).unwrap();
    fs::write(tree.join("memory/file"), b"memory two").unwrap();
    let in_memory = find(&backend, &root, "memory").unwrap();
    let anew = find(&backend, &in_memory, "file").unwrap();
    assert_ne!(anew.key, file.key);
    assert_eq!(contents(&backend, &anew), b"memory two");
    assert_eq!(errno(backend.open(&file)), Some(libc::ESTALE));
}

#[test]
fn a_mount_over_the_backends_path_hides_nothing_from_us() {
    let directory = scratch();
    let path = directory.path().join("tree");
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("sub/file"), b"below").unwrap();
    let backend = open(&path);
    let Some(_over) = Mounted::tmpfs(&path) else {
        return;
    };
    assert!(!path.join("sub").exists());
    let root = root(&backend);
    let sub = find(&backend, &root, "sub").unwrap();
    let file = find(&backend, &sub, "file").unwrap();
    assert_eq!(contents(&backend, &file), b"below");
    assert_eq!(names(&backend, &root), HashSet::from(["sub".into()]));
}

#[test]
fn a_hundred_thousand_names_stream_in_bounded_pieces() {
    let directory = scratch();
    let Some(_mounted) = Mounted::tmpfs(directory.path()) else {
        return;
    };
    let count = 100_000;
    for number in 0..count {
        symlink("t", directory.path().join(number.to_string())).unwrap();
    }
    let backend = open(directory.path());
    let root = root(&backend);
    assert_eq!(names(&backend, &root).len(), count);
    let mut stream = backend.open_directory(&root).unwrap();
    let (mut first, mut again) = (Vec::new(), Vec::new());
    stream.next_names(&mut first).unwrap();
    stream.rewind().unwrap();
    stream.next_names(&mut again).unwrap();
    assert_eq!(first.len(), again.len());
    assert_eq!(first[0].name, again[0].name);
    let found = stream.lookup(&first[0].name).unwrap();
    assert_eq!(found.attributes.inode, first[0].inode);
    assert_eq!(found.attributes.kind, FileKind::Symlink);
}

#[test]
fn holes_are_found_and_calls_counted() {
    let directory = scratch();
    let file = fs::File::create(directory.path().join("sparse")).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    let metrics = Arc::<BackendMetrics>::default();
    let backend = DirectoryBackend::open(directory.path(), metrics.clone()).unwrap();
    let (root, _) = backend.root().unwrap();
    let place = find(&backend, &root, "sparse").unwrap();
    let source = backend.open(&place).unwrap();
    assert_eq!(source.seek(0, SeekWhence::Data).unwrap(), 1 << 20);
    assert_eq!(source.seek(0, SeekWhence::Hole).unwrap(), 0);
    assert_eq!(
        errno(source.seek(2 << 20, SeekWhence::Data)),
        Some(libc::ENXIO)
    );
    let mut buffer = [0; 10];
    assert_eq!(source.read_at(&mut buffer, (1 << 20) - 1).unwrap(), 4);
    assert_eq!(&buffer[..4], b"\0end");
    assert!(matches!(source.source(), FillSource::Descriptor(_)));
    assert_eq!(metrics.bytes_read.get(), 4);
    assert_eq!(metrics.errors.get(), 0);
    assert_eq!(errno(backend.open(&root)), Some(libc::EISDIR));
    assert_eq!(metrics.errors.get(), 1);
}

#[test]
fn a_backend_that_is_none_is_refused_with_its_errno() {
    let directory = scratch();
    fs::write(directory.path().join("file"), b"").unwrap();
    let open = |name: &str| DirectoryBackend::open(&directory.path().join(name), Arc::default());
    assert_eq!(errno(open("absent")), Some(libc::ENOENT));
    assert_eq!(errno(open("file")), Some(libc::ENOTDIR));
}

#[test]
fn without_the_privilege_for_handles_files_are_found_by_path_and_checked() {
    let directory = scratch();
    fs::create_dir(directory.path().join("sub")).unwrap();
    fs::write(directory.path().join("sub/file"), b"by path").unwrap();
    let backend = open(directory.path());
    let root = root(&backend);
    let sub = find(&backend, &root, "sub").unwrap();
    let file = find(&backend, &sub, "file").unwrap();
    backend.each_filesystem(Filesystem::give_up_handles);
    assert_eq!(contents(&backend, &file), b"by path");
    fs::rename(
        directory.path().join("sub/file"),
        directory.path().join("sub/moved"),
    )
    .unwrap();
    assert_eq!(errno(backend.open(&file)), Some(libc::ESTALE));
    fs::write(directory.path().join("sub/file"), b"another").unwrap();
    assert_eq!(errno(backend.open(&file)), Some(libc::ESTALE));
    assert!(!backend.filesystems()[0].opens_handles);
}
