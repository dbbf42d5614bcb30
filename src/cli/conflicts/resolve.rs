//! One conflict comes to its end, by ordinary calls on the mount.
//!
//! What always holds: what was written here is removed only when all of it is on stable storage where it belongs, or not
//! wanted.

use super::{Keep, local};
use crate::daemon::journal_control::{ConflictReport, TheirsReport};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const PIECE_BYTES: u64 = 1 << 20;

pub fn resolve(mountpoint: &Path, conflict: &ConflictReport, keep: Keep) -> io::Result<()> {
    let one = Conflict {
        path: mountpoint.join(local(&conflict.path)),
        beside: mountpoint.join(local(&conflict.beside)),
        ranges: conflict
            .ranges
            .as_ref()
            .map(|path| mountpoint.join(local(path))),
        theirs: conflict.theirs,
    };
    match keep {
        Keep::Both => Ok(()),
        Keep::Theirs => one.remove_ours(),
        Keep::Ours => one.keep_ours(conflict.is_removed),
    }
}

struct Conflict {
    path: PathBuf,
    beside: PathBuf,
    ranges: Option<PathBuf>,
    theirs: Option<TheirsReport>,
}

impl Conflict {
    fn remove_ours(&self) -> io::Result<()> {
        for path in [Some(&self.beside), self.ranges.as_ref()]
            .into_iter()
            .flatten()
        {
            match fs::remove_file(path) {
                // Somebody has looked at it before us.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// The file was removed, or renamed; nothing else may have its name by now.
    fn put_back(&self) -> io::Result<()> {
        match fs::hard_link(&self.beside, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(io::Error::other(format!(
                    "another file has this name by now: move {} to where you want it, then --keep both",
                    self.beside.display()
                )));
            }
            linked => linked?,
        }
        fs::remove_file(&self.beside)
    }

    fn keep_ours(&self, is_removed: bool) -> io::Result<()> {
        if let Some(ranges) = &self.ranges {
            return Err(io::Error::other(format!(
                "only parts of it were written here, and what the rest was is not known: {} has them where {} says; take from \
                 there what you want, then --keep theirs, which removes both",
                self.beside.display(),
                ranges.display()
            )));
        }
        if !self.beside.try_exists()? {
            return Err(io::Error::other(format!(
                "what was written here is not in {} any more: --keep both takes it off the list",
                self.beside.display()
            )));
        }
        match is_removed || !self.path.try_exists()? {
            true => self.put_back(),
            false => self.write_ours(),
        }
    }

    fn write_ours(&self) -> io::Result<()> {
        let ours = File::open(&self.beside)?;
        let size_bytes = ours.metadata()?.len();
        let theirs = OpenOptions::new().write(true).open(&self.path)?;
        self.refuse_if_newer(&theirs.metadata()?)?;
        copy(&ours, &theirs, size_bytes)?;
        theirs.set_len(size_bytes)?;
        theirs.sync_all()?;
        self.remove_ours()
    }
}

impl Conflict {
    /// What was done to the file since the conflict is in neither of the two.
    fn refuse_if_newer(&self, present: &fs::Metadata) -> io::Result<()> {
        let found = TheirsReport {
            size_bytes: present.len(),
            mtime_seconds: present.mtime(),
            mtime_nanoseconds: present.mtime_nsec() as u32,
        };
        match self.theirs.is_none_or(|theirs| theirs == found) {
            true => Ok(()),
            false => Err(io::Error::other(
                "it has been changed again since the conflict came, and that would be lost: move it to another name, and \
                 --keep ours again puts ours in its place; or --keep theirs",
            )),
        }
    }
}

fn copy(from: &File, to: &File, size_bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size_bytes {
        let mut piece = vec![0; (size_bytes - at).min(PIECE_BYTES) as usize];
        from.read_exact_at(&mut piece, at)?;
        to.write_all_at(&piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}
