//! `nfs-cachefs check`, also spelled `--check-io-uring`: one line for each thing the daemon can use.

use super::{complain, say};
use crate::daemon::error::exit_status;
use crate::daemon::machine::{Finding, Verdict, examine, run_fuse_probe};
use crate::types::printable::one_line;
use std::path::PathBuf;

#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "One line for each thing tried: `ok`, `--` (missing, and what is lost without it) or `NO` (nothing works without it).\n\n\
                  Exit status: 0 the daemon can run here, 1 it cannot."
)]
pub struct Arguments {
    /// A directory on the disk that the cache would use [default: /var/cache/nfs-cachefs]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The directory that would be cached; without it, the cache disk is tried in its place
    #[arg(long, value_name = "DIR")]
    backend: Option<PathBuf>,
    /// The trial mount, run in a process of its own
    #[arg(long, hide = true, exclusive = true, value_name = "DIR")]
    fuse_probe: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> i32 {
    if let Some(directory) = &arguments.fuse_probe {
        return match run_fuse_probe(directory) {
            Ok(()) => exit_status::SUCCESS,
            Err(error) => {
                complain(error);
                exit_status::SYSTEM
            }
        };
    }
    let findings = examine(arguments.cache_dir.as_deref(), arguments.backend.as_deref());
    for finding in &findings {
        say(&(one_line(&finding.in_words()) + "\n"));
    }
    exit_status_of(&findings)
}

fn exit_status_of(findings: &[Finding]) -> i32 {
    match findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fatal)
    {
        true => exit_status::USAGE,
        false => exit_status::SUCCESS,
    }
}
