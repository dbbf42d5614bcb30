//! `nfs-cachefs why PATH... [--json]`

use super::conflicts::{conflicts_of, in_words};
use super::located::locate;
use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request, WirePath};
use crate::daemon::error::exit_status;
use crate::daemon::journal_control::{BackRequest, ConflictReport};
use crate::daemon::unmount::find;
use crate::daemon::why::WhyStatus;
use crate::types::printable::one_line;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Tells how much of a file is cached, of which version, how it is opened and why, whether it is pinned and checked, and why the last read of it had to wait for the backend. The last misses and evictions of some thousand files are remembered.\n\nExit status: 0 told, 1 usage, 2 error with one of them; the others are told of."
)]
pub struct Arguments {
    /// Files below a mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print JSON, a list with one answer for each path that there is one for
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    why: WhyStatus,
    /// What of it, or beside it, `nfs-cachefs conflicts` tells.
    conflicts: Vec<ConflictReport>,
}

impl Answer {
    fn in_words(&self) -> String {
        let conflicts = self.conflicts.iter();
        let lines = conflicts.map(|one| format!("  conflict   {}\n", in_words(one)));
        self.why.in_words() + &lines.collect::<String>()
    }
}

pub fn run(arguments: &Arguments) -> i32 {
    let mut status = exit_status::SUCCESS;
    let mut answers = Vec::new();
    for path in &arguments.paths {
        match why(path) {
            Ok(answer) if arguments.json => answers.push(answer),
            Ok(answer) => {
                let path = one_line(&path.display().to_string());
                say(&format!("{path}\n{}", answer.in_words()));
            }
            Err(reason) => status = fail(format_args!("{}: {reason}", path.display())),
        }
    }
    if arguments.json {
        match serde_json::to_string_pretty(&answers) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => return fail(error),
        }
    }
    status
}

fn why(path: &Path) -> Result<Answer, String> {
    let located = locate(path)?;
    let path = WirePath::from(&*located.below);
    let request = Request::Why { path: path.clone() };
    let why = match ask(&located.mountpoint, &request)? {
        Reply::Why(why) => *why,
        Reply::Error { message } => return Err(message),
        other => return Err(format!("unexpected answer {other:?}")),
    };
    // A mount that does not write back has none, and says so by an error.
    let mount = find(&located.mountpoint).ok().and_then(|(_, mount)| mount);
    let conflicts = mount.and_then(|mount| conflicts_of(&mount, BackRequest::Conflicts).ok());
    let mut conflicts = conflicts.unwrap_or_default();
    conflicts.retain(|one| one.path == path || one.beside == path);
    Ok(Answer { why, conflicts })
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}
