//! The status page: what it shows, as JSON. Whoever reaches the address may read it, so no name of the tree is in it but
//! those of directories that everybody may list.

use super::history::{History, Sample};
use super::http::StatusSource;
use crate::daemon::control::WirePath;
use crate::daemon::status::{
    BackendStatus, CacheStatus, EngineStatus, FuseStatus, JournalStatus, State, Status,
};
use crate::fs::{CacheMap, MappedDirectory};
use parking_lot::Mutex;
use serde::Serialize;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const PAGE: &str = include_str!("page.html");

/// Looking at all that is known takes a while with millions of files.
const MAP_LIMIT: Duration = Duration::from_secs(3);
const MAP_KEPT_FOR: Duration = Duration::from_secs(60);
/// Those with the most in the cache.
const DIRECTORIES_SHOWN: usize = 200;

/// Tells what is cached, by directory.
pub type MapSource = Arc<dyn Fn(Duration) -> CacheMap + Send + Sync>;

pub struct Page {
    status: StatusSource,
    map: MapSource,
    history: History,
    last_map: Mutex<Option<(Instant, String)>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    state: State,
    name: &'a str,
    mountpoint: &'a str,
    version: &'a str,
    uptime_seconds: u64,
    read_only: bool,
    backend: &'a BackendStatus,
    cache: &'a CacheStatus,
    journal: &'a JournalStatus,
    pending_files: u64,
    failing_files: u64,
    conflicts: u64,
    bad_blocks: u64,
    engine: &'a EngineStatus,
    fuse: &'a FuseStatus,
    /// The newest last: that of this moment.
    history: Vec<Sample>,
}

#[derive(Serialize)]
struct ShownMap {
    is_whole: bool,
    directories_left_out: usize,
    directories: Vec<ShownDirectory>,
}

#[derive(Serialize)]
struct ShownDirectory {
    path: WirePath,
    files: u64,
    bytes: u64,
    cached_files: u64,
    cached_bytes: u64,
}

impl Page {
    pub fn start(status: StatusSource, map: MapSource) -> io::Result<Self> {
        Ok(Self {
            history: History::start(status.clone())?,
            status,
            map,
            last_map: Mutex::new(None),
        })
    }

    pub fn state(&self) -> serde_json::Result<String> {
        let status = (self.status)();
        let mut history = self.history.samples();
        history.push(Sample::of(&status));
        serde_json::to_string(&shown(&status, history))
    }

    /// Whoever asks while it is made waits for it, too.
    pub fn map(&self) -> serde_json::Result<String> {
        let mut last = self.last_map.lock();
        if let Some((made, text)) = &*last
            && made.elapsed() < MAP_KEPT_FOR
        {
            return Ok(text.clone());
        }
        let text = serde_json::to_string(&shown_map((self.map)(MAP_LIMIT)))?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

fn shown(status: &Status, history: Vec<Sample>) -> Shown<'_> {
    Shown {
        state: status.state,
        name: &status.name,
        mountpoint: &status.mountpoint,
        version: &status.version,
        uptime_seconds: status.uptime_seconds,
        read_only: status.read_only,
        backend: &status.backend,
        cache: &status.cache,
        journal: &status.journal,
        pending_files: status.writeback.pending_files,
        failing_files: status.writeback.failing_files,
        conflicts: status.writeback.conflicts,
        bad_blocks: status.scrub.bad_blocks,
        engine: &status.engine,
        fuse: &status.fuse,
        history,
    }
}

fn shown_map(map: CacheMap) -> ShownMap {
    let mut directories = map.directories;
    directories.sort_by_key(|one| std::cmp::Reverse((one.sum.cached_bytes, one.sum.bytes)));
    let directories_left_out = directories.len().saturating_sub(DIRECTORIES_SHOWN);
    directories.truncate(DIRECTORIES_SHOWN);
    let shown = |MappedDirectory { path, sum }| ShownDirectory {
        path: WirePath::from(&*path),
        files: sum.files,
        bytes: sum.bytes,
        cached_files: sum.cached_files,
        cached_bytes: sum.cached_bytes,
    };
    ShownMap {
        is_whole: map.is_whole,
        directories_left_out,
        directories: directories.into_iter().map(shown).collect(),
    }
}
