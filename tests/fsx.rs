//! fsx (File System eXerciser, `cargo install fsx`): random operations on one file through the mount, every read
//! verified. In some modes this process reads, maps and evicts the file meanwhile. Left out where the program is not
//! installed. CACHEFS_SEED repeats a run.

mod support;

use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use support::reading::Mapping;
use support::*;

const LIMIT: Duration = Duration::from_secs(1200);
const EVICTION_LIMIT: Duration = Duration::from_secs(120);

const MAPPED: &str = "mapread = 10\nmapwrite = 10\n";
const UNMAPPED: &str = "mapread = 0\nmapwrite = 0\n";
const EVERYTHING: &str = "close_open = 2\ninvalidate = 2\nfsync = 1\nfdatasync = 1\nposix_fallocate = 5\n\
    punch_hole = 5\ncopy_file_range = 5\nsendfile = 5\nposix_fadvise = 1\n";

fn program() -> Option<PathBuf> {
    let in_home = std::env::home_dir().map(|home| home.join(".cargo/bin/fsx"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("fsx"));
    in_path.chain(in_home).find(|path| path.exists())
}

/// Another program that uses the file: opens, reads, maps and evicts it until it is told to end.
struct Onlooker {
    done: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<u64>>,
}

impl Onlooker {
    fn start(scratch: &Scratch, mount: &Mount) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let (file, mountpoint) = (mount.join("file"), mount.path().to_owned());
        let copy = File::create(scratch.path().join("seen")).unwrap();
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            while !told.load(Ordering::Relaxed) {
                look_at(&file, &copy)?;
                rounds += 1;
                if rounds % 10 == 0 {
                    evict(&mountpoint);
                }
            }
            Ok(rounds)
        });
        Self { done, thread }
    }

    fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().unwrap();
        assert!(rounds.unwrap() > 0, "it has seen nothing");
    }
}

/// Reads the file as it is, once by read(2) and once by a mapping, which may have lost its end meanwhile.
fn look_at(path: &Path, mut copy: &File) -> io::Result<()> {
    let failed = |call: &'static str| move |error| io::Error::other(format!("{call}: {error}"));
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed("open"))?,
    };
    io::copy(&mut &file, &mut io::sink()).map_err(failed("read"))?;
    let size = file.metadata().map_err(failed("fstat"))?.len() as usize;
    if size == 0 {
        return Ok(());
    }
    let mapping = Mapping::new(&file, size)?;
    drop(file);
    copy.rewind()?;
    match mapping.write_to(copy, 0, size) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        written => written.map(|_| ()),
    }
}

fn evict(mountpoint: &Path) {
    let mut command = Command::new(mount::PROGRAM);
    command.arg("evict").arg(mountpoint);
    process::run(command, EVICTION_LIMIT);
}

/// Runs fsx with these weights on files of up to `size_bytes`.
fn exercise(test: &str, options: &[&str], size_bytes: u64, weights: &str) {
    run(test, options, size_bytes, weights, false);
}

/// The same while this process uses the file, too.
fn exercise_watched(test: &str, options: &[&str]) {
    let weights = format!("{MAPPED}{EVERYTHING}");
    run(test, options, 1 << 20, &weights, true);
}

/// fsx ends where it has drawn a posix_fallocate of no bytes, which fails everywhere.
fn allocates_nothing(told: &str) -> bool {
    let last = told.lines().last().unwrap_or_default();
    last.contains("POSIX_FALLOCATE") && last.ends_with(" 0x0 bytes)")
}

/// What fsx found, which stands before its log of operations, and the last of these.
fn story(told: &str) -> Vec<&str> {
    let lines: Vec<&str> = told.lines().collect();
    let (first, last) = (40.min(lines.len()), lines.len().saturating_sub(60));
    [&lines[..first], &lines[first.max(last)..]].concat()
}

fn run(test: &str, options: &[&str], size_bytes: u64, weights: &str, is_watched: bool) {
    let Some(program) = program() else {
        eprintln!("fsx is not installed: left out");
        return;
    };
    let scratch = Scratch::new(test);
    let plain = scratch.directory("plain");
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    let mount = Mount::start(&scratch, &plain, mount_options);
    let settings = scratch.path().join("fsx.toml");
    let text = format!(
        "flen = {size_bytes}\n[opsize]\nmax = {}\nalign = 1\n[weights]\nread = 20\nwrite = 20\ntruncate = 5\n{weights}",
        size_bytes / 4
    );
    fs::write(&settings, text).unwrap();
    let onlooker = is_watched.then(|| Onlooker::start(&scratch, &mount));
    let mut random = Random::from_environment(test);
    for _ in 0..sample_or_full(1, 5) {
        let seed = random.next() % (1 << 32);
        let mut command = Command::new(&program);
        command
            .arg("-f")
            .arg(&settings)
            .args([
                "-N",
                sample_or_full("2000", "20000"),
                "-S",
                &seed.to_string(),
                "-P",
            ])
            .arg(scratch.path())
            .arg(mount.join("file"));
        let output = process::run(command, LIMIT);
        let told = String::from_utf8_lossy(&output.stderr);
        let is_right = output.status.success() || allocates_nothing(&told);
        assert!(is_right, "fsx -S {seed}: {:#?}", story(&told));
    }
    if let Some(onlooker) = onlooker {
        onlooker.end();
    }
}

#[test]
fn fsx_finds_nothing() {
    exercise("fsx", &[], 256 << 10, &format!("{MAPPED}{EVERYTHING}"));
}

#[test]
fn fsx_finds_nothing_with_reads_writes_and_mappings_alone() {
    exercise("fsx-plain", &[], 256 << 10, MAPPED);
}

#[test]
fn fsx_finds_nothing_without_io_uring() {
    exercise(
        "fsx-blocking",
        &["io_engine=blocking", "small_file_size=1"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_without_io_uring_and_passthrough() {
    exercise(
        "fsx-blocking-daemon",
        &["io_engine=blocking", "passthrough=off"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_while_another_program_reads_maps_and_evicts() {
    exercise_watched("fsx-watched", &["small_file_size=1"]);
}

#[test]
fn fsx_finds_nothing_while_another_reads_maps_and_evicts_without_passthrough() {
    exercise_watched("fsx-watched-daemon", &["passthrough=off"]);
}

#[test]
fn fsx_finds_nothing_while_another_reads_maps_and_evicts_without_io_uring() {
    let options = [
        "io_engine=blocking",
        "small_file_size=1",
        "keep_written=always",
    ];
    exercise_watched("fsx-watched-blocking", &options);
}

#[test]
fn fsx_finds_nothing_in_a_file_of_16_mib() {
    exercise("fsx-large", &[], 16 << 20, &format!("{MAPPED}{EVERYTHING}"));
}

#[test]
fn fsx_finds_nothing_without_mappings() {
    exercise(
        "fsx-unmapped",
        &[],
        256 << 10,
        &format!("{UNMAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_without_passthrough() {
    exercise(
        "fsx-daemon",
        &["passthrough=off"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_with_passthrough_of_small_files() {
    exercise(
        "fsx-passthrough",
        &["small_file_size=1"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_with_all_that_is_written_kept() {
    exercise(
        "fsx-kept",
        &["keep_written=always", "small_file_size=1"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_when_written_back() {
    exercise(
        "fsx-back",
        &["write_mode=back", "writeback_delay=10ms"],
        256 << 10,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_when_written_back_late() {
    exercise(
        "fsx-back-late",
        &["write_mode=back", "writeback_delay=1h"],
        256 << 10,
        MAPPED,
    );
}

#[test]
fn fsx_finds_nothing_with_direct_io() {
    exercise(
        "fsx-direct",
        &["direct_io"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}
