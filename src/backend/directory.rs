//! [`Backend`] on a real directory, held by descriptor: a mount over its path, or a rename of it, changes
//! nothing for us.

use super::expected::KnownFilesystem;
use super::filesystems::FilesystemDescription;
use super::locate::{Located, Tree, check_name, may_be_found_unopened};
use super::source::DirectoryFile;
use super::stream::OpenDirectory;
use super::unsent::Unsent;
use super::writable::{self, WritableDescriptor};
use super::writing::{NewFile, Opened, WritableFile, WriteAccess, Writes};
use super::{
    Backend, BackendSpace, DirectoryStream, FilesystemIndex, Found, HeldFile, Place, SourceFile,
    counted,
};
use crate::io::FillSource;
use crate::metrics::BackendMetrics;
use crate::sys::stat::{self, Freshness};
use crate::sys::{path, xattr};
use crate::types::{Attributes, Credentials, FileKey, FileKind};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub struct DirectoryBackend {
    pub(super) tree: Arc<Tree>,
    pub(super) metrics: Arc<BackendMetrics>,
}

impl DirectoryBackend {
    /// Opens the directory `path`, whose name is not used again. Symbolic links in `path` are followed.
    /// ENOENT, ENOTDIR or EACCES as open(2) has them. Blocks on the filesystem.
    pub fn open(path: &Path, metrics: Arc<BackendMetrics>) -> io::Result<Arc<DirectoryBackend>> {
        Self::from_root(path::open_directory(path)?, metrics)
    }

    /// The tree below a directory open for reading. Blocks on the filesystem.
    pub fn from_root(
        root: OwnedFd,
        metrics: Arc<BackendMetrics>,
    ) -> io::Result<Arc<DirectoryBackend>> {
        Ok(Arc::new(Self {
            tree: Arc::new(Tree::new(root)?),
            metrics,
        }))
    }

    /// A tree that was there before and is away: `filesystems` are those that were met then. Calls that need its root wait
    /// for it until `patience` is over, then fail.
    pub fn awaited(
        root: FileKey,
        filesystems: &[KnownFilesystem],
        patience: Duration,
        metrics: Arc<BackendMetrics>,
    ) -> Arc<DirectoryBackend> {
        let of_root = |one: &&KnownFilesystem| root.0.starts_with(&one.id);
        let (first, others): (Vec<_>, Vec<_>) = filesystems.iter().partition(of_root);
        let filesystems: Vec<_> = first.into_iter().chain(others).cloned().collect();
        Arc::new(Self {
            tree: Arc::new(Tree::awaited(root, &filesystems, patience)),
            metrics,
        })
    }

    /// Takes a directory open for reading for the root awaited; false if it is another. Blocks on the filesystem.
    pub fn arrive(&self, root: OwnedFd) -> io::Result<bool> {
        self.tree.arrive(root)
    }

    /// Numbers filesystems of an earlier life, so that what is known of their files can be told.
    pub fn expect(&self, filesystems: &[KnownFilesystem]) {
        self.tree.filesystems.expect(filesystems);
    }

    /// The root's key, whether or not it is there.
    pub fn root_key(&self) -> &FileKey {
        self.tree.root_key()
    }

    /// What the root's directory is called now; `None` while it is awaited. Asks nobody: the kernel keeps its name.
    pub fn present_path(&self) -> Option<PathBuf> {
        let root = self.tree.root_if_there()?;
        std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).ok()
    }

    /// From now on files of local filesystems can be held alone. Called once, where every thread has SIGIO blocked.
    pub fn watch_leases(&self) -> io::Result<()> {
        self.tree.leases.watch()
    }

    /// The filesystems met so far, the root's own first. Does not block.
    pub fn filesystems(&self) -> Vec<FilesystemDescription> {
        self.tree.filesystems.descriptions()
    }

    #[cfg(test)]
    pub(super) fn each_filesystem(&self, action: impl Fn(&super::filesystems::Filesystem)) {
        for one in self.filesystems() {
            if let Some(filesystem) = self.tree.filesystems.get(one.index) {
                action(&filesystem);
            }
        }
    }

    pub(super) fn counted<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        counted(&self.metrics, call)
    }
}

impl Backend for DirectoryBackend {
    fn root(&self) -> io::Result<(Place, Attributes)> {
        self.counted(|| {
            let stat = stat::stat(self.tree.root()?, Freshness::Server)?;
            let place = Place {
                filesystem: FilesystemIndex(0),
                key: self.tree.root_key().clone(),
                inode: stat.attributes.inode,
                path: PathBuf::new(),
                held: None,
                caller: None,
                only_caller: false,
            };
            Ok((place, stat.attributes))
        })
    }

    fn lookup(&self, parent: &Place, name: &OsStr) -> io::Result<Found> {
        self.counted(|| {
            self.tree.in_directory(parent, |directory| {
                self.tree.find(directory, name, parent.caller.as_ref())
            })
        })
    }

    fn lookup_opened(&self, parent: &Place, name: &OsStr) -> io::Result<(Found, Option<HeldFile>)> {
        let opened = self.counted(|| {
            self.tree.in_directory(parent, |directory| {
                self.tree.find_by_opening(directory, name, parent)
            })
        });
        match opened {
            Ok(Some((found, held))) => Ok((found, Some(held))),
            Err(error) if !may_be_found_unopened(&error) => Err(error),
            Ok(None) | Err(_) => self.lookup(parent, name).map(|found| (found, None)),
        }
    }

    fn attributes(&self, place: &Place) -> io::Result<Attributes> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            if located.is_fresh {
                return Ok(located.stat.attributes);
            }
            let stat = stat::stat(located.fd.as_fd(), Freshness::Server)?;
            if stat.attributes.inode != place.inode {
                return Err(io::Error::from_raw_os_error(libc::ESTALE));
            }
            Ok(stat.attributes)
        })
    }

    fn attributes_opened(&self, place: &Place) -> io::Result<(Attributes, Option<HeldFile>)> {
        match self.counted(|| self.tree.attributes_by_opening(place)) {
            Ok(Some((fresh, held))) => Ok((fresh, Some(held))),
            Err(error) if !may_be_found_unopened(&error) => Err(error),
            Ok(None) | Err(_) => self.attributes(place).map(|fresh| (fresh, None)),
        }
    }

    fn open_directory(&self, place: &Place) -> io::Result<Box<dyn DirectoryStream>> {
        self.counted(|| {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            // By the descriptor: a name in it, "." too, can be had only of a directory that can be searched.
            let directory = self.tree.in_directory(place, |directory| {
                place.as_caller(|| path::reopen(directory, flags))
            })?;
            let (tree, metrics) = (self.tree.clone(), self.metrics.clone());
            let stream = OpenDirectory::new(tree, directory, place.caller.clone(), metrics);
            Ok(Box::new(stream) as Box<dyn DirectoryStream>)
        })
    }

    fn read_link(&self, place: &Place) -> io::Result<Vec<u8>> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            if located.stat.attributes.kind != FileKind::Symlink {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            place.as_caller(|| path::read_link(located.fd.as_fd()))
        })
    }

    fn open(&self, place: &Place) -> io::Result<Arc<dyn SourceFile>> {
        self.counted(|| {
            let Located {
                fd,
                filesystem,
                stat,
                is_fresh: _,
            } = self.tree.locate(place)?;
            // Opening a pipe or a device would do something to it.
            let refusal = match stat.attributes.kind {
                FileKind::Regular => None,
                FileKind::Directory => Some(libc::EISDIR),
                FileKind::Symlink => Some(libc::ELOOP),
                FileKind::Fifo
                | FileKind::Socket
                | FileKind::CharDevice
                | FileKind::BlockDevice => Some(libc::ENXIO),
            };
            if let Some(errno) = refusal {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let (file, direct_refused) = place.as_caller_or_daemon(|| {
                DirectoryFile::open(
                    &fd,
                    stat.attributes.inode,
                    filesystem.reads_direct(stat.attributes.size_bytes),
                    !filesystem.traits.remote,
                    self.metrics.clone(),
                )
            })?;
            if direct_refused {
                filesystem.give_up_direct();
            }
            Ok(Arc::new(file) as Arc<dyn SourceFile>)
        })
    }

    fn space(&self, place: &Place) -> io::Result<BackendSpace> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            let facts = stat::filesystem_stat(located.fd.as_fd())?;
            Ok(BackendSpace {
                block_size_bytes: facts.block_size_bytes,
                fragment_size_bytes: facts.fragment_size_bytes,
                blocks: facts.blocks,
                blocks_free: facts.blocks_free,
                blocks_available: facts.blocks_available,
                files: facts.files,
                files_free: facts.files_free,
                name_length_max: facts.name_length_max,
            })
        })
    }

    fn list_xattr(&self, place: &Place) -> io::Result<Vec<u8>> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            place.as_caller(|| xattr::list(located.fd.as_fd()))
        })
    }

    fn get_xattr(&self, place: &Place, name: &OsStr) -> io::Result<Vec<u8>> {
        self.counted(|| {
            let located = self.tree.locate(place)?;
            place.as_caller(|| xattr::get(located.fd.as_fd(), name))
        })
    }

    fn known_filesystem(&self, filesystem: FilesystemIndex) -> Option<KnownFilesystem> {
        let filesystem = self.tree.filesystems.get(filesystem)?;
        let fstype = &filesystem.mount.fstype;
        Some(KnownFilesystem::new(
            filesystem.id,
            filesystem.traits,
            fstype,
        ))
    }

    fn filesystem_of(&self, key: &FileKey) -> Option<FilesystemIndex> {
        self.tree.filesystems.of_key(key)
    }

    fn asks_by_opening(&self, filesystem: FilesystemIndex) -> bool {
        let known = self.tree.filesystems.get(filesystem);
        known.is_some_and(|filesystem| filesystem.shows_changes_by_opening())
    }

    fn has_local_clock(&self, filesystem: FilesystemIndex) -> bool {
        self.tree
            .filesystems
            .get(filesystem)
            .is_some_and(|filesystem| filesystem.traits.local_clock)
    }
}

impl Unsent for DirectoryBackend {}

impl Writes for DirectoryBackend {
    fn open_writable(
        &self,
        place: &Place,
        access: WriteAccess,
        opener: &Credentials,
    ) -> io::Result<Arc<dyn WritableFile>> {
        self.counted(|| {
            let file = WritableDescriptor::open(&self.tree, place, access, opener, &self.metrics)?;
            Ok(Arc::new(file) as Arc<dyn WritableFile>)
        })
    }

    fn create(
        &self,
        parent: &Place,
        name: &OsStr,
        new: NewFile,
        opener: &Credentials,
    ) -> io::Result<Opened> {
        self.counted(|| {
            check_name(name)?;
            WritableDescriptor::create(&self.tree, parent, Some(name), new, opener, &self.metrics)
        })
    }

    fn create_unnamed(
        &self,
        parent: &Place,
        new: NewFile,
        opener: &Credentials,
    ) -> io::Result<Opened> {
        self.counted(|| {
            WritableDescriptor::create(&self.tree, parent, None, new, opener, &self.metrics)
        })
    }

    fn open_to_copy(&self, place: &Place) -> io::Result<FillSource> {
        self.counted(|| writable::open_to_copy(&self.tree, place))
    }

    fn copies_by_itself(&self, filesystem: FilesystemIndex) -> bool {
        self.tree
            .filesystems
            .get(filesystem)
            .is_some_and(|filesystem| filesystem.copies_by_itself())
    }
}
