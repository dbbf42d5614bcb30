//! What cache directories remember of journals, as an operator sees it: while no mount uses them.

use super::directory_lock::DirectoryLock;
use crate::io::Io;
use crate::io::engine::{Engine, EngineKind, EngineSettings};
use crate::io::local::LocalDisk;
use crate::journal::{Testimony, Witness};
use anyhow::{Context, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gives up a journal for good, whatever it held: the next mount does not ask for it any more. Blocks on the disks, and up
/// to 10 s for a daemon that is stopping.
pub fn forget(journal: &str, cache_directories: &[PathBuf]) -> anyhow::Result<Testimony> {
    change(journal, cache_directories, Witness::forget)
}

/// Takes the directories of a journal for all there is of it, though they are copies. Blocks as `forget`.
pub fn accept(journal: &str, cache_directories: &[PathBuf]) -> anyhow::Result<Testimony> {
    change(journal, cache_directories, Witness::accept)
}

fn change(
    journal: &str,
    cache_directories: &[PathBuf],
    change: impl FnOnce(&Witness, &[u8; 16]) -> io::Result<()>,
) -> anyhow::Result<Testimony> {
    let engine = Engine::start(EngineSettings {
        kind: EngineKind::Blocking,
        ..EngineSettings::default()
    })
    .context("memory for read buffers")?;
    let (mut places, mut locks) = (Vec::new(), Vec::new());
    for path in cache_directories {
        let (io, lock) = open_held(path, &engine).with_context(|| path.display().to_string())?;
        places.push((path.display().to_string(), io));
        locks.push(lock);
    }
    let witness = Witness::hear(places);
    let known = witness.all();
    let Some(meant) = known.iter().find(|one| one.name() == journal) else {
        bail!("{}", not_known(journal, &known));
    };
    change(&witness, &meant.journal)?;
    Ok(meant.clone())
}

fn not_known(journal: &str, known: &[Testimony]) -> String {
    let lines = known.iter().map(|one| {
        format!(
            "; {} of {} in {}",
            one.name(),
            one.backend_name,
            one.directories
        )
    });
    format!(
        "no journal {journal} is remembered there{}",
        lines.collect::<String>()
    )
}

/// Locked as by a mount, which remembers what it read at its start.
fn open_held(path: &Path, engine: &Arc<Engine>) -> anyhow::Result<(Arc<dyn Io>, DirectoryLock)> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let directory: OwnedFd = open(path, flags, Mode::empty())?;
    let lock = DirectoryLock::take(&directory)?;
    let disk = LocalDisk::open(directory, engine.clone())?;
    Ok((disk, lock))
}
