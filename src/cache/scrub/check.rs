//! One file: read back piece by piece, compared with its sums, summed where it has none.

use super::super::directory::CacheDirectory;
use super::super::file::CachedFile;
use super::super::record::ObjectId;
use super::super::sums::{Sum, bad_blocks, blocks_of, sums_of};
use super::super::trimming::in_pieces;
use super::damage::Damage;
use super::{CHECKPOINT_PATIENCE, Scrubber, Woken, is_cancelled};
use crate::io::{ALIGNMENT_BYTES, Buffer, IoFile};
use crate::types::{ByteRange, FileKey};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Whoever reads or fetches is waited for so long before each piece.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Check,
    /// Blocks without a sum only.
    Sum,
}

/// What a file was when one of its pieces was about to be read.
struct Before {
    object: ObjectId,
    trims: u64,
}

/// What became of a piece.
#[derive(Default)]
struct Outcome {
    checked_bytes: u64,
    summed_bytes: u64,
    bad: Vec<ByteRange>,
}

impl CachedFile {
    fn before_check(&self, piece: ByteRange) -> Option<Before> {
        let state = self.state.lock();
        let object = state.object.filter(|_| state.gone.is_none())?;
        let before = Before {
            object: object.id,
            trims: self.trims.load(Ordering::Acquire),
        };
        state.extents.contains(piece).then_some(before)
    }

    fn is_summed(&self, piece: ByteRange) -> bool {
        let object = self.state.lock().object;
        object.is_none_or(|object| {
            let known = self.known_sums(object.id, piece);
            known.iter().all(Option::is_some)
        })
    }

    /// The object was in this hand all along, and the piece was there: what it has no sums for gets them. Whether it was so.
    fn after_check(
        &self,
        before: &Before,
        piece: ByteRange,
        known: &[Option<Sum>],
        found: &[Sum],
    ) -> bool {
        let mut state = self.state.lock();
        let is_same = state.gone.is_none()
            && state
                .object
                .is_some_and(|object| object.id == before.object)
            && self.trims.load(Ordering::Acquire) == before.trims
            && state.extents.contains(piece);
        if is_same {
            let blocks = blocks_of(piece).zip(known).zip(found);
            for ((block, _), sum) in blocks.filter(|((_, known), _)| known.is_none()) {
                state.sums.insert(block, [*sum]);
            }
        }
        is_same
    }
}

impl Scrubber {
    /// `Err` when the pass is to end.
    pub(super) fn check_file(
        &mut self,
        directory: &Arc<CacheDirectory>,
        key: &FileKey,
        purpose: Purpose,
        asked: u64,
    ) -> Result<(), Woken> {
        let Some(file) = directory.stored_file(key) else {
            return Ok(());
        };
        for piece in in_pieces(&file.extents()) {
            if file.is_gone() {
                break;
            }
            if purpose == Purpose::Sum && file.is_summed(piece) {
                continue;
            }
            self.wait_for_turn(directory, asked)?;
            match self.check_piece(directory, &file, piece) {
                Ok(outcome) => self.take_in(&file, outcome),
                Err(error) if is_cancelled(&error) => return Err(Woken::Stopping),
                Err(error) => {
                    directory.report_disk_error("checking an object", &error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// By the rate, and until others have paused, for a while.
    fn wait_for_turn(&mut self, directory: &CacheDirectory, asked: u64) -> Result<(), Woken> {
        let began = Instant::now();
        self.wait_until(self.pace.next_at(began), asked)?;
        let began = Instant::now();
        let deadline = began + PATIENCE;
        while let Some(again_at) = self.look_for_load() {
            if Instant::now() >= deadline {
                break;
            }
            self.wait_until(again_at.min(deadline), asked)?;
        }
        while directory.has_many_dirty_files() {
            self.cache.stop.notify_all();
            self.wait_until(Instant::now() + CHECKPOINT_PATIENCE, asked)?;
        }
        let mut state = self.cache.scrub.state.lock();
        state.report.paused += began.elapsed();
        Ok(())
    }

    pub(super) fn wait_until(&mut self, until: Instant, asked: u64) -> Result<(), Woken> {
        match self.wait(until, asked) {
            Woken::Due => Ok(()),
            woken => Err(woken),
        }
    }

    /// When to look again; `None` without load.
    fn look_for_load(&mut self) -> Option<Instant> {
        let metrics = &self.cache.metrics;
        let moved = [
            &metrics.hit_bytes,
            &metrics.miss_bytes,
            &metrics.bypass_bytes,
        ];
        let moved = moved.iter().map(|counter| counter.get()).sum();
        let is_busy = self.cache.pieces_in_flight() > 0;
        self.calm.look(moved, is_busy, Instant::now())
    }

    fn check_piece(
        &mut self,
        directory: &CacheDirectory,
        file: &Arc<CachedFile>,
        piece: ByteRange,
    ) -> io::Result<Outcome> {
        // Whoever asks whether anybody has the object open does not mean us.
        let _alone = directory.scrubbing.lock();
        let Some(before) = file.before_check(piece) else {
            return Ok(Outcome::default());
        };
        let known = file.known_sums(before.object, piece);
        let unknown = known.iter().filter(|sum| sum.is_none()).count();
        let Some(object) = file.object_file()? else {
            return Ok(Outcome::default());
        };
        let length = piece.length_bytes() as usize;
        let read = self.read(&*object, piece);
        drop(object);
        self.cache.rest(file);
        let (buffer, read_bytes) = read?;
        self.pace.spend(piece.length_bytes(), Instant::now());
        let bytes = &buffer[..read_bytes.min(length)];
        let found: Vec<Sum> = sums_of(bytes).collect();
        // Shorter than it was: what opens it next finds that out.
        if bytes.len() < length || !file.after_check(&before, piece, &known, &found) {
            return Ok(Outcome::default());
        }
        let summed_bytes = (unknown as u64 * ALIGNMENT_BYTES).min(piece.length_bytes());
        if unknown > 0 && directory.mark_dirty(file) {
            self.cache.stop.notify_all();
        }
        Ok(Outcome {
            checked_bytes: piece.length_bytes() - summed_bytes,
            summed_bytes,
            bad: bad_blocks(bytes, piece, &known, file.size_bytes()),
        })
    }

    /// From the disk itself, where it can be read past the kernel's pages.
    fn read(&self, object: &dyn IoFile, piece: ByteRange) -> io::Result<(Buffer, usize)> {
        let buffer = self
            .buffers
            .try_take()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let length = piece.aligned_out(ALIGNMENT_BYTES).length_bytes() as usize;
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let done = Box::new(move |result: io::Result<usize>, buffer| {
            let _ = sender.send(result.map(|read_bytes| (buffer, read_bytes)));
        });
        object.submit_read(buffer, piece.start, length, true, done);
        receiver
            .recv()
            .unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::ECANCELED)))
    }

    fn take_in(&mut self, file: &Arc<CachedFile>, outcome: Outcome) {
        let mut state = self.cache.scrub.state.lock();
        state.report.checked_bytes += outcome.checked_bytes;
        state.report.summed_bytes += outcome.summed_bytes;
        drop(state);
        if !outcome.bad.is_empty() {
            self.repair(Damage::new(file, outcome.bad));
        }
    }
}
