//! Eviction asked for by an administrator.

use super::FileSystem;
use super::node::Node;
use crate::backend::{ListedName, Place};
use crate::cache::Evicted;
use crate::events::Invalidation;
use crate::types::{Attributes, FileKind};
use crossbeam_channel::RecvTimeoutError;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Files that leave the index in one commit.
const EVICTED_AT_ONCE: usize = 4096;
/// Whoever waits for a backend that goes away waits no longer than this after it.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

impl FileSystem {
    /// Drops cached data of paths relative to the root, directories with all beneath them; of everything where
    /// there are none, and the kernel's pages of them. Files that are open or mapped stay. The error names the path. Blocks on the local disk
    /// and, for paths, on the backend: ETIMEDOUT when that is away.
    pub fn evict(self: &Arc<Self>, paths: &[PathBuf]) -> io::Result<Evicted> {
        if paths.is_empty() {
            let evicted = self.cache.evict_all();
            for node in self.nodes.with_pages() {
                self.forget_closed(&node);
            }
            return Ok(evicted);
        }
        let (this, paths) = (self.clone(), paths.to_vec());
        let (sender, outcome) = crossbeam_channel::bounded(1);
        let is_given_up = Arc::new(AtomicBool::new(false));
        let given_up = is_given_up.clone();
        std::thread::Builder::new()
            .name("evict".to_owned())
            .spawn(move || {
                let _ = sender.send(this.evict_paths(&paths, &given_up));
            })?;
        loop {
            match outcome.recv_timeout(LOOK_INTERVAL) {
                Ok(outcome) => return outcome,
                // The thread ends with the call that it waits in.
                Err(_) if self.health.is_away() => {
                    is_given_up.store(true, Ordering::Release);
                    return Err(away());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread that evicts has ended"));
                }
            }
        }
    }

    fn evict_paths(&self, paths: &[PathBuf], is_given_up: &AtomicBool) -> io::Result<Evicted> {
        // All are found before the first goes: a misspelt one stops nothing halfway.
        let mut found = Vec::new();
        for path in paths {
            found.push(
                self.find_with_attributes(path)
                    .map_err(|error| about(path, &error))?,
            );
        }
        let mut total = Evicted::default();
        for (path, top) in paths.iter().zip(found) {
            self.evict_tree(top, &mut total, is_given_up)
                .map_err(|error| about(path, &error))?;
        }
        Ok(total)
    }

    fn forget_closed(&self, node: &Node) {
        let mut state = node.state.lock();
        if state.open.is_none() && std::mem::take(&mut state.pages_current) {
            drop(state);
            self.invalidations.push(Invalidation::Node(node.id));
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<(Place, FileKind)> {
        let (place, attributes) = self.find_with_attributes(path)?;
        Ok((place, attributes.kind))
    }

    pub(super) fn find_with_attributes(&self, path: &Path) -> io::Result<(Place, Attributes)> {
        let (mut place, mut attributes) = self.backend.root()?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir | Component::RootDir => continue,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
            };
            let found = self.backend.lookup(&place, name)?;
            attributes = found.attributes;
            place = place.below(name, &found);
        }
        Ok((place, attributes))
    }

    /// What goes away while the tree is walked has nothing to evict.
    fn evict_tree(
        &self,
        top: (Place, Attributes),
        total: &mut Evicted,
        is_given_up: &AtomicBool,
    ) -> io::Result<()> {
        let mut files = Vec::new();
        let mut waiting = vec![top];
        let mut is_top = true;
        while let Some((place, attributes)) = waiting.pop() {
            if is_given_up.load(Ordering::Acquire) {
                return Err(away());
            }
            match attributes.kind {
                FileKind::Regular => {
                    for node in self.nodes.of_key(&place.key, attributes.inode) {
                        self.forget_closed(&node);
                    }
                    files.push(place.key);
                }
                FileKind::Directory => match self.list_to_evict(&place, &mut waiting) {
                    Err(error) if is_top || !is_gone(&error) => return Err(error),
                    Ok(()) | Err(_) => {}
                },
                FileKind::Symlink
                | FileKind::Fifo
                | FileKind::Socket
                | FileKind::CharDevice
                | FileKind::BlockDevice => {}
            }
            is_top = false;
            if files.len() >= EVICTED_AT_ONCE || waiting.is_empty() {
                let evicted = self.cache.evict_files(&std::mem::take(&mut files));
                total.files += evicted.files;
                total.bytes += evicted.bytes;
                total.in_use += evicted.in_use;
                total.pinned += evicted.pinned;
            }
        }
        Ok(())
    }

    fn list_to_evict(
        &self,
        place: &Place,
        waiting: &mut Vec<(Place, Attributes)>,
    ) -> io::Result<()> {
        let mut stream = self.backend.open_directory(place)?;
        loop {
            let mut names: Vec<ListedName> = Vec::new();
            stream.next_names(&mut names)?;
            if names.is_empty() {
                return Ok(());
            }
            for listed in names {
                let Ok(found) = stream.lookup(&listed.name) else {
                    continue;
                };
                let below = place.below(&listed.name, &found);
                waiting.push((below, found.attributes));
            }
        }
    }
}

fn away() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "it does not answer, and paths are looked up there; without a path everything would go",
    )
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESTALE | libc::ENOTDIR)
    )
}

/// The error names the path.
pub(super) fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown(path)))
}

/// Paths are from the root, which has no name there.
pub(super) fn shown(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => "the root of the mount".to_owned(),
        false => path.display().to_string(),
    }
}
