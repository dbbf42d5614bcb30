//! Checks of backend, mountpoint and cache directories, and what they yield: open descriptors, so that
//! nothing later depends on names.

use super::automount::MounterGroup;
use super::backend_root::{BackendRoot, open_backend, open_backend_or_wait};
use super::cache_directory::{CacheDirectory, Neighbours, ResolvedPath, check_apart};
use super::control::{Client, socket_directory};
use super::error::{CacheDirectoryProblem, StartError};
use super::journal_places::{JournalPlace, open_journal};
use super::known_disks::{KnownDisks, is_cache};
use super::{mount_table, unmount};
use crate::cache::names::NAMES_FILE;
use crate::config::Settings;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the caches of root's mounts lie when no cache_dir is given.
const DEFAULT_CACHE_PARENT: &str = "/var/cache/nfs-cachefs";

/// How long a mount that is there already may take to show whether it is alive.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than a disk takes to recover from an error by itself.
const DISK_TIMEOUT: Duration = Duration::from_secs(15);

/// Everything outside the process that a mount stands on, checked and open.
#[derive(Debug)]
pub struct Prepared {
    /// What the mount table shows as source.
    pub source: OsString,
    /// As it was given, made absolute: what is known of it is kept under this name.
    pub backend_name: PathBuf,
    pub backend: BackendRoot,
    /// Resolved where it is there, for messages only.
    pub backend_path: PathBuf,
    /// As it was seen when it was opened, for directories that are named later: it may hang by then.
    pub backend_place: ResolvedPath,
    /// Resolved.
    pub mountpoint: PathBuf,
    /// The same as it was seen before [`MounterGroup::leave`].
    seen_mountpoint: ResolvedPath,
    pub mounter: MounterGroup,
    /// At least one.
    pub cache_directories: Vec<CacheDirectory>,
    pub lost_cache_directories: Vec<LostCacheDirectory>,
    known_disks: KnownDisks,
    /// With `write_mode=back`, in the order they were named.
    pub journal_directories: Vec<JournalPlace>,
}

/// A cache directory whose disk does not work: its share is a miss.
#[derive(Clone, Debug)]
pub struct LostCacheDirectory {
    pub path: PathBuf,
    pub reason: String,
}

/// Where caches lie when no cache_dir is given: of an ordinary user in $XDG_CACHE_HOME, or ~/.cache.
pub fn default_cache_parent() -> PathBuf {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from)?;
        path.is_absolute().then_some(path)
    };
    let users = || {
        let home = || Some(absolute("HOME")?.join(".cache"));
        absolute("XDG_CACHE_HOME").or_else(home)
    };
    match nix::unistd::geteuid().is_root() {
        true => PathBuf::from(DEFAULT_CACHE_PARENT),
        false => users().map_or_else(
            || PathBuf::from(DEFAULT_CACHE_PARENT),
            |parent| parent.join("nfs-cachefs"),
        ),
    }
}

/// Checks and opens everything. `backend` is used when the options name none. Starts threads (a hung
/// backend must not hang the start), so it is called after the last fork. Blocks up to
/// `backend_timeout`, and up to 10 s for a daemon that is giving up a cache directory.
pub fn prepare(
    settings: &Settings,
    source: OsString,
    backend: Option<&Path>,
    mountpoint: &Path,
) -> Result<Prepared, StartError> {
    let backend = settings
        .backend
        .as_deref()
        .or(backend)
        .ok_or(StartError::NoBackend)?;
    let backend_name = std::path::absolute(backend)
        .map_err(|error| StartError::System(format!("{}: {error}", backend.display())))?;
    let mountpoint = find_mountpoint(mountpoint, settings.backend_timeout)?;
    let mounter = MounterGroup::leave()
        .map_err(|error| StartError::System(format!("process group: {error}")))?;
    let default_parent = default_cache_parent();
    let may_be_known = cache_paths(settings, &backend_name, &default_parent)
        .iter()
        .any(|path| path.join(NAMES_FILE).exists());
    let (backend_root, backend) = match may_be_known {
        true => open_backend_or_wait(&backend_name, settings.backend_timeout)?,
        false => {
            let (root, resolved) = open_backend(&backend_name, settings.backend_timeout)?;
            (BackendRoot::There(root), resolved)
        }
    };
    refuse_inside(&mountpoint, &backend)?;
    let neighbours = Neighbours {
        backend: &backend,
        mountpoint: &mountpoint,
    };
    let OpenedDirectories {
        directories: cache_directories,
        lost: lost_cache_directories,
        known_disks,
    } = open_cache_directories(settings, neighbours, &default_parent)?;
    let journal_directories = open_journal(settings, neighbours, &cache_directories)?;
    Ok(Prepared {
        source,
        backend_name,
        backend: backend_root,
        backend_path: backend.path.clone(),
        backend_place: backend,
        mountpoint: mountpoint.path.clone(),
        seen_mountpoint: mountpoint,
        mounter,
        cache_directories,
        lost_cache_directories,
        known_disks,
        journal_directories,
    })
}

/// Runs `work` on a thread of its own; `None` when it takes longer than `timeout` (the thread is left
/// to itself then).
pub(super) fn with_timeout<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::Builder::new()
        .name("bounded-call".to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })?;
    Ok(receiver.recv_timeout(timeout).ok())
}

fn refuse_inside(mountpoint: &ResolvedPath, backend: &ResolvedPath) -> Result<(), StartError> {
    if mountpoint.path != backend.path
        && mountpoint.is_within(backend)
        && !backend.is_within(mountpoint)
    {
        return Err(StartError::MountpointInsideBackend {
            mountpoint: mountpoint.path.clone(),
            backend: backend.path.clone(),
        });
    }
    Ok(())
}

impl Prepared {
    /// The mount has come up: what was made for it stays.
    pub(super) fn keep_directories(&mut self) {
        for directory in self.directories_mut() {
            directory.keep();
        }
        self.known_disks.remember(&self.cache_directories);
    }

    /// All that is locked and ours.
    fn directories(&self) -> impl Iterator<Item = &CacheDirectory> {
        let journal = self.journal_directories.iter();
        let journal = journal.filter_map(|place| place.directory.as_ref().ok());
        self.cache_directories.iter().chain(journal)
    }

    pub(super) fn directories_mut(&mut self) -> impl Iterator<Item = &mut CacheDirectory> {
        let journal = self.journal_directories.iter_mut();
        let journal = journal.filter_map(|place| place.directory.as_mut().ok());
        self.cache_directories.iter_mut().chain(journal)
    }

    /// The checks of a backend that has only now been opened.
    pub(super) fn refuse_neighbours(&self, backend: &ResolvedPath) -> Result<(), StartError> {
        refuse_inside(&self.seen_mountpoint, backend)?;
        let neighbours = Neighbours {
            backend,
            mountpoint: &self.seen_mountpoint,
        };
        for directory in self.directories() {
            let path = &directory.path;
            check_apart(path, neighbours).map_err(|problem| StartError::CacheDirectory {
                path: path.clone(),
                problem,
            })?;
        }
        Ok(())
    }
}

/// [`check_mountpoint`] on a thread that can be lost: the mountpoint may be the backend itself.
fn find_mountpoint(path: &Path, timeout: Duration) -> Result<ResolvedPath, StartError> {
    let checked = path.to_owned();
    let found = with_timeout(timeout + LIVENESS_TIMEOUT, move || {
        check_mountpoint(&checked).map(|path| ResolvedPath::look_at(&path))
    })
    .map_err(|error| StartError::System(format!("starting a thread: {error}")))?;
    found.unwrap_or_else(|| {
        Err(StartError::Mountpoint {
            path: path.to_owned(),
            source: io::Error::from_raw_os_error(libc::ETIMEDOUT),
        })
    })
}

/// The resolved mountpoint: a directory where no mount of ours is. One whose daemon died is detached.
fn check_mountpoint(path: &Path) -> Result<PathBuf, StartError> {
    let problem = |source: io::Error| match source.raw_os_error() {
        Some(libc::ENOENT) => StartError::MountpointMissing(path.to_owned()),
        Some(libc::ENOTDIR) => StartError::MountpointNotDirectory(path.to_owned()),
        _ => StartError::Mountpoint {
            path: path.to_owned(),
            source,
        },
    };
    let unresolved = mount_table::resolve_parent(path).map_err(problem)?;
    refuse_busy(&unresolved)?;
    let resolved = unresolved.canonicalize().map_err(problem)?;
    if resolved != unresolved {
        refuse_busy(&resolved)?;
    }
    match resolved.metadata() {
        Ok(facts) if facts.is_dir() => Ok(resolved),
        Ok(_) => Err(StartError::MountpointNotDirectory(path.to_owned())),
        Err(error) => Err(problem(error)),
    }
}

fn refuse_busy(mountpoint: &Path) -> Result<(), StartError> {
    let problem = |source| StartError::Mountpoint {
        path: mountpoint.to_owned(),
        source,
    };
    while let Some(mount) = mount_table::topmost_at(mountpoint)
        .map_err(problem)?
        .filter(mount_table::Mount::is_cachefs)
    {
        if has_dead_daemon(mountpoint) {
            unmount::abort(&mount);
        } else if liveness(mountpoint).map_err(problem)? != Liveness::Dead {
            return Err(StartError::MountpointBusy {
                path: mountpoint.to_owned(),
                mounted: mount.source.to_string_lossy().into_owned(),
            });
        }
        unmount::detach(mountpoint).map_err(problem)?;
    }
    Ok(())
}

/// Whether the daemon of the mount here is dead but hangs in the kernel, where its end of the connection stays open.
fn has_dead_daemon(mountpoint: &Path) -> bool {
    Client::connect(&socket_directory(), mountpoint)
        .and_then(|client| client.daemon_pid())
        .is_ok_and(unmount::is_dead)
}

/// Whether the root of a mount answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Answers,
    /// Its daemon is gone.
    Dead,
    /// No answer within 2 s.
    Hung,
}

/// Asks the mount at `mountpoint` for its space, which the kernel does not remember.
pub fn liveness(mountpoint: &Path) -> io::Result<Liveness> {
    let path = mountpoint.to_owned();
    Ok(
        match with_timeout(LIVENESS_TIMEOUT, move || {
            nix::sys::statvfs::statvfs(&path).map_err(io::Error::from)
        })? {
            Some(Err(error))
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOTCONN | libc::ECONNABORTED)
                ) =>
            {
                Liveness::Dead
            }
            Some(_) => Liveness::Answers,
            None => Liveness::Hung,
        },
    )
}

fn cache_paths(settings: &Settings, backend: &Path, default_parent: &Path) -> Vec<PathBuf> {
    match settings.cache_directories.is_empty() {
        true => vec![default_parent.join(mount_table::path_as_name(backend))],
        false => settings.cache_directories.clone(),
    }
}

struct OpenedDirectories {
    directories: Vec<CacheDirectory>,
    lost: Vec<LostCacheDirectory>,
    known_disks: KnownDisks,
}

fn open_cache_directories(
    settings: &Settings,
    neighbours: Neighbours<'_>,
    default_parent: &Path,
) -> Result<OpenedDirectories, StartError> {
    let by_default = settings.cache_directories.is_empty();
    let paths = cache_paths(settings, &neighbours.backend.path, default_parent);
    let mut known_disks = KnownDisks::default();
    let (mut directories, mut places, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_turn: Vec<_> = paths.into_iter().enumerate().collect();
    // First those that are caches already: they know where the others lay.
    in_turn.sort_by_key(|(_, path)| !is_cache(path));
    for (place, path) in in_turn {
        let opened = known_disks
            .check(&path)
            .and_then(|()| open_one(&path, by_default, neighbours, &directories));
        match opened {
            Ok(directory) => {
                known_disks.hear(&directory);
                directories.push(directory);
                places.push(place);
            }
            Err(problem) if problem.is_loss_of_disk() => lost.push((path, problem)),
            Err(problem) => return Err(StartError::CacheDirectory { path, problem }),
        }
    }
    if directories.is_empty() {
        return Err(none_left(lost));
    }
    let mut in_order: Vec<_> = places.into_iter().zip(directories).collect();
    in_order.sort_by_key(|(place, _)| *place);
    Ok(OpenedDirectories {
        directories: in_order.into_iter().map(|(_, one)| one).collect(),
        lost: lost
            .into_iter()
            .map(|(path, problem)| LostCacheDirectory {
                path,
                reason: problem.to_string(),
            })
            .collect(),
        known_disks,
    })
}

fn none_left(mut lost: Vec<(PathBuf, CacheDirectoryProblem)>) -> StartError {
    if lost.len() == 1
        && let Some((path, problem)) = lost.pop()
    {
        return StartError::CacheDirectory { path, problem };
    }
    let each: Vec<String> = lost
        .iter()
        .map(|(path, problem)| format!("{}: {problem}", path.display()))
        .collect();
    StartError::NoCacheDirectory(each.join("; "))
}

pub(super) fn open_one(
    path: &Path,
    make_parents: bool,
    neighbours: Neighbours<'_>,
    others: &[CacheDirectory],
) -> Result<CacheDirectory, CacheDirectoryProblem> {
    refuse_shared(path, others)?;
    check_that_it_answers(path)?;
    let directory = CacheDirectory::open(path, make_parents, neighbours)?;
    directory.check_disk()?;
    Ok(directory)
}

/// A disk that hangs is found before anything waits for it without an end: who writes to it then cannot even be killed.
fn check_that_it_answers(path: &Path) -> Result<(), CacheDirectoryProblem> {
    let path = path.to_owned();
    match with_timeout(DISK_TIMEOUT, move || write_somewhere(&path)) {
        Ok(Some(())) => Ok(()),
        Ok(None) => Err(CacheDirectoryProblem::Hangs(DISK_TIMEOUT)),
        Err(error) => Err(CacheDirectoryProblem::CannotOpen(error)),
    }
}

/// A file without a name, on the disk of what is there of the path. What the disk refuses is told when it is used.
fn write_somewhere(path: &Path) {
    let directory = path.ancestors().find(|path| path.is_dir());
    let nameless = OpenOptions::new()
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(directory.unwrap_or(path));
    if let Ok(file) = nameless {
        let _ = file.write_all_at(&[0], 0).and_then(|()| file.sync_data());
    }
}

/// Two cache directories of one mount must not be or contain one another.
fn refuse_shared(path: &Path, others: &[CacheDirectory]) -> Result<(), CacheDirectoryProblem> {
    others
        .iter()
        .try_for_each(|other| refuse_shared_with(path, other))
}

pub(super) fn refuse_shared_with(
    path: &Path,
    other: &CacheDirectory,
) -> Result<(), CacheDirectoryProblem> {
    let own = ResolvedPath::look_at(path);
    let other = ResolvedPath::look_at(&other.path);
    match (own.is_within(&other), other.is_within(&own)) {
        (true, true) => Err(CacheDirectoryProblem::NamedTwice),
        (true, false) => Err(CacheDirectoryProblem::InsideAnother(other.path)),
        (false, true) => Err(CacheDirectoryProblem::ContainsAnother(other.path)),
        (false, false) => Ok(()),
    }
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
