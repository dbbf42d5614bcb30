//! What `trace` and `top` tell of the operations of a mount.

mod support;

use nix::pty::{Winsize, openpty};
use serde_json::Value;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
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

/// A command that prints lines until it is ended.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
}

impl Watcher {
    fn start(mount: &Mount, verb: &str, arguments: &[&str]) -> Self {
        let mut child = spawn(mount, verb, arguments);
        let stdout = child.stdout.take().expect("it is piped");
        Self {
            child,
            lines: lines_of(stdout),
        }
    }

    /// All that begins from now on is told.
    fn trace(mount: &Mount, arguments: &[&str]) -> Self {
        let watcher = Self::start(mount, "trace", arguments);
        watcher.find("the heading", |line| line.starts_with("TIME"));
        watcher
    }

    fn find(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if is_it(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{what}: {error}, after\n{}", seen.join("\n")),
            }
        }
    }

    /// The next line with all of these words.
    fn expect(&self, words: &[&str]) -> String {
        self.find(&format!("{words:?}"), |line| {
            let have: Vec<&str> = line.split_whitespace().collect();
            words.iter().all(|word| have.contains(word))
        })
    }

    fn find_json(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let parsed = |line: &str| serde_json::from_str::<Value>(line).expect("a line is JSON");
        parsed(&self.find(what, |line| is_it(&parsed(line))))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        process::kill_now(self.child.id() as i32);
        let _ = self.child.wait();
    }
}

fn spawn(mount: &Mount, verb: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.arg(verb).arg(mount.path()).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process::spawn(command).expect("it starts")
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[test]
fn every_operation_is_told_as_it_ends_and_how_it_was_served() {
    let (mount, _backend, _scratch) = mounted(
        "trace-all",
        &["direct_io", "readahead=0", "lookupcache=none"],
    );
    let trace = Watcher::trace(&mount, &[]);
    let path = mount.join("file");
    expect_content(&path, content());
    let own_id = nix::unistd::getuid().to_string();
    let miss = trace.expect(&["read", "fill", "file", "ok", &own_id]);
    assert!(miss.contains(" 0+") && miss.contains('#'), "{miss}");
    expect_content(&path, content());
    trace.expect(&["read", "hit", "file", "ok"]);
    trace.expect(&["release", "file"]);
    assert!(fs::metadata(mount.join("nothing")).is_err());
    trace.expect(&["lookup", "ENOENT", "nothing"]);
    fs::create_dir(mount.join("new")).unwrap();
    trace.expect(&["mkdir", "ok", "backend", "new"]);
    fs::write(mount.join("new/written"), "twelve bytes").unwrap();
    trace.expect(&["create", "ok", "new/written"]);
    trace.expect(&["write", "ok", "backend", "new/written", "0+12"]);
    fs::rename(mount.join("new/written"), mount.join("moved")).unwrap();
    trace.expect(&["rename", "ok", "new/written", "->", "moved"]);
    fs::hard_link(mount.join("moved"), mount.join("other")).unwrap();
    trace.expect(&["link", "ok", "moved", "->", "other"]);
    fs::remove_file(mount.join("moved")).unwrap();
    trace.expect(&["unlink", "ok", "moved"]);
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 4);
    trace.expect(&["readdir", "ok", "."]);
}

#[test]
fn json_has_every_field_and_opens_by_passthrough_say_so() {
    let (mount, _backend, _scratch) = mounted("trace-json", &["small_file_size=4K"]);
    let path = mount.join("file");
    expect_content(&path, content());
    let has_passthrough = mount.status()["fuse"]["passthrough"] == "on";
    let trace = Watcher::start(&mount, "trace", &["--json", "--path", "file"]);
    let open = trace.find_json_after(&path);
    let expected = match has_passthrough {
        true => "passthrough",
        false => "backend",
    };
    assert_eq!(open["served"], expected, "{open}");
    assert_eq!(open["path"], "file");
    assert_eq!(open["pid"].as_u64().map(|pid| pid > 0), Some(true));
    assert!(open["latency_us"].is_u64() && open["request"].is_u64());
    assert!(open["began_seconds"].as_i64() > Some(1_600_000_000));
    assert!(open.get("error").is_none());
}

impl Watcher {
    /// With JSON there is no heading: the file is opened until that is told.
    fn find_json_after(&self, path: &std::path::Path) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            drop(File::open(path).unwrap());
            match self.lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => {
                    let told: Value = serde_json::from_str(&line).expect("a line is JSON");
                    if told["operation"] == "open" {
                        return told;
                    }
                }
                Err(error) => assert_eq!(error, RecvTimeoutError::Timeout),
            }
            assert!(Instant::now() < deadline, "no open was told");
        }
    }
}

#[test]
fn a_pattern_leaves_the_rest_out() {
    let (mount, _backend, _scratch) = mounted("trace-path", &["lookupcache=none"]);
    let trace = Watcher::trace(&mount, &["--path", "*wanted?"]);
    for name in ["unwanted", "wanted1", "other", "a wanted2"] {
        assert!(fs::metadata(mount.join(name)).is_err());
    }
    let first = trace.find("a line", |_| true);
    let second = trace.find("a line", |_| true);
    assert!(first.contains(" wanted1 "), "{first}");
    assert!(second.contains(" a wanted2 "), "{second}");
}

#[test]
fn a_reader_that_is_slow_delays_nobody_and_is_told_what_it_missed() {
    const LOOKUPS: u64 = 40_000;
    let (mount, _backend, _scratch) = mounted("trace-slow", &["lookupcache=none"]);
    let trace = Watcher::start(&mount, "trace", &["--json", "--path", "absent*"]);
    let is_told = |trace: &Watcher| {
        assert!(fs::metadata(mount.join("absent")).is_err());
        trace.lines.recv_timeout(Duration::from_millis(200)).is_ok()
    };
    wait_until(LIMIT, "the trace to listen", || is_told(&trace));
    let pid = trace.child.id() as i32;
    process::stop(pid);
    for number in 0..LOOKUPS {
        assert!(fs::metadata(mount.join(format!("absent{number}"))).is_err());
    }
    process::resume(pid);
    let mut told = 0;
    let mut lost = 0;
    let deadline = Instant::now() + LIMIT;
    while told + lost < LOOKUPS {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = trace.lines.recv_timeout(left);
        let line = line.unwrap_or_else(|error| panic!("{error}: {told} told, {lost} lost"));
        let line: Value = serde_json::from_str(&line).unwrap();
        match line["told"].as_str() {
            Some("lost") => lost += line["operations"].as_u64().unwrap(),
            // Those of the beginning are not counted.
            _ if line["path"] == "absent" => {}
            _ => told += 1,
        }
    }
    assert_eq!(told + lost, LOOKUPS);
    assert!(lost > 0 && told > 0, "{told} told, {lost} lost");
}

#[test]
fn who_has_enough_ends_quietly_and_makes_room_for_others() {
    const LISTENERS_MAX: usize = 4;
    let (mut mount, _backend, _scratch) = mounted("trace-end", &["lookupcache=none"]);
    let mut child = spawn(&mount, "trace", &[]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    wait_until(LIMIT, "the trace to end", || {
        assert!(fs::metadata(mount.join("absent")).is_err());
        child.try_wait().unwrap().is_some()
    });
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
    let listening: Vec<Watcher> = (0..LISTENERS_MAX)
        .map(|_| Watcher::trace(&mount, &[]))
        .collect();
    let refused = mount.command("trace", &[], LIMIT);
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("end one of them"), "{told}");
    drop(listening);
    // The daemon notices a moment later.
    let mut last = None;
    wait_until(LIMIT, "room for another", || {
        let watcher = Watcher::start(&mount, "trace", &[]);
        let line = watcher.lines.recv_timeout(LIMIT);
        let listens = line.is_ok_and(|line| line.starts_with("TIME"));
        last = listens.then_some(watcher);
        listens
    });
    let mut last = last.expect("it listens");
    mount.umount();
    let status = process::wait_for(&mut last.child, LIMIT).expect("it ends with the mount");
    assert!(status.success(), "{status}");
}

#[test]
fn top_counts_by_file_and_by_process_what_hits_and_misses() {
    let (mount, _backend, _scratch) = mounted("top-json", &["direct_io", "readahead=0"]);
    let path = mount.join("file");
    let top = Watcher::start(&mount, "top", &["--json", "--interval", "0.5"]);
    top.find_json("the first interval", |_| true);
    let of_file = |load: &Value| -> Option<Value> {
        let files = load["files"].as_array()?;
        files.iter().find(|file| file["path"] == "file").cloned()
    };
    expect_content(&path, content());
    let load = top.find_json("misses", |load| {
        of_file(load).is_some_and(|file| file["misses"].as_u64() > Some(0))
    });
    let file = of_file(&load).unwrap();
    assert!(file["miss_bytes"].as_u64() > Some(0), "{file}");
    assert!(load["total"]["total_us"].as_u64() > Some(0));
    let processes = load["processes"].as_array().unwrap();
    let own = processes
        .iter()
        .find(|process| process["pid"] == std::process::id())
        .unwrap_or_else(|| panic!("{load}"));
    assert!(own["name"].as_str().is_some_and(|name| !name.is_empty()));
    expect_content(&path, content());
    let load = top.find_json("hits only", |load| {
        of_file(load).is_some_and(|file| file["hits"].as_u64() > Some(0) && file["misses"] == 0)
    });
    assert_eq!(load["total"]["miss_bytes"], 0);
}

#[test]
fn top_counts_no_answer_that_something_is_not_there_as_an_error() {
    let (mount, _backend, _scratch) = mounted("top-errors", &["lookupcache=none"]);
    let top = Watcher::start(&mount, "top", &["--json", "--interval", "0.5"]);
    top.find_json("the first interval", |_| true);
    let full = mount.join("full");
    fs::create_dir_all(full.join("inside")).unwrap();
    assert!(fs::metadata(mount.join("absent")).is_err());
    assert!(fs::remove_dir(&full).is_err(), "it is not empty");
    let errors = Cell::new(0);
    top.find_json("the error", |load| {
        errors.set(errors.get() + load["total"]["errors"].as_u64().unwrap());
        errors.get() > 0
    });
    assert_eq!(errors.get(), 1);
}

#[test]
fn top_prints_plain_screens_and_ends_after_so_many() {
    let (mount, _backend, _scratch) = mounted("top-batch", &[]);
    let arguments = ["--batch", "--iterations", "2", "--interval", "0.2"];
    let output = mount.command("top", &arguments, LIMIT);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.matches("PROCESS").count(), 2, "{told}");
    assert!(
        told.contains("passthrough") && !told.contains('\x1b'),
        "{told}"
    );
    let wrong = mount.command("top", &["--interval", "0"], LIMIT);
    assert_eq!(wrong.status.code(), Some(1));
}

#[test]
fn top_on_a_terminal_takes_keys_and_leaves_it_as_it_was() {
    let (mount, _backend, _scratch) = mounted("top-keys", &["lookupcache=none"]);
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .arg("top")
        .arg(mount.path())
        .args(["--interval", "0.2"]);
    command
        .stdin(Stdio::from(pty.slave.try_clone().unwrap()))
        .stdout(Stdio::from(pty.slave))
        .stderr(Stdio::null());
    let mut child = process::spawn(command).unwrap();
    let mut keys = File::from(pty.master);
    let mut screen = keys.try_clone().unwrap();
    let (sender, parts) = channel();
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut part) {
            let _ = sender.send(String::from_utf8_lossy(&part[..length]).into_owned());
        }
    });
    let mut shown = String::new();
    let until = |shown: &mut String, wanted: &str| {
        let deadline = Instant::now() + LIMIT;
        while !shown.contains(wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            let part = parts.recv_timeout(left);
            shown.push_str(&part.unwrap_or_else(|error| panic!("{wanted}: {error} in {shown}")));
        }
    };
    until(&mut shown, "by bytes");
    until(&mut shown, "PROCESS");
    keys.write_all(b"s").unwrap();
    until(&mut shown, "by operations");
    keys.write_all(b"q").unwrap();
    let status = process::wait_for(&mut child, LIMIT).expect("it ends");
    assert!(status.success(), "{status}");
    until(&mut shown, "\x1b[?1049l");
    for line in shown.replace("\x1b[H", "\r\n").split("\r\n") {
        let plain: usize = line.chars().filter(|letter| *letter != '\x1b').count();
        assert!(plain < 120, "{line}");
    }
}
