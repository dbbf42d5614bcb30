//! The protocol on a real mount. Every wait has a limit; a test that fails leaves no mount behind.

use super::memory_fs::{CROWD_NAMES, MemoryFs, TEXT};
use super::*;
use crate::events::{Invalidation, InvalidationQueue};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

struct TestMount {
    directory: tempfile::TempDir,
    fs: Arc<MemoryFs>,
    queue: InvalidationQueue,
    serving: Option<Serving>,
}

fn scratch() -> tempfile::TempDir {
    let base = std::env::var_os("CACHEFS_TEST_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(std::env::temp_dir);
    tempfile::tempdir_in(base).unwrap()
}

fn settings(mountpoint: PathBuf) -> MountSettings {
    MountSettings {
        plan: MountPlan {
            mountpoint,
            source_name: "server:/some where".to_owned(),
            access: Access::Everyone,
            default_permissions: true,
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME,
        },
        passthrough: Passthrough::PlainDisk,
        locks: false,
        reader_threads: 3,
        max_background: 1024,
        read_ahead_bytes: 512 * 1024,
    }
}

impl TestMount {
    fn new(prepare: impl FnOnce(&Channel, &mut MemoryFs)) -> Self {
        Self::with_access(Access::Everyone, prepare)
    }

    fn with_access(access: Access, prepare: impl FnOnce(&Channel, &mut MemoryFs)) -> Self {
        let directory = scratch();
        let mut settings = settings(directory.path().to_owned());
        settings.plan.access = access;
        let channel = Channel::mount(settings).expect("mounting, as root with /dev/fuse");
        let mut fs = MemoryFs::new();
        prepare(&channel, &mut fs);
        let fs = Arc::new(fs);
        let (queue, invalidations) = InvalidationQueue::new();
        let serving = channel
            .serve(fs.clone(), invalidations, Arc::default())
            .unwrap();
        Self {
            directory,
            fs,
            queue,
            serving: Some(serving),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn serving(&self) -> &Serving {
        self.serving.as_ref().expect("served until dropped")
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        let serving = self.serving.take().expect("dropped once");
        // A failed test may leave a program waiting on the mount, so it is only detached.
        if std::thread::panicking() {
            return;
        }
        serving.unmount(UnmountMode::Detach).unwrap();
        limited(move || serving.wait()).unwrap();
    }
}

/// Runs something that must not take longer than [`LIMIT`].
fn limited<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || sender.send(run()));
    receiver.recv_timeout(LIMIT).expect("within the limit")
}

fn until(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn mount_table() -> String {
    std::fs::read_to_string("/proc/self/mounts").unwrap()
}

#[test]
fn the_mount_shows_its_source_type_and_flags_and_goes_with_its_session() {
    let mount = TestMount::new(|_, _| {});
    let place = mount.directory.path().to_str().unwrap().to_owned();
    let table = mount_table();
    let line = table.lines().find(|line| line.contains(&place)).unwrap();
    assert!(line.starts_with("server:/some\\040where "), "{line}");
    for word in ["fuse.cachefs", "nosuid", "nodev", "noatime", "allow_other"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    let report = mount.serving().protocol().clone();
    assert_eq!(report.read_ahead_bytes, Ok(512 * 1024));
    assert_eq!(report.shared_device, None);
    assert!(report.flags.iter().any(|f| f == "FUSE_PARALLEL_DIROPS"));
    assert!(!report.flags.iter().any(|f| f == "FUSE_WRITEBACK_CACHE"));
    let connection = format!("/sys/fs/fuse/connections/{}", report.device.minor);
    // There only where fusectl is mounted.
    if let Ok(limit) = std::fs::read_to_string(format!("{connection}/max_background")) {
        assert_eq!(limit.trim(), "1024");
    }
    let root = mount.path("text");
    let device = limited(move || root.metadata().unwrap().dev());
    assert_eq!(
        nix::sys::stat::major(device),
        u64::from(report.device.major)
    );
    assert_eq!(
        nix::sys::stat::minor(device),
        u64::from(report.device.minor)
    );
    drop(mount);
    assert!(!mount_table().contains(&place));
}

#[test]
fn a_channel_never_served_leaves_nothing_mounted() {
    let directory = scratch();
    let channel = Channel::mount(settings(directory.path().to_owned())).unwrap();
    assert!(mount_table().contains(directory.path().to_str().unwrap()));
    drop(channel);
    assert!(!mount_table().contains(directory.path().to_str().unwrap()));
    let missing = Channel::mount(settings(directory.path().join("missing")));
    assert!(matches!(missing, Err(FuseError::Mountpoint { .. })));
}

#[test]
fn unmounting_spares_another_mount_at_the_same_place() {
    let below = TestMount::new(|_, _| {});
    let place = below.directory.path().to_owned();
    let above = limited(move || Channel::mount(settings(place)).unwrap());
    let refused = below.serving().unmount(UnmountMode::Detach);
    assert!(matches!(refused, Err(FuseError::Unmount { .. })));
    drop(above);
}

#[test]
fn a_mount_in_use_is_busy_until_its_last_file_is_closed() {
    let mount = TestMount::new(|_, _| {});
    let text = mount.path("text");
    let file = limited(move || File::open(text).unwrap());
    let busy = mount.serving().unmount(UnmountMode::IfUnused);
    let Err(FuseError::Unmount { source, .. }) = busy else {
        panic!("unmounted under an open file");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EBUSY));
    drop(file);
    // The kernel lets go of the file a moment after close returned.
    assert!(until(|| mount
        .serving()
        .unmount(UnmountMode::IfUnused)
        .is_ok()));
}

#[test]
fn files_links_attributes_and_space_are_read() {
    let mount = TestMount::new(|_, _| {});
    let (text, link, place) = (mount.path("text"), mount.path("link"), mount.path(""));
    limited(move || {
        assert_eq!(std::fs::read(&link).unwrap(), b"some text");
        assert_eq!(std::fs::read_link(&link).unwrap(), PathBuf::from("text"));
        let metadata = text.metadata().unwrap();
        assert_eq!(metadata.ino(), TEXT.0 + (1 << 40));
        assert_eq!(metadata.mode(), libc::S_IFREG | 0o644);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-5, 123));
        let space = nix::sys::statvfs::statvfs(&place).unwrap();
        assert_eq!((space.blocks(), space.fragment_size()), (1000, 4096));
        let file = File::open(&text).unwrap();
        let hole = nix::unistd::lseek(&file, 3, nix::unistd::Whence::SeekHole).unwrap();
        assert_eq!(hole, 9);
        let absent = File::open(place.join("absent")).unwrap_err();
        assert_eq!(absent.raw_os_error(), Some(libc::ENOENT));
    });
}

#[test]
fn every_change_is_refused_as_on_a_read_only_filesystem() {
    let mount = TestMount::new(|_, _| {});
    let (text, new) = (mount.path("text"), mount.path("new"));
    limited(move || {
        let erofs = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
        };
        erofs(OpenOptions::new().write(true).open(&text).map(drop));
        erofs(File::create(&new).map(drop));
        erofs(std::fs::create_dir(&new));
        erofs(std::fs::remove_file(&text));
        erofs(std::fs::rename(&text, &new));
        erofs(std::fs::hard_link(&text, &new));
        erofs(std::os::unix::fs::symlink("a", &new));
        erofs(nix::unistd::truncate(&text, 1).map_err(Into::into));
        erofs(std::fs::set_permissions(
            &text,
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        ));
        // What changes nothing succeeds.
        let file = File::open(&text).unwrap();
        file.sync_all().unwrap();
        nix::unistd::syncfs(&file).unwrap();
    });
}

#[test]
fn extended_attributes_are_read_with_the_kernels_acl_checks_on() {
    let mount = TestMount::new(|_, _| {});
    assert!(
        mount
            .serving()
            .protocol()
            .flags
            .iter()
            .any(|flag| flag == "FUSE_POSIX_ACL")
    );
    let text = mount.path("text");
    let output = limited(move || {
        Command::new("python3")
            .args([
                "-c",
                "import os, sys\n\
                 print(os.listxattr(sys.argv[1]), os.getxattr(sys.argv[1], 'user.colour'))\n\
                 try: os.getxattr(sys.argv[1], 'user.none')\n\
                 except OSError as error: print(error.errno)",
            ])
            .arg(text)
            .output()
            .unwrap()
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "['user.colour'] b'blue'\n61", "{output:?}");
}

#[test]
fn a_directory_of_ten_thousand_names_is_listed_whole_and_forgotten_whole() {
    let mount = TestMount::new(|_, _| {});
    let crowd = mount.path("crowd");
    limited(move || {
        let mut numbers: Vec<u64> = std::fs::read_dir(crowd)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let number = name.strip_prefix("name-").unwrap().parse().unwrap();
                assert_eq!(entry.metadata().unwrap().len(), number + 1000);
                number
            })
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..CROWD_NAMES));
    });
    let fs = mount.fs.clone();
    assert!(
        fs.crowd_lookups.load(Ordering::SeqCst) > 0,
        "readdirplus was used"
    );
    for number in 0..CROWD_NAMES {
        mount.queue.push(Invalidation::Entry {
            parent: super::memory_fs::CROWD,
            name: format!("name-{number}").into(),
        });
    }
    assert!(
        until(|| fs.crowd_lookups.load(Ordering::SeqCst) == 0),
        "{} lookups never given back",
        fs.crowd_lookups.load(Ordering::SeqCst)
    );
}

#[test]
fn a_waiting_read_ends_within_a_second_of_its_signal() {
    let mount = TestMount::new(|_, _| {});
    // Not SIGINT: a shell's background jobs ignore it.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = Command::new("cat")
            .arg(mount.path("stuck"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert!(mount.fs.wait_for_stuck_read(LIMIT));
        let signalled = Instant::now();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert!(until(|| child.try_wait().unwrap().is_some()));
        assert!(signalled.elapsed() < Duration::from_secs(1), "{signal}");
    }
}

#[test]
fn an_interrupt_that_overtakes_its_request_is_not_lost() {
    let mount = TestMount::new(|_, fs| fs.stuck_unknown_for = Duration::from_millis(100));
    let mut child = Command::new("cat")
        .arg(mount.path("stuck"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let fs = mount.fs.clone();
    assert!(until(|| fs.reads.load(Ordering::SeqCst) > 0));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let signalled = Instant::now();
    assert!(until(|| child.try_wait().unwrap().is_some()));
    assert!(signalled.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_handler_that_panics_or_loses_its_request_costs_an_eio_and_no_more() {
    let mount = TestMount::new(|_, _| {});
    let (panics, lost, text) = (mount.path("panics"), mount.path("lost"), mount.path("text"));
    limited(move || {
        for _ in 0..10 {
            for path in [&panics, &lost] {
                let error = std::fs::read(path).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
            }
        }
        assert_eq!(std::fs::read(text).unwrap(), b"some text");
    });
}

#[test]
fn the_kernel_reads_a_registered_file_by_itself() {
    let backing = scratch();
    let path = backing.path().join("backing");
    File::create(&path)
        .unwrap()
        .write_all(b"from the disk")
        .unwrap();
    let mut available = Ok(());
    let mount = TestMount::new(|channel, fs| {
        available = channel.protocol().passthrough.clone();
        if available.is_ok() {
            let file = File::open(&path).unwrap();
            fs.passthrough = Some(channel.registry().register(file.as_fd()).unwrap());
            fs.passed_size_bytes = 13;
        }
    });
    if let Err(reason) = available {
        eprintln!("not tried, no passthrough here: {reason}");
        return;
    }
    let passed = mount.path("passed");
    let content = limited(move || std::fs::read(passed).unwrap());
    assert_eq!(content, b"from the disk");
    assert_eq!(mount.fs.reads.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_invalidated_is_asked_for_again() {
    let mount = TestMount::new(|_, _| {});
    let text = mount.path("text");
    let look = move || {
        let text = text.clone();
        limited(move || {
            let mut content = Vec::new();
            let mut file = File::open(&text).unwrap();
            file.read_to_end(&mut content).unwrap();
            (file.metadata().unwrap().len(), content)
        })
    };
    assert_eq!(look(), (9, b"some text".to_vec()));
    *mount.fs.text.lock() = b"other text, longer".to_vec();
    assert_eq!(look(), (9, b"some text".to_vec()), "still cached");
    // A name that nobody has asked for does not stop the queue.
    mount.queue.push(Invalidation::Entry {
        parent: crate::types::NodeId(999),
        name: "unknown".into(),
    });
    mount.queue.push(Invalidation::Node(TEXT));
    assert!(until(|| look() == (18, b"other text, longer".to_vec())));
}

/// `cat text` as somebody who is neither root nor owner, in a directory that is handed over open, so
/// that the way to it does not matter.
fn read_text_as_other_user(mount: &TestMount) -> std::process::Output {
    use std::os::unix::process::CommandExt;
    let directory = mount.directory.path().to_owned();
    limited(move || {
        Command::new("cat")
            .arg("/proc/self/fd/0/text")
            .stdin(File::open(directory).unwrap())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap()
    })
}

#[test]
fn allow_root_keeps_other_users_out_and_allow_other_lets_them_in() {
    let mount = TestMount::with_access(Access::OwnerAndRoot, |_, _| {});
    let text = mount.path("text");
    assert_eq!(limited(move || std::fs::read(text)).unwrap(), b"some text");
    let refused = read_text_as_other_user(&mount);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(Errno::EACCES.desc()), "{said}");
    let open_mount = TestMount::with_access(Access::Everyone, |_, _| {});
    assert_eq!(read_text_as_other_user(&open_mount).stdout, b"some text");
}

#[test]
fn direct_reads_come_to_the_daemon_at_their_offsets() {
    let mount = TestMount::new(|_, fs| {
        fs.direct_io = true;
        *fs.text.lock() = (0..=255u8).cycle().take(3 << 20).collect();
    });
    let text = mount.path("text");
    limited(move || {
        let file = File::open(&text).unwrap();
        let mut bytes = vec![0; 2 << 20];
        file.read_exact_at(&mut bytes, 1 << 20).unwrap();
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        assert_eq!(file.read_at(&mut bytes, 3 << 20).unwrap(), 0);
    });
    assert!(mount.fs.reads.load(Ordering::SeqCst) >= 3);
}

#[test]
fn answers_from_other_threads_find_their_requests() {
    let mount = TestMount::new(|_, fs| {
        fs.direct_io = true;
        fs.answers_later = true;
        *fs.text.lock() = (0..1u32 << 16).flat_map(u32::to_ne_bytes).collect();
    });
    let text = mount.path("text");
    limited(move || {
        std::thread::scope(|scope| {
            for reader in 0..8u32 {
                let file = File::open(&text).unwrap();
                scope.spawn(move || {
                    for turn in 0..200 {
                        let at = (reader * 7919 + turn * 104_729) % (1 << 16);
                        let mut word = [0; 4];
                        file.read_exact_at(&mut word, u64::from(at) * 4).unwrap();
                        assert_eq!(u32::from_ne_bytes(word), at);
                    }
                });
            }
        })
    });
}
