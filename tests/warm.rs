//! `nfs-cachefs warm`: whole trees in the cache before anybody reads them.

mod support;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::content::expect_content;
use support::mount::{PROGRAM, program_for_all};
use support::*;

const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
/// The exit status where something is not cached.
const NOT_ALL: i32 = 3;

struct World {
    // In this order: the mount goes before its backend, the directory last.
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

fn content(file: u64, size_bytes: u64) -> Content {
    Content::new(900 + file, 1, size_bytes)
}

impl World {
    fn new(test: &str, options: &[&str], files: &[(&str, u64)]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        for (number, (name, size_bytes)) in (0..).zip(files) {
            let path = backend.plain.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            content(number, *size_bytes).create(&path).unwrap();
        }
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

    fn warm(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .arg("warm")
            .arg(self.mount.path())
            .args(arguments)
            .current_dir(self.mount.path());
        support::process::run(command, LIMIT)
    }

    /// The last line of `--json`.
    fn warm_json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.warm(&[arguments, &["--json"]].concat());
        (output.status.code(), last_line(&output))
    }

    fn checked(&self) -> (Option<i32>, Value) {
        self.warm_json(&["--check"])
    }
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_else(|| panic!("{output:?}"));
    let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(line["event"], "end");
    line
}

fn number(line: &Value, name: &str) -> u64 {
    line["tally"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {line}"))
}

fn run(program: &Path, arguments: &[&OsStr]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    support::process::run(command, LIMIT)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const TREE: &[(&str, u64)] = &[
    ("a/small", 3000),
    ("a/large", 9 * MIB + 77),
    ("a/b/empty", 0),
    ("a/b/c/odd", 300_001),
    ("line\nbreak", 5000),
    ("-dash", 5000),
    ("\u{1b}[31mred", 40_000),
];

#[test]
fn a_warmed_tree_is_listed_and_read_with_its_server_stopped() {
    let world = World::new("warm-offline", &["actimeo=1"], TREE);
    symlink("a/large", world.backend.plain.join("link")).unwrap();
    let odd = OsStr::from_bytes(b"\xff\xfe");
    fs::write(world.backend.plain.join(odd), "bytes").unwrap();
    let bytes: u64 = TREE.iter().map(|(_, size)| size).sum::<u64>() + 5;
    let (status, end) = world.warm_json(&[]);
    assert_eq!(status, Some(0), "{end}");
    assert_eq!(number(&end, "fetched_bytes"), bytes);
    assert_eq!(end["files"], TREE.len() as u64 + 1);
    assert_eq!(world.checked().0, Some(0));
    // Nothing is fetched twice.
    let fetched_bytes = world.backend.counters().bytes_read;
    assert!(
        fetched_bytes >= bytes && fetched_bytes < bytes + MIB,
        "{fetched_bytes}"
    );
    let (status, end) = world.warm_json(&[]);
    assert_eq!(
        (status, number(&end, "fetched_files")),
        (Some(0), 0),
        "{end}"
    );
    assert_eq!(number(&end, "cached_bytes"), bytes);
    assert_eq!(world.backend.counters().bytes_read, fetched_bytes);
    world.backend.stop();
    let root = world.mount.path().to_owned();
    with_time_limit(&world.scratch, LIMIT, move || {
        for (number, (name, size_bytes)) in (0..).zip(TREE) {
            expect_content(&root.join(name), content(number, *size_bytes));
        }
        assert_eq!(fs::read(root.join(odd)).unwrap(), b"bytes");
        assert_eq!(
            fs::read_link(root.join("link")).unwrap(),
            Path::new("a/large")
        );
        assert_eq!(fs::read_dir(root.join("a")).unwrap().count(), 3);
    });
    world.backend.resume();
}

fn many(count: u64) -> Vec<(String, u64)> {
    (0..count)
        .map(|file| (format!("d{}/f{file}", file % 7), MIB))
        .collect()
}

fn named(files: &[(String, u64)]) -> Vec<(&str, u64)> {
    files.iter().map(|(name, size)| (&**name, *size)).collect()
}

/// Starts a warm-up, and kills it in the middle.
fn interrupt_warming(world: &World, until_bytes: u64) {
    let mut command = Command::new(PROGRAM);
    command
        .arg("warm")
        .arg(world.mount.path())
        .stdout(Stdio::null());
    let mut child = support::process::spawn(command).unwrap();
    wait_until(LIMIT, "something to be fetched", || {
        world.backend.counters().bytes_read >= until_bytes
    });
    child.kill().unwrap();
    assert!(support::process::wait_for(&mut child, LIMIT).is_some());
}

#[test]
fn an_interrupted_warm_up_goes_on_where_it_was() {
    let files = many(40);
    let world = World::new("warm-killed", &[], &named(&files));
    let slow = Network {
        latency_us: 500,
        bandwidth_bytes_per_s: Some(20 << 20),
    };
    world.backend.set_network(slow);
    interrupt_warming(&world, 8 * MIB);
    // What was on its way comes in or is given up.
    wait_until(LIMIT, "the fetching to end", || {
        world.mount.status_number("pieces_in_flight") == 0
    });
    let (_, before) = world.checked();
    let missing = number(&before, "left_bytes");
    assert!(missing > 0 && missing < 40 * MIB, "{before}");
    world.backend.set_network(Network::default());
    world.backend.reset_counters();
    let (status, end) = world.warm_json(&[]);
    assert_eq!(status, Some(0), "{end}");
    assert!(world.backend.counters().bytes_read <= missing + MIB);
    assert_eq!(world.checked().0, Some(0));
}

#[test]
fn a_warm_up_outlives_the_daemon_that_was_killed_meanwhile() {
    let files = many(40);
    let mut world = World::new("warm-daemon", &[], &named(&files));
    world.backend.set_network(Network {
        latency_us: 500,
        bandwidth_bytes_per_s: Some(4 << 20),
    });
    let mut command = Command::new(PROGRAM);
    command.arg("warm").arg(world.mount.path());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = support::process::spawn(command).unwrap();
    wait_until(LIMIT, "a part to be noted", || {
        world.mount.status_number("cache.files") >= 10
    });
    world.mount.kill9();
    let ended = support::process::wait_for(&mut child, LIMIT).expect("it ends with its mount");
    assert_eq!(ended.code(), Some(NOT_ALL));
    world.backend.set_network(Network::default());
    world.mount.remount();
    world.backend.reset_counters();
    assert_eq!(world.warm(&[]).status.code(), Some(0));
    let fetched = world.backend.counters().bytes_read;
    assert!(fetched <= 31 * MIB, "{fetched}");
    assert_eq!(world.checked().0, Some(0));
}

#[test]
fn what_is_cached_is_told_and_given_up_again() {
    let world = World::new("warm-check", &[], TREE);
    let output = world.warm(&["--check"]);
    assert_eq!(output.status.code(), Some(NOT_ALL));
    assert!(
        told(&output).contains("a/small: 0 of 3000 bytes"),
        "{output:?}"
    );
    // Telling fetches nothing, small files among it.
    assert_eq!(world.backend.counters().bytes_read, 0);
    let part = world.mount.join("a/b");
    let output = run(Path::new(PROGRAM), &["warm".as_ref(), part.as_ref()]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let (status, end) = world.checked();
    assert_eq!(
        (status, number(&end, "cached_bytes")),
        (Some(NOT_ALL), 300_001)
    );
    assert_eq!(world.warm(&[]).status.code(), Some(0));
    wait_until(LIMIT, "all to be given up", || {
        world.warm(&["--evict"]).status.success()
    });
    let (status, end) = world.checked();
    assert_eq!(
        (status, number(&end, "cached_bytes")),
        (Some(NOT_ALL), 0),
        "{end}"
    );
}

/// However long attributes are believed.
#[test]
fn what_has_changed_on_the_server_is_warmed_up_anew() {
    let world = World::new(
        "warm-changed",
        &["actimeo=10m"],
        &[("file", 3000), ("large", 5 * MIB)],
    );
    assert_eq!(world.warm(&[]).status.code(), Some(0));
    let plain = |name| world.backend.plain.join(name);
    content(10, 4000).replace(&plain("file")).unwrap();
    let large = File::options().write(true).open(plain("large")).unwrap();
    content(11, 5 * MIB).write_to(&large).unwrap();
    let (status, end) = world.warm_json(&[]);
    assert_eq!(
        (status, number(&end, "fetched_files")),
        (Some(0), 2),
        "{end}"
    );
    expect_content(&world.mount.join("file"), content(10, 4000));
    expect_content(&world.mount.join("large"), content(11, 5 * MIB));
}

/// Two thirds of a cache are read before; what is warmed up has to take their place.
#[test]
fn what_is_warmed_up_takes_the_place_of_the_rest_and_never_of_itself() {
    for policy in ["s3fifo", "lru"] {
        let files = many(84);
        let eviction = format!("eviction={policy}");
        let world = World::new("warm-full", &["cache_size=64M", &eviction], &named(&files));
        let read_all = world.mount.path().to_owned();
        let before = named(&files[..40])
            .into_iter()
            .map(|(name, _)| name.to_owned());
        let before: Vec<String> = before.collect();
        with_time_limit(&world.scratch, LIMIT, move || {
            for name in before.iter().chain(&before) {
                fs::read(read_all.join(name)).unwrap();
            }
        });
        // 44 MiB beside the 40 that are there.
        let list = world.scratch.path().join("list");
        let lines = files[40..].iter().map(|(name, _)| format!("{name}\n"));
        fs::write(&list, lines.collect::<String>()).unwrap();
        let arguments = ["warm", "--json", "--list"].map(OsStr::new);
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .arg(&list)
            .current_dir(world.mount.path());
        let output = support::process::run(command, LIMIT);
        assert_eq!(output.status.code(), Some(0), "{policy}: {output:?}");
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .arg(&list)
            .arg("--check")
            .current_dir(world.mount.path());
        let output = support::process::run(command, LIMIT);
        assert_eq!(output.status.code(), Some(0), "{policy}: {output:?}");
    }
}

#[test]
fn a_tree_larger_than_the_cache_is_told_of_and_what_does_not_fit_is_left_out() {
    let files = many(96);
    let world = World::new("warm-large", &["cache_size=64M"], &named(&files));
    let output = world.warm(&["--json"]);
    assert_eq!(output.status.code(), Some(NOT_ALL));
    let end = last_line(&output);
    // Where all was seen before it began, as long as the machine is not too busy for that.
    let was_seen = end.get("total_bytes").is_some();
    let was_told = told(&output).contains("the rest will be left out");
    assert_eq!(was_told, was_seen, "{output:?}");
    let fetched = number(&end, "fetched_files");
    assert_eq!(fetched + number(&end, "left_files"), 96, "{end}");
    assert_eq!(number(&end, "failed_files"), 0, "{end}");
    assert!(fetched >= 40, "{end}");
    // All that was fetched stayed.
    let (_, check) = world.checked();
    assert_eq!(number(&check, "cached_files"), fetched, "{check}");
    assert!(world.mount.status_number("cache.bytes_used") <= 64 * MIB);
    let reasons = String::from_utf8_lossy(&output.stdout)
        .matches("no room")
        .count();
    assert_eq!(reasons as u64, 96 - fetched);
}

#[test]
fn nobody_warms_up_what_they_may_not_read() {
    let world = World::new(
        "warm-rights",
        &[],
        &[("open", 5000), ("secret", 5000), ("closed/in", 5000)],
    );
    for (path, mode) in [("secret", 0o600), ("closed", 0o700)] {
        let path = world.backend.plain.join(path);
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    for path in [world.scratch.path(), &world.backend.plain] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program_for_all(&world.scratch));
    command
        .arg("warm")
        .arg(world.mount.path())
        .uid(USER)
        .gid(USER);
    let output = support::process::run(command, LIMIT);
    assert_eq!(output.status.code(), Some(NOT_ALL), "{output:?}");
    assert_eq!(
        told(&output).matches("Permission denied").count(),
        2,
        "{output:?}"
    );
    let (_, end) = world.checked();
    assert_eq!(
        (number(&end, "cached_files"), number(&end, "left_files")),
        (1, 2)
    );
}

#[test]
fn paths_that_lead_nowhere_are_named_and_the_others_are_warmed_up() {
    let world = World::new("warm-paths", &[], TREE);
    let list = world.scratch.path().join("list");
    let outside = world.scratch.directory("outside");
    fs::write(outside.join("file"), "x").unwrap();
    symlink(world.mount.join("a/b"), outside.join("link")).unwrap();
    let mut file = fs::File::create(&list).unwrap();
    let lines: [&[u8]; 6] = [
        b"a/small",
        b"",
        b"absent",
        b"line\nbreak",
        outside.as_os_str().as_bytes(),
        b"-dash",
    ];
    for line in lines {
        file.write_all(line).unwrap();
        file.write_all(b"\0").unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command
        .args(["warm", "-0", "--jobs", "2", "--list"])
        .arg(&list);
    command.args([
        outside.join("link"),
        outside.join("file"),
        PathBuf::from("/dev/null"),
    ]);
    command.current_dir(world.mount.path());
    let output = support::process::run(command, LIMIT);
    assert_eq!(output.status.code(), Some(NOT_ALL), "{output:?}");
    for (path, reason) in [
        ("absent", "No such file"),
        ("outside", "not below a mount"),
        ("outside/file", "not below a mount"),
        ("/dev/null", "neither a file nor a directory"),
    ] {
        let is_named = |line: &str| line.contains(&format!("{path}: ")) && line.contains(reason);
        assert!(told(&output).lines().any(is_named), "{path}: {output:?}");
    }
    let (_, end) = world.checked();
    assert_eq!(number(&end, "cached_files"), 5, "{end}");
    let mut unreadable = Command::new(PROGRAM);
    unreadable.args(["warm", "--list"]).arg(&outside);
    let output = support::process::run(unreadable, LIMIT);
    assert_eq!(output.status.code(), Some(NOT_ALL), "{output:?}");
    assert_eq!(told(&output).matches("Is a directory").count(), 1);
    for arguments in [
        &["warm"][..],
        &["warm", "--list", "/no/such/list"],
        &["warm", "--jobs", "0", "/"],
    ] {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        assert_eq!(run(Path::new(PROGRAM), &arguments).status.code(), Some(1));
    }
}

#[test]
fn with_the_server_away_what_is_whole_counts_and_the_rest_fails_in_time() {
    let world = World::new(
        "warm-away",
        &["actimeo=1", "backend_timeout=3s"],
        &[("there/f", 70_000), ("missing/f", 70_000)],
    );
    let there = world.mount.join("there");
    let output = run(Path::new(PROGRAM), &["warm".as_ref(), there.as_ref()]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(world.checked().0, Some(NOT_ALL));
    world.backend.stop();
    let began = Instant::now();
    let (status, end) = world.warm_json(&[]);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    world.backend.resume();
    assert_eq!(status, Some(NOT_ALL));
    assert_eq!(
        (number(&end, "cached_files"), number(&end, "failed_files")),
        (1, 1),
        "{end}"
    );
}

#[test]
fn a_server_that_is_away_for_a_moment_ends_no_warm_up() {
    // More than are there before it is stopped.
    let files = many(400);
    let options = ["revalidate_timeout=300ms", "backend_timeout=30s"];
    let world = World::new("warm-pause", &options, &named(&files));
    world.backend.set_network(Network {
        latency_us: 50_000,
        bandwidth_bytes_per_s: None,
    });
    let mut command = Command::new(PROGRAM);
    command.arg("warm").arg(world.mount.path());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = support::process::spawn(command).unwrap();
    wait_until(LIMIT, "a part to be noted", || {
        world.mount.status_number("cache.files") >= 5
    });
    world.backend.stop();
    wait_until(LIMIT, "the backend to be away", || {
        world.mount.status()["backend"]["reachable"] == false
    });
    world.backend.resume();
    let ended = support::process::wait_for(&mut child, LIMIT).expect("it goes on");
    assert_eq!(ended.code(), Some(0));
    assert_eq!(world.checked().0, Some(0));
}

/// One reader on a link that a warm-up has filled.
#[test]
fn a_reader_goes_before_a_warm_up() {
    let mut files = many(30);
    files.push(("read".to_owned(), 2 * MIB));
    let world = World::new("warm-demand", &[], &named(&files));
    world.backend.set_network(Network {
        latency_us: 1000,
        bandwidth_bytes_per_s: Some(4 << 20),
    });
    let mut warming = Command::new(PROGRAM);
    warming.arg("warm").stdout(Stdio::null());
    warming.args((0..7).map(|part| world.mount.join(format!("d{part}"))));
    let mut child = support::process::spawn(warming).unwrap();
    wait_until(LIMIT, "the link to be full", || {
        world.backend.counters().bytes_read >= 2 * MIB
    });
    let path = world.mount.join("read");
    let took = with_time_limit(&world.scratch, LIMIT, move || {
        let began = Instant::now();
        expect_content(&path, content(30, 2 * MIB));
        began.elapsed()
    });
    // Half a second by itself, 8 s behind the rest of the warm-up.
    assert!(took < Duration::from_secs(5), "{took:?}");
    child.kill().unwrap();
    assert!(support::process::wait_for(&mut child, LIMIT).is_some());
}

/// A small one; with CACHEFS_LONG this repository, with what it depends on.
fn copy_project(to: &Path) {
    if long_run() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in [
            "Cargo.toml",
            "Cargo.lock",
            "src",
            "mount-helper",
            "tests",
            "benches",
        ] {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(own.join(part)).arg(to);
            assert!(support::process::run(copy, LIMIT).status.success());
        }
        return;
    }
    let manifest = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    let lock = "version = 4\n\n[[package]]\nname = \"small\"\nversion = \"0.1.0\"\n";
    fs::create_dir(to.join("src")).unwrap();
    for (name, text) in [
        ("Cargo.toml", manifest),
        ("Cargo.lock", lock),
        (
            "src/main.rs",
            "mod other;\nfn main() { println!(\"{}\", other::told()); }\n",
        ),
        (
            "src/other.rs",
            "pub fn told() -> &'static str { include_str!(\"told\") }\n",
        ),
        ("src/told", "built"),
    ] {
        fs::write(to.join(name), text).unwrap();
    }
}

#[test]
fn a_warmed_project_is_built_with_its_server_stopped() {
    let world = World::new("warm-build", &["actimeo=1", "locks=local"], &[]);
    copy_project(&world.backend.plain);
    assert_eq!(world.warm(&[]).status.code(), Some(0));
    world.backend.stop();
    let mut build = Command::new("cargo");
    build.args([
        "build",
        "--offline",
        "--locked",
        "--bins",
        "--manifest-path",
    ]);
    build.arg(world.mount.join("Cargo.toml"));
    build.env("CARGO_TARGET_DIR", world.scratch.path().join("target"));
    let limit = sample_or_full(LIMIT, Duration::from_secs(1800));
    let output = support::process::run(build, limit);
    world.backend.resume();
    assert!(output.status.success(), "{}", told(&output));
}
