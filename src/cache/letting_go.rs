//! Files about to lose their name: a descriptor of the backend's file would keep it there, on NFS under another name. What
//! was cached of them is of no use to anybody afterwards.

use super::Cache;
use super::fetch::FetchError;
use crate::types::FileKey;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A piece in flight is waited for this long: a removal is not to wait for a slow transfer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Cache {
    /// Gives up what is on its way to a file that nobody has open, and waits until its descriptor is closed.
    pub fn let_go(self: &Arc<Self>, key: &FileKey) {
        let active = |directory: &Arc<super::CacheDirectory>| directory.active_file(key);
        for file in self.directories.iter().filter_map(active) {
            if file.is_used() {
                continue;
            }
            let source = file.state.lock().pieces.source().map(Arc::downgrade);
            self.fail_fetch(&file, &FetchError::Bypass);
            if let Some(source) = source {
                self.wait_until_closed(&source);
            }
        }
    }

    /// The file has no name any more, and nobody has it open: what is cached of it goes soon. Does not block.
    pub fn note_removed(&self, key: FileKey) {
        self.removed.lock().push(key);
    }

    /// After a checkpoint: what has no record yet could not go. The records leave with the next one.
    pub(super) fn drop_removed(&self) {
        for key in std::mem::take(&mut *self.removed.lock()) {
            for directory in self.directories.iter().filter(|dir| dir.is_usable()) {
                if let Err(error) = directory.evict(&key) {
                    directory.report_disk_error("removing an object", &error);
                }
            }
        }
    }

    fn wait_until_closed<T: ?Sized>(&self, source: &Weak<T>) {
        let deadline = Instant::now() + PATIENCE;
        let mut closing = self.closing.lock();
        while source.strong_count() > 0 {
            if self.closed.wait_until(&mut closing, deadline).timed_out() {
                return;
            }
        }
    }

    /// A descriptor of the backend was closed.
    pub(super) fn note_closed(&self) {
        // Taken so that whoever has just seen it open waits by now.
        drop(self.closing.lock());
        self.closed.notify_all();
    }
}
