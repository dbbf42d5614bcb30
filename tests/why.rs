//! What `why` tells of a file, and `list` of the machine's mounts.

mod support;

use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::content::expect_content;
use support::mount::PROGRAM;
use support::*;

const LIMIT: Duration = Duration::from_secs(20);

fn content() -> Content {
    Content::new(7, 1, 3 << 20)
}

fn mounted(test: &str, options: &[&str]) -> (Mount, PathBuf, Scratch) {
    let scratch = Scratch::new(test);
    let backend = scratch.directory("plain");
    content().create(&backend.join("file")).unwrap();
    fs::write(backend.join("small"), "a few bytes").unwrap();
    let mut all = MountOptions::new(&scratch).with("cache_size=64M");
    for option in options {
        all = all.with(option);
    }
    let mount = Mount::start(&scratch, &backend, all);
    wait_until(LIMIT, "the daemon to answer", || {
        mount.command("status", &[], LIMIT).status.success()
    });
    (mount, backend, scratch)
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    support::process::run(command, LIMIT)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn words(path: &Path) -> String {
    let output = run(&["why", text(path)]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(path: &Path) -> Value {
    let output = run(&["why", text(path), "--json"]);
    assert!(output.status.success(), "{output:?}");
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    answers[0].clone()
}

fn expect(told: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(told.contains(wanted), "{wanted} in\n{told}");
    }
}

#[test]
fn a_file_is_followed_from_its_first_read_to_its_eviction_and_back() {
    let (mount, backend, _scratch) = mounted("why-file", &["direct_io", "readahead=0"]);
    let path = mount.join("file");
    expect(
        &words(&path),
        &[
            "cached     nothing",
            "not all of it is cached",
            "none that is remembered",
        ],
    );
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.read_exact(&mut [0; 4096]).unwrap();
    let told = json(&path);
    let cached = told["cached_bytes"].as_u64().unwrap();
    assert!((4096..3 << 20).contains(&cached), "{told}");
    assert_eq!(told["last_miss"]["offset"], 1 << 20);
    expect(
        &words(&path),
        &[
            "in 1 ranges",
            "open now   through the daemon",
            "1 handles",
            "not been fetched before",
        ],
    );
    drop(file);
    expect_content(&path, content());
    expect(
        &words(&path),
        &[
            "all of it, 3.0 MiB",
            "what the backend has now",
            "direct_io sends",
        ],
    );
    assert_eq!(json(&path)["extents"], serde_json::json!([[0, 3 << 20]]));
    wait_until(LIMIT, "the file to be let go of", || {
        run(&["evict", text(mount.path()), "file"]).status.success()
            && json(&path)["cached_bytes"] == 0
    });
    expect(&words(&path), &["nothing: it was evicted"]);
    expect_content(&path, content());
    assert_eq!(json(&path)["last_miss"]["reason"], "it was evicted");
    Content::new(8, 2, 1 << 20)
        .create(&backend.join("other"))
        .unwrap();
    fs::rename(backend.join("other"), backend.join("file")).unwrap();
    expect(&words(&path), &["cached     nothing"]);
    fs::write(backend.join("small"), "before").unwrap();
    fs::read(mount.join("small")).unwrap();
    fs::write(backend.join("small"), "after that").unwrap();
    assert_eq!(json(&mount.join("small"))["is_current"], false);
    expect(&words(&mount.join("small")), &["of another version"]);
    assert_eq!(fs::read(mount.join("small")).unwrap(), b"after that");
    expect(
        &words(&mount.join("small")),
        &["the file changed", "no larger than small_file_size"],
    );
}

#[test]
fn how_a_file_is_opened_and_kept_is_told_with_the_reason() {
    let (mount, _, _scratch) = mounted("why-open", &["checksum=scrub"]);
    let path = mount.join("file");
    expect_content(&path, content());
    let is_on = mount.status()["fuse"]["passthrough"] == "on";
    let held = File::open(&path).unwrap();
    let told = json(&path);
    assert_eq!(told["next_open"] == "passthrough", is_on, "{told}");
    assert_eq!(told["open"][0]["read_by"] == "passthrough", is_on, "{told}");
    drop(held);
    let writer = File::options().append(true).open(&path).unwrap();
    expect(
        &words(&path),
        &["through the daemon", "1 for writing", "open for writing"],
    );
    drop(writer);
    assert!(run(&["pin", text(&path)]).status.success());
    expect(&words(&path), &["pinned by file"]);
    assert!(
        run(&["scrub", text(mount.path()), "--wait"])
            .status
            .success()
    );
    expect_content(&path, content());
    wait_until(LIMIT, "the blocks to have checksums", || {
        run(&["scrub", text(mount.path()), "--wait"]);
        json(&path)["summed_blocks"] == 768
    });
    expect(&words(&path), &["768 of 768 blocks have a checksum"]);
    fs::create_dir(mount.join("directory")).unwrap();
    expect(
        &words(&mount.join("directory")),
        &["is a directory: only files are cached"],
    );
    for wrong in [mount.join("absent"), PathBuf::from("/proc/self/status")] {
        assert_eq!(run(&["why", text(&wrong)]).status.code(), Some(2));
    }
}

#[test]
fn with_the_backend_away_it_tells_what_is_known() {
    let scratch = Scratch::new("why-away");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    content().create(&backend.plain.join("file")).unwrap();
    let options = MountOptions::new(&scratch)
        .with("revalidate_timeout=200ms")
        .with("backend_timeout=2s");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    expect_content(&mount.join("file"), content());
    backend.stop();
    wait_until(LIMIT, "the backend to be away", || {
        let _ = fs::metadata(mount.join("absent"));
        mount.status()["backend"]["state"] == "away"
    });
    expect(
        &words(&mount.join("file")),
        &["all of it", "this is what was known last"],
    );
}

#[test]
fn what_the_backend_does_not_have_yet_is_told() {
    let place = support::written_back::Place::late("why-dirty");
    let path = place.here("file");
    fs::write(&path, "some bytes").unwrap();
    expect(
        &words(&path),
        &[
            "10 B not on the backend yet",
            "waiting",
            "as programs here left it",
        ],
    );
    let absent = place.here("absent");
    let output = run(&["why", text(&absent), text(&path)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("absent: "));
    expect(&String::from_utf8_lossy(&output.stdout), &["10 B not"]);
    let output = run(&["status", text(&path)]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    expect(
        &told,
        &[&format!("which is {}", place.mount.path().display())],
    );
    assert!(place.command("flush", &path, &["--wait"]).status.success());
    expect(&words(&path), &["none wait here (write_mode=back)"]);
}

#[test]
fn the_doctor_names_what_is_wrong_and_what_to_do() {
    let scratch = Scratch::new("doctor");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    content().create(&backend.plain.join("file")).unwrap();
    let options = MountOptions::new(&scratch)
        .with("revalidate_timeout=200ms")
        .with("backend_timeout=2s")
        .with("scrub_rate=1M");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let doctor = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("doctor").arg(mount.path()).args(arguments);
        support::process::run(command, 3 * LIMIT)
    };
    let output = doctor(&[]);
    let told = String::from_utf8(output.stdout).unwrap();
    expect(
        &told,
        &["scrub_rate=1M has no effect", "leave it out (command line)"],
    );
    for noise in ["does not answer", "keep_written", "nothing has to be done"] {
        assert!(!told.contains(noise), "{noise} in {told}");
    }
    backend.stop();
    wait_until(LIMIT, "the backend to be away", || {
        let _ = fs::metadata(mount.join("absent"));
        mount.status()["backend"]["state"] == "away"
    });
    let output = doctor(&["--json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let advice: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(advice[0]["urgency"], "wrong");
    expect(advice[0]["found"].as_str().unwrap(), &["does not answer"]);
    backend.resume();
}

#[test]
fn all_mounts_are_listed_and_dead_ones_are_called_dead() {
    let (mut mount, backend, _scratch) = mounted("list", &["name=models"]);
    let line = || {
        let output = run(&["list"]);
        let told = String::from_utf8(output.stdout).unwrap();
        let mut lines = told.lines().map(str::to_owned);
        lines.find(|line| line.starts_with(&format!("{}", mount.path().display())))
    };
    let told = line().expect("it is listed");
    expect(
        &told,
        &["(models): serving", text(&backend), "of 64.0 MiB used"],
    );
    let output = run(&["list", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = listed.as_array().unwrap().iter();
    let mut ours = ours.filter(|one| one["mountpoint"] == text(mount.path()));
    assert_eq!(ours.next().unwrap()["pid"], mount.pid());
    let _ = line;
    let dead = mount.kill_stuck();
    let output = run(&["list"]);
    let told = String::from_utf8(output.stdout).unwrap();
    expect(
        &told,
        &[&format!(
            "{}: dead; `nfs-cachefs umount",
            mount.path().display()
        )],
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(run(&["umount", text(mount.path())]).status.success());
    drop(dead);
    let told = run(&["list"]).stdout;
    let gone = String::from_utf8(told).unwrap();
    assert!(!gone.contains(text(mount.path())), "{gone}");
}
