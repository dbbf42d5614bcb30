//! `nfs-cachefs pin PATH...`, `nfs-cachefs pin --list MOUNTPOINT`, `nfs-cachefs unpin PATH...`

use super::located::{Located, locate, locate_as_written};
use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Pin, Reply, Request, WirePath};
use crate::daemon::error::exit_status;
use crate::types::bytes_in_words as bytes;
use crate::types::printable::one_line;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Pinned files are fetched, and again when they change, and never go to make room; new files in a pinned directory are pinned with it. A pin that has no room beside the others is refused. Returns when the pin is noted on disk; the daemon fetches what is missing, which --list shows.

Exit status: 0 done, 1 usage, 2 error (nothing of that mount was changed).";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    override_usage = "nfs-cachefs pin PATH...\n       nfs-cachefs pin --list [--json] MOUNTPOINT"
)]
pub struct Arguments {
    /// Files, and directories with all beneath them; with --list the mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Show what is pinned on this mount
    #[arg(long)]
    list: bool,
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
    match (arguments.list, &arguments.paths[..]) {
        (true, [mountpoint]) => list(mountpoint, arguments.json),
        (true, _) => {
            complain("--list shows what is pinned on one mount");
            exit_status::USAGE
        }
        (false, paths) => change(paths, locate, |paths| Request::Pin { paths }),
    }
}

pub fn unpin(arguments: &UnpinArguments) -> i32 {
    let request = |paths| Request::Unpin { paths };
    change(&arguments.paths, locate_pinned, request)
}

/// What is pinned as it is written is let go of without a look at it, for which an absent server may be waited.
fn locate_pinned(path: &Path) -> Result<Located, String> {
    let is_pinned = |located: &Located| {
        let wanted = WirePath::from(&*located.below);
        let pins = pins_of(&located.mountpoint, &Request::Pins);
        pins.is_ok_and(|pins| pins.iter().any(|pin| pin.path == wanted))
    };
    match locate_as_written(path).filter(is_pinned) {
        Some(located) => Ok(located),
        None => locate(path),
    }
}

/// One request to each mount.
fn change(
    paths: &[PathBuf],
    locate: impl Fn(&Path) -> Result<Located, String>,
    request: impl Fn(Vec<WirePath>) -> Request,
) -> i32 {
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
    let below = PathBuf::from(pin.path.clone());
    let path = match below.as_os_str().is_empty() {
        true => mountpoint.to_owned(),
        false => mountpoint.join(below),
    };
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
    say(&(one_line(&line) + "\n"));
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}
