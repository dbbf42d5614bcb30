//! Pins: names whose files stay in the cache, with all beneath them.
//!
//! What always holds: a pin is of a name, and what the name leads to is looked for again and again: after each change of
//! the pins, every `pin_interval`, and wherever a file below one is met by somebody. What no name under a pin leads to
//! any more is pinned no more, once all could be looked through.
//!
//! - `pass`: one look through all that is pinned; `measure`: what a name leads to, and what of that is cached
//! - `walk`: the files that a name leads to

mod measure;
mod pass;
mod walk;

use super::FileSystem;
use super::evicting::{about, shown};
use super::node::Node;
use super::warming::Seen;
use crate::cache::Allowance;
use crate::types::warming::Held;
use crate::types::{FileKey, FileKind, bytes_in_words};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pass that could not look everywhere is made again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Files on their way at once, by a pass, and because somebody met them.
const UNDER_WAY_MAX: usize = 16;

/// What is known of one pin, as of the last time that it was looked through.
#[derive(Clone, Debug, Default)]
pub struct PinReport {
    pub path: PathBuf,
    pub files: u64,
    pub bytes: u64,
    /// Those that are not in the cache.
    pub missing_files: u64,
    pub missing_bytes: u64,
    /// Why something is missing, of one of them.
    pub trouble: Option<String>,
    /// The backend did not give something.
    is_interrupted: bool,
}

impl PinReport {
    fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }

    fn count(&mut self, held: Held) {
        self.files += 1;
        self.bytes += held.size_bytes;
        if !held.is_whole() {
            self.miss(held.size_bytes - held.cached_bytes);
        }
    }

    fn miss(&mut self, bytes: u64) {
        self.missing_files += 1;
        self.missing_bytes += bytes;
    }
}

#[derive(Default)]
pub(super) struct Pins {
    state: Mutex<State>,
    changed: Condvar,
    /// One at a time says what is pinned.
    deciding: Mutex<()>,
}

#[derive(Default)]
struct State {
    is_asked_for: bool,
    is_stopping: bool,
    reports: BTreeMap<PathBuf, PinReport>,
    /// What the last pass has left for those that come.
    allowance: Option<Arc<Allowance>>,
    /// Files that somebody met and that are on their way.
    met: HashSet<FileKey>,
}

impl Pins {
    fn ask_for_pass(&self) {
        self.state.lock().is_asked_for = true;
        self.changed.notify_all();
    }

    /// False when it is time to end.
    fn wait(&self, longest: Duration) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + longest;
        while !state.is_asked_for && !state.is_stopping {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.is_asked_for = false;
        !state.is_stopping
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }

    fn last_report(&self, path: &Path) -> Option<PinReport> {
        self.state.lock().reports.get(path).cloned()
    }

    fn note(&self, report: PinReport) {
        let mut state = self.state.lock();
        state.reports.insert(report.path.clone(), report);
    }

    fn end_pass(&self, allowance: Arc<Allowance>) {
        self.state.lock().allowance = Some(allowance);
    }

    /// Whether a file that was met has to be looked after by whoever asks.
    fn meet(&self, key: &FileKey) -> Option<Arc<Allowance>> {
        let mut state = self.state.lock();
        let allowance = state.allowance.clone()?;
        let is_new = state.met.len() < UNDER_WAY_MAX && state.met.insert(key.clone());
        is_new.then_some(allowance)
    }
}

impl FileSystem {
    /// Starts the thread that looks through what is pinned.
    pub fn start_pins(self: &Arc<Self>, interval: Duration) -> io::Result<()> {
        let this = self.clone();
        self.pins.ask_for_pass();
        std::thread::Builder::new()
            .name("pins".to_owned())
            .spawn(move || this.pin_loop(interval))
            .map(drop)
    }

    pub fn stop_pins(&self) {
        self.pins.state.lock().is_stopping = true;
        self.pins.changed.notify_all();
    }

    fn pin_loop(self: Arc<Self>, interval: Duration) {
        let mut next = interval;
        while self.pins.wait(next) {
            next = match self.look_through_pins() {
                true => interval,
                false => AGAIN_AFTER.min(interval),
            };
        }
    }

    /// Pins these names, if what they lead to has room beside what is pinned already. Blocks on the backend and the
    /// local disks.
    pub fn pin(self: &Arc<Self>, paths: &[PathBuf]) -> io::Result<Vec<PinReport>> {
        let (mut measured, mut whole) = (Vec::new(), Vec::new());
        for path in paths {
            let found = self.measure(path).map_err(|error| about(path, &error))?;
            measured.push(found.report);
            whole.extend(found.whole);
        }
        let _deciding = self.pins.deciding.lock();
        self.refuse_too_much(&measured)?;
        let cache = &self.cache;
        cache.change_pins(|pins| pins.extend(paths.iter().cloned()))?;
        let mut state = self.pins.state.lock();
        for report in &measured {
            state.reports.insert(report.path.clone(), report.clone());
        }
        drop(state);
        // What is missing comes by and by; what is there may not go meanwhile.
        cache.pin_whole(&whole);
        self.pins.ask_for_pass();
        Ok(measured)
    }

    fn refuse_too_much(&self, measured: &[PinReport]) -> io::Result<()> {
        let mut all = self.pins.state.lock().reports.clone();
        all.extend(
            measured
                .iter()
                .map(|report| (report.path.clone(), report.clone())),
        );
        let is_below = |path: &Path| {
            path.ancestors()
                .skip(1)
                .any(|above| all.contains_key(above))
        };
        let outermost = all.values().filter(|report| !is_below(&report.path));
        let wanted_bytes: u64 = outermost.map(|report| report.bytes).sum();
        let max_bytes = self.cache.pinned_bytes_max();
        if wanted_bytes <= max_bytes {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "not pinned: {} would be, and the cache keeps {} of what is pinned at most",
            bytes_in_words(wanted_bytes),
            bytes_in_words(max_bytes)
        )))
    }

    /// Lets go of these names, which must be pinned. Blocks on the local disks.
    pub fn unpin(&self, paths: &[PathBuf]) -> io::Result<()> {
        let _deciding = self.pins.deciding.lock();
        let pinned = self.cache.pins().paths();
        if let Some(path) = paths.iter().find(|path| !pinned.contains(*path)) {
            let above = path
                .ancestors()
                .skip(1)
                .find(|above| pinned.contains(*above));
            let error = io::Error::other(match above {
                Some(above) => format!("not pinned by itself, but by {} above it", shown(above)),
                None => "not pinned".to_owned(),
            });
            return Err(about(path, &error));
        }
        self.cache
            .change_pins(|pins| pins.retain(|path| !paths.contains(path)))?;
        let mut state = self.pins.state.lock();
        state.reports.retain(|path, _| !paths.contains(path));
        drop(state);
        self.pins.ask_for_pass();
        Ok(())
    }

    /// All pins, as they were last looked through.
    pub fn pins(&self) -> Vec<PinReport> {
        let paths = self.cache.pins().paths();
        let state = self.pins.state.lock();
        let report = |path: &PathBuf| {
            let known = state.reports.get(path).cloned();
            known.unwrap_or_else(|| PinReport {
                trouble: Some("not looked through yet".to_owned()),
                ..PinReport::of(path)
            })
        };
        paths.iter().map(report).collect()
    }

    /// A file was met: if it is pinned, and the version is not in the cache, that is brought in. Does not wait.
    pub(super) fn note_met(&self, node: &Arc<Node>) {
        let pins = self.cache.pins();
        if pins.is_empty() || node.state.lock().kind() != FileKind::Regular {
            return;
        }
        if !pins.covers(&node.path()) {
            return;
        }
        let Some(allowance) = self.pins.meet(&node.key) else {
            return;
        };
        let (this, met) = (self.this(), node.clone());
        let submitted = self.warm_lane.submit(move || this.keep_met(met, allowance));
        if submitted.is_err() {
            self.pins.state.lock().met.remove(&node.key);
        }
    }

    fn keep_met(self: Arc<Self>, node: Arc<Node>, allowance: Arc<Allowance>) {
        let (this, key) = (self.clone(), node.key.clone());
        let forget = move || {
            this.pins.state.lock().met.remove(&key);
        };
        let seen = Seen::last(&node, &None);
        if self.cache.is_pinned_whole(&seen.key, &seen.version) {
            return forget();
        }
        self.keep_whole(seen, allowance, || true, move |_| forget());
    }
}
