//! One look through all that is pinned: what is missing is fetched, and what is met no more is let go of.

use super::walk::{Found, Walk};
use super::{PinReport, UNDER_WAY_MAX};
use crate::cache::{Allowance, FetchError};
use crate::fs::FileSystem;
use crate::fs::evicting::is_gone;
use crate::fs::warming::Seen;
use crate::types::FileKey;
use crate::types::warming::Warmed;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;

const AWAY: &str = "the backend is away: this is as it was last known";

struct Pass {
    fs: Arc<FileSystem>,
    allowance: Arc<Allowance>,
    /// Hashes of the files met: 8 bytes for each.
    met: HashSet<u64>,
    hasher: RandomState,
}

/// The files of one pin, some of them on their way.
struct Fetching {
    under_way: Mutex<usize>,
    ended: Condvar,
    report: Mutex<PinReport>,
}

impl FileSystem {
    /// Whether all could be looked at, and everything came that has room.
    pub(super) fn look_through_pins(self: &Arc<Self>) -> bool {
        let pins = self.cache.pins().paths();
        let mut pass = Pass {
            allowance: self.cache.pinning(),
            fs: self.clone(),
            met: HashSet::new(),
            hasher: RandomState::new(),
        };
        let mut is_complete = true;
        for path in pins.iter() {
            is_complete &= pass.look_through(path);
            if self.pins.is_stopping() {
                return true;
            }
        }
        self.pins.end_pass(pass.allowance.clone());
        if is_complete {
            let is_pinned = |key: &FileKey| pass.met.contains(&pass.hasher.hash_one(key));
            self.cache.unpin_others(&is_pinned);
        }
        is_complete
    }
}

impl Pass {
    fn look_through(&mut self, path: &Path) -> bool {
        if self.fs.health.is_away() {
            self.fs.pins.note(self.last_known(path, AWAY.to_owned()));
            return false;
        }
        let fetching = Arc::new(Fetching {
            under_way: Mutex::new(0),
            ended: Condvar::new(),
            report: Mutex::new(PinReport::of(path)),
        });
        let walked = self.walk(path, &fetching);
        fetching.wait_for(0);
        let mut report = fetching.report.lock().clone();
        let is_complete = match walked {
            Ok(came) => came && !report.is_interrupted,
            Err(error) if is_gone(&error) => {
                report.trouble = Some(error.to_string());
                true
            }
            Err(error) => {
                report = self.last_known(path, error.to_string());
                false
            }
        };
        self.fs.pins.note(report);
        is_complete
    }

    /// What there is to say of a pin that could not be looked through.
    fn last_known(&self, path: &Path, trouble: String) -> PinReport {
        let fs = &self.fs;
        let known = fs.measure_known(path).map(|known| known.report);
        let known = known.or_else(|| fs.pins.last_report(path));
        PinReport {
            trouble: Some(trouble),
            ..known.unwrap_or_else(|| PinReport::of(path))
        }
    }

    /// False where it is time to end.
    fn walk(&mut self, path: &Path, fetching: &Arc<Fetching>) -> io::Result<bool> {
        let mut walk = Walk::new(self.fs.clone(), path)?;
        while let Some(found) = walk.next() {
            let found = found?;
            if self.fs.pins.is_stopping() {
                return Ok(false);
            }
            let is_new = self.met.insert(self.hasher.hash_one(&found.place.key));
            fetching.note(found.version.size_bytes);
            if is_new {
                self.fetch(found, fetching);
            }
        }
        Ok(true)
    }

    fn fetch(&self, found: Found, fetching: &Arc<Fetching>) {
        let (key, version) = (&found.place.key, &found.version);
        if self.fs.cache.count_pinned(&self.allowance, key, version) {
            return;
        }
        fetching.wait_for(UNDER_WAY_MAX - 1);
        *fetching.under_way.lock() += 1;
        let size_bytes = found.version.size_bytes;
        let seen = Seen {
            key: found.place.key.clone(),
            version: found.version,
            first_seen: found.first_seen,
            placed: Arc::new(found.place),
        };
        let (told, allowance) = (fetching.clone(), self.allowance.clone());
        let done = move |outcome| told.end(size_bytes, outcome);
        self.fs.keep_whole(seen, allowance, || true, done);
    }
}

impl Fetching {
    fn note(&self, bytes: u64) {
        let mut report = self.report.lock();
        report.files += 1;
        report.bytes += bytes;
    }

    /// Until no more than so many are on their way.
    fn wait_for(&self, left: usize) {
        let mut under_way = self.under_way.lock();
        while *under_way > left {
            self.ended.wait(&mut under_way);
        }
    }

    fn end(&self, bytes: u64, outcome: Result<Warmed, FetchError>) {
        let mut report = self.report.lock();
        match outcome {
            Ok(Warmed::Cached { .. } | Warmed::Fetched { .. }) => {}
            Ok(Warmed::Left { reason, .. }) => {
                report.miss(bytes);
                report.trouble = Some(reason);
            }
            Err(error) => {
                report.miss(bytes);
                report.trouble = Some(error.to_string());
                report.is_interrupted = true;
            }
        }
        drop(report);
        *self.under_way.lock() -= 1;
        self.ended.notify_all();
    }
}
