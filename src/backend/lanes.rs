//! Expendable threads for calls that block as long as the server likes. A lane runs jobs in the order they came, on
//! at most `max_threads` threads that come with the work and go without it. A thread whose job outlives
//! `backend_timeout` is *lost*: it no longer counts, and a fresh one may take its place, until
//! `max_lost_threads` are lost; from then on each further loss leaves the lane one thread fewer. When a
//! lost thread's job returns after all, the thread is found again.

use super::health::Health;
use super::watchdog::Watched;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A thread without work ends after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneSettings {
    /// Threads that run jobs at once; 0 is taken as 1.
    pub max_threads: usize,
    /// Threads that may be lost and replaced.
    pub max_lost_threads: usize,
    /// Jobs that may wait for a thread.
    pub queue_limit: usize,
}

/// The job was not taken, and was dropped: too many wait, or every thread is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many backend calls are waiting")]
pub struct LaneFull;

/// What `status` tells of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneStatus {
    pub name: &'static str,
    pub threads: usize,
    pub threads_lost: usize,
    pub jobs_queued: usize,
}

type Job = Box<dyn FnOnce() + Send>;

pub struct Lane {
    name: &'static str,
    settings: LaneSettings,
    health: Arc<Health>,
    state: Mutex<State>,
    work: Condvar,
    this: Weak<Lane>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that are not lost, and how many of them wait for work.
    threads: usize,
    idle: usize,
    lost: usize,
    running: HashMap<u64, Running>,
    next_job: u64,
}

struct Running {
    started: Instant,
    is_lost: bool,
}

impl Lane {
    /// Starts no thread.
    pub fn new(name: &'static str, settings: LaneSettings, health: Arc<Health>) -> Arc<Lane> {
        let lane = Arc::new_cyclic(|this: &Weak<Lane>| Lane {
            name,
            settings: LaneSettings {
                max_threads: settings.max_threads.max(1),
                ..settings
            },
            health,
            state: Mutex::default(),
            work: Condvar::new(),
            this: this.clone(),
        });
        let member: Weak<Lane> = Arc::downgrade(&lane);
        lane.health.watchdog().watch(member);
        lane
    }

    /// Queues a job. Never blocks.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), LaneFull> {
        let job: Job = Box::new(job);
        let mut state = self.state.lock();
        if state.queue.len() >= self.settings.queue_limit.max(1)
            || self.threads_allowed(&state) == 0
        {
            drop(state);
            // Dropped outside the lock: what it holds may do anything.
            drop(job);
            return Err(LaneFull);
        }
        state.queue.push_back(job);
        self.start_threads(&mut state);
        if state.threads == 0 {
            let job = state.queue.pop_back();
            drop(state);
            drop(job);
            return Err(LaneFull);
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    pub fn status(&self) -> LaneStatus {
        let state = self.state.lock();
        LaneStatus {
            name: self.name,
            threads: state.threads,
            threads_lost: state.lost,
            jobs_queued: state.queue.len(),
        }
    }

    fn threads_allowed(&self, state: &State) -> usize {
        let not_replaced = state.lost.saturating_sub(self.settings.max_lost_threads);
        self.settings.max_threads.saturating_sub(not_replaced)
    }

    /// Starts threads until every queued job has one that is free, as far as allowed.
    fn start_threads(&self, state: &mut State) {
        // Idle threads that were notified still count as idle, and the jobs meant for them as queued.
        while state.queue.len() > state.idle && state.threads < self.threads_allowed(state) {
            let Some(lane) = self.this.upgrade() else {
                return;
            };
            let started = std::thread::Builder::new()
                .name(self.name.into())
                .spawn(move || lane.run());
            if let Err(error) = started {
                tracing::error!(lane = self.name, %error, "no thread for a backend call");
                return;
            }
            state.threads += 1;
            // A fresh thread is about to take a job: it counts like an idle one until it has.
            state.idle += 1;
        }
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            // `idle` counts this thread here, at the start by whoever started it.
            while state.queue.is_empty() {
                let timed_out = self.work.wait_for(&mut state, IDLE_TIMEOUT).timed_out();
                if timed_out && state.queue.is_empty() {
                    state.idle -= 1;
                    state.threads -= 1;
                    return;
                }
            }
            state.idle -= 1;
            let Some(job) = state.queue.pop_front() else {
                continue;
            };
            let id = state.next_job;
            state.next_job += 1;
            let running = Running {
                started: Instant::now(),
                is_lost: false,
            };
            state.running.insert(id, running);
            drop(state);
            self.call(job);
            state = self.state.lock();
            if !self.is_still_wanted(&mut state, id) {
                return;
            }
            state.idle += 1;
        }
    }

    fn call(&self, job: Job) {
        self.health.watchdog().call_began();
        // The panic hook tells where; the thread serves on.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }

    /// Takes a job off the list; whether its thread, perhaps found again, is to go on.
    fn is_still_wanted(&self, state: &mut State, id: u64) -> bool {
        let was_lost = state.running.remove(&id).is_some_and(|job| job.is_lost);
        if was_lost {
            state.lost -= 1;
            state.threads += 1;
            self.health.metrics().threads_lost.add(-1);
            tracing::info!(lane = self.name, "a lost thread came back");
        }
        let is_wanted = state.threads <= self.threads_allowed(state);
        if !is_wanted {
            state.threads -= 1;
        }
        is_wanted
    }
}

impl Watched for Lane {
    fn sweep(&self, now: Instant) -> bool {
        let timeout = self.health.settings().backend_timeout;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut lost = 0;
        for job in state.running.values_mut() {
            if !job.is_lost && now.saturating_duration_since(job.started) >= timeout {
                job.is_lost = true;
                lost += 1;
            }
        }
        if lost > 0 {
            state.threads -= lost;
            state.lost += lost;
            self.health.metrics().timeouts.add(lost as u64);
            self.health.metrics().threads_lost.add(lost as i64);
            tracing::warn!(
                lane = self.name,
                lost,
                "threads lost to a backend that does not answer"
            );
            self.start_threads(state);
        }
        !state.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::health::HealthSettings;
    use crate::metrics::BackendMetrics;
    use crossbeam_channel::{Sender, bounded, unbounded};

    const SOON: Duration = Duration::from_secs(10);

    fn lane(max_threads: usize, max_lost_threads: usize, queue_limit: usize) -> Arc<Lane> {
        let settings = HealthSettings {
            revalidate_timeout: Duration::from_millis(100),
            backend_timeout: Duration::from_millis(250),
        };
        let health = Health::new(settings, Arc::new(BackendMetrics::default()));
        let settings = LaneSettings {
            max_threads,
            max_lost_threads,
            queue_limit,
        };
        Lane::new("test", settings, health)
    }

    /// Submits a job that hangs until the sender answered is dropped, and waits until it runs.
    fn hang(lane: &Lane) -> Sender<()> {
        let (release, hung) = bounded::<()>(0);
        let (running, runs) = bounded(1);
        lane.submit(move || {
            running.send(()).unwrap();
            let _ = hung.recv();
        })
        .unwrap();
        runs.recv_timeout(SOON).unwrap();
        release
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn one_thread_runs_jobs_in_order() {
        let lane = lane(1, 0, 1000);
        let (sender, receiver) = unbounded();
        for number in 0..500 {
            let sender = sender.clone();
            lane.submit(move || sender.send(number).unwrap()).unwrap();
        }
        let seen: Vec<_> = (0..500)
            .map(|_| receiver.recv_timeout(SOON).unwrap())
            .collect();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        assert_eq!(lane.status().threads, 1);
    }

    #[test]
    fn as_many_jobs_run_at_once_as_there_may_be_threads() {
        let lane = lane(3, 0, 10);
        let releases: Vec<_> = (0..3).map(|_| hang(&lane)).collect();
        let (sender, receiver) = bounded(1);
        lane.submit(move || sender.send(()).unwrap()).unwrap();
        assert_eq!(lane.status().threads, 3);
        assert_eq!(lane.status().jobs_queued, 1);
        drop(releases);
        receiver.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn a_hung_call_does_not_stop_the_others_and_its_thread_is_found_again() {
        let lane = lane(1, 1, 10);
        let release = hang(&lane);
        let (sender, receiver) = bounded(1);
        lane.submit(move || sender.send(()).unwrap()).unwrap();
        receiver.recv_timeout(SOON).unwrap();
        assert_eq!(lane.status().threads_lost, 1);
        assert_eq!(lane.health.metrics().threads_lost.get(), 1);
        assert_eq!(lane.health.metrics().timeouts.get(), 1);
        drop(release);
        eventually("the lost thread is found", || {
            let status = lane.status();
            status.threads_lost == 0 && status.threads == 1
        });
        assert_eq!(lane.health.metrics().threads_lost.get(), 0);
    }

    #[test]
    fn a_lane_whose_threads_are_all_lost_is_full_until_one_comes_back() {
        let lane = lane(1, 1, 10);
        let first = hang(&lane);
        eventually("the first is lost", || lane.status().threads_lost == 1);
        let second = hang(&lane);
        eventually("the second is lost", || lane.status().threads_lost == 2);
        assert_eq!(lane.submit(|| {}), Err(LaneFull));
        drop(first);
        eventually("one is found", || lane.status().threads_lost == 1);
        drop(hang(&lane));
        drop(second);
        eventually("both are found", || lane.status().threads_lost == 0);
        assert!(lane.status().threads <= 1);
    }

    #[test]
    fn submitting_never_waits_and_a_full_queue_says_so() {
        let lane = lane(1, 0, 2);
        let release = hang(&lane);
        assert_eq!(lane.submit(|| {}), Ok(()));
        assert_eq!(lane.submit(|| {}), Ok(()));
        assert_eq!(lane.submit(|| {}), Err(LaneFull));
        drop(release);
        eventually("the queue is worked off", || lane.status().jobs_queued == 0);
        assert_eq!(lane.submit(|| {}), Ok(()));
    }

    #[test]
    fn a_panicking_job_does_not_take_its_thread_along() {
        let lane = lane(1, 0, 10);
        lane.submit(|| std::panic::resume_unwind(Box::new("on purpose")))
            .unwrap();
        let (sender, receiver) = bounded(1);
        lane.submit(move || sender.send(()).unwrap()).unwrap();
        receiver.recv_timeout(SOON).unwrap();
        assert_eq!(lane.status().threads, 1);
    }
}
