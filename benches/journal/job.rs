//! A job as a compiler does it, on a simulated slow server: many small files, some of them written under another name first.
//! On the server itself, through a mount, and through a mount with `write_mode=back`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Arguments;
use crate::mounted::{back_options, drain};
use crate::support::measure::{Meter, Sample, Work, latency_histogram};
use crate::support::report::Report;
use crate::support::slow_server::SlowServer;
use crate::support::subject::{Mounted, start_cached};

pub const NAME: &str = "job-slow-server";
pub const NATIVE: &str = "native";
pub const THROUGH: &str = "through";
pub const BACK: &str = "back";
/// As an NFS client does (acregmin).
const ATTRIBUTES_BELIEVED: Duration = Duration::from_secs(3);
const FILES_PER_DIRECTORY: u64 = 100;
/// Every so many files one is written under another name.
const RENAMED: u64 = 4;
const FILE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=20 << 10;

struct Subject {
    label: &'static str,
    root: PathBuf,
    daemon: Option<Mounted>,
}

pub fn run(arguments: &Arguments, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    if !arguments.wants(NAME) {
        return Ok(());
    }
    let backing = scratch.join("server-disk");
    fs::create_dir(&backing)?;
    let Some(mut server) = SlowServer::start(NAME, &backing, scratch, ATTRIBUTES_BELIEVED)? else {
        return Ok(());
    };
    let subjects = subjects(&server.export, scratch)?;
    for round in 0..arguments.rounds {
        for turn in 0..subjects.len() {
            let subject = &subjects[(round + turn) % subjects.len()];
            server.reset_counters()?;
            let sample = subject.run(arguments.files, round).context(subject.label)?;
            report.add(NAME, subject.label, sample);
            if round == 0 {
                tell_calls(subject.label, &mut server, arguments.files)?;
            }
        }
    }
    report.print_workload(NAME);
    Ok(())
}

fn subjects(export: &Path, scratch: &Path) -> anyhow::Result<Vec<Subject>> {
    let mut all = vec![Subject {
        label: NATIVE,
        root: export.to_owned(),
        daemon: None,
    }];
    for label in [THROUGH, BACK] {
        let place = scratch.join(format!("job-{label}"));
        let (root, cache) = (place.join("mount"), place.join("cache"));
        let options = match label {
            BACK => back_options(&place, 1)?,
            _ => "write_mode=through".to_owned(),
        };
        let daemon = start_cached(export, &root, &cache, &options)?;
        all.push(Subject {
            label,
            root,
            daemon: Some(daemon),
        });
    }
    Ok(all)
}

/// Of the server, the removal of what was made and the drain among them.
fn tell_calls(subject: &str, server: &mut SlowServer, files: u64) -> anyhow::Result<()> {
    let calls = server.calls()?;
    let each: Vec<String> = calls
        .iter()
        .map(|(kind, count)| format!("{kind} {:.2}", *count as f64 / files as f64))
        .collect();
    println!("{NAME} {subject}: calls a file: {}", each.join(", "));
    Ok(())
}

impl Subject {
    fn run(&self, files: u64, round: usize) -> anyhow::Result<Sample> {
        let directory = self.root.join(format!("{}-{round}", self.label));
        fs::create_dir(&directory)?;
        let meter = Meter::start(self.daemon.as_ref().map(Mounted::pid), None)?;
        let work = make_files(&directory, files)?;
        let mut sample = meter.stop(&work)?;
        if self.label == BACK {
            sample.drained_after_s = Some(drain(&self.root)?);
        }
        fs::remove_dir_all(&directory).context("removing what was made")?;
        Ok(sample)
    }
}

fn make_files(directory: &Path, files: u64) -> anyhow::Result<Work> {
    let content = vec![0xc3; *FILE_BYTES.end() as usize];
    let mut latencies = latency_histogram();
    let mut bytes = 0;
    for number in 0..files {
        let folder = directory.join(format!("d{:03}", number / FILES_PER_DIRECTORY));
        let begin = Instant::now();
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(&folder)?;
        }
        let spread = FILE_BYTES.end() - FILE_BYTES.start();
        let length = FILE_BYTES.start() + number * 7919 % spread;
        let path = folder.join(format!("f{number:05}"));
        match number % RENAMED {
            0 => {
                let unfinished = path.with_extension("tmp");
                fs::write(&unfinished, &content[..length as usize])?;
                fs::rename(&unfinished, &path)?;
            }
            _ => fs::write(&path, &content[..length as usize])?,
        }
        latencies.record(begin.elapsed().as_nanos() as u64)?;
        bytes += length;
    }
    Ok(Work {
        operations: files,
        bytes,
        latencies: Some(latencies),
    })
}
