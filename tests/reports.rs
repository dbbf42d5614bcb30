//! What `bugreport` gathers, and what `bench` measures.

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::content::expect_content;
use support::mount::PROGRAM;
use support::written_back::Place;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "sekret";

fn mounted(test: &str, options: &[&str]) -> (Mount, PathBuf, Scratch) {
    let scratch = Scratch::new(test);
    let backend = scratch.directory("plain");
    let mut all = MountOptions::new(&scratch).with("cache_size=256M");
    for option in options {
        all = all.with(option);
    }
    let mount = Mount::start(&scratch, &backend, all);
    wait_until(LIMIT, "the daemon to answer", || {
        mount.command("status", &[], LIMIT).status.success()
    });
    (mount, backend, scratch)
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// All that is in an archive, names of its parts included.
fn contents(archive: &Path) -> String {
    let tar = |way: &str| {
        let mut command = Command::new("tar");
        command.arg(way).arg(archive);
        let output = process::run(command, LIMIT);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    tar("-tzf") + &tar("-xzOf")
}

/// Files whose names and contents are nobody's business, in all that is told of files.
fn leave_traces(mount: &Mount) {
    let folder = mount.join(format!("{SECRET} folder"));
    fs::create_dir(&folder).unwrap();
    let content = Content::new(3, 1, 1 << 20);
    let path = folder.join(format!("{SECRET} \"file\": a, b"));
    content.create(&path).unwrap();
    expect_content(&path, content);
    fs::write(folder.join("text"), format!("{SECRET} contents")).unwrap();
    fs::rename(&path, mount.join(format!("{SECRET}2"))).unwrap();
    assert!(fs::metadata(mount.join(format!("{SECRET}3"))).is_err());
    let why = mount.join(format!("{SECRET}2"));
    let mut command = Command::new(PROGRAM);
    command.arg("why").arg(why);
    assert!(process::run(command, LIMIT).status.success());
}

#[test]
fn a_bug_report_has_what_is_needed_and_no_name_of_the_tree() {
    let log = Scratch::new("bugreport-log");
    let log_file = log.path().join("log");
    let (mount, _backend, scratch) = mounted(
        "bugreport",
        &["log=trace", &format!("log_file={}", log_file.display())],
    );
    leave_traces(&mount);
    // As a log of another time, or of other code, might say it.
    let mut told = fs::read_to_string(&log_file).unwrap();
    told +=
        &format!("WARN path=\"{SECRET} dir/x\" beside=Some(\"a \\\" {SECRET}\") both are kept\n");
    told += &format!("ERROR removing {SECRET}/{SECRET}: refused\n");
    told += &format!(
        "ERROR {}/{SECRET} and {SECRET}: refused\n",
        mount.path().display()
    );
    fs::write(&log_file, told).unwrap();
    let archive = scratch.path().join("report.tar.gz");
    let arguments = ["-o", archive.to_str().unwrap()];
    let output = mount.command("bugreport", &arguments, LIMIT);
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(fs::metadata(&archive).unwrap().mode() & 0o777, 0o600);
    let all = contents(&archive);
    for wanted in [
        "version.txt",
        "check.txt",
        "kernel.txt",
        "mount-1/status.json",
        "mount-1/metrics.txt",
        "mount-1/doctor.txt",
        "mount-1/process.txt",
        "mount-1/log.txt",
        "nfs_cachefs_serving",
        "Linux version",
        "both are kept",
        "\"cache_size\"",
        "fuse-0",
        mount.path().to_str().unwrap(),
    ] {
        assert!(all.contains(wanted), "{wanted} in\n{all}");
    }
    assert!(!all.contains(SECRET), "a name leaks:\n{all}");
    // What is there is not written over.
    let again = mount.command("bugreport", &arguments, LIMIT);
    assert_eq!(again.status.code(), Some(2), "{}", text_of(&again));
    let named = scratch.path().join("named.tar.gz");
    let arguments = ["--with-names", "-o", named.to_str().unwrap()];
    let output = mount.command("bugreport", &arguments, LIMIT);
    assert!(output.status.success(), "{}", text_of(&output));
    let all = contents(&named);
    assert!(all.contains(&format!("{SECRET} dir/x")), "{all}");
    assert!(!all.contains(&format!("{SECRET} contents")), "{all}");
}

/// Of the parts of a bug report all that is plain text.
fn words_of_report(mount: &Mount, scratch: &Scratch, more: &[&str]) -> String {
    let archive = scratch
        .path()
        .join(format!("report{}.tar.gz", more.concat()));
    let arguments = [more, &["-o", archive.to_str().unwrap()]].concat();
    let output = mount.command("bugreport", &arguments, LIMIT);
    assert!(output.status.success(), "{}", text_of(&output));
    contents(&archive)
}

#[test]
fn a_bug_report_names_nothing_that_clashed_or_is_not_taken() {
    let place = Place::new("bugreport-back", &["writeback_delay=1h", "actimeo=0"]);
    let clashing = format!("{SECRET}plain");
    let refused = format!("{SECRET}\u{1b}]0;\u{7} refused");
    place.rule(Operation::Write, "*refused", Action::Errno(libc::EACCES));
    fs::write(place.there(&clashing), vec![1; 70_000]).unwrap();
    fs::write(place.here(&clashing), vec![2; 60_000]).unwrap();
    fs::write(place.there(&clashing), "theirs, later").unwrap();
    fs::write(place.here(&refused), vec![3; 50_000]).unwrap();
    place.command("flush", place.mount.path(), &["--wait"]);
    assert_eq!(place.mount.status_number("writeback.conflicts"), 1);
    assert_eq!(place.mount.status_number("writeback.failing_files"), 1);
    let all = words_of_report(&place.mount, &place.scratch, &[]);
    assert!(
        all.contains("1 files are not taken by the backend"),
        "{all}"
    );
    assert!(all.contains("ours lie beside theirs"), "{all}");
    assert!(!all.contains(SECRET), "a name leaks:\n{all}");
    let named = words_of_report(&place.mount, &place.scratch, &["--with-names"]);
    for wanted in [&format!("{clashing}.conflict-"), "]0;\\u{7} refused: "] {
        assert!(named.contains(wanted), "{wanted} in\n{named}");
    }
    assert!(!named.contains(['\u{1b}', '\u{7}']), "{named:?}");
}

#[test]
fn a_bug_report_of_what_is_no_mount_is_refused() {
    let scratch = Scratch::new("bugreport-none");
    let archive = scratch.path().join("report.tar.gz");
    let mut command = Command::new(PROGRAM);
    command
        .arg("bugreport")
        .arg(scratch.path())
        .arg("-o")
        .arg(&archive);
    let output = process::run(command, LIMIT);
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert!(text_of(&output).contains("not a mount of nfs-cachefs"));
    assert!(!archive.exists());
}

#[test]
fn a_bug_report_of_a_mount_that_is_dead_says_so() {
    let (mut mount, _backend, scratch) = mounted("bugreport-dead", &[]);
    let mut dead = mount.kill_stuck();
    let _ = dead.wait();
    let archive = scratch.path().join("report.tar.gz");
    let output = mount.command("bugreport", &["-o", archive.to_str().unwrap()], LIMIT);
    assert!(output.status.success(), "{}", text_of(&output));
    let all = contents(&archive);
    assert!(all.contains("its daemon is"), "{all}");
    assert!(all.contains("check.txt"), "{all}");
}

fn bench(mount: &Mount, arguments: &[&str]) -> Output {
    let arguments = [&["--size", "4"], arguments].concat();
    mount.command("bench", &arguments, Duration::from_secs(120))
}

fn measured(mount: &Mount, arguments: &[&str]) -> Value {
    let output = bench(mount, arguments);
    assert!(output.status.success(), "{}", text_of(&output));
    serde_json::from_slice(&output.stdout).expect("--json is JSON")
}

fn expect_measured(report: &Value, names: &[&str]) {
    for name in names {
        let seconds = report[name]["seconds"].as_f64();
        assert!(
            seconds.is_some_and(|seconds| seconds > 0.0),
            "{name} in {report}"
        );
    }
}

const READS: &[&str] = &[
    "disk_read",
    "disk_hot",
    "backend_read",
    "miss",
    "hit",
    "hit_hot",
    "backend_small",
    "hit_small",
];

#[test]
fn a_bench_measures_every_path_and_leaves_nothing() {
    let (mount, backend, _scratch) = mounted("bench", &[]);
    // Of a run that was killed: no process has that number.
    fs::create_dir(backend.join(".nfs-cachefs-bench-999999999")).unwrap();
    let report = measured(&mount, &["--json"]);
    expect_measured(&report, READS);
    expect_measured(
        &report,
        &[
            "backend_open",
            "mount_open",
            "backend_write",
            "mount_write",
            "backend_sync",
            "mount_sync",
        ],
    );
    assert_eq!(report["write_mode"], "through");
    assert!(!report["verdict"].as_array().unwrap().is_empty());
    assert_eq!(fs::read_dir(&backend).unwrap().count(), 0);
    // As of the next checkpoint.
    wait_until(LIMIT, "nothing of it to be cached", || {
        mount.status_number("cache.files") == 0
    });
    let words = text_of(&bench(&mount, &[]));
    assert!(
        words.contains("The cache ") && words.contains("hit, from memory"),
        "{words}"
    );
    assert!(words.lines().count() <= 24, "{words}");
}

#[test]
fn a_bench_that_only_reads_writes_nothing_and_measures_a_miss() {
    let (mount, backend, _scratch) = mounted("bench-read-only", &["ro"]);
    Content::new(5, 1, 8 << 20)
        .create(&backend.join("file"))
        .unwrap();
    fs::write(backend.join("tiny"), "a few bytes").unwrap();
    let before = fs::metadata(&backend).unwrap();
    let path = mount.join("file");
    let file = path.to_str().unwrap();
    // Cached before: it is let go of first.
    expect_content(&path, Content::new(5, 1, 8 << 20));
    let misses = mount.status_number("cache.miss_bytes");
    let report = measured(&mount, &["--read-only", file, "--json"]);
    expect_measured(&report, READS);
    assert!(report["mount_sync"].is_null(), "{report}");
    assert!(mount.status_number("cache.miss_bytes") > misses);
    let after = fs::metadata(&backend).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    for (arguments, wanted) in [
        (&[][..], "--read-only FILE"),
        (&["--read-only", "/etc/hostname"][..], "not below"),
        (
            &["--read-only", mount.join("tiny").to_str().unwrap()][..],
            "too little",
        ),
    ] {
        let refused = bench(&mount, arguments);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text_of(&refused).contains(wanted), "{}", text_of(&refused));
    }
}

#[test]
fn a_bench_that_is_interrupted_cleans_up() {
    let (mount, backend, _scratch) = mounted("bench-interrupted", &[]);
    let mut command = Command::new(PROGRAM);
    command.arg("bench").arg(mount.path());
    command.stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    let mut child = process::spawn(command).unwrap();
    wait_until(LIMIT, "its folder", || {
        fs::read_dir(&backend).unwrap().count() > 0
    });
    process::send(child.id() as i32, nix::sys::signal::Signal::SIGINT);
    let status = process::wait_for(&mut child, LIMIT).expect("it ends");
    // It may have been done just then.
    assert!(matches!(status.code(), Some(0 | 2)), "{status}");
    assert_eq!(fs::read_dir(&backend).unwrap().count(), 0);
}
