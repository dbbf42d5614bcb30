//! What is cached, by directory: as far as names are known, from this life of the daemon or an earlier one.
//!
//! What always holds: a directory is named only where every directory above it lets everybody list it; what lies in
//! others counts for the nearest above that is named.

use super::FileSystem;
use super::node::DEPTH_MAX;
use crate::types::{FileKey, FileKind, NodeId};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Directories that are told apart; more take too much memory.
const DIRECTORIES_MAX: usize = 100_000;
/// How deep below the root.
const NAMED_DEPTH: usize = 2;
/// Everybody may list it and look up what is in it.
const OPEN_TO_ALL: u32 = 0o005;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheMap {
    pub directories: Vec<MappedDirectory>,
    /// False: there was no time or room for all that is known.
    pub is_whole: bool,
}

/// A directory with all below it that has no row of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedDirectory {
    pub path: PathBuf,
    pub sum: Sum,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub files: u64,
    pub bytes: u64,
    /// Files of which something is cached.
    pub cached_files: u64,
    pub cached_bytes: u64,
}

struct Directory {
    parent: FileKey,
    name: OsString,
    permissions: u32,
}

struct Tree {
    root: FileKey,
    root_permissions: u32,
    directories: HashMap<FileKey, Directory>,
}

impl FileSystem {
    /// Goes by what is known of names, and asks no backend. Waits for the local disk, and ends after `limit`.
    pub fn map_of_cache(&self, limit: Duration) -> CacheMap {
        let Ok(root) = self.node(NodeId::ROOT) else {
            return CacheMap::default();
        };
        let mut tree = Tree {
            root: root.key.clone(),
            root_permissions: root.attributes(&root.state.lock()).permissions,
            directories: HashMap::new(),
        };
        let mut sums: HashMap<FileKey, Sum> = HashMap::new();
        let is_whole = self.scan_names(&mut tree, &mut sums, Instant::now() + limit);
        CacheMap {
            directories: tree.rows(&sums),
            is_whole,
        }
    }

    fn scan_names(
        &self,
        tree: &mut Tree,
        sums: &mut HashMap<FileKey, Sum>,
        deadline: Instant,
    ) -> bool {
        let mut place = None;
        loop {
            let (names, next) = self.names.scan(place);
            for name in names {
                match name.attributes.kind {
                    FileKind::Directory => {
                        let directory = Directory {
                            parent: name.parent,
                            name: name.name,
                            permissions: name.attributes.permissions,
                        };
                        tree.directories.insert(name.file, directory);
                    }
                    FileKind::Regular => {
                        let held = self.cache.held(&name.file, &name.attributes.version());
                        let sum = sums.entry(name.parent).or_default();
                        sum.add(held.size_bytes, held.cached_bytes);
                    }
                    FileKind::Symlink
                    | FileKind::Fifo
                    | FileKind::Socket
                    | FileKind::CharDevice
                    | FileKind::BlockDevice => {}
                }
            }
            place = match next {
                None => return true,
                next => next,
            };
            let is_full = tree.directories.len().max(sums.len()) > DIRECTORIES_MAX;
            if is_full || Instant::now() >= deadline {
                return false;
            }
        }
    }
}

impl Sum {
    fn add(&mut self, size_bytes: u64, cached_bytes: u64) {
        self.files += 1;
        self.bytes += size_bytes;
        self.cached_files += u64::from(cached_bytes > 0);
        self.cached_bytes += cached_bytes;
    }

    fn take(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.cached_files += other.cached_files;
        self.cached_bytes += other.cached_bytes;
    }
}

impl Tree {
    fn rows(&self, sums: &HashMap<FileKey, Sum>) -> Vec<MappedDirectory> {
        let mut rows: HashMap<PathBuf, Sum> = HashMap::new();
        for (directory, sum) in sums {
            // What the root does not lead to any more is not shown.
            if let Some(path) = self.named_path(directory) {
                rows.entry(path).or_default().take(sum);
            }
        }
        let rows = rows.into_iter();
        let mut rows: Vec<MappedDirectory> = rows
            .map(|(path, sum)| MappedDirectory { path, sum })
            .collect();
        rows.sort_by(|one, other| one.path.cmp(&other.path));
        rows
    }

    /// Of the directory, or of the nearest above that is named.
    fn named_path(&self, directory: &FileKey) -> Option<PathBuf> {
        let mut below_root = Vec::new();
        let mut key = directory;
        while *key != self.root {
            let directory = self.directories.get(key)?;
            if below_root.len() == DEPTH_MAX {
                return None;
            }
            below_root.push(directory);
            key = &directory.parent;
        }
        let mut path = PathBuf::new();
        let mut above = self.root_permissions;
        for directory in below_root.iter().rev().take(NAMED_DEPTH) {
            if above & OPEN_TO_ALL != OPEN_TO_ALL {
                break;
            }
            path.push(&directory.name);
            above = directory.permissions;
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> FileKey {
        FileKey(name.as_bytes().into())
    }

    #[test]
    fn only_what_everybody_may_list_is_named_and_the_rest_counts_for_what_is_above() {
        let mut tree = Tree {
            root: key("root"),
            root_permissions: 0o755,
            directories: HashMap::new(),
        };
        for (name, parent, permissions) in [
            ("open", "root", 0o755),
            ("inner", "open", 0o755),
            ("deep", "inner", 0o755),
            ("closed", "root", 0o750),
            ("secret", "closed", 0o755),
            ("lost", "nowhere", 0o755),
        ] {
            let directory = Directory {
                parent: key(parent),
                name: name.into(),
                permissions,
            };
            tree.directories.insert(key(name), directory);
        }
        let path = |name| tree.named_path(&key(name));
        assert_eq!(path("root"), Some(PathBuf::new()));
        assert_eq!(path("inner"), Some(PathBuf::from("open/inner")));
        assert_eq!(path("deep"), Some(PathBuf::from("open/inner")));
        assert_eq!(path("closed"), Some(PathBuf::from("closed")));
        assert_eq!(path("secret"), Some(PathBuf::from("closed")));
        assert_eq!(path("lost"), None);
        let sum = Sum {
            files: 1,
            bytes: 10,
            cached_files: 1,
            cached_bytes: 5,
        };
        let sums = ["deep", "inner", "secret", "lost"].map(|name| (key(name), sum));
        let rows = tree.rows(&HashMap::from(sums));
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].path.to_str(), rows[0].sum.files),
            (Some("closed"), 1)
        );
        assert_eq!(rows[1].sum.bytes, 20);
    }
}
