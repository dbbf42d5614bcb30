//! On which filesystem each cache directory lies, remembered in all of them: where a disk is not mounted, its directory
//! is not made anew on the disk below, which would get its share of the files.

use super::cache_directory::{CacheDirectory, resolve_existing};
use super::error::CacheDirectoryProblem as Problem;
use super::{fstab, mount_table};
use crate::cache::FORMAT_FILE;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "cachefs.disks";
const FILE_NEW: &str = "cachefs.disks.new";
/// More than the names of all cache directories of a mount.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Resolved directories, and where the filesystem of each was mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDisks {
    mountpoints: BTreeMap<PathBuf, PathBuf>,
}

/// Whether somebody made this a cache before.
pub fn is_cache(path: &Path) -> bool {
    path.join(FORMAT_FILE).exists()
}

impl KnownDisks {
    /// Takes in what a directory knows, which was found to be nobody else's to write.
    pub fn hear(&mut self, directory: &CacheDirectory) {
        match read(&directory.path.join(FILE)) {
            Ok(known) => self.mountpoints.extend(known.mountpoints),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!("{}: {error}", directory.path.join(FILE).display()),
        }
    }

    /// Refuses a directory that is to be made where its disk should be mounted.
    pub fn check(&self, path: &Path) -> Result<(), Problem> {
        if is_cache(path) {
            return Ok(());
        }
        let resolved = resolve_existing(path).map_err(Problem::CannotOpen)?;
        let found = mount_table::mount_of(&resolved).map_err(Problem::CannotOpen)?;
        let Some(found) = found.map(|mount| mount.mountpoint) else {
            return Ok(());
        };
        let remembered = self.mountpoints.get(&resolved).cloned();
        let meant = [remembered, fstab::mountpoint_above(&resolved)];
        let is_deeper = |meant: &PathBuf| meant.starts_with(&found) && *meant != found;
        match meant.into_iter().flatten().find(is_deeper) {
            Some(mountpoint) => Err(Problem::NotMounted { mountpoint }),
            None => Ok(()),
        }
    }

    /// Has every directory of a mount remember where they all lie, those too that are not there now. Alone it has nobody
    /// to tell of it.
    pub fn remember(&self, directories: &[CacheDirectory]) {
        let mut known = self.clone();
        for directory in directories {
            if let Ok(Some(mount)) = mount_table::mount_of(&directory.path) {
                known
                    .mountpoints
                    .insert(directory.path.clone(), mount.mountpoint);
            }
        }
        if known.mountpoints.len() < 2 {
            return;
        }
        for directory in directories {
            if let Err(error) = known.write(&directory.path) {
                tracing::debug!("{}: {error}", directory.path.join(FILE).display());
            }
        }
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        if read(&directory.join(FILE)).is_ok_and(|known| known == *self) {
            return Ok(());
        }
        let text = serde_json::to_vec(self)?;
        let new = directory.join(FILE_NEW);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        std::fs::rename(&new, directory.join(FILE))
    }
}

fn read(path: &Path) -> io::Result<KnownDisks> {
    let mut text = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
