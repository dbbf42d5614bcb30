//! Metrics of the mount, its backend, names and pins, the journal.

use super::table::{Row, counter, gauge, is};

pub const ROWS: &[Row] = &[
    is(
        "state",
        "serving",
        "serving",
        "1 while the mount serves and no part of it is missing",
    ),
    is(
        "state",
        "degraded",
        "degraded",
        "1 while the mount serves with a part missing: the backend is away, or a cache disk is lost",
    ),
    gauge(
        "uptime_seconds",
        "uptime_seconds",
        "How long the daemon has run",
    ),
    gauge("read_only", "read_only", "1 where it is mounted with ro"),
    gauge("nodes", "nodes", "Files and directories the kernel knows"),
    gauge("handles", "handles", "Files and directories open"),
    gauge(
        "pieces_in_flight",
        "fill_pieces_in_flight",
        "Pieces on their way from the backend to a cache disk",
    ),
    gauge(
        "longest_wait_ms",
        "longest_wait_seconds",
        "How long the oldest of the requests that wait now has done so",
    )
    .in_milliseconds(),
    gauge(
        "backend.reachable",
        "backend_reachable",
        "0 while the backend is away",
    ),
    gauge(
        "backend.is_moved",
        "backend_moved",
        "1 where the path of the backend names another directory by now, or none",
    ),
    gauge(
        "backend.away_seconds",
        "backend_away_seconds",
        "For how long the backend has been away, over restarts of the daemon; absent while it is not",
    ),
    counter(
        "backend.stale_answers",
        "backend_stale_answers_total",
        "Answers from what was known in the backend's stead",
    ),
    counter(
        "backend.bytes_read",
        "backend_read_bytes_total",
        "File data read from the backend",
    ),
    counter(
        "backend.bytes_written",
        "backend_written_bytes_total",
        "File data written to the backend",
    ),
    counter(
        "backend.ops",
        "backend_calls_total",
        "Calls on the backend, data and metadata",
    ),
    counter(
        "backend.errors",
        "backend_errors_total",
        "Calls on the backend that failed",
    ),
    counter(
        "backend.timeouts",
        "backend_timeouts_total",
        "Calls on the backend that outlived their deadline",
    ),
    gauge(
        "backend.timeout_ms",
        "backend_timeout_seconds",
        "The option backend_timeout",
    )
    .in_milliseconds(),
    gauge(
        "backend.threads_lost",
        "backend_threads_lost",
        "Threads that wait in a call on the backend past its deadline",
    ),
    gauge(
        "backend.latency_p50_us",
        "backend_latency_median_seconds",
        "Median duration of calls on the backend over the life of the daemon",
    )
    .in_microseconds(),
    gauge(
        "backend.latency_p99_us",
        "backend_latency_p99_seconds",
        "99th percentile of the same",
    )
    .in_microseconds(),
    is(
        "names.state",
        "ok",
        "names_ok",
        "1 while what is known of names is kept on disk",
    ),
    gauge(
        "names.records",
        "names_records",
        "Records of names and attributes stored for a time when the backend is away",
    ),
    gauge("names.waiting", "names_waiting", "Records not stored yet"),
    counter(
        "names.not_noted",
        "names_not_noted_total",
        "Records not kept, because too much waited to be stored",
    ),
    gauge("pins.pins", "pins", "Paths that are pinned"),
    gauge("pins.files", "pinned_files", "Pinned files in the cache"),
    gauge("pins.bytes", "pinned_bytes", "What they take"),
    gauge(
        "pins.bytes_limit",
        "pinned_limit_bytes",
        "The most that can be pinned",
    ),
    gauge(
        "pins.missing_files",
        "pinned_missing_files",
        "Pinned files not in the cache, when they were last looked through",
    ),
    is(
        "journal.state",
        "ok",
        "journal_ok",
        "1 while the journal takes changes; 0 without one, too",
    ),
    gauge(
        "journal.dirty_bytes",
        "journal_dirty_bytes",
        "Written and not on the backend yet",
    ),
    gauge(
        "journal.dirty_limit",
        "journal_dirty_limit_bytes",
        "The most that there may be of that",
    ),
    gauge(
        "journal.oldest_dirty_seconds",
        "journal_oldest_dirty_seconds",
        "How long the oldest of it has been waiting",
    ),
    counter(
        "journal.records",
        "journal_records_total",
        "Changes noted in the journal",
    ),
    counter(
        "journal.commits",
        "journal_commits_total",
        "Batches committed",
    ),
    counter(
        "journal.syncs",
        "journal_syncs_total",
        "Syncs of the journal's device",
    ),
    counter(
        "journal.waits",
        "journal_waits_total",
        "Times that somebody waited for a sync",
    ),
    gauge(
        "journal.commit_p50_us",
        "journal_commit_median_seconds",
        "Median duration of a batch with its sync",
    )
    .in_microseconds(),
    gauge(
        "journal.commit_p99_us",
        "journal_commit_p99_seconds",
        "99th percentile of the same",
    )
    .in_microseconds(),
    gauge(
        "journal.cut_batches",
        "journal_cut_batches",
        "Batches that were never acknowledged, and were cut off at the start",
    ),
    gauge(
        "journal.degraded_devices",
        "journal_degraded_devices",
        "Journal devices that are lost",
    ),
    gauge(
        "journal.tolerated_losses",
        "journal_tolerated_losses",
        "How many more journal devices may be lost",
    ),
    gauge(
        "journal.weak_batches",
        "journal_weak_batches",
        "Batches that lack shards which the devices could have",
    ),
    gauge(
        "journal.is_at_work",
        "journal_mending",
        "1 while shards are checked or made",
    ),
    gauge(
        "journal.checked_shards",
        "journal_checked_shards",
        "Shards that the last scrub, or the present one, has read",
    ),
    gauge(
        "journal.damaged_shards",
        "journal_damaged_shards",
        "Of these, damaged",
    ),
    gauge(
        "journal.mended_batches",
        "journal_mended_batches",
        "Batches whose shards were made again",
    ),
    gauge(
        "journal.lost_batches",
        "journal_lost_batches",
        "Batches that have lost more shards than may be",
    ),
    gauge(
        "writeback.pending_files",
        "writeback_pending_files",
        "Files that wait to be written to the backend",
    ),
    gauge(
        "writeback.failing_files",
        "writeback_failing_files",
        "Of these, not taken by the backend when they were tried last",
    ),
    gauge(
        "writeback.conflicts",
        "writeback_conflicts",
        "Files that lie beside others, which somebody else has changed, and that nobody has looked at",
    ),
    is(
        "fuse.passthrough",
        "on",
        "passthrough",
        "1 where the kernel reads complete files by itself",
    ),
    gauge(
        "fuse.threads",
        "fuse_threads",
        "Threads that read requests from the kernel",
    ),
];
