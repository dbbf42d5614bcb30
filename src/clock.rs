//! Time as the cache needs it: a monotonic instant for deadlines and timeouts, wall-clock seconds
//! for comparison with file timestamps.

use crate::types::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock now.
pub fn wall_clock() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: since.as_secs() as i64,
            nanoseconds: since.subsec_nanos(),
        },
        Err(before) => Timestamp {
            seconds: -(before.duration().as_secs() as i64),
            nanoseconds: 0,
        },
    }
}
