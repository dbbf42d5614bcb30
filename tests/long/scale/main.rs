//! Scale and memory: a million files, a million names in one directory, eight readers, a cache far smaller than
//! what is read. A sample by default; the promised counts with CACHEFS_LONG=1, one test at a time.
//!
//! - `forest`: many small files, made and read in parallel
//! - `figures`: resident memory of a process, a sampler of its maximum
//! - `million`, `listing`, `streaming`, `limit`: the tests

#[path = "../../support/mod.rs"]
mod support;

mod figures;
mod forest;
mod limit;
mod listing;
mod million;
mod streaming;

use std::sync::{Mutex, MutexGuard, PoisonError};

static MEASURING: Mutex<()> = Mutex::new(());

/// Held by a test while it measures: the promised counts are measured one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    // A test that failed has left nothing behind.
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}
