//! What is not on the backend yet, and having it sent there because somebody says so.

use super::WriteBack;
use super::dirty::{DirtyFile, FileState};
use super::layers::Layer;
use crate::clock::wall_clock;
use crate::journal::Generation;
use crate::types::{FileKey, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The files that `status` names.
const NAMED_MAX: usize = 20;

/// What is left of what somebody wants on the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// What was changed before this moment is meant.
    pub moment: u64,
    pub files: u64,
    pub bytes: u64,
    /// Of these, not taken by the backend when they were tried last, and what it said of one.
    pub failing_files: u64,
    pub trouble: Option<String>,
    /// One that the backend has not answered for.
    pub awaited: Option<PathBuf>,
    /// Of any files, since the start.
    pub sent_bytes: u64,
}

/// A file that the backend does not have as it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyFileFigures {
    pub path: PathBuf,
    pub bytes: u64,
    pub age: Duration,
    pub is_on_its_way: bool,
    pub trouble: Option<Arc<str>>,
}

impl WriteBack {
    /// Has what is dirty of these files, or below these directories, sent at once; all without any. With the moment of an
    /// earlier answer it tells what is left of that.
    pub fn flush(&self, paths: &[PathBuf], moment: Option<u64>) -> Unsent {
        let is_meant = |file: &DirtyFile| {
            let state = file.state();
            let is_below = |path: &PathBuf| state.place.path.starts_with(path);
            paths.is_empty() || paths.iter().any(is_below)
        };
        let is_new = moment.is_none();
        self.uploader.send_at_once(is_meant, is_new);
        let next = || self.next_generation.load(Ordering::Relaxed);
        let moment = moment.unwrap_or_else(next);
        let mut unsent = Unsent {
            moment,
            sent_bytes: self.sent_bytes.get(),
            ..Unsent::default()
        };
        for file in self.table.all().iter().filter(|file| is_meant(file)) {
            let mut state = file.state();
            if is_new {
                // It is tried again: what was said is of the last time.
                state.trouble = None;
            }
            unsent.count(&state);
        }
        unsent
    }

    /// Of one file; `None` where the backend has it as it is here.
    pub fn dirty_figures(&self, key: &FileKey) -> Option<DirtyFileFigures> {
        let file = self.table.get(key)?;
        let state = file.state();
        figures_of(&state, wall_clock())
    }

    /// The oldest ones first.
    pub(super) fn name_dirty(&self) -> Vec<DirtyFileFigures> {
        let now = wall_clock();
        let all = self.table.all();
        let figures = all.iter().filter_map(|file| figures_of(&file.state(), now));
        let mut figures: Vec<_> = figures.collect();
        figures.sort_by_key(|file| std::cmp::Reverse(file.age));
        figures.truncate(NAMED_MAX);
        figures
    }
}

impl Unsent {
    fn count(&mut self, state: &FileState) {
        let is_meant = |layer: &&&Layer| layer.generation < Generation(self.moment);
        let layers = state.layers();
        let meant: Vec<_> = layers.iter().filter(is_meant).collect();
        if meant.is_empty() {
            return;
        }
        let bytes = meant.iter().map(|layer| layer.extents.total_bytes());
        self.files += 1;
        self.bytes += bytes.sum::<u64>();
        if let Some(trouble) = &state.trouble {
            self.failing_files += 1;
            let path = state.place.path.display();
            self.trouble = Some(format!("{path}: {trouble}"));
        } else if self.awaited.is_none() {
            self.awaited = Some(state.place.path.clone());
        }
    }
}

fn figures_of(state: &FileState, now: Timestamp) -> Option<DirtyFileFigures> {
    let layers = state.layers();
    let began = layers.iter().map(|layer| layer.first_stamp).min()?;
    Some(DirtyFileFigures {
        path: state.place.path.clone(),
        bytes: state.dirty_bytes(),
        age: since(began, now),
        is_on_its_way: state.frozen.is_some(),
        trouble: state.trouble.clone(),
    })
}

/// Nothing where the clock was set back meanwhile.
fn since(then: Timestamp, now: Timestamp) -> Duration {
    let nanoseconds =
        |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let passed = (nanoseconds(now) - nanoseconds(then)).max(0);
    Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX))
}
