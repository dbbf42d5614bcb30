//! Corners of the system call interface that some program turns: each is turned on a mount and on a plain directory, with
//! the same outcome.

mod support;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, Timespec, Timestamps, XattrFlags, chownat, openat, utimensat,
};
use std::fmt::Debug;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use support::reading::{advise_random, read_range};
use support::writing::{open_with, read_write};
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const MODES: &[&[&str]] = &[
    &[],
    &["small_file_size=1"],
    &["passthrough=off"],
    &["direct_io"],
];

/// `turn` has the same outcome in a mount of each mode as on the disk.
fn same_as_on_the_disk<T>(test: &str, turn: fn(&Path) -> T)
where
    T: Debug + PartialEq + Send + 'static,
{
    for options in MODES {
        let pair = Pair::new(test, options);
        let disk = pair.scratch.directory("disk");
        pair.run(LIMIT, move |seen, _| {
            assert_eq!(turn(seen), turn(&disk), "{options:?}");
        });
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap_or(-1))
}

fn by_descriptor(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn content_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that was read once, so that it is in the cache.
fn known_file(path: &Path, byte: u8, size: usize) {
    fs::write(path, vec![byte; size]).unwrap();
    assert_eq!(content_of(path).unwrap().len(), size);
}

/// What a shell does with a long here-document: its command opens /dev/stdin, a file without a name.
fn read_again(directory: &Path) -> Vec<(usize, Option<i32>)> {
    let mut outcomes = Vec::new();
    for size in [0, 1000, 600_000] {
        let path = directory.join("unlinked");
        known_file(&path, b'u', size);
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let again = content_of(&by_descriptor(&file));
        outcomes.push((again.as_ref().map_or(0, Vec::len), errno(again)));

        let (path, other) = (directory.join("replaced"), directory.join("other"));
        known_file(&path, b'r', size);
        known_file(&other, b'o', size + 1);
        let file = File::open(&path).unwrap();
        fs::rename(&other, &path).unwrap();
        let again = content_of(&by_descriptor(&file));
        outcomes.push((again.as_ref().map_or(0, Vec::len), errno(again)));
        assert_eq!(content_of(&path).unwrap(), vec![b'o'; size + 1]);
    }
    outcomes
}

#[test]
fn a_file_without_a_name_is_opened_again_by_its_descriptor() {
    same_as_on_the_disk("corners-reopened", read_again);
}

fn write_again(directory: &Path) -> Vec<u8> {
    let path = directory.join("written");
    fs::write(&path, vec![b'w'; 300_000]).unwrap();
    let first = read_write(&path);
    fs::remove_file(&path).unwrap();
    let second = open_with(&by_descriptor(&first), 0).unwrap();
    second.write_all_at(b"second", 100_000).unwrap();
    first.write_all_at(b"first", 100_010).unwrap();
    drop(first);
    let mut seen = vec![0; 20];
    second.read_exact_at(&mut seen, 99_998).unwrap();
    seen
}

#[test]
fn a_file_without_a_name_is_opened_for_writing_by_its_writers_descriptor() {
    same_as_on_the_disk("corners-rewritten", write_again);
}

fn change_no_owner(directory: &Path) -> (u32, bool) {
    let path = directory.join("program");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
    let changed = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let before = changed(&path);
    // Longer than a timestamp step of a local filesystem.
    std::thread::sleep(Duration::from_millis(20));
    chownat(CWD, &path, None, None, AtFlags::empty()).unwrap();
    let mode = fs::metadata(&path).unwrap().mode();
    (mode, changed(&path) > before)
}

#[test]
fn a_change_of_owner_that_names_none_is_one() {
    same_as_on_the_disk("corners-chown", change_no_owner);
}

fn set_times_beside_a_reader(directory: &Path) -> Vec<(i64, i64)> {
    let path = directory.join("read");
    known_file(&path, b'r', 600_000);
    let reader = File::open(&path).unwrap();
    let shown = |metadata: io::Result<fs::Metadata>| {
        let metadata = metadata.unwrap();
        (metadata.mtime(), metadata.mtime_nsec())
    };
    let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_millis(1500));
    read_write(&path).set_times(times).unwrap();
    let mut seen = vec![shown(fs::metadata(&path)), shown(reader.metadata())];
    drop(reader);
    // By the name, which opens nothing.
    let reader = File::open(&path).unwrap();
    let time = Timespec {
        tv_sec: 77,
        tv_nsec: 5,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    seen.extend([shown(fs::metadata(&path)), shown(reader.metadata())]);
    seen
}

#[test]
fn times_that_are_set_beside_a_reader_show_at_once() {
    same_as_on_the_disk("corners-times", set_times_beside_a_reader);
}

fn seek_before_the_beginning(directory: &Path) -> Vec<Option<i32>> {
    let path = directory.join("sparse");
    fs::write(&path, "x").unwrap();
    let file = File::open(&path).unwrap();
    let seek = |whence| {
        // SAFETY: no memory is involved.
        let found = unsafe { libc::lseek(file.as_raw_fd(), -1, whence) };
        match found {
            ..0 => io::Error::last_os_error().raw_os_error(),
            _ => None,
        }
    };
    vec![
        seek(libc::SEEK_SET),
        seek(libc::SEEK_DATA),
        seek(libc::SEEK_HOLE),
    ]
}

#[test]
fn there_is_no_data_before_the_beginning() {
    same_as_on_the_disk("corners-seek", seek_before_the_beginning);
}

fn list_what_is_gone(directory: &Path) -> usize {
    let path = directory.join("left");
    fs::create_dir(&path).unwrap();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let stood_in = openat(CWD, &path, flags, Mode::empty()).unwrap();
    fs::remove_dir(&path).unwrap();
    let again = openat(&stood_in, ".", flags, Mode::empty()).unwrap();
    Dir::read_from(again).unwrap().flatten().count()
}

#[test]
fn a_removed_directory_that_a_program_stands_in_is_empty() {
    same_as_on_the_disk("corners-gone", list_what_is_gone);
}

/// Calls as programs make them, none of which is to see the signals.
fn ask_much(directory: &Path, calls: u32) -> io::Result<()> {
    for number in 0..calls {
        let path = directory.join(format!("file{}", number % 8));
        fs::metadata(&path)?;
        let absent = fs::metadata(directory.join(format!("absent{number}")));
        assert_eq!(errno(absent), Some(libc::ENOENT));
        assert_eq!(content_of(&path)?.len(), 1000);
        assert_eq!(fs::read_dir(directory)?.flatten().count(), 8);
        rustix::fs::getxattr(&path, c"user.some", &mut [0; 16][..])?;
    }
    Ok(())
}

fn interrupt(thread: i32) {
    let process = std::process::id() as i32;
    // SAFETY: no memory is involved; the handler of this signal does nothing.
    let failed = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    assert_eq!(failed, 0, "{}", io::Error::last_os_error());
}

/// A file of a slow server is none of what signals interrupt (signal(7)).
#[test]
fn signals_that_a_program_handles_end_no_call_of_a_file() {
    extern "C" fn handle(_: i32) {}
    let handler = SigHandler::Handler(handle);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();

    let scratch = Scratch::new("corners-signals");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    for number in 0..8 {
        let path = backend.plain.join(format!("file{number}"));
        fs::write(&path, [7; 1000]).unwrap();
        rustix::fs::setxattr(&path, c"user.some", b"one", XattrFlags::empty()).unwrap();
    }
    backend.set_network(Network {
        latency_us: 3000,
        bandwidth_bytes_per_s: None,
    });
    let options = MountOptions::new(&scratch).with("actimeo=0");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let directory = mount.path().to_owned();
    with_time_limit(&scratch, LIMIT, move || {
        let done = AtomicBool::new(false);
        let caller = nix::unistd::gettid().as_raw();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    interrupt(caller);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let outcome = ask_much(&directory, 20);
            done.store(true, Ordering::Relaxed);
            outcome.unwrap();
        });
    });
}

/// Of a file that is not in the cache yet the rest is read when it has lost its name.
#[test]
fn a_file_read_in_part_is_read_on_when_it_loses_its_name() {
    let pair = Pair::new("corners-read-on", &["block_size=64K", "readahead=0"]);
    pair.run(LIMIT, |seen, plain| {
        let content = Content::new(7, 1, 3 << 20);
        for loss in ["unlinked", "replaced", "one of two"] {
            let path = seen.join("file");
            content.create(&plain.join("file")).unwrap();
            fs::hard_link(plain.join("file"), plain.join("second")).unwrap();
            if loss != "one of two" {
                fs::remove_file(plain.join("second")).unwrap();
            }
            let file = File::open(&path).unwrap();
            advise_random(&file).unwrap();
            let read = |offset| content.check(offset, &read_range(&file, offset, 8192).unwrap());
            assert_eq!(read(0), Ok(()), "{loss}");
            if loss == "replaced" {
                fs::write(seen.join("other"), "x").unwrap();
                fs::rename(seen.join("other"), &path).unwrap();
            }
            fs::remove_file(&path).unwrap();
            for offset in [1 << 20, 2 << 20, 0] {
                assert_eq!(read(offset), Ok(()), "{loss}, at {offset}");
            }
            let _ = fs::remove_file(plain.join("second"));
        }
    });
}
