//! What the numbers were some time ago, for the status page: a sample every ten seconds, for an hour.

use super::http::StatusSource;
use crate::clock::wall_clock;
use crate::daemon::status::{LatencyStatus, Status};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(10);
const SAMPLES_MAX: usize = 360;

/// Counters as they stood, since the start of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    at_seconds: i64,
    hit_bytes: u64,
    miss_bytes: u64,
    bypass_bytes: u64,
    passthrough_opens: u64,
    backend_read_bytes: u64,
    backend_written_bytes: u64,
    cache_used_bytes: u64,
    dirty_bytes: u64,
    latencies: Vec<LatencySample>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct LatencySample {
    of: String,
    kind: String,
    count: u64,
    total_us: u64,
}

impl Sample {
    pub fn of(status: &Status) -> Self {
        let latency = |latency: &LatencyStatus| LatencySample {
            of: latency.of.clone(),
            kind: latency.kind.clone(),
            count: latency.buckets.iter().map(|bucket| bucket.count).sum(),
            total_us: latency.total_us,
        };
        Self {
            at_seconds: wall_clock().seconds,
            hit_bytes: status.cache.hit_bytes,
            miss_bytes: status.cache.miss_bytes,
            bypass_bytes: status.cache.bypass_bytes,
            passthrough_opens: status.cache.passthrough_opens,
            backend_read_bytes: status.backend.bytes_read,
            backend_written_bytes: status.backend.bytes_written,
            cache_used_bytes: status.cache.bytes_used,
            dirty_bytes: status.journal.dirty_bytes,
            latencies: status.latencies.iter().map(latency).collect(),
        }
    }
}

/// Samples are taken until it is dropped.
#[derive(Debug)]
pub struct History {
    samples: Arc<Mutex<VecDeque<Sample>>>,
    /// Closing it ends the thread.
    _stop: Sender<()>,
}

impl History {
    pub fn start(status: StatusSource) -> io::Result<Self> {
        let first = Sample::of(&status());
        let samples = Arc::new(Mutex::new(VecDeque::from([first])));
        let (stop, stopped) = bounded(0);
        let kept = samples.clone();
        std::thread::Builder::new()
            .name("metrics-history".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    let sample = Sample::of(&status());
                    let mut samples = kept.lock();
                    if samples.len() == SAMPLES_MAX {
                        samples.pop_front();
                    }
                    samples.push_back(sample);
                }
            })?;
        Ok(Self {
            samples,
            _stop: stop,
        })
    }

    /// The oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().iter().cloned().collect()
    }
}
