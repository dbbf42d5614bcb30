//! `nfs-cachefs why PATH... [--json]`

use super::located::locate;
use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request, WirePath};
use crate::daemon::error::exit_status;
use crate::daemon::why::WhyStatus;
use crate::types::printable::one_line;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Tells how much of a file is cached, of which version, how it is opened and why, whether it is pinned and checked, and why the last read of it had to wait for the backend. The last misses and evictions of some thousand files are remembered.\n\nExit status: 0 told, 1 usage, 2 error."
)]
pub struct Arguments {
    /// Files below a mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print JSON, a list with one answer for each path
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    let mut answers = Vec::new();
    for path in &arguments.paths {
        match why(path) {
            Ok(answer) if arguments.json => answers.push(answer),
            Ok(answer) => {
                let path = one_line(&path.display().to_string());
                say(&format!("{path}\n{}", answer.in_words()));
            }
            Err(reason) => return fail(format_args!("{}: {reason}", path.display())),
        }
    }
    if arguments.json {
        match serde_json::to_string_pretty(&answers) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => return fail(error),
        }
    }
    exit_status::SUCCESS
}

fn why(path: &Path) -> Result<WhyStatus, String> {
    let located = locate(path)?;
    let path = WirePath::from(&*located.below);
    match ask(&located.mountpoint, &Request::Why { path })? {
        Reply::Why(why) => Ok(*why),
        Reply::Error { message } => Err(message),
        other => Err(format!("unexpected answer {other:?}")),
    }
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}
