//! Which pieces go next, over all files: demand in the order it came, then readahead, of one file after the other, then
//! warm-up in the same way.

use super::Cache;
use super::fetch::FetchError;
use super::file::CachedFile;
use super::fill_limits::FillCounts;
use super::pacing::{Departure, Pacing};
use super::pieces::Priority;
use super::record::occupied;
use crate::backend::health::CallKind;
use crate::io::FillError;
use crate::types::ByteRange;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Queues of pieces by file and start. Bounded in flight, so that the disk is not flooded and a hung
/// server holds no more than this many chains.
#[derive(Default)]
pub(super) struct Scheduler {
    in_flight: usize,
    demand: VecDeque<(Arc<CachedFile>, u64)>,
    ahead: Turns,
    warm: Turns,
    pacing: Pacing,
    counts: FillCounts,
}

/// A piece whose turn it is.
struct Next {
    file: Arc<CachedFile>,
    start: u64,
    is_demand: bool,
}

/// A piece on its way.
struct UnderWay {
    range: ByteRange,
    departure: Departure,
    is_demand: bool,
    is_full: bool,
}

/// Pieces by file: a file with a large window does not keep the others waiting.
#[derive(Default)]
struct Turns(VecDeque<(Arc<CachedFile>, VecDeque<u64>)>);

impl Turns {
    fn push(&mut self, file: &Arc<CachedFile>, start: u64) {
        match self
            .0
            .iter_mut()
            .find(|(queued, _)| Arc::ptr_eq(queued, file))
        {
            Some((_, starts)) => starts.push_back(start),
            None => self.0.push_back((file.clone(), [start].into())),
        }
    }

    fn pop(&mut self) -> Option<(Arc<CachedFile>, u64)> {
        let (file, mut starts) = self.0.pop_front()?;
        let start = starts.pop_front()?;
        if !starts.is_empty() {
            self.0.push_back((file.clone(), starts));
        }
        Some((file, start))
    }
}

impl Scheduler {
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn counts(&self) -> FillCounts {
        FillCounts {
            in_flight: self.in_flight as u64,
            bytes_per_second: self.pacing.bytes_per_second(),
            ..self.counts
        }
    }

    /// The next piece, counted as in flight, while there is room for it.
    fn take(&mut self, in_flight_max: usize) -> Option<Next> {
        if self.in_flight >= in_flight_max {
            self.counts.crowded += u64::from(self.has_ready());
            return None;
        }
        let demanded = self.demand.pop_front();
        let is_demand = demanded.is_some();
        let (file, start) = match demanded {
            None if self.pacing.has_room() => self.ahead.pop().or_else(|| self.warm.pop())?,
            demanded => demanded?,
        };
        self.in_flight += 1;
        Some(Next {
            file,
            start,
            is_demand,
        })
    }

    fn has_ready(&self) -> bool {
        let others = !self.ahead.0.is_empty() || !self.warm.0.is_empty();
        !self.demand.is_empty() || others && self.pacing.has_room()
    }

    fn arrive(&mut self, under_way: &UnderWay, is_whole: bool) {
        self.in_flight -= 1;
        let now = Instant::now();
        self.pacing.arrive(under_way.departure, is_whole, now);
        if is_whole {
            self.counts.pieces += 1;
            self.counts.bytes += under_way.range.length_bytes();
            self.counts.demand_pieces += u64::from(under_way.is_demand);
            self.counts.full_pieces += u64::from(under_way.is_full);
        }
    }
}

impl Cache {
    pub(super) fn schedule(self: &Arc<Self>, file: &Arc<CachedFile>, queued: Vec<(u64, Priority)>) {
        let mut scheduler = self.scheduler.lock();
        for (start, priority) in queued {
            match priority {
                Priority::Demand => scheduler.demand.push_back((file.clone(), start)),
                Priority::Ahead => scheduler.ahead.push(file, start),
                Priority::Warm => scheduler.warm.push(file, start),
            }
        }
        drop(scheduler);
        self.pump();
    }

    /// Starts queued pieces while there is room in flight. Any thread; does not block.
    fn pump(self: &Arc<Self>) {
        loop {
            let in_flight_max = self.fill_limits.pieces_in_flight();
            let next = self.scheduler.lock().take(in_flight_max);
            let Some(next) = next else {
                return;
            };
            if !self.start_piece(&next) {
                self.scheduler.lock().in_flight -= 1;
            }
        }
    }

    /// False when there is nothing to start: another queue entry began the piece, or it cannot begin.
    fn start_piece(self: &Arc<Self>, next: &Next) -> bool {
        let (file, start) = (&next.file, next.start);
        let Some(directory) = &file.directory else {
            return false;
        };
        let mut state = file.state.lock();
        if let Some(gone) = state.gone {
            // Its object may be somebody else's by now, who writes to it.
            drop(state);
            self.fail_fetch(file, &FetchError::of_gone(gone));
            return false;
        }
        let begun = state.pieces.begin(start);
        drop(state);
        let Some((range, source)) = begun else {
            return false;
        };
        let Some(object) = file.open_object_file() else {
            file.state.lock().pieces.put_back(start);
            self.open_object_first(file);
            return false;
        };
        if !directory.reserve(occupied(range)) {
            self.reclaim.wake();
            self.fail_piece(file, range, &FetchError::Bypass);
            return false;
        }
        directory.metrics.pieces_in_flight.add(1);
        let departure = self
            .scheduler
            .lock()
            .pacing
            .depart(range.length_bytes(), Instant::now());
        let under_way = UnderWay {
            range,
            departure,
            is_demand: next.is_demand,
            is_full: range.length_bytes() >= self.fill_limits.piece_bytes(),
        };
        let source = match self.settings.scrub.checksums.at_fill() {
            true => file.summed(source.source()),
            false => source.source(),
        };
        let (cache, filled) = (self.clone(), file.clone());
        let call = self.health.begin(CallKind::Transfer);
        object.submit_fill(
            source,
            range.start,
            range.length_bytes(),
            Box::new(move |result| {
                match &result {
                    Ok(_) => call.end(None),
                    Err(FillError::Source(error)) => call.end(Some(error)),
                    // Says nothing about the backend.
                    Err(FillError::Destination(_)) => drop(call),
                }
                cache.piece_ended(&filled, &under_way, result);
            }),
        );
        true
    }

    /// The object's slot is being opened or closed by another thread: take the long way.
    fn open_object_first(self: &Arc<Self>, file: &Arc<CachedFile>) {
        let (cache, again) = (self.clone(), file.clone());
        let submitted = self
            .demand_lane
            .submit(move || match again.ensure_object() {
                Ok(Some(_)) => cache.drive(&again),
                Ok(None) => cache.fail_fetch(&again, &FetchError::Bypass),
                Err(error) => {
                    if let Some(directory) = &again.directory {
                        directory.report_disk_error("opening an object", &error);
                    }
                    cache.fail_fetch(&again, &FetchError::Bypass);
                }
            });
        if submitted.is_err() {
            self.fail_fetch(file, &FetchError::Overloaded);
        }
    }

    fn piece_ended(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        under_way: &UnderWay,
        result: Result<u64, FillError>,
    ) {
        self.scheduler.lock().arrive(under_way, result.is_ok());
        let range = under_way.range;
        let Some(directory) = &file.directory else {
            return;
        };
        directory.metrics.pieces_in_flight.add(-1);
        match result {
            Ok(copied) if copied == range.length_bytes() => {
                self.backend_metrics.bytes_read.add(copied);
                self.piece_landed(file, range);
            }
            Ok(copied) => {
                // The source is shorter than its version says: another version.
                self.backend_metrics.bytes_read.add(copied);
                directory.space.cancel(occupied(range));
                file.state.lock().pieces.remove(range);
                self.discard(file);
            }
            Err(FillError::Source(error)) => {
                directory.space.cancel(occupied(range));
                self.fail_piece(file, range, &FetchError::of_backend(error));
            }
            Err(FillError::Destination(error)) => {
                directory.space.cancel(occupied(range));
                directory.report_disk_error("filling an object", &error);
                file.state.lock().bypass = true;
                self.reclaim.wake();
                self.fail_piece(file, range, &FetchError::Bypass);
            }
        }
        self.pump();
    }
}
