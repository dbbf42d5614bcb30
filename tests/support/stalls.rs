//! How long this machine stands still by itself: what a busy neighbour does to whoever reads a block of the plain disk.

use super::Scratch;
use super::reading::{AlignedBuffer, open_direct};
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 4096;
const PAUSE: Duration = Duration::from_millis(10);
/// A request to a mount goes over several threads and may go to the disk: each may wait as long.
const STEPS: u32 = 4;

/// Reads a block every few milliseconds until dropped, and keeps the longest time that took.
pub struct Stalls {
    worst_us: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    pub fn watch(scratch: &Scratch) -> Self {
        let path = scratch.path().join("stalls");
        fs::write(&path, [0; BLOCK_BYTES]).unwrap();
        let file = open_direct(&path).unwrap();
        let (worst_us, ended) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (worst, end) = (worst_us.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
            while !end.load(Ordering::Acquire) {
                let began = Instant::now();
                std::thread::sleep(PAUSE);
                file.read_exact_at(buffer.bytes_mut(), 0).unwrap();
                let took = began.elapsed().saturating_sub(PAUSE);
                worst.fetch_max(took.as_micros() as u64, Ordering::AcqRel);
            }
        });
        Self {
            worst_us,
            ended,
            thread: Some(thread),
        }
    }

    /// What a request may take on this machine beside what it takes on one that is left alone.
    pub fn allowance(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Ordering::Acquire)) * STEPS
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
