//! Which names are pinned: a small file in each cache directory, written anew at each change. The newest counts, so
//! that one lost disk loses no pin.
//!
//! ```text
//! nfs-cachefs pins 1 GENERATION CRC\n      CRC-32C of all that follows, hexadecimal
//! PATH\0...                                from the backend's root, which is the empty path
//! ```

use super::directory::CacheDirectory;
use crate::io::OpenMode;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "pins";
const FILE_NEW: &str = "pins.new";
const MAGIC: &str = "nfs-cachefs pins 1";
/// A longer one is not ours.
const BYTES_MAX: u64 = 64 << 20;

pub type Paths = BTreeSet<PathBuf>;

/// Read by everybody, changed by one at a time.
#[derive(Default)]
pub struct PinList {
    paths: ArcSwap<Paths>,
    /// Held while the files are written.
    generation: Mutex<u64>,
}

impl PinList {
    /// Takes over what an earlier life has left. Blocks on the local disks.
    pub(super) fn load(directories: &[Arc<CacheDirectory>]) -> Self {
        let list = Self::default();
        let stored = directories.iter().filter_map(|directory| read(directory));
        if let Some((generation, paths)) = stored.max_by_key(|(generation, _)| *generation) {
            *list.generation.lock() = generation;
            list.paths.store(Arc::new(paths));
        }
        list
    }

    pub fn paths(&self) -> Arc<Paths> {
        self.paths.load_full()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.load().is_empty()
    }

    /// The name is pinned, or a directory above it.
    pub fn covers(&self, path: &Path) -> bool {
        let paths = self.paths.load();
        path.ancestors().any(|above| paths.contains(above))
    }

    /// Durable when it returns, in all directories that work. Blocks on the local disks.
    pub(super) fn change(
        &self,
        directories: &[Arc<CacheDirectory>],
        change: impl FnOnce(&mut Paths),
    ) -> io::Result<()> {
        let mut generation = self.generation.lock();
        let mut paths = Paths::clone(&self.paths.load());
        change(&mut paths);
        let bytes = encode(*generation + 1, &paths);
        let mut outcome = Err(io::Error::other("no cache directory is in use"));
        for directory in directories.iter().filter(|directory| directory.is_usable()) {
            let written = write(directory, &bytes);
            if let Err(error) = &written {
                directory.report_disk_error("noting what is pinned", error);
            }
            outcome = written.or(outcome);
        }
        outcome?;
        *generation += 1;
        self.paths.store(Arc::new(paths));
        Ok(())
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn encode(generation: u64, paths: &Paths) -> Vec<u8> {
    let mut body = Vec::new();
    for path in paths {
        body.extend_from_slice(path.as_os_str().as_bytes());
        body.push(0);
    }
    let head = format!("{MAGIC} {generation} {:08x}\n", checksum(&body));
    [head.into_bytes(), body].concat()
}

fn decode(bytes: &[u8]) -> Option<(u64, Paths)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = head.strip_prefix(MAGIC)?.split_whitespace();
    let generation = words.next()?.parse().ok()?;
    let sum = u32::from_str_radix(words.next()?, 16).ok()?;
    let body = &bytes[end + 1..];
    if checksum(body) != sum {
        return None;
    }
    let names = body.split_inclusive(|byte| *byte == 0);
    let path = |name: &[u8]| Some(PathBuf::from(OsStr::from_bytes(name.strip_suffix(b"\0")?)));
    Some((generation, names.map(path).collect::<Option<Paths>>()?))
}

fn read(directory: &CacheDirectory) -> Option<(u64, Paths)> {
    let file = directory.io.open(FILE, OpenMode::Read).ok()?;
    let size_bytes = file.facts().ok()?.size_bytes;
    let mut bytes = vec![0; size_bytes.min(BYTES_MAX) as usize];
    let read = file.read_at(&mut bytes, 0).ok()?;
    let decoded = decode(&bytes[..read]);
    if decoded.is_none() {
        directory.notices.lock().push(format!(
            "cache directory {}: what was pinned cannot be read; pin it again",
            directory.name
        ));
    }
    decoded
}

fn write(directory: &CacheDirectory, bytes: &[u8]) -> io::Result<()> {
    let io = &directory.io;
    let _ = io.remove_file(FILE_NEW);
    let file = io.open(FILE_NEW, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    drop(file);
    io.rename(FILE_NEW, FILE)?;
    io.sync_directory(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn paths_of_any_bytes_come_back_and_no_others(
            names in prop::collection::btree_set("[^\0]{0,40}", 0..20),
            flipped in any::<u16>(),
        ) {
            let paths: Paths = names.iter().map(PathBuf::from).collect();
            let mut bytes = encode(7, &paths);
            prop_assert_eq!(decode(&bytes), Some((7, paths.clone())));
            prop_assert_eq!(decode(&bytes[..bytes.len() - 1]).filter(|_| !paths.is_empty()), None);
            let head = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            if bytes.len() > head {
                let at = head + usize::from(flipped) % (bytes.len() - head);
                bytes[at] ^= 1;
                prop_assert_eq!(decode(&bytes), None);
            }
        }
    }

    #[test]
    fn a_pin_covers_what_is_below_it_and_nothing_beside_it() {
        let list = PinList::default();
        list.paths.store(Arc::new([PathBuf::from("a/b")].into()));
        for (path, is_covered) in [
            ("a/b", true),
            ("a/b/c/d", true),
            ("a/bc", false),
            ("a", false),
        ] {
            assert_eq!(list.covers(Path::new(path)), is_covered, "{path}");
        }
        list.paths.store(Arc::new([PathBuf::new()].into()));
        assert!(list.covers(Path::new("any/thing")));
    }
}
