//! One node: a backend file as the kernel knows it.
//!
//! There is one for every name the kernel remembers, a million for a million files, so what it holds is packed:
//! `Arc<Node>` takes 216 bytes.

use super::open_file::OpenFile;
use crate::backend::{FilesystemIndex, Found, HeldFile, Place};
use crate::types::{
    Attributes, Credentials, FileKey, FileKind, NodeId, ShortBytes, Timestamp, Version,
};
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
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
    /// Boxed twice, because few nodes are symbolic links.
    link_target: Option<Box<Box<[u8]>>>,
    attributes: PackedAttributes,
    validated: Moment,
    first_seen: CoarseMoment,
    timeout_ms: u32,
    pub(super) lookups: u32,
    /// The kernel's pages, if it has any, are of this version.
    pub pages_current: bool,
    /// The kernel may still hold attributes of an earlier version, its idea of the size among them.
    pub kernel_behind: bool,
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
                link_target: None,
                attributes: PackedAttributes::new(&found.attributes),
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
        state.attributes.unpack(self.inode)
    }

    pub fn version(&self, state: &NodeState) -> Version {
        state.attributes.unpack(self.inode).version()
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
        self.attributes = PackedAttributes::new(attributes);
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
        self.link_target.as_ref().map(|target| target.to_vec())
    }

    pub fn set_link_target(&mut self, target: Option<&[u8]>) {
        self.link_target = target.map(|target| Box::new(target.into()));
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

fn in_milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Instants are kept as their distance from here.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// An `Option<Instant>` in 8 bytes, to the microsecond.
#[derive(Clone, Copy)]
struct Moment(u64);

impl Moment {
    const NEVER: Self = Self(0);

    fn at(when: Instant) -> Self {
        Self(1 + when.saturating_duration_since(*EPOCH).as_micros() as u64)
    }

    fn instant(self) -> Option<Instant> {
        let since = Duration::from_micros(self.0.checked_sub(1)?);
        Some(*EPOCH + since)
    }
}

/// An instant in 4 bytes: 10 ms steps, rounded up. After 497 days it cannot be told, and reads as now.
#[derive(Clone, Copy)]
struct CoarseMoment(u32);

impl CoarseMoment {
    const STEP_MS: u64 = 10;

    fn at(when: Instant) -> Self {
        let since_ms = when.saturating_duration_since(*EPOCH).as_millis() as u64;
        Self(u32::try_from(since_ms / Self::STEP_MS + 1).unwrap_or(u32::MAX))
    }

    fn instant(self) -> Instant {
        if self.0 == u32::MAX {
            return Instant::now();
        }
        *EPOCH + Duration::from_millis(u64::from(self.0) * Self::STEP_MS)
    }
}

/// [`Attributes`] without the inode number, without padding between the fields.
#[derive(Clone, Copy)]
#[repr(Rust, packed(2))]
struct PackedAttributes {
    size_bytes: u64,
    blocks_512: u64,
    atime_seconds: i64,
    mtime_seconds: i64,
    ctime_seconds: i64,
    atime_nanoseconds: u32,
    mtime_nanoseconds: u32,
    ctime_nanoseconds: u32,
    link_count: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    block_size_bytes: u32,
    /// `st_mode`: kind and permissions.
    mode: u16,
}

impl PackedAttributes {
    fn new(from: &Attributes) -> Self {
        Self {
            size_bytes: from.size_bytes,
            blocks_512: from.blocks_512,
            atime_seconds: from.atime.seconds,
            mtime_seconds: from.mtime.seconds,
            ctime_seconds: from.ctime.seconds,
            atime_nanoseconds: from.atime.nanoseconds,
            mtime_nanoseconds: from.mtime.nanoseconds,
            ctime_nanoseconds: from.ctime.nanoseconds,
            link_count: from.link_count,
            uid: from.uid,
            gid: from.gid,
            rdev: from.rdev,
            block_size_bytes: from.block_size_bytes,
            mode: (from.kind.mode_bits() | from.permissions & 0o7777) as u16,
        }
    }

    fn kind(self) -> FileKind {
        FileKind::from_mode(self.mode.into())
    }

    fn unpack(self, inode: u64) -> Attributes {
        Attributes {
            inode,
            kind: self.kind(),
            permissions: u32::from(self.mode) & 0o7777,
            link_count: self.link_count,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size_bytes: self.size_bytes,
            blocks_512: self.blocks_512,
            block_size_bytes: self.block_size_bytes,
            atime: Timestamp {
                seconds: self.atime_seconds,
                nanoseconds: self.atime_nanoseconds,
            },
            mtime: Timestamp {
                seconds: self.mtime_seconds,
                nanoseconds: self.mtime_nanoseconds,
            },
            ctime: Timestamp {
                seconds: self.ctime_seconds,
                nanoseconds: self.ctime_nanoseconds,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        // With the two counts of its Arc: 216 bytes, which malloc serves from chunks of 224.
        assert!(size_of::<Node>() <= 200, "{}", size_of::<Node>());
    }

    #[test]
    fn attributes_are_kept_whole() {
        let time = |seconds, nanoseconds| Timestamp {
            seconds,
            nanoseconds,
        };
        let attributes = Attributes {
            inode: u64::MAX - 3,
            kind: FileKind::CharDevice,
            permissions: 0o6755,
            link_count: u32::MAX,
            uid: u32::MAX - 1,
            gid: 7,
            rdev: 0x1234_5678,
            size_bytes: u64::MAX,
            blocks_512: 1 << 50,
            block_size_bytes: 1 << 20,
            atime: time(-1, 999_999_999),
            mtime: time(i64::MAX, 1),
            ctime: time(1 << 40, 2),
        };
        let packed = PackedAttributes::new(&attributes);
        assert_eq!(packed.unpack(attributes.inode), attributes);
    }

    #[test]
    fn moments_come_back() {
        // Nothing before the epoch can be told.
        let _ = *EPOCH;
        let now = Instant::now();
        let moment = Moment::at(now).instant().expect("it was set");
        assert!(moment <= now && now - moment < Duration::from_micros(2));
        assert!(Moment::NEVER.instant().is_none());
        let coarse = CoarseMoment::at(now).instant();
        assert!(coarse >= now && coarse - now <= Duration::from_millis(10));
    }
}
