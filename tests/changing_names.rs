//! Names and attributes change on the backend before the answer, with the rights of who asked, and show at once.

mod support;

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::content::expect_content;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

/// A plain directory and its mount, where everything known is believed for long: what shows at once does so because of
/// the change.
struct Pair {
    mount: Mount,
    plain: PathBuf,
    scratch: Scratch,
}

impl Pair {
    fn new(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        for (path, mode) in [(scratch.path(), 0o755), (&*plain, 0o1777)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
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
        let (seen, plain) = (self.mount.path().to_owned(), self.plain.clone());
        with_time_limit(&self.scratch, LIMIT, move || work(&seen, &plain));
    }
}

fn make_file(path: &Path, mode: u32) -> io::Result<()> {
    use rustix::fs::{FileType, Mode, mknodat};
    let mode = Mode::from_raw_mode(mode);
    Ok(mknodat(CWD, path, FileType::RegularFile, mode, 0)?)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

/// All that stat(2) tells and must be the same on both sides.
fn facts(path: &Path) -> (u64, u32, u64, u32, u32, u64, u64, [i64; 6]) {
    let facts =
        fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    facts_of(&facts)
}

fn facts_of(facts: &Metadata) -> (u64, u32, u64, u32, u32, u64, u64, [i64; 6]) {
    let times = [
        facts.atime(),
        facts.atime_nsec(),
        facts.mtime(),
        facts.mtime_nsec(),
        facts.ctime(),
        facts.ctime_nsec(),
    ];
    (
        facts.ino(),
        facts.mode(),
        facts.nlink(),
        facts.uid(),
        facts.gid(),
        facts.rdev(),
        facts.size(),
        times,
    )
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    entries.map(name).collect()
}

/// Both trees have the same names with the same attributes.
fn expect_same(seen: &Path, plain: &Path) {
    assert_eq!(facts(seen), facts(plain), "{}", seen.display());
    if !plain.symlink_metadata().unwrap().is_dir() {
        return;
    }
    let expected = names(plain);
    assert_eq!(names(seen), expected, "{}", seen.display());
    for name in expected {
        expect_same(&seen.join(&name), &plain.join(&name));
    }
}

#[test]
fn every_change_is_on_the_backend_when_it_is_answered_and_shows_at_once() {
    use rustix::fs::{FileType, Mode, mknodat};
    let pair = Pair::new("changing", &[]);
    pair.run(|seen, plain| {
        let same = || expect_same(seen, plain);
        same();
        fs::create_dir(seen.join("dir")).unwrap();
        same();
        let mode = Mode::from_raw_mode(0o640);
        for (name, kind, device) in [
            ("regular", FileType::RegularFile, 0),
            ("pipe", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
            ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            (
                "disk",
                FileType::BlockDevice,
                rustix::fs::makedev(4095, 1_048_575),
            ),
        ] {
            mknodat(CWD, seen.join("dir").join(name), kind, mode, device).unwrap();
            same();
        }
        assert!(
            fs::metadata(plain.join("dir/pipe"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
        symlink("regular", seen.join("dir/link")).unwrap();
        same();
        assert_eq!(
            fs::read_link(seen.join("dir/link")).unwrap(),
            Path::new("regular")
        );
        fs::hard_link(seen.join("dir/regular"), seen.join("hard")).unwrap();
        same();
        assert_eq!(fs::metadata(seen.join("dir/regular")).unwrap().nlink(), 2);
        fs::rename(seen.join("hard"), seen.join("renamed")).unwrap();
        same();
        fs::remove_file(seen.join("dir/regular")).unwrap();
        same();
        assert_eq!(fs::metadata(seen.join("renamed")).unwrap().nlink(), 1);
        set_mode(&seen.join("renamed"), 0o4711).unwrap();
        same();
        chown(seen.join("renamed"), Some(USER), Some(SHARED_GROUP)).unwrap();
        same();
        assert_eq!(
            fs::metadata(seen.join("renamed")).unwrap().mode() & 0o7777,
            0o711
        );
        fs::rename(seen.join("dir"), seen.join("moved")).unwrap();
        same();
        for name in ["pipe", "socket", "null", "disk", "link"] {
            fs::remove_file(seen.join("moved").join(name)).unwrap();
            same();
        }
        fs::remove_dir(seen.join("moved")).unwrap();
        same();
        File::open(seen).unwrap().sync_all().unwrap();
    });
}

#[test]
fn names_with_any_bytes_can_be_made_and_removed() {
    use std::os::unix::ffi::OsStringExt;
    let pair = Pair::new("changing-bytes", &[]);
    pair.run(|seen, plain| {
        let longest = vec![b'x'; 255];
        for name in [
            b"new\nline".to_vec(),
            b"\xff\xfe".to_vec(),
            b" ".to_vec(),
            longest,
        ] {
            let name = std::ffi::OsString::from_vec(name);
            fs::create_dir(seen.join(&name)).unwrap();
            assert!(plain.join(&name).is_dir());
            fs::remove_dir(seen.join(&name)).unwrap();
            assert!(!plain.join(&name).exists());
        }
        let too_long = "x".repeat(256);
        assert_eq!(
            errno(fs::create_dir(seen.join(too_long))),
            Some(libc::ENAMETOOLONG)
        );
    });
}

#[test]
fn a_rename_replaces_refuses_or_exchanges_as_it_is_told() {
    let pair = Pair::new("changing-rename", &[]);
    pair.run(|seen, plain| {
        for name in ["a", "b"] {
            make_file(&seen.join(name), 0o600).unwrap();
        }
        set_mode(&seen.join("b"), 0o640).unwrap();
        let rename = |from: &str, to: &str, flags| -> io::Result<()> {
            let (from, to) = (seen.join(from), seen.join(to));
            Ok(rustix::fs::renameat_with(CWD, from, CWD, to, flags)?)
        };
        assert_eq!(
            errno(rename("a", "b", RenameFlags::NOREPLACE)),
            Some(libc::EEXIST)
        );
        assert_eq!(
            errno(rename("a", "c", RenameFlags::WHITEOUT)),
            Some(libc::EINVAL)
        );
        let (a, b) = (facts(&seen.join("a")).0, facts(&seen.join("b")).0);
        rename("a", "b", RenameFlags::EXCHANGE).unwrap();
        assert_eq!((facts(&seen.join("a")).0, facts(&seen.join("b")).0), (b, a));
        expect_same(seen, plain);
        rename("a", "c", RenameFlags::NOREPLACE).unwrap();
        expect_same(seen, plain);
        rename("b", "c", RenameFlags::empty()).unwrap();
        expect_same(seen, plain);
        assert_eq!(names(seen), BTreeSet::from(["c".to_owned()]));
        fs::create_dir(seen.join("dir")).unwrap();
        rename("c", "dir", RenameFlags::EXCHANGE).unwrap();
        expect_same(seen, plain);
        make_file(&seen.join("c/inside"), 0o600).unwrap();
        assert_eq!(
            errno(rename("dir", "c", RenameFlags::empty())),
            Some(libc::EISDIR)
        );
        assert_eq!(errno(fs::remove_dir(seen.join("c"))), Some(libc::ENOTEMPTY));
        assert_eq!(
            errno(rename("c", "c/inside/x", RenameFlags::empty())),
            Some(libc::ENOTDIR)
        );
        expect_same(seen, plain);
    });
}

#[test]
fn one_name_of_several_goes_and_the_count_shows_it() {
    let pair = Pair::new("changing-links", &[]);
    pair.run(|seen, plain| {
        make_file(&seen.join("one"), 0o600).unwrap();
        fs::hard_link(seen.join("one"), seen.join("two")).unwrap();
        fs::hard_link(seen.join("two"), seen.join("three")).unwrap();
        expect_same(seen, plain);
        // Over one name of it, and of another name, which was looked up last.
        make_file(&seen.join("new"), 0o600).unwrap();
        fs::rename(seen.join("new"), seen.join("one")).unwrap();
        assert_eq!(fs::metadata(seen.join("three")).unwrap().nlink(), 2);
        fs::remove_file(seen.join("three")).unwrap();
        assert_eq!(fs::metadata(seen.join("two")).unwrap().nlink(), 1);
        expect_same(seen, plain);
        // Two names of one file: rename(2) leaves both.
        fs::hard_link(seen.join("two"), seen.join("four")).unwrap();
        fs::rename(seen.join("two"), seen.join("four")).unwrap();
        expect_same(seen, plain);
        assert_eq!(fs::metadata(seen.join("four")).unwrap().nlink(), 2);
    });
}

#[test]
fn times_are_set_to_the_nanosecond_and_now_and_left_alone() {
    let pair = Pair::new("changing-times", &[]);
    pair.run(|seen, plain| {
        let path = seen.join("file");
        under_umask(0, || make_file(&path, 0o666)).unwrap();
        let set = |access: Timespec, modify: Timespec| -> io::Result<()> {
            let times = Timestamps {
                last_access: access,
                last_modification: modify,
            };
            Ok(rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?)
        };
        let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        set(at(-5, 999_999_999), at(1 << 33, 1)).unwrap();
        let read = || {
            let facts = fs::metadata(&path).unwrap();
            (
                (facts.atime(), facts.atime_nsec()),
                (facts.mtime(), facts.mtime_nsec()),
            )
        };
        assert_eq!(read(), ((-5, 999_999_999), (1 << 33, 1)));
        set(at(0, UTIME_OMIT), at(7, 8)).unwrap();
        assert_eq!(read(), ((-5, 999_999_999), (7, 8)));
        expect_same(seen, plain);
        // Now is for everybody who may write, another time only for the owner.
        let now = at(0, UTIME_NOW);
        as_user(USER, || set(now, now)).unwrap();
        assert!(read().0.0 > 1_000_000_000 && read().1.0 > 1_000_000_000);
        let refused = as_user(USER, || set(at(1, 1), at(1, 1)));
        assert_eq!(errno(refused), Some(libc::EPERM));
        expect_same(seen, plain);
    });
}

#[test]
fn what_is_made_belongs_to_who_made_it() {
    let pair = Pair::new("changing-owner", &[]);
    pair.run(|seen, plain| {
        as_user(USER, || fs::create_dir(seen.join("own"))).unwrap();
        as_user(USER, || make_file(&seen.join("own/file"), 0o600)).unwrap();
        as_user(USER, || symlink("x", seen.join("own/link"))).unwrap();
        for name in ["own", "own/file", "own/link"] {
            let facts = fs::symlink_metadata(plain.join(name)).unwrap();
            assert_eq!((facts.uid(), facts.gid()), (USER, USER), "{name}");
        }
        // A directory with setgid gives its group on; groups beside the first are the caller's too.
        as_user(USER, || {
            fs::create_dir(seen.join("shared"))?;
            chown(seen.join("shared"), None, Some(SHARED_GROUP))?;
            set_mode(&seen.join("shared"), 0o2775)?;
            fs::create_dir(seen.join("shared/below"))?;
            make_file(&seen.join("shared/file"), 0o664)
        })
        .unwrap();
        let below = fs::metadata(plain.join("shared/below")).unwrap();
        assert_eq!((below.gid(), below.mode() & 0o2000), (SHARED_GROUP, 0o2000));
        let facts = fs::metadata(plain.join("shared/file")).unwrap();
        assert_eq!((facts.uid(), facts.gid()), (USER, SHARED_GROUP));
        as_user(OTHER_USER, || make_file(&seen.join("shared/others"), 0o600)).unwrap();
        assert_eq!(
            fs::metadata(plain.join("shared/others")).unwrap().uid(),
            OTHER_USER
        );
        expect_same(seen, plain);
    });
}

#[test]
fn the_umask_is_applied_once_and_a_default_acl_stands_in_its_place() {
    let pair = Pair::new("changing-umask", &[]);
    pair.run(|seen, plain| {
        under_umask(0o027, || {
            fs::create_dir(seen.join("dir"))?;
            make_file(&seen.join("file"), 0o666)
        })
        .unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode(plain.join("dir")), mode(plain.join("file"))),
            (0o750, 0o640)
        );
        // u::rwx,g::rwx,o::---: struct posix_acl_xattr_header and entries (tag, permissions, id).
        let entry = |tag: u16, permissions: u16| {
            [
                &tag.to_le_bytes()[..],
                &permissions.to_le_bytes(),
                &[0xff; 4],
            ]
            .concat()
        };
        let acl = [
            2u32.to_le_bytes().to_vec(),
            entry(1, 7),
            entry(4, 7),
            entry(0x20, 0),
        ]
        .concat();
        fs::create_dir(seen.join("acl")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        let name = c"system.posix_acl_default";
        rustix::fs::setxattr(seen.join("acl"), name, &acl, flags).unwrap();
        under_umask(0o077, || {
            make_file(&seen.join("acl/file"), 0o666)?;
            fs::create_dir(seen.join("acl/dir"))
        })
        .unwrap();
        assert_eq!(mode(plain.join("acl/file")), 0o660);
        assert_eq!(mode(plain.join("acl/dir")), 0o770);
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(seen.join("acl/dir"), name, &mut value[..]).unwrap();
        assert_eq!(&value[..length], acl);
        expect_same(seen, plain);
    });
}

/// Each of these fails, with the same error on the mount as on the directory itself.
#[test]
fn the_backend_refuses_callers_what_it_would_refuse_them() {
    let pair = Pair::new("changing-refused", &[]);
    fs::create_dir(pair.plain.join("closed")).unwrap();
    set_mode(&pair.plain.join("closed"), 0o755).unwrap();
    fs::create_dir(pair.plain.join("sticky")).unwrap();
    set_mode(&pair.plain.join("sticky"), 0o1777).unwrap();
    for name in ["closed/file", "sticky/file", "sticky/other"] {
        fs::write(pair.plain.join(name), b"x").unwrap();
    }
    pair.run(|seen, plain| {
        type Act = fn(&Path) -> io::Result<()>;
        let acts: [(&str, Act); 11] = [
            ("mkdir", |top| fs::create_dir(top.join("closed/new"))),
            ("mknod", |top| make_file(&top.join("closed/new"), 0o600)),
            ("symlink", |top| symlink("x", top.join("closed/new"))),
            ("unlink", |top| fs::remove_file(top.join("closed/file"))),
            ("sticky unlink", |top| {
                fs::remove_file(top.join("sticky/file"))
            }),
            ("sticky rename", |top| {
                fs::rename(top.join("sticky/file"), top.join("sticky/new"))
            }),
            ("rename over", |top| {
                fs::rename(top.join("sticky/other"), top.join("sticky/file"))
            }),
            ("chmod", |top| set_mode(&top.join("sticky/file"), 0o777)),
            ("chown", |top| {
                chown(top.join("sticky/file"), Some(USER), None)
            }),
            ("setxattr", |top| {
                let flags = rustix::fs::XattrFlags::empty();
                let path = top.join("sticky/file");
                Ok(rustix::fs::setxattr(path, c"user.x", b"1", flags)?)
            }),
            ("device", |top| {
                use rustix::fs::{FileType, Mode, mknodat};
                let mode = Mode::from_raw_mode(0o600);
                let path = top.join("sticky/null");
                Ok(mknodat(CWD, path, FileType::CharacterDevice, mode, 259)?)
            }),
        ];
        for (verb, act) in acts {
            let expected = errno(as_user(USER, || act(plain)));
            assert!(expected.is_some(), "{verb} is refused on the backend");
            assert_eq!(errno(as_user(USER, || act(seen))), expected, "{verb}");
        }
        for directory in ["closed", "sticky"] {
            expect_same(&seen.join(directory), &plain.join(directory));
        }
    });
}

#[test]
fn setuid_and_setgid_go_as_they_go_on_a_disk() {
    let pair = Pair::new("changing-setid", &[]);
    pair.run(|seen, plain| {
        let mode = |name: &str| fs::metadata(seen.join(name)).unwrap().mode() & 0o7777;
        as_user(USER, || make_file(&seen.join("file"), 0o755)).unwrap();
        as_user(USER, || set_mode(&seen.join("file"), 0o6755)).unwrap();
        assert_eq!(mode("file"), 0o6755);
        as_user(USER, || chown(seen.join("file"), None, Some(SHARED_GROUP))).unwrap();
        assert_eq!(mode("file"), 0o755);
        // The owner is not in the file's group: setgid is not for him to set.
        chown(seen.join("file"), None, Some(7)).unwrap();
        as_user(USER, || set_mode(&seen.join("file"), 0o2755)).unwrap();
        assert_eq!(mode("file"), 0o755);
        expect_same(seen, plain);
    });
}

#[test]
fn extended_attributes_are_set_and_removed() {
    let pair = Pair::new("changing-xattr", &[]);
    pair.run(|seen, plain| {
        use rustix::fs::XattrFlags;
        let (path, direct) = (seen.join("file"), plain.join("file"));
        make_file(&path, 0o600).unwrap();
        let get = |path: &Path, name: &std::ffi::CStr| -> io::Result<Vec<u8>> {
            let mut value = vec![0; 65536];
            let length = rustix::fs::getxattr(path, name, &mut value[..])?;
            value.truncate(length);
            Ok(value)
        };
        for name in [c"user.a", c"trusted.a", c"security.a"] {
            assert_eq!(errno(get(&path, name)), Some(libc::ENODATA));
            for value in [&b"one"[..], b"", &[7; 1000]] {
                rustix::fs::setxattr(&path, name, value, XattrFlags::empty()).unwrap();
                assert_eq!(get(&direct, name).unwrap(), value);
                assert_eq!(get(&path, name).unwrap(), value);
            }
            let create = rustix::fs::setxattr(&path, name, b"x", XattrFlags::CREATE);
            assert_eq!(create, Err(rustix::io::Errno::EXIST));
            let mut list = [0; 4096];
            let length = rustix::fs::listxattr(&path, &mut list[..]).unwrap();
            let listed = list[..length].split(|byte| *byte == 0);
            assert!(listed.into_iter().any(|listed| listed == name.to_bytes()));
            rustix::fs::removexattr(&path, name).unwrap();
            assert_eq!(errno(get(&path, name)), Some(libc::ENODATA));
            assert_eq!(errno(get(&direct, name)), Some(libc::ENODATA));
            let replace = rustix::fs::setxattr(&path, name, b"x", XattrFlags::REPLACE);
            assert_eq!(replace, Err(rustix::io::Errno::NODATA));
        }
        expect_same(seen, plain);
    });
}

/// Reads bytes nobody has read, of a file that has no name any more.
fn unlinked_files_go_on(test: &str, options: &[&str]) {
    let pair = Pair::new(test, options);
    let content = Content::new(5, 1, 3 << 20);
    let small = Content::new(6, 1, 9000);
    for name in ["removed", "replaced"] {
        content.create(&pair.plain.join(name)).unwrap();
    }
    small.create(&pair.plain.join("small")).unwrap();
    pair.run(move |seen, plain| {
        let removed = File::open(seen.join("removed")).unwrap();
        let replaced = File::open(seen.join("replaced")).unwrap();
        let small_file = File::open(seen.join("small")).unwrap();
        let mut first = [0; 4096];
        removed.read_exact_at(&mut first, 0).unwrap();
        fs::remove_file(seen.join("removed")).unwrap();
        fs::remove_file(seen.join("small")).unwrap();
        make_file(&seen.join("new"), 0o600).unwrap();
        fs::rename(seen.join("new"), seen.join("replaced")).unwrap();
        assert_eq!(names(plain), BTreeSet::from(["replaced".to_owned()]));
        assert_eq!(fs::metadata(seen.join("replaced")).unwrap().len(), 0);
        for (file, content) in [
            (&removed, content),
            (&replaced, content),
            (&small_file, small),
        ] {
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            assert_eq!(file.metadata().unwrap().len(), content.size_bytes);
            content.expect_in(file, 65536).unwrap();
            file.set_permissions(Permissions::from_mode(0o400)).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o400);
        }
        drop((removed, replaced, small_file));
        expect_same(seen, plain);
    });
    let pid = pair.mount.pid();
    wait_until(
        Duration::from_secs(5),
        "the removed files to be let go",
        || open_below(pid, &pair.plain).is_empty(),
    );
}

#[test]
fn unlinked_files_go_on_for_who_has_them_open() {
    unlinked_files_go_on("changing-unlinked", &[]);
}

#[test]
fn unlinked_files_go_on_without_passthrough() {
    unlinked_files_go_on("changing-unlinked-daemon", &["passthrough=off"]);
}

#[test]
fn unlinked_files_go_on_with_direct_io() {
    unlinked_files_go_on("changing-unlinked-direct", &["direct_io"]);
}

/// What of regular files in a directory a process has open.
fn open_below(pid: i32, directory: &Path) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let target = |entry: io::Result<fs::DirEntry>| fs::read_link(entry.ok()?.path()).ok();
    open.filter_map(target)
        .filter(|path| path.starts_with(directory) && !path.is_dir())
        .collect()
}

#[test]
fn a_removed_directory_that_is_open_can_still_be_looked_at() {
    let pair = Pair::new("changing-removed-dir", &[]);
    pair.run(|seen, _| {
        fs::create_dir(seen.join("dir")).unwrap();
        let open = File::open(seen.join("dir")).unwrap();
        fs::remove_dir(seen.join("dir")).unwrap();
        assert_eq!(open.metadata().unwrap().nlink(), 0);
        assert_eq!(errno(fs::metadata(seen.join("dir"))), Some(libc::ENOENT));
        fs::create_dir(seen.join("dir")).unwrap();
        assert_eq!(fs::metadata(seen.join("dir")).unwrap().nlink(), 2);
    });
}

fn a_moved_directory_takes_along_what_is_below(seen: &Path, plain: &Path) {
    let content = Content::new(8, 1, 2 << 20);
    fs::create_dir_all(plain.join("top/sub/deep")).unwrap();
    fs::create_dir(plain.join("other")).unwrap();
    for name in ["open", "later"] {
        content
            .create(&plain.join("top/sub/deep").join(name))
            .unwrap();
    }
    let open = File::open(seen.join("top/sub/deep/open")).unwrap();
    fs::metadata(seen.join("top/sub/deep/later")).unwrap();
    let directory = File::open(seen.join("top/sub/deep")).unwrap();
    fs::rename(seen.join("top/sub"), seen.join("other/moved")).unwrap();
    fs::rename(seen.join("other"), seen.join("top/back")).unwrap();
    content.expect_in(&open, 65536).unwrap();
    open.metadata().unwrap();
    directory.metadata().unwrap();
    let deep = seen.join("top/back/moved/deep");
    expect_content(&deep.join("later"), content);
    assert_eq!(
        names(&deep),
        BTreeSet::from(["later".to_owned(), "open".to_owned()])
    );
    assert_eq!(
        errno(fs::metadata(seen.join("top/sub"))),
        Some(libc::ENOENT)
    );
    fs::remove_file(deep.join("open")).unwrap();
    assert!(!plain.join("top/back/moved/deep/open").exists());
}

#[test]
fn a_moved_directory_takes_along_what_is_known_below_it() {
    let pair = Pair::new("changing-moved", &["passthrough=off"]);
    pair.run(a_moved_directory_takes_along_what_is_below);
}

/// The fault backend has no handles: places are paths.
#[test]
fn a_moved_directory_takes_along_what_is_below_it_by_path_too() {
    let scratch = Scratch::new("changing-moved-path");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let options = MountOptions::new(&scratch).with("passthrough=off");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let (seen, plain) = (mount.path().to_owned(), backend.plain.clone());
    with_time_limit(&scratch, LIMIT, move || {
        a_moved_directory_takes_along_what_is_below(&seen, &plain);
    });
}

/// Neither handles nor times of birth tell the two files apart here, only that we removed the first.
#[test]
fn a_file_made_anew_with_the_same_inode_number_is_another_file() {
    let scratch = Scratch::new("changing-reused");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let options = MountOptions::new(&scratch).with("actimeo=3600");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let (seen, plain) = (mount.path().to_owned(), backend.plain.clone());
    let number = |path: &str| {
        backend.set_inodes(InodeNumbers {
            set_bits: 0,
            by_path: [(path.to_owned(), 4_000_000)].into(),
        });
    };
    let (old, new) = (Content::new(1, 1, 20_000), Content::new(2, 1, 20_000));
    old.create(&plain.join("file")).unwrap();
    number("file");
    let (path, direct) = (seen.join("file"), plain.join("file"));
    let open = with_time_limit(&scratch, LIMIT, {
        let path = path.clone();
        move || {
            expect_content(&path, old);
            let open = File::open(&path).unwrap();
            assert_eq!(open.metadata().unwrap().ino(), 4_000_000);
            fs::remove_file(&path).unwrap();
            open
        }
    });
    new.create(&direct).unwrap();
    number("file");
    with_time_limit(&scratch, LIMIT, move || {
        // The name is known to be gone; a listing asks.
        wait_until(Duration::from_secs(5), "the new file to show", || {
            names(path.parent().unwrap());
            path.exists()
        });
        assert_eq!(fs::metadata(&path).unwrap().ino(), 4_000_000);
        expect_content(&path, new);
        old.expect_in(&open, 4096).unwrap();
        expect_content(&path, new);
    });
}

#[test]
fn a_directory_read_while_its_names_change_shows_each_that_stays_once() {
    let pair = Pair::new("changing-listing", &[]);
    let count = sample_or_full(3000, 30_000);
    pair.run(move |seen, plain| {
        let directory = seen.join("many");
        fs::create_dir(&directory).unwrap();
        for number in 0..count {
            make_file(&directory.join(format!("file-{number:05}")), 0o600).unwrap();
        }
        assert_eq!(names(&directory).len(), count);
        // As `rm -r` does: every name is removed as soon as it is read.
        let mut removed = 0;
        for entry in fs::read_dir(&directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
            removed += 1;
        }
        assert_eq!((removed, names(&directory).len()), (count, 0));
        assert_eq!(fs::read_dir(plain.join("many")).unwrap().count(), 0);
        // Rewound, an open directory shows what was made since.
        use rustix::fs::Dir;
        make_file(&directory.join("first"), 0o600).unwrap();
        assert_eq!(names(&directory).len(), 1);
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(names(&directory).len(), 1);
        let mut open = Dir::read_from(File::open(&directory).unwrap()).unwrap();
        let dots_too = |open: &mut Dir| open.by_ref().count();
        assert_eq!(dots_too(&mut open), 3);
        make_file(&directory.join("second"), 0o600).unwrap();
        open.rewind();
        assert_eq!(dots_too(&mut open), 4);
        fs::remove_dir_all(&directory).unwrap();
        assert!(!plain.join("many").exists());
    });
}

fn what_is_cached_is_kept(test: &str, options: &[&str]) {
    let pair = Pair::new(test, options);
    let content = Content::new(12, 1, 3 << 20);
    content.create(&pair.plain.join("file")).unwrap();
    fs::create_dir(pair.plain.join("dir")).unwrap();
    pair.run(move |seen, _| expect_content(&seen.join("file"), content));
    // The version has settled, so that a foreign write would show.
    std::thread::sleep(Duration::from_millis(2300));
    let fetched = || pair.mount.status_number("backend.bytes_read");
    let before = fetched();
    let held = File::open(pair.mount.join("file")).unwrap();
    let mut path = "file";
    type Act = fn(&Path) -> io::Result<()>;
    let acts: [(&str, Act); 8] = [
        ("file", |top| set_mode(&top.join("file"), 0o640)),
        ("file", |top| chown(top.join("file"), Some(USER), None)),
        ("file", |top| {
            let flags = rustix::fs::XattrFlags::empty();
            Ok(rustix::fs::setxattr(
                top.join("file"),
                c"user.a",
                b"1",
                flags,
            )?)
        }),
        ("file", |top| {
            Ok(rustix::fs::removexattr(top.join("file"), c"user.a")?)
        }),
        ("file", |top| {
            let accessed = std::time::SystemTime::UNIX_EPOCH + Duration::from_nanos(7);
            let times = fs::FileTimes::new().set_accessed(accessed);
            File::open(top.join("file"))?.set_times(times)
        }),
        ("file", |top| {
            fs::hard_link(top.join("file"), top.join("two"))
        }),
        ("dir/moved", |top| {
            fs::rename(top.join("file"), top.join("dir/moved"))
        }),
        ("dir/moved", |top| fs::remove_file(top.join("two"))),
    ];
    for (step, (now_at, act)) in acts.into_iter().enumerate() {
        path = now_at;
        let handle = held.try_clone().unwrap();
        pair.run(move |seen, plain| {
            act(seen).unwrap();
            expect_content(&seen.join(now_at), content);
            content.expect_in(&handle, 65536).unwrap();
            let shown = |top: &Path| {
                let facts = fs::metadata(top.join(now_at)).unwrap();
                (
                    facts.mode(),
                    facts.nlink(),
                    facts.mtime_nsec(),
                    facts.ctime_nsec(),
                )
            };
            assert_eq!(shown(seen), shown(plain), "step {step}");
        });
        // The last one is no change of the file through its own name: it may be asked for again.
        let is_kept = fetched() == before;
        assert!(is_kept || step == 7, "step {step}: it was fetched again");
    }
    drop(held);
    let newer = Content::new(13, 1, 3 << 20);
    newer
        .write_to(&File::create(pair.plain.join(path)).unwrap())
        .unwrap();
    pair.run(move |seen, _| expect_content(&seen.join("dir/moved"), newer));
}

#[test]
fn what_is_cached_is_kept_over_changes_of_attributes_and_names() {
    what_is_cached_is_kept("changing-kept", &[]);
}

#[test]
fn what_is_cached_is_kept_over_such_changes_without_passthrough() {
    what_is_cached_is_kept("changing-kept-daemon", &["passthrough=off"]);
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let pair = Pair::new("changing-ro", &["ro"]);
    fs::create_dir(pair.plain.join("dir")).unwrap();
    fs::write(pair.plain.join("file"), b"text").unwrap();
    pair.run(|seen, _| {
        let file = seen.join("file");
        for (verb, result) in [
            ("mkdir", fs::create_dir(seen.join("new"))),
            ("mknod", make_file(&seen.join("new"), 0o600)),
            ("rmdir", fs::remove_dir(seen.join("dir"))),
            ("unlink", fs::remove_file(&file)),
            ("rename", fs::rename(&file, seen.join("new"))),
            ("link", fs::hard_link(&file, seen.join("new"))),
            ("symlink", symlink("file", seen.join("new"))),
            ("chmod", set_mode(&file, 0o600)),
            ("create", File::create(seen.join("new")).map(drop)),
            ("append", File::options().append(true).open(&file).map(drop)),
        ] {
            assert_eq!(errno(result), Some(libc::EROFS), "{verb}");
        }
        let mut text = String::new();
        File::open(&file)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
        File::open(seen).unwrap().sync_all().unwrap();
    });
}

#[test]
fn removed_directories_do_not_stay_open() {
    let pair = Pair::new("changing-removed-open", &[]);
    pair.run(|seen, _| {
        for number in 0..30 {
            let directory = seen.join(format!("directory{number}"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("file"), "x").unwrap();
            fs::remove_dir_all(&directory).unwrap();
        }
    });
    let open_and_removed = || {
        let open = fs::read_dir(format!("/proc/{}/fd", pair.mount.pid())).unwrap();
        let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().ends_with(" (deleted)"))
            .count()
    };
    wait_until(
        Duration::from_secs(10),
        "removed directories to be closed",
        || open_and_removed() == 0,
    );
}
