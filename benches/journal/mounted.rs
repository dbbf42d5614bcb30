//! Writing through a mount with `write_mode=back`, backend, journal and cache on one disk.
//!
//! - large: four times what may be dirty, in 1 MiB writes, on stable storage of the journal at the end; beside it the same past
//!   the page cache into a file whose blocks were written before
//! - small: durable writes of 4 KiB, a file for each writer

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use nfs_cachefs::io::BufferPool;

use crate::Arguments;
use crate::support::measure::{Meter, Sample, Work};
use crate::support::report::Report;
use crate::support::subject::{Mounted, product, start_cached};
use crate::writers::{self, OwnFiles, WRITERS};

pub const LARGE: &str = "mounted-large";
pub const DISK: &str = "disk";
const NATIVE: &str = "native";
const CHUNK_BYTES: usize = 1 << 20;
/// More of them than on the library would measure how threads wait.
const SMALL_WRITERS: &[usize] = WRITERS.split_at(3).0;
/// The dirty limit is this part of what is written.
const DIRTY_PART: u64 = 4;
const JOURNAL_MIB_MIN: u64 = 64;

/// A mount, and how many bytes go to the disk for each that is written.
pub struct Kind {
    pub label: &'static str,
    erasure: &'static str,
    devices: u8,
    /// Twice what may be dirty is divided by this, for each device.
    less_journal: u64,
    keep: &'static str,
    pub copies: f64,
}

pub const KINDS: [Kind; 3] = [
    Kind {
        label: "back",
        erasure: "1+0",
        devices: 1,
        less_journal: 1,
        keep: "never",
        copies: 2.0,
    },
    Kind {
        label: "back-kept",
        erasure: "1+0",
        devices: 1,
        less_journal: 1,
        keep: "always",
        copies: 3.0,
    },
    Kind {
        label: "back-4+2",
        erasure: "4+2",
        devices: 6,
        less_journal: 2,
        keep: "never",
        copies: 2.5,
    },
];

struct Subject {
    label: &'static str,
    root: PathBuf,
    daemon: Option<Mounted>,
}

pub fn small_workload(writers: usize) -> String {
    format!("mounted-small-{writers}")
}

pub fn run(arguments: &Arguments, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    let names = SMALL_WRITERS.iter().map(|writers| small_workload(*writers));
    let is_small_wanted = names.into_iter().any(|name| arguments.wants(&name));
    if !arguments.wants(LARGE) && !is_small_wanted {
        return Ok(());
    }
    let mounts = KINDS
        .iter()
        .map(|kind| mount(kind, arguments, scratch))
        .collect::<anyhow::Result<Vec<Subject>>>()?;
    if arguments.wants(LARGE) {
        large(arguments, scratch, &mounts, report)?;
    }
    small(arguments, scratch, &mounts[0], report)
}

fn mount(kind: &Kind, arguments: &Arguments, scratch: &Path) -> anyhow::Result<Subject> {
    let place = scratch.join(kind.label);
    let (backend, root) = (place.join("backend"), place.join("mount"));
    fs::create_dir_all(&backend)?;
    let dirty_mib = arguments.size_mib / DIRTY_PART;
    let journal_mib = 2 * dirty_mib / kind.less_journal;
    let options = format!(
        "{},erasure={},keep_written={},dirty_limit={dirty_mib}M,journal_size={}M",
        back_options(&place, kind.devices)?,
        kind.erasure,
        kind.keep,
        journal_mib.max(JOURNAL_MIB_MIN)
    );
    let daemon = start_cached(&backend, &root, &place.join("cache"), &options)?;
    Ok(Subject {
        label: kind.label,
        root,
        daemon: Some(daemon),
    })
}

/// The options of a journal in directories of its own.
pub fn back_options(place: &Path, devices: u8) -> anyhow::Result<String> {
    let mut directories = Vec::new();
    for number in 0..devices {
        let path = place.join(format!("journal-{number}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        directories.push(path.display().to_string());
    }
    let directories = directories.join(":");
    Ok(format!("write_mode=back,journal_dir={directories}"))
}

/// Seconds until the backend has all of it.
pub fn drain(mountpoint: &Path) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let output = product()
        .args(["flush", "--wait"])
        .arg(mountpoint)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "flush --wait: {said}");
    Ok(begin.elapsed().as_secs_f64())
}

fn large(
    arguments: &Arguments,
    scratch: &Path,
    mounts: &[Subject],
    report: &mut Report,
) -> anyhow::Result<()> {
    report.set_baseline(LARGE, DISK);
    let disk = scratch.join("large-on-disk");
    for round in 0..arguments.rounds {
        for turn in 0..=mounts.len() {
            match mounts.get((round + turn) % (mounts.len() + 1)) {
                Some(subject) => report.add(LARGE, subject.label, subject.large(arguments)?),
                None => report.add(LARGE, DISK, past_the_cache(&disk, arguments)?),
            }
        }
    }
    fs::remove_file(&disk)?;
    report.print_workload(LARGE);
    Ok(())
}

/// The file is there, with all its blocks, from the second call on: the first is not measured but for them.
fn past_the_cache(path: &Path, arguments: &Arguments) -> anyhow::Result<Sample> {
    if !path.exists() {
        write_directly(path, arguments)?;
    }
    let meter = Meter::start(None, None)?;
    let work = write_directly(path, arguments)?;
    meter.stop(&work)
}

fn write_directly(path: &Path, arguments: &Arguments) -> anyhow::Result<Work> {
    let pool = BufferPool::new(1, CHUNK_BYTES, false)?;
    let buffer = pool.try_take().context("an aligned buffer")?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    for number in 0..arguments.size_mib {
        file.write_all_at(&buffer, number << 20)?;
    }
    file.sync_data()?;
    Ok(chunks(arguments.size_mib))
}

fn chunks(operations: u64) -> Work {
    Work {
        operations,
        bytes: operations << 20,
        latencies: None,
    }
}

impl Subject {
    fn pid(&self) -> Option<i32> {
        self.daemon.as_ref().map(Mounted::pid)
    }

    fn large(&self, arguments: &Arguments) -> anyhow::Result<Sample> {
        let path = self.root.join("large");
        let chunk = vec![0x5a; CHUNK_BYTES];
        let meter = Meter::start(self.pid(), None)?;
        let mut file = File::create(&path)?;
        for _ in 0..arguments.size_mib {
            file.write_all(&chunk)?;
        }
        file.sync_all()?;
        let mut sample = meter.stop(&chunks(arguments.size_mib))?;
        drop(file);
        sample.drained_after_s = Some(drain(&self.root)?);
        fs::remove_file(&path)?;
        Ok(sample)
    }

    fn small(&self, writers: usize, arguments: &Arguments) -> anyhow::Result<Sample> {
        let directory = self.root.join(format!("small-{writers}"));
        let files = OwnFiles::create(&directory, writers)?;
        let meter = Meter::start(self.pid(), None)?;
        let work = writers::run(writers, arguments.period(), |writer, number| {
            files.write(writer, number)
        })?;
        let mut sample = meter.stop(&work)?;
        if self.daemon.is_some() {
            sample.drained_after_s = Some(drain(&self.root)?);
        }
        drop(files);
        fs::remove_dir_all(&directory)?;
        Ok(sample)
    }
}

fn small(
    arguments: &Arguments,
    scratch: &Path,
    mount: &Subject,
    report: &mut Report,
) -> anyhow::Result<()> {
    let native = Subject {
        label: NATIVE,
        root: scratch.join("small-on-disk"),
        daemon: None,
    };
    for writers in SMALL_WRITERS {
        let name = small_workload(*writers);
        if !arguments.wants(&name) {
            continue;
        }
        for round in 0..arguments.rounds {
            for turn in 0..2 {
                let subject = [&native, mount][(round + turn) % 2];
                report.add(&name, subject.label, subject.small(*writers, arguments)?);
            }
        }
        report.print_workload(&name);
    }
    Ok(())
}
