//! What `warm`, `pin` and `unpin` say of what they were asked for, with odd names, and with the server away.

mod support;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::mount::PROGRAM;
use support::written_back::Place;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
/// Far longer than anything here may take.
const BACKEND_TIMEOUT: &str = "backend_timeout=60s";
/// Whoever waits for an absent server waits longer.
const WITHOUT_THE_SERVER: Duration = Duration::from_secs(20);
/// What the shell tells of a command that SIGPIPE has ended.
const ENDED_UNREAD: i32 = 128 + 13;
const ACL: &str = "system.posix_acl_access";

struct World {
    // In this order: the mount goes before its backend, the directory last.
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

impl World {
    /// A server with these files, `size` bytes each.
    fn new(test: &str, size_bytes: u64, files: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        for (number, name) in (0..).zip(files) {
            let path = backend.plain.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let content = Content::new(1300 + number, 1, size_bytes);
            content.create(&path).unwrap();
        }
        let options = MountOptions::new(&scratch)
            .with("cache_size=100M")
            .with("actimeo=1")
            .with("revalidate_timeout=500ms")
            .with(BACKEND_TIMEOUT);
        let mount = Mount::start(&scratch, &backend.mountpoint, options);
        Self {
            mount,
            backend,
            scratch,
        }
    }

    /// `nfs-cachefs VERB OPTION... PATH`, of a path below the mount.
    fn run(&self, verb: &[&str], path: &str) -> Output {
        let path = match path {
            "" => self.mount.path().to_owned(),
            below => self.mount.join(below),
        };
        let mut command = Command::new(PROGRAM);
        command.args(verb).arg(path);
        support::process::run(command, LIMIT)
    }

    fn succeed(&self, verb: &[&str], path: &str) -> String {
        let output = self.run(verb, path);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    }

    fn pins(&self) -> Value {
        serde_json::from_str(&self.succeed(&["pin", "--list", "--json"], "")).unwrap()
    }

    fn stop_server(&self) {
        self.backend.stop();
        // Somebody has to ask it for something.
        let unknown = self.mount.join("never asked for");
        std::thread::spawn(move || fs::metadata(unknown));
        wait_until(LIMIT, "the backend to be away", || {
            self.mount.status()["backend"]["reachable"] == false
        });
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn end_of(output: &Output) -> Value {
    let told = text(&output.stdout);
    serde_json::from_str(told.lines().last().unwrap()).unwrap()
}

#[test]
fn pins_are_changed_and_told_of_while_the_server_is_away() {
    let mut world = World::new("telling-pins-away", 5000, &["a/x", "a/y", "b/z", "c/w"]);
    world.succeed(&["warm"], "");
    world.succeed(&["pin"], "a");
    wait_until(LIMIT, "the tree to be pinned", || {
        world.mount.status_number("pins.files") == 2
    });
    world.stop_server();
    let began = Instant::now();
    assert!(world.succeed(&["pin"], "b").contains("b: 1 files"));
    world.succeed(&["pin"], "c");
    world.succeed(&["unpin"], "c");
    assert!(
        began.elapsed() < WITHOUT_THE_SERVER,
        "{:?}",
        began.elapsed()
    );
    wait_until(LIMIT, "what is known to be kept", || {
        world.mount.status_number("names.waiting") == 0
            && world.mount.status_number("cache.files") == 4
    });
    world.mount.kill9_beside(&world.backend);
    world.mount.remount();
    let began = Instant::now();
    wait_until(WITHOUT_THE_SERVER, "the pins to be told of", || {
        let pins = world.pins();
        let of = |pin: usize| (pins[pin]["path"].clone(), pins[pin]["files"].clone());
        of(0) == ("a".into(), 2.into()) && of(1) == ("b".into(), 1.into())
    });
    let pins = world.pins();
    assert_eq!(pins.as_array().unwrap().len(), 2, "{pins}");
    assert_eq!(pins[0]["missing_files"], 0, "{pins}");
    let trouble = pins[0]["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains("as it was last known"), "{pins}");
    world.succeed(&["unpin"], "a");
    assert!(
        began.elapsed() < WITHOUT_THE_SERVER,
        "{:?}",
        began.elapsed()
    );
    world.backend.resume();
    wait_until(LIMIT, "the pins to be looked through", || {
        world.pins()[0].get("trouble").is_none()
    });
}

#[test]
fn a_daemon_that_does_not_answer_keeps_no_command_waiting() {
    let world = World::new("telling-hung", 100, &["file"]);
    let pid = world.mount.pid();
    // It listens by then.
    world.mount.status();
    support::process::stop(pid);
    let verbs: [&[&str]; 8] = [
        &["flush", "--wait"],
        &["evict"],
        &["why"],
        &["warm", "--check"],
        &["top", "--iterations", "1"],
        &["trace"],
        &["conflicts"],
        &["pin"],
    ];
    std::thread::scope(|scope| {
        for verb in verbs {
            let world = &world;
            scope.spawn(move || {
                let output = world.run(verb, "");
                assert_eq!(output.status.code(), Some(2), "{verb:?}: {output:?}");
                let message = text(&output.stderr);
                let told = message.contains("the daemon does not answer");
                assert!(told, "{verb:?}: {message}");
            });
        }
    });
    support::process::resume(pid);
}

#[test]
fn a_pin_is_told_of_in_a_line_whatever_its_name() {
    let world = World::new("telling-names", 100, &["line\nbreak", "\u{1b}[31mred"]);
    let told = world.succeed(&["pin"], "line\nbreak");
    assert_eq!(told.lines().count(), 1, "{told:?}");
    let output = world.run(&["unpin"], "");
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(
        message.contains("the root of the mount: not pinned"),
        "{message}"
    );
    let told = world.succeed(&["pin"], "");
    let mountpoint = world.mount.path().display().to_string();
    assert!(
        told.starts_with(&format!("{mountpoint}: 2 files")),
        "{told}"
    );
    world.succeed(&["pin"], "\u{1b}[31mred");
    let listed = world.succeed(&["pin", "--list"], "");
    assert_eq!(listed.lines().count(), 3, "{listed:?}");
    assert!(!listed.contains('\u{1b}') && listed.contains("line\\nbreak"));
    assert_eq!(world.pins().as_array().unwrap().len(), 3);
    world.succeed(&["unpin"], "line\nbreak");
    let message = text(&world.run(&["unpin"], "line\nbreak").stderr);
    assert!(message.contains("by the root of the mount above it"));
}

/// What it says forges a line, and turns what is beside it.
const FORGED: &str = "x\nb: changed by somebody else\u{202e}\u{2066}";

#[test]
fn a_name_begins_no_line_and_turns_no_text() {
    let mut place = Place::new("telling-forged", &["writeback_delay=1h", "actimeo=0"]);
    let (clashing, refused) = (format!("clash{FORGED}"), format!("refused{FORGED}"));
    let rule = place.rule(Operation::Write, "refused*", Action::Errno(libc::EACCES));
    fs::write(place.there(&clashing), vec![1; 70_000]).unwrap();
    fs::write(place.here(&clashing), vec![2; 60_000]).unwrap();
    fs::write(place.there(&clashing), "theirs, later").unwrap();
    fs::write(place.here(&refused), vec![3; 50_000]).unwrap();
    let (root, refused) = (place.mount.path(), place.here(&refused));
    for (verb, path, arguments) in [
        ("flush", root, &["--wait"][..]),
        ("status", root, &[]),
        ("conflicts", root, &[]),
        ("why", &refused, &[]),
        ("umount", root, &[]),
    ] {
        let output = place.command(verb, path, arguments);
        let told = text(&[output.stdout, output.stderr].concat());
        assert!(told.contains("x\\nb: changed by"), "{verb}: {told:?}");
        assert!(!told.contains("\nb: "), "{verb}: {told:?}");
        assert!(!told.contains(['\u{202e}', '\u{2066}']), "{verb}: {told:?}");
    }
    place.backend.remove_rule(rule);
    place.mount.umount();
}

#[test]
fn what_can_be_no_part_of_the_cache_is_not_pinned() {
    let world = World::new("telling-fifo", 100, &["dir/file"]);
    let fifo = world.backend.plain.join("dir/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let output = world.run(&["pin"], "dir/fifo");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("neither a file nor a directory"));
    assert_eq!(world.pins(), Value::Array(Vec::new()));
    // Beside files it is passed over.
    assert!(world.succeed(&["pin"], "dir").contains("dir: 1 files"));
}

#[test]
fn sizes_are_told_in_units_that_people_read() {
    let names: Vec<String> = (0..20).map(|file| format!("f{file}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::new("telling-sizes", 5 << 20, &names);
    let refused = world.run(&["pin"], "");
    let message = text(&refused.stderr);
    assert!(
        message.contains("100.0 MiB would be, and the cache keeps 75.0 MiB"),
        "{message}"
    );
}

#[test]
fn a_command_whose_reader_went_away_ends_quietly() {
    let world = World::new("telling-pipe", 100, &["a/f"]);
    let mount = world.mount.path();
    let commands: [&[&OsStr]; 6] = [
        &["options".as_ref()],
        &["status".as_ref(), mount.as_ref()],
        &["warm".as_ref(), mount.as_ref()],
        &["warm".as_ref(), "--json".as_ref(), mount.as_ref()],
        // Nothing but errors.
        &["warm".as_ref(), "/no/such/file".as_ref()],
        &["evict".as_ref(), mount.as_ref()],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(OwnedFd::from(writer.try_clone().unwrap()));
        command.stderr(OwnedFd::from(writer));
        let mut child = support::process::spawn(command).unwrap();
        let ended = support::process::wait_for(&mut child, LIMIT).unwrap();
        assert_eq!(ended.code(), Some(ENDED_UNREAD), "{arguments:?}");
    }
}

#[test]
fn a_check_without_the_server_says_what_is_not_known() {
    let world = World::new("telling-check", 5000, &["a/x", "a/y"]);
    world.succeed(&["warm"], "a");
    let output = world.run(&["warm", "--check"], "a");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    world.stop_server();
    let output = world.run(&["warm", "--check", "--json"], "a");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(end_of(&output)["tally"]["unconfirmed_files"], 2);
    let message = text(&output.stderr);
    assert!(message.contains("the server does not answer: 2 of the files"));
    world.backend.resume();
}

#[test]
fn each_file_counts_once_whatever_leads_to_it() {
    let world = World::new("telling-once", 5000, &["a/b/x", "a/y"]);
    let plain = &world.backend.plain;
    fs::hard_link(plain.join("a/y"), plain.join("a/second")).unwrap();
    symlink("a/y", plain.join("link")).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["warm", "--json"])
        .current_dir(world.mount.path());
    command.args(["a", "a/b", "a/b/../b/x", "link", "a/second", "a"]);
    let output = support::process::run(command, LIMIT);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let end = end_of(&output);
    let tally = |name: &str| end["tally"][name].as_u64().unwrap();
    assert_eq!(end["files"], 2, "{end}");
    assert_eq!(
        (tally("fetched_files"), tally("fetched_bytes")),
        (2, 10_000),
        "{end}"
    );
    // Each name is known all the same.
    world.stop_server();
    let root = world.mount.path().to_owned();
    with_time_limit(&world.scratch, LIMIT, move || {
        assert_eq!(fs::read(root.join("a/second")).unwrap().len(), 5000);
    });
    world.backend.resume();
}

/// user::rw-, user 1000: r--, group::r--, mask::r--, other::--- (acl(5), as the kernel stores it).
fn acl() -> Vec<u8> {
    let entry = |tag: u16, permissions: u16, id: u32| {
        let tag_and_permissions = [tag.to_le_bytes(), permissions.to_le_bytes()].concat();
        [tag_and_permissions, id.to_le_bytes().to_vec()].concat()
    };
    let none = u32::MAX;
    let entries = [
        entry(1, 6, none),
        entry(2, 4, USER),
        entry(4, 4, none),
        entry(16, 4, none),
        entry(32, 0, none),
    ];
    [2u32.to_le_bytes().to_vec(), entries.concat()].concat()
}

fn expect_long_listing(root: &Path) {
    let mut list = Command::new("ls");
    list.arg("-lR").arg(root);
    let output = support::process::run(list, LIMIT);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let attribute = |name: &str| {
        let mut value = [0; 256];
        rustix::fs::getxattr(root.join(name), ACL, &mut value[..])
            .map(|length| value[..length].to_vec())
    };
    assert_eq!(attribute("a/x"), Ok(acl()));
    for plain in ["a/y", "a"] {
        assert_eq!(attribute(plain), Err(rustix::io::Errno::NODATA), "{plain}");
    }
}

#[test]
fn a_warmed_tree_is_listed_with_its_attributes_while_the_server_is_away() {
    let mut world = World::new("telling-attributes", 300, &["a/x", "a/y"]);
    let shared = world.backend.plain.join("a/x");
    rustix::fs::setxattr(&shared, ACL, &acl(), rustix::fs::XattrFlags::empty()).unwrap();
    symlink("x", world.backend.plain.join("a/link")).unwrap();
    world.succeed(&["warm"], "");
    world.stop_server();
    let list = |world: &World| {
        let root = world.mount.path().to_owned();
        with_time_limit(&world.scratch, LIMIT, move || expect_long_listing(&root));
    };
    list(&world);
    // And by the next daemon.
    world.backend.resume();
    world.mount.umount();
    world.backend.stop();
    world.mount.remount();
    list(&world);
    world.backend.resume();
}
