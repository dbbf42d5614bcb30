//! The lines that a reader is told.

use crate::daemon::control::WirePath;
use crate::types::Timestamp;
use crate::watch::{Ended, Served};
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a client asks to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum WatchRequest {
    /// Each operation on what the pattern covers, or on everything.
    Operations {
        pattern: Option<String>,
    },
    Load {
        interval_ms: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum WatchLine {
    /// All that begins from now on is told.
    Listening,
    Refused {
        message: String,
    },
    Operation(Box<Operation>),
    /// Operations that the reader was too slow for.
    Lost {
        operations: u64,
    },
    Load(Box<Load>),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// The number of the request, as in the daemon's log.
    pub request: u64,
    /// When it began, in seconds since 1970.
    pub began_seconds: i64,
    pub began_nanoseconds: u32,
    pub operation: String,
    /// From the root of the mount; absent where the file has no name any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<WirePath>,
    /// Where a rename or link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<WirePath>,
    pub uid: u32,
    /// The thread that asks.
    pub pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Data moved.
    pub bytes: u64,
    /// Such as "ENOENT"; absent where it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub latency_us: u64,
    /// "passthrough", "hit", "fill", "backend", "journal", "known" or "memory".
    pub served: String,
}

impl Operation {
    pub fn of(ended: &Ended) -> Self {
        let Timestamp {
            seconds,
            nanoseconds,
        } = ended.began;
        let wire = |path: &Option<PathBuf>| path.as_deref().map(WirePath::from);
        let asked = &ended.asked;
        let errno = ended.outcome.errno;
        Self {
            request: ended.request,
            began_seconds: seconds,
            began_nanoseconds: nanoseconds,
            operation: asked.operation.to_owned(),
            path: wire(&asked.path),
            to: wire(&asked.to),
            uid: asked.caller.uid,
            pid: asked.caller.pid,
            offset: asked.offset,
            bytes: ended.outcome.moved_bytes,
            error: (errno != 0).then(|| format!("{:?}", Errno::from_raw(errno))),
            latency_us: ended.took.as_micros() as u64,
            served: ended.served.in_a_word().to_owned(),
        }
    }
}

/// What was done in an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub seconds: f64,
    pub total: Counts,
    /// Those that lead in operations, in bytes or in time.
    pub files: Vec<FileLoad>,
    pub processes: Vec<ProcessLoad>,
    /// Operations of more files or processes than are counted apart.
    pub uncounted_operations: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileLoad {
    pub path: WirePath,
    #[serde(flatten)]
    pub counts: Counts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessLoad {
    pub pid: u32,
    /// Empty where it had ended before it could be asked for.
    pub name: String,
    #[serde(flatten)]
    pub counts: Counts,
}

/// Reads that the kernel makes by itself (passthrough) are in none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub operations: u64,
    pub errors: u64,
    /// Reads that found all they wanted, and those that waited for the backend.
    pub hits: u64,
    pub misses: u64,
    pub hit_bytes: u64,
    pub miss_bytes: u64,
    pub written_bytes: u64,
    pub passthrough_opens: u64,
    pub total_us: u64,
    pub longest_us: u64,
}

/// That nothing has that name is an answer, which programs ask for all day.
fn is_error(errno: i32) -> bool {
    !matches!(errno, 0 | libc::ENOENT | libc::ENODATA)
}

impl Counts {
    pub fn add(&mut self, ended: &Ended) {
        let took_us = ended.took.as_micros() as u64;
        let moved_bytes = ended.outcome.moved_bytes;
        self.operations += 1;
        self.errors += u64::from(is_error(ended.outcome.errno));
        self.total_us += took_us;
        self.longest_us = self.longest_us.max(took_us);
        match (ended.asked.operation, ended.served) {
            ("read", Served::Hit | Served::Memory | Served::Known) => {
                self.hits += 1;
                self.hit_bytes += moved_bytes;
            }
            ("read", _) => {
                self.misses += 1;
                self.miss_bytes += moved_bytes;
            }
            ("write" | "copy_file_range", _) => self.written_bytes += moved_bytes,
            ("open", Served::Passthrough) => self.passthrough_opens += 1,
            _ => {}
        }
    }

    pub fn moved_bytes(&self) -> u64 {
        self.hit_bytes + self.miss_bytes + self.written_bytes
    }
}
