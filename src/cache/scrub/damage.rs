//! Bad blocks become misses: they are cut out of their object, as parts that are trimmed are, where the kernel never had it;
//! else the object goes whole, and the next open begins another one.
//!
//! Invariant: a bad block is taken out of the extents before anybody is told; the kernel forgets its pages after that.

use super::super::directory::CacheDirectory;
use super::super::fetch::FetchError;
use super::super::file::{CachedFile, Gone};
use super::super::sums::blocks_of;
use super::super::trimming::Cut;
use super::{Scrubber, Woken};
use crate::types::{ByteRange, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something else is under way in the file: tried again after this, so often.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const TRIES: u32 = 100;

/// Blocks that are not what was stored.
pub(super) struct Damage {
    file: Arc<CachedFile>,
    ranges: Vec<ByteRange>,
    tries: u32,
}

impl Damage {
    pub fn new(file: &Arc<CachedFile>, ranges: Vec<ByteRange>) -> Self {
        Self {
            file: file.clone(),
            ranges,
            tries: 0,
        }
    }
}

/// A file that had bad blocks.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// Relative to the backend's root; `None`: nobody has looked at it in this life of the daemon.
    pub path: Option<PathBuf>,
    /// On the backend.
    pub inode: u64,
    /// Where the first of them begins.
    pub offset: u64,
    pub blocks: u64,
    pub at: Timestamp,
}

impl Scrubber {
    pub(super) fn repair(&mut self, damage: Damage) {
        let Some(directory) = damage.file.directory.clone() else {
            return;
        };
        let file = damage.file.clone();
        match file.cut_out(&damage.ranges) {
            Cut::Nothing => {}
            Cut::Busy if damage.tries < TRIES => {
                let tries = damage.tries + 1;
                let again = Damage { tries, ..damage };
                self.postponed.push((Instant::now() + AGAIN_AFTER, again));
            }
            Cut::Parts(trimmed) => {
                directory.finish_trims(vec![trimmed]);
                // The index may have had no room to let go of them.
                if file.has_any(&damage.ranges) {
                    self.replace(&directory, &file);
                }
                self.tell(&directory, &damage);
            }
            Cut::Busy | Cut::Whole => {
                self.replace(&directory, &file);
                self.tell(&directory, &damage);
            }
        }
        self.cache.rest(&file);
    }

    pub(super) fn repair_postponed(&mut self) {
        let now = Instant::now();
        for (at, damage) in std::mem::take(&mut self.postponed) {
            match at <= now {
                true => self.repair(damage),
                false => self.postponed.push((at, damage)),
            }
        }
    }

    pub(super) fn finish_postponed(&mut self, asked: u64) -> Result<(), Woken> {
        while !self.postponed.is_empty() {
            self.wait_until(Instant::now() + AGAIN_AFTER, asked)?;
        }
        Ok(())
    }

    /// Handles that the kernel reads by itself go on with the object; nobody else does.
    fn replace(&self, directory: &Arc<CacheDirectory>, file: &Arc<CachedFile>) {
        directory.may_follow(file, file.version());
        if file.mark_damaged() {
            directory.retire(file);
            self.cache.fail_fetch(file, &FetchError::Bypass);
            self.cache.reclaim.wake();
        }
    }

    fn tell(&self, directory: &CacheDirectory, damage: &Damage) {
        let inode = damage.file.version().inode;
        let forget = self.cache.scrub.forget.get();
        let path = forget.and_then(|forget| forget(&damage.file.key, inode, &damage.ranges));
        let blocks = damage.ranges.iter().map(|range| blocks_of(*range).count());
        let damaged = Damaged {
            path,
            inode,
            offset: damage.ranges.first().map_or(0, |range| range.start),
            blocks: blocks.sum::<usize>() as u64,
            at: crate::clock::wall_clock(),
        };
        tracing::warn!(
            directory = %directory.name,
            path = ?damaged.path,
            inode,
            offset = damaged.offset,
            blocks = damaged.blocks,
            "cached blocks are not what was stored, they are fetched again"
        );
        let mut state = self.cache.scrub.state.lock();
        state.report.note_damaged(&damage.file.key, damaged);
    }
}

impl CachedFile {
    /// False when it was given up before.
    fn mark_damaged(&self) -> bool {
        let mut state = self.state.lock();
        let is_first = state.gone.is_none();
        state.gone.get_or_insert(Gone::Damaged);
        is_first
    }

    fn has_any(&self, ranges: &[ByteRange]) -> bool {
        let state = self.state.lock();
        let is_absent = |range: &ByteRange| state.extents.missing(*range) == [*range];
        state.gone.is_none() && !ranges.iter().all(is_absent)
    }
}
