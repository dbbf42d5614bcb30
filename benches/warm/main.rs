//! Warm-up of a real tree on a simulated server (110 MB/s, 1 ms a call), against `tar` that reads it from the server itself,
//! as many at once. In turns, all cold; medians are compared.
//!
//!     cargo build --release --examples && cargo bench --bench warm -- [--rounds 3] [--tree DIRECTORY] [--jobs 16] [--dir SCRATCH]
//!
//! Needs root. Results: target/bench/warm.json.

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::support::measure::{Meter, Work, drop_caches};
use crate::support::report::Report;
use crate::support::slow_server::SlowServer;
use crate::support::subject::{Mounted, evict, product, start_cached};

/// Names, as a client of NFS believes them (acdirmin).
const NAMES_BELIEVED: Duration = Duration::from_secs(30);
const FILES_OF_ONE_TAR: &str = "64";

#[derive(Parser)]
#[command(
    name = "warm",
    about = "Measures the warm-up of a tree on a simulated server"
)]
struct Arguments {
    /// Rounds; their medians are reported
    #[arg(long, env = "CACHEFS_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// The tree, which is copied
    #[arg(long, default_value = "/usr/share/doc")]
    tree: PathBuf,
    /// Files, and tars, at once
    #[arg(long, default_value_t = 16)]
    jobs: u16,
    /// Scratch directory
    #[arg(long, env = "CACHEFS_TEST_DIR")]
    dir: Option<PathBuf>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all of them read.
struct Tree {
    files: u64,
    bytes: u64,
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<Tree> {
    let status = Command::new("cp").arg("-r").args([from, to]).status()?;
    ensure!(status.success(), "copying {}", from.display());
    // The newest files of a server are read 20 ms later than others (docs/SEMANTICS.md).
    std::thread::sleep(Duration::from_millis(100));
    std::fs::write(to.join("newer"), b"")?;
    let mut tree = Tree { files: 0, bytes: 0 };
    let mut directories = vec![to.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let (entry, facts) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if facts.is_dir() {
                directories.push(entry);
            } else if facts.is_file() {
                tree.files += 1;
                tree.bytes += facts.len();
            }
        }
    }
    Ok(tree)
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A tar that writes to /dev/null reads nothing.
fn tar(root: &Path, jobs: u16) -> anyhow::Result<()> {
    let mut command = Command::new("sh");
    command.current_dir(root).args(["-c", &format!(
        "find . -type f -print0 | xargs -0 -n {FILES_OF_ONE_TAR} -P {jobs} sh -c 'tar cf - \"$@\" | cat >/dev/null' sh"
    )]);
    run(command)
}

fn warm(root: &Path, jobs: u16) -> anyhow::Result<()> {
    let mut command = product();
    command
        .arg("warm")
        .arg(root)
        .args(["--jobs", &jobs.to_string()]);
    run(command)
}

fn measure(
    report: &mut Report,
    label: &'static str,
    daemon: Option<&Mounted>,
    tree: &Tree,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    drop_caches()?;
    let meter = Meter::start(daemon.map(Mounted::pid), None)?;
    work()?;
    let done = Work {
        operations: tree.files,
        bytes: tree.bytes,
        latencies: None,
    };
    report.add("tree", label, meter.stop(&done)?);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "at least one round");
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("cachefs-bench")
        .tempdir_in(&parent)
        .with_context(|| format!("scratch directory in {}", parent.display()))?;
    let backing = scratch.path().join("server-disk");
    let tree = copy_tree(&arguments.tree, &backing)?;
    let Some(server) = SlowServer::start("warm", &backing, scratch.path(), NAMES_BELIEVED)? else {
        return Ok(());
    };
    let (root, cache) = (scratch.path().join("mount"), scratch.path().join("cache"));
    let daemon = start_cached(&server.export, &root, &cache, "passthrough=auto")?;
    std::fs::metadata(root.join("newer"))?;
    let mut report = Report::new("warm", arguments.rounds, tree.bytes);
    for round in 0..arguments.rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let work = || tar(&server.export, arguments.jobs);
                measure(&mut report, "native", None, &tree, work)?;
            } else {
                evict(&root)?;
                let work = || warm(&root, arguments.jobs);
                measure(&mut report, "warm", Some(&daemon), &tree, work)?;
            }
        }
    }
    report.print_workload("tree");
    report.write_json()
}
