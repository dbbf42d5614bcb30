//! What the figures should be, beside what they are: ratios within this run.

use crate::support::report::Report;
use crate::writers::WRITERS;
use crate::{durable, mounted, parity};

const RATE: &str = "operations_per_s";
const BANDWIDTH: &str = "mib_per_s";

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Wanted {
    what: String,
    bound: Bound,
    /// `None` where one of its numbers was not measured.
    found: Option<f64>,
}

/// Of the limit, by the number of writers.
fn part_of_limit(writers: usize) -> f64 {
    if writers < 8 { 0.5 } else { 0.7 }
}

pub fn print(report: &Report) {
    println!("wanted");
    for Wanted { what, bound, found } in all(report) {
        let Some(found) = found else {
            continue;
        };
        let (is_met, bound) = match bound {
            Bound::AtLeast(least) => (found >= least, format!("at least {least}")),
            Bound::AtMost(most) => (found <= most, format!("at most {most}")),
        };
        let verdict = if is_met { "met" } else { "MISSED" };
        println!("  {verdict:<7} {found:>7.2}  {bound:<14} {what}");
    }
}

fn all(report: &Report) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = WRITERS.iter().map(|w| of_limit(report, *w)).collect();
    for (writers, least) in [(32, 10.0), (128, 25.0)] {
        let name = durable::workload(writers);
        all.push(Wanted {
            what: format!("acknowledged writes per sync, {writers} writers"),
            bound: Bound::AtLeast(least),
            found: report.median_of(&name, durable::JOURNAL, "acknowledged_per_sync"),
        });
    }
    all.extend(WRITERS.iter().map(|w| of_threads(report, *w)));
    all.push(lone_sync(report));
    all.extend(mounted::KINDS.iter().map(|kind| sequential(report, kind)));
    all.extend(parity::SHARD_KIB.iter().map(|kib| encoding(report, *kib)));
    all
}

fn best_limit(report: &Report, writers: usize) -> Option<f64> {
    let name = durable::workload(writers);
    let limit = |subject| report.median_of(&name, subject, RATE);
    let (buffered, direct) = (limit(durable::LIMIT)?, limit(durable::LIMIT_DIRECT)?);
    Some(buffered.max(direct))
}

/// The limit wakes nobody: beside it stand writers without threads of their own, as fsync through a mount has them.
fn of_limit(report: &Report, writers: usize) -> Wanted {
    let rate = report.median_of(&durable::workload(writers), durable::PARKED, RATE);
    Wanted {
        what: format!("durable 4 KiB, {writers} writers, of the better limit"),
        bound: Bound::AtLeast(part_of_limit(writers)),
        found: ratio(rate, best_limit(report, writers)),
    }
}

/// What each waits for on a thread of its own cannot be had without waking them all.
fn of_threads(report: &Report, writers: usize) -> Wanted {
    let name = durable::workload(writers);
    let rate = |subject| report.median_of(&name, subject, RATE);
    Wanted {
        what: format!("durable 4 KiB, {writers} writers, of a bare log with as many threads"),
        bound: Bound::AtLeast(part_of_limit(writers)),
        found: ratio(rate(durable::JOURNAL), rate(durable::THREADS)),
    }
}

fn lone_sync(report: &Report) -> Wanted {
    let name = durable::workload(1);
    let took = |subject| report.median_of(&name, subject, "p50_us");
    Wanted {
        what: "a lone durable 4 KiB, of a bare write and fdatasync".to_owned(),
        bound: Bound::AtMost(1.5),
        found: ratio(took(durable::JOURNAL), took(durable::LIMIT)),
    }
}

fn sequential(report: &Report, kind: &mounted::Kind) -> Wanted {
    let rate = |subject| report.median_of(mounted::LARGE, subject, BANDWIDTH);
    let share = rate(mounted::DISK).map(|disk| disk / kind.copies);
    Wanted {
        what: format!("{} of the disk by copies, {}", mounted::LARGE, kind.label),
        bound: Bound::AtLeast(0.6),
        found: ratio(rate(kind.label), share),
    }
}

fn encoding(report: &Report, shard_kib: usize) -> Wanted {
    let name = parity::workload(shard_kib);
    let rate = |subject| report.median_of(&name, subject, BANDWIDTH);
    Wanted {
        what: format!("parity of 4+2, shards of {shard_kib} KiB, of ISA-L"),
        bound: Bound::AtLeast(0.5),
        found: ratio(rate(parity::OURS), rate(parity::ISA_L)),
    }
}

fn ratio(found: Option<f64>, of: Option<f64>) -> Option<f64> {
    Some(found? / of.filter(|of| *of > 0.0)?)
}
