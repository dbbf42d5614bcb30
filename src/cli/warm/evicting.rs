//! Gives up what a warm-up of the same paths brings in.

use super::NOT_ALL;
use super::names::{Given, Problem};
use crate::cli::located::{Located, locate};
use crate::cli::status::ask;
use crate::cli::{complain, say};
use crate::daemon::control::{Evicted, Reply, Request, WirePath};
use crate::daemon::error::exit_status;
use serde_json::json;
use std::path::PathBuf;

/// Paths of one request.
const PATHS_AT_ONCE: usize = 1000;

#[derive(Default)]
struct Giving {
    mountpoint: PathBuf,
    paths: Vec<WirePath>,
    evicted: Evicted,
    failed: u64,
}

pub fn run(given: impl Iterator<Item = Given>, json: bool) -> i32 {
    let mut giving = Giving::default();
    for path in given {
        let located =
            path.and_then(|path| locate(&path).map_err(|reason| Problem::new(&path, reason)));
        match located {
            Ok(located) => giving.add(located),
            Err(problem) => giving.fail(format_args!(
                "{}: {}",
                problem.path.display(),
                problem.reason
            )),
        }
    }
    giving.flush();
    giving.tell(json)
}

impl Giving {
    fn add(&mut self, located: Located) {
        if self.mountpoint != located.mountpoint || self.paths.len() >= PATHS_AT_ONCE {
            self.flush();
            self.mountpoint = located.mountpoint;
        }
        self.paths.push(WirePath::from(&*located.below));
    }

    fn fail(&mut self, reason: impl std::fmt::Display) {
        complain(reason);
        self.failed += 1;
    }

    fn flush(&mut self) {
        let paths = std::mem::take(&mut self.paths);
        if paths.is_empty() {
            return;
        }
        match ask(&self.mountpoint, &Request::Evict { paths }) {
            Ok(Reply::Evicted(evicted)) => self.evicted.add(&evicted),
            Ok(Reply::Error { message }) | Err(message) => self.fail(message),
            Ok(other) => self.fail(format_args!("unexpected answer {other:?}")),
        }
    }

    fn tell(&self, json: bool) -> i32 {
        match json {
            true => say(&format!(
                "{}\n",
                json!({"event": "end", "evicted": self.evicted, "failed": self.failed})
            )),
            false => say(&self.evicted.in_words()),
        }
        if self.failed > 0 {
            exit_status::SYSTEM
        } else if self.evicted.files_left() > 0 {
            NOT_ALL
        } else {
            exit_status::SUCCESS
        }
    }
}
