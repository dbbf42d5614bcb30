//! What is said over the control socket: one JSON object a line, one reply a line, in order.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kinds of request a rule can name and the counters tell apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Access,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Release,
    Fsync,
    Opendir,
    Readdir,
    Releasedir,
    Fsyncdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
}

/// What a rule does to a call that it hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Fail with this errno; nothing is done. A stale handle is ESTALE.
    Errno(i32),
    /// Wait until released, then do it for real.
    Hang,
    /// Do it this many milliseconds later.
    DelayMs(u64),
    /// Reads and writes move at most this many bytes.
    ShortBytes(usize),
    /// One bit of every 4096 bytes read is wrong.
    FlipBits,
}

/// All rules that match a call act on it together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// `None`: every kind.
    pub operation: Option<Operation>,
    /// Matched against the path below the root (of the child, where a name is given; lossy where it
    /// is not UTF-8): `*` is any run of characters, '/' too, `?` is one.
    pub path: String,
    pub action: Action,
    /// Matching calls that are let through first.
    pub skip_calls: u64,
    /// Calls hit before the rule is spent; `None`: never.
    pub limit_calls: Option<u64>,
    /// Share of the remaining calls that is hit, drawn from `seed`.
    pub probability: f64,
    pub seed: u64,
}

/// A slow server: a reply is delivered when a round trip has passed and the link, which all data
/// shares, has carried its bytes, whichever is later. Any number of calls may be under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Network {
    pub latency_us: u64,
    /// `None`: without bound.
    pub bandwidth_bytes_per_s: Option<u64>,
}

/// How timestamps are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    /// Added to every time: old files, or a server whose clock is off.
    pub shift_ms: i64,
    /// Rounded down to a multiple of this, as servers with coarse clocks do; 0: as they are.
    pub step_ms: u64,
}

/// How inode numbers are shown: that of the backing file, unless said otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InodeNumbers {
    /// Set in every number that the table does not give (1 << 63: 64-bit numbers).
    pub set_bits: u64,
    /// Path below the root (which must exist) to number. Two files cannot have the same.
    pub by_path: BTreeMap<String, u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    Ping,
    AddRule {
        rule: Rule,
    },
    /// Calls that hang on it go on hanging until released.
    RemoveRule {
        id: u64,
    },
    ClearRules,
    /// Lets calls go on that hang on one rule, or on any.
    Release {
        id: Option<u64>,
    },
    SetNetwork {
        network: Network,
    },
    SetTimes {
        times: Times,
    },
    SetInodes {
        inodes: InodeNumbers,
    },
    Counters,
    /// Everything back to 0, except what tells the present.
    ResetCounters,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    RuleAdded { id: u64 },
    Released { calls: usize },
    Counters { counters: Counters },
    Failed { message: String },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileReads {
    pub calls: u64,
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Calls that arrived, by kind; kinds that never came are left out.
    pub operations: BTreeMap<Operation, u64>,
    /// Calls between arrival and reply now, by kind.
    pub under_way: BTreeMap<Operation, u64>,
    /// File data returned by reads.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// By the path that was opened.
    pub reads_by_file: BTreeMap<String, FileReads>,
    /// Calls between arrival and reply now, and the most there were at once.
    pub concurrent: u64,
    pub concurrent_max: u64,
    /// Bytes asked for by reads between arrival and reply now, and the most there were at once.
    pub reading_bytes: u64,
    pub reading_bytes_max: u64,
    /// Calls that hang now.
    pub hung: u64,
    /// Calls hit, by rule.
    pub rule_hits: BTreeMap<u64, u64>,
}
