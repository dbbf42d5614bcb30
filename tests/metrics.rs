//! What Prometheus is told.

mod support;

use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::content::expect_content;
use support::*;

const LIMIT: Duration = Duration::from_secs(20);
/// Prometheus starts slowly on a busy machine.
const SCRAPED_LIMIT: Duration = Duration::from_secs(60);

fn content() -> Content {
    Content::new(7, 1, 3 << 20)
}

fn mounted(scratch: &Scratch, metrics: &str) -> (Mount, PathBuf) {
    let backend = scratch.directory("plain");
    content().create(&backend.join("file")).unwrap();
    let options = MountOptions::new(scratch)
        .with("cache_size=64M")
        .with(&format!("metrics={metrics}"));
    let mount = Mount::start(scratch, &backend, options);
    wait_until(LIMIT, "the daemon to answer", || {
        mount.command("status", &[], LIMIT).status.success()
    });
    (mount, backend)
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Head and body of the answer.
fn ask(mut server: impl Read + Write, request: &str) -> (String, String) {
    server.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    server.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn scrape(address: SocketAddr) -> String {
    let (head, body) = ask(connect(address), &get("/metrics"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    body
}

/// The sum of all samples of a metric.
fn metric(text: &str, name: &str) -> f64 {
    let full = format!("nfs_cachefs_{name}{{");
    let samples = text.lines().filter(|line| line.starts_with(&full));
    let values: Vec<f64> = samples
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(!values.is_empty(), "no {name} in\n{text}");
    values.iter().sum()
}

#[test]
fn who_connects_and_asks_nothing_keeps_no_scraper_out() {
    let scratch = Scratch::new("metrics-idle");
    let address = free_port();
    let _mount = mounted(&scratch, &address.to_string());
    let idle: Vec<TcpStream> = (0..300).map(|_| connect(address)).collect();
    let began = Instant::now();
    scrape(address);
    // They would be let go after 5 s each.
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    drop(idle);
}

#[test]
fn metrics_are_the_numbers_of_the_status() {
    let scratch = Scratch::new("metrics-tcp");
    let address = free_port();
    let (mount, _) = mounted(&scratch, &address.to_string());
    expect_content(&mount.join("file"), content());
    wait_until(LIMIT, "the file to be in the index", || {
        mount.status_number("cache.files") == 1
    });
    let (text, status) = (scrape(address), mount.status());
    assert_eq!(metric(&text, "serving"), 1.0);
    assert_eq!(metric(&text, "backend_reachable"), 1.0);
    assert_eq!(metric(&text, "cache_directory_ok"), 1.0);
    for (name, path) in [
        ("cache_files", "/cache/files"),
        ("cache_used_bytes", "/cache/bytes_used"),
        ("cache_miss_bytes_total", "/cache/miss_bytes"),
        ("backend_read_bytes_total", "/backend/bytes_read"),
    ] {
        let told = status.pointer(path).and_then(Value::as_f64);
        assert_eq!(Some(metric(&text, name)), told, "{name}");
        assert!(metric(&text, name) > 0.0, "{name}");
    }
    // Each call and each read that waited is in a bucket.
    let calls = metric(&text, "backend_calls_total");
    assert!(calls > 0.0 && metric(&text, "latency_seconds_count") > 0.0);
    let missed = text.lines().find(|line| {
        line.starts_with("nfs_cachefs_latency_seconds_count") && line.contains("kind=\"miss\"")
    });
    let missed = missed.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(missed > Some(0), "{text}");
}

#[test]
fn what_is_no_scrape_is_answered_and_harms_nobody() {
    let scratch = Scratch::new("metrics-http");
    let address = free_port();
    let (mount, _) = mounted(&scratch, &address.to_string());
    let (head, _) = ask(connect(address), &get("/etc/passwd"));
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (head, _) = ask(connect(address), "POST /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let (head, body) = ask(connect(address), "HEAD /metrics?x=1 HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty());
    // A page whose name leads here for the moment does not get to see what a user of this machine may.
    let by_name = |host: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nAccept: */*\r\nhOst: {host}\r\n\r\n");
        ask(connect(address), &request).0
    };
    for (host, state) in [
        ("elsewhere.example", 403),
        ("127.0.0.1.example:9100", 403),
        ("localhost.example", 403),
        ("a:b:c", 403),
        ("localhost", 200),
        ("LocalHost:9100", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:9100", 200),
        ("::1", 200),
        ("", 200),
    ] {
        let head = by_name(host);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {state} ")),
            "{host}: {head}"
        );
    }
    // An endless head is cut off, and so is who says nothing.
    let mut endless = connect(address);
    let mut sent = Ok(());
    for _ in 0..10_000 {
        sent = sent.and_then(|()| endless.write_all(&[b'x'; 1024]));
    }
    let cut = sent.is_err() || matches!(endless.read(&mut [0]), Ok(0) | Err(_));
    assert!(cut);
    let silent: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    wait_until(LIMIT, "a scrape beside those who are silent", || {
        let mut stream = connect(address);
        let asked = stream.write_all(get("/metrics").as_bytes());
        let mut answer = String::new();
        asked
            .and_then(|()| stream.read_to_string(&mut answer))
            .is_ok()
            && answer.starts_with("HTTP/1.1 200 ")
    });
    drop(silent);
    expect_content(&mount.join("file"), content());
}

#[test]
fn a_unix_socket_is_taken_over_from_the_dead_and_removed_at_the_end() {
    let scratch = Scratch::new("metrics-unix");
    let socket = scratch.path().join("metrics.sock");
    let (mut mount, _) = mounted(&scratch, &format!("unix:{}", socket.display()));
    let asked = || ask(UnixStream::connect(&socket).unwrap(), &get("/metrics")).1;
    assert_eq!(metric(&asked(), "serving"), 1.0);
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o666);
    mount.kill9();
    assert!(socket.exists());
    mount.remount();
    wait_until(LIMIT, "the socket of the next daemon", || {
        UnixStream::connect(&socket).is_ok()
    });
    assert_eq!(metric(&asked(), "serving"), 1.0);
    mount.umount();
    assert!(!socket.exists());
}

#[test]
fn a_mount_whose_port_is_taken_serves_and_says_so() {
    let scratch = Scratch::new("metrics-taken");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (mount, _) = mounted(&scratch, &address);
    expect_content(&mount.join("file"), content());
    let told = String::from_utf8(mount.command("status", &[], LIMIT).stdout).unwrap();
    assert!(told.contains(&format!("no metrics at {address}")), "{told}");
    assert!(told.contains("no effect here"), "{told}");
}

#[test]
fn an_address_that_others_could_reach_is_refused() {
    let scratch = Scratch::new("metrics-open");
    let backend = scratch.directory("plain");
    for address in ["0.0.0.0:9119", "192.0.2.1:9119", "127.0.0.1", "unix:here"] {
        let options = MountOptions::new(&scratch).with(&format!("metrics={address}"));
        let mut command = Command::new(support::mount::PROGRAM);
        command.arg("mount").arg(&backend).arg(&options.mountpoint);
        command.args(["-o", &options.option_text()]);
        let output = support::process::run(command, LIMIT);
        assert_eq!(output.status.code(), Some(1), "{address}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("a loopback address and port"), "{told}");
    }
}

/// A program of the package `prometheus`, as a variable or the path has it.
fn installed(variable: &str, name: &str) -> Option<OsString> {
    let program = std::env::var_os(variable).unwrap_or_else(|| name.into());
    let version = Command::new(&program).arg("--version").output();
    if version.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        eprintln!("SKIPPED: {name} is not installed (apt install prometheus)");
        return None;
    }
    Some(program)
}

/// Prometheus with one target, killed when it goes.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(program: &OsString, directory: &Path, target: SocketAddr) -> Self {
        let settings = directory.join("prometheus.yml");
        let job =
            format!("  - job_name: cachefs\n    static_configs: [{{targets: ['{target}']}}]\n");
        let text = format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n{job}");
        fs::write(&settings, text).unwrap();
        let address = free_port();
        let process = Command::new(program)
            .arg(format!("--config.file={}", settings.display()))
            .arg(format!("--storage.tsdb.path={}", directory.display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, address }
    }

    /// The values of an expression, by what is told of them; none while it does not answer.
    fn query(&self, expression: &str) -> Vec<Value> {
        let Ok(stream) = TcpStream::connect(self.address) else {
            return Vec::new();
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let path = format!("/api/v1/query?query={expression}");
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let (_, body) = ask(stream, &request);
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        let result = answer["data"]["result"].as_array();
        result.cloned().unwrap_or_default()
    }

    fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).first()?["value"][1]
            .as_str()?
            .parse()
            .ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn prometheus_takes_all_that_it_is_told() {
    let Some(program) = installed("PROMETHEUS", "prometheus") else {
        return;
    };
    let scratch = Scratch::new("metrics-prometheus");
    let address = free_port();
    let (mount, _) = mounted(&scratch, &address.to_string());
    expect_content(&mount.join("file"), content());
    let samples = || {
        let told = scrape(address);
        told.lines().filter(|line| !line.starts_with('#')).count() as f64
    };
    let prometheus = Prometheus::start(&program, &scratch.directory("prometheus"), address);
    wait_until(SCRAPED_LIMIT, "a scrape that succeeds", || {
        prometheus.value("up") == Some(1.0)
    });
    let taken = "scrape_samples_post_metric_relabeling";
    wait_until(SCRAPED_LIMIT, "all samples to be taken", || {
        prometheus.value(taken) == Some(samples())
    });
    let read = prometheus.value("sum(nfs_cachefs_backend_read_bytes_total)");
    assert_eq!(
        read,
        Some(metric(&scrape(address), "backend_read_bytes_total"))
    );
}

#[test]
fn promtool_finds_nothing_wrong_with_names_and_text() {
    let Some(promtool) = installed("PROMTOOL", "promtool") else {
        return;
    };
    let scratch = Scratch::new("metrics-promtool");
    let address = free_port();
    let (mount, _) = mounted(&scratch, &address.to_string());
    expect_content(&mount.join("file"), content());
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = check.stdin.take().unwrap();
    stdin.write_all(scrape(address).as_bytes()).unwrap();
    drop(stdin);
    let output = check.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.is_empty(), "{told}");
}
