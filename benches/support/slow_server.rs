//! A simulated NFS server: the `faultfs` example, slowed down.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::subject::Mounted;

const BANDWIDTH_BYTES_PER_S: u64 = 110_000_000;
const LATENCY_US: u64 = 1000;

pub struct SlowServer {
    /// Where its files are seen.
    pub export: PathBuf,
    _mounted: Mounted,
    control: BufReader<UnixStream>,
}

impl SlowServer {
    /// Serves a directory of real files, whose names and attributes its client believes for `ttl`. None, and said so,
    /// where the example has not been built.
    pub fn start(
        bench: &str,
        backing: &Path,
        scratch: &Path,
        ttl: Duration,
    ) -> anyhow::Result<Option<Self>> {
        let program = faultfs()?;
        if !program.exists() || !nix::unistd::geteuid().is_root() {
            println!("{bench}: needs root and `cargo build --release --example faultfs`");
            return Ok(None);
        }
        let (export, socket) = (scratch.join("server"), scratch.join("server.socket"));
        let mut command = Command::new(program);
        // Like an NFS client opened O_DIRECT: the kernel keeps no page of it between the rounds.
        command
            .args([backing, &export, &socket])
            .arg("--direct-io")
            .args(["--ttl-ms", &ttl.as_millis().to_string()]);
        let mounted = Mounted::start(command, &export).context("faultfs")?;
        let mut server = Self {
            export,
            _mounted: mounted,
            control: BufReader::new(connect(&socket)?),
        };
        server.set_network(LATENCY_US, BANDWIDTH_BYTES_PER_S)?;
        Ok(Some(server))
    }

    /// How far away it is from now on, and behind how thick a link.
    pub fn set_network(
        &mut self,
        latency_us: u64,
        bandwidth_bytes_per_s: u64,
    ) -> anyhow::Result<()> {
        let network =
            json!({"latency_us": latency_us, "bandwidth_bytes_per_s": bandwidth_bytes_per_s});
        self.ask(&json!({"command": "set_network", "network": network}))
            .map(drop)
    }

    fn ask(&mut self, command: &Value) -> anyhow::Result<Value> {
        writeln!(self.control.get_mut(), "{command}")?;
        let mut reply = String::new();
        self.control.read_line(&mut reply)?;
        serde_json::from_str(&reply).with_context(|| format!("faultfs: {reply}"))
    }

    pub fn reset_counters(&mut self) -> anyhow::Result<()> {
        self.ask(&json!({"command": "reset_counters"})).map(drop)
    }

    /// Calls that arrived since the counters were reset, by kind.
    pub fn calls(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut reply = self.ask(&json!({"command": "counters"}))?;
        let calls = reply["counters"]["counters"]["operations"].take();
        serde_json::from_value(calls).context("the counters of faultfs")
    }
}

/// Cargo builds examples beside the directory that this program is in.
fn faultfs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.ancestors().nth(2);
    Ok(profile
        .context("the program is not in a target directory")?
        .join("examples/faultfs"))
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(socket) {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the control socket of faultfs");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
