//! What an operator may do to the devices of a journal while it is in use.

use super::cache_directory::{CacheDirectory, Neighbours, ResolvedPath};
use super::prepare::Prepared;
use crate::io::Io;
use crate::io::engine::Engine;
use crate::io::local::LocalDisk;
use crate::journal::Journal;
use anyhow::{Context, bail};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// What is asked of the devices of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum JournalChange {
    /// Reads everything, and mends what is damaged, in the background.
    Scrub,
    /// Takes in again what is named and does not take part.
    Rebuild,
    /// Takes in `new` in the place of `old`.
    Replace { old: String, new: String },
}

pub(super) struct JournalDevices {
    journal: Arc<Journal>,
    engine: Arc<Engine>,
    backend: ResolvedPath,
    mountpoint: ResolvedPath,
    /// What the mount began with, by what they are, whatever their names are by now.
    held: Vec<((u64, u64), OwnedFd)>,
    /// Opened since; they stay locked.
    added: Mutex<Vec<CacheDirectory>>,
}

impl JournalDevices {
    pub fn new(
        journal: Arc<Journal>,
        engine: Arc<Engine>,
        prepared: &Prepared,
    ) -> std::io::Result<Self> {
        let places = prepared.journal_directories.iter();
        let opened = places.filter_map(|place| place.directory.as_ref().ok());
        let held = opened.map(|directory| {
            let descriptor = directory.directory.try_clone()?;
            Ok((directory.identity, descriptor))
        });
        Ok(Self {
            journal,
            engine,
            backend: prepared.backend_place.clone(),
            mountpoint: ResolvedPath::unseen(&prepared.mountpoint),
            held: held.collect::<std::io::Result<_>>()?,
            added: Mutex::default(),
        })
    }

    /// Blocks on the disks. What a new device lacks comes to it in the background.
    pub fn change(&self, change: JournalChange) -> anyhow::Result<()> {
        match change {
            JournalChange::Scrub => self.journal.scrub().context("starting a thread"),
            JournalChange::Rebuild => self.rebuild(),
            JournalChange::Replace { old, new } => self.replace(&old, &new),
        }
    }

    fn rebuild(&self) -> anyhow::Result<()> {
        let devices = self.journal.figures().devices;
        let mut refused = Vec::new();
        for outsider in &devices.outsiders {
            let taken = self.open(Path::new(&outsider.name)).and_then(|io| {
                let taken = self.journal.take_in(outsider.name.clone(), io);
                taken.map_err(anyhow::Error::from)
            });
            if let Err(error) = taken {
                refused.push(format!("{}: {error:#}", outsider.name));
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => bail!("not taken in: {}", refused.join("; ")),
        }
    }

    fn replace(&self, old: &str, new: &str) -> anyhow::Result<()> {
        let devices = self.journal.figures().devices;
        let is_member = devices.members.iter().any(|name| name == old);
        if !is_member
            && devices
                .outsiders
                .iter()
                .all(|outsider| outsider.name != old)
        {
            bail!("{old} is no directory of this journal; `nfs-cachefs journal status` lists them");
        }
        if let Some(same) = devices.members.iter().find(|name| is_within(new, name)) {
            bail!("{new} is a directory of this journal already, or lies in one: {same}");
        }
        let io = self.open(Path::new(new)).with_context(|| new.to_owned())?;
        // Before anything is given up for it.
        let checked = self.journal.check_to_take_in(&*io);
        checked.with_context(|| new.to_owned())?;
        if is_member {
            self.journal.give_up(old).with_context(|| old.to_owned())?;
        }
        let taken = self.journal.take_in(new.to_owned(), io);
        taken.with_context(|| new.to_owned())?;
        self.journal.strike_off(old);
        Ok(())
    }

    /// The directory that has this name now: one that is held, or another one, checked and locked as at the start.
    fn open(&self, path: &Path) -> anyhow::Result<Arc<dyn Io>> {
        if !path.is_absolute() {
            bail!("name it from the root on");
        }
        let facts = path.metadata().ok();
        let identity = facts.map(|facts| (facts.dev(), facts.ino()));
        let mut added = self.added.lock();
        let before = self.held.iter().find(|(held, _)| Some(*held) == identity);
        let since = added.iter().find(|held| Some(held.identity) == identity);
        let descriptor = match (before, since) {
            (Some((_, descriptor)), _) => descriptor.try_clone()?,
            (None, Some(directory)) => directory.directory.try_clone()?,
            (None, None) => {
                let directory = self.open_anew(path)?;
                let descriptor = directory.directory.try_clone()?;
                added.push(directory);
                descriptor
            }
        };
        Ok(LocalDisk::open(descriptor, self.engine.clone())?)
    }

    fn open_anew(&self, path: &Path) -> anyhow::Result<CacheDirectory> {
        let neighbours = Neighbours {
            backend: &self.backend,
            mountpoint: &self.mountpoint,
        };
        let mut directory = CacheDirectory::open(path, false, neighbours)?;
        directory.check_disk()?;
        directory.record_holder(&self.mountpoint.path)?;
        directory.keep();
        Ok(directory)
    }
}

/// Whether a path leads to a directory or below it, however it is spelled and mounted.
fn is_within(path: &str, directory: &str) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|facts| (facts.dev(), facts.ino()));
    let Ok(resolved) = Path::new(path).canonicalize() else {
        return false;
    };
    let wanted = identity(Path::new(directory));
    wanted.is_some() && resolved.ancestors().any(|above| identity(above) == wanted)
}
