//! What lies beside other files until somebody has looked at it: a list that outlives the daemon, in the journal's directory
//! (docs/ON_DISK_FORMAT.md draws it).

use crate::io::{Io, OpenMode};
use crate::journal::checksum::crc32c;
use crate::types::codec::{Reader, Writer};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const CONFLICTS_FILE: &str = "conflicts";
const FILE_NEW: &str = "conflicts.new";
const MAGIC: &[u8] = b"nfs-cachefs conflicts 1\n";
/// A longer one is not ours.
const BYTES_MAX: u64 = 64 << 20;

/// What somebody else did to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConflictKind {
    Changed,
    Removed,
}

/// Paths are beneath the backend's root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    pub kind: ConflictKind,
    /// Seconds since 1970.
    pub seconds: i64,
    pub path: PathBuf,
    /// What was written here.
    pub beside: PathBuf,
    /// Which ranges of it were written here; without: all of it.
    pub ranges: Option<PathBuf>,
}

/// See the module. Locked while the file is written.
pub(super) struct ConflictList {
    io: Arc<dyn Io>,
    entries: Mutex<Vec<Conflict>>,
}

impl ConflictList {
    /// Takes over what an earlier life has left.
    pub fn load(io: Arc<dyn Io>) -> Self {
        let entries = read(&*io).unwrap_or_else(|error| {
            tracing::warn!(
                "the list of conflicts cannot be read: {error}; what it told of lies on the backend all the same"
            );
            Vec::new()
        });
        Self {
            io,
            entries: Mutex::new(entries),
        }
    }

    pub fn all(&self) -> Vec<Conflict> {
        self.entries.lock().clone()
    }

    pub fn add(&self, conflict: Conflict) {
        self.change(|entries| entries.push(conflict));
    }

    /// These were looked at: known by what lies beside.
    pub fn forget(&self, beside: &[PathBuf]) {
        self.change(|entries| entries.retain(|entry| !beside.contains(&entry.beside)));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Conflict>)) {
        let mut entries = self.entries.lock();
        change(&mut entries);
        if let Err(error) = write(&*self.io, &encode(&entries)) {
            tracing::warn!("the list of conflicts is not on the journal's disk: {error}");
        }
    }
}

fn encode(entries: &[Conflict]) -> Vec<u8> {
    let text = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let body = entries.iter().fold(Writer::default(), |body, entry| {
        let kind = match entry.kind {
            ConflictKind::Changed => 1,
            ConflictKind::Removed => 2,
        };
        let ranges = entry.ranges.as_deref().map(text).unwrap_or_default();
        body.u8(kind)
            .i64(entry.seconds)
            .text(&text(&entry.path))
            .text(&text(&entry.beside))
            .text(&ranges)
    });
    let sum = crc32c(&body.0).to_le_bytes();
    [MAGIC, &sum, &body.0].concat()
}

fn decode(bytes: &[u8]) -> Option<Vec<Conflict>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, body) = rest.split_first_chunk()?;
    if crc32c(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut reader = Reader(body);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(decode_one(&mut reader)?);
    }
    Some(entries)
}

fn decode_one(reader: &mut Reader<'_>) -> Option<Conflict> {
    let kind = match reader.u8()? {
        1 => ConflictKind::Changed,
        2 => ConflictKind::Removed,
        _ => return None,
    };
    let seconds = reader.i64()?;
    let mut path = || Some(PathBuf::from(OsStr::from_bytes(reader.text()?)));
    Some(Conflict {
        kind,
        seconds,
        path: path()?,
        beside: path()?,
        ranges: Some(path()?).filter(|ranges| !ranges.as_os_str().is_empty()),
    })
}

fn read(io: &dyn Io) -> io::Result<Vec<Conflict>> {
    let file = match io.open(CONFLICTS_FILE, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut bytes = vec![0; file.facts()?.size_bytes.min(BYTES_MAX) as usize];
    let read = file.read_at(&mut bytes, 0)?;
    decode(&bytes[..read]).ok_or_else(|| io::Error::other("it is damaged"))
}

fn write(io: &dyn Io, bytes: &[u8]) -> io::Result<()> {
    let _ = io.remove_file(FILE_NEW);
    let file = io.open(FILE_NEW, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    drop(file);
    io.rename(FILE_NEW, CONFLICTS_FILE)?;
    io.sync_directory(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_conflict()(
            removed in any::<bool>(), seconds in any::<i64>(), path in "[^\0]{1,40}", beside in "[^\0]{1,40}",
            ranges in prop::option::of("[^\0]{1,40}"),
        ) -> Conflict {
            Conflict {
                kind: if removed { ConflictKind::Removed } else { ConflictKind::Changed },
                seconds, path: path.into(), beside: beside.into(), ranges: ranges.map(PathBuf::from),
            }
        }
    }

    proptest! {
        #[test]
        fn a_list_comes_back_as_it_was_or_not_at_all(
            entries in prop::collection::vec(any_conflict(), 0..8), at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&entries);
            prop_assert_eq!(decode(&bytes), Some(entries));
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert_eq!(decode(&bytes), None);
        }
    }
}
