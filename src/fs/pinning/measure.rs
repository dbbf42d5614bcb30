//! How much a name leads to, and what of that is in the cache: as the backend says, or as it was last known while the
//! backend is away.

use super::PinReport;
use super::walk::Walk;
use crate::fs::FileSystem;
use crate::types::{FileKey, FileKind, NodeId, Version};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

/// A file or directory, as it was last known.
struct Known {
    key: FileKey,
    kind: FileKind,
    version: Version,
}

/// What a name leads to.
pub(super) struct Measured {
    pub report: PinReport,
    /// Files all of which is in the cache.
    pub whole: Vec<(FileKey, Version)>,
}

impl Measured {
    fn of(path: &Path) -> Self {
        Self {
            report: PinReport::of(path),
            whole: Vec::new(),
        }
    }
}

impl FileSystem {
    /// Waits for the backend, unless that is away.
    pub(super) fn measure(self: &Arc<Self>, path: &Path) -> io::Result<Measured> {
        if !self.health.is_away() {
            match self.measure_on_backend(path) {
                Err(_) if self.health.is_away() => {}
                outcome => return outcome,
            }
        }
        self.measure_known(path).ok_or_else(|| {
            io::Error::other("the backend is away, and not all that it leads to is known")
        })
    }

    fn measure_on_backend(self: &Arc<Self>, path: &Path) -> io::Result<Measured> {
        let mut measured = Measured::of(path);
        let mut walk = Walk::new(self.clone(), path)?;
        while let Some(found) = walk.next() {
            let found = found?;
            self.count(&mut measured, found.place.key, found.version);
        }
        Ok(measured)
    }

    fn count(&self, measured: &mut Measured, key: FileKey, version: Version) {
        let held = self.cache.held(&key, &version);
        measured.report.count(held);
        if held.is_whole() {
            measured.whole.push((key, version));
        }
    }

    /// `None` where a part is not known. Waits for the local disk.
    pub(super) fn measure_known(&self, path: &Path) -> Option<Measured> {
        let mut measured = Measured::of(path);
        let mut waiting = vec![self.known_at(path)?];
        while let Some(known) = waiting.pop() {
            match known.kind {
                FileKind::Regular => self.count(&mut measured, known.key, known.version),
                FileKind::Directory => waiting.extend(self.known_in(&known.key)?),
                FileKind::Symlink
                | FileKind::Fifo
                | FileKind::Socket
                | FileKind::CharDevice
                | FileKind::BlockDevice => {}
            }
        }
        Some(measured)
    }

    fn known_at(&self, path: &Path) -> Option<Known> {
        let root = self.node(NodeId::ROOT).ok()?;
        let version = root.version(&root.state.lock());
        let mut known = Known {
            key: root.key.clone(),
            kind: FileKind::Directory,
            version,
        };
        for component in path.components() {
            let Component::Normal(name) = component else {
                return None;
            };
            known = self.known_below(&known.key, name)?;
        }
        Some(known)
    }

    fn known_below(&self, directory: &FileKey, name: &std::ffi::OsStr) -> Option<Known> {
        let (key, attributes) = self.names.name(directory, name)?;
        Some(Known {
            key,
            kind: attributes.kind,
            version: attributes.version(),
        })
    }

    /// The files and directories in a directory.
    fn known_in(&self, directory: &FileKey) -> Option<Vec<Known>> {
        let listing = self.names.listing(directory)?;
        let counted = listing
            .names
            .iter()
            .filter(|listed| matches!(listed.kind, FileKind::Regular | FileKind::Directory));
        counted
            .map(|listed| self.known_below(directory, &listed.name))
            .collect()
    }
}
