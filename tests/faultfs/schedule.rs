//! Work for now on a pool of threads, and work for later on one timer thread, so that calls overlap
//! however slow the simulated server is.

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

pub type Job = Box<dyn FnOnce() + Send>;

/// Enough that local disk reads under way never make others wait noticeably.
const POOL_THREADS: usize = 32;

#[derive(Clone)]
pub struct Scheduler {
    pool: Sender<Job>,
    timer: Arc<Timer>,
}

#[derive(Default)]
struct Timer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: BinaryHeap<Timed>,
    next_sequence: u64,
}

struct Timed {
    due: Instant,
    sequence: u64,
    job: Job,
}

impl Ord for Timed {
    /// The earliest is the greatest, as `BinaryHeap` gives out the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

impl Scheduler {
    /// Starts the threads; they end with the process.
    pub fn start() -> std::io::Result<Self> {
        let (pool, jobs) = crossbeam_channel::unbounded::<Job>();
        for index in 0..POOL_THREADS {
            let jobs = jobs.clone();
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || jobs.iter().for_each(|job| job()))?;
        }
        let timer = Arc::new(Timer::default());
        let running = timer.clone();
        thread::Builder::new()
            .name("timer".into())
            .spawn(move || running.run())?;
        Ok(Self { pool, timer })
    }

    /// On a thread of the pool, as soon as one is free.
    pub fn now(&self, job: Job) {
        // The receivers live as long as the process.
        let _ = self.pool.send(job);
    }

    /// On the timer thread at `due`, or here when that has passed: for replies, which do not wait.
    pub fn reply_at(&self, due: Instant, job: Job) {
        if due <= Instant::now() {
            job();
        } else {
            self.timer.push(due, job);
        }
    }

    /// On a thread of the pool, not before `due`.
    pub fn at(&self, due: Instant, job: Job) {
        let pool = self.pool.clone();
        self.timer.push(
            due,
            Box::new(move || {
                let _ = pool.send(job);
            }),
        );
    }
}

impl Timer {
    fn push(&self, due: Instant, job: Job) {
        let mut queue = self.queue.lock();
        queue.next_sequence += 1;
        let sequence = queue.next_sequence;
        queue.jobs.push(Timed { due, sequence, job });
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            match queue.jobs.peek().map(|first| first.due) {
                None => self.changed.wait(&mut queue),
                Some(due) if due > Instant::now() => {
                    self.changed.wait_until(&mut queue, due);
                }
                Some(_) => {
                    if let Some(first) = queue.jobs.pop() {
                        parking_lot::MutexGuard::unlocked(&mut queue, first.job);
                    }
                }
            }
        }
    }
}
