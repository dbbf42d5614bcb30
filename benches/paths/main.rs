//! What a path through the cache costs, next to the native disk and to bindfs.
//!
//! Every workload runs on every subject in every round, the order of the subjects moving on by one each
//! round, so that whatever else the machine does hits all of them; the medians of the rounds are compared.
//! CPU is that of the reader and of the daemon together: with passthrough the work is done inside the
//! reader's system calls.
//!
//!     cargo build --release --examples && cargo bench --bench paths -- [--rounds 9] [--size 2G] [--only NAME,...]
//!                                     [--subjects native,bindfs,cached,cached-daemon] [--dir SCRATCH]
//!
//! Needs root for cold workloads (drop_caches) and for passthrough. Results: target/bench/paths.json.
//!
//! - `workload`: what is done, one function each
//! - `server`: the workloads on a simulated slow server (the `faultfs` example)

mod server;
#[path = "../support/mod.rs"]
mod support;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::support::report::Report;
use crate::support::subject::{Subject, SubjectName};
use crate::workload::{Data, WORKLOADS};

#[derive(Parser)]
#[command(
    name = "paths",
    about = "Measures reading through nfs-cachefs, bindfs and the native disk"
)]
struct Arguments {
    /// Rounds of every workload; their medians are reported
    #[arg(long, env = "CACHEFS_BENCH_ROUNDS", default_value_t = 9)]
    rounds: usize,
    /// Size of the large file: a number with K, M or G
    #[arg(long, default_value = "2G", value_parser = parse_size_bytes)]
    size: u64,
    /// Only workloads whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Who is measured
    #[arg(long, value_delimiter = ',', value_enum, default_values = ["native", "bindfs", "cached", "cached-daemon"])]
    subjects: Vec<SubjectName>,
    /// Scratch directory, on the disk to be measured
    #[arg(long, env = "CACHEFS_TEST_DIR")]
    dir: Option<PathBuf>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn parse_size_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text} is no size such as 512M"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "at least one round");
    ensure!(arguments.size >= 64 << 20, "--size of at least 64M");
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("cachefs-bench")
        .tempdir_in(&parent)
        .with_context(|| format!("scratch directory in {}", parent.display()))?;
    let wanted = |name: &str| {
        arguments.only.is_empty()
            || arguments
                .only
                .iter()
                .any(|only| name.contains(only.as_str()))
    };
    let mut report = Report::new("paths", arguments.rounds, arguments.size);

    if WORKLOADS.iter().any(|workload| wanted(workload.name)) {
        let data = Data::create(&scratch.path().join("backend"), arguments.size)?;
        let mut subjects = Vec::new();
        for name in &arguments.subjects {
            let subject = Subject::start(*name, &data.root, scratch.path())?;
            // Whatever caches: complete before the first round.
            data.read_everything(&subject.root)?;
            subjects.push(subject);
        }
        for workload in WORKLOADS.iter().filter(|workload| wanted(workload.name)) {
            for round in 0..arguments.rounds {
                for turn in 0..subjects.len() {
                    let subject = &subjects[(round + turn) % subjects.len()];
                    if let Some(sample) = workload.run(subject, &data)? {
                        report.add(workload.name, subject.name.label(), sample);
                    }
                }
            }
            report.print_workload(workload.name);
        }
    }
    if wanted(server::NAME) && arguments.subjects.contains(&SubjectName::Cached) {
        server::run(
            scratch.path(),
            arguments.rounds,
            arguments.size,
            &mut report,
        )?;
        report.print_workload(server::NAME);
    }
    report.write_json()
}
