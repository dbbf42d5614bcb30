//! One simulated device: names, files, capacity. Plain state without locks; the caller has made
//! sure that the machine is on and counted the operation.

use super::content::BLOCK_BYTES;
use super::dice::Dice;
use super::errno;
use super::faults::{Fault, Injector};
use super::inode::Inode;
use super::names::{NameChange, NameSelection, ROOT_INODE, Slot, Tree};
use super::pending::Fate;
use crate::io::{DiskSpace, FileFacts, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

const INODES: u64 = 1 << 20;

pub(super) struct Device {
    pub name: String,
    pub capacity_bytes: u64,
    /// Of the files that have a name or an opener.
    pub used_bytes: u64,
    tree: Tree,
    durable_tree: Tree,
    pending_names: Vec<NameChange>,
    /// Regular files only.
    pub inodes: BTreeMap<u64, Inode>,
    /// Files without a name in `tree` that something may still hold.
    nameless: BTreeSet<u64>,
    next_inode: u64,
}

impl Device {
    pub fn new(name: &str, capacity_bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            capacity_bytes,
            used_bytes: 0,
            tree: Tree::new(),
            durable_tree: Tree::new(),
            pending_names: Vec::new(),
            inodes: BTreeMap::new(),
            nameless: BTreeSet::new(),
            next_inode: ROOT_INODE + 1,
        }
    }

    /// The file behind an open file; there is one as long as it is open.
    pub fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| errno(libc::ESTALE))
    }

    pub fn file_at(&mut self, path: &str) -> io::Result<&mut Inode> {
        let inode = self.tree.resolve(path)?;
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| errno(libc::EISDIR))
    }

    fn change(&mut self, change: NameChange) {
        self.tree.apply(&change);
        self.pending_names.push(change);
    }

    fn check_names(&self, path: &str, faults: &mut Injector) -> io::Result<()> {
        if faults.strikes(Fault::NameError, &self.name, path) {
            return Err(errno(libc::EIO));
        }
        Ok(())
    }

    fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode - 1
    }

    pub fn create_directory(&mut self, path: &str, faults: &mut Injector) -> io::Result<()> {
        self.check_names(path, faults)?;
        let slot = self.tree.slot(path)?;
        match self.tree.find(&slot) {
            Some(inode) if self.tree.is_directory(inode) => Ok(()),
            Some(_) => Err(errno(libc::ENOTDIR)),
            None => {
                let inode = self.new_inode();
                self.change(NameChange::MakeDirectory { slot, inode });
                Ok(())
            }
        }
    }

    /// The names, in an order that nobody can rely on.
    pub fn list(&self, path: &str, faults: &mut Injector) -> io::Result<Vec<String>> {
        self.check_names(path, faults)?;
        let directory = self.tree.resolve(path)?;
        if !self.tree.is_directory(directory) {
            return Err(errno(libc::ENOTDIR));
        }
        let mut names: Vec<String> = self.tree.names(directory).cloned().collect();
        faults.dice.shuffle(&mut names);
        Ok(names)
    }

    /// The inode, and whether it is a directory.
    pub fn open(
        &mut self,
        path: &str,
        mode: OpenMode,
        now_ns: i128,
        faults: &mut Injector,
    ) -> io::Result<(u64, bool)> {
        self.check_names(path, faults)?;
        if mode == OpenMode::CreateNew {
            return Ok((self.create(path, now_ns)?, false));
        }
        let inode = self.tree.resolve(path)?;
        match self.inodes.get_mut(&inode) {
            Some(file) => file.open_files += 1,
            None if mode == OpenMode::ReadWrite => return Err(errno(libc::EISDIR)),
            None => {}
        }
        Ok((inode, self.tree.is_directory(inode)))
    }

    fn create(&mut self, path: &str, now_ns: i128) -> io::Result<u64> {
        match path.rsplit_once('/').unwrap_or(("", path)) {
            ("", "" | ".") => return Err(errno(libc::EEXIST)),
            (_, "") => return Err(errno(libc::EISDIR)),
            _ => {}
        }
        let slot = self.tree.slot(path)?;
        if self.tree.find(&slot).is_some() {
            return Err(errno(libc::EEXIST));
        }
        let inode = self.new_inode();
        let mut file = Inode::new(path.to_owned(), now_ns);
        file.open_files = 1;
        self.inodes.insert(inode, file);
        self.change(NameChange::Create { slot, inode });
        Ok(inode)
    }

    pub fn remove_file(&mut self, path: &str, faults: &mut Injector) -> io::Result<()> {
        self.check_names(path, faults)?;
        let slot = self.tree.slot(path)?;
        let inode = self.tree.find(&slot).ok_or_else(|| errno(libc::ENOENT))?;
        if self.tree.is_directory(inode) {
            return Err(errno(libc::EISDIR));
        }
        self.change(NameChange::Remove { slot });
        self.nameless.insert(inode);
        self.give_back_space(inode);
        Ok(())
    }

    /// rename(2), with its errors in the kernel's order (fs/namei.c, do_renameat2).
    pub fn rename(&mut self, from: &str, to: &str, faults: &mut Injector) -> io::Result<()> {
        self.check_names(from, faults)?;
        let from_slot = self.tree.slot(from)?;
        let to_slot = self.tree.slot(to)?;
        let inode = self
            .tree
            .find(&from_slot)
            .ok_or_else(|| errno(libc::ENOENT))?;
        let is_directory = self.tree.is_directory(inode);
        if is_directory && self.tree.is_within(to_slot.0, inode) {
            return Err(errno(libc::EINVAL));
        }
        let replaced = self.tree.find(&to_slot);
        if let Some(target) = replaced {
            self.check_replaceable(&from_slot, inode, target)?;
            if target == inode {
                return Ok(());
            }
        }
        self.change(NameChange::Rename {
            from: from_slot,
            to: to_slot,
            inode,
            is_directory,
        });
        if let Some(target) = replaced
            && self.inodes.contains_key(&target)
        {
            self.nameless.insert(target);
            self.give_back_space(target);
        }
        self.note_paths(inode, to);
        Ok(())
    }

    /// After a rename: the paths that rules and `pretend_mapped` go by.
    fn note_paths(&mut self, renamed: u64, to: &str) {
        if let Some(file) = self.inodes.get_mut(&renamed) {
            to.clone_into(&mut file.path);
            return;
        }
        for (inode, path) in self.tree.clone().prune() {
            if let Some(file) = self.inodes.get_mut(&inode) {
                file.path = path;
            }
        }
    }

    fn check_replaceable(&self, from: &Slot, inode: u64, target: u64) -> io::Result<()> {
        if self.tree.is_within(from.0, target) {
            return Err(errno(libc::ENOTEMPTY));
        }
        match (
            self.tree.is_directory(inode),
            self.tree.is_directory(target),
        ) {
            (true, false) => Err(errno(libc::ENOTDIR)),
            (false, true) => Err(errno(libc::EISDIR)),
            (true, true) if target != inode && self.tree.names(target).next().is_some() => {
                Err(errno(libc::ENOTEMPTY))
            }
            _ => Ok(()),
        }
    }

    /// An open file is closed.
    pub fn close(&mut self, inode: u64) {
        if let Some(file) = self.inodes.get_mut(&inode) {
            file.open_files -= 1;
            self.give_back_space(inode);
        }
    }

    /// A file without name and opener takes no space; its bytes stay while a power cut could bring its
    /// name back.
    fn give_back_space(&mut self, inode: u64) {
        let file = &self.inodes[&inode];
        if !self.nameless.contains(&inode) || file.open_files > 0 {
            return;
        }
        self.used_bytes -= file.view.allocated_bytes();
        let named = self.durable_tree.named_inodes().contains(&inode);
        let pending = self.pending_names.iter();
        if !named
            && pending
                .filter_map(NameChange::brings)
                .all(|brought| brought != inode)
        {
            self.inodes.remove(&inode);
            self.nameless.remove(&inode);
        }
    }

    fn forget_nameless(&mut self) {
        let mut held = self.durable_tree.named_inodes();
        held.extend(self.pending_names.iter().filter_map(NameChange::brings));
        let inodes = &mut self.inodes;
        self.nameless.retain(|inode| {
            let kept = held.contains(inode) || inodes[inode].open_files > 0;
            if !kept {
                inodes.remove(inode);
            }
            kept
        });
    }

    pub fn sync_directory(&mut self, path: &str, faults: &mut Injector) -> io::Result<()> {
        let directory = self.tree.resolve(path)?;
        if !self.tree.is_directory(directory) {
            return Err(errno(libc::ENOTDIR));
        }
        if faults.strikes(Fault::SyncError, &self.name, path) {
            return Err(errno(libc::EIO));
        }
        let pending = std::mem::take(&mut self.pending_names);
        self.pending_names = self
            .durable_tree
            .land(pending, NameSelection::Of(directory));
        self.forget_nameless();
        Ok(())
    }

    pub fn sync_all(&mut self, faults: &mut Injector) -> io::Result<()> {
        let mut failed = false;
        for file in self.inodes.values_mut() {
            if faults.strikes(Fault::SyncError, &self.name, &file.path) {
                file.fail_sync(&mut faults.dice);
                failed = true;
            } else {
                file.sync_data(&mut faults.dice);
                file.durable_mtime_ns = file.mtime_ns;
            }
        }
        let pending = std::mem::take(&mut self.pending_names);
        let everything = NameSelection::Fate(Fate::Everything, &mut faults.dice);
        self.pending_names = self.durable_tree.land(pending, everything);
        self.forget_nameless();
        if failed {
            Err(errno(libc::EIO))
        } else {
            Ok(())
        }
    }

    /// fdatasync(2), or fsync(2) if the modification time is to become durable too.
    pub fn sync_data(
        &mut self,
        inode: u64,
        with_mtime: bool,
        faults: &mut Injector,
    ) -> io::Result<()> {
        let Some(file) = self.inodes.get_mut(&inode) else {
            return Ok(());
        };
        if faults.strikes(Fault::SyncError, &self.name, &file.path) {
            file.fail_sync(&mut faults.dice);
            return Err(errno(libc::EIO));
        }
        file.sync_data(&mut faults.dice);
        if with_mtime {
            file.durable_mtime_ns = file.mtime_ns;
        }
        Ok(())
    }

    pub fn space(&self) -> DiskSpace {
        DiskSpace {
            total_bytes: self.capacity_bytes,
            available_bytes: self.capacity_bytes.saturating_sub(self.used_bytes),
            total_inodes: INODES,
            available_inodes: INODES.saturating_sub(self.inodes.len() as u64),
        }
    }

    pub fn facts(&self, inode: u64) -> FileFacts {
        match self.inodes.get(&inode) {
            Some(file) => FileFacts {
                inode,
                size_bytes: file.view.size_bytes,
                allocated_bytes: file.view.allocated_bytes(),
                link_count: u64::from(!self.nameless.contains(&inode)),
                owner_uid: nix::unistd::geteuid().as_raw(),
                is_regular: true,
                mtime_ns: file.mtime_ns,
                birth_ns: 0,
            },
            None => FileFacts {
                inode,
                size_bytes: BLOCK_BYTES,
                allocated_bytes: BLOCK_BYTES,
                link_count: 2,
                owner_uid: nix::unistd::geteuid().as_raw(),
                is_regular: false,
                mtime_ns: super::EPOCH_NS,
                birth_ns: 0,
            },
        }
    }

    pub fn drop_pages(&mut self) {
        self.inodes.values_mut().for_each(Inode::drop_pages);
    }

    /// The machine stops: what is not durable is there in part, in any order, or not at all.
    pub fn lose_power(&mut self, dice: &mut Dice) {
        let fate = Fate::of_a_power_cut(dice);
        let pending = std::mem::take(&mut self.pending_names);
        self.durable_tree
            .land(pending, NameSelection::Fate(fate, dice));
        for file in self.inodes.values_mut() {
            file.lose_power(fate, dice);
        }
        self.start_over(self.durable_tree.clone());
        self.durable_tree = self.tree.clone();
    }

    /// The process died: the filesystem goes on, its open files are gone.
    pub fn end_of_process(&mut self) {
        self.inodes.values_mut().for_each(Inode::end_of_process);
        self.forget_nameless();
        self.count_used_bytes();
    }

    fn count_used_bytes(&mut self) {
        let files = self.inodes.iter();
        self.used_bytes = files
            .filter(|(inode, _)| !self.nameless.contains(inode))
            .map(|(_, file)| file.view.allocated_bytes())
            .sum();
    }

    fn start_over(&mut self, tree: Tree) {
        self.tree = tree;
        let reached = self.tree.prune();
        self.inodes.retain(|inode, _| reached.contains_key(inode));
        for (inode, file) in &mut self.inodes {
            file.path.clone_from(&reached[inode]);
        }
        self.nameless.clear();
        self.count_used_bytes();
    }
}
