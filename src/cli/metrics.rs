//! `nfs-cachefs metrics`: the table of metrics, as docs/METRICS.md shows it.

use super::say;
use crate::daemon::error::exit_status;
use crate::daemon::prometheus::metrics_markdown;

pub fn run() -> i32 {
    say(&metrics_markdown());
    exit_status::SUCCESS
}
