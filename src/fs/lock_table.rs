//! Who holds locks on which file, and who waits for one.

use super::descriptors::Descriptor;
use super::locking::Locking;
use crate::backend::locking::LockFile;
use crate::types::{FileKey, HandleId, LockOwner};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Files remembered for having been locked.
const NOTED_MAX: usize = 16384;

/// An owner's description of a file.
pub(super) struct Owned {
    pub owner: LockOwner,
    /// The handle the first of its locks was set by.
    pub handle: HandleId,
    pub pid: u32,
    pub file: Arc<dyn LockFile>,
    pub _in_the_way: Descriptor,
}

pub(super) struct LockTable {
    files: Mutex<HashMap<FileKey, Locked>>,
    /// Entries of `files`: most closes concern no locks, and look no further.
    count: AtomicUsize,
    /// Files locked once are locked again: their opens are made for that.
    noted: Mutex<LruCache<FileKey, ()>>,
    any_noted: AtomicUsize,
}

#[derive(Default)]
struct Locked {
    owners: Vec<Arc<Owned>>,
    waiting: Vec<Weak<Locking>>,
}

impl LockTable {
    pub fn new() -> Self {
        let noted = NonZeroUsize::new(NOTED_MAX).expect("not zero");
        Self {
            files: Mutex::default(),
            count: AtomicUsize::new(0),
            noted: Mutex::new(LruCache::new(noted)),
            any_noted: AtomicUsize::new(0),
        }
    }

    /// Nobody holds a lock or waits for one.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// A program locks this file.
    pub fn note(&self, key: &FileKey) {
        self.noted.lock().put(key.clone(), ());
        self.any_noted.store(1, Ordering::Release);
    }

    /// Whether a program has locked this file.
    pub fn is_noted(&self, key: &FileKey) -> bool {
        self.any_noted.load(Ordering::Acquire) > 0 && self.noted.lock().contains(key)
    }

    pub fn file_of(&self, key: &FileKey, owner: &LockOwner) -> Option<Arc<dyn LockFile>> {
        let files = self.files.lock();
        let mut owners = files.get(key)?.owners.iter();
        let held = owners.find(|held| held.owner == *owner)?;
        Some(held.file.clone())
    }

    pub fn of_file(&self, key: &FileKey) -> Vec<Arc<Owned>> {
        let files = self.files.lock();
        files
            .get(key)
            .map(|locked| locked.owners.clone())
            .unwrap_or_default()
    }

    /// Keeps an owner's description, or gives the one that came before.
    pub fn put(&self, key: &FileKey, owned: Owned) -> Arc<dyn LockFile> {
        let mut files = self.files.lock();
        let locked = files.entry(key.clone()).or_default();
        let mut owners = locked.owners.iter();
        let file = match owners.find(|held| held.owner == owned.owner) {
            Some(held) => held.file.clone(),
            None => {
                let file = owned.file.clone();
                locked.owners.push(Arc::new(owned));
                file
            }
        };
        self.count.store(files.len(), Ordering::Release);
        file
    }

    /// Takes an owner's description out; dropped, its locks go.
    pub fn take(&self, key: &FileKey, owner: &LockOwner) -> Option<Arc<Owned>> {
        self.take_where(key, |held| held.owner == *owner).pop()
    }

    pub fn take_of_handle(&self, key: &FileKey, handle: HandleId) -> Vec<Arc<Owned>> {
        self.take_where(key, |held| held.handle == handle)
    }

    fn take_where(&self, key: &FileKey, goes: impl Fn(&Owned) -> bool) -> Vec<Arc<Owned>> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut files = self.files.lock();
        let Some(locked) = files.get_mut(key) else {
            return Vec::new();
        };
        let held = std::mem::take(&mut locked.owners);
        let (taken, kept): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| goes(held));
        locked.owners = kept;
        locked.waiting.retain(|waiting| waiting.strong_count() > 0);
        if locked.owners.is_empty() && locked.waiting.is_empty() {
            files.remove(key);
        }
        self.count.store(files.len(), Ordering::Release);
        taken
    }

    /// One that waits is told of what is unlocked here.
    pub fn wait(&self, key: &FileKey, locking: &Arc<Locking>) {
        let mut files = self.files.lock();
        let locked = files.entry(key.clone()).or_default();
        let me = Arc::downgrade(locking);
        locked
            .waiting
            .retain(|waiting| waiting.strong_count() > 0 && !waiting.ptr_eq(&me));
        locked.waiting.push(me);
        self.count.store(files.len(), Ordering::Release);
    }

    /// Something was unlocked: who waits tries again.
    pub fn wake(&self, key: &FileKey) {
        let waiting = {
            let mut files = self.files.lock();
            let Some(locked) = files.get_mut(key) else {
                return;
            };
            let waiting = std::mem::take(&mut locked.waiting);
            if locked.owners.is_empty() {
                files.remove(key);
            }
            self.count.store(files.len(), Ordering::Release);
            waiting
        };
        for locking in waiting.iter().filter_map(Weak::upgrade) {
            locking.attempt();
        }
    }
}
