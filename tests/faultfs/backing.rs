//! What the verbs do in the backing directory, relative to the descriptors of nodes.

use crate::nodes::{Node, Nodes};
use crate::server::ListedName;
use fuser::TimeOrNow;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid,
};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// What setattr is to change.
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeOrNow>,
    pub mtime: Option<TimeOrNow>,
}

impl Changes {
    /// `time_shift_ms` is taken off times given, as it is added where they are shown.
    pub fn apply(&self, node: &Node, open: Option<&File>, time_shift_ms: i64) -> io::Result<()> {
        let path = node.proc_path();
        if self.uid.is_some() || self.gid.is_some() {
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            rustix::fs::chownat(&node.descriptor, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = self.mode {
            rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if let Some(size_bytes) = self.size {
            match open {
                Some(file) => file.set_len(size_bytes)?,
                None => reopen(node, libc::O_WRONLY)?.set_len(size_bytes)?,
            }
        }
        if self.atime.is_some() || self.mtime.is_some() {
            let times = Timestamps {
                last_access: time_argument(self.atime, time_shift_ms),
                last_modification: time_argument(self.mtime, time_shift_ms),
            };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

fn time_argument(time: Option<TimeOrNow>, shift_ms: i64) -> Timespec {
    match time {
        None => special_time(rustix::fs::UTIME_OMIT),
        Some(TimeOrNow::Now) => special_time(rustix::fs::UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let shown_ns = nanoseconds_since_1970(time);
            let backing_ns = shown_ns - i128::from(shift_ms) * 1_000_000;
            Timespec {
                tv_sec: backing_ns.div_euclid(1_000_000_000) as i64,
                tv_nsec: backing_ns.rem_euclid(1_000_000_000) as i64,
            }
        }
    }
}

fn special_time(nanoseconds: rustix::fs::Nsecs) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: nanoseconds,
    }
}

fn nanoseconds_since_1970(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

/// Opens a node again for reading or writing. What the kernel in front does itself (append, direct
/// I/O) is left out of the flags.
pub fn reopen(node: &Node, flags: i32) -> io::Result<File> {
    let access = OFlags::from_bits_retain((flags & (libc::O_ACCMODE | libc::O_TRUNC)) as u32);
    let file = rustix::fs::open(node.proc_path(), access | OFlags::CLOEXEC, Mode::empty())?;
    Ok(File::from(file))
}

pub fn create(parent: &Node, name: &OsStr, mode: u32, flags: i32) -> io::Result<File> {
    let kept = libc::O_ACCMODE | libc::O_EXCL | libc::O_TRUNC;
    let flags = OFlags::from_bits_retain((flags & kept) as u32);
    let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    Ok(File::from(rustix::fs::openat(
        &parent.descriptor,
        name,
        flags,
        mode,
    )?))
}

pub fn make_node(parent: &Node, name: &OsStr, mode: u32, device: u32) -> io::Result<()> {
    let kind = FileType::from_raw_mode(mode);
    let permissions = Mode::from_raw_mode(mode & 0o7777);
    rustix::fs::mknodat(
        &parent.descriptor,
        name,
        kind,
        permissions,
        u64::from(device),
    )?;
    Ok(())
}

pub fn make_directory(parent: &Node, name: &OsStr, mode: u32) -> io::Result<()> {
    rustix::fs::mkdirat(&parent.descriptor, name, Mode::from_raw_mode(mode & 0o7777))?;
    Ok(())
}

/// A new name belongs to who asked for it.
pub fn give_to(parent: &Node, name: &OsStr, (uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(
        &parent.descriptor,
        name,
        uid,
        gid,
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

pub fn remove(parent: &Node, name: &OsStr, directory: bool) -> io::Result<()> {
    let flags = if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    rustix::fs::unlinkat(&parent.descriptor, name, flags)?;
    Ok(())
}

pub fn link(node: &Node, new_parent: &Node, name: &OsStr) -> io::Result<()> {
    let (from, to) = (node.proc_path(), &new_parent.descriptor);
    rustix::fs::linkat(CWD, from, to, name, AtFlags::SYMLINK_FOLLOW)?;
    Ok(())
}

pub fn read_link(node: &Node) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(&node.descriptor, "", Vec::new())?.into_bytes())
}

/// Like pread(2), but short only at end of file.
pub fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

pub fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    let target = match whence {
        libc::SEEK_DATA => SeekFrom::Data(offset),
        libc::SEEK_HOLE => SeekFrom::Hole(offset),
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    Ok(rustix::fs::seek(file, target)?)
}

/// Every name, "." and ".." included.
pub fn list(node: &Node, nodes: &Nodes) -> io::Result<Vec<ListedName>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(node.proc_path(), flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        names.push(ListedName {
            name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
            inode: nodes.shown_inode_in(node, entry.ino()),
            kind: match entry.file_type() {
                FileType::Directory => fuser::FileType::Directory,
                FileType::Symlink => fuser::FileType::Symlink,
                FileType::Fifo => fuser::FileType::NamedPipe,
                FileType::Socket => fuser::FileType::Socket,
                FileType::CharacterDevice => fuser::FileType::CharDevice,
                FileType::BlockDevice => fuser::FileType::BlockDevice,
                FileType::RegularFile | FileType::Unknown => fuser::FileType::RegularFile,
            },
        });
    }
    Ok(names)
}

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
const XATTR_MAX_BYTES: usize = 65536;

pub fn get_xattr(node: &Node, name: &CStr) -> io::Result<Vec<u8>> {
    let mut value = Vec::with_capacity(XATTR_MAX_BYTES);
    rustix::fs::getxattr(
        node.proc_path(),
        name,
        rustix::buffer::spare_capacity(&mut value),
    )?;
    Ok(value)
}

pub fn list_xattr(node: &Node) -> io::Result<Vec<u8>> {
    let mut names = Vec::with_capacity(XATTR_MAX_BYTES);
    rustix::fs::listxattr(node.proc_path(), rustix::buffer::spare_capacity(&mut names))?;
    Ok(names)
}
