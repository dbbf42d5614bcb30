//! The directories of the journal, checked and open.

use super::cache_directory::{CacheDirectory, Neighbours};
use super::error::{CacheDirectoryProblem, StartError};
use super::prepare::{open_one, refuse_shared_with};
use crate::config::{Settings, WriteMode};
use std::path::{Path, PathBuf};

/// A directory of the journal, or why it cannot be used: others may do without it.
#[derive(Debug)]
pub struct JournalPlace {
    pub path: PathBuf,
    pub directory: Result<CacheDirectory, String>,
}

/// It must be there where it is needed, and makes no sense where it is not.
pub(super) fn open_journal(
    settings: &Settings,
    neighbours: Neighbours<'_>,
    others: &[CacheDirectory],
) -> Result<Vec<JournalPlace>, StartError> {
    let paths = &settings.journal.directories;
    match (settings.write_mode, paths.is_empty()) {
        (WriteMode::Through, true) => return Ok(Vec::new()),
        (WriteMode::Through, false) => return Err(StartError::UnusedJournalDirectory),
        (WriteMode::Back, true) => return Err(StartError::NoJournalDirectory),
        (WriteMode::Back, false) => {}
    }
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
