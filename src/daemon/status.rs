//! What `status` says. The keys of `state`, `backend`, `cache`, `journal` and `writeback` that are not
//! marked otherwise keep their names and meaning for good.

use super::pinning::PinsStatus;
use super::status_of_scrub::ScrubStatus;
use super::tuning::TuningStatus;
pub use crate::types::bytes_in_words as bytes;
use crate::types::printable::one_line;
use serde::{Deserialize, Serialize};

pub use super::journal_status::{JournalStatus, WritebackStatus};

/// The whole answer of `status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub backend: BackendStatus,
    pub cache: CacheStatus,
    #[serde(default)]
    pub names: NamesStatus,
    #[serde(default)]
    pub pins: PinsStatus,
    #[serde(default)]
    pub tuning: TuningStatus,
    pub scrub: ScrubStatus,
    pub journal: JournalStatus,
    pub writeback: WritebackStatus,
    /// Version of the daemon.
    pub version: String,
    pub pid: u32,
    pub name: String,
    pub mountpoint: String,
    pub uptime_seconds: u64,
    /// Mounted with `ro`: the daemon takes no changes.
    pub read_only: bool,
    pub engine: EngineStatus,
    pub fuse: FuseStatus,
    pub options: Vec<OptionStatus>,
    /// Files and directories the kernel knows now.
    pub nodes: u64,
    /// Files and directories open now.
    pub handles: u64,
    /// Pieces on their way from the backend to a cache disk now.
    pub pieces_in_flight: u64,
    /// How long the oldest of the requests that wait now has done so.
    pub longest_wait_ms: u64,
    /// How long calls and reads took, over the life of the daemon.
    #[serde(default)]
    pub latencies: Vec<LatencyStatus>,
    /// Things an operator should know, a sentence each. None names a file of the tree.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Starting,
    Serving,
    /// Serving, with a part missing: the backend is away, or a cache disk is lost.
    Degraded,
    Stopping,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// False when it is away.
    pub reachable: bool,
    /// "reachable", "slow" or "away".
    #[serde(default)]
    pub state: String,
    /// Its path names another directory by now, or none.
    #[serde(default)]
    pub is_moved: bool,
    /// For how long it has been away, over restarts of the daemon; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_seconds: Option<u64>,
    /// Answers from what was known in its stead.
    #[serde(default)]
    pub stale_answers: u64,
    /// File data bytes.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Calls, data and metadata.
    pub ops: u64,
    pub path: String,
    pub filesystem: String,
    pub errors: u64,
    pub timeouts: u64,
    /// The option `backend_timeout`.
    pub timeout_ms: u64,
    /// Threads waiting in a call past its deadline now.
    pub threads_lost: u64,
    /// How long calls took, over the life of the daemon.
    pub latency_p50_us: u64,
    pub latency_p99_us: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    pub bytes_used: u64,
    pub bytes_limit: u64,
    /// In the index: as of the last checkpoint, 3 s ago at most.
    pub files: u64,
    pub hit_bytes: u64,
    pub miss_bytes: u64,
    pub passthrough_opens: u64,
    /// Fetched before anybody asked for it; of that, read later; left unread when its file was closed.
    pub readahead_bytes: u64,
    pub readahead_used_bytes: u64,
    pub readahead_wasted_bytes: u64,
    pub bypass_bytes: u64,
    pub fills_discarded: u64,
    pub objects_evicted: u64,
    /// Parts of files in use that went to make room.
    pub trimmed_bytes: u64,
    /// To the cache disks, since midnight UTC.
    pub written_today_bytes: u64,
    /// What `write_limit` allows a day; 0: as much as comes.
    pub write_limit_bytes: u64,
    /// Records and object files that were not believed and dropped.
    pub doubted: u64,
    pub directories: Vec<CacheDirectoryStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheDirectoryStatus {
    pub path: String,
    /// "ok", or why it is not used.
    pub state: String,
    pub bytes_used: u64,
    pub disk_bytes_total: u64,
    pub disk_bytes_available: u64,
}

/// What is known of the backend's names, for a time when it is away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamesStatus {
    /// Stored, as of the last commit.
    pub records: u64,
    /// Not stored yet: a second old, usually.
    pub waiting: u64,
    /// Not kept, because too much waited to be stored.
    pub not_noted: u64,
    /// "ok", or why nothing is kept.
    pub state: String,
}

/// Which engine reads the cache disks, and what it does without.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// "uring" or "blocking".
    pub name: String,
    /// Why this one.
    pub reason: String,
}

/// What was negotiated with the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FuseStatus {
    /// Such as "7.45".
    pub protocol: String,
    /// "on", or why not.
    pub passthrough: String,
    pub threads: u64,
}

/// One option with the value in effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OptionStatus {
    pub name: String,
    pub value: String,
    /// Where it was said: "default", "command line", "/etc/fstab", or the settings file with the line.
    #[serde(default)]
    pub from: String,
    /// Why it has no effect on this machine; absent when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_effect_because: Option<String>,
}

/// How long calls on the backend took (`of` "backend", `kind` "metadata" or "data"), or reads that did not end in memory
/// ("read": "hit" on the cache disk, "miss").
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyStatus {
    pub of: String,
    pub kind: String,
    pub total_us: u64,
    pub buckets: Vec<LatencyBucket>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyBucket {
    /// And longer than the bucket before; absent for all that took longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to_us: Option<u64>,
    pub count: u64,
}

impl Status {
    /// The status in plain words, on one screen.
    pub fn in_words(&self) -> String {
        let name = match self.name == self.mountpoint || self.name.is_empty() {
            true => String::new(),
            false => format!("{}: ", self.name),
        };
        let mut lines = vec![format!(
            "{name}{} is {}, {} (version {}, pid {})",
            self.mountpoint,
            match self.state {
                State::Starting => "starting",
                State::Serving => "serving",
                State::Degraded => "serving, degraded",
                State::Stopping => "stopping",
            },
            up_time(self.uptime_seconds),
            self.version,
            self.pid
        )];
        lines.push(self.backend_in_words());
        lines.extend(self.cache_in_words());
        lines.extend(self.pins.in_words());
        lines.extend(self.cache.directories.iter().map(|directory| {
            format!(
                "    {}: {}, {} used, disk {} free of {}",
                directory.path,
                directory.state,
                bytes(directory.bytes_used),
                bytes(directory.disk_bytes_available),
                bytes(directory.disk_bytes_total)
            )
        }));
        lines.push(self.tuning.in_words());
        lines.extend(self.scrub.in_words());
        lines.extend(self.journal.in_words(&self.writeback));
        lines.push(format!(
            "  engine    {} ({})",
            self.engine.name, self.engine.reason
        ));
        lines.push(format!(
            "  kernel    FUSE {}, {} threads, passthrough {}",
            self.fuse.protocol, self.fuse.threads, self.fuse.passthrough
        ));
        for option in &self.options {
            if let Some(reason) = &option.no_effect_because {
                lines.push(format!(
                    "  option    {}={}: no effect here: {reason}",
                    option.name, option.value
                ));
            }
        }
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("  warning   {warning}")),
        );
        lines.extend(self.writeback.in_words());
        lines.iter().map(|line| one_line(line) + "\n").collect()
    }

    fn backend_in_words(&self) -> String {
        let backend = &self.backend;
        format!(
            "  backend   {} ({}), {}: {} read in {} calls (median {} us), {} errors, {} timeouts{}",
            backend.path,
            backend.filesystem,
            match (backend.reachable, backend.state.as_str()) {
                (false, _) => "NOT REACHABLE",
                (true, "slow") => "slow",
                (true, _) => "reachable",
            },
            bytes(backend.bytes_read),
            backend.ops,
            backend.latency_p50_us,
            backend.errors,
            backend.timeouts,
            match backend.threads_lost {
                0 => String::new(),
                lost => format!(", {lost} calls hang"),
            }
        ) + &match backend.stale_answers {
            0 => String::new(),
            answers => format!(", {answers} answers from what was known"),
        }
    }

    fn cache_in_words(&self) -> [String; 2] {
        let cache = &self.cache;
        let read_bytes = cache.hit_bytes + cache.miss_bytes;
        let hits = match read_bytes {
            0 => "no reads yet".to_owned(),
            _ => format!(
                "{} % of bytes read by the daemon hit",
                cache.hit_bytes * 100 / read_bytes
            ),
        };
        let held = format!(
            "  cache     {} of {} in {} files, {hits}, {} passthrough opens, {} evicted, {} past the cache, {}{} written today",
            bytes(cache.bytes_used),
            bytes(cache.bytes_limit),
            cache.files,
            cache.passthrough_opens,
            cache.objects_evicted,
            bytes(cache.bypass_bytes),
            bytes(cache.written_today_bytes),
            match cache.write_limit_bytes {
                0 => String::new(),
                limit => format!(" of {}", bytes(limit)),
            }
        );
        let ahead = format!(
            "  readahead {} fetched, {} of it read, {} left unread",
            bytes(cache.readahead_bytes),
            bytes(cache.readahead_used_bytes),
            bytes(cache.readahead_wasted_bytes)
        );
        [held, ahead]
    }
}

fn up_time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("up {seconds} s"),
        60..3600 => format!("up {} min", seconds / 60),
        3600..86_400 => format!("up {} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("up {} days {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_json_keeps_the_keys_that_are_promised() {
        let json = serde_json::to_value(Status::default()).expect("serializes");
        for (part, keys) in [
            (
                "backend",
                &["reachable", "bytes_read", "bytes_written", "ops"][..],
            ),
            (
                "cache",
                &[
                    "bytes_used",
                    "bytes_limit",
                    "files",
                    "hit_bytes",
                    "miss_bytes",
                    "passthrough_opens",
                ],
            ),
            (
                "journal",
                &["dirty_bytes", "commits", "syncs", "degraded_devices"],
            ),
            ("writeback", &["pending_files", "conflicts"]),
        ] {
            for key in keys {
                assert!(json[part].get(key).is_some(), "{part}.{key}");
            }
        }
        assert_eq!(json["state"], "starting");
    }

    #[test]
    fn plain_words_fit_a_screen_and_name_what_is_wrong() {
        let status = Status {
            mountpoint: "/mnt/c".to_owned(),
            options: vec![OptionStatus {
                name: "nvme_polling_mode".to_owned(),
                value: "on".to_owned(),
                from: "default".to_owned(),
                no_effect_because: Some("the disk has no polling queues".to_owned()),
            }],
            warnings: vec!["cache directory /a is lost".to_owned()],
            cache: CacheStatus {
                hit_bytes: 3 << 30,
                miss_bytes: 1 << 30,
                ..CacheStatus::default()
            },
            ..Status::default()
        };
        let words = status.in_words();
        assert!(words.lines().count() <= 24);
        for wanted in ["NOT REACHABLE", "75 %", "no polling queues", "/a is lost"] {
            assert!(words.contains(wanted), "{wanted} in\n{words}");
        }
    }

    #[test]
    fn a_mount_with_a_name_is_called_by_it() {
        let mut status = Status {
            mountpoint: "/mnt/c".to_owned(),
            name: "/mnt/c".to_owned(),
            ..Status::default()
        };
        assert!(status.in_words().starts_with("/mnt/c is "));
        status.name = "models".to_owned();
        assert!(status.in_words().starts_with("models: /mnt/c is "));
    }
}
