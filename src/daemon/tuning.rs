//! Measures what fills bring, asks the control loop what to make of it, sets that, and tells of it.

use crate::backend::health::Health;
use crate::cache::{Cache, FillCounts};
use crate::config::Settings;
use crate::fs::FileSystem;
use crate::metrics::CacheMetrics;
use crate::tuning::{Bounds, Decision, Sample, Tuner, Values};
use crate::types::bytes_in_words as bytes;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Decisions that `status` tells.
const DECISIONS_TOLD: usize = 16;

/// What is measured, and what is set.
pub(super) struct Tuned {
    pub cache: Arc<Cache>,
    pub filesystem: Arc<FileSystem>,
    pub metrics: Arc<CacheMetrics>,
    pub health: Arc<Health>,
}

pub struct Tuning {
    tuned: Tuned,
    is_on: bool,
    state: Mutex<State>,
    stop: Condvar,
}

struct State {
    values: Values,
    decisions: u64,
    last: VecDeque<(Instant, Decision)>,
    is_stopping: bool,
}

/// All that was counted up to a moment.
#[derive(Clone, Copy)]
struct Counted {
    at: Instant,
    fills: FillCounts,
    wasted_bytes: u64,
    bounded_windows: u64,
}

impl Tuned {
    fn set(&self, values: Values) {
        let pieces_in_flight = values.pieces_in_flight as usize;
        self.cache
            .set_fill_limits(pieces_in_flight, values.piece_bytes);
        self.filesystem.set_readahead_bytes(values.window_bytes);
    }
}

impl Tuning {
    /// Starts the thread, with `adaptive=on`.
    pub(super) fn start(settings: &Settings, tuned: Tuned) -> io::Result<Arc<Self>> {
        let bounds = Bounds {
            pieces_in_flight_max: settings.max_concurrent_fills as u64,
            window_bytes_max: settings.readahead_max_bytes,
        };
        let tuner = Tuner::new(bounds);
        let values = match settings.adaptive {
            true => tuner.values(),
            false => bounds.values(),
        };
        tuned.set(values);
        let tuning = Arc::new(Self {
            tuned,
            is_on: settings.adaptive,
            state: Mutex::new(State {
                values,
                decisions: 0,
                last: VecDeque::new(),
                is_stopping: false,
            }),
            stop: Condvar::new(),
        });
        if settings.adaptive {
            let this = tuning.clone();
            std::thread::Builder::new()
                .name("tuning".to_owned())
                .spawn(move || this.tune(tuner))?;
        }
        Ok(tuning)
    }

    pub fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.stop.notify_all();
    }

    fn tune(&self, mut tuner: Tuner) {
        let mut before = self.counted();
        while self.sleep() {
            let now = self.counted();
            let sample = now.since(&before);
            let was_busy = before.fills.in_flight > 0 || now.fills.pieces > before.fills.pieces;
            before = now;
            // Time in which nothing is wanted, or nobody answers, says nothing of how fills are made.
            if !was_busy || self.tuned.health.is_away() {
                continue;
            }
            if let Some(decision) = tuner.on_sample(&sample) {
                self.apply(tuner.values(), decision);
            }
        }
    }

    /// False when it is time to end.
    fn sleep(&self) -> bool {
        let mut state = self.state.lock();
        if !state.is_stopping {
            self.stop.wait_for(&mut state, SAMPLE_INTERVAL);
        }
        !state.is_stopping
    }

    fn counted(&self) -> Counted {
        let metrics = &self.tuned.metrics;
        Counted {
            at: Instant::now(),
            fills: self.tuned.cache.fill_counts(),
            wasted_bytes: metrics.ahead_wasted_bytes.get(),
            bounded_windows: metrics.bounded_windows.get(),
        }
    }

    fn apply(&self, values: Values, decision: Decision) {
        tracing::info!("tuning: {decision}");
        self.tuned.set(values);
        let mut state = self.state.lock();
        state.values = values;
        state.decisions += 1;
        state.last.truncate(DECISIONS_TOLD - 1);
        state.last.push_front((Instant::now(), decision));
    }

    pub fn status(&self) -> TuningStatus {
        let state = self.state.lock();
        let told = |(at, decision): &(Instant, Decision)| DecisionStatus {
            seconds_ago: at.elapsed().as_secs(),
            decision: decision.to_string(),
        };
        TuningStatus {
            adaptive: self.is_on,
            pieces_in_flight: state.values.pieces_in_flight,
            piece_bytes: state.values.piece_bytes,
            readahead_bytes: state.values.window_bytes,
            decisions: state.decisions,
            last: state.last.iter().map(told).collect(),
        }
    }
}

impl Counted {
    fn since(&self, before: &Self) -> Sample {
        let (now, then) = (&self.fills, &before.fills);
        Sample {
            seconds: (self.at - before.at).as_secs_f64(),
            pieces: now.pieces - then.pieces,
            bytes: now.bytes - then.bytes,
            demand_pieces: now.demand_pieces - then.demand_pieces,
            full_pieces: now.full_pieces - then.full_pieces,
            wasted_bytes: self.wasted_bytes - before.wasted_bytes,
            crowded_pieces: now.crowded - then.crowded,
            bounded_windows: self.bounded_windows - before.bounded_windows,
            bandwidth_bytes_per_second: now.bytes_per_second,
        }
    }
}

/// How files are fetched now, and how that came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TuningStatus {
    /// The option.
    pub adaptive: bool,
    /// Pieces on their way at once at most, and how large they are cut.
    pub pieces_in_flight: u64,
    pub piece_bytes: u64,
    /// How far a stream is fetched ahead of at most.
    pub readahead_bytes: u64,
    /// Since the start.
    pub decisions: u64,
    /// The newest first.
    pub last: Vec<DecisionStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionStatus {
    pub seconds_ago: u64,
    pub decision: String,
}

impl TuningStatus {
    pub(super) fn in_words(&self) -> String {
        let last = match (self.adaptive, self.last.first()) {
            (false, _) => "fixed".to_owned(),
            (true, None) => "no decisions yet".to_owned(),
            (true, Some(last)) => format!(
                "{} decisions, {} s ago: {}",
                self.decisions, last.seconds_ago, last.decision
            ),
        };
        format!(
            "  tuning    {} pieces at once, of {}, readahead up to {}; {last}",
            self.pieces_in_flight,
            bytes(self.piece_bytes),
            bytes(self.readahead_bytes)
        )
    }
}
