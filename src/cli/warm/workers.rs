//! Threads that ask the daemon for one file after the other.

use super::names::{Given, Names, Problem, learn_attributes, reason_of};
use crate::sys::xattr;
use crate::types::warming::{HELD_ATTRIBUTE, Held, WARM_ATTRIBUTE, Warmed};
use crossbeam_channel::{Receiver, bounded};
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Outcomes that wait to be counted.
const TOLD_MAX: usize = 1024;

#[derive(Clone, Copy)]
pub enum Task {
    Check,
    /// As part of the warm-up of this name.
    Warm {
        name: u64,
    },
}

impl Task {
    pub fn warm_up() -> Self {
        let since_boot = crate::clock::wall_clock();
        let (seconds, process) = (since_boot.seconds as u64, u64::from(std::process::id()));
        Self::Warm {
            name: process << 40 ^ seconds << 20 ^ u64::from(since_boot.nanoseconds >> 10),
        }
    }

    pub fn is_check(self) -> bool {
        matches!(self, Self::Check)
    }
}

/// What became of a file.
pub enum Outcome {
    Warmed(Warmed),
    Held(Held),
    Failed(String),
}

pub struct Told {
    pub path: PathBuf,
    pub outcome: Outcome,
}

/// The channel ends with the last file.
pub fn start(names: &Arc<Names>, task: Task, jobs: usize) -> Receiver<Told> {
    let (sender, told) = bounded(TOLD_MAX);
    for _ in 0..jobs {
        let (names, sender) = (names.clone(), sender.clone());
        let work = move || {
            while let Some(given) = names.next() {
                if sender.send(look_after(given, task)).is_err() {
                    return;
                }
            }
        };
        // With one thread less it goes on all the same.
        let _ = std::thread::Builder::new()
            .name("warm".to_owned())
            .spawn(work);
    }
    told
}

fn look_after(given: Given, task: Task) -> Told {
    let path = match given {
        Ok(path) => path,
        Err(Problem { path, reason }) => {
            let outcome = Outcome::Failed(reason);
            return Told { path, outcome };
        }
    };
    let outcome = match task {
        Task::Check => ask(&path, HELD_ATTRIBUTE).map(Outcome::Held),
        Task::Warm { name } => {
            learn_attributes(&path);
            ask(&path, &format!("{WARM_ATTRIBUTE}{name:x}")).map(Outcome::Warmed)
        }
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(reason_of(&error)));
    Told { path, outcome }
}

fn ask<T: DeserializeOwned>(path: &Path, attribute: &str) -> io::Result<T> {
    let told = xattr::get_by_path(path, OsStr::new(attribute))?;
    serde_json::from_slice(&told).map_err(io::Error::other)
}
