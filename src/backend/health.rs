//! Whether the backend answers. Every call is noted with its start; from what runs, what was answered last, and
//! errors that mean "server gone" follows the state:
//!
//! - `Away`: a prompt call has waited for `revalidate_timeout` (at least 100 ms) while no call was answered since it
//!   began; or the last thing heard was such an error. Ends with the next answer of any call.
//! - `Slow`: a call has waited that long, but others are answered, or it only moves data, which a thin link may
//!   take long over. The probe finds out which it is.
//! - `Reachable`: everything else.
//!
//! Only what the server itself said is an answer: work on this machine (closing, what the kernel had in its
//! caches) must not end an absence.

use super::Backend;
use super::probe;
use super::watchdog::{Watchdog, Watched};
use crate::metrics::BackendMetrics;
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A server is not called away for a delay that the machine's own scheduling can cause.
const AWAY_AFTER_MIN: Duration = Duration::from_millis(100);
const LATENCY_MAX_US: u64 = 3_600_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthSettings {
    /// How long what is known may wait for the backend; the backend counts as away after that.
    pub revalidate_timeout: Duration,
    /// After this long a call's thread counts as lost.
    pub backend_timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HealthState {
    Reachable,
    Slow,
    Away,
}

/// How long calls took, over the life of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    pub calls: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// What the end of a call tells, and how long it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallKind {
    /// The server itself has to answer, and soon.
    Prompt,
    /// The server should answer soon, but this kernel's caches may do so in its place.
    Cacheable,
    /// As prompt, but a refusal may be this kernel's: only what was done is an answer of the server.
    Change,
    /// Moves file data: how long it takes is a matter of the link.
    Transfer,
}

/// What an error says of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is there: no error.
    Done,
    /// It is there: the error is about a file.
    Answered,
    /// EIO: a soft mount's time-out, if it came late; else an error of that file.
    Doubtful,
    Gone,
}

pub struct Health {
    settings: HealthSettings,
    metrics: Arc<BackendMetrics>,
    calls: Mutex<Calls>,
    not_reachable: Condvar,
    watchdog: Watchdog,
    this: Weak<Health>,
}

struct Calls {
    /// The calls that run, in the order of their starts.
    running: BTreeMap<u64, Running>,
    next: u64,
    last_answer: Option<Instant>,
    /// The error that says the server is gone, if nothing was answered since.
    gone: Option<String>,
    state: HealthState,
    since: Instant,
    /// How long an absence had lasted already when this life began.
    absent_before: Duration,
    latency: Histogram<u64>,
}

#[derive(Clone, Copy)]
struct Running {
    started: Instant,
    kind: CallKind,
}

/// One call under way; tell its end with [`Call::end`], on any thread. Dropped without, it counts as not
/// answered.
pub struct Call {
    health: Arc<Health>,
    id: u64,
    running: Running,
    /// The error that says the server is gone, where one did.
    verdict: Option<(Verdict, String)>,
}

impl Health {
    /// Starts no thread.
    pub fn new(settings: HealthSettings, metrics: Arc<BackendMetrics>) -> Arc<Health> {
        let health = Arc::new_cyclic(|this: &Weak<Health>| Health {
            settings,
            metrics,
            calls: Mutex::new(Calls {
                running: BTreeMap::new(),
                next: 0,
                last_answer: None,
                gone: None,
                state: HealthState::Reachable,
                since: Instant::now(),
                absent_before: Duration::ZERO,
                latency: Histogram::new_with_bounds(1, LATENCY_MAX_US, 2)
                    .expect("1 us to an hour with two digits are valid bounds"),
            }),
            not_reachable: Condvar::new(),
            watchdog: Watchdog::new(),
            this: this.clone(),
        });
        let member: Weak<Health> = Arc::downgrade(&health);
        health.watchdog.watch(member);
        health
    }

    pub fn settings(&self) -> HealthSettings {
        self.settings
    }

    pub fn metrics(&self) -> &BackendMetrics {
        &self.metrics
    }

    pub(super) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Notes that a call begins.
    pub fn begin(&self, kind: CallKind) -> Call {
        let call = {
            let mut calls = self.calls.lock();
            // Taken under the lock, so that starts are in the order of ids.
            let running = Running {
                started: Instant::now(),
                kind,
            };
            Call {
                health: self.this.upgrade().expect("alive while borrowed"),
                id: calls.begin(running),
                running,
                verdict: None,
            }
        };
        self.watchdog.call_began();
        call
    }

    /// Makes a call and notes how it went.
    pub fn observe<T>(
        &self,
        kind: CallKind,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let call = self.begin(kind);
        let result = make();
        call.end(result.as_ref().err());
        result
    }

    pub fn state(&self) -> HealthState {
        let mut calls = self.calls.lock();
        self.refresh(&mut calls, Instant::now());
        calls.state
    }

    pub fn is_away(&self) -> bool {
        self.state() == HealthState::Away
    }

    /// When the backend will be away if nothing is answered until then.
    pub fn away_at(&self) -> Option<Instant> {
        let calls = self.calls.lock();
        let oldest = calls.oldest_unanswered()?;
        Some(oldest.started + self.away_after())
    }

    /// How long an absent backend may still be waited for: `backend_timeout` from when it fell silent. Whoever comes
    /// later need not find out anew. `None` while it is not away.
    pub fn patience_left(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut calls = self.calls.lock();
        self.refresh(&mut calls, now);
        if calls.state != HealthState::Away {
            return None;
        }
        let silent_since = calls
            .oldest_unanswered()
            .map_or(calls.since, |call| call.started.min(calls.since));
        Some((silent_since + self.settings.backend_timeout).saturating_duration_since(now))
    }

    /// The backend was found away before any call could be made, as it had been for `absent_before` in an earlier life.
    pub fn begin_away(&self, reason: String, absent_before: Duration) {
        let mut calls = self.calls.lock();
        calls.gone = Some(reason);
        calls.absent_before = absent_before;
        self.refresh(&mut calls, Instant::now());
    }

    /// Why a backend that is away is so, as it turned out since.
    pub fn explain_absence(&self, reason: String) {
        if let Some(gone) = &mut self.calls.lock().gone {
            *gone = reason;
        }
    }

    /// How long the backend has been away, over restarts of the daemon; `None` while it is there, be it slow.
    pub fn absent_for(&self) -> Option<Duration> {
        let mut calls = self.calls.lock();
        self.refresh(&mut calls, Instant::now());
        let is_away = calls.state == HealthState::Away;
        is_away.then(|| calls.absent_before + calls.since.elapsed())
    }

    /// Why the state is not `Reachable`, for the operator.
    pub fn reason(&self) -> Option<String> {
        let now = Instant::now();
        let mut calls = self.calls.lock();
        self.refresh(&mut calls, now);
        calls.reason(now)
    }

    pub fn latency(&self) -> Latency {
        let calls = self.calls.lock();
        let at = |quantile| Duration::from_micros(calls.latency.value_at_quantile(quantile));
        match calls.latency.len() {
            0 => Latency::default(),
            count => Latency {
                calls: count,
                p50: at(0.5),
                p99: at(0.99),
                max: Duration::from_micros(calls.latency.max()),
            },
        }
    }

    /// While not reachable, asks the root's attributes every second on a thread of its own, so that an absence behind
    /// slow transfers, and a return, are noticed without anybody else asking. The thread ends with `self`.
    pub fn start_probe(&self, backend: Arc<dyn Backend>) -> io::Result<()> {
        probe::start(self.this.clone(), backend)
    }

    /// Waits until the backend is away or slow, at most `timeout`. Whether it is.
    pub(super) fn wait_until_not_reachable(&self, timeout: Duration) -> bool {
        let mut calls = self.calls.lock();
        if calls.state == HealthState::Reachable {
            self.not_reachable.wait_for(&mut calls, timeout);
        }
        calls.state != HealthState::Reachable
    }

    fn away_after(&self) -> Duration {
        self.settings.revalidate_timeout.max(AWAY_AFTER_MIN)
    }

    fn refresh(&self, calls: &mut Calls, now: Instant) {
        let state = calls.judge(now, self.away_after());
        if state == calls.state {
            return;
        }
        let reason = calls.reason(now).unwrap_or_default();
        match state {
            HealthState::Reachable => tracing::info!("the backend answers again"),
            HealthState::Slow => tracing::warn!(reason, "the backend is slow"),
            HealthState::Away => tracing::warn!(reason, "the backend is away"),
        }
        if calls.state == HealthState::Away {
            calls.absent_before = Duration::ZERO;
        }
        calls.state = state;
        calls.since = now;
        if state != HealthState::Reachable {
            self.not_reachable.notify_all();
        }
    }

    fn ended(&self, call: &mut Call) {
        let now = Instant::now();
        let Running { started, kind } = call.running;
        let duration = now.saturating_duration_since(started);
        let mut calls = self.calls.lock();
        calls.running.remove(&call.id);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(LATENCY_MAX_US);
        calls.latency.saturating_record(micros);
        match call.verdict.take() {
            Some((Verdict::Done, _)) if kind != CallKind::Cacheable => calls.answered(now),
            Some((Verdict::Answered, _))
                if !matches!(kind, CallKind::Cacheable | CallKind::Change) =>
            {
                calls.answered(now);
            }
            Some((Verdict::Gone, error)) => calls.gone = Some(error),
            Some((Verdict::Doubtful, error)) if duration >= self.away_after() => {
                calls.gone = Some(error);
            }
            Some((Verdict::Done | Verdict::Answered | Verdict::Doubtful, _)) | None => {}
        }
        self.refresh(&mut calls, now);
    }
}

impl Watched for Health {
    fn sweep(&self, now: Instant) -> bool {
        let mut calls = self.calls.lock();
        self.refresh(&mut calls, now);
        !calls.running.is_empty()
    }
}

impl Call {
    /// The call returned, with this error if it failed. Counts as an answer of the server, whatever it says, unless
    /// it says that the server is gone.
    pub fn end(mut self, error: Option<&io::Error>) {
        self.verdict = Some(match error {
            None => (Verdict::Done, String::new()),
            Some(error) => (judge(error), error.to_string()),
        });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let health = self.health.clone();
        health.ended(self);
    }
}

impl Calls {
    fn begin(&mut self, running: Running) -> u64 {
        let id = self.next;
        self.next += 1;
        self.running.insert(id, running);
        id
    }

    fn answered(&mut self, now: Instant) {
        self.last_answer = Some(now);
        self.gone = None;
    }

    fn judge(&self, now: Instant, away_after: Duration) -> HealthState {
        let is_overdue = |call: &Running| now.saturating_duration_since(call.started) >= away_after;
        let oldest = self.running.values().next();
        if self.gone.is_some() || self.oldest_unanswered().is_some_and(is_overdue) {
            HealthState::Away
        } else if oldest.is_some_and(is_overdue) {
            HealthState::Slow
        } else {
            HealthState::Reachable
        }
    }

    /// The oldest of the calls that began after the last answer and should not take long.
    fn oldest_unanswered(&self) -> Option<&Running> {
        self.running.values().find(|call| {
            call.kind != CallKind::Transfer
                && self.last_answer.is_none_or(|answer| call.started > answer)
        })
    }

    fn reason(&self, now: Instant) -> Option<String> {
        if self.state == HealthState::Reachable && self.gone.is_none() && self.running.is_empty() {
            return None;
        }
        if let Some(error) = &self.gone {
            return Some(error.clone());
        }
        let oldest = self.running.values().next()?;
        let waited = now.saturating_duration_since(oldest.started);
        Some(format!(
            "{} calls run, the oldest for {:.1} s",
            self.running.len(),
            waited.as_secs_f64()
        ))
    }
}

/// Whether an error says that the server, rather than a file, is out of reach.
pub fn says_away(error: &io::Error) -> bool {
    judge(error) != Verdict::Answered || error.raw_os_error() == Some(libc::ESTALE)
}

fn judge(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(
            libc::ETIMEDOUT
            | libc::ENOTCONN
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ESHUTDOWN,
        ) => Verdict::Gone,
        Some(libc::EIO) => Verdict::Doubtful,
        _ => Verdict::Answered,
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
