//! The tree of names of a device, twice: as programs see it and as the disk has it, and the changes
//! between the two.

use super::dice::Dice;
use super::errno;
use super::pending::Fate;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

pub(super) const ROOT_INODE: u64 = 2;
const NAME_MAX_BYTES: usize = 255;

/// A name in a directory.
pub(super) type Slot = (u64, String);

/// Directories by inode number; a number that is not in the map is a file.
#[derive(Clone)]
pub(super) struct Tree {
    directories: BTreeMap<u64, BTreeMap<String, u64>>,
}

/// A change of names, atomic for itself.
#[derive(Clone)]
pub(super) enum NameChange {
    Create {
        slot: Slot,
        inode: u64,
    },
    MakeDirectory {
        slot: Slot,
        inode: u64,
    },
    Remove {
        slot: Slot,
    },
    Rename {
        from: Slot,
        to: Slot,
        inode: u64,
        is_directory: bool,
    },
}

impl NameChange {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let (first, second) = match self {
            Self::Create { slot, .. }
            | Self::MakeDirectory { slot, .. }
            | Self::Remove { slot } => (slot, None),
            Self::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// Moving a directory depends on everything before it: otherwise a directory could end up inside
    /// itself.
    fn needs_all_before(&self) -> bool {
        matches!(
            self,
            Self::Rename {
                is_directory: true,
                ..
            }
        )
    }

    /// The inode that this change can bring (back) into the tree.
    pub fn brings(&self) -> Option<u64> {
        match self {
            Self::Create { inode, .. }
            | Self::MakeDirectory { inode, .. }
            | Self::Rename { inode, .. } => Some(*inode),
            Self::Remove { .. } => None,
        }
    }
}

/// Which part of the pending name changes the disk is to have.
pub(super) enum NameSelection<'a> {
    /// Those of one directory, and what they depend on.
    Of(u64),
    /// What a power cut leaves.
    Fate(Fate, &'a mut Dice),
}

impl Tree {
    pub fn new() -> Self {
        Self {
            directories: BTreeMap::from([(ROOT_INODE, BTreeMap::new())]),
        }
    }

    pub fn is_directory(&self, inode: u64) -> bool {
        self.directories.contains_key(&inode)
    }

    pub fn names(&self, directory: u64) -> impl Iterator<Item = &String> {
        self.directories
            .get(&directory)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    pub fn find(&self, slot: &Slot) -> Option<u64> {
        self.directories.get(&slot.0)?.get(&slot.1).copied()
    }

    /// The inode a path leads to, with path_resolution(7)'s errors.
    pub fn resolve(&self, path: &str) -> io::Result<u64> {
        let mut inode = ROOT_INODE;
        for name in path.split('/') {
            if !self.is_directory(inode) {
                return Err(errno(libc::ENOTDIR));
            }
            match name {
                "" | "." => {}
                ".." => return Err(errno(libc::EINVAL)),
                _ if name.len() > NAME_MAX_BYTES => return Err(errno(libc::ENAMETOOLONG)),
                _ => {
                    let slot = (inode, name.to_owned());
                    inode = self.find(&slot).ok_or_else(|| errno(libc::ENOENT))?;
                }
            }
        }
        Ok(inode)
    }

    /// The directory and name that a path ends in; the name need not exist.
    pub fn slot(&self, path: &str) -> io::Result<Slot> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(errno(libc::EINVAL));
        }
        let directory = self.resolve(parent)?;
        if !self.is_directory(directory) {
            return Err(errno(libc::ENOTDIR));
        }
        if name.len() > NAME_MAX_BYTES {
            return Err(errno(libc::ENAMETOOLONG));
        }
        Ok((directory, name.to_owned()))
    }

    /// Whether `inode` is `directory` or somewhere below it.
    pub fn is_within(&self, inode: u64, directory: u64) -> bool {
        inode == directory
            || self.directories.get(&directory).is_some_and(|names| {
                names
                    .values()
                    .any(|child| self.is_directory(*child) && self.is_within(inode, *child))
            })
    }

    pub fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Create { slot, inode } => self.link(slot, *inode),
            NameChange::MakeDirectory { slot, inode } => {
                self.link(slot, *inode);
                self.directories.entry(*inode).or_default();
            }
            NameChange::Remove { slot } => self.unlink(slot),
            NameChange::Rename {
                from, to, inode, ..
            } => {
                self.unlink(from);
                self.link(to, *inode);
            }
        }
    }

    fn link(&mut self, slot: &Slot, inode: u64) {
        let names = self.directories.entry(slot.0).or_default();
        names.insert(slot.1.clone(), inode);
    }

    fn unlink(&mut self, slot: &Slot) {
        if let Some(names) = self.directories.get_mut(&slot.0) {
            names.remove(&slot.1);
        }
    }

    /// Every inode that has a name, files and directories, with its path; forgets directories that
    /// no path leads to.
    pub fn prune(&mut self) -> BTreeMap<u64, String> {
        let mut reached = BTreeMap::from([(ROOT_INODE, String::new())]);
        let mut to_visit = vec![ROOT_INODE];
        while let Some(directory) = to_visit.pop() {
            let prefix = match reached[&directory].as_str() {
                "" => String::new(),
                path => format!("{path}/"),
            };
            for (name, inode) in self.directories.get(&directory).into_iter().flatten() {
                reached.insert(*inode, format!("{prefix}{name}"));
                if self.is_directory(*inode) {
                    to_visit.push(*inode);
                }
            }
        }
        self.directories
            .retain(|inode, _| reached.contains_key(inode));
        reached
    }

    /// Every inode named anywhere, directories without a path included.
    pub fn named_inodes(&self) -> BTreeSet<u64> {
        self.directories
            .values()
            .flat_map(|names| names.values().copied())
            .collect()
    }

    /// Applies the selected part of `pending` and gives back the rest, in order.
    pub fn land(
        &mut self,
        pending: Vec<NameChange>,
        selection: NameSelection<'_>,
    ) -> Vec<NameChange> {
        let landing = match selection {
            NameSelection::Of(directory) => needed_for(&pending, directory),
            NameSelection::Fate(fate, dice) => survivors(&pending, fate, dice),
        };
        let mut rest = Vec::new();
        for (change, lands) in pending.into_iter().zip(landing) {
            if lands {
                self.apply(&change);
            } else {
                rest.push(change);
            }
        }
        rest
    }
}

/// The changes that touch `directory`, and those before them of the same names.
fn needed_for(pending: &[NameChange], directory: u64) -> Vec<bool> {
    let mut needed_slots: BTreeSet<&Slot> = BTreeSet::new();
    let mut all = false;
    let mut needed = vec![false; pending.len()];
    for (index, change) in pending.iter().enumerate().rev() {
        let wanted = all
            || change
                .slots()
                .any(|slot| slot.0 == directory || needed_slots.contains(slot));
        if wanted {
            needed[index] = true;
            needed_slots.extend(change.slots());
            all |= change.needs_all_before();
        }
    }
    needed
}

/// What a power cut leaves: the first few (a journalling filesystem), or any that do not build on a
/// lost one (all that POSIX promises).
fn survivors(pending: &[NameChange], fate: Fate, dice: &mut Dice) -> Vec<bool> {
    match fate {
        Fate::Everything | Fate::SomeData => return vec![true; pending.len()],
        Fate::Nothing => return vec![false; pending.len()],
        Fate::Some => {}
    }
    if dice.chance(0.5) {
        let kept = dice.below(pending.len() as u64 + 1) as usize;
        return (0..pending.len()).map(|index| index < kept).collect();
    }
    let mut lost_slots: BTreeSet<&Slot> = BTreeSet::new();
    let mut kept = Vec::with_capacity(pending.len());
    for change in pending {
        let blocked = change.slots().any(|slot| lost_slots.contains(slot))
            || (change.needs_all_before() && !lost_slots.is_empty());
        let lost = blocked || dice.chance(0.4);
        if lost {
            lost_slots.extend(change.slots());
        }
        kept.push(!lost);
    }
    kept
}
