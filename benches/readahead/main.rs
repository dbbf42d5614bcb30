//! What readahead gains on a simulated server: near and far (1 and 20 ms a call), behind a thin and a thick link (110 MB/s,
//! 1.2 GB/s). Each pattern is read cold from the server itself, and through mounts with and without readahead, in turns;
//! medians are compared.
//!
//!     cargo build --release --examples && cargo bench --bench readahead -- [--rounds 3] [--size-mib 256] [--files 20000]
//!                                     [--only NAME,...] [--dir SCRATCH]
//!
//! Needs root. Results: target/bench/readahead.json.
//!
//! - `workload`: what is done, one function each

#[path = "../support/mod.rs"]
mod support;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::support::measure::{Meter, drop_caches};
use crate::support::report::Report;
use crate::support::slow_server::SlowServer;
use crate::support::subject::{Mounted, evict, start_cached};
use crate::workload::{Amounts, PATTERNS, make_files, walk};

/// Names, as a client of NFS believes them (acdirmin).
const NAMES_BELIEVED: Duration = Duration::from_secs(30);
/// The last one is for walks: with close-to-open each open waits for the server once.
const MOUNTS: [(&str, &str); 3] = [
    ("ahead", "readahead=64M"),
    ("not-ahead", "readahead=0"),
    (WITHOUT_CTO, "readahead=64M,nocto"),
];
const WITHOUT_CTO: &str = "ahead-nocto";
const NETWORKS: &[(&str, u64, u64)] = &[
    ("near-thin", 1000, 110_000_000),
    ("far-thin", 20_000, 110_000_000),
    ("near-thick", 1000, 1_200_000_000),
    ("far-thick", 20_000, 1_200_000_000),
];

#[derive(Parser)]
#[command(
    name = "readahead",
    about = "Measures reads of cold files on a simulated server"
)]
struct Arguments {
    /// Rounds of every workload; their medians are reported
    #[arg(long, env = "CACHEFS_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// MiB of the file that is read in order
    #[arg(long, default_value_t = 256)]
    size_mib: u64,
    /// Small files of the directory that is walked
    #[arg(long, default_value_t = 20_000)]
    files: u64,
    /// Only workloads whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Scratch directory
    #[arg(long, env = "CACHEFS_TEST_DIR")]
    dir: Option<PathBuf>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }
}

/// Who reads where.
struct Subject {
    label: &'static str,
    root: PathBuf,
    daemon: Option<Mounted>,
}

impl Subject {
    fn run(
        &self,
        name: &str,
        report: &mut Report,
        work: impl FnOnce(&Path) -> anyhow::Result<support::measure::Work>,
    ) -> anyhow::Result<()> {
        if self.daemon.is_some() {
            evict(&self.root)?;
        }
        drop_caches()?;
        let meter = Meter::start(self.daemon.as_ref().map(Mounted::pid), None)?;
        let work = work(&self.root).with_context(|| format!("{name} of {}", self.label))?;
        report.add(name, self.label, meter.stop(&work)?);
        Ok(())
    }
}

/// The server itself, and mounts of it.
fn subjects(export: &Path, scratch: &Path) -> anyhow::Result<Vec<Subject>> {
    let mut all = vec![Subject {
        label: "native",
        root: export.to_owned(),
        daemon: None,
    }];
    for (label, options) in MOUNTS {
        let root = scratch.join(format!("mount-{label}"));
        let cache = scratch.join(format!("cache-{label}"));
        let daemon = start_cached(export, &root, &cache, options)?;
        all.push(Subject {
            label,
            root,
            daemon: Some(daemon),
        });
    }
    Ok(all)
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
        file_bytes: arguments.size_mib << 20,
        files: arguments.files,
    };
    let backing = scratch.path().join("server-disk");
    make_files(&backing, &amounts)?;
    let Some(mut server) =
        SlowServer::start("readahead", &backing, scratch.path(), NAMES_BELIEVED)?
    else {
        return Ok(());
    };
    let everybody = subjects(&server.export.clone(), scratch.path())?;
    let subjects: Vec<&Subject> = everybody
        .iter()
        .filter(|subject| subject.label != WITHOUT_CTO)
        .collect();
    let mut report = Report::new("readahead", arguments.rounds, amounts.file_bytes);
    for (network, latency_us, bandwidth_bytes_per_s) in NETWORKS {
        server.set_network(*latency_us, *bandwidth_bytes_per_s)?;
        for pattern in PATTERNS {
            let name = format!("{}-{network}", pattern.name);
            if arguments.wants(&name) {
                for round in 0..arguments.rounds {
                    for turn in 0..subjects.len() {
                        let subject = subjects[(round + turn) % subjects.len()];
                        subject.run(&name, &mut report, |root| (pattern.run)(root, &amounts))?;
                    }
                }
                report.print_workload(&name);
            }
        }
    }
    if arguments.wants("walk-near-thin") {
        let (_, latency_us, bandwidth_bytes_per_s) = NETWORKS[0];
        server.set_network(latency_us, bandwidth_bytes_per_s)?;
        for subject in &everybody {
            subject.run("walk-near-thin", &mut report, |root| walk(root, &amounts))?;
        }
        report.print_workload("walk-near-thin");
    }
    report.write_json()
}
