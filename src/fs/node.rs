//! One node: a backend file as the kernel knows it.
//!
//! There is one for every name the kernel remembers, a million for a million files, so what it holds is packed:
//! `Arc<Node>` takes 192 bytes.

use super::compact::{CoarseMoment, CompactAttributes, Moment};
use super::open_file::OpenFile;
use crate::backend::{FilesystemIndex, Found, HeldFile, Place};
use crate::types::{Attributes, Credentials, FileKey, FileKind, NodeId, ShortBytes, Version};
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Bits of an inode number that can be shown beside the bits of its filesystem.
pub(super) const INODE_BITS: u32 = 48;
/// Marks node ids that come from a table, and inode numbers of other filesystems than the root's.
pub(super) const TABLE_ID: u64 = 1 << 63;

/// Directories moved about on the backend may seem to lie in one another.
pub(super) const DEPTH_MAX: usize = 1 << 16;

pub(super) struct Node {
    pub id: NodeId,
    /// The backend's inode number: the same as long as the key.
    pub inode: u64,
    pub key: FileKey,
    pub filesystem: FilesystemIndex,
    /// A newer node stands for this file.
    superseded: AtomicBool,
    /// The hash of the parent and name that the table files it under.
    pub(super) filed_under: AtomicU32,
    pub state: Mutex<NodeState>,
}

/// A directory and a name in it.
pub(super) type Whereabouts = (Arc<Node>, ShortBytes);

pub(super) struct NodeState {
    /// Where the file was last found; `None` for the root.
    parent: Option<Whereabouts>,
    pub open: Option<Arc<OpenFile>>,
    rare: Option<Box<Rare>>,
    /// Where [`Rare`] has none that are more exact.
    attributes: CompactAttributes,
    validated: Moment,
    first_seen: CoarseMoment,
    timeout_ms: u32,
    pub(super) lookups: u32,
    /// The kernel's pages, if it has any, are of this version.
    pub pages_current: bool,
    /// The kernel may still hold attributes of an earlier version, its idea of the size among them.
    pub kernel_behind: bool,
}

/// What few nodes have.
#[derive(Default)]
struct Rare {
    link_target: Option<Box<[u8]>>,
    /// They are not usual enough for [`CompactAttributes`].
    attributes: Option<Attributes>,
}

impl Node {
    pub fn new(
        id: NodeId,
        found: Found,
        parent: Option<(Arc<Node>, &OsStr)>,
        timeout: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            inode: found.attributes.inode,
            key: found.key,
            filesystem: found.filesystem,
            superseded: AtomicBool::new(false),
            filed_under: AtomicU32::new(0),
            state: Mutex::new(NodeState {
                parent: parent.map(|(parent, name)| (parent, name.as_bytes().into())),
                open: None,
                rare: rare_attributes(&found.attributes).map(|exact| {
                    Box::new(Rare {
                        attributes: Some(exact),
                        ..Rare::default()
                    })
                }),
                attributes: CompactAttributes::new(&found.attributes),
                validated: Moment::at(now),
                first_seen: CoarseMoment::at(now),
                timeout_ms: in_milliseconds(timeout),
                lookups: 0,
                pages_current: false,
                kernel_behind: false,
            }),
        }
    }

    /// Where to find the file on the backend now, for whoever asks where the backend decides by that.
    pub fn place_for(&self, caller: &Option<Credentials>) -> Place {
        Place {
            filesystem: self.filesystem,
            key: self.key.clone(),
            inode: self.inode,
            path: self.path(),
            held: self.held(),
            caller: caller.clone(),
            only_caller: false,
        }
    }

    fn held(&self) -> Option<HeldFile> {
        let open = self.state.lock().open.clone()?;
        let held = open.held.lock();
        held.as_ref().map(|held| held.file.clone())
    }

    /// Relative to the backend's root, by the names the file and its parents were last found under.
    pub fn path(&self) -> PathBuf {
        let mut names: Vec<ShortBytes> = Vec::new();
        let mut next = self.state.lock().parent.clone();
        while let Some((parent, name)) = next
            && names.len() < DEPTH_MAX
        {
            names.push(name);
            next = parent.state.lock().parent.clone();
        }
        names
            .iter()
            .rev()
            .map(|name| OsStr::from_bytes(name))
            .collect()
    }

    pub fn parent(&self) -> Option<Arc<Node>> {
        let state = self.state.lock();
        let (parent, _) = state.parent.as_ref()?;
        Some(parent.clone())
    }

    pub fn parent_and_name(&self) -> Option<(Arc<Node>, OsString)> {
        let state = self.state.lock();
        let (parent, name) = state.parent.as_ref()?;
        Some((parent.clone(), OsStr::from_bytes(name).to_owned()))
    }

    /// `st_ino` as programs see it. Numbers of the root filesystem are shown as they are. Others get bits of
    /// their filesystem's id on top, so that two files of one mount do not share a number.
    pub fn shown_inode(&self) -> u64 {
        if self.filesystem == FilesystemIndex(0) {
            return self.inode;
        }
        let mut id = [0; 8];
        for (byte, from) in id.iter_mut().zip(self.key.0.iter()) {
            *byte = *from;
        }
        let filesystem = u64::from_le_bytes(id);
        let folded = self.inode ^ (self.inode >> INODE_BITS << 7);
        TABLE_ID | (filesystem & 0x7fff) << INODE_BITS | (folded & ((1 << INODE_BITS) - 1))
    }

    /// What was found is this node's file.
    pub fn is_of(&self, found: &Found) -> bool {
        self.inode == found.attributes.inode
            && self.filesystem == found.filesystem
            && self.key == found.key
    }

    pub fn attributes(&self, state: &NodeState) -> Attributes {
        let exact = state.rare.as_ref().and_then(|rare| rare.attributes);
        exact.unwrap_or_else(|| state.attributes.unpack(self.inode))
    }

    pub fn version(&self, state: &NodeState) -> Version {
        self.attributes(state).version()
    }

    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// It has lost its last name here while programs have it open. Who opens it now knows one of them (/proc/self/fd).
    pub fn is_nameless(&self) -> bool {
        self.is_superseded() && self.held().is_some()
    }

    pub(super) fn set_superseded(&self) {
        self.superseded.store(true, Ordering::Release);
    }
}

impl NodeState {
    /// How long the attributes can still be relied on; zero when they cannot.
    pub fn fresh_for(&self) -> Duration {
        match self.validated.instant() {
            Some(validated) => self.timeout().saturating_sub(validated.elapsed()),
            None => Duration::ZERO,
        }
    }

    pub fn kind(&self) -> FileKind {
        self.attributes.kind()
    }

    pub fn set_attributes(&mut self, attributes: &Attributes) {
        let exact = rare_attributes(attributes);
        self.attributes = CompactAttributes::new(attributes);
        self.set_rare(exact.is_some(), |rare| rare.attributes = exact);
    }

    /// When the attributes last came from the backend; `None`: do not rely on them.
    pub fn validated(&self) -> Option<Instant> {
        self.validated.instant()
    }

    /// Changed by us at this moment: answers to questions asked before are outdated, and the next use asks.
    pub fn expire(&mut self, when: Instant) {
        self.validated = Moment::at(when);
        self.timeout_ms = 0;
    }

    pub fn set_validated(&mut self, when: Option<Instant>) {
        self.validated = when.map_or(Moment::NEVER, Moment::at);
    }

    /// How long the attributes are good for, between the ac*min and ac*max of nfs(5).
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout_ms = in_milliseconds(timeout);
    }

    /// When this version was first seen, or up to 10 ms later.
    pub fn first_seen(&self) -> Instant {
        self.first_seen.instant()
    }

    pub fn set_first_seen(&mut self, when: Instant) {
        self.first_seen = CoarseMoment::at(when);
    }

    pub fn link_target(&self) -> Option<Vec<u8>> {
        let target = self.rare.as_ref()?.link_target.as_ref()?;
        Some(target.to_vec())
    }

    pub fn set_link_target(&mut self, target: Option<&[u8]>) {
        self.set_rare(target.is_some(), |rare| {
            rare.link_target = target.map(Into::into);
        });
    }

    fn set_rare(&mut self, is_something: bool, set: impl FnOnce(&mut Rare)) {
        if is_something || self.rare.is_some() {
            let rare = self.rare.get_or_insert_default();
            set(rare);
            if rare.link_target.is_none() && rare.attributes.is_none() {
                self.rare = None;
            }
        }
    }

    pub(super) fn parent(&self) -> Option<(&Arc<Node>, &OsStr)> {
        let (parent, name) = self.parent.as_ref()?;
        Some((parent, OsStr::from_bytes(name)))
    }

    /// Says where the file was last found before.
    pub(super) fn set_parent(&mut self, parent: Arc<Node>, name: &OsStr) -> Option<Whereabouts> {
        self.parent.replace((parent, name.as_bytes().into()))
    }

    pub(super) fn is_under(&self, parent: NodeId, name: &OsStr) -> bool {
        self.parent()
            .is_some_and(|(held, held_name)| held.id == parent && held_name == name)
    }
}

/// The attributes, if [`CompactAttributes`] cannot hold them.
fn rare_attributes(attributes: &Attributes) -> Option<Attributes> {
    let comes_back = CompactAttributes::new(attributes).unpack(attributes.inode);
    (comes_back != *attributes).then_some(*attributes)
}

fn in_milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        // With the two counts of its Arc a size class of the allocator: 192 bytes.
        assert_eq!(size_of::<Node>(), 176);
    }
}
