//! Tells [`Health`] of every call of a backend, and how it ended. One call here is one question to the server, so that
//! a long piece of work made of many of them is not taken for silence.

use super::access::{Access, AccessDecisions};
use super::alone::Alone;
use super::expected::KnownFilesystem;
use super::health::{CallKind, Health};
use super::locking::{LockFile, Locks};
use super::unsent::Unsent;
use super::writing::{Durability, NewFile, Opened, WritableFile, WriteAccess, Writes};
use super::{
    Backend, BackendSpace, DirectoryStream, FilesystemIndex, Found, HeldFile, ListedName,
    NameChanges, Place, SeekWhence, SourceFile,
};
use crate::io::FillSource;
use crate::types::{
    AttributeChange, Attributes, ByteRange, Conflict, Credentials, FileKey, LockKind, NewNode,
    RangeLock, Removal, RenameMode, Timestamp,
};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

pub struct ObservedBackend {
    inner: Arc<dyn Backend>,
    health: Arc<Health>,
}

impl ObservedBackend {
    pub fn new(inner: Arc<dyn Backend>, health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self { inner, health })
    }
}

impl Backend for ObservedBackend {
    fn root(&self) -> io::Result<(Place, Attributes)> {
        self.health.observe(CallKind::Prompt, || self.inner.root())
    }

    fn lookup(&self, parent: &Place, name: &OsStr) -> io::Result<Found> {
        self.health
            .observe(CallKind::Prompt, || self.inner.lookup(parent, name))
    }

    fn lookup_opened(&self, parent: &Place, name: &OsStr) -> io::Result<(Found, Option<HeldFile>)> {
        // A client with a delegation opens by itself.
        self.health.observe(CallKind::Cacheable, || {
            self.inner.lookup_opened(parent, name)
        })
    }

    fn attributes(&self, place: &Place) -> io::Result<Attributes> {
        self.health
            .observe(CallKind::Prompt, || self.inner.attributes(place))
    }

    fn attributes_opened(&self, place: &Place) -> io::Result<(Attributes, Option<HeldFile>)> {
        // A client with a delegation opens by itself.
        self.health
            .observe(CallKind::Cacheable, || self.inner.attributes_opened(place))
    }

    fn open_directory(&self, place: &Place) -> io::Result<Box<dyn DirectoryStream>> {
        let inner = self
            .health
            .observe(CallKind::Cacheable, || self.inner.open_directory(place))?;
        let health = self.health.clone();
        Ok(Box::new(ObservedStream { inner, health }))
    }

    fn read_link(&self, place: &Place) -> io::Result<Vec<u8>> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.read_link(place))
    }

    fn open(&self, place: &Place) -> io::Result<Arc<dyn SourceFile>> {
        let inner = self
            .health
            .observe(CallKind::Cacheable, || self.inner.open(place))?;
        let health = self.health.clone();
        Ok(Arc::new(ObservedFile { inner, health }))
    }

    fn space(&self, place: &Place) -> io::Result<BackendSpace> {
        self.health
            .observe(CallKind::Prompt, || self.inner.space(place))
    }

    fn list_xattr(&self, place: &Place) -> io::Result<Vec<u8>> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.list_xattr(place))
    }

    fn get_xattr(&self, place: &Place, name: &OsStr) -> io::Result<Vec<u8>> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.get_xattr(place, name))
    }

    fn known_filesystem(&self, filesystem: FilesystemIndex) -> Option<KnownFilesystem> {
        self.inner.known_filesystem(filesystem)
    }

    fn filesystem_of(&self, key: &FileKey) -> Option<FilesystemIndex> {
        self.inner.filesystem_of(key)
    }

    fn asks_by_opening(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.asks_by_opening(filesystem)
    }

    fn has_local_clock(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.has_local_clock(filesystem)
    }
}

impl AccessDecisions for ObservedBackend {
    fn decides_access(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.decides_access(filesystem)
    }

    fn check_access(&self, place: &Place, access: Access) -> io::Result<()> {
        self.health.observe(CallKind::Cacheable, || {
            self.inner.check_access(place, access)
        })
    }
}

impl NameChanges for ObservedBackend {
    fn make(
        &self,
        parent: &Place,
        name: &OsStr,
        new: &NewNode,
        caller: &Credentials,
    ) -> io::Result<Found> {
        let make = || self.inner.make(parent, name, new, caller);
        self.health.observe(CallKind::Change, make)
    }

    fn link(
        &self,
        file: &Place,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<Found> {
        let link = || self.inner.link(file, parent, name, caller);
        self.health.observe(CallKind::Change, link)
    }

    /// Freeing a large file takes its time.
    fn remove(
        &self,
        parent: &Place,
        name: &OsStr,
        removal: Removal,
        caller: &Credentials,
    ) -> io::Result<()> {
        let remove = || self.inner.remove(parent, name, removal, caller);
        self.health.observe(CallKind::Transfer, remove)
    }

    fn rename(
        &self,
        from: (&Place, &OsStr),
        to: (&Place, &OsStr),
        mode: RenameMode,
        caller: &Credentials,
    ) -> io::Result<()> {
        let rename = || self.inner.rename(from, to, mode, caller);
        self.health.observe(CallKind::Transfer, rename)
    }

    fn forget_directory(&self, place: &Place) {
        self.inner.forget_directory(place);
    }

    fn hold(
        &self,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<(Found, HeldFile)> {
        let hold = || self.inner.hold(parent, name, caller);
        self.health.observe(CallKind::Change, hold)
    }

    fn set_attributes(
        &self,
        place: &Place,
        change: &AttributeChange,
        caller: &Credentials,
    ) -> io::Result<()> {
        let set = || self.inner.set_attributes(place, change, caller);
        self.health.observe(CallKind::Change, set)
    }

    fn set_xattr(
        &self,
        place: &Place,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        caller: &Credentials,
    ) -> io::Result<()> {
        let set = || self.inner.set_xattr(place, name, value, flags, caller);
        self.health.observe(CallKind::Change, set)
    }

    fn remove_xattr(&self, place: &Place, name: &OsStr, caller: &Credentials) -> io::Result<()> {
        let remove = || self.inner.remove_xattr(place, name, caller);
        self.health.observe(CallKind::Change, remove)
    }

    fn sync_directory(&self, place: &Place) -> io::Result<()> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.sync_directory(place))
    }

    fn sync_filesystem(&self, place: &Place) -> io::Result<()> {
        self.health
            .observe(CallKind::Transfer, || self.inner.sync_filesystem(place))
    }
}

struct ObservedStream {
    inner: Box<dyn DirectoryStream>,
    health: Arc<Health>,
}

impl DirectoryStream for ObservedStream {
    fn next_names(&mut self, into: &mut Vec<ListedName>) -> io::Result<()> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.next_names(into))
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.rewind())
    }

    fn lookup(&self, name: &OsStr) -> io::Result<Found> {
        self.health
            .observe(CallKind::Prompt, || self.inner.lookup(name))
    }
}

struct ObservedFile {
    inner: Arc<dyn SourceFile>,
    health: Arc<Health>,
}

impl SourceFile for ObservedFile {
    fn attributes(&self) -> io::Result<Attributes> {
        self.health
            .observe(CallKind::Prompt, || self.inner.attributes())
    }

    fn source(&self) -> FillSource {
        self.inner.source()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.health
            .observe(CallKind::Transfer, || self.inner.read_at(buffer, offset))
    }

    fn has_writer(&self) -> bool {
        self.inner.has_writer()
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.seek(offset, whence))
    }
}

impl ObservedBackend {
    fn observed_file(&self, inner: Arc<dyn WritableFile>) -> Arc<dyn WritableFile> {
        let health = self.health.clone();
        Arc::new(ObservedWritable { inner, health })
    }

    fn observed_new(&self, opened: Opened) -> Opened {
        let (found, inner) = opened;
        (found, self.observed_file(inner))
    }
}

impl Locks for ObservedBackend {
    fn open_to_lock(&self, place: &Place, caller: &Credentials) -> io::Result<Arc<dyn LockFile>> {
        let open = || self.inner.open_to_lock(place, caller);
        let inner = self.health.observe(CallKind::Cacheable, open)?;
        let health = self.health.clone();
        Ok(Arc::new(ObservedLocks { inner, health }))
    }
}

struct ObservedLocks {
    inner: Arc<dyn LockFile>,
    health: Arc<Health>,
}

impl LockFile for ObservedLocks {
    fn set_range(&self, lock: RangeLock) -> io::Result<()> {
        self.health
            .observe(CallKind::Change, || self.inner.set_range(lock))
    }

    fn conflict(&self, lock: RangeLock) -> io::Result<Option<Conflict>> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.conflict(lock))
    }

    fn set_whole(&self, kind: LockKind) -> io::Result<()> {
        self.health
            .observe(CallKind::Change, || self.inner.set_whole(kind))
    }
}

impl Unsent for ObservedBackend {}

impl Writes for ObservedBackend {
    fn open_writable(
        &self,
        place: &Place,
        access: WriteAccess,
        opener: &Credentials,
    ) -> io::Result<Arc<dyn WritableFile>> {
        self.health
            .observe(CallKind::Cacheable, || {
                self.inner.open_writable(place, access, opener)
            })
            .map(|file| self.observed_file(file))
    }

    fn create(
        &self,
        parent: &Place,
        name: &OsStr,
        new: NewFile,
        opener: &Credentials,
    ) -> io::Result<Opened> {
        self.health
            .observe(CallKind::Prompt, || {
                self.inner.create(parent, name, new, opener)
            })
            .map(|opened| self.observed_new(opened))
    }

    fn create_unnamed(
        &self,
        parent: &Place,
        new: NewFile,
        opener: &Credentials,
    ) -> io::Result<Opened> {
        self.health
            .observe(CallKind::Prompt, || {
                self.inner.create_unnamed(parent, new, opener)
            })
            .map(|opened| self.observed_new(opened))
    }

    fn open_to_copy(&self, place: &Place) -> io::Result<FillSource> {
        self.health
            .observe(CallKind::Cacheable, || self.inner.open_to_copy(place))
    }

    fn copies_by_itself(&self, filesystem: FilesystemIndex) -> bool {
        self.inner.copies_by_itself(filesystem)
    }
}

struct ObservedWritable {
    inner: Arc<dyn WritableFile>,
    health: Arc<Health>,
}

impl ObservedWritable {
    /// How long it takes is a matter of how much is on its way.
    fn transfer<T>(&self, make: impl FnOnce(&dyn WritableFile) -> io::Result<T>) -> io::Result<T> {
        self.health
            .observe(CallKind::Transfer, || make(&*self.inner))
    }
}

impl WritableFile for ObservedWritable {
    fn attributes(&self) -> io::Result<Attributes> {
        // What was written goes to the server before it tells.
        self.transfer(|file| file.attributes())
    }

    fn hold_alone(&self) -> Option<Arc<Alone>> {
        self.inner.hold_alone()
    }

    fn is_readable(&self) -> bool {
        self.inner.is_readable()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.transfer(|file| file.read_at(buffer, offset))
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        self.transfer(|file| file.seek(offset, whence))
    }

    fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<usize> {
        self.transfer(|file| file.write_at(data, offset, durability, writer))
    }

    fn append(
        &self,
        data: &[u8],
        durability: Durability,
        writer: Option<&Credentials>,
    ) -> io::Result<ByteRange> {
        self.transfer(|file| file.append(data, durability, writer))
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.transfer(|file| file.set_size(size_bytes))
    }

    fn set_modify_time(&self, time: Timestamp, caller: &Credentials) -> io::Result<()> {
        self.transfer(|file| file.set_modify_time(time, caller))
    }

    fn allocate(&self, mode: i32, range: ByteRange) -> io::Result<()> {
        self.transfer(|file| file.allocate(mode, range))
    }

    fn copy_from(
        &self,
        source: &FillSource,
        source_offset: u64,
        range: ByteRange,
    ) -> io::Result<u64> {
        self.transfer(|file| file.copy_from(source, source_offset, range))
    }

    fn source(&self) -> FillSource {
        self.inner.source()
    }

    fn begin_sync(&self, range: ByteRange) -> io::Result<()> {
        let call = self.health.begin(CallKind::Transfer);
        let begun = self.inner.begin_sync(range);
        // That it returns says nothing of the server.
        drop(call);
        begun
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.transfer(|file| file.sync(data_only))
    }
}
