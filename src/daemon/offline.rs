//! The backend at the start: there, or away and known from an earlier mount. One that is away is looked for until it is
//! found, and the mount serves meanwhile what is known.

use super::backend_root::{
    Away, BackendRoot, RootProblem, backend_problem, open_backend, open_backend_root,
};
use super::error::StartError;
use super::prepare::{Prepared, with_timeout};
use crate::backend::expected::KnownFilesystem;
use crate::backend::health::{Health, says_away};
use crate::backend::{Backend, DirectoryBackend, FilesystemIndex, Place};
use crate::cache::names::{KnownBackend, Names};
use crate::config::Settings;
use crate::fs::KnownRoot;
use crate::metrics::BackendMetrics;
use anyhow::Context;
use nix::errno::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A backend known from before that has not answered within this is away.
pub(super) const FOUND_WITHIN: Duration = Duration::from_secs(1);
/// How often one that is away is looked for.
const LOOKED_FOR_EVERY: Duration = Duration::from_secs(1);
/// A look that takes longer is left to itself.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks left to themselves at a time.
const HUNG_LOOKS_MAX: usize = 8;

pub(super) struct FoundBackend {
    pub directory: Arc<DirectoryBackend>,
    /// Its path, for messages.
    pub path: PathBuf,
    pub root: KnownRoot,
    /// Why it is away, if it is.
    pub absence: Option<String>,
}

/// What an earlier mount of the same path has left.
struct Known {
    backend: KnownBackend,
    root: KnownRoot,
    filesystems: Vec<KnownFilesystem>,
}

impl Known {
    fn recall(names: &Names, name: &Path) -> Option<Self> {
        let backend = names.backend(name)?;
        let attributes = names.root(&backend.root)?;
        let filesystems = names.filesystems();
        let is_of_root = |one: &KnownFilesystem| backend.root.0.starts_with(&one.id);
        filesystems.iter().find(|one| is_of_root(one))?;
        let place = Place {
            filesystem: FilesystemIndex(0),
            key: backend.root.clone(),
            inode: attributes.inode,
            path: PathBuf::new(),
            held: None,
            caller: None,
            only_caller: false,
        };
        Some(Self {
            root: KnownRoot {
                place,
                attributes,
                is_fresh: false,
            },
            backend,
            filesystems,
        })
    }

    fn fstype(&self) -> &str {
        let is_of_root = |one: &&KnownFilesystem| self.backend.root.0.starts_with(&one.id);
        let of_root = self.filesystems.iter().find(is_of_root);
        of_root.map_or("", |one| one.fstype.as_str())
    }
}

/// Waits `backend_timeout` for it at most, a second where it is known from before. Blocks on the local disk, too.
pub(super) fn find_backend(
    settings: &Settings,
    prepared: &Prepared,
    names: &Names,
    metrics: &Arc<BackendMetrics>,
) -> anyhow::Result<FoundBackend> {
    // Nothing can be mounted over a directory that hangs, nor over one that a later mount is to hide.
    let is_apart = prepared.mountpoint != prepared.backend_path;
    let known = Known::recall(names, &prepared.backend_name).filter(|_| is_apart);
    let patience = match &known {
        Some(_) => FOUND_WITHIN.min(settings.backend_timeout),
        None => settings.backend_timeout,
    };
    let root = match &prepared.backend {
        BackendRoot::There(root) => root.try_clone().context("the backend's descriptor")?,
        BackendRoot::Away(away) => match &known {
            Some(known) if may_be_unmounted(&prepared.backend_name, away, known, patience) => {
                let reason = away_problem(prepared, away, FOUND_WITHIN).to_string();
                return Ok(awaited(settings, known, reason, metrics));
            }
            _ => wait_on(settings, prepared, away)?,
        },
    };
    let opened = open_tree(root, metrics.clone(), patience)?;
    match (opened, &known) {
        (Some(Ok(found)), Some(known)) if is_bare_mountpoint(&found, known) => {
            let reason = format!(
                "{} is an empty directory where {} was mounted before; mount that, or, if this is meant, put a file into it",
                prepared.backend_name.display(),
                known.fstype(),
            );
            Ok(awaited(settings, known, reason, metrics))
        }
        (Some(Ok(found)), _) => Ok(there(prepared, names, found)),
        (Some(Err(error)), Some(known)) if says_away(&error) => {
            Ok(awaited(settings, known, error.to_string(), metrics))
        }
        (None, Some(known)) => {
            let reason = hung(prepared, patience).to_string();
            Ok(awaited(settings, known, reason, metrics))
        }
        (Some(Err(error)), _) => {
            Err(error).with_context(|| format!("backend {}", prepared.backend_path.display()))
        }
        (None, None) => Err(hung(prepared, patience).into()),
    }
}

fn away_problem(prepared: &Prepared, away: &Away, waited: Duration) -> StartError {
    match away.opening {
        Some(_) => hung(prepared, waited),
        None => backend_problem(&prepared.backend_path, away.problem.clone()),
    }
}

fn hung(prepared: &Prepared, waited: Duration) -> StartError {
    StartError::BackendHung {
        path: prepared.backend_path.clone(),
        seconds: waited.as_secs(),
    }
}

type Tree = (Arc<DirectoryBackend>, KnownRoot);

/// Calls the backend on a thread that can be lost to it. `None`: it has not answered in time.
fn open_tree(
    root: OwnedFd,
    metrics: Arc<BackendMetrics>,
    patience: Duration,
) -> anyhow::Result<Option<io::Result<Tree>>> {
    let open = move || {
        let directory = DirectoryBackend::from_root(root, metrics)?;
        let (place, attributes) = directory.root()?;
        let root = KnownRoot {
            place,
            attributes,
            is_fresh: true,
        };
        Ok((directory, root))
    };
    with_timeout(patience, open).context("starting a thread")
}

fn there(prepared: &Prepared, names: &Names, (directory, root): Tree) -> FoundBackend {
    directory.expect(&names.filesystems());
    let backend = KnownBackend {
        root: directory.root_key().clone(),
        resolved: prepared.backend_path.clone(),
    };
    names.note_backend(&prepared.backend_name, &backend);
    FoundBackend {
        directory,
        path: prepared.backend_path.clone(),
        root,
        absence: None,
    }
}

fn awaited(
    settings: &Settings,
    known: &Known,
    reason: String,
    metrics: &Arc<BackendMetrics>,
) -> FoundBackend {
    FoundBackend {
        directory: DirectoryBackend::awaited(
            known.backend.root.clone(),
            &known.filesystems,
            settings.backend_timeout,
            metrics.clone(),
        ),
        path: known.backend.resolved.clone(),
        root: known.root.clone(),
        absence: Some(reason),
    }
}

/// An empty directory, nothing mounted on it, of another filesystem than the one that was known.
fn is_bare_mountpoint((directory, root): &Tree, known: &Known) -> bool {
    let is_another = is_on_another_filesystem(directory, known);
    let is_bare = directory.filesystems().first().is_some_and(|filesystem| {
        !filesystem.remote && Path::new(&filesystem.mount_point) != known.backend.resolved
    });
    is_another && is_bare && is_empty(&**directory, &root.place)
}

/// A key begins with the id of its filesystem.
fn is_on_another_filesystem(directory: &DirectoryBackend, known: &Known) -> bool {
    directory.root_key().0.get(..8) != known.backend.root.0.get(..8)
}

fn is_empty(backend: &dyn Backend, directory: &Place) -> bool {
    let mut names = Vec::new();
    let listed = backend
        .open_directory(directory)
        .and_then(|mut stream| stream.next_names(&mut names));
    listed.is_ok() && names.is_empty()
}

/// A path that is missing may lead through a filesystem that is not mounted; it does not, if what is left of it lies on the
/// very filesystem that was known.
fn may_be_unmounted(path: &Path, away: &Away, known: &Known, patience: Duration) -> bool {
    if away.problem != RootProblem::System(Errno::ENOENT) {
        return true;
    }
    let existing = path.to_owned();
    let find = move || {
        let mut ancestors = existing.ancestors().skip(1);
        let root = ancestors.find_map(|ancestor| open_backend_root(ancestor).ok())?;
        DirectoryBackend::from_root(root.0, Arc::default()).ok()
    };
    match with_timeout(patience, find) {
        Ok(Some(Some(directory))) => is_on_another_filesystem(&directory, known),
        _ => true,
    }
}

/// Nothing is known that could be served meanwhile.
fn wait_on(settings: &Settings, prepared: &Prepared, away: &Away) -> anyhow::Result<OwnedFd> {
    let patience = settings.backend_timeout.saturating_sub(FOUND_WITHIN);
    let (root, resolved) = match (&away.opening, &away.problem) {
        (Some(opening), _) => match opening.recv_timeout(patience) {
            Ok(Ok(opened)) => opened,
            Ok(Err(problem)) => return Err(backend_problem(&prepared.backend_path, problem).into()),
            Err(_) => return Err(away_problem(prepared, away, settings.backend_timeout).into()),
        },
        (None, RootProblem::NotMounted(_)) => {
            open_backend(&prepared.backend_name, settings.backend_timeout)?
        }
        (None, _) => return Err(away_problem(prepared, away, FOUND_WITHIN).into()),
    };
    prepared.refuse_neighbours(&resolved)?;
    Ok(root)
}

/// Looks for a backend that is away until it is there, on a thread of its own.
pub(super) fn look_for(
    path: PathBuf,
    directory: Arc<DirectoryBackend>,
    health: Arc<Health>,
) -> io::Result<()> {
    let hung = Arc::new(AtomicUsize::new(0));
    let look = move || {
        while !is_found(&path, &directory, &health, &hung) {
            std::thread::sleep(LOOKED_FOR_EVERY);
        }
    };
    std::thread::Builder::new()
        .name("backend-search".to_owned())
        .spawn(look)
        .map(drop)
}

fn is_found(
    path: &Path,
    directory: &Arc<DirectoryBackend>,
    health: &Health,
    hung: &Arc<AtomicUsize>,
) -> bool {
    if hung.load(Ordering::Acquire) >= HUNG_LOOKS_MAX {
        return directory.present_path().is_some();
    }
    hung.fetch_add(1, Ordering::AcqRel);
    let (named, arriving, ended) = (path.to_owned(), directory.clone(), hung.clone());
    let look = move || {
        let told = |error: io::Error| error.to_string();
        let outcome = open_backend_root(&named)
            .map_err(|problem| problem.to_string())
            .and_then(|(root, _)| arriving.arrive(root).map_err(told));
        ended.fetch_sub(1, Ordering::AcqRel);
        outcome
    };
    match with_timeout(LOOK_TIMEOUT, look) {
        Ok(Some(Ok(true))) => {
            tracing::info!("the backend {} was found", path.display());
        }
        Ok(Some(Ok(false))) => health.explain_absence(format!(
            "{} is another directory than the one that was known; unmount and mount again for what is there now",
            path.display()
        )),
        Ok(Some(Err(problem))) => health.explain_absence(problem),
        Ok(None) | Err(_) => {}
    }
    // A look left to itself may have found it.
    directory.present_path().is_some()
}
