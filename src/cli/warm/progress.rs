//! How far it has come: a bar on a terminal, lines of JSON, or nothing until the end.

use super::tally::Tally;
use super::workers::Outcome;
use crate::cli::{complain, say};
use crate::daemon::control::WirePath;
use crate::types::bytes_in_words as in_units;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(1);

pub struct Progress {
    shown: Shown,
    /// Files and bytes, where that was known before it began.
    total: Option<(u64, u64)>,
    began: Instant,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Progress {
    pub fn new(json: bool, total: Option<(u64, u64)>) -> Self {
        let shown = match (json, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Lines {
                last: Instant::now(),
            },
            (false, true) => Shown::Bar(bar(total)),
            (false, false) => Shown::Nothing,
        };
        Self {
            shown,
            total,
            began: Instant::now(),
        }
    }

    /// A file that is not in the cache.
    pub fn name(&self, path: &Path, outcome: &Outcome, reason: &str) {
        let line = format!("{}: {reason}", path.display());
        match &self.shown {
            Shown::Lines { .. } => {
                let kind = match outcome {
                    Outcome::Failed(_) => "failed",
                    Outcome::Held(_) => "missing",
                    Outcome::Warmed(_) => "left",
                };
                let path = WirePath::from(path);
                say_json(
                    &json!({"event": "file", "path": path, "outcome": kind, "reason": reason}),
                );
            }
            Shown::Bar(bar) => bar.suspend(|| complain(&line)),
            Shown::Nothing => complain(&line),
        }
    }

    pub fn show(&mut self, tally: &Tally, files_found: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => {
                match self.total {
                    Some(_) => bar.set_position(tally.bytes()),
                    None => {
                        bar.set_length(files_found);
                        bar.set_position(tally.files());
                    }
                }
                let rate = rate(tally, self.began);
                bar.set_message(format!("{} files, {}/s", tally.files(), in_units(rate)));
            }
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                self.say_line("progress", tally, files_found);
            }
            Shown::Lines { .. } | Shown::Nothing => {}
        }
    }

    fn say_line(&self, event: &str, tally: &Tally, files_found: u64) {
        let mut line = json!({
            "event": event,
            "files": tally.files(),
            "files_found": files_found,
            "seconds": self.began.elapsed().as_secs_f64(),
            "bytes_per_second": rate(tally, self.began),
            "complete": tally.is_complete(),
            "tally": tally,
        });
        if let Some((files, bytes)) = self.total {
            line["total_files"] = files.into();
            line["total_bytes"] = bytes.into();
        }
        say_json(&line);
    }

    /// What there is to say at the end.
    pub fn end(&self, tally: &Tally, is_check: bool) -> String {
        match &self.shown {
            Shown::Lines { .. } => {
                self.say_line("end", tally, tally.files());
                return String::new();
            }
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Nothing => {}
        }
        let (fetched, left) = match is_check {
            true => (String::new(), "not cached"),
            false => (
                format!(
                    "{} files fetched ({}), ",
                    tally.fetched_files,
                    in_units(tally.fetched_bytes)
                ),
                "left out",
            ),
        };
        format!(
            "{} files were cached ({}), {fetched}{} {left} ({}), {} failed\n",
            tally.cached_files,
            in_units(tally.cached_bytes),
            tally.left_files,
            in_units(tally.left_bytes),
            tally.failed_files
        )
    }
}

/// By bytes where it is known how many there are, else by the files found so far.
fn bar(total: Option<(u64, u64)>) -> ProgressBar {
    let (length, counted) = match total {
        Some((_, bytes)) => (bytes, "{bytes} of {total_bytes}"),
        None => (0, "{pos} of {len} files found so far"),
    };
    let template = format!("{{bar:30}} {counted}, {{msg}}, {{eta}} left");
    let plain = ProgressStyle::default_bar();
    let style = ProgressStyle::with_template(&template).unwrap_or(plain);
    ProgressBar::new(length).with_style(style)
}

fn rate(tally: &Tally, began: Instant) -> u64 {
    (tally.fetched_bytes as f64 / began.elapsed().as_secs_f64().max(0.001)) as u64
}

fn say_json(line: &serde_json::Value) {
    say(&format!("{line}\n"));
}
