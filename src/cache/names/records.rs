//! What is asked of the store and what it answers, as bytes. docs/ON_DISK_FORMAT.md lists the kinds of records.

use super::Names;
use super::database::KINDS_THAT_STAY;
use crate::backend::access::Access;
use crate::backend::expected::KnownFilesystem;
use crate::backend::{BackendSpace, ListedName};
use crate::clock::wall_clock;
use crate::types::codec::{Reader, Writer};
use crate::types::{Attributes, Credentials, FileKey, FileKind, Timestamp, Version};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const BACKEND: u8 = 1;
const FILESYSTEM: u8 = 2;
const SPACE: u8 = 3;
const ABSENCE: u8 = 4;
const ROOT: u8 = 5;
pub(super) const NAME: u8 = KINDS_THAT_STAY;
const LINK: u8 = KINDS_THAT_STAY + 1;
const LISTING: u8 = KINDS_THAT_STAY + 2;
const XATTR: u8 = KINDS_THAT_STAY + 3;
const DECISION: u8 = KINDS_THAT_STAY + 4;

/// Decisions on users of more groups are not kept.
const GROUPS_MAX: usize = 256;
/// Answers about larger extended attributes are not kept.
const XATTR_BYTES_MAX: usize = 1024;

/// The directory that was found under the backend's path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownBackend {
    pub root: FileKey,
    /// What the path was resolved to.
    pub resolved: PathBuf,
}

/// A complete listing.
#[derive(Clone, Debug)]
pub struct KnownListing {
    /// The directory's when it was read.
    pub version: Version,
    pub names: Vec<ListedName>,
}

/// What the backend decided, and on what rights of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownDecision {
    pub is_granted: bool,
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub ctime: Option<Timestamp>,
}

/// The value, or the errno that stood in its place.
pub type KnownXattr = Result<Vec<u8>, i32>;

fn key_of(kind: u8, file: &FileKey) -> Writer {
    Writer::default().u8(kind).text(&file.0)
}

fn bare_key(kind: u8) -> Vec<u8> {
    Writer::default().u8(kind).0
}

fn name_key(parent: &FileKey, name: &OsStr) -> Vec<u8> {
    key_of(NAME, parent).rest(name.as_bytes())
}

fn xattr_key(file: &FileKey, name: Option<&OsStr>) -> Vec<u8> {
    key_of(XATTR, file).rest(name.map_or(&[][..], OsStr::as_bytes))
}

fn decision_key(file: &FileKey, access: Access, caller: &Credentials) -> Vec<u8> {
    let access = match access {
        Access::Search => 1,
        Access::Read => 2,
        Access::Execute => 3,
    };
    let key = key_of(DECISION, file).u8(access);
    let key = key.u32(caller.uid).u32(caller.gid);
    let groups = caller.groups.iter();
    groups.fold(key, |key, group| key.u32(*group)).0
}

impl Names {
    /// A name leads to a file. Both together, so that what is noted of a directory lies together.
    pub fn note_name(
        &self,
        parent: &FileKey,
        name: &OsStr,
        file: &FileKey,
        attributes: &Attributes,
    ) {
        let value = Writer::default().text(&file.0);
        self.put(
            name_key(parent, name),
            write_attributes(value, attributes).0,
        );
    }

    pub fn forget_name(&self, parent: &FileKey, name: &OsStr) {
        self.remove(name_key(parent, name));
    }

    /// The file last found under a name. This and what follows may wait for the local disk.
    pub fn name(&self, parent: &FileKey, name: &OsStr) -> Option<(FileKey, Attributes)> {
        let found = self.get(&name_key(parent, name))?;
        let mut reader = Reader(&found.0);
        let file = FileKey(reader.text()?.into());
        Some((file, read_attributes(&mut reader)?))
    }

    pub fn note_root(&self, root: &FileKey, attributes: &Attributes) {
        let value = write_attributes(Writer::default(), attributes);
        self.put(key_of(ROOT, root).0, value.0);
    }

    pub fn root(&self, root: &FileKey) -> Option<Attributes> {
        read_attributes(&mut Reader(&self.get(&key_of(ROOT, root).0)?.0))
    }

    /// The target of a symbolic link, which is the same as long as `version` is.
    pub fn note_link(&self, file: &FileKey, version: &Version, target: &[u8]) {
        self.put(key_of(LINK, file).0, write_version(version).rest(target));
    }

    pub fn link(&self, file: &FileKey, version: &Version) -> Option<Vec<u8>> {
        let found = self.get(&key_of(LINK, file).0)?;
        let mut reader = Reader(&found.0);
        (read_version(&mut reader)? == *version).then(|| reader.0.to_vec())
    }

    pub fn note_listing(&self, directory: &FileKey, version: &Version, names: &[ListedName]) {
        let listing = names.iter().fold(write_version(version), |row, listed| {
            row.u32(listed.kind.mode_bits())
                .u64(listed.inode)
                .text(listed.name.as_bytes())
        });
        self.put(key_of(LISTING, directory).0, listing.0);
    }

    pub fn forget_listing(&self, directory: &FileKey) {
        self.remove(key_of(LISTING, directory).0);
    }

    pub fn listing(&self, directory: &FileKey) -> Option<KnownListing> {
        let found = self.get(&key_of(LISTING, directory).0)?;
        let mut reader = Reader(&found.0);
        let version = read_version(&mut reader)?;
        let mut names = Vec::new();
        while !reader.0.is_empty() {
            names.push(ListedName {
                kind: FileKind::from_mode(reader.u32()?),
                inode: reader.u64()?,
                name: OsStr::from_bytes(reader.text()?).to_owned(),
            });
        }
        Some(KnownListing { version, names })
    }

    /// An extended attribute, or the list of their names, of a version of a file.
    pub fn note_xattr(
        &self,
        file: &FileKey,
        name: Option<&OsStr>,
        version: &Version,
        answer: Result<&[u8], i32>,
    ) {
        let row = write_version(version);
        match answer {
            Ok(value) if value.len() > XATTR_BYTES_MAX => self.forget_xattr(file, name),
            Ok(value) => self.put(xattr_key(file, name), row.u32(0).rest(value)),
            Err(errno) => self.put(xattr_key(file, name), row.u32(errno as u32).0),
        }
    }

    pub fn forget_xattr(&self, file: &FileKey, name: Option<&OsStr>) {
        self.remove(xattr_key(file, name));
    }

    pub fn xattr(
        &self,
        file: &FileKey,
        name: Option<&OsStr>,
        version: &Version,
    ) -> Option<KnownXattr> {
        let found = self.get(&xattr_key(file, name))?;
        let mut reader = Reader(&found.0);
        if read_version(&mut reader)? != *version {
            return None;
        }
        Some(match reader.u32()? {
            0 => Ok(reader.0.to_vec()),
            errno => Err(errno as i32),
        })
    }

    pub fn note_decision(
        &self,
        file: &FileKey,
        access: Access,
        caller: &Credentials,
        decision: &KnownDecision,
    ) {
        if caller.groups.len() > GROUPS_MAX {
            return;
        }
        let ctime = decision.ctime.unwrap_or_default();
        let value = Writer::default()
            .u8(u8::from(decision.is_granted))
            .u32(decision.permissions)
            .u32(decision.uid)
            .u32(decision.gid)
            .u8(u8::from(decision.ctime.is_some()));
        let value = write_time(value, ctime);
        self.put(decision_key(file, access, caller), value.0);
    }

    pub fn decision(
        &self,
        file: &FileKey,
        access: Access,
        caller: &Credentials,
    ) -> Option<KnownDecision> {
        let found = self.get(&decision_key(file, access, caller))?;
        let mut reader = Reader(&found.0);
        Some(KnownDecision {
            is_granted: reader.u8()? == 1,
            permissions: reader.u32()?,
            uid: reader.u32()?,
            gid: reader.u32()?,
            ctime: {
                let is_part = reader.u8()? == 1;
                Some(read_time(&mut reader)?).filter(|_| is_part)
            },
        })
    }

    pub fn note_space(&self, space: &BackendSpace) {
        let value = Writer::default()
            .u32(space.block_size_bytes)
            .u32(space.fragment_size_bytes)
            .u64(space.blocks)
            .u64(space.blocks_free)
            .u64(space.blocks_available)
            .u64(space.files)
            .u64(space.files_free)
            .u32(space.name_length_max);
        self.put(bare_key(SPACE), value.0);
    }

    pub fn space(&self) -> Option<BackendSpace> {
        let found = self.get(&bare_key(SPACE))?;
        let mut reader = Reader(&found.0);
        Some(BackendSpace {
            block_size_bytes: reader.u32()?,
            fragment_size_bytes: reader.u32()?,
            blocks: reader.u64()?,
            blocks_free: reader.u64()?,
            blocks_available: reader.u64()?,
            files: reader.u64()?,
            files_free: reader.u64()?,
            name_length_max: reader.u32()?,
        })
    }

    /// The directory that is found under `path` now.
    pub fn note_backend(&self, path: &Path, backend: &KnownBackend) {
        let key = Writer::default().u8(BACKEND);
        let value = Writer::default().text(&backend.root.0);
        self.put(
            key.rest(path.as_os_str().as_bytes()),
            value.rest(backend.resolved.as_os_str().as_bytes()),
        );
    }

    pub fn backend(&self, path: &Path) -> Option<KnownBackend> {
        let key = Writer::default().u8(BACKEND);
        let found = self.get(&key.rest(path.as_os_str().as_bytes()))?;
        let mut reader = Reader(&found.0);
        Some(KnownBackend {
            root: FileKey(reader.text()?.into()),
            resolved: OsString::from_vec(reader.0.to_vec()).into(),
        })
    }

    pub fn note_filesystem(&self, filesystem: &KnownFilesystem) {
        let key = Writer::default().u8(FILESYSTEM).rest(&filesystem.id);
        let value = Writer::default().u8(filesystem.traits_in_bits());
        self.put(key, value.rest(filesystem.fstype.as_bytes()));
    }

    pub fn filesystems(&self) -> Vec<KnownFilesystem> {
        let stored = self.file.all_with(&[FILESYSTEM]);
        let decode = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let (bits, fstype) = value.split_first()?;
            let fstype = String::from_utf8_lossy(fstype).into_owned();
            KnownFilesystem::from_bits(key.get(1..)?.try_into().ok()?, *bits, fstype)
        };
        stored.iter().filter_map(decode).collect()
    }

    /// Notes that the backend has been away for this long, or is there. The beginning that was noted first stays.
    pub(super) fn note_absence(&self, absent_for: Option<Duration>) {
        match (absent_for, self.get(&bare_key(ABSENCE))) {
            (Some(duration), None) => {
                let since = wall_clock().seconds - duration.as_secs() as i64;
                self.put(bare_key(ABSENCE), Writer::default().i64(since).0);
            }
            (None, Some(_)) => self.remove(bare_key(ABSENCE)),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// For how long the backend had been away when it was last heard of; zero if it was there.
    pub fn absent_for(&self) -> Duration {
        let since = self
            .get(&bare_key(ABSENCE))
            .and_then(|found| Reader(&found.0).i64());
        let seconds = since.map_or(0, |since| wall_clock().seconds.saturating_sub(since));
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

fn write_time(row: Writer, time: Timestamp) -> Writer {
    row.i64(time.seconds).u32(time.nanoseconds)
}

fn read_time(reader: &mut Reader<'_>) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: reader.i64()?,
        nanoseconds: reader.u32()?,
    })
}

fn write_version(version: &Version) -> Writer {
    let row = Writer::default().u64(version.inode).u64(version.size_bytes);
    write_time(write_time(row, version.mtime), version.ctime)
}

fn read_version(reader: &mut Reader<'_>) -> Option<Version> {
    Some(Version {
        inode: reader.u64()?,
        size_bytes: reader.u64()?,
        mtime: read_time(reader)?,
        ctime: read_time(reader)?,
    })
}

fn write_attributes(row: Writer, attributes: &Attributes) -> Writer {
    let row = row
        .u64(attributes.inode)
        .u32(attributes.kind.mode_bits() | attributes.permissions & 0o7777)
        .u32(attributes.link_count)
        .u32(attributes.uid)
        .u32(attributes.gid)
        .u32(attributes.rdev)
        .u64(attributes.size_bytes)
        .u64(attributes.blocks_512)
        .u32(attributes.block_size_bytes);
    let row = write_time(row, attributes.atime);
    write_time(write_time(row, attributes.mtime), attributes.ctime)
}

pub(super) fn read_attributes(reader: &mut Reader<'_>) -> Option<Attributes> {
    let inode = reader.u64()?;
    let mode = reader.u32()?;
    Some(Attributes {
        inode,
        kind: FileKind::from_mode(mode),
        permissions: mode & 0o7777,
        link_count: reader.u32()?,
        uid: reader.u32()?,
        gid: reader.u32()?,
        rdev: reader.u32()?,
        size_bytes: reader.u64()?,
        blocks_512: reader.u64()?,
        block_size_bytes: reader.u32()?,
        atime: read_time(reader)?,
        mtime: read_time(reader)?,
        ctime: read_time(reader)?,
    })
}
