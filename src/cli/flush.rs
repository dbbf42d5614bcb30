//! `nfs-cachefs flush PATH... [--wait]`

use super::conflicts::conflicts_of;
use super::located::locate;
use super::status::patiently;
use super::{complain, remark, say};
use crate::daemon::control::WirePath;
use crate::daemon::draining::{ask, drain};
use crate::daemon::error::exit_status;
use crate::daemon::journal_control::{BackReply, BackRequest, UnsentReport};
use crate::daemon::mount_table::Mount;
use crate::daemon::status::bytes;
use crate::daemon::unmount::{connect, find};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 it is on its way, or with --wait on the backend's stable storage, 1 usage, 2 error; with --wait: 3 the backend does not take it, it stays in the journal, 4 it is there, some of it beside files that somebody else has changed meanwhile."
)]
pub struct Arguments {
    /// What is to be on the backend: a mount, or files and directories of one
    path: PathBuf,
    /// Wait until the backend has it
    #[arg(long)]
    wait: bool,
}

/// The backend does not take some of it.
const FILES_LEFT: i32 = 3;
/// Some of it lies beside what it was written to.
const CONFLICTS: i32 = 4;

pub fn run(arguments: &Arguments) -> i32 {
    flush(arguments).unwrap_or_else(|error| {
        complain(format_args!("{}: {error}", arguments.path.display()));
        exit_status::SYSTEM
    })
}

fn flush(arguments: &Arguments) -> Result<i32, String> {
    let located = locate(&arguments.path)?;
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if let Err(error) = fs::symlink_metadata(&arguments.path)
        && absent(&error)
    {
        return Err(error.to_string());
    }
    let (_, mount) = find(&located.mountpoint).map_err(|error| error.to_string())?;
    let mount = mount.ok_or("not a mount of nfs-cachefs")?;
    let paths = vec![WirePath::from(&*located.below)];
    if arguments.wait {
        return wait(&mount, &located.below, &paths);
    }
    let flush = BackRequest::Flush {
        paths,
        moment: None,
    };
    match ask(patiently(|| connect(&mount)), flush)? {
        BackReply::Unsent(left) => {
            match left.is_done() {
                true => remark("the backend has it all"),
                false => say(&format!(
                    "{} files, {} on their way\n",
                    left.files,
                    bytes(left.bytes)
                )),
            }
            Ok(exit_status::SUCCESS)
        }
        other => Err(format!("unexpected answer {other:?}")),
    }
}

fn wait(mount: &Mount, below: &Path, paths: &[WirePath]) -> Result<i32, String> {
    let before = conflicts_of(mount, BackRequest::Conflicts)?;
    let mut progress = Progress::default();
    let left = drain(
        paths,
        || patiently(|| connect(mount)),
        |left| progress.show(left),
    );
    progress.end();
    let left = left?;
    let mut conflicts = conflicts_of(mount, BackRequest::Conflicts)?;
    conflicts
        .retain(|one| !before.contains(one) && PathBuf::from(one.path.clone()).starts_with(below));
    if !conflicts.is_empty() {
        complain(format_args!(
            "{} files were changed or removed by somebody else meanwhile; what was written here lies beside them: `nfs-cachefs conflicts {}` lists it",
            conflicts.len(),
            mount.mountpoint.display()
        ));
    }
    if !left.is_done() {
        complain(left.in_words());
        return Ok(FILES_LEFT);
    }
    Ok(match conflicts.is_empty() {
        true => {
            remark("the backend has it all");
            exit_status::SUCCESS
        }
        false => CONFLICTS,
    })
}

/// A bar on a terminal, nothing else.
#[derive(Default)]
pub struct Progress {
    bar: Option<ProgressBar>,
    sent_before: u64,
}

impl Progress {
    pub fn show(&mut self, left: &UnsentReport) {
        if self.bar.is_none() && (left.is_done() || !std::io::stderr().is_terminal()) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            self.sent_before = left.sent_bytes;
            let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {msg}");
            let plain = ProgressStyle::default_bar();
            ProgressBar::new(left.bytes).with_style(style.unwrap_or(plain))
        });
        bar.set_position(left.sent_bytes - self.sent_before);
        bar.set_message(format!("{} files left", left.files));
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
