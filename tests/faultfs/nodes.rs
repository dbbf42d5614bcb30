//! Nodes the kernel knows, each held by an O_PATH descriptor, so that a rename or a removal behind our
//! back leaves it pointing at the same file; and how their attributes are shown. Of very many files the later ones are held
//! by their names, since a process may have only so many descriptors.

use crate::protocol::{InodeNumbers, Times};
use fuser::{FileAttr, FileType, INodeNo};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const ROOT_NODE: u64 = 1;

/// Nodes that have a descriptor each; leaves room for open files below the usual hard limit of 20,000.
const DESCRIPTORS_HELD: usize = 12_000;

/// Names a file on the backing filesystems.
type BackingKey = (u64, u64);

pub struct Node {
    /// O_PATH.
    pub descriptor: OwnedFd,
    key: BackingKey,
}

impl Node {
    /// Names the node itself in calls that take only paths.
    pub fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.descriptor.as_raw_fd())
    }
}

pub struct Nodes {
    root: PathBuf,
    table: Mutex<Table>,
    shown: RwLock<Shown>,
}

/// A node as it is kept.
enum Held {
    Open(Arc<Node>),
    /// Opened again for each use; stale once the name leads elsewhere.
    Named {
        parent: Arc<Node>,
        name: OsString,
        key: BackingKey,
    },
}

impl Held {
    fn key(&self) -> BackingKey {
        match self {
            Self::Open(node) => node.key,
            Self::Named { key, .. } => *key,
        }
    }

    fn open(&self) -> io::Result<Arc<Node>> {
        let (parent, name, key) = match self {
            Self::Open(node) => return Ok(node.clone()),
            Self::Named { parent, name, key } => (parent, name, *key),
        };
        let descriptor = openat(&parent.descriptor, name, path_flags(), Mode::empty())
            .map_err(|_| io::Error::from_raw_os_error(libc::ESTALE))?;
        let stat = fstat(&descriptor)?;
        if (stat.st_dev, stat.st_ino) != key {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        Ok(Arc::new(Node { descriptor, key }))
    }
}

struct Table {
    by_id: HashMap<u64, (Held, u64)>,
    by_key: HashMap<BackingKey, u64>,
    /// Node ids are never used twice.
    next_id: u64,
}

#[derive(Default)]
struct Shown {
    times: Times,
    set_bits: u64,
    inodes: HashMap<BackingKey, u64>,
}

impl Nodes {
    /// `root` is absolute and without symlinks.
    pub fn new(root: PathBuf) -> io::Result<Self> {
        let descriptor = openat(rustix::fs::CWD, &root, path_flags(), Mode::empty())?;
        let stat = fstat(&descriptor)?;
        let key = (stat.st_dev, stat.st_ino);
        let node = Arc::new(Node { descriptor, key });
        Ok(Self {
            root,
            table: Mutex::new(Table {
                by_id: HashMap::from([(ROOT_NODE, (Held::Open(node), 1))]),
                by_key: HashMap::from([(key, ROOT_NODE)]),
                next_id: ROOT_NODE + 1,
            }),
            shown: RwLock::default(),
        })
    }

    pub fn get(&self, id: INodeNo) -> io::Result<Arc<Node>> {
        let table = self.table.lock();
        let found = table.by_id.get(&id.0).map(|(held, _)| held.open());
        found.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ESTALE)))
    }

    /// Looks a name up and counts the lookup. The attributes carry the node id as inode number.
    pub fn look_up(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let parent = self.get(parent)?;
        let descriptor = openat(&parent.descriptor, name, path_flags(), Mode::empty())?;
        let stat = fstat(&descriptor)?;
        let key = (stat.st_dev, stat.st_ino);
        let mut table = self.table.lock();
        let id = match table.by_key.get(&key).copied() {
            Some(id) => id,
            None => {
                let id = table.next_id;
                table.next_id += 1;
                table.by_key.insert(key, id);
                let file = !matches!(kind_of(stat.st_mode), FileType::Directory);
                let held = if file && table.by_id.len() >= DESCRIPTORS_HELD {
                    let name = name.to_owned();
                    Held::Named { parent, name, key }
                } else {
                    Held::Open(Arc::new(Node { descriptor, key }))
                };
                table.by_id.insert(id, (held, 0));
                id
            }
        };
        if let Some((_, lookups)) = table.by_id.get_mut(&id) {
            *lookups += 1;
        }
        drop(table);
        Ok(self.shown_attributes(&stat, id))
    }

    pub fn forget(&self, id: INodeNo, count: u64) {
        let mut table = self.table.lock();
        let Some((held, lookups)) = table.by_id.get_mut(&id.0) else {
            return;
        };
        *lookups = lookups.saturating_sub(count);
        if *lookups == 0 && id.0 != ROOT_NODE {
            let key = held.key();
            table.by_id.remove(&id.0);
            table.by_key.remove(&key);
        }
    }

    pub fn attributes(&self, id: INodeNo) -> io::Result<FileAttr> {
        let stat = fstat(&self.get(id)?.descriptor)?;
        let inode = self.shown_inode((stat.st_dev, stat.st_ino));
        Ok(self.shown_attributes(&stat, inode))
    }

    /// The number shown for a name in a directory, whose entry has `inode`.
    pub fn shown_inode_in(&self, directory: &Node, inode: u64) -> u64 {
        self.shown_inode((directory.key.0, inode))
    }

    fn shown_inode(&self, key: BackingKey) -> u64 {
        let shown = self.shown.read();
        shown
            .inodes
            .get(&key)
            .copied()
            .unwrap_or(key.1 | shown.set_bits)
    }

    pub fn set_times(&self, times: Times) {
        self.shown.write().times = times;
    }

    /// How far shown times lie after those of the backing files.
    pub fn time_shift_ms(&self) -> i64 {
        self.shown.read().times.shift_ms
    }

    /// Fails with the reason when a path does not exist or two files would be the same.
    pub fn set_inodes(&self, wanted: &InodeNumbers) -> Result<(), String> {
        let mut inodes = HashMap::new();
        let mut used = BTreeSet::new();
        for (path, number) in &wanted.by_path {
            let stat = statat(
                rustix::fs::CWD,
                self.root.join(path),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|error| format!("{path}: {error}"))?;
            let key = (stat.st_dev, stat.st_ino);
            let known = inodes.insert(key, *number).is_some();
            if !known && !used.insert(*number) {
                return Err(format!(
                    "{path}: inode number {number} is given to another file"
                ));
            }
        }
        let mut shown = self.shown.write();
        shown.inodes = inodes;
        shown.set_bits = wanted.set_bits;
        Ok(())
    }

    /// Where the node is now, below the root; what was removed ends in " (deleted)".
    pub fn path_of(&self, id: INodeNo, child: Option<&OsStr>) -> String {
        let Ok(node) = self.get(id) else {
            return String::new();
        };
        let Ok(target) = readlinkat(rustix::fs::CWD, node.proc_path(), Vec::new()) else {
            return String::new();
        };
        let absolute = PathBuf::from(OsString::from_vec(target.into_bytes()));
        let mut path = absolute
            .strip_prefix(&self.root)
            .unwrap_or(&absolute)
            .to_path_buf();
        if let Some(child) = child {
            path.push(child);
        }
        String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
    }

    fn shown_attributes(&self, stat: &Stat, inode: u64) -> FileAttr {
        let times = self.shown.read().times;
        let time = |seconds: i64, nanoseconds: u64| shown_time(seconds, nanoseconds, times);
        FileAttr {
            ino: INodeNo(inode),
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            crtime: UNIX_EPOCH,
            kind: kind_of(stat.st_mode),
            perm: (stat.st_mode & 0o7777) as u16,
            nlink: stat.st_nlink as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev as u32,
            blksize: stat.st_blksize as u32,
            flags: 0,
        }
    }
}

fn path_flags() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn shown_time(seconds: i64, nanoseconds: u64, times: Times) -> SystemTime {
    let mut total_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    total_ns += i128::from(times.shift_ms) * 1_000_000;
    if times.step_ms > 0 {
        let step_ns = i128::from(times.step_ms) * 1_000_000;
        total_ns -= total_ns.rem_euclid(step_ns);
    }
    let total = total_ns.unsigned_abs();
    let distance = Duration::new(
        (total / 1_000_000_000) as u64,
        (total % 1_000_000_000) as u32,
    );
    if total_ns >= 0 {
        UNIX_EPOCH + distance
    } else {
        UNIX_EPOCH - distance
    }
}
