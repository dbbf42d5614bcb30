//! `nfs-cachefs bench MOUNTPOINT [--read-only FILE] [--size MIB] [--json]`
//!
//! - `folder`: a folder of its own, and its end
//! - `measure`: one path, measured
//! - `steps`: all of them, in order
//! - `told`: the table and the verdict

mod folder;
mod measure;
mod steps;
mod told;

use self::steps::{Subject, measure_all};
use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request};
use crate::daemon::error::exit_status;
use crate::daemon::mount_table::mount_of;
use crate::daemon::status::Status;
use crate::types::printable::harmless;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Measures the disk of the cache, the backend, a first read through the mount (miss), the next ones (hits), small reads, \
opens, and writes with their fsync, and says whether the cache helps. Writes a few files into a folder of its own, \
made through the mount and removed at the end; with --read-only it writes nothing on the backend, has the cache let go \
of FILE, and reads it. Takes under a minute. Other load counts as well: measure a quiet machine, or more than once.

Exit status: 0 measured, 1 usage, 2 it could not be measured.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The mount to measure
    mountpoint: PathBuf,
    /// Only read, this file below the mount; some MiB at least
    #[arg(long, value_name = "FILE")]
    read_only: Option<PathBuf>,
    /// How much is written and read, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=4096))]
    size: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    let measured = subject_of(arguments).and_then(|subject| measure_all(&subject));
    let report = match measured {
        Ok(report) => report.with_verdict(),
        Err(error) => {
            complain(error);
            return exit_status::SYSTEM;
        }
    };
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&report).map(|text| text + "\n"),
        false => Ok(harmless(&report.in_words())),
    };
    match text {
        Ok(text) => {
            say(&text);
            exit_status::SUCCESS
        }
        Err(error) => {
            complain(error);
            exit_status::SYSTEM
        }
    }
}

/// What can be measured, or why nothing can.
fn subject_of(arguments: &Arguments) -> Result<Subject, String> {
    let status = match ask(&arguments.mountpoint, &Request::Status)? {
        Reply::Status(status) => *status,
        other => return Err(format!("unexpected answer {other:?}")),
    };
    refuse_unfit(&status, arguments)?;
    let mountpoint = PathBuf::from(&status.mountpoint);
    let file = arguments
        .read_only
        .as_ref()
        .map(|file| below(&mountpoint, file));
    Ok(Subject {
        backend: PathBuf::from(&status.backend.path),
        cache: PathBuf::from(&status.cache.directories[0].path),
        file: file.transpose()?,
        mountpoint,
        status,
        size_bytes: arguments.size << 20,
    })
}

fn refuse_unfit(status: &Status, arguments: &Arguments) -> Result<(), String> {
    let shown = &status.mountpoint;
    if !status.backend.reachable {
        return Err(format!(
            "{shown}: its backend is away; `nfs-cachefs doctor {shown}` says more"
        ));
    }
    if status.read_only && arguments.read_only.is_none() {
        return Err(format!(
            "{shown}: mounted read-only; name a file to read: --read-only FILE"
        ));
    }
    let is_broken = |state: &str| state != "ok";
    let directories = &status.cache.directories;
    if directories.is_empty() || directories.iter().any(|one| is_broken(&one.state)) {
        return Err(format!(
            "{shown}: a cache directory is out of order; `nfs-cachefs status {shown}` says why"
        ));
    }
    let on = mount_of(Path::new(&status.backend.path)).map_err(|error| error.to_string())?;
    if on.is_some_and(|mount| mount.is_cachefs()) {
        return Err(format!(
            "{shown}: it covers the path of its own backend ({}), which cannot be measured by itself then; bind-mount the backend elsewhere and mount that",
            status.backend.path
        ));
    }
    Ok(())
}

fn below(mountpoint: &Path, file: &Path) -> Result<PathBuf, String> {
    let file = file
        .canonicalize()
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let below = file.strip_prefix(mountpoint).map(Path::to_owned);
    below.map_err(|_| format!("{}: not below {}", file.display(), mountpoint.display()))
}
