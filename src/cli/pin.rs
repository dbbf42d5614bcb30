//! `nfs-cachefs pin PATH...`, `nfs-cachefs pin --list MOUNTPOINT`, `nfs-cachefs unpin PATH...`

use super::located::locate;
use super::status::ask;
use super::{complain, harmless, say};
use crate::daemon::control::{Pin, Reply, Request, WirePath};
use crate::daemon::error::exit_status;
use crate::daemon::status::bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Pinned files are fetched, and again when they change, and never go to make room; new files in a pinned directory are pinned with it. A pin that has no room beside the others is refused. Returns when the pin is noted on disk; the daemon fetches what is missing, which --list shows.

Exit status: 0 done, 1 usage, 2 error (nothing of that mount was changed).";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Files, and directories with all beneath them
    #[arg(required_unless_present = "list")]
    paths: Vec<PathBuf>,
    /// Show what is pinned on this mount
    #[arg(long, value_name = "MOUNTPOINT", conflicts_with = "paths")]
    list: Option<PathBuf>,
    /// Print JSON
    #[arg(long, requires = "list")]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "What was pinned stays in the cache as long as there is room.\n\nExit status: 0 done, 1 usage, 2 error (nothing of that mount was changed)."
)]
pub struct UnpinArguments {
    /// Paths that are pinned
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments) -> i32 {
    match &arguments.list {
        Some(mountpoint) => list(mountpoint, arguments.json),
        None => change(&arguments.paths, |paths| Request::Pin { paths }),
    }
}

pub fn unpin(arguments: &UnpinArguments) -> i32 {
    change(&arguments.paths, |paths| Request::Unpin { paths })
}

/// One request to each mount.
fn change(paths: &[PathBuf], request: impl Fn(Vec<WirePath>) -> Request) -> i32 {
    let mut by_mount: BTreeMap<PathBuf, Vec<WirePath>> = BTreeMap::new();
    for path in paths {
        match locate(path) {
            Ok(located) => {
                let paths = by_mount.entry(located.mountpoint).or_default();
                paths.push(WirePath::from(&*located.below));
            }
            Err(reason) => return fail(format_args!("{}: {reason}", path.display())),
        }
    }
    for (mountpoint, paths) in by_mount {
        match pins_of(&mountpoint, &request(paths)) {
            Ok(pins) => pins.iter().for_each(|pin| tell(&mountpoint, pin)),
            Err(reason) => return fail(reason),
        }
    }
    exit_status::SUCCESS
}

fn list(mountpoint: &Path, json: bool) -> i32 {
    let pins = match pins_of(mountpoint, &Request::Pins) {
        Ok(pins) => pins,
        Err(reason) => return fail(reason),
    };
    match (json, serde_json::to_string_pretty(&pins)) {
        (false, _) => pins.iter().for_each(|pin| tell(mountpoint, pin)),
        (true, Ok(text)) => say(&(text + "\n")),
        (true, Err(error)) => return fail(error),
    }
    exit_status::SUCCESS
}

fn pins_of(mountpoint: &Path, request: &Request) -> Result<Vec<Pin>, String> {
    match ask(mountpoint, request)? {
        Reply::Pins { pins } => Ok(pins),
        Reply::Error { message } => Err(message),
        other => Err(format!("unexpected answer {other:?}")),
    }
}

fn tell(mountpoint: &Path, pin: &Pin) {
    let path = mountpoint.join(PathBuf::from(pin.path.clone()));
    let missing = match pin.missing_files {
        0 => String::new(),
        files => format!(", {files} missing ({})", bytes(pin.missing_bytes)),
    };
    let trouble = pin.trouble.as_ref().map(|trouble| format!(": {trouble}"));
    let line = format!(
        "{}: {} files, {}{missing}{}",
        path.display(),
        pin.files,
        bytes(pin.bytes),
        trouble.unwrap_or_default()
    );
    say(&(harmless(&line) + "\n"));
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}
