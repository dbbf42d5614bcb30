//! What the journal costs: durable writes beside what the disk can do at best, its parity beside ISA-L's, and writing through
//! a mount with `write_mode=back`. Subjects take turns in every round; medians are compared. What is wanted, and what was
//! found, stands at the end.
//!
//!     cargo build --release --examples && cargo bench --bench journal -- [--rounds 3] [--files 2000] [--only NAME,...]
//!                                      [--dir SCRATCH]
//!
//! The part on a simulated server needs root and the `faultfs` example, what goes through a mount needs root; the parity is
//! compared where libisal2 is installed. Takes 6 GB of the scratch directory's disk. Results: target/bench/journal.json.
//!
//! - `durable`: small durable writes of many writers, on the library
//! - `log`: a journal as the daemon opens it, and the best that a log could do
//! - `writers`: threads that write and wait, for a while
//! - `mounted`: large and small writes through a mount
//! - `parity`: the code of large batches; `isal`: the library that it is compared with
//! - `job`: many small files on a slow server
//! - `wanted`: what the figures should be

mod durable;
mod isal;
mod job;
mod log;
mod mounted;
mod parity;
#[path = "../support/mod.rs"]
mod support;
mod wanted;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::support::report::Report;

#[derive(Parser)]
#[command(
    name = "journal",
    about = "Measures the journal, without a mount and through one"
)]
pub struct Arguments {
    /// Rounds of every workload; their medians are reported
    #[arg(long, env = "CACHEFS_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// Milliseconds that small durable writes are counted for
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
    /// MiB written in order through the mount: four times its dirty limit
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Small files of the job on a slow server
    #[arg(long, default_value_t = 2000)]
    files: u64,
    /// Only workloads whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Scratch directory, on the disk to be measured
    #[arg(long, env = "CACHEFS_TEST_DIR")]
    dir: Option<PathBuf>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    pub fn wants(&self, name: &str) -> bool {
        let is_named = |only: &String| name.contains(only.as_str());
        self.only.is_empty() || self.only.iter().any(is_named)
    }

    pub fn period(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "at least one round");
    ensure!(arguments.size_mib >= 64, "--size-mib of at least 64");
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("cachefs-bench")
        .tempdir_in(&parent)
        .with_context(|| format!("scratch directory in {}", parent.display()))?;
    let mut report = Report::new("journal", arguments.rounds, arguments.size_mib << 20);
    parity::run(&arguments, &mut report)?;
    durable::run(&arguments, scratch.path(), &mut report)?;
    if nix::unistd::geteuid().is_root() {
        mounted::run(&arguments, scratch.path(), &mut report)?;
        job::run(&arguments, scratch.path(), &mut report)?;
    } else {
        println!("not root: nothing is mounted");
    }
    wanted::print(&report);
    report.write_json()
}
