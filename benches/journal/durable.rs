//! Durable writes of 4 KiB on the library: on one device and several, which are directories of one disk, beside a file for
//! each writer, and the limit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nfs_cachefs::io::engine::EngineKind;
use nfs_cachefs::journal::Spread;

use crate::Arguments;
use crate::log::{Limit, Log, SharedLimit};
use crate::support::measure::{Meter, Work};
use crate::support::report::Report;
use crate::writers::{self, OwnFiles, WRITERS};

pub const LIMIT: &str = "limit";
pub const LIMIT_DIRECT: &str = "limit-direct";
pub const THREADS: &str = "limit-threads";
pub const FILES: &str = "files";
pub const JOURNAL: &str = "journal";
/// The same journal with writers that have no threads of their own.
pub const PARKED: &str = "journal-parked";

pub fn workload(writers: usize) -> String {
    format!("durable-{writers}")
}

/// The journals that are measured. With several devices each has a thread, which writes through a ring or by system calls.
const LOGS: [(&str, &str, EngineKind); 5] = [
    (JOURNAL, "1+0", EngineKind::Auto),
    ("1+1-ring", "1+1", EngineKind::Auto),
    ("1+1-calls", "1+1", EngineKind::Blocking),
    ("4+2-ring", "4+2", EngineKind::Auto),
    ("4+2-calls", "4+2", EngineKind::Blocking),
];

/// What takes the writes.
enum Target {
    Limit(Limit),
    Threads(SharedLimit),
    Files(OwnFiles),
    Log(Arc<Log>),
    Parked(Arc<Log>),
}

impl Target {
    /// The work, and how many of it were acknowledged with a sync of the journal.
    fn measure(&self, writers: usize, period: Duration) -> anyhow::Result<(Work, Option<f64>)> {
        Ok(match self {
            Self::Limit(limit) => (limit.measure(writers, period)?, None),
            Self::Threads(shared) => {
                let write = |_, _| shared.write();
                (writers::run(writers, period, write)?, None)
            }
            Self::Files(files) => {
                let work = writers::run(writers, period, |writer, number| {
                    files.write(writer, number)
                })?;
                (work, None)
            }
            Self::Log(log) => {
                let (work, shared) = log.measure(writers, period)?;
                (work, Some(shared))
            }
            Self::Parked(log) => {
                let (work, shared) = log.measure_parked(writers, period)?;
                (work, Some(shared))
            }
        })
    }
}

pub fn run(arguments: &Arguments, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    let wanted = |writers: &usize| arguments.wants(&workload(*writers));
    let counts: Vec<usize> = WRITERS.into_iter().filter(wanted).collect();
    let Some(most) = counts.iter().max() else {
        return Ok(());
    };
    let scratch = scratch.join("durable");
    std::fs::create_dir(&scratch)?;
    let targets = targets(&scratch, *most)?;
    for writers in counts {
        let name = workload(writers);
        report.set_baseline(&name, LIMIT);
        for round in 0..arguments.rounds {
            for turn in 0..targets.len() {
                let (subject, target) = &targets[(round + turn) % targets.len()];
                let meter = Meter::start(None, None)?;
                let (work, shared) = target
                    .measure(writers, arguments.period())
                    .with_context(|| format!("{name} of {subject}"))?;
                let mut sample = meter.stop(&work)?;
                sample.acknowledged_per_sync = shared;
                report.add(&name, subject, sample);
            }
        }
        report.print_workload(&name);
    }
    drop(targets);
    Ok(std::fs::remove_dir_all(&scratch)?)
}

fn targets(scratch: &Path, writers: usize) -> anyhow::Result<Vec<(&'static str, Target)>> {
    let limit = Limit::create(&scratch.join("limit"), false)?;
    let direct = Limit::create(&scratch.join("limit-direct"), true)?;
    let mut targets = vec![
        (LIMIT, Target::Limit(limit)),
        (LIMIT_DIRECT, Target::Limit(direct)),
        (
            THREADS,
            Target::Threads(SharedLimit::create(&scratch.join("threads"), writers)?),
        ),
        (
            FILES,
            Target::Files(OwnFiles::create(&scratch.join("files"), writers)?),
        ),
    ];
    for (subject, spread, kind) in LOGS {
        let spread = Spread::parse(spread).context("a spread")?;
        let log = Log::open(&scratch.join(subject), spread, kind).context(subject)?;
        let log = Arc::new(log);
        if subject == JOURNAL {
            targets.push((PARKED, Target::Parked(log.clone())));
        }
        targets.push((subject, Target::Log(log)));
    }
    Ok(targets)
}
