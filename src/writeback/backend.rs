//! The calls of the backend, with files as they are here.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::file::{JournalledFile, errno};
use super::source::JournalledSource;
use crate::backend::access::{Access, AccessDecisions};
use crate::backend::expected::KnownFilesystem;
use crate::backend::locking::{LockFile, Locks};
use crate::backend::writing::{NewFile, Opened, WritableFile, WriteAccess, Writes};
use crate::backend::{
    Backend, BackendSpace, DirectoryStream, FilesystemIndex, Found, HeldFile, ListedName, Place,
    SourceFile,
};
use crate::io::FillSource;
use crate::types::{Attributes, Conflict, Credentials, FileKey, LockKind, RangeLock, Version};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was made just now.
struct Made {
    /// The moment before, for [`super::table::Table::has_ended_since`].
    began: u64,
    attributes: Attributes,
    is_nameless: bool,
}

impl WriteBack {
    /// Attributes as programs left the file. While an upload ends, the backend's answer may be of a moment before: it is
    /// asked again then.
    pub(super) fn overlaid(
        &self,
        key: &FileKey,
        mut ask: impl FnMut() -> io::Result<Attributes>,
    ) -> io::Result<Attributes> {
        loop {
            let ends = self.table.ends();
            let fresh = ask()?;
            if let Some(file) = self.table.get(key)
                && file.is_dirty()
            {
                return Ok(file.shown(fresh));
            }
            if !self.table.has_ended_since(ends, key) {
                return Ok(fresh);
            }
        }
    }

    fn overlaid_found(
        &self,
        path: &Path,
        mut ask: impl FnMut() -> io::Result<Found>,
    ) -> io::Result<Found> {
        loop {
            let ends = self.table.ends();
            let mut found = ask()?;
            self.note_seen(&found.key, path);
            if let Some(file) = self.dirty(&found.key) {
                if file.state().may_be_another(path, &found.attributes) {
                    self.settle_namesake(&file)?;
                    continue;
                }
                found.attributes = file.shown(found.attributes);
                return Ok(found);
            }
            if !self.table.has_ended_since(ends, &found.key) {
                return Ok(found);
            }
        }
    }

    /// Somebody else may have moved a file, or the directory it is in.
    fn note_seen(&self, key: &FileKey, path: &Path) {
        if let Some(file) = self.table.get(key) {
            let mut state = file.state();
            state.is_name_doubtful |= state.place.path != path;
        }
    }

    /// Before another file is shown by the key of this one it is where it belongs, or beside that.
    fn settle_namesake(&self, file: &Arc<DirtyFile>) -> io::Result<()> {
        self.with_settled(file, || Ok(())).map_err(|error| {
            let path = &file.state().place.path;
            tracing::debug!(?path, %error, "another file may have its inode number, and it is not on the backend yet");
            errno(libc::EBUSY)
        })
    }

    fn dirty(&self, key: &FileKey) -> Option<Arc<DirtyFile>> {
        self.table.get(key).filter(|file| file.is_dirty())
    }

    fn opened(
        &self,
        place: &Place,
        opener: &Credentials,
        inner: Arc<dyn WritableFile>,
        made: Option<Made>,
    ) -> io::Result<Arc<dyn WritableFile>> {
        let file = self.table.open(place, opener);
        {
            let mut state = file.state();
            state.file = Some(inner.clone());
            state.opener = opener.clone();
            state.is_nameless |= made.as_ref().is_some_and(|made| made.is_nameless);
            state.is_name_doubtful |= state.place.path != place.path;
        }
        let (back, base) = (self.this(), file.clone());
        let opened = JournalledFile { back, file, inner };
        self.find_base(&base, &*opened.inner, made)?;
        Ok(Arc::new(opened))
    }

    /// What a clean file is on the backend; what was just made is as it was found. Not what it was in the middle of an upload
    /// that has ended since.
    fn find_base(
        &self,
        file: &DirtyFile,
        below: &dyn WritableFile,
        made: Option<Made>,
    ) -> io::Result<()> {
        let mut found = made.map(|made| (made.began, made.attributes));
        loop {
            let (moment, fresh) = match found.take() {
                Some(found) => found,
                None => (self.table.ends(), below.attributes()?),
            };
            let mut state = file.state();
            if state.is_dirty() && state.base.is_some() {
                return Ok(());
            }
            if !self.table.has_ended_since(moment, &file.key) {
                state.base = Some(fresh);
                return Ok(());
            }
        }
    }

    /// One handle less.
    pub(super) fn close(&self, file: &Arc<DirtyFile>) {
        let is_over = {
            let mut state = file.state();
            state.handles -= 1;
            state.handles == 0 && state.is_nameless
        };
        if is_over {
            self.forget(file);
        }
        self.table.release(file);
    }

    fn place_of(found: &Found, parent: &Place, name: Option<&OsStr>) -> Place {
        Place {
            filesystem: found.filesystem,
            key: found.key.clone(),
            inode: found.attributes.inode,
            path: name.map_or_else(Default::default, |name| parent.path.join(name)),
            held: None,
            caller: None,
            only_caller: false,
        }
    }
}

impl Backend for WriteBack {
    fn root(&self) -> io::Result<(Place, Attributes)> {
        self.inner.root()
    }

    fn lookup(&self, parent: &Place, name: &OsStr) -> io::Result<Found> {
        self.overlaid_found(&parent.path.join(name), || self.inner.lookup(parent, name))
    }

    fn lookup_opened(&self, parent: &Place, name: &OsStr) -> io::Result<(Found, Option<HeldFile>)> {
        let mut held = None;
        let found = self.overlaid_found(&parent.path.join(name), || {
            let (found, opened) = self.inner.lookup_opened(parent, name)?;
            held = opened;
            Ok(found)
        })?;
        Ok((found, held))
    }

    fn attributes(&self, place: &Place) -> io::Result<Attributes> {
        self.overlaid(&place.key, || self.inner.attributes(place))
    }

    fn attributes_opened(&self, place: &Place) -> io::Result<(Attributes, Option<HeldFile>)> {
        let mut held = None;
        let fresh = self.overlaid(&place.key, || {
            let (fresh, opened) = self.inner.attributes_opened(place)?;
            held = opened;
            Ok(fresh)
        })?;
        Ok((fresh, held))
    }

    fn open_directory(&self, place: &Place) -> io::Result<Box<dyn DirectoryStream>> {
        let inner = self.inner.open_directory(place)?;
        let (back, path) = (self.this(), place.path.clone());
        Ok(Box::new(Stream { inner, back, path }))
    }

    fn read_link(&self, place: &Place) -> io::Result<Vec<u8>> {
        self.inner.read_link(place)
    }

    fn open(&self, place: &Place) -> io::Result<Arc<dyn SourceFile>> {
        match self.table.get(&place.key) {
            None => self.inner.open(place),
            Some(_) => {
                let source = JournalledSource::new(self.this(), place);
                Ok(Arc::new(Arc::new(source)))
            }
        }
    }

    fn space(&self, place: &Place) -> io::Result<BackendSpace> {
        self.inner.space(place)
    }

    fn list_xattr(&self, place: &Place) -> io::Result<Vec<u8>> {
        self.inner.list_xattr(place)
    }

    fn get_xattr(&self, place: &Place, name: &OsStr) -> io::Result<Vec<u8>> {
        self.inner.get_xattr(place, name)
    }

    fn asks_by_opening(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.asks_by_opening(filesystem)
    }

    fn has_local_clock(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.has_local_clock(filesystem)
    }

    fn known_filesystem(&self, filesystem: FilesystemIndex) -> Option<KnownFilesystem> {
        self.inner.known_filesystem(filesystem)
    }

    fn filesystem_of(&self, key: &FileKey) -> Option<FilesystemIndex> {
        self.inner.filesystem_of(key)
    }

    fn has_become(&self, key: &FileKey, one: &Version, other: &Version) -> bool {
        self.table.has_become(key, one, other)
    }
}

impl AccessDecisions for WriteBack {
    fn decides_access(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.decides_access(filesystem)
    }

    fn check_access(&self, place: &Place, access: Access) -> io::Result<()> {
        self.inner.check_access(place, access)
    }
}

impl Writes for WriteBack {
    fn open_writable(
        &self,
        place: &Place,
        access: WriteAccess,
        opener: &Credentials,
    ) -> io::Result<Arc<dyn WritableFile>> {
        let inner = self.inner.open_writable(place, access, opener)?;
        self.opened(place, opener, inner, None)
    }

    fn create(
        &self,
        parent: &Place,
        name: &OsStr,
        new: NewFile,
        opener: &Credentials,
    ) -> io::Result<Opened> {
        let began = self.table.ends();
        let (found, inner) = self.inner.create(parent, name, new, opener)?;
        let place = Self::place_of(&found, parent, Some(name));
        let made = Made {
            began,
            attributes: found.attributes,
            is_nameless: false,
        };
        let file = self.opened(&place, opener, inner, Some(made))?;
        Ok((found, file))
    }

    fn create_unnamed(
        &self,
        parent: &Place,
        new: NewFile,
        opener: &Credentials,
    ) -> io::Result<Opened> {
        let began = self.table.ends();
        let (found, inner) = self.inner.create_unnamed(parent, new, opener)?;
        let place = Self::place_of(&found, parent, None);
        let made = Made {
            began,
            attributes: found.attributes,
            is_nameless: true,
        };
        let file = self.opened(&place, opener, inner, Some(made))?;
        Ok((found, file))
    }

    /// The kernel reads and writes what no descriptor has.
    fn open_to_copy(&self, place: &Place) -> io::Result<FillSource> {
        match self.dirty(&place.key) {
            Some(_) => Err(errno(libc::EOPNOTSUPP)),
            None => self.inner.open_to_copy(place),
        }
    }

    fn sync_written(&self, key: &FileKey) -> io::Result<()> {
        let Some(file) = self.table.get(key) else {
            return Ok(());
        };
        let last = file.state().last;
        self.journal.sync(last).map_err(|_| errno(libc::EIO))
    }

    fn copies_by_itself(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.copies_by_itself(filesystem)
    }
}

struct Stream {
    inner: Box<dyn DirectoryStream>,
    back: Arc<WriteBack>,
    path: PathBuf,
}

impl DirectoryStream for Stream {
    fn next_names(&mut self, into: &mut Vec<ListedName>) -> io::Result<()> {
        self.inner.next_names(into)
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.inner.rewind()
    }

    fn lookup(&self, name: &OsStr) -> io::Result<Found> {
        let path = self.path.join(name);
        self.back.overlaid_found(&path, || self.inner.lookup(name))
    }
}

impl Locks for WriteBack {
    fn open_to_lock(&self, place: &Place, caller: &Credentials) -> io::Result<Arc<dyn LockFile>> {
        let inner = self.inner.open_to_lock(place, caller)?;
        let (back, key) = (self.this(), place.key.clone());
        Ok(Arc::new(SettlingLocks { inner, back, key }))
    }
}

/// What was written under a lock is on the backend before others get it.
struct SettlingLocks {
    inner: Arc<dyn LockFile>,
    back: Arc<WriteBack>,
    key: FileKey,
}

impl SettlingLocks {
    fn settle(&self) -> io::Result<()> {
        match self.back.table.get(&self.key) {
            Some(file) => self.back.with_settled(&file, || Ok(())),
            None => Ok(()),
        }
    }
}

impl LockFile for SettlingLocks {
    fn set_range(&self, lock: RangeLock) -> io::Result<()> {
        self.settle()?;
        self.inner.set_range(lock)
    }

    fn conflict(&self, lock: RangeLock) -> io::Result<Option<Conflict>> {
        self.inner.conflict(lock)
    }

    fn set_whole(&self, kind: LockKind) -> io::Result<()> {
        self.settle()?;
        self.inner.set_whole(kind)
    }
}
