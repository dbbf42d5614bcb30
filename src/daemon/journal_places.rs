//! The directories of the journal, checked and open; which of them lie on one disk.

use super::cache_directory::{CacheDirectory, Neighbours};
use super::error::{CacheDirectoryProblem, StartError};
use super::prepare::{open_one, refuse_shared_with};
use crate::config::Settings;
use nix::sys::stat::{major, minor};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory of the journal, or why it cannot be used: others may do without it.
#[derive(Debug)]
pub struct JournalPlace {
    pub path: PathBuf,
    pub directory: Result<CacheDirectory, String>,
}

/// As many as the settings name.
pub(super) fn open_journal(
    settings: &Settings,
    neighbours: Neighbours<'_>,
    others: &[CacheDirectory],
) -> Result<Vec<JournalPlace>, StartError> {
    let paths = &settings.journal.directories;
    let mut places: Vec<JournalPlace> = Vec::new();
    for path in paths {
        let own = places
            .iter()
            .filter_map(|place| place.directory.as_ref().ok());
        let refused = own
            .clone()
            .try_for_each(|other| refuse_shared_with(path, other));
        let opened = refused.and_then(|()| open_one(path, false, neighbours, others));
        places.push(journal_place(path, opened, paths.len())?);
    }
    Ok(places)
}

/// Where there are several, a disk may be lost.
fn journal_place(
    path: &Path,
    opened: Result<CacheDirectory, CacheDirectoryProblem>,
    directories: usize,
) -> Result<JournalPlace, StartError> {
    let path = path.to_owned();
    match opened {
        Err(problem) if directories == 1 || !problem.is_loss_of_disk() => {
            Err(StartError::JournalDirectory { path, problem })
        }
        outcome => Ok(JournalPlace {
            path,
            directory: outcome.map_err(|problem| problem.to_string()),
        }),
    }
}

/// Of directories that are to be lost apart from one another, those that are lost together: a sentence for each disk.
pub fn on_one_disk<'a>(directories: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let mut by_disk: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for path in directories {
        if let Ok(facts) = path.metadata() {
            let name = path.display().to_string();
            by_disk.entry(disk_of(facts.dev())).or_default().push(name);
        }
    }
    let together = by_disk.into_values().filter(|names| names.len() > 1);
    together
        .map(|names| {
            format!(
                "{} lie on one disk, and are lost together; erasure counts on each directory of the journal being on a disk of its own",
                names.join(" and ")
            )
        })
        .collect()
}

/// What sysfs has of a device's disk, or of the device where there is none.
fn disk_of(device: u64) -> PathBuf {
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let link = PathBuf::from(link);
    let found = link.canonicalize().unwrap_or(link);
    match found.join("partition").exists() {
        true => found.parent().map(Path::to_owned).unwrap_or(found),
        false => found,
    }
}
