//! The scrub: a thread that reads what is cached back from the disk, whoever may have it open, and compares it with its
//! checksums; blocks that have none yet get one.
//!
//! What always holds: it reads so much a second at most, and waits while somebody else reads or fetches, for a while;
//! a block is called bad only if its object was in one hand, and its extents stayed, from before its sum was looked up
//! until after its bytes were read.
//!
//! - `check`: one file, piece by piece
//! - `damage`: what becomes of bad blocks
//! - `pace`: how much a second, and when to wait
//! - `report`: what `status` tells

mod check;
mod damage;
mod pace;
mod report;

use self::check::Purpose;
use self::damage::Damage;
use self::pace::{Calm, Pace};
use super::directory::CacheDirectory;
use super::{Cache, CachedFile};
use crate::io::BufferPool;
use crate::types::{ByteRange, FileKey};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use damage::Damaged;
pub use report::{PassReport, ScrubReport};

/// After a start, so that it is not in the way of what is read then.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(60);
/// Files looked up in the index at once.
const BATCH: usize = 64;
/// Files without sums that wait for the scrub; those beyond get theirs in the next pass.
const UNSUMMED_MAX: usize = 16_384;
/// Reports of reads that wait; what is bad beyond that is found again.
const DAMAGED_MAX: usize = 1024;
/// While so much waits for a checkpoint, no sums are added to it.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(20);
/// Bytes of an object in memory at once.
const PIECE_BYTES: usize = super::pieces::PIECE_BYTES as usize;

/// Which checksums are made, and when they are looked at beside the scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    None,
    /// From the objects, after the fill.
    Scrub,
    /// While data comes from the backend.
    Fill,
    /// So, and each read by the daemon is checked.
    Read,
}

impl Checksums {
    pub(super) fn at_fill(self) -> bool {
        matches!(self, Self::Fill | Self::Read)
    }

    pub(super) fn at_read(self) -> bool {
        self == Self::Read
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ScrubSettings {
    pub checksums: Checksums,
    pub bytes_per_second: u64,
    /// From the beginning of one pass to that of the next.
    pub interval: Duration,
}

/// Makes the kernel forget pages of a file, by its key and inode number; where the file is found, if that is known.
pub type Forget = Box<dyn Fn(&FileKey, u64, &[ByteRange]) -> Option<PathBuf> + Send + Sync>;

/// What the scrub shares with others.
#[derive(Default)]
pub(super) struct Scrub {
    state: Mutex<State>,
    changed: Condvar,
    forget: OnceLock<Forget>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// Passes asked for so far, and how many of these a pass that began afterwards has answered.
    asked: u64,
    answered: u64,
    damaged: VecDeque<Damage>,
    report: ScrubReport,
}

impl Scrub {
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }

    pub(super) fn wake(&self) {
        // Taken so that whoever has just found nothing to do waits by now.
        drop(self.state.lock());
        self.changed.notify_all();
    }
}

/// Files of one directory that came into the index and may have blocks without sums.
#[derive(Default)]
pub(super) struct Unsummed {
    is_wanted: AtomicBool,
    keys: Mutex<(VecDeque<FileKey>, HashSet<FileKey>)>,
}

impl Unsummed {
    pub fn want(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    pub fn note<'a>(&self, keys: impl IntoIterator<Item = &'a FileKey>) {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        let (queue, known) = &mut *self.keys.lock();
        for key in keys {
            if queue.len() < UNSUMMED_MAX && known.insert(key.clone()) {
                queue.push_back(key.clone());
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.lock().0.is_empty()
    }

    fn next(&self) -> Option<FileKey> {
        let (queue, known) = &mut *self.keys.lock();
        let key = queue.pop_front()?;
        known.remove(&key);
        Some(key)
    }
}

impl Cache {
    /// Has everything checked from now on; what [`ScrubReport::answered`] reaches when that is done. `None` without checksums.
    pub fn ask_for_scrub(&self) -> Option<u64> {
        if self.settings.scrub.checksums == Checksums::None {
            return None;
        }
        let mut state = self.scrub.state.lock();
        state.asked += 1;
        self.scrub.changed.notify_all();
        Some(state.asked)
    }

    pub fn scrub_report(&self) -> ScrubReport {
        let state = self.scrub.state.lock();
        ScrubReport {
            answered: state.answered,
            ..state.report.clone()
        }
    }

    /// Before the first read.
    pub fn on_damage(&self, forget: Forget) {
        let _ = self.scrub.forget.set(forget);
    }

    /// A read found these blocks to be others than were stored.
    pub(super) fn note_damage(&self, file: &Arc<CachedFile>, ranges: Vec<ByteRange>) {
        let mut state = self.scrub.state.lock();
        if state.damaged.len() < DAMAGED_MAX {
            state.damaged.push_back(Damage::new(file, ranges));
            self.scrub.changed.notify_all();
        }
    }

    /// Body of the scrub's thread.
    pub(super) fn scrub_loop(self: &Arc<Self>) {
        let buffers = match BufferPool::new(1, PIECE_BYTES, false) {
            Ok(buffers) => buffers,
            Err(error) => return tracing::error!(%error, "no memory to check what is cached"),
        };
        let settings = self.settings.scrub;
        let scrubber = Scrubber {
            cache: self.clone(),
            buffers,
            pace: Pace::new(settings.bytes_per_second),
            calm: Calm::default(),
            postponed: Vec::new(),
        };
        scrubber.run(settings.interval);
    }
}

/// The scrub's thread.
struct Scrubber {
    cache: Arc<Cache>,
    buffers: BufferPool,
    pace: Pace,
    calm: Calm,
    postponed: Vec<(Instant, Damage)>,
}

/// Why a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Woken {
    Due,
    Asked,
    Stopping,
}

impl Scrubber {
    fn run(mut self, interval: Duration) {
        let mut due = Instant::now() + interval.min(FIRST_PASS_AFTER);
        loop {
            if self.wait_for_work(due) == Woken::Stopping {
                return;
            }
            let began = Instant::now();
            let asked = self.begin_pass();
            match self.pass(asked) {
                Ok(files) => self.end_pass(asked, files, began),
                Err(Woken::Stopping) => return,
                // Begun anew at once.
                Err(_) => {}
            }
            due = began + interval;
        }
    }

    /// Until the next pass is due or asked for; sums what comes in.
    fn wait_for_work(&mut self, due: Instant) -> Woken {
        let answered = self.cache.scrub.state.lock().answered;
        loop {
            match self.wait(Instant::now(), answered) {
                Woken::Due => {}
                woken => return woken,
            }
            if Instant::now() >= due {
                return Woken::Due;
            }
            if self.sum_next(answered) {
                continue;
            }
            if let Some(woken) = self.sleep(due, answered) {
                return woken;
            }
        }
    }

    /// Sleeps until `due`, or something is to be done; `None`: look what.
    fn sleep(&mut self, due: Instant, answered: u64) -> Option<Woken> {
        let until = self
            .postponed
            .iter()
            .map(|(at, _)| *at)
            .fold(due, Instant::min);
        let scrub = &self.cache.scrub;
        let mut state = scrub.state.lock();
        if state.stopping {
            return Some(Woken::Stopping);
        }
        if state.asked > answered {
            return Some(Woken::Asked);
        }
        // Noted by a checkpoint that wakes us up: so asked under the lock.
        if state.damaged.is_empty() && self.cache.has_unsummed_files() {
            return None;
        }
        if state.damaged.is_empty() {
            scrub.changed.wait_until(&mut state, until);
        }
        None
    }

    /// Waits until `until`, repairing what is found damaged meanwhile. `Asked` once more passes are asked for than `asked`.
    fn wait(&mut self, until: Instant, asked: u64) -> Woken {
        loop {
            self.repair_postponed();
            let mut state = self.cache.scrub.state.lock();
            if state.stopping {
                return Woken::Stopping;
            }
            if let Some(damage) = state.damaged.pop_front() {
                drop(state);
                self.repair(damage);
                continue;
            }
            if state.asked > asked {
                return Woken::Asked;
            }
            if Instant::now() >= until {
                return Woken::Due;
            }
            self.cache.scrub.changed.wait_until(&mut state, until);
        }
    }

    fn begin_pass(&self) -> u64 {
        let mut state = self.cache.scrub.state.lock();
        state.report.begin_pass();
        state.asked
    }

    fn end_pass(&mut self, asked: u64, files: u64, began: Instant) {
        let mut state = self.cache.scrub.state.lock();
        state.answered = asked;
        let pass = state.report.end_pass(files, began.elapsed());
        drop(state);
        tracing::info!(
            files = pass.files,
            checked_bytes = pass.checked_bytes,
            summed_bytes = pass.summed_bytes,
            bad_blocks = pass.bad_blocks,
            "what is cached was checked"
        );
    }

    /// Everything once; how many files. `Err`: it ends early, or is to begin anew.
    fn pass(&mut self, asked: u64) -> Result<u64, Woken> {
        let mut files = 0;
        for directory in self.cache.directories.clone() {
            directory.checkpoint();
            files += self.pass_over(&directory, asked)?;
            self.finish_postponed(asked)?;
            // Sums are kept from now on.
            directory.checkpoint();
        }
        Ok(files)
    }

    fn pass_over(&mut self, directory: &Arc<CacheDirectory>, asked: u64) -> Result<u64, Woken> {
        let mut files = 0;
        let mut after = None;
        while directory.is_usable() {
            let keys = match directory.index.keys_after(after.as_ref(), BATCH) {
                Ok(keys) => keys,
                Err(error) => {
                    directory.report_index_error(&error);
                    break;
                }
            };
            for key in &keys {
                self.check_file(directory, key, Purpose::Check, asked)?;
                while self.sum_next(asked) {}
                files += 1;
            }
            match keys.last() {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        Ok(files)
    }

    /// One file that came in lately; false when there is none, or something else is to be done.
    fn sum_next(&mut self, asked: u64) -> bool {
        let directories = self.cache.directories.clone();
        let next = directories.iter().find_map(|directory| {
            let key = directory.unsummed.next()?;
            Some((directory, key))
        });
        next.is_some_and(|(directory, key)| {
            // Otherwise whoever called finds out by itself.
            let summed = self.check_file(directory, &key, Purpose::Sum, asked);
            summed.is_ok()
        })
    }
}

impl Cache {
    pub(super) fn has_unsummed_files(&self) -> bool {
        let mut directories = self.directories.iter();
        directories.any(|directory| !directory.unsummed.is_empty())
    }
}

/// An engine that stops cancels what it has not begun.
fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}
