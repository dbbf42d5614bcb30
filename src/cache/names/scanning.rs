//! All names that are stored, a part at a time.

use super::Names;
use super::records::{NAME, read_attributes};
use crate::types::codec::Reader;
use crate::types::{Attributes, FileKey};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Names looked at without giving others a chance.
const PART: usize = 4096;

/// A name, and the file last found under it.
#[derive(Clone, Debug)]
pub struct StoredName {
    pub parent: FileKey,
    pub name: OsString,
    pub file: FileKey,
    pub attributes: Attributes,
}

/// How far a scan has come.
#[derive(Clone, Debug)]
pub struct ScanPlace(Vec<u8>);

impl Names {
    /// The next names, those of a directory one after the other, and where to go on if there are more. What was noted
    /// within the last second may be missing. Waits for the local disk.
    pub fn scan(&self, from: Option<ScanPlace>) -> (Vec<StoredName>, Option<ScanPlace>) {
        let from = from.map_or_else(|| vec![NAME], |place| place.0);
        let stored = self.file.some_with(&[NAME], &from, PART);
        let next = match stored.last() {
            // The key right behind it.
            Some((key, _)) if stored.len() == PART => {
                Some(ScanPlace([key.as_slice(), &[0]].concat()))
            }
            _ => None,
        };
        let names = stored
            .iter()
            .filter_map(|(key, value)| name_in(key, value))
            .collect();
        (names, next)
    }
}

fn name_in(key: &[u8], value: &[u8]) -> Option<StoredName> {
    let mut key = Reader(key);
    key.u8()?;
    let parent = FileKey(key.text()?.into());
    let mut value = Reader(value);
    Some(StoredName {
        parent,
        name: OsStr::from_bytes(key.0).to_owned(),
        file: FileKey(value.text()?.into()),
        attributes: read_attributes(&mut value)?,
    })
}
