//! What lies beside other files until somebody has looked at it: a list that outlives the daemon, in each directory of the
//! journal (docs/ON_DISK_FORMAT.md draws it). The one that was changed last is believed.

use crate::io::{Io, OpenMode};
use crate::journal::HEAD_FILE;
use crate::journal::checksum::crc32c;
use crate::types::codec::{Reader, Writer};
use crate::types::{Timestamp, Version};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const CONFLICTS_FILE: &str = "conflicts";
const FILE_NEW: &str = "conflicts.new";
const MAGIC: &[u8] = b"nfs-cachefs conflicts 3\n";
/// Without versions.
const MAGIC_2: &[u8] = b"nfs-cachefs conflicts 2\n";
/// Without a number of changes, too.
const MAGIC_1: &[u8] = b"nfs-cachefs conflicts 1\n";
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
    /// What somebody else has made of the file; unknown of what an older program has listed.
    pub theirs: Option<Version>,
}

/// See the module. `writing` is held while the files are written, `listed` never.
pub(super) struct ConflictList {
    directories: Vec<Arc<dyn Io>>,
    listed: Mutex<Listed>,
    writing: Mutex<()>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Listed {
    /// Changes so far, over all lives.
    changes: u64,
    entries: Vec<Conflict>,
}

impl ConflictList {
    /// Takes over what an earlier life has left.
    pub fn load(directories: Vec<Arc<dyn Io>>) -> Self {
        let found: Vec<_> = directories.iter().map(|io| read(&**io)).collect();
        for error in found.iter().filter_map(|found| found.as_ref().err()) {
            tracing::warn!(
                "a list of conflicts cannot be read: {error}; what it told of lies on the backend all the same"
            );
        }
        let is_everywhere = found
            .windows(2)
            .all(|two| two[0].as_ref().ok() == two[1].as_ref().ok());
        let list = Self {
            directories,
            listed: Mutex::new(last_of(found.into_iter().flatten())),
            writing: Mutex::new(()),
        };
        if !is_everywhere {
            list.write();
        }
        list
    }

    pub fn all(&self) -> Vec<Conflict> {
        self.listed.lock().entries.clone()
    }

    pub fn add(&self, conflict: Conflict) {
        self.change(|entries| entries.push(conflict));
    }

    /// These were looked at: known by what lies beside.
    pub fn forget(&self, beside: &[PathBuf]) {
        self.change(|entries| entries.retain(|entry| !beside.contains(&entry.beside)));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Conflict>)) {
        {
            let mut listed = self.listed.lock();
            change(&mut listed.entries);
            listed.changes += 1;
        }
        self.write();
    }

    /// The list as it is by now, where the journal is: nothing is put into directories that it does not use.
    fn write(&self) {
        let _writing = self.writing.lock();
        let bytes = encode(&self.listed.lock());
        let is_used = |io: &&Arc<dyn Io>| io.open(HEAD_FILE, OpenMode::Read).is_ok();
        for io in self.directories.iter().filter(is_used) {
            if let Err(error) = write(&**io, &bytes) {
                tracing::warn!("the list of conflicts is not on a disk of the journal: {error}");
            }
        }
    }
}

/// The list that was changed last; of old ones, which do not say, what any of them has.
fn last_of(found: impl Iterator<Item = Listed>) -> Listed {
    found.fold(Listed::default(), |mut last, one| {
        if one.changes > last.changes {
            return one;
        }
        if one.changes == last.changes {
            let more = one.entries.into_iter();
            let more: Vec<_> = more.filter(|entry| !last.entries.contains(entry)).collect();
            last.entries.extend(more);
        }
        last
    })
}

fn encode(listed: &Listed) -> Vec<u8> {
    let text = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let body = Writer::default().u64(listed.changes);
    let body = listed.entries.iter().fold(body, |body, entry| {
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
            .text(
                &entry
                    .theirs
                    .as_ref()
                    .map(encode_version)
                    .unwrap_or_default(),
            )
    });
    let sum = crc32c(&[MAGIC, &body.0].concat()).to_le_bytes();
    [MAGIC, &sum, &body.0].concat()
}

fn encode_version(version: &Version) -> Vec<u8> {
    let body = Writer::default().u64(version.inode).u64(version.size_bytes);
    let times = [version.mtime, version.ctime];
    let body = times.iter().fold(body, |body, time| {
        body.i64(time.seconds).u32(time.nanoseconds)
    });
    body.0
}

fn decode_version(bytes: &[u8]) -> Option<Version> {
    let mut reader = Reader(bytes);
    let (inode, size_bytes) = (reader.u64()?, reader.u64()?);
    let mut time = || {
        Some(Timestamp {
            seconds: reader.i64()?,
            nanoseconds: reader.u32()?,
        })
    };
    Some(Version {
        inode,
        size_bytes,
        mtime: time()?,
        ctime: time()?,
    })
}

fn decode(bytes: &[u8]) -> Option<Listed> {
    let formats = [(MAGIC_1, 1), (MAGIC_2, 2), (MAGIC, 3)].into_iter();
    let mut found =
        formats.filter_map(|(magic, format)| Some((format, bytes.strip_prefix(magic)?)));
    let (format, rest) = found.next()?;
    let (sum, body) = rest.split_first_chunk()?;
    // The older ones have no sum of the line that names them.
    let found = match format {
        1 | 2 => crc32c(body),
        _ => crc32c(&[MAGIC, body].concat()),
    };
    if found != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut reader = Reader(body);
    let changes = match format {
        1 => 0,
        _ => reader.u64()?,
    };
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(decode_one(&mut reader, format)?);
    }
    Some(Listed { changes, entries })
}

fn decode_one(reader: &mut Reader<'_>, format: u8) -> Option<Conflict> {
    let kind = match reader.u8()? {
        1 => ConflictKind::Changed,
        2 => ConflictKind::Removed,
        _ => return None,
    };
    let seconds = reader.i64()?;
    let mut path = || Some(PathBuf::from(OsStr::from_bytes(reader.text()?)));
    let (path, beside, ranges) = (path()?, path()?, path()?);
    let theirs = match format {
        1 | 2 => None,
        _ => Some(reader.text()?).filter(|theirs| !theirs.is_empty()),
    };
    Some(Conflict {
        kind,
        seconds,
        path,
        beside,
        ranges: Some(ranges).filter(|ranges| !ranges.as_os_str().is_empty()),
        theirs: match theirs {
            Some(bytes) => Some(decode_version(bytes)?),
            None => None,
        },
    })
}

fn read(io: &dyn Io) -> io::Result<Listed> {
    let file = match io.open(CONFLICTS_FILE, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listed::default()),
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
            ranges in prop::option::of("[^\0]{1,40}"), version in any::<Option<(u64, u64, (i64, u32), (i64, u32))>>(),
        ) -> Conflict {
            let time = |(seconds, nanoseconds)| Timestamp { seconds, nanoseconds };
            Conflict {
                kind: if removed { ConflictKind::Removed } else { ConflictKind::Changed },
                seconds, path: path.into(), beside: beside.into(), ranges: ranges.map(PathBuf::from),
                theirs: version.map(|(inode, size_bytes, mtime, ctime)| Version {
                    inode, size_bytes, mtime: time(mtime), ctime: time(ctime),
                }),
            }
        }
    }

    proptest! {
        #[test]
        fn a_list_comes_back_as_it_was_or_not_at_all(
            entries in prop::collection::vec(any_conflict(), 0..8), changes in any::<u64>(), at in any::<prop::sample::Index>(),
        ) {
            let listed = Listed { changes, entries };
            let mut bytes = encode(&listed);
            prop_assert_eq!(decode(&bytes), Some(listed));
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert_eq!(decode(&bytes), None);
        }
    }

    #[test]
    fn a_list_is_not_taken_for_one_of_an_older_format() {
        let bytes = encode(&Listed::default());
        for older in [MAGIC_1, MAGIC_2] {
            let renamed = [older, &bytes[MAGIC.len()..]].concat();
            assert_eq!(decode(&renamed), None);
        }
    }

    const EMPTY_TEXT_BYTES: usize = 2;

    fn conflict(name: &str) -> Conflict {
        Conflict {
            kind: ConflictKind::Changed,
            seconds: 1,
            path: name.into(),
            beside: format!("{name}.conflict").into(),
            ranges: None,
            theirs: None,
        }
    }

    #[test]
    fn a_list_of_an_older_program_is_understood() {
        let numbered = encode(&Listed {
            changes: 7,
            entries: vec![conflict("file")],
        });
        // Without a version at its end.
        let body = &numbered[MAGIC.len() + 4..numbered.len() - EMPTY_TEXT_BYTES];
        for (magic, body, changes) in [(MAGIC_2, body, 7), (MAGIC_1, &body[8..], 0)] {
            let old = [magic, &crc32c(body).to_le_bytes(), body].concat();
            let listed = decode(&old).unwrap();
            assert_eq!(
                (listed.changes, listed.entries),
                (changes, vec![conflict("file")])
            );
        }
    }

    #[test]
    fn the_list_that_was_changed_last_is_believed() {
        let listed = |changes, names: &[&str]| Listed {
            changes,
            entries: names.iter().map(|name| conflict(name)).collect(),
        };
        let last =
            last_of([listed(3, &["a", "b"]), listed(4, &["b"]), Listed::default()].into_iter());
        assert_eq!(last, listed(4, &["b"]));
        let old = last_of([listed(0, &["a"]), listed(0, &["a", "b"])].into_iter());
        assert_eq!(old, listed(0, &["a", "b"]));
    }
}
