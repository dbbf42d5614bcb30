//! What a directory shows: names, attributes, link targets and contents; and where two differ.

use crate::side::{ATTRIBUTE, LOG, RECORD_BYTES, facts};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    facts: String,
    attribute: Vec<u8>,
    /// A file's bytes, a link's target; nothing where contents are not looked at.
    content: Vec<u8>,
}

/// By their names below the root.
pub struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// What is one thread's: its own folder, and its names in the one of all.
    pub fn of_thread(root: &Path, thread: usize, with_contents: bool) -> Result<Self, String> {
        let mut tree = Self(BTreeMap::new());
        let own = format!("thread{thread}");
        tree.walk(root, Path::new(&own), with_contents)?;
        for name in told(&root.join("shared"), names)? {
            if name.to_string_lossy().starts_with(&format!("{own}-")) {
                tree.add(root, &Path::new("shared").join(name), with_contents)?;
            }
        }
        Ok(tree)
    }

    /// Everything but the log, whose records stand in any order.
    pub fn whole(root: &Path) -> Result<Self, String> {
        let mut tree = Self(BTreeMap::new());
        tree.walk(root, Path::new(""), true)?;
        tree.0.remove(Path::new(LOG));
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, directory: &Path, with_contents: bool) -> Result<(), String> {
        for name in told(&root.join(directory), names)? {
            self.add(root, &directory.join(name), with_contents)?;
        }
        Ok(())
    }

    fn add(&mut self, root: &Path, name: &Path, with_contents: bool) -> Result<(), String> {
        let path = root.join(name);
        let metadata = told(&path, |path| fs::symlink_metadata(path))?;
        let mut entry = Entry {
            facts: facts(&metadata),
            attribute: Vec::new(),
            content: Vec::new(),
        };
        if metadata.is_symlink() {
            let target = told(&path, |path| fs::read_link(path))?;
            entry.content = target.into_os_string().into_encoded_bytes();
        } else if metadata.is_file() && with_contents {
            entry.content = told(&path, |path| fs::read(path))?;
            entry.attribute = told(&path, attribute)?;
        }
        self.0.insert(name.to_owned(), entry);
        match metadata.is_dir() {
            true => self.walk(root, name, with_contents),
            false => Ok(()),
        }
    }

    /// Where they differ first.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        let facts = |tree: &Self| -> Vec<String> {
            let shown = |(name, entry): (&PathBuf, &Entry)| {
                format!(
                    "{} {} {}",
                    name.display(),
                    entry.facts,
                    entry.attribute.len()
                )
            };
            tree.0.iter().map(shown).collect()
        };
        let (here, there) = (facts(self), facts(expected));
        if here != there {
            let only = |these: &[String], those: &[String]| -> Vec<String> {
                let missing = |line: &&String| !those.contains(line);
                these.iter().filter(missing).cloned().collect()
            };
            return Some(format!(
                "here {:#?} and not {:#?}",
                only(&here, &there),
                only(&there, &here)
            ));
        }
        let mut both = self.0.iter().zip(expected.0.values());
        both.find_map(|((name, here), there)| {
            here.difference(there)
                .map(|at| format!("{} {at}", name.display()))
        })
    }
}

impl Entry {
    fn difference(&self, expected: &Self) -> Option<String> {
        if self.attribute != expected.attribute {
            return Some("has another attribute".to_owned());
        }
        if self.content == expected.content {
            return None;
        }
        let mut both = self.content.iter().zip(&expected.content);
        let first = both.position(|(here, there)| here != there);
        let at = first.unwrap_or(self.content.len().min(expected.content.len()));
        let shown = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 16)]);
        Some(format!(
            "differs from byte {at} on: {} here, {} there",
            shown(&self.content),
            shown(&expected.content)
        ))
    }
}

/// With the path, where it fails.
fn told<T>(path: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, String> {
    look(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into());
    fs::read_dir(directory)?.map(name).collect()
}

fn attribute(path: &Path) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    match rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..]) {
        Ok(count) => value.truncate(count),
        Err(rustix::io::Errno::NODATA) => value.clear(),
        Err(error) => return Err(error.into()),
    }
    Ok(value)
}

/// The records of the log in an order of their own.
pub fn log_records(root: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(root.join(LOG)).unwrap();
    assert_eq!(bytes.len() % RECORD_BYTES, 0, "the log ends amid a record");
    let mut records: Vec<Vec<u8>> = bytes.chunks(RECORD_BYTES).map(<[u8]>::to_vec).collect();
    records.sort();
    records
}
