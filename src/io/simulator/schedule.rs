//! When submitted reads and fills end: on a thread of the simulation, or one by one on the thread of
//! the test, in an order rolled from the seed.

use super::dice::Dice;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Performs an operation and calls its completion.
pub(super) type Task = Box<dyn FnOnce() + Send>;

pub(super) struct Schedule {
    deterministic: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    waiting: Vec<Waiting>,
    running: usize,
    dice: Dice,
    closed: bool,
    /// What a completion on one of our threads panicked with, for the thread of the test.
    panic: Option<Box<dyn Any + Send>>,
}

struct Waiting {
    /// With threads: not before this.
    due: Instant,
    /// Deterministic: how many turns others go first.
    turns: u64,
    /// Reads a source that may block: gets a thread of its own, so that it holds up nobody.
    may_block: bool,
    task: Task,
}

impl Schedule {
    pub fn new(seed: u64, deterministic: bool) -> Arc<Self> {
        let schedule = Arc::new(Self {
            deterministic,
            queue: Mutex::new(Queue {
                waiting: Vec::new(),
                running: 0,
                dice: Dice::new(seed),
                closed: false,
                panic: None,
            }),
            changed: Condvar::new(),
        });
        if !deterministic {
            let worker = schedule.clone();
            std::thread::Builder::new()
                .name("simulated-disk".to_owned())
                .spawn(move || worker.work())
                .expect("the system has a thread to spare for the simulation");
        }
        schedule
    }

    /// Queues without blocking. `delay_max` is zero where no delay is planned.
    pub fn submit(&self, task: Task, delay_max: Duration, may_block: bool) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return task();
        }
        let delayed = !delay_max.is_zero();
        let delay_us = queue.dice.below(delay_max.as_micros() as u64 + 1);
        let turns = if delayed { 1 + queue.dice.below(8) } else { 0 };
        queue.waiting.push(Waiting {
            due: Instant::now() + Duration::from_micros(delay_us),
            turns,
            may_block,
            task,
        });
        drop(queue);
        self.changed.notify_all();
    }

    /// Ends one operation; false if none waits, or if threads do this by themselves.
    pub fn step(&self) -> bool {
        if !self.deterministic {
            return false;
        }
        let task = {
            let mut queue = self.queue.lock();
            let Some(least) = queue.waiting.iter().map(|waiting| waiting.turns).min() else {
                return false;
            };
            for waiting in &mut queue.waiting {
                waiting.turns = waiting.turns.saturating_sub(least.max(1));
            }
            queue.take_one(|waiting| waiting.turns == 0)
        };
        task.is_some_and(|task| {
            (task.task)();
            true
        })
    }

    /// Until nothing waits or runs, what completions submit included. A completion that panicked on
    /// another thread panics here.
    pub fn run_until_idle(&self) {
        if self.deterministic {
            while self.step() {}
            return;
        }
        let mut queue = self.queue.lock();
        while !queue.waiting.is_empty() || queue.running > 0 {
            self.changed.wait(&mut queue);
        }
        if let Some(panic) = queue.panic.take() {
            drop(queue);
            resume_unwind(panic);
        }
    }

    /// Everything that waits ends now; later submissions end in the call.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
        if self.deterministic {
            while self.step() {}
        }
    }

    fn work(self: Arc<Self>) {
        let mut queue = self.queue.lock();
        loop {
            let now = Instant::now();
            let closed = queue.closed;
            let Some(waiting) = queue.take_one(|waiting| closed || waiting.due <= now) else {
                match queue.waiting.iter().map(|waiting| waiting.due).min() {
                    Some(due) => drop(self.changed.wait_until(&mut queue, due)),
                    None if closed => return,
                    None => self.changed.wait(&mut queue),
                }
                continue;
            };
            queue.running += 1;
            drop(queue);
            self.changed.notify_all();
            if waiting.may_block {
                let own = self.clone();
                let spawned = std::thread::Builder::new()
                    .name("simulated-fill".to_owned())
                    .spawn(move || own.run(waiting.task));
                spawned.expect("the system has a thread to spare for a simulated fill");
            } else {
                self.run(waiting.task);
            }
            queue = self.queue.lock();
        }
    }

    fn run(&self, task: Task) {
        let result = catch_unwind(AssertUnwindSafe(task));
        let mut queue = self.queue.lock();
        queue.running -= 1;
        queue.panic = queue.panic.take().or(result.err());
        drop(queue);
        self.changed.notify_all();
    }
}

impl Queue {
    /// One of those that are ready, by the dice.
    fn take_one(&mut self, is_ready: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let ready: Vec<usize> = (0..self.waiting.len())
            .filter(|index| is_ready(&self.waiting[*index]))
            .collect();
        let chosen = ready.get(self.dice.below(ready.len() as u64) as usize)?;
        Some(self.waiting.swap_remove(*chosen))
    }
}
