//! What writing through the mount costs, next to the backend itself: on this machine's disk and on a simulated NFS
//! server (1 ms a call, 110 MB/s). Subjects take turns in every round; medians are compared. Of small files on the server the
//! calls that each one needs are counted, too.
//!
//!     cargo build --release --examples && cargo bench --bench writes -- [--rounds 5] [--size-mib 512] [--files 10000]
//!                                     [--only NAME,...] [--dir SCRATCH]
//!
//! Needs root. Results: target/bench/writes.json.
//!
//! - `workload`: what is done, one function each

#[path = "../support/mod.rs"]
mod support;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::support::measure::Meter;
use crate::support::report::Report;
use crate::support::slow_server::SlowServer;
use crate::support::subject::{Mounted, start_cached};
use crate::workload::{Amounts, WORKLOADS, Workload};

/// As an NFS client does (acregmin).
const ATTRIBUTES_BELIEVED: Duration = Duration::from_secs(3);

#[derive(Parser)]
#[command(
    name = "writes",
    about = "Measures writing through nfs-cachefs and straight to the backend"
)]
struct Arguments {
    /// Rounds of every workload; their medians are reported
    #[arg(long, env = "CACHEFS_BENCH_ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// MiB written in order, on the disk; a quarter of that on the server
    #[arg(long, default_value_t = 512)]
    size_mib: u64,
    /// Small files made; a tenth of that many random writes are made too
    #[arg(long, default_value_t = 10_000)]
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

/// Who writes where.
struct Subject {
    label: &'static str,
    root: PathBuf,
    daemon: Option<Mounted>,
}

/// The backend itself, and mounts of it that keep what is written and that do not.
fn subjects(backend: &Path, scratch: &Path, place: &str) -> anyhow::Result<Vec<Subject>> {
    let mut all = vec![Subject {
        label: "native",
        root: backend.to_owned(),
        daemon: None,
    }];
    for (label, options) in [
        ("kept", "keep_written=always"),
        ("not-kept", "keep_written=never"),
    ] {
        let root = scratch.join(format!("mount-{place}-{label}"));
        let cache = scratch.join(format!("cache-{place}-{label}"));
        let daemon = start_cached(backend, &root, &cache, options)?;
        all.push(Subject {
            label,
            root,
            daemon: Some(daemon),
        });
    }
    Ok(all)
}

impl Subject {
    fn run(
        &self,
        workload: &Workload,
        amounts: &Amounts,
        round: usize,
        report: &mut Report,
        name: &str,
        after: impl FnOnce(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let directory = self.root.join(format!("{}-{round}", self.label));
        std::fs::create_dir(&directory)?;
        let meter = Meter::start(self.daemon.as_ref().map(Mounted::pid), None)?;
        let work = (workload.run)(&directory, amounts)
            .with_context(|| format!("{name} of {}", self.label))?;
        let operations = work.operations;
        report.add(name, self.label, meter.stop(&work)?);
        after(operations)?;
        std::fs::remove_dir_all(&directory).context("removing what was written")
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "at least one round");
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("cachefs-bench")
        .tempdir_in(&parent)
        .with_context(|| format!("scratch directory in {}", parent.display()))?;
    let amounts = Amounts {
        sequential_bytes: arguments.size_mib << 20,
        random_writes: arguments.files / 10,
        files: arguments.files,
    };
    let mut report = Report::new("writes", arguments.rounds, amounts.sequential_bytes);
    on_disk(&arguments, &amounts, scratch.path(), &mut report)?;
    on_server(&arguments, &amounts, scratch.path(), &mut report)?;
    report.write_json()
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        let is_named = |only: &String| name.contains(only.as_str());
        self.only.is_empty() || self.only.iter().any(is_named)
    }
}

fn on_disk(
    arguments: &Arguments,
    amounts: &Amounts,
    scratch: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let backend = scratch.join("disk");
    std::fs::create_dir(&backend)?;
    let subjects = subjects(&backend, scratch, "disk")?;
    for workload in WORKLOADS {
        let name = format!("disk-{}", workload.name);
        if !arguments.wants(&name) {
            continue;
        }
        for round in 0..arguments.rounds {
            for turn in 0..subjects.len() {
                let subject = &subjects[(round + turn) % subjects.len()];
                subject.run(workload, amounts, round, report, &name, |_| Ok(()))?;
            }
        }
        report.print_workload(&name);
    }
    Ok(())
}

fn on_server(
    arguments: &Arguments,
    amounts: &Amounts,
    scratch: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let backing = scratch.join("server-disk");
    std::fs::create_dir(&backing)?;
    let Some(mut server) = SlowServer::start("server", &backing, scratch, ATTRIBUTES_BELIEVED)?
    else {
        return Ok(());
    };
    let subjects = subjects(&server.export, scratch, "server")?;
    let amounts = Amounts {
        sequential_bytes: amounts.sequential_bytes / 4,
        ..*amounts
    };
    for workload in WORKLOADS {
        let name = format!("server-{}", workload.name);
        if !arguments.wants(&name) {
            continue;
        }
        for round in 0..arguments.rounds {
            for turn in 0..subjects.len() {
                let subject = &subjects[(round + turn) % subjects.len()];
                server.reset_counters()?;
                subject.run(
                    workload,
                    &amounts,
                    round,
                    report,
                    &name,
                    |operations| match round {
                        0 => tell_calls(&name, subject.label, &mut server, operations),
                        _ => Ok(()),
                    },
                )?;
            }
        }
        report.print_workload(&name);
    }
    Ok(())
}

fn tell_calls(
    workload: &str,
    subject: &str,
    server: &mut SlowServer,
    operations: u64,
) -> anyhow::Result<()> {
    let calls = server.calls()?;
    let each: Vec<String> = calls
        .iter()
        .map(|(kind, count)| format!("{kind} {:.2}", *count as f64 / operations as f64))
        .collect();
    println!(
        "{workload} {subject}: calls an operation: {}",
        each.join(", ")
    );
    Ok(())
}
