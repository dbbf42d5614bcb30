//! Making room: a thread that removes whole objects, those first that the eviction policy says, once a directory is over
//! its high watermark, until it is under the low one.
//!
//! Objects go whole, and only when a write lease shows that nobody has them open or mapped: a mapping made
//! through passthrough outlives its handle, and bytes it holds on disk would escape the limit.

use super::Cache;
use super::directory::CacheDirectory;
use super::history::Loss;
use super::objects::Eviction;
use super::policy::SPARED_IN_A_ROW_MAX;
use super::ranking::Victims;
use super::trimming::Trimmed;
use crate::types::FileKey;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Files that come in while everything is evicted are gone after with at most so often.
const EVICT_ALL_ROUNDS: usize = 8;
/// Doomed objects are looked at this often while there are any.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Wakes the reclaim thread.
#[derive(Default)]
pub(super) struct Reclaim {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    stopping: bool,
}

impl Reclaim {
    pub(super) fn wake(&self) {
        let mut state = self.state.lock();
        if !state.wanted {
            state.wanted = true;
            self.changed.notify_all();
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Waits for work; false when it is time to end.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        if !state.wanted && !state.stopping {
            match timeout {
                Some(timeout) => {
                    self.changed.wait_for(&mut state, timeout);
                }
                None => self.changed.wait(&mut state),
            }
        }
        state.wanted = false;
        !state.stopping
    }
}

/// How much regard is had for what speaks against an eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    /// Nothing goes that was used since the last checkpoint, nor what has proved its worth before what has just come in.
    Careful,
    /// The policy spares what was hit.
    Fair,
    /// Room has to be made.
    Forced,
    /// What is being warmed up goes, too.
    Everything,
}

/// What an eviction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Evicted {
    pub files: u64,
    pub bytes: u64,
    /// Files that stay because they are open, mapped or being filled.
    pub in_use: u64,
    /// Files that stay because they are pinned.
    pub pinned: u64,
}

impl Cache {
    /// Body of the reclaim thread.
    pub(super) fn reclaim_loop(self: &Arc<Self>) {
        loop {
            let waiting = self.directories.iter().any(|dir| dir.doomed_count() > 0);
            if !self.reclaim.wait(waiting.then_some(SWEEP_INTERVAL)) {
                return;
            }
            for directory in self.directories.iter().filter(|dir| dir.is_usable()) {
                directory.sweep_doomed();
                if directory.space.wants_room() {
                    self.free_space(directory);
                }
                directory.give_way();
            }
        }
    }

    fn free_space(&self, directory: &Arc<CacheDirectory>) {
        let more = |_: &Evicted| directory.space.excess_over_low() > 0;
        // A checkpoint waits for the disk, and fills go past the cache meanwhile: often the index knows enough that
        // can go.
        let mut trims = Vec::new();
        directory.evict_while(more, Pass::Careful, Some(&mut trims));
        directory.finish_trims(std::mem::take(&mut trims));
        if directory.space.excess_over_low() > 0 {
            directory.checkpoint();
            directory.evict_while(more, Pass::Fair, Some(&mut trims));
            directory.evict_while(more, Pass::Forced, None);
            directory.finish_trims(trims);
        }
        // The records go with the next checkpoint.
        self.stop.notify_all();
    }

    /// Evicts everything that can go.
    pub fn evict_all(&self) -> Evicted {
        let mut total = Evicted::default();
        for directory in self.directories.iter().filter(|dir| dir.is_usable()) {
            directory.sweep_doomed();
            let mut in_use = 0;
            // Readahead may end after the checkpoint, and has no record before the next.
            for _ in 0..EVICT_ALL_ROUNDS {
                directory.checkpoint();
                let evicted = directory.evict_while(|_| true, Pass::Everything, None);
                total.files += evicted.files;
                total.bytes += evicted.bytes;
                in_use = evicted.in_use;
                if evicted.files == 0 && !directory.has_dirty_files() {
                    break;
                }
            }
            directory.checkpoint();
            total.in_use += in_use;
            total.pinned += directory.staying.pinned().files;
        }
        total
    }

    /// Evicts these files, in one go of the index.
    pub fn evict_files(&self, keys: &[FileKey]) -> Evicted {
        let mut evicted = Evicted::default();
        for directory in self.directories.iter().filter(|dir| dir.is_usable()) {
            directory.checkpoint();
            for key in keys {
                directory.evict_counted(key, &mut evicted);
            }
            directory.checkpoint();
        }
        evicted
    }
}

impl CacheDirectory {
    /// Removes objects until so many bytes are free and so many files gone, or nothing more can go; the bytes freed.
    pub(super) fn evict_some(&self, wanted_bytes: u64, wanted_files: u64) -> u64 {
        let is_missing = |bytes: u64, files: u64| bytes < wanted_bytes || files < wanted_files;
        let fair = self.evict_while(|now| is_missing(now.bytes, now.files), Pass::Fair, None);
        let more = |now: &Evicted| is_missing(fair.bytes + now.bytes, fair.files + now.files);
        fair.bytes + self.evict_while(more, Pass::Everything, None).bytes
    }

    /// In the order of the eviction policy, while `more` says so; with `trims` parts of what is in use, too, which
    /// go when the index has let go of them.
    fn evict_while(
        &self,
        more: impl Fn(&Evicted) -> bool,
        pass: Pass,
        mut trims: Option<&mut Vec<Trimmed>>,
    ) -> Evicted {
        let mut evicted = Evicted::default();
        let mut victims = Victims::new(self, pass);
        let mut spared_in_a_row = 0;
        while more(&evicted) {
            let (order, key) = match victims.next() {
                Ok(Some(victim)) => victim,
                Ok(None) => break,
                Err(error) => {
                    self.report_index_error(&error);
                    break;
                }
            };
            if pass == Pass::Careful && self.was_used_lately(&key) {
                continue;
            }
            let may_spare =
                matches!(pass, Pass::Careful | Pass::Fair) && spared_in_a_row < SPARED_IN_A_ROW_MAX;
            if may_spare && self.spare(&key) {
                spared_in_a_row += 1;
                continue;
            }
            spared_in_a_row = 0;
            let in_use = evicted.in_use;
            if !self.evict_counted(&key, &mut evicted) {
                self.drop_age(&key, order);
            }
            if evicted.in_use > in_use
                && let Some(trims) = &mut trims
                && let Some(file) = self.active_file(&key)
            {
                trims.extend(self.begin_trim(&file, self.space.excess_over_low()));
            }
        }
        evicted
    }

    /// False when there is no record to evict.
    pub(super) fn evict_counted(&self, key: &FileKey, evicted: &mut Evicted) -> bool {
        match self.evict(key) {
            Ok(Eviction::NoRecord) => return false,
            Ok(Eviction::InUse) => evicted.in_use += 1,
            Ok(Eviction::Pinned) => evicted.pinned += 1,
            Ok(Eviction::Evicted { bytes }) => {
                self.metrics.objects_evicted.add(1);
                self.history.note_loss(key, Loss::Evicted);
                evicted.files += 1;
                evicted.bytes += bytes;
            }
            Err(error) => self.report_disk_error("evicting an object", &error),
        }
        true
    }
}
