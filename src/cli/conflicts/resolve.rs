//! One conflict comes to its end, by ordinary calls on the mount.
//!
//! What always holds: what was written here is removed only when all of it is on stable storage where it belongs, or not
//! wanted.

use super::{Keep, local};
use crate::daemon::journal_control::ConflictReport;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
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
    };
    match keep {
        Keep::Both => Ok(()),
        Keep::Theirs => one.remove_ours(),
        Keep::Ours if conflict.is_removed => one.put_back(),
        Keep::Ours => one.write_ours(),
    }
}

struct Conflict {
    path: PathBuf,
    beside: PathBuf,
    ranges: Option<PathBuf>,
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

    /// The file was removed; nothing else may have its name by now.
    fn put_back(&self) -> io::Result<()> {
        fs::hard_link(&self.beside, &self.path)?;
        fs::remove_file(&self.beside)
    }

    fn write_ours(&self) -> io::Result<()> {
        let ours = File::open(&self.beside)?;
        let whole = ours.metadata()?.len();
        let (size_bytes, ranges) = match &self.ranges {
            None => (whole, vec![(0, whole)]),
            Some(manifest) => read_manifest(&fs::read_to_string(manifest)?)
                .ok_or_else(|| io::Error::other("the list of ranges cannot be understood"))?,
        };
        let theirs = OpenOptions::new().write(true).open(&self.path)?;
        for (start, end) in ranges {
            copy(&ours, &theirs, start, end)?;
        }
        theirs.set_len(size_bytes)?;
        theirs.sync_all()?;
        self.remove_ours()
    }
}

fn copy(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let mut piece = vec![0; (end - at).min(PIECE_BYTES) as usize];
        from.read_exact_at(&mut piece, at)?;
        to.write_all_at(&piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// The size of the file, and the ranges that were written here.
fn read_manifest(text: &str) -> Option<(u64, Vec<(u64, u64)>)> {
    let mut lines = text.lines();
    let size_bytes = lines.next()?.strip_prefix("size ")?.parse().ok()?;
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?;
        Some((start.parse().ok()?, end.parse().ok()?))
    };
    Some((size_bytes, lines.map(range).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_ranges_is_read_as_it_is_written() {
        let read = read_manifest("size 100\n0 10\n50 60\n");
        assert_eq!(read, Some((100, vec![(0, 10), (50, 60)])));
        assert_eq!(read_manifest("size 0\n"), Some((0, Vec::new())));
        assert_eq!(read_manifest("size 1\nten 20\n"), None);
        assert_eq!(read_manifest("100\n"), None);
    }
}
