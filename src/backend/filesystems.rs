//! The filesystems of a backend tree, numbered as they are met. Each keeps a descriptor of a directory on it,
//! through which its handles are opened (and which keeps an automounted one mounted).

use super::FilesystemIndex;
use super::expected::{self, KnownFilesystem};
use super::identity::{self, FilesystemId, Traits};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::stat::{self, Stat};
use crate::sys::{handle, path};
use crate::types::{FileKey, FileKind};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Smaller files of a local filesystem are read through the page cache.
const LOCAL_DIRECT_BYTES_MIN: u64 = 8 << 20;

/// One filesystem of the tree, as mounted at one place.
pub struct Filesystem {
    pub index: FilesystemIndex,
    pub id: FilesystemId,
    pub traits: Traits,
    pub mount: Mount,
    device: (u32, u32),
    /// A directory on it, open for reading; none when its first inode met was no directory or unreadable.
    directory: Option<OwnedFd>,
    opens_handles: AtomicBool,
    refuses_direct: AtomicBool,
}

/// What `status` tells of one filesystem of the backend.
#[derive(Clone, Debug)]
pub struct FilesystemDescription {
    pub index: FilesystemIndex,
    pub fstype: String,
    pub source: String,
    pub mount_point: String,
    /// Files are known by handles that outlive renames and restarts, not by inode number alone.
    pub keeps_handles: bool,
    /// Files are opened by handle; else (no CAP_DAC_READ_SEARCH) by path.
    pub opens_handles: bool,
    pub remote: bool,
    /// Large files, at least, are read with O_DIRECT.
    pub reads_direct: bool,
}

impl Filesystem {
    /// The descriptor to open `key`'s handle with, and the handle, where that can work.
    pub fn handle<'a>(&'a self, key: &FileKey) -> Option<(BorrowedFd<'a>, handle::FileHandle)> {
        let directory = self.directory.as_ref()?;
        if !self.opens_handles.load(Ordering::Relaxed) {
            return None;
        }
        Some((directory.as_fd(), identity::handle_in(key, self.id)?))
    }

    /// Handles cannot be opened here (no privilege): do not try again.
    pub fn give_up_handles(&self) {
        self.opens_handles.store(false, Ordering::Relaxed);
    }

    pub fn key(&self, fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<FileKey> {
        identity::key_of(self.id, self.traits, fd, stat)
    }

    /// Whether a file is to be opened with O_DIRECT: of a remote filesystem, because the client's pages can be old; of
    /// a local one if it is large, because each byte is read once and memory is the users'.
    pub fn reads_direct(&self, size_bytes: u64) -> bool {
        (self.traits.remote || size_bytes >= LOCAL_DIRECT_BYTES_MIN)
            && !self.refuses_direct.load(Ordering::Relaxed)
    }

    /// O_DIRECT opens are refused here: do not try again.
    pub fn give_up_direct(&self) {
        self.refuses_direct.store(true, Ordering::Relaxed);
    }

    /// Whether names that other machines change can be out of date in this kernel's caches.
    pub fn has_stale_names(&self) -> bool {
        self.mount.fstype.starts_with("nfs")
    }

    /// Whether copy_file_range(2) moves no bytes over a network to this machine and back.
    pub fn copies_by_itself(&self) -> bool {
        !self.traits.remote || self.is_nfs_4_2()
    }

    /// Whether the server shows a change that another client has made only to who opens the file. With NFS 4.2 it lets a client
    /// keep times for itself (RFC 9754); Linux (7.2, server and client) then shows those of before for as long as
    /// the client holds the delegation, even after its fsync(2), and only an open makes it give that back.
    pub fn shows_changes_by_opening(&self) -> bool {
        self.is_nfs_4_2()
    }

    fn is_nfs_4_2(&self) -> bool {
        self.mount.fstype == "nfs4" && self.mount.option("vers") == Some("4.2")
    }

    /// Whether access(2) asks whoever decides: an NFS client does, with an ACCESS call that costs less than an open.
    pub fn answers_access(&self) -> bool {
        self.mount.fstype.starts_with("nfs")
    }

    pub fn is_autofs(&self) -> bool {
        self.mount.fstype == "autofs"
    }

    fn description(&self) -> FilesystemDescription {
        FilesystemDescription {
            index: self.index,
            fstype: self.mount.fstype.clone(),
            source: self.mount.source.to_string_lossy().into_owned(),
            mount_point: self.mount.mount_point.to_string_lossy().into_owned(),
            keeps_handles: self.traits.keeps_handles,
            opens_handles: self.traits.keeps_handles
                && self.directory.is_some()
                && self.opens_handles.load(Ordering::Relaxed),
            remote: self.traits.remote,
            reads_direct: self.reads_direct(u64::MAX),
        }
    }
}

/// Mount id and device: the first alone does not tell the subvolumes of one mount apart.
type Location = (u64, (u32, u32));

/// The table of filesystems.
#[derive(Default)]
pub struct Filesystems {
    known: RwLock<Known>,
    /// Held while one is added, so that two threads do not number the same one twice; mountinfo is read
    /// and descriptors are opened under it, never under `known`.
    adding: Mutex<()>,
}

#[derive(Default)]
struct Known {
    by_location: HashMap<Location, FilesystemIndex>,
    all: Vec<Arc<Filesystem>>,
}

impl Filesystems {
    pub fn get(&self, index: FilesystemIndex) -> Option<Arc<Filesystem>> {
        self.known.read().all.get(usize::from(index.0)).cloned()
    }

    /// Those that were met, expected ones left out.
    pub fn descriptions(&self) -> Vec<FilesystemDescription> {
        self.known
            .read()
            .all
            .iter()
            .filter(|one| !expected::is_expected(&one.mount))
            .map(|one| one.description())
            .collect()
    }

    /// Numbers filesystems of an earlier life, those that were not met before they were expected.
    pub fn expect(&self, filesystems: &[KnownFilesystem]) {
        let _adding = self.adding.lock();
        let mut known = self.known.write();
        for one in filesystems {
            let is_new = known.all.iter().all(|other| other.id.0 != one.id);
            if let (true, Ok(index)) = (is_new, u16::try_from(known.all.len())) {
                known.all.push(Arc::new(Filesystem {
                    index: FilesystemIndex(index),
                    id: FilesystemId(one.id),
                    traits: one.traits,
                    device: (0, 0),
                    opens_handles: AtomicBool::new(false),
                    refuses_direct: AtomicBool::new(false),
                    directory: None,
                    mount: one.mount(),
                }));
            }
        }
    }

    /// The filesystem whose files' keys begin like this one.
    pub fn of_key(&self, key: &FileKey) -> Option<FilesystemIndex> {
        let known = self.known.read();
        let mut all = known.all.iter();
        let found = all.find(|one| key.0.starts_with(&one.id.0));
        found.map(|one| one.index)
    }

    /// The filesystem of what `fd` refers to, whose attributes are `stat`; numbered now if it is new. The
    /// first one asked for gets index 0. Blocks on the filesystem only when it is new.
    pub fn of(&self, fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<Arc<Filesystem>> {
        let location = (stat.mount_id, stat.device);
        if let Some(known) = self.at(location) {
            return Ok(known);
        }
        let facts = stat::filesystem_stat(fd)?;
        let directory = match stat.attributes.kind {
            FileKind::Directory => {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                path::open_beneath(fd, OsStr::new("."), flags).ok()
            }
            _ => None,
        };
        let _adding = self.adding.lock();
        if let Some(known) = self.at(location) {
            return Ok(known);
        }
        let mounts = mountinfo::mounts()?;
        let mount = mounts
            .iter()
            .find(|mount| mount.id == stat.mount_id)
            .cloned()
            .unwrap_or_else(|| unlisted(stat.mount_id));
        let id = identity::filesystem_id(
            &mount,
            &facts,
            stat.device,
            directory.as_ref().map(AsFd::as_fd),
        );
        let (index, id) = self.place_for(id, &mount, stat.device, &mounts)?;
        let traits = identity::traits_of(&mount);
        let filesystem = Arc::new(Filesystem {
            index,
            id,
            traits,
            device: stat.device,
            opens_handles: AtomicBool::new(traits.keeps_handles),
            refuses_direct: AtomicBool::new(false),
            directory,
            mount,
        });
        self.put(location, filesystem.clone());
        Ok(filesystem)
    }

    fn at(&self, location: Location) -> Option<Arc<Filesystem>> {
        let known = self.known.read();
        let index = known.by_location.get(&location)?;
        known.all.get(usize::from(index.0)).cloned()
    }

    /// Where a new mount goes: to the index it had before it was unmounted and mounted anew, else to the next one,
    /// with an id of its own if a different filesystem that is still mounted has the same.
    fn place_for(
        &self,
        id: FilesystemId,
        mount: &Mount,
        device: (u32, u32),
        mounts: &[Mount],
    ) -> io::Result<(FilesystemIndex, FilesystemId)> {
        let known = self.known.read();
        let is_mounted = |one: &Filesystem| mounts.iter().any(|mount| mount.id == one.mount.id);
        let mut id = id;
        if known
            .all
            .iter()
            .any(|one| one.id == id && one.device != device && is_mounted(one))
        {
            id = identity::distinguished(id, mount);
        }
        let former = known.all.iter().find(|one| {
            let is_mounted_anew = one.index != FilesystemIndex(0)
                && one.mount.root == mount.root
                && one.mount.mount_point == mount.mount_point
                && !is_mounted(one);
            one.id == id && (is_mounted_anew || expected::is_expected(&one.mount))
        });
        let index = match former {
            Some(former) => former.index,
            None => FilesystemIndex(u16::try_from(known.all.len()).map_err(|_| {
                io::Error::other("more than 65536 filesystems below the backend directory")
            })?),
        };
        Ok((index, id))
    }

    fn put(&self, location: Location, filesystem: Arc<Filesystem>) {
        let mut known = self.known.write();
        let index = filesystem.index;
        known.by_location.retain(|_, other| *other != index);
        known.by_location.insert(location, index);
        let slot = usize::from(index.0);
        if slot == known.all.len() {
            known.all.push(filesystem);
        } else {
            known.all[slot] = filesystem;
        }
    }
}

/// Stands for a mount that mountinfo does not list: detached, or of another mount namespace.
fn unlisted(id: u64) -> Mount {
    Mount {
        id,
        root: "/".into(),
        mount_point: "".into(),
        fstype: "unknown".into(),
        source: "".into(),
        options: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, mount_point: &str) -> Mount {
        Mount {
            mount_point: mount_point.into(),
            fstype: "ext4".into(),
            ..unlisted(id)
        }
    }

    /// Adds `mount` as the real way does, without a filesystem behind it.
    fn add(
        table: &Filesystems,
        mount: &Mount,
        id: FilesystemId,
        minor: u32,
        mounts: &[Mount],
    ) -> Arc<Filesystem> {
        let device = (8, minor);
        let (index, id) = table.place_for(id, mount, device, mounts).unwrap();
        let filesystem = Arc::new(Filesystem {
            index,
            id,
            traits: identity::traits_of(mount),
            mount: mount.clone(),
            device,
            directory: None,
            opens_handles: AtomicBool::new(true),
            refuses_direct: AtomicBool::new(false),
        });
        table.put((mount.id, device), filesystem.clone());
        filesystem
    }

    #[test]
    fn a_clone_of_a_disk_mounted_beside_it_gets_keys_of_its_own() {
        let table = Filesystems::default();
        let mounts = [mount(1, "/b"), mount(2, "/b/clone"), mount(3, "/b/bind")];
        let id = FilesystemId([7; 8]);
        let disk = add(&table, &mounts[0], id, 1, &mounts);
        let clone = add(&table, &mounts[1], id, 2, &mounts);
        let bind = add(&table, &mounts[2], id, 1, &mounts);
        assert_ne!(disk.id, clone.id);
        assert_eq!(disk.id, bind.id, "the same files have the same keys");
        let indexes = [disk.index.0, clone.index.0, bind.index.0];
        assert_eq!(indexes, [0, 1, 2]);
    }

    #[test]
    fn a_filesystem_mounted_anew_keeps_its_index_and_id() {
        let table = Filesystems::default();
        let root = mount(1, "/b");
        let before = mount(2, "/b/sub");
        let after = mount(9, "/b/sub");
        let id = FilesystemId([8; 8]);
        add(
            &table,
            &root,
            FilesystemId([7; 8]),
            1,
            &[root.clone(), before.clone()],
        );
        let old = add(&table, &before, id, 2, &[root.clone(), before.clone()]);
        let new = add(&table, &after, id, 3, &[root, after.clone()]);
        assert_eq!((new.index, new.id), (old.index, old.id));
        assert!(
            table.at((2, (8, 2))).is_none(),
            "mount ids can be given out again"
        );
        assert_eq!(table.get(old.index).unwrap().mount, after);
    }
}
