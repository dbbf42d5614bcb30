//! Pins: names whose files stay in the cache.

mod support;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use support::content::expect_content;
use support::mount::PROGRAM;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

struct World {
    // In this order: the mount goes before its backend, the directory last.
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

fn content(file: u64) -> Content {
    Content::new(700 + file, 1, MIB)
}

fn run(arguments: &[&OsStr]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    support::process::run(command, LIMIT)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl World {
    /// A directory `pinned` with some files, and one `others` with twice as much as the cache can hold.
    fn new(test: &str, pinned: u64, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        for (directory, files) in [("pinned/sub", pinned), ("others", 128)] {
            let directory = backend.plain.join(directory);
            fs::create_dir_all(&directory).unwrap();
            for file in 0..files {
                let path = directory.join(format!("f{file}"));
                content(file).create(&path).unwrap();
            }
        }
        let mut all = MountOptions::new(&scratch)
            .with("cache_size=64M")
            .with("actimeo=1");
        for option in options {
            all = all.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, all);
        Self {
            mount,
            backend,
            scratch,
        }
    }

    fn on(&self, verb: &str, path: &str) -> Output {
        run(&[verb.as_ref(), self.mount.join(path).as_ref()])
    }

    fn pin(&self, path: &str) {
        let output = self.on("pin", path);
        assert!(output.status.success(), "{}", told(&output));
    }

    fn is_cached(&self, path: &str) -> bool {
        run(&[
            "warm".as_ref(),
            "--check".as_ref(),
            self.mount.join(path).as_ref(),
        ])
        .status
        .success()
    }

    fn wait_for_pinned(&self, files: u64) {
        wait_until(LIMIT, "so many files to be pinned", || {
            self.mount.status_number("pins.files") == files
        });
    }

    fn scan(&self) {
        let root = self.mount.join("others");
        with_time_limit(&self.scratch, LIMIT, move || {
            for file in 0..128 {
                expect_content(&root.join(format!("f{file}")), content(file));
            }
        });
    }

    fn listed(&self) -> Value {
        let output = run(&[
            "pin".as_ref(),
            "--json".as_ref(),
            "--list".as_ref(),
            self.mount.path().as_ref(),
        ]);
        assert!(output.status.success(), "{}", told(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn what_is_pinned_outlives_scans_and_a_killed_daemon() {
    let mut world = World::new("pins-kept", 24, &[]);
    world.pin("pinned");
    world.wait_for_pinned(24);
    assert!(world.is_cached("pinned"));
    for _ in 0..2 {
        world.scan();
        assert!(world.is_cached("pinned"));
        assert!(world.mount.status_number("cache.bytes_used") <= 64 * MIB);
        world.mount.kill9();
        world.mount.remount();
    }
    world.backend.reset_counters();
    assert!(world.is_cached("pinned"));
    wait_until(LIMIT, "the pins to be looked through", || {
        world.listed()[0]["files"] == 24
    });
    let pin = &world.listed()[0];
    assert_eq!(
        (&pin["path"], &pin["missing_files"]),
        (&"pinned".into(), &0.into()),
        "{pin}"
    );
    assert_eq!(world.backend.counters().bytes_read, 0);
    assert_eq!(world.mount.status_number("pins.bytes"), 24 * MIB);
    let output = run(&["status".as_ref(), world.mount.path().as_ref()]);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(words.contains("1 paths, 24 files in the cache"), "{words}");
}

#[test]
fn pins_of_a_daemon_killed_while_it_fetched_are_fetched_by_the_next() {
    let mut world = World::new("pins-killed", 24, &[]);
    world.backend.set_network(Network {
        latency_us: 1000,
        bandwidth_bytes_per_s: Some(10 << 20),
    });
    world.pin("pinned");
    wait_until(LIMIT, "a part to be fetched", || {
        world.backend.counters().bytes_read >= 6 * MIB
    });
    world.mount.kill9();
    world.backend.set_network(Network::default());
    world.mount.remount();
    world.wait_for_pinned(24);
    assert!(world.is_cached("pinned"));
}

#[test]
fn a_pinned_tree_is_looked_through_for_what_changed_is_new_or_gone() {
    let world = World::new("pins-pass", 6, &["pin_interval=1s"]);
    world.pin("pinned");
    world.wait_for_pinned(6);
    let plain = world.backend.plain.join("pinned");
    let changed = Content::new(799, 2, 2 * MIB);
    changed.replace(&plain.join("sub/f0")).unwrap();
    content(50).create(&plain.join("new")).unwrap();
    fs::remove_file(plain.join("sub/f1")).unwrap();
    fs::remove_file(plain.join("sub/f2")).unwrap();
    wait_until(LIMIT, "the changes to be seen", || {
        let pin = &world.listed()[0];
        pin["files"] == 5 && pin["missing_files"] == 0
    });
    wait_until(LIMIT, "what is gone to be let go of", || {
        world.mount.status_number("pins.bytes") == 6 * MIB
    });
    assert_eq!(world.mount.status_number("pins.files"), 5);
    // Whom the backend has let in before is let in without it.
    assert!(world.is_cached("pinned"));
    world.backend.stop();
    let pinned = world.mount.join("pinned");
    with_time_limit(&world.scratch, LIMIT, move || {
        expect_content(&pinned.join("sub/f0"), changed);
        expect_content(&pinned.join("new"), content(50));
    });
    world.backend.resume();
}

#[test]
fn a_file_of_a_pinned_tree_is_fetched_when_it_is_met() {
    let world = World::new("pins-met", 3, &["pin_interval=24h"]);
    world.pin("pinned");
    world.wait_for_pinned(3);
    let plain = world.backend.plain.join("pinned");
    content(60).create(&plain.join("seen")).unwrap();
    Content::new(61, 2, MIB + 5)
        .replace(&plain.join("sub/f1"))
        .unwrap();
    // The attributes are asked for, and nothing is opened.
    wait_until(LIMIT, "both to be pinned in their new version", || {
        let seen = fs::metadata(world.mount.join("pinned/seen")).is_ok();
        let size = fs::metadata(world.mount.join("pinned/sub/f1"))
            .unwrap()
            .len();
        seen && size == MIB + 5 && world.is_cached("pinned")
    });
    // The file that was replaced is let go of by the next look.
    world.wait_for_pinned(5);
}

#[test]
fn evicting_what_is_pinned_says_so_and_unpinning_lets_it_go() {
    let world = World::new("pins-evict", 8, &[]);
    world.pin("pinned");
    world.wait_for_pinned(8);
    for arguments in [&["pinned"][..], &[]] {
        let output = world.mount.command("evict", arguments, LIMIT);
        assert_eq!(output.status.code(), Some(3));
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(words.contains("8 pinned files left"), "{words}");
    }
    assert!(world.is_cached("pinned"));
    let output = world.on("unpin", "pinned/sub");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told(&output).contains("by pinned above it"),
        "{}",
        told(&output)
    );
    assert!(world.on("unpin", "pinned").status.success());
    world.wait_for_pinned(0);
    assert_eq!(world.listed().as_array().unwrap().len(), 0);
    world.scan();
    assert!(!world.is_cached("pinned"));
    wait_until(LIMIT, "all to be evicted", || {
        world.mount.command("evict", &[], LIMIT).status.success()
    });
}

#[test]
fn a_pin_without_room_or_sense_is_refused_and_changes_nothing() {
    let world = World::new("pins-refused", 4, &[]);
    world.pin("pinned/sub");
    world.wait_for_pinned(4);
    let outside = world.scratch.directory("outside");
    for (path, reason) in [
        (world.mount.join("others"), "would be, and the cache keeps"),
        (
            world.mount.path().to_owned(),
            "would be, and the cache keeps",
        ),
        (world.mount.join("absent"), "absent: No such file"),
        (outside.clone(), "not below a mount"),
        (outside.join("no/such"), "No such file"),
    ] {
        let output = run(&["pin".as_ref(), path.as_ref()]);
        assert_eq!(output.status.code(), Some(2), "{}", path.display());
        assert!(told(&output).contains(reason), "{}", told(&output));
    }
    assert_eq!(world.listed().as_array().unwrap().len(), 1);
    assert_eq!(world.on("unpin", "others").status.code(), Some(2));
    assert_eq!(run(&["pin".as_ref()]).status.code(), Some(1));
    // A file alone can be pinned, twice over, and by a relative path.
    let mut command = Command::new(PROGRAM);
    command
        .args(["pin", "others/f7", "pinned/../others/f7"])
        .current_dir(world.mount.path());
    let output = support::process::run(command, LIMIT);
    assert!(output.status.success(), "{}", told(&output));
    world.wait_for_pinned(5);
    let output = run(&["pin".as_ref(), "--list".as_ref(), Path::new("/").as_ref()]);
    assert_eq!(output.status.code(), Some(2));
}

/// What is there may not go before the pins are looked through, which waits for a server that is away.
#[test]
fn a_pin_holds_from_the_moment_it_is_told_with_and_without_the_server() {
    let options = ["backend_timeout=2s", "revalidate_timeout=500ms"];
    let world = World::new("pins-at-once", 12, &options);
    let warmed = world.on("warm", "pinned");
    assert!(warmed.status.success(), "{}", told(&warmed));
    let expect_kept = || {
        world.pin("pinned");
        let output = world.mount.command("evict", &[], LIMIT);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(words.contains("12 pinned files left"), "{words}");
        assert!(world.on("unpin", "pinned").status.success());
    };
    expect_kept();
    world.wait_for_pinned(0);
    world.backend.stop();
    wait_until(LIMIT, "the server to be away", || {
        let _ = fs::metadata(world.mount.join("pinned"));
        world.mount.status()["backend"]["reachable"] == false
    });
    expect_kept();
    world.backend.resume();
}

#[test]
fn a_directory_far_away_is_pinned_however_long_its_names_take() {
    let world = World::new("pins-far", 44, &["backend_timeout=2s"]);
    world.backend.set_network(Network {
        latency_us: 25_000,
        bandwidth_bytes_per_s: None,
    });
    world.pin("pinned");
    assert_eq!(world.mount.status_number("backend.timeouts"), 0);
}

#[test]
fn a_cache_with_more_than_it_may_hold_comes_down_when_it_is_unpinned() {
    let mut world = World::new("pins-less", 48, &[]);
    world.pin("pinned");
    world.wait_for_pinned(48);
    world.mount.umount();
    *world.mount.options_mut() = MountOptions::new(&world.scratch).with("cache_size=16M");
    world.mount.remount();
    assert!(world.mount.status_number("cache.bytes_used") >= 48 * MIB);
    assert!(world.on("unpin", "pinned").status.success());
    wait_until(LIMIT, "the cache to be within its limit", || {
        world.mount.status_number("cache.bytes_used") <= 16 * MIB
    });
}
