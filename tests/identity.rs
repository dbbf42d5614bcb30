//! What the backend would refuse a user is refused through the mount, also where the answer or the bytes are cached: on a
//! backend that decides by who asks, root being nobody there, and on a plain directory.

mod support;

use nfs_cachefs::sys::credentials::as_caller;
use nfs_cachefs::types::Credentials;
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::content::expect_content;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const BELIEVED: &str = "actimeo=3600";

/// Larger than small files: read by passthrough when complete.
fn large() -> Content {
    Content::new(71, 1, 2 * MIB)
}

/// A backend that decides by itself, its mount, and the plain files below both.
struct Squashed {
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

/// With what `home` (closed), `public`, `shared` (setgid, of a group) and `dir` hold.
fn make_tree(plain: &Path) {
    let make = |name: &str, owner: u32, group: u32, mode: u32| {
        let path = plain.join(name);
        match name.rsplit('/').next() {
            Some("large") => large().create(&path).unwrap(),
            Some(last) if last.starts_with("file") => fs::write(&path, name).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        chown(&path, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    make("home", USER, USER, 0o700);
    make("home/large", USER, USER, 0o644);
    make("home/file", USER, USER, 0o644);
    make("dir", USER, USER, 0o755);
    make("dir/large", USER, USER, 0o600);
    make("dir/file", USER, USER, 0o600);
    make("dir/file-for-all", USER, USER, 0o644);
    make("dir/file-for-all2", USER, USER, 0o644);
    make("shared", OTHER_USER, SHARED_GROUP, 0o2770);
    make("shared/file", OTHER_USER, SHARED_GROUP, 0o640);
    symlink("file", plain.join("home/link")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(plain.join("dir/file"), c"user.x", b"1", flags).unwrap();
    // What is younger than a timestamp step is filled later.
    std::thread::sleep(Duration::from_millis(50));
}

impl Squashed {
    fn new(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        make_tree(&plain);
        let squash = BackendOptions {
            squash: true,
            ..BackendOptions::default()
        };
        let backend = FaultBackend::start_on(&scratch, plain, squash);
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
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

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

fn read(uid: u32, path: PathBuf) -> io::Result<Vec<u8>> {
    as_user(uid, || fs::read(path))
}

fn read_as_root(path: PathBuf) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// Without supplementary groups.
fn read_as_stranger(path: PathBuf) -> io::Result<Vec<u8>> {
    let stranger = Credentials {
        uid: 41239,
        gid: 41239,
        groups: Vec::new().into(),
    };
    as_caller(&stranger, || fs::read(path))
}

fn list(path: PathBuf) -> io::Result<usize> {
    let mut names = 0;
    for entry in fs::read_dir(path)? {
        entry?;
        names += 1;
    }
    Ok(names)
}

fn xattr(path: PathBuf) -> io::Result<usize> {
    let mut value = [0; 16];
    Ok(rustix::fs::getxattr(path, c"user.x", &mut value[..])?)
}

const REFUSED: Option<i32> = Some(libc::EACCES);

#[test]
fn a_user_reads_and_writes_own_files_where_root_is_nobody() {
    let place = Squashed::new("identity-own", &[]);
    let plain = place.backend.plain.clone();
    place.run(move |seen| {
        as_user(USER, || {
            expect_content(&seen.join("home/large"), large());
            expect_content(&seen.join("dir/large"), large());
            assert_eq!(fs::read(seen.join("home/link"))?, b"home/file");
            assert_eq!(list(seen.join("home"))?, 3);
            assert_eq!(xattr(seen.join("dir/file"))?, 1);
            fs::write(seen.join("home/new"), "new")?;
            OpenOptions::new()
                .append(true)
                .open(seen.join("home/new"))?
                .write_all(b"er")?;
            fs::rename(seen.join("home/new"), seen.join("home/renamed"))?;
            fs::create_dir(seen.join("home/below"))?;
            fs::set_permissions(seen.join("home/renamed"), Permissions::from_mode(0o600))?;
            fs::hard_link(seen.join("home/renamed"), seen.join("home/below/linked"))?;
            File::options()
                .write(true)
                .open(seen.join("home/renamed"))?
                .set_len(3)?;
            assert_eq!(fs::read(seen.join("home/below/linked"))?, b"new");
            fs::remove_file(seen.join("home/below/linked"))?;
            fs::remove_dir(seen.join("home/below"))
        })
        .unwrap();
        let facts = fs::metadata(plain.join("home/renamed")).unwrap();
        assert_eq!((facts.uid(), facts.gid()), (USER, USER));
        assert_eq!(facts.mode() & 0o7777, 0o600);
        assert_eq!(fs::read(plain.join("home/renamed")).unwrap(), b"new");
    });
}

#[test]
fn root_is_refused_what_the_backend_refuses_it_also_from_the_cache() {
    let place = Squashed::new("identity-root", &[BELIEVED]);
    place.run(|seen| {
        as_user(USER, || {
            expect_content(&seen.join("home/large"), large());
            expect_content(&seen.join("dir/large"), large());
            fs::read(seen.join("dir/file"))?;
            fs::read(seen.join("home/file"))?;
            list(seen.join("home"))?;
            fs::read_link(seen.join("home/link"))?;
            xattr(seen.join("dir/file"))
        })
        .unwrap();
        for name in ["home/large", "home/file", "dir/large", "dir/file"] {
            assert_eq!(errno(read_as_root(seen.join(name))), REFUSED, "{name}");
            assert_eq!(
                errno(read_as_root(seen.join(name))),
                REFUSED,
                "{name} again"
            );
        }
        assert_eq!(errno(list(seen.join("home"))), REFUSED);
        assert_eq!(errno(fs::read_link(seen.join("home/link"))), REFUSED);
        assert_eq!(errno(xattr(seen.join("dir/file"))), REFUSED);
        assert_eq!(errno(fs::write(seen.join("dir/new"), "x")), REFUSED);
        assert_eq!(errno(fs::write(seen.join("home/new"), "x")), REFUSED);
        assert_eq!(errno(fs::write(seen.join("dir/file"), "x")), REFUSED);
        assert_eq!(errno(fs::metadata(seen.join("home/unknown"))), REFUSED);
        read_as_root(seen.join("dir/file-for-all")).unwrap();
        assert_eq!(list(seen.join("dir")).unwrap(), 4);
    });
}

#[test]
fn another_user_reads_nothing_that_is_cached_for_one() {
    let place = Squashed::new("identity-other", &[BELIEVED]);
    place.run(|seen| {
        for name in ["home/large", "dir/large"] {
            as_user(USER, || {
                expect_content(&seen.join(name), large());
                Ok(())
            })
            .unwrap();
            assert_eq!(errno(read(OTHER_USER, seen.join(name))), REFUSED, "{name}");
        }
        read(USER, seen.join("shared/file")).unwrap();
        assert_eq!(errno(read_as_stranger(seen.join("shared/file"))), REFUSED);
        assert_eq!(
            read(OTHER_USER, seen.join("shared/file")).unwrap(),
            b"shared/file"
        );
    });
}

/// Rules that no mode bit shows: each user is decided about, the path included.
#[test]
fn a_rule_of_the_server_that_no_mode_bit_shows_is_kept_for_each_user() {
    let place = Squashed::new("identity-rules", &[BELIEVED, "nocto"]);
    place.run(|seen| {
        as_user(USER, || {
            expect_content(&seen.join("dir/large"), large());
            Ok(())
        })
        .unwrap();
        read(USER, seen.join("dir/file-for-all")).unwrap();
    });
    let refuse = |operation, path: &str| {
        place
            .backend
            .add_rule(Rule::new(operation, path, Action::Errno(libc::EACCES)))
    };
    let rule = refuse(Operation::Open, "dir/file-for-all");
    place.run(|seen| {
        assert_eq!(
            errno(read(OTHER_USER, seen.join("dir/file-for-all"))),
            REFUSED
        );
        assert_eq!(errno(read_as_root(seen.join("dir/file-for-all"))), REFUSED);
        read(USER, seen.join("dir/file-for-all")).unwrap();
    });
    place.backend.remove_rule(rule);
    let rule = refuse(Operation::Lookup, "dir/*");
    place.run(|seen| {
        let name = "dir/file-for-all";
        assert_eq!(errno(read_as_stranger(seen.join(name))), REFUSED);
        // A decision that is known costs the backend nothing.
        read(USER, seen.join(name)).unwrap();
    });
    place.backend.remove_rule(rule);
    place.backend.reset_counters();
    place.run(|seen| {
        for _ in 0..20 {
            as_user(USER, || {
                expect_content(&seen.join("dir/large"), large());
                Ok(())
            })
            .unwrap();
        }
    });
    assert_eq!(place.backend.counters().all_calls(), 0);
}

#[test]
fn what_the_owner_closes_on_the_backend_closes_at_the_next_revalidation() {
    let place = Squashed::new("identity-revalidated", &["actimeo=1"]);
    let plain = place.backend.plain.clone();
    place.run(move |seen| {
        let set_mode = |name: &str, mode| {
            fs::set_permissions(plain.join(name), Permissions::from_mode(mode)).unwrap();
        };
        read(OTHER_USER, seen.join("dir/file-for-all")).unwrap();
        set_mode("dir/file-for-all", 0o600);
        let refused = read(OTHER_USER, seen.join("dir/file-for-all"));
        assert_eq!(errno(refused), REFUSED);
        read(OTHER_USER, seen.join("dir/file-for-all2")).unwrap();
        set_mode("dir", 0o700);
        let path = seen.join("dir/file-for-all2");
        wait_until(
            Duration::from_secs(20),
            "the directory to be closed",
            || errno(read(OTHER_USER, path.clone())) == REFUSED,
        );
        read(USER, path.clone()).unwrap();
        set_mode("dir", 0o755);
        wait_until(Duration::from_secs(20), "the directory to be open", || {
            read(OTHER_USER, path.clone()).is_ok()
        });
    });
}

#[test]
fn with_the_backend_away_known_decisions_stand_and_unknown_ones_are_refused() {
    let times = ["backend_timeout=5s", "revalidate_timeout=1s", "actimeo=1"];
    let place = Squashed::new("identity-away", &times);
    place.run(|seen| {
        as_user(USER, || {
            expect_content(&seen.join("dir/large"), large());
            Ok(())
        })
        .unwrap();
        read(USER, seen.join("dir/file-for-all")).unwrap();
        read(USER, seen.join("dir/file-for-all2")).unwrap();
        read(OTHER_USER, seen.join("dir/file-for-all")).unwrap();
        assert_eq!(errno(read_as_root(seen.join("dir/file"))), REFUSED);
        std::thread::sleep(Duration::from_millis(1200));
    });
    place.backend.stop();
    place.run(|seen| {
        read(USER, seen.join("dir/file-for-all")).unwrap();
    });
    wait_until(Duration::from_secs(20), "the backend to be away", || {
        place.mount.status()["backend"]["reachable"] == false
    });
    place.run(|seen| {
        as_user(USER, || {
            expect_content(&seen.join("dir/large"), large());
            Ok(())
        })
        .unwrap();
        read(USER, seen.join("dir/file-for-all2")).unwrap();
        read(OTHER_USER, seen.join("dir/file-for-all")).unwrap();
        for refused in [
            read(OTHER_USER, seen.join("dir/file-for-all2")),
            read_as_stranger(seen.join("dir/file-for-all")),
            read_as_root(seen.join("dir/file-for-all")),
            read_as_root(seen.join("dir/file")),
        ] {
            let errno = errno(refused);
            assert!(
                matches!(errno, Some(libc::EACCES | libc::ETIMEDOUT)),
                "{errno:?}"
            );
        }
    });
    place.backend.resume();
    let path = place.mount.join("dir/file-for-all2");
    wait_until(Duration::from_secs(30), "the backend to be back", || {
        read(OTHER_USER, path.clone()).is_ok()
    });
}

#[test]
fn groups_setgid_directories_and_files_made_unwritable_work_on_a_backend_that_decides() {
    let place = Squashed::new("identity-groups", &[]);
    let plain = place.backend.plain.clone();
    place.run(move |seen| {
        as_user(USER, || {
            let mut file = File::options()
                .create_new(true)
                .write(true)
                .mode(0o444)
                .open(seen.join("shared/unwritable"))?;
            file.write_all(b"written")?;
            fs::create_dir(seen.join("shared/below"))?;
            assert_eq!(fs::read(seen.join("shared/unwritable"))?, b"written");
            let again = File::options()
                .write(true)
                .open(seen.join("shared/unwritable"));
            assert_eq!(errno(again), REFUSED);
            Ok(())
        })
        .unwrap();
        for name in ["shared/unwritable", "shared/below"] {
            let facts = fs::metadata(plain.join(name)).unwrap();
            assert_eq!((facts.uid(), facts.gid()), (USER, SHARED_GROUP), "{name}");
        }
        assert_eq!(
            fs::read(plain.join("shared/unwritable")).unwrap(),
            b"written"
        );
        assert_eq!(errno(read_as_stranger(seen.join("shared/file"))), REFUSED);
        assert_eq!(
            read(USER, seen.join("shared/file")).unwrap(),
            b"shared/file"
        );
    });
}

fn an_open_file_goes_on(seen: &Path) {
    let mut file = as_user(USER, || File::open(seen.join("dir/large"))).unwrap();
    let closed = Permissions::from_mode(0o0);
    as_user(USER, || fs::set_permissions(seen.join("dir/large"), closed)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, MIB).unwrap();
    assert_eq!(large().check(MIB, &byte), Ok(()));
    let mut front = [0; 4096];
    file.read_exact(&mut front).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0);
    assert_eq!(errno(read(USER, seen.join("dir/large"))), REFUSED);
}

#[test]
fn an_open_file_goes_on_when_its_mode_closes_it() {
    let scratch = Scratch::new("identity-open");
    let plain = scratch.directory("plain");
    make_tree(&plain);
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let seen = mount.path().to_owned();
    with_time_limit(&scratch, LIMIT, move || an_open_file_goes_on(&seen));
}

#[test]
fn on_a_plain_directory_nobody_reads_what_is_cached_for_another() {
    let scratch = Scratch::new("identity-plain");
    let plain = scratch.directory("plain");
    make_tree(&plain);
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch).with(BELIEVED));
    let seen = mount.path().to_owned();
    with_time_limit(&scratch, LIMIT, move || {
        for name in ["home/large", "dir/large"] {
            as_user(USER, || {
                expect_content(&seen.join(name), large());
                Ok(())
            })
            .unwrap();
            assert_eq!(errno(read(OTHER_USER, seen.join(name))), REFUSED, "{name}");
        }
        assert_eq!(errno(read_as_stranger(seen.join("shared/file"))), REFUSED);
        read(USER, seen.join("shared/file")).unwrap();
        assert_eq!(
            errno(list(seen.join("home")).and(as_user(OTHER_USER, || list(seen.join("home"))))),
            REFUSED
        );
        // Root is root on a disk of this machine.
        read_as_root(seen.join("home/file")).unwrap();
    });
}

#[test]
fn with_identity_daemon_all_is_done_as_the_daemon() {
    let scratch = Scratch::new("identity-daemon");
    let plain = scratch.directory("plain");
    make_tree(&plain);
    fs::set_permissions(&plain, Permissions::from_mode(0o1777)).unwrap();
    let options = MountOptions::new(&scratch).with("identity=daemon");
    let mount = Mount::start(&scratch, &plain, options);
    let seen = mount.path().to_owned();
    with_time_limit(&scratch, LIMIT, move || {
        as_user(USER, || fs::write(seen.join("made"), "x")).unwrap();
        assert_eq!(fs::metadata(plain.join("made")).unwrap().uid(), 0);
        // What belongs to the daemon does not run with its rights.
        let all = Mode::from_raw_mode(0o6777);
        as_user(USER, || {
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            drop(openat(CWD, seen.join("program"), new, all)?);
            mknodat(CWD, seen.join("node"), FileType::RegularFile, all, 0)?;
            Ok(mkdirat(CWD, seen.join("directory"), all)?)
        })
        .unwrap();
        for name in ["program", "node", "directory"] {
            let mode = fs::metadata(plain.join(name)).unwrap().mode();
            assert_eq!(mode & 0o6000, 0, "{name}");
        }
        let with_set_id = plain.join("with-set-id");
        fs::write(&with_set_id, "x").unwrap();
        fs::set_permissions(&with_set_id, Permissions::from_mode(0o6777)).unwrap();
        as_user(USER, || fs::write(seen.join("with-set-id"), "other")).unwrap();
        assert_eq!(fs::metadata(&with_set_id).unwrap().mode() & 0o6000, 0);
        assert_eq!(errno(read(OTHER_USER, seen.join("dir/file"))), REFUSED);
    });
    drop(mount);
    let place = Squashed::new("identity-daemon-squashed", &["identity=daemon"]);
    place.run(|seen| {
        // The daemon is nobody there, whoever asks it.
        assert_eq!(errno(read(USER, seen.join("dir/file"))), REFUSED);
        read(USER, seen.join("dir/file-for-all")).unwrap();
    });
}

#[test]
fn a_write_by_whoever_may_takes_set_id_bits_away() {
    let scratch = Scratch::new("identity-set-id");
    let plain = scratch.directory("plain");
    let program = plain.join("program");
    fs::write(&program, "x").unwrap();
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let seen = mount.join("program");
    with_time_limit(&scratch, LIMIT, move || {
        let mut options = fs::OpenOptions::new();
        for options in [options.append(true).clone(), options.read(true).clone()] {
            fs::set_permissions(&seen, Permissions::from_mode(0o6777)).unwrap();
            as_user(USER, || options.open(&seen)?.write_all(b"other")).unwrap();
            for path in [&program, &seen] {
                assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o777);
            }
        }
        assert_eq!(fs::read(&program).unwrap(), b"xotherother");
    });
}

/// An ordinary user's mount of own files: through fusermount3, with a cache of their own.
struct OwnMount {
    home: PathBuf,
    seen: PathBuf,
    log: PathBuf,
    scratch: Scratch,
}

/// fusermount3 wants a user who has a name: nobody.
const NAMED_USER: u32 = 65534;

/// A short name, as that of a socket has to be; another directory in the tests' namespace.
const RUNTIME: &str = "/mnt";

/// In a mount namespace of this thread and what it starts, because a machine may keep /dev/fuse to root.
fn let_users_open_fuse(scratch: &Scratch) {
    use nix::mount::{MsFlags, mount};
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let nothing = None::<&str>;
    let device = scratch.path().join("fuse-device");
    let all = Mode::from_bits_truncate(0o666);
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .unwrap();
    mknod(&device, SFlag::S_IFCHR, all, makedev(10, 229)).unwrap();
    fs::set_permissions(&device, Permissions::from_mode(0o666)).unwrap();
    mount(
        Some(&device),
        "/dev/fuse",
        nothing,
        MsFlags::MS_BIND,
        nothing,
    )
    .unwrap();
    let tmpfs = Some("tmpfs");
    mount(tmpfs, RUNTIME, tmpfs, MsFlags::empty(), nothing).unwrap();
    chown(RUNTIME, Some(NAMED_USER), Some(NAMED_USER)).unwrap();
}

impl OwnMount {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let_users_open_fuse(&scratch);
        let home = scratch.directory("home");
        let seen = home.join("seen");
        for path in [&home, &home.join("files"), &seen] {
            fs::create_dir_all(path).unwrap();
            chown(path, Some(NAMED_USER), Some(NAMED_USER)).unwrap();
        }
        let file = home.join("files/large");
        large().create(&file).unwrap();
        chown(&file, Some(NAMED_USER), Some(NAMED_USER)).unwrap();
        let log = scratch.path().join("log");
        Self {
            home,
            seen,
            log,
            scratch,
        }
    }

    /// A program as the user; the kernel lets nobody into their mount who is them for files only.
    fn command(&self, program: &str, arguments: &[&str]) -> std::process::Command {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(program);
        command.args(arguments).uid(NAMED_USER).gid(NAMED_USER);
        command.env("HOME", &self.home).env_remove("XDG_CACHE_HOME");
        command.env("XDG_RUNTIME_DIR", RUNTIME).current_dir("/");
        command
    }

    /// Runs it; what it says, and whether it did what it was asked.
    fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = self.command(program, arguments);
        let output = with_time_limit(&self.scratch, LIMIT, move || command.output().unwrap());
        let parts = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part));
        (output.status.success(), parts.concat())
    }

    fn program(&self) -> String {
        let program = mount::program_for_all(&self.scratch);
        program.into_os_string().into_string().unwrap()
    }

    fn ask(&self, verb: &str) -> (bool, String) {
        self.run(&self.program(), &[verb, self.seen.to_str().unwrap()])
    }

    /// Starts the daemon and waits until it serves or has ended.
    fn start(&self, options: &[&str]) -> std::process::Child {
        let log = File::create(&self.log).unwrap();
        let files = self.home.join("files");
        let paths = [files.to_str().unwrap(), self.seen.to_str().unwrap()];
        let mut command = self.command(&self.program(), &["mount", "-f"]);
        command.args(options).args(paths);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        // By this thread, whose mounts it is to see.
        let mut child = command.spawn().unwrap();
        self.scratch.processes().add(child.id() as i32);
        wait_until(LIMIT, "the mount to serve, or not", || {
            self.is_mounted() || child.try_wait().unwrap().is_some()
        });
        child
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        mounts.contains(self.seen.to_str().unwrap())
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        if self.is_mounted() {
            let lazily = nix::mount::MntFlags::MNT_DETACH;
            let _ = nix::mount::umount2(&self.seen, lazily);
        }
    }
}

#[test]
fn an_ordinary_user_mounts_own_files_and_is_told_what_is_lost() {
    let own = OwnMount::new("identity-unprivileged");
    let mut daemon = own.start(&[]);
    assert!(own.is_mounted(), "{}", own.told());
    assert!(own.told().contains("no passthrough"), "{}", own.told());
    let script = "cd $0/seen && cmp large ../files/large && cmp large ../files/large && \
        echo x >made && mv made moved && ls";
    let (is_done, words) = own.run("sh", &["-c", script, own.home.to_str().unwrap()]);
    assert!(is_done && words == "large\nmoved\n", "{words}");
    // Nobody else is let in, root neither.
    assert_eq!(errno(fs::metadata(own.seen.join("large"))), REFUSED);
    let facts = fs::metadata(own.home.join("files/moved")).unwrap();
    assert_eq!(facts.uid(), NAMED_USER);
    assert!(own.home.join(".cache/nfs-cachefs").is_dir());
    let (is_answered, words) = own.ask("status");
    assert!(is_answered, "{words}");
    for part in [
        "no passthrough",
        "identity=daemon: no effect here",
        "serving",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let (is_gone, words) = own.ask("umount");
    assert!(is_gone && !own.is_mounted(), "{words}");
    let status = process::wait_for(&mut daemon, LIMIT).expect("the daemon ends");
    assert!(status.success(), "{}", own.told());
    own.scratch.processes().remove(daemon.id() as i32);
}

#[test]
fn an_ordinary_user_lets_others_in_only_where_the_machine_allows_it() {
    let settings = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if settings
        .lines()
        .any(|line| line.trim() == "user_allow_other")
    {
        eprintln!("this machine allows it: left out");
        return;
    }
    let own = OwnMount::new("identity-others");
    let mut daemon = own.start(&["-o", "allow_other"]);
    let status = process::wait_for(&mut daemon, LIMIT).expect("it cannot mount");
    own.scratch.processes().remove(daemon.id() as i32);
    assert!(!status.success() && !own.is_mounted());
    assert!(own.told().contains("user_allow_other"), "{}", own.told());
}
