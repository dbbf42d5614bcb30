//! `nfs-cachefs conflicts MOUNTPOINT [--keep ours|theirs|both PATH...]`

use super::status::patiently;
use super::{complain, remark, say};
use crate::daemon::control::{WirePath, relative_to_mount};
use crate::daemon::draining::ask;
use crate::daemon::error::exit_status;
use crate::daemon::journal_control::{BackReply, BackRequest, ConflictReport};
use crate::daemon::mount_table::Mount;
use crate::daemon::unmount::{connect, find};
use crate::types::printable::one_line;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

mod resolve;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "In JSON a path is a string, or an array of its bytes where it is not UTF-8.\n\nExit status: 0 it was done, or there is none, 1 usage, 2 error, 3 without --keep: there are some."
)]
pub struct Arguments {
    /// The mount
    mountpoint: PathBuf,
    /// Print JSON
    #[arg(long, conflicts_with = "keep")]
    json: bool,
    /// Ours: what was written here becomes the file, where all of it is there, also if nothing has that name by now. Theirs: it is removed. Both: the files stay
    /// as they are, and are not shown again
    #[arg(long, requires = "paths")]
    keep: Option<Keep>,
    /// Files that conflicts are shown for, or what lies beside them: absolute, or relative to MOUNTPOINT
    paths: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Keep {
    Ours,
    Theirs,
    Both,
}

/// There are conflicts.
const SOME: i32 = 3;

pub fn run(arguments: &Arguments) -> i32 {
    let outcome = match arguments.keep {
        None => list(arguments),
        Some(keep) => resolve_all(arguments, keep).map(|()| exit_status::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        complain(error);
        exit_status::SYSTEM
    })
}

fn list(arguments: &Arguments) -> Result<i32, String> {
    let (mount, resolved) = found(&arguments.mountpoint)?;
    let mut conflicts = told_of(arguments, &mount)?;
    if !arguments.paths.is_empty() {
        let wanted = relative_paths(arguments, &resolved)?;
        conflicts.retain(|one| wanted.iter().any(|path| is_about(one, path)));
    }
    if conflicts.is_empty() && !arguments.json {
        remark("no conflicts");
    }
    let mut status = exit_status::SUCCESS;
    if arguments.json {
        let text = serde_json::to_string_pretty(&conflicts).map_err(|error| error.to_string())?;
        say(&(text + "\n"));
    }
    for conflict in &conflicts {
        status = SOME;
        if !arguments.json {
            say(&(in_words(conflict) + gone_in_words(&resolved, conflict) + "\n"));
        }
    }
    Ok(status)
}

pub(super) fn in_words(conflict: &ConflictReport) -> String {
    let shown = |path: &WirePath| one_line(&local(path).to_string_lossy());
    let what = match (conflict.is_removed, &conflict.ranges) {
        (true, None) => "removed by somebody else; ours is",
        (true, Some(_)) => "removed by somebody else; the ranges that were written here are in",
        (false, None) => "changed by somebody else; ours is",
        (false, Some(_)) => "changed by somebody else; the ranges that were written here are in",
    };
    let (path, beside) = (shown(&conflict.path), shown(&conflict.beside));
    format!("{path}: {what} {beside}")
}

/// What lies beside is an ordinary file, and who looked at it may have moved it.
fn gone_in_words(mountpoint: &Path, conflict: &ConflictReport) -> &'static str {
    let beside = mountpoint.join(local(&conflict.beside));
    match std::fs::symlink_metadata(beside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ", which is not there any more: --keep both takes it off this list"
        }
        _ => "",
    }
}

fn resolve_all(arguments: &Arguments, keep: Keep) -> Result<(), String> {
    let (mount, resolved) = found(&arguments.mountpoint)?;
    let conflicts = told_of(arguments, &mount)?;
    for relative in relative_paths(arguments, &resolved)? {
        let is_it = |one: &&ConflictReport| is_about(one, &relative);
        let meant: Vec<_> = conflicts.iter().filter(is_it).collect();
        if meant.is_empty() {
            return Err(format!(
                "{}: no conflict is known of it",
                relative.display()
            ));
        }
        for conflict in meant {
            resolve::resolve(&resolved, conflict, keep)
                .map_err(|error| format!("{}: {error}", relative.display()))?;
            let beside = vec![conflict.beside.clone()];
            conflicts_of(&mount, BackRequest::ForgetConflicts { beside })?;
            if keep == Keep::Ours {
                let path = one_line(&relative.to_string_lossy());
                say(&format!(
                    "{path}: ours is in its place again, and is sent to the backend; `nfs-cachefs flush --wait` sees to it now\n"
                ));
            }
        }
    }
    Ok(())
}

fn is_about(conflict: &ConflictReport, relative: &Path) -> bool {
    local(&conflict.path) == relative || local(&conflict.beside) == relative
}

/// The paths of the command line, below the mount.
fn relative_paths(arguments: &Arguments, resolved: &Path) -> Result<Vec<PathBuf>, String> {
    let given = std::path::absolute(&arguments.mountpoint).map_err(|error| error.to_string())?;
    let relative = |path: &OsString| {
        let below = relative_to_mount(&given, path).or_else(|| relative_to_mount(resolved, path));
        below.ok_or_else(|| {
            let (path, mount) = (Path::new(path).display(), given.display());
            format!("{path}: not inside {mount}")
        })
    };
    arguments.paths.iter().map(relative).collect()
}

/// The mount, and where it is.
fn found(mountpoint: &Path) -> Result<(Mount, PathBuf), String> {
    let shown = mountpoint.display();
    let (resolved, mount) = find(mountpoint).map_err(|error| format!("{shown}: {error}"))?;
    let mount = mount.ok_or_else(|| format!("{shown}: not a mount of nfs-cachefs"))?;
    Ok((mount, resolved))
}

fn told_of(arguments: &Arguments, mount: &Mount) -> Result<Vec<ConflictReport>, String> {
    let shown = arguments.mountpoint.display();
    conflicts_of(mount, BackRequest::Conflicts).map_err(|error| format!("{shown}: {error}"))
}

pub(super) fn conflicts_of(
    mount: &Mount,
    request: BackRequest,
) -> Result<Vec<ConflictReport>, String> {
    match ask(patiently(|| connect(mount)), request)? {
        BackReply::Conflicts { conflicts } => Ok(conflicts),
        other => Err(format!("unexpected answer {other:?}")),
    }
}

fn local(path: &WirePath) -> PathBuf {
    PathBuf::from(path.clone())
}
