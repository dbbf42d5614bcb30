//! Checks of one cache directory, before anything in it is believed: ours, nobody else's to write,
//! not a symbolic link, apart from backend and mountpoint, locked, on a disk that can do what the
//! cache needs.

use super::directory_lock::DirectoryLock;
use super::error::CacheDirectoryProblem as Problem;
use super::mount_table;
use crate::io::is_no_room;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A cache directory that was checked and is held. Dropping it gives it up to others.
#[derive(Debug)]
pub struct CacheDirectory {
    pub path: PathBuf,
    pub directory: OwnedFd,
    /// Device and inode: what this directory is, whatever its name.
    pub identity: (u64, u64),
    filesystem: String,
    // In this order: the lock file goes before the directory that was made for it.
    lock: DirectoryLock,
    made: Made,
}

/// Directories that were made and are removed again, innermost first, unless the mount comes up.
#[derive(Debug)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            // Somebody else may have put something there.
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// What a cache directory has to stay apart from.
#[derive(Clone, Copy, Debug)]
pub struct Neighbours<'a> {
    pub backend: &'a ResolvedPath,
    pub mountpoint: &'a ResolvedPath,
}

/// A directory and what it lies in, by device and inode, so that bind mounts do not hide one in another. Asked of
/// the filesystems once: one of them may stop answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPath {
    pub path: PathBuf,
    /// Its own first, then those of its ancestors.
    identities: Vec<Option<(u64, u64)>>,
}

impl ResolvedPath {
    /// `path` is resolved. Blocks on its filesystem.
    pub fn look_at(path: &Path) -> Self {
        let identity = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
        Self {
            path: path.to_owned(),
            identities: path.ancestors().map(identity).collect(),
        }
    }

    /// A path that is known by its name alone.
    pub fn unseen(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            identities: Vec::new(),
        }
    }

    /// Whether this is `outer` or lies beneath it.
    pub fn is_within(&self, outer: &Self) -> bool {
        match outer.identities.first() {
            Some(Some(_)) => self.identities.contains(&outer.identities[0]),
            // What does not exist yet has only its name.
            _ => self.path.starts_with(&outer.path),
        }
    }
}

impl CacheDirectory {
    /// Opens `path`, made with mode 0700 if it is missing (`make_parents`: its parents too), checks
    /// it and locks it. Blocks up to 10 s for a daemon that is stopping.
    pub fn open(
        path: &Path,
        make_parents: bool,
        neighbours: Neighbours<'_>,
    ) -> Result<Self, Problem> {
        if path.is_symlink() {
            return Err(Problem::Symlink);
        }
        // Before anything is made: a refused choice leaves nothing behind, least of all in the backend.
        let planned = resolve_existing(path).map_err(Problem::CannotOpen)?;
        check_apart(&planned, neighbours)?;
        let made = make(path, make_parents)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let directory =
            open(path, flags, Mode::empty()).map_err(|errno| open_problem(path, errno))?;
        let facts = fstat(&directory).map_err(|errno| Problem::CannotOpen(errno.into()))?;
        let our_uid = nix::unistd::geteuid().as_raw();
        if facts.st_uid != our_uid {
            return Err(Problem::NotOurs {
                owner_uid: facts.st_uid,
                our_uid,
            });
        }
        if facts.st_mode & 0o022 != 0 {
            return Err(Problem::WritableByOthers {
                mode: facts.st_mode & 0o7777,
            });
        }
        let path = path.canonicalize().map_err(Problem::CannotOpen)?;
        check_apart(&path, neighbours)?;
        let lock = DirectoryLock::take(&directory)?;
        Ok(Self {
            directory,
            identity: (facts.st_dev, facts.st_ino),
            filesystem: filesystem_of(&path),
            path,
            lock,
            made,
        })
    }

    /// The mount has come up: what was made for it stays.
    pub fn keep(&mut self) {
        self.lock.keep();
        self.made.0.clear();
    }

    /// It takes memory and ends with the machine.
    pub fn is_in_memory(&self) -> bool {
        self.filesystem == "tmpfs"
    }

    /// Writes who holds this directory into its lock file, for the message that another mount would
    /// show. Called by the process that keeps it, after the last fork.
    pub fn record_holder(&mut self, mountpoint: &Path) -> io::Result<()> {
        match self.lock.record_holder(mountpoint) {
            // The lock holds without a name.
            Err(error) if is_no_room(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Tries on a scratch file what the cache needs of the disk. A full one cannot be tried, and has room again some
    /// day. Blocks on the disk.
    pub fn check_disk(&self) -> Result<(), Problem> {
        match probe_disk(&self.path, &self.filesystem) {
            Err(Problem::Full) => Ok(()),
            outcome => outcome,
        }
    }
}

/// `path` with its existing part resolved. The last component is left alone: it may be a link, which
/// is refused later.
pub(super) fn resolve_existing(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let existing = absolute
        .ancestors()
        .skip(1)
        .find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    match existing {
        Some((ancestor, resolved)) => Ok(match absolute.strip_prefix(ancestor) {
            Ok(rest) => resolved.join(rest),
            Err(_) => resolved,
        }),
        None => Ok(absolute),
    }
}

fn filesystem_of(path: &Path) -> String {
    mount_table::mount_of(path)
        .ok()
        .flatten()
        .map_or_else(|| "unknown".to_owned(), |mount| mount.filesystem_type)
}

fn make(path: &Path, make_parents: bool) -> Result<Made, Problem> {
    let is_missing = |path: &&Path| path.symlink_metadata().is_err();
    let missing = path.ancestors().take_while(is_missing);
    let missing = Made(missing.map(Path::to_owned).collect());
    let made = std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(make_parents)
        .create(path);
    match made {
        Ok(()) => Ok(missing),
        // A parent that may not be written to matters only if the directory is missing.
        Err(_) if path.symlink_metadata().is_ok() => Ok(Made(Vec::new())),
        Err(error) => Err(Problem::CannotCreate(error)),
    }
}

/// O_NOFOLLOW with O_DIRECTORY gives ENOTDIR for a link as well: the kind tells them apart.
fn open_problem(path: &Path, errno: nix::errno::Errno) -> Problem {
    match path.symlink_metadata() {
        Ok(facts) if facts.is_symlink() => Problem::Symlink,
        Ok(facts) if !facts.is_dir() => Problem::NotDirectory,
        _ => Problem::CannotOpen(errno.into()),
    }
}

pub(super) fn check_apart(path: &Path, neighbours: Neighbours<'_>) -> Result<(), Problem> {
    let Neighbours {
        backend,
        mountpoint,
    } = neighbours;
    let own = ResolvedPath::look_at(path);
    if own.is_within(backend) {
        return Err(Problem::InsideBackend(backend.path.clone()));
    }
    if backend.is_within(&own) {
        return Err(Problem::ContainsBackend(backend.path.clone()));
    }
    if own.is_within(mountpoint) {
        return Err(Problem::InsideMountpoint(mountpoint.path.clone()));
    }
    if mountpoint.is_within(&own) {
        return Err(Problem::ContainsMountpoint(mountpoint.path.clone()));
    }
    Ok(())
}

pub(super) fn disk_problem(error: io::Error) -> Problem {
    match is_no_room(&error) {
        true => Problem::Full,
        false => Problem::Broken(error),
    }
}

/// A block that O_DIRECT accepts.
#[repr(align(4096))]
struct AlignedBlock([u8; 4096]);

/// Whether the disk under `path` can do O_DIRECT and keeps holes, and has room for a block.
pub fn probe_disk(path: &Path, filesystem: &str) -> Result<(), Problem> {
    let scratch = path.join(format!(
        ".probe-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let result = probe_file(&scratch, filesystem);
    let _ = std::fs::remove_file(&scratch);
    result
}

fn probe_file(scratch: &Path, filesystem: &str) -> Result<(), Problem> {
    const HOLE_BYTES: u64 = 1 << 20;
    let _ = std::fs::remove_file(scratch);
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(scratch)
        .map_err(disk_problem)?;
    file.write_all_at(&[1; 4096], HOLE_BYTES)
        .map_err(disk_problem)?;
    file.sync_data().map_err(disk_problem)?;
    let allocated_bytes = file.metadata().map_err(Problem::Broken)?.blocks() * 512;
    if allocated_bytes >= HOLE_BYTES {
        return Err(Problem::NoHoles(filesystem.to_owned()));
    }
    let no_direct_io = |source| Problem::NoDirectIo {
        filesystem: filesystem.to_owned(),
        source,
    };
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(scratch)
        .map_err(no_direct_io)?;
    let mut block = Box::new(AlignedBlock([0; 4096]));
    let length = nix::sys::uio::pread(direct.as_fd(), &mut block.0, HOLE_BYTES as i64)
        .map_err(|errno| no_direct_io(errno.into()))?;
    if length != 4096 || block.0.iter().any(|byte| *byte != 1) {
        return Err(Problem::Broken(io::Error::other(
            "a block read back is not what was written",
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "cache_directory_tests.rs"]
mod tests;
