//! Nodes: what the kernel knows of the backend's files, by node id, by key, and by parent and name.
//!
//! Invariants: a node id names one node while the daemon lives or until the kernel forgets it; a file has at most
//! one current node, older ones are superseded and serve only who has them open. Nothing correct depends on
//! lookup counts: a node gone too early is ESTALE, and the kernel looks again.

use super::node::{INODE_BITS, Node, TABLE_ID, Whereabouts};
use crate::backend::{FilesystemIndex, Found, Place};
use crate::types::{Attributes, FileKey, NodeId, RenameMode, ShortBytes};
use hashbrown::HashTable;
use lru::LruCache;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Further names of hard links that are remembered.
const LINKS_MAX: usize = 16384;
/// Tables smaller than this are not worth shrinking.
const SHRINK_MIN: usize = 4096;

pub(super) struct NodeTable {
    maps: RwLock<Maps>,
    hasher: RandomState,
}

struct Maps {
    /// All nodes, by inode number: a file's nodes lie together, found by id or by key.
    by_inode: HashTable<Arc<Node>>,
    /// The nodes whose id is no inode number.
    by_table_id: HashMap<NodeId, Arc<Node>>,
    /// By parent and name, each under the last name it was found under.
    by_name: HashTable<Arc<Node>>,
    /// Names that hard links were found under before the last one.
    links: LruCache<(NodeId, ShortBytes), Weak<Node>>,
    next_table_id: u64,
}

impl Maps {
    fn new() -> Self {
        let links = NonZeroUsize::new(LINKS_MAX).expect("not zero");
        Self {
            by_inode: HashTable::new(),
            by_table_id: HashMap::new(),
            by_name: HashTable::new(),
            links: LruCache::new(links),
            next_table_id: 0,
        }
    }
}

impl NodeTable {
    pub fn new(root: Place, attributes: Attributes, timeout: Duration) -> Self {
        let found = Found {
            filesystem: root.filesystem,
            key: root.key,
            attributes,
        };
        let node = Arc::new(Node::new(NodeId::ROOT, found, None, timeout));
        node.state.lock().lookups = 1;
        let table = Self {
            maps: RwLock::new(Maps::new()),
            hasher: RandomState::new(),
        };
        table.insert(&mut table.maps.write(), &node);
        table
    }

    pub fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        self.by_id(&self.maps.read(), id).cloned()
    }

    pub fn len(&self) -> usize {
        self.maps.read().by_inode.len()
    }

    fn by_id<'maps>(&self, maps: &'maps Maps, id: NodeId) -> Option<&'maps Arc<Node>> {
        match inode_of(id) {
            Some(inode) => maps
                .by_inode
                .find(self.inode_hash(inode), |node| node.id == id),
            None => maps.by_table_id.get(&id),
        }
    }

    fn insert(&self, maps: &mut Maps, node: &Arc<Node>) {
        maps.by_inode
            .insert_unique(self.inode_hash(node.inode), node.clone(), |node| {
                self.inode_hash(node.inode)
            });
        if inode_of(node.id).is_none() {
            maps.by_table_id.insert(node.id, node.clone());
        }
    }

    fn inode_hash(&self, inode: u64) -> u64 {
        self.hasher.hash_one(inode)
    }

    /// Half of a hash, so that a node can keep it.
    fn name_hash(&self, parent: NodeId, name: &OsStr) -> u32 {
        self.hasher.hash_one((parent, name)) as u32
    }

    /// The node last found under a name, whether or not it is still there.
    pub fn by_name(&self, parent: NodeId, name: &OsStr) -> Option<Arc<Node>> {
        let hash = self.name_hash(parent, name);
        let maps = self.maps.read();
        let filed = maps.by_name.find(spread(hash), |node| {
            node.filed_under.load(Ordering::Relaxed) == hash
                && !node.is_superseded()
                && node.state.lock().is_under(parent, name)
        });
        filed.cloned().or_else(|| {
            let link = maps.links.peek(&(parent, name.as_bytes().into()))?;
            link.upgrade().filter(|node| !node.is_superseded())
        })
    }

    /// The name is gone.
    pub fn forget_name(&self, parent: NodeId, name: &OsStr) {
        self.take_name_off(&mut self.maps.write(), parent, name);
    }

    /// Whoever was found under a name is there no more.
    fn take_name_off(&self, maps: &mut Maps, parent: NodeId, name: &OsStr) -> Option<Arc<Node>> {
        let hash = self.name_hash(parent, name);
        let link = maps.links.pop(&(parent, name.as_bytes().into()));
        let found = maps.by_name.find_entry(spread(hash), |node| {
            node.filed_under.load(Ordering::Relaxed) == hash
                && node.state.lock().is_under(parent, name)
        });
        match found {
            Ok(entry) => Some(entry.remove().0),
            Err(_) => link?.upgrade(),
        }
    }

    fn file_under(&self, maps: &mut Maps, node: &Arc<Node>, parent: NodeId, name: &OsStr) {
        let hash = self.name_hash(parent, name);
        node.filed_under.store(hash, Ordering::Relaxed);
        maps.by_name
            .insert_unique(spread(hash), node.clone(), filed_hash);
    }

    /// Two names of which the first led to a file were changed by renameat2(2).
    pub fn moved(&self, from: (&Arc<Node>, &OsStr), to: (&Arc<Node>, &OsStr), mode: RenameMode) {
        let mut maps = self.maps.write();
        let first = self.take_name_off(&mut maps, from.0.id, from.1);
        let second = self.take_name_off(&mut maps, to.0.id, to.1);
        if let Some(node) = first {
            self.refile(&mut maps, &node, to);
        }
        if let Some(node) = second.filter(|_| mode == RenameMode::Exchange) {
            self.refile(&mut maps, &node, from);
        }
    }

    fn refile(&self, maps: &mut Maps, node: &Arc<Node>, under: (&Arc<Node>, &OsStr)) {
        self.take_off(maps, node);
        let left = node.state.lock().set_parent(under.0.clone(), under.1);
        self.file_under(maps, node, under.0.id, under.1);
        // Outside the node's lock: the last one of a directory may go with it.
        drop(left);
    }

    /// The node of a file found under a name: the current one, or a new one; and the name it was last found under if
    /// that was another. Not counted as a lookup yet.
    pub fn admit(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        found: &Found,
        timeout: Duration,
    ) -> (Arc<Node>, Option<Whereabouts>) {
        let inode_hash = self.inode_hash(found.attributes.inode);
        let is_current = |node: &Arc<Node>| !node.is_superseded() && node.is_of(found);
        {
            let maps = self.maps.read();
            if let Some(node) = maps.by_inode.find(inode_hash, is_current)
                && (node.id == NodeId::ROOT
                    || node.state.lock().is_under(parent.id, name) && is_filed(&maps, node))
            {
                return (node.clone(), None);
            }
        }
        let mut moved_from = None;
        let mut maps = self.maps.write();
        // Whoever was found there before is there no more.
        self.take_name_off(&mut maps, parent.id, name);
        let current = maps.by_inode.find(inode_hash, is_current).cloned();
        let node = match current {
            Some(node) => {
                self.take_off(&mut maps, &node);
                let mut state = node.state.lock();
                if !state.is_under(parent.id, name) {
                    moved_from = state.set_parent(parent.clone(), name);
                }
                drop(state);
                node
            }
            None => {
                let id = self.free_id(&mut maps, found);
                let under = Some((parent.clone(), name));
                let node = Arc::new(Node::new(id, found.clone(), under, timeout));
                self.insert(&mut maps, &node);
                node
            }
        };
        self.file_under(&mut maps, &node, parent.id, name);
        if let Some((old_parent, old_name)) = &moved_from
            && found.attributes.link_count > 1
        {
            let link = (old_parent.id, old_name.clone());
            maps.links.put(link, Arc::downgrade(&node));
        }
        (node, moved_from)
    }

    /// Whether a file is known under another name than this one, which is an earlier one then: it has one only.
    pub fn is_elsewhere(&self, parent: &Node, name: &OsStr, found: &Found) -> bool {
        let maps = self.maps.read();
        let inode_hash = self.inode_hash(found.attributes.inode);
        let current = maps.by_inode.find(inode_hash, |node| {
            !node.is_superseded() && node.is_of(found)
        });
        current.is_some_and(|node| {
            let state = node.state.lock();
            node.attributes(&state).link_count <= 1 && !state.is_under(parent.id, name)
        })
    }

    /// A node for a file without a name. Not counted as a lookup yet.
    pub fn admit_unnamed(&self, found: &Found, timeout: Duration) -> Arc<Node> {
        let mut maps = self.maps.write();
        let id = self.free_id(&mut maps, found);
        let node = Arc::new(Node::new(id, found.clone(), None, timeout));
        self.insert(&mut maps, &node);
        node
    }

    /// All nodes of a node's file: the current one and those it superseded.
    pub fn of_file(&self, node: &Node) -> Vec<Arc<Node>> {
        self.of_key(&node.key, node.inode)
    }

    pub fn of_key(&self, key: &FileKey, inode: u64) -> Vec<Arc<Node>> {
        let maps = self.maps.read();
        maps.by_inode
            .iter_hash(self.inode_hash(inode))
            .filter(|node| node.inode == inode && node.key == *key)
            .cloned()
            .collect()
    }

    /// Those of which the kernel may have pages.
    pub fn with_pages(&self) -> Vec<Arc<Node>> {
        let maps = self.maps.read();
        let has_pages = |node: &&Arc<Node>| node.state.lock().pages_current;
        maps.by_inode.iter().filter(has_pages).cloned().collect()
    }

    /// Counts a lookup given to the kernel.
    pub fn count_lookup(&self, node: &Arc<Node>) {
        {
            let maps = self.maps.read();
            if self
                .by_id(&maps, node.id)
                .is_some_and(|held| Arc::ptr_eq(held, node))
            {
                node.state.lock().lookups += 1;
                return;
            }
        }
        let mut maps = self.maps.write();
        // A forget came between finding the node and answering with it.
        match self.by_id(&maps, node.id) {
            Some(held) => held.state.lock().lookups += 1,
            None => {
                node.state.lock().lookups += 1;
                self.insert(&mut maps, node);
            }
        }
    }

    /// Takes back `count` lookups; a node without any goes.
    pub fn forget(&self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        let mut maps = self.maps.write();
        let Some(node) = self.by_id(&maps, id).cloned() else {
            return;
        };
        let mut state = node.state.lock();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        state.lookups = state.lookups.saturating_sub(count);
        let in_use = state.lookups > 0 || state.open.is_some();
        drop(state);
        if !in_use {
            self.remove(&mut maps, &node);
        }
        drop(maps);
        // The last one of its parents may go with it: outside the lock.
        drop(node);
    }

    /// Drops a node that was admitted for a request that ended otherwise.
    pub fn drop_unused(&self, node: &Arc<Node>) {
        self.forget(node.id, 0);
    }

    fn remove(&self, maps: &mut Maps, node: &Arc<Node>) {
        let found = maps
            .by_inode
            .find_entry(self.inode_hash(node.inode), |held| Arc::ptr_eq(held, node));
        if let Ok(entry) = found {
            entry.remove();
        }
        if inode_of(node.id).is_none() {
            maps.by_table_id.remove(&node.id);
        }
        self.take_off(maps, node);
        // Tables that held millions give the memory back.
        if maps.by_inode.capacity() > SHRINK_MIN
            && maps.by_inode.len() * 4 < maps.by_inode.capacity()
        {
            maps.by_inode
                .shrink_to_fit(|node| self.inode_hash(node.inode));
            maps.by_name.shrink_to_fit(filed_hash);
            maps.by_table_id.shrink_to_fit();
        }
    }

    fn take_off(&self, maps: &mut Maps, node: &Arc<Node>) {
        let found = maps
            .by_name
            .find_entry(filed_hash(node), |held| Arc::ptr_eq(held, node));
        if let Ok(entry) = found {
            entry.remove();
        }
    }

    /// From now on lookups of this file give another node; this one serves only who has it open.
    pub fn supersede(&self, node: &Node) {
        let _maps = self.maps.write();
        node.set_superseded();
    }

    /// The backend's inode number where that is possible and free, else one from the table.
    fn free_id(&self, maps: &mut Maps, found: &Found) -> NodeId {
        let inode = found.attributes.inode;
        if found.filesystem == FilesystemIndex(0) && inode > 1 && inode >> INODE_BITS == 0 {
            for alias in 0..1u64 << 14 {
                let id = NodeId(inode | alias << INODE_BITS);
                if self.by_id(maps, id).is_none() {
                    return id;
                }
            }
        }
        loop {
            maps.next_table_id += 1;
            let id = NodeId(TABLE_ID | maps.next_table_id);
            if !maps.by_table_id.contains_key(&id) {
                return id;
            }
        }
    }
}

/// The inode number in a node id; the bits above tell a file's nodes apart. `None` for ids that hold none.
fn inode_of(id: NodeId) -> Option<u64> {
    (id.0 & TABLE_ID == 0 && id != NodeId::ROOT).then_some(id.0 & ((1 << INODE_BITS) - 1))
}

fn is_filed(maps: &Maps, node: &Arc<Node>) -> bool {
    maps.by_name
        .find(filed_hash(node), |held| Arc::ptr_eq(held, node))
        .is_some()
}

fn filed_hash(node: &Arc<Node>) -> u64 {
    spread(node.filed_under.load(Ordering::Relaxed))
}

/// A table uses the lowest and the highest bits of a hash.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
