//! What a process holds in memory, from proc_pid_status(5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Resident memory, all of it and the anonymous part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    pub total_bytes: u64,
    pub anonymous_bytes: u64,
}

/// Zero for a process that is gone.
pub fn resident(pid: i32) -> Resident {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .map_or(0, |kibibytes| kibibytes << 10)
    };
    Resident {
        total_bytes: field("VmRSS:"),
        anonymous_bytes: field("RssAnon:"),
    }
}

pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Takes a figure again and again on a thread of its own and keeps the largest.
pub struct Peak {
    stop: Arc<AtomicBool>,
    largest: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    pub fn of(figure: impl Fn() -> u64 + Send + 'static) -> Self {
        let (stop, largest) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, kept) = (stop.clone(), largest.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                kept.fetch_max(figure(), Ordering::AcqRel);
                std::thread::sleep(SAMPLE_INTERVAL);
            }
        });
        Self {
            stop,
            largest,
            thread: Some(thread),
        }
    }

    /// Ends the sampling; the largest figure seen.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the figure could be taken");
        }
        self.largest.load(Ordering::Acquire)
    }
}
