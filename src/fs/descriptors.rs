//! Descriptors of the backend's files that are open here, counted by what they are in the way of. On NFS a file whose
//! descriptor is open does not go with its last name but gets another, `.nfsXXXX`, in its directory; and a program that has
//! closed a file does not wait until the descriptors behind it are closed, too.

use crate::types::FileKey;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A removal waits this long at most: a server that is slow to close must not stop it.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Descriptors {
    counts: Mutex<HashMap<FileKey, usize>>,
    closed: Condvar,
}

/// Counts one until it is dropped; to be dropped after the descriptor it stands for.
pub(super) struct Descriptor {
    of: Arc<Descriptors>,
    key: FileKey,
}

impl Descriptors {
    /// One more that is in the way of the file, or of the directory, `key`.
    pub fn count(self: &Arc<Self>, key: &FileKey) -> Descriptor {
        *self.counts.lock().entry(key.clone()).or_default() += 1;
        Descriptor {
            of: self.clone(),
            key: key.clone(),
        }
    }

    pub fn is_any(&self, key: &FileKey) -> bool {
        self.counts.lock().contains_key(key)
    }

    /// Waits until nothing is in the way of `key`, but not for long.
    pub fn wait_until_closed(&self, key: &FileKey) {
        let deadline = Instant::now() + PATIENCE;
        let mut counts = self.counts.lock();
        while counts.contains_key(key) {
            if self.closed.wait_until(&mut counts, deadline).timed_out() {
                return;
            }
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
                self.of.closed.notify_all();
            }
        }
    }
}
