//! `nfs-cachefs trace MOUNTPOINT [--path PATTERN] [--json]`

use super::status::follow;
use super::{complain, say};
use crate::daemon::control::{Reply, WirePath};
use crate::daemon::error::exit_status;
use crate::daemon::watching::{Operation, WatchLine, WatchRequest};
use crate::types::printable::one_line;
use std::io::BufRead;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Each line is an operation that is over: when it began (UTC), what it was, its path from the root of the mount, who \
asked (user and thread), offset and bytes, how it ended, how long it took, and how it was served:

  passthrough  an open; the kernel reads the file from the cache disk by itself, and nothing is told of that
  hit          from what is cached
  fill         from the cache, after bytes were fetched for it
  backend      the backend was asked, or changed
  journal      it is in the journal (write_mode=back)
  known        from what was known, because the backend is slow or away
  memory       from the daemon's memory, without waiting

What the kernel answers from its own memory (pages, names and attributes within their timeouts) does not come to the \
daemon either. Whoever reads too slowly misses lines, and is told how many. The log of the daemon names requests by \
the same number (#). Ends with Ctrl-C, or with the mount.

Exit status: 0 the mount has ended, 1 usage, 2 error.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The mount to follow
    mountpoint: PathBuf,
    /// Only what concerns this path from the root of the mount (or with MOUNTPOINT before it) and what is below it; with * and ? a pattern of the whole path
    #[arg(long, value_name = "PATTERN")]
    path: Option<String>,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    let pattern = arguments.path.as_deref();
    let pattern = pattern.map(|pattern| from_root(pattern, &arguments.mountpoint).to_owned());
    let request = WatchRequest::Operations {
        pattern: pattern.filter(|pattern| !pattern.is_empty()),
    };
    let told =
        follow(&arguments.mountpoint, &request).and_then(|lines| print_all(lines, arguments.json));
    match told {
        Ok(()) => exit_status::SUCCESS,
        Err(error) => {
            complain(error);
            exit_status::SYSTEM
        }
    }
}

/// A path is often given as programs know it.
fn from_root<'a>(pattern: &'a str, mountpoint: &Path) -> &'a str {
    let mountpoint = std::path::absolute(mountpoint).unwrap_or_default();
    // Without a slash at its end.
    let mountpoint: PathBuf = mountpoint.components().collect();
    let below = mountpoint
        .to_str()
        .and_then(|mountpoint| pattern.strip_prefix(mountpoint));
    match below {
        Some("") => "",
        Some(below) if below.starts_with('/') => below.trim_start_matches('/'),
        _ => pattern,
    }
}

/// Until the daemon ends.
fn print_all(lines: impl BufRead, json: bool) -> Result<(), String> {
    for line in lines.lines() {
        let Ok(line) = line else { break };
        match (understood(&line)?, json) {
            (WatchLine::Refused { message }, _) => return Err(message),
            (WatchLine::Listening, false) => say(&(heading() + "\n")),
            (WatchLine::Operation(_) | WatchLine::Lost { .. }, true) => say(&(line + "\n")),
            (WatchLine::Operation(operation), false) => say(&(in_words(&operation) + "\n")),
            (WatchLine::Lost { operations }, false) => {
                say(&format!(
                    "({operations} operations are missing here: read too slowly)\n"
                ));
            }
            (WatchLine::Listening, true) | (WatchLine::Load(_), _) => {}
        }
    }
    Ok(())
}

/// A line of the daemon. One that is older knows nothing of this, and says so.
pub fn understood(line: &str) -> Result<WatchLine, String> {
    serde_json::from_str(line).map_err(|error| match serde_json::from_str(line) {
        Ok(Reply::Error { message }) => message,
        Ok(_) | Err(_) => format!("the daemon's answer is not understood: {error}"),
    })
}

fn heading() -> String {
    row([
        "TIME",
        "OPERATION",
        "UID",
        "PID",
        "RESULT",
        "TOOK",
        "SERVED",
        "PATH",
    ])
}

fn row([time, operation, uid, pid, result, took, served, path]: [&str; 8]) -> String {
    format!(
        "{time:<15} {operation:<15} {uid:>6} {pid:>7} {result:<12} {took:>10} {served:<11} {path}"
    )
}

fn in_words(operation: &Operation) -> String {
    let result = operation.error.clone().unwrap_or_else(|| "ok".to_owned());
    let line = row([
        &time_of_day(operation.began_seconds, operation.began_nanoseconds),
        &operation.operation,
        &operation.uid.to_string(),
        &operation.pid.to_string(),
        &result,
        &format!("{} us", operation.latency_us),
        &operation.served,
        &shown(operation.path.as_ref()),
    ]);
    let to = operation.to.as_ref();
    let to = to.map_or_else(String::new, |to| format!(" -> {}", shown(Some(to))));
    let at = operation.offset;
    let at = at.map_or_else(String::new, |offset| {
        format!(" {}+{}", offset, operation.bytes)
    });
    one_line(&format!("{line}{to}{at} #{}", operation.request))
}

/// The root of the mount is a dot.
fn shown(path: Option<&WirePath>) -> String {
    let Some(path) = path else {
        return "(no name)".to_owned();
    };
    let path = PathBuf::from(path.clone());
    match path.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => path.display().to_string(),
    }
}

fn time_of_day(seconds: i64, nanoseconds: u32) -> String {
    let second = seconds.rem_euclid(86_400);
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        nanoseconds / 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_the_mountpoint_before_it() {
        let mountpoint = Path::new("/mnt/c/");
        assert_eq!(from_root("/mnt/c/a/b*", mountpoint), "a/b*");
        assert_eq!(from_root("/mnt/c", mountpoint), "");
        for other in ["a/b", "/mnt/cd/a", "*.o", ""] {
            assert_eq!(from_root(other, mountpoint), other);
        }
    }

    #[test]
    fn a_line_has_all_there_is_to_know_and_stays_one_line() {
        let operation = Operation {
            request: 42,
            began_seconds: 86_400 + 3661,
            began_nanoseconds: 5_000,
            operation: "rename".to_owned(),
            path: Some(WirePath::Text("a\nb".to_owned())),
            to: Some(WirePath::Text("c".to_owned())),
            uid: 1000,
            pid: 77,
            offset: Some(4096),
            bytes: 512,
            error: Some("ENOENT".to_owned()),
            latency_us: 1234,
            served: "backend".to_owned(),
        };
        let line = in_words(&operation);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "01:01:01.000005",
                "rename",
                "1000",
                "77",
                "ENOENT",
                "1234",
                "us",
                "backend",
                "a\\nb",
                "->",
                "c",
                "4096+512",
                "#42"
            ]
        );
    }
}
