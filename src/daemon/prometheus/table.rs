//! The metrics: a row for each number of the status.

use serde_json::Value;

/// What all names begin with.
pub const PREFIX: &str = "nfs_cachefs_";

/// The latencies, which are no single numbers: name and help.
pub const LATENCY: (&str, &str) = (
    "latency_seconds",
    "How long calls on the backend took (of=\"backend\", kind metadata or data), and reads that waited for the cache disk or for the backend (of=\"read\", kind hit or miss); reads answered from memory or by passthrough are not timed",
);
pub const INFO: (&str, &str) = (
    "info",
    "1; its labels say the version, the name of the mount, the backend and the engine",
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts up for the life of the daemon.
    Counter,
    Gauge,
    /// 1 while the text is this, else 0.
    Is(&'static str),
}

pub struct Row {
    /// Keys from the top of `status --json`; `[]` stands for each of a list, which its `path` tells apart.
    pub path: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// How many of the name's unit one is.
    scale: f64,
    pub help: &'static str,
}

const fn row(path: &'static str, name: &'static str, kind: Kind, help: &'static str) -> Row {
    Row {
        path,
        name,
        kind,
        scale: 1.0,
        help,
    }
}

const fn counter(path: &'static str, name: &'static str, help: &'static str) -> Row {
    row(path, name, Kind::Counter, help)
}

const fn gauge(path: &'static str, name: &'static str, help: &'static str) -> Row {
    row(path, name, Kind::Gauge, help)
}

const fn is(path: &'static str, word: &'static str, name: &'static str, help: &'static str) -> Row {
    row(path, name, Kind::Is(word), help)
}

impl Row {
    const fn from_milliseconds(mut self) -> Self {
        self.scale = 1e-3;
        self
    }

    const fn from_microseconds(mut self) -> Self {
        self.scale = 1e-6;
        self
    }

    pub fn kind_in_words(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Is(_) => "gauge",
        }
    }

    /// In the unit of the name; `None` where the status has nothing to say.
    pub fn value(&self, found: &Value) -> Option<f64> {
        let number = match (self.kind, found) {
            (Kind::Is(word), Value::String(text)) => f64::from(text == word),
            (_, Value::Bool(on)) => f64::from(*on),
            (_, number) => number.as_f64()?,
        };
        Some(number * self.scale)
    }
}

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
    .from_milliseconds(),
    gauge(
        "backend.reachable",
        "backend_reachable",
        "0 while the backend is away",
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
    .from_milliseconds(),
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
    .from_microseconds(),
    gauge(
        "backend.latency_p99_us",
        "backend_latency_p99_seconds",
        "99th percentile of the same",
    )
    .from_microseconds(),
    gauge(
        "cache.bytes_used",
        "cache_used_bytes",
        "What the cache takes on its disks",
    ),
    gauge("cache.bytes_limit", "cache_limit_bytes", "What it may take"),
    gauge(
        "cache.files",
        "cache_files",
        "Files in the cache, as of the last checkpoint",
    ),
    counter(
        "cache.hit_bytes",
        "cache_hit_bytes_total",
        "Bytes of reads that the daemon answered from the cache alone; the kernel's own reads by passthrough are not seen",
    ),
    counter(
        "cache.miss_bytes",
        "cache_miss_bytes_total",
        "Bytes of reads that had to wait for the backend",
    ),
    counter(
        "cache.passthrough_opens",
        "cache_passthrough_opens_total",
        "Opens whose reads the kernel makes by itself",
    ),
    counter(
        "cache.readahead_bytes",
        "cache_readahead_bytes_total",
        "Bytes fetched before anybody asked for them",
    ),
    counter(
        "cache.readahead_used_bytes",
        "cache_readahead_used_bytes_total",
        "Of these, read later",
    ),
    counter(
        "cache.readahead_wasted_bytes",
        "cache_readahead_wasted_bytes_total",
        "Of these, left unread when their file was closed",
    ),
    counter(
        "cache.bypass_bytes",
        "cache_bypass_bytes_total",
        "Bytes read past the cache: no space, a failed disk, a file too small or being written to",
    ),
    counter(
        "cache.fills_discarded",
        "cache_fills_discarded_total",
        "Fills thrown away because the file changed meanwhile",
    ),
    counter(
        "cache.objects_evicted",
        "cache_evicted_objects_total",
        "Objects evicted",
    ),
    counter(
        "cache.trimmed_bytes",
        "cache_trimmed_bytes_total",
        "Parts of files in use that went to make room",
    ),
    gauge(
        "cache.written_today_bytes",
        "cache_written_today_bytes",
        "Written to the cache disks since midnight UTC",
    ),
    gauge(
        "cache.write_limit_bytes",
        "cache_write_limit_bytes",
        "What write_limit allows a day; 0: as much as comes",
    ),
    counter(
        "cache.doubted",
        "cache_doubted_total",
        "Records and object files that were not believed and dropped",
    ),
    is(
        "cache.directories[].state",
        "ok",
        "cache_directory_ok",
        "1 while the cache directory is in use and nothing is wrong with it",
    ),
    gauge(
        "cache.directories[].bytes_used",
        "cache_directory_used_bytes",
        "What the cache takes in one directory",
    ),
    gauge(
        "cache.directories[].disk_bytes_total",
        "cache_directory_disk_bytes",
        "Size of its disk",
    ),
    gauge(
        "cache.directories[].disk_bytes_available",
        "cache_directory_disk_available_bytes",
        "What is free of it",
    ),
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
    gauge(
        "scrub.running",
        "scrub_running",
        "1 while a pass over all that is cached is under way",
    ),
    counter("scrub.passes", "scrub_passes_total", "Complete passes"),
    counter(
        "scrub.answered",
        "scrub_answered_total",
        "Passes that were asked for and are done",
    ),
    counter(
        "scrub.checked_bytes",
        "scrub_checked_bytes_total",
        "Bytes compared with their checksums by the scrub",
    ),
    counter(
        "scrub.summed_bytes",
        "scrub_summed_bytes_total",
        "Bytes that the scrub summed for the first time",
    ),
    counter(
        "scrub.bad_blocks",
        "bad_blocks_total",
        "Blocks of 4 KiB that were not what was stored",
    ),
    counter(
        "scrub.bad_files",
        "bad_files_total",
        "Files they were found in",
    ),
    counter(
        "scrub.paused_ms",
        "scrub_paused_seconds_total",
        "How long the scrub waited for those who read or fetch",
    )
    .from_milliseconds(),
    gauge(
        "scrub.last_pass.files",
        "scrub_last_pass_files",
        "Files looked at in the last complete pass",
    ),
    gauge(
        "scrub.last_pass.checked_bytes",
        "scrub_last_pass_checked_bytes",
        "Bytes checked in it",
    ),
    gauge(
        "scrub.last_pass.summed_bytes",
        "scrub_last_pass_summed_bytes",
        "Bytes summed in it for the first time",
    ),
    gauge(
        "scrub.last_pass.bad_blocks",
        "scrub_last_pass_bad_blocks",
        "Bad blocks found meanwhile",
    ),
    gauge(
        "scrub.last_pass.bad_files",
        "scrub_last_pass_bad_files",
        "Files they were in",
    ),
    gauge(
        "scrub.last_pass.seconds",
        "scrub_last_pass_seconds",
        "How long it took",
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
    .from_microseconds(),
    gauge(
        "journal.commit_p99_us",
        "journal_commit_p99_seconds",
        "99th percentile of the same",
    )
    .from_microseconds(),
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

/// Numbers of the status that are no metrics: which process it is, each incident of damage, each file that waits, and the
/// latencies, which are a histogram.
#[cfg(test)]
const NO_METRICS: &[&str] = &[
    "pid",
    "scrub.damaged[]",
    "writeback.oldest[]",
    "latencies[]",
];

/// The table of docs/METRICS.md.
pub fn metrics_markdown() -> String {
    let mut text =
        "| metric | type | in `status --json` | what it is |\n|---|---|---|---|\n".to_owned();
    let mut line = |name: &str, kind: &str, path: &str, help: &str| {
        let cell = help.replace('|', "\\|");
        text.push_str(&format!(
            "| `{PREFIX}{name}` | {kind} | `{path}` | {cell} |\n"
        ));
    };
    for row in ROWS {
        line(row.name, row.kind_in_words(), row.path, row.help);
    }
    line(LATENCY.0, "histogram", "latencies[]", LATENCY.1);
    line(INFO.0, "gauge", "version, name, backend.path", INFO.1);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::{CacheDirectoryStatus, LatencyStatus, Status};
    use crate::daemon::status_of_scrub::{DamagedStatus, PassStatus};

    /// The places of all numbers and switches.
    fn numbers(value: &Value, path: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(keys) => {
                for (key, value) in keys {
                    let dot = if path.is_empty() { "" } else { "." };
                    numbers(value, &format!("{path}{dot}{key}"), into);
                }
            }
            Value::Array(values) => {
                for value in values {
                    numbers(value, &format!("{path}[]"), into);
                }
            }
            Value::Number(_) | Value::Bool(_) => into.push(path.to_owned()),
            Value::String(_) | Value::Null => {}
        }
    }

    /// Nothing in it is absent.
    fn full_status() -> Status {
        let mut status = Status::default();
        status.backend.away_seconds = Some(1);
        status.cache.directories = vec![CacheDirectoryStatus::default()];
        status.scrub.last_pass = Some(PassStatus::default());
        status.scrub.damaged = vec![DamagedStatus::default()];
        status.latencies = vec![LatencyStatus::default()];
        status
    }

    #[test]
    fn every_number_of_the_status_is_a_metric_and_no_metric_is_about_nothing() {
        let status = serde_json::to_value(full_status()).expect("serializes");
        let mut found = Vec::new();
        numbers(&status, "", &mut found);
        let is_one = |path: &String| !NO_METRICS.iter().any(|none| path.starts_with(none));
        for path in found.iter().filter(|path| is_one(path)) {
            assert!(
                ROWS.iter().any(|row| row.path == path),
                "{path} of the status has no row in src/daemon/prometheus/table.rs"
            );
        }
        for row in ROWS.iter().filter(|row| !matches!(row.kind, Kind::Is(_))) {
            assert!(found.iter().any(|path| path == row.path), "{}", row.path);
        }
    }

    #[test]
    fn names_tell_kind_and_unit() {
        for row in ROWS {
            let is_counter = row.kind == Kind::Counter;
            assert_eq!(row.name.ends_with("_total"), is_counter, "{}", row.name);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(row.name.chars().all(plain), "{}", row.name);
            let same = ROWS.iter().filter(|other| other.name == row.name);
            assert_eq!(same.count(), 1, "{}", row.name);
        }
    }
}
