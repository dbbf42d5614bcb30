//! Counts of what was asked and what was given.

use crate::protocol::{Counters, Operation};
use parking_lot::Mutex;

#[derive(Default)]
pub struct CounterBoard {
    counters: Mutex<Counters>,
}

impl CounterBoard {
    /// A call arrived, which asks for so many bytes of a file.
    pub fn begin(&self, operation: Operation, asked_bytes: u64) {
        let mut counters = self.counters.lock();
        *counters.operations.entry(operation).or_default() += 1;
        *counters.under_way.entry(operation).or_default() += 1;
        counters.concurrent += 1;
        counters.concurrent_max = counters.concurrent_max.max(counters.concurrent);
        counters.reading_bytes += asked_bytes;
        counters.reading_bytes_max = counters.reading_bytes_max.max(counters.reading_bytes);
    }

    /// Its reply is about to go out.
    pub fn end(&self, operation: Operation, asked_bytes: u64) {
        let mut counters = self.counters.lock();
        if let Some(under_way) = counters.under_way.get_mut(&operation) {
            *under_way -= 1;
        }
        counters.concurrent -= 1;
        counters.reading_bytes -= asked_bytes;
    }

    pub fn read(&self, path: &str, bytes: usize) {
        let mut counters = self.counters.lock();
        counters.bytes_read += bytes as u64;
        if !counters.reads_by_file.contains_key(path) {
            counters
                .reads_by_file
                .insert(path.to_owned(), Default::default());
        }
        if let Some(file) = counters.reads_by_file.get_mut(path) {
            file.calls += 1;
            file.bytes += bytes as u64;
        }
    }

    pub fn written(&self, bytes: usize) {
        self.counters.lock().bytes_written += bytes as u64;
    }

    pub fn snapshot(&self) -> Counters {
        self.counters.lock().clone()
    }

    pub fn reset(&self) {
        let mut counters = self.counters.lock();
        let (concurrent, reading_bytes) = (counters.concurrent, counters.reading_bytes);
        let under_way = std::mem::take(&mut counters.under_way);
        *counters = Counters {
            under_way,
            concurrent,
            concurrent_max: concurrent,
            reading_bytes,
            reading_bytes_max: reading_bytes,
            ..Counters::default()
        };
    }
}
