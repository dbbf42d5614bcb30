//! How one file stands: what is cached of it, who has it open, and how an open would read it.

use super::FileSystem;
use super::node::Node;
use crate::cache::Told;
use crate::types::{Attributes, FileKey, FileKind, NodeId};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How the kernel gets the bytes of a file that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadBy {
    /// From the object, by itself.
    Passthrough,
    /// Through the daemon and the kernel's pages.
    PageCache,
    /// Through the daemon, from the backend: it is being written to here.
    Backend,
}

/// Why an open would not be by passthrough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Reads bypass the kernel: `direct_io`.
    DirectIo,
    /// Switched off, or every read is checked.
    SwitchedOff,
    /// The kernel has none, or does not let us.
    Unavailable,
    SmallFile {
        limit_bytes: u64,
    },
    NotComplete,
    Written,
    Locked,
}

/// A node that somebody has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenNow {
    pub read_by: ReadBy,
    pub handles: u64,
    pub writers: u64,
}

#[derive(Clone, Debug)]
pub struct Explanation {
    pub key: FileKey,
    pub attributes: Attributes,
    /// The backend told so now; else it is what is known.
    pub is_fresh: bool,
    pub told: Told,
    pub open: Vec<OpenNow>,
    /// None: the next open is by passthrough.
    pub obstacles: Vec<Obstacle>,
    /// The path that pins it.
    pub pin: Option<PathBuf>,
}

impl FileSystem {
    /// Of a path relative to the root. Asks the backend, or goes by what is known where that is away. Blocks on it.
    pub fn explain(&self, path: &Path) -> io::Result<Explanation> {
        let found = match self.health.is_away() {
            true => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            false => self.look_at(path),
        };
        let (key, attributes, is_fresh) = match found {
            Ok((key, attributes)) => (key, attributes, true),
            Err(error) => {
                let node = self
                    .known_file(path)
                    .filter(|_| self.health.is_away())
                    .ok_or(error)?;
                let attributes = node.attributes(&node.state.lock());
                (node.key.clone(), attributes, false)
            }
        };
        let told = match attributes.kind {
            FileKind::Regular => self.cache.tell(&key, attributes.size_bytes),
            _ => Told::default(),
        };
        let nodes = self.nodes.of_key(&key, attributes.inode);
        let open: Vec<OpenNow> = nodes.iter().filter_map(open_now).collect();
        Ok(Explanation {
            obstacles: self.obstacles(&key, &attributes, &told),
            key,
            attributes,
            is_fresh,
            told,
            open,
            pin: self.pin_of(path),
        })
    }

    fn look_at(&self, path: &Path) -> io::Result<(FileKey, Attributes)> {
        let (place, attributes) = self.find_with_attributes(path)?;
        Ok((place.key, attributes))
    }

    fn known_file(&self, path: &Path) -> Option<Arc<Node>> {
        let mut node = self.nodes.get(NodeId::ROOT)?;
        for component in path.components() {
            if let Component::Normal(name) = component {
                node = self.nodes.by_name(node.id, name)?;
            }
        }
        Some(node)
    }

    fn pin_of(&self, path: &Path) -> Option<PathBuf> {
        let pins = self.cache.pins().paths();
        let above = path.ancestors().find(|above| pins.contains(*above));
        above.map(Path::to_owned)
    }

    /// In the order in which an open asks (`src/fs/opening.rs`).
    fn obstacles(&self, key: &FileKey, attributes: &Attributes, told: &Told) -> Vec<Obstacle> {
        let limit_bytes = self.settings.small_file_bytes;
        let version = attributes.version();
        let stored = told.stored.as_ref();
        let is_complete = stored.is_some_and(|stored| {
            stored.version == version && stored.is_complete() && !stored.is_bypassed
        });
        let is_off = !self.settings.passthrough;
        [
            (self.settings.direct_io, Obstacle::DirectIo),
            (is_off, Obstacle::SwitchedOff),
            (self.registry.is_none() && !is_off, Obstacle::Unavailable),
            (
                attributes.size_bytes <= limit_bytes,
                Obstacle::SmallFile { limit_bytes },
            ),
            (!is_complete, Obstacle::NotComplete),
            (self.writes.is_expected(key), Obstacle::Written),
            (self.locks.is_noted(key), Obstacle::Locked),
        ]
        .into_iter()
        .filter_map(|(stands, obstacle)| stands.then_some(obstacle))
        .collect()
    }
}

fn open_now(node: &Arc<Node>) -> Option<OpenNow> {
    let open = node.state.lock().open.clone()?;
    let writes = open.writes.load_full();
    let read_by = match (open.changing().is_some(), &open.passthrough) {
        (_, Some(_)) => ReadBy::Passthrough,
        (true, None) => ReadBy::Backend,
        (false, None) => ReadBy::PageCache,
    };
    Some(OpenNow {
        read_by,
        handles: open.handles.load(Ordering::Acquire) as u64,
        writers: writes.map_or(0, |writes| writes.writers().len() as u64),
    })
}
