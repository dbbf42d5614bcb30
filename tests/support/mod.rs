//! What the integration tests share. Each test has a [`Scratch`] directory of its own; whatever is
//! started or mounted below it ends with it, and every wait is bounded.
//!
//! - `scratch`: the directory, what is mounted below it, time limits
//! - `process`: children that die with the test process; stopping, continuing, waiting
//! - `backend`: [`FaultBackend`], the faultfs process and its control socket
//! - `mount`: [`Mount`], the nfs-cachefs process under test
//! - `content`: bytes that tell file, version and offset
//! - `pair`: [`Pair`], a mount and the directory behind it
//! - `scene`: [`Scene`], a mount with things known, half known and unknown
//! - `stalls`: how long the machine stands still by itself
//! - `disk`: [`SmallDisk`], a disk that can be filled
//! - `locking`: fcntl(2) locks
//! - `user`: acting as users who are not root
//! - `waiter`: processes that wait in one call of a mount
//! - `reading`: O_DIRECT, mmap, RWF_NOWAIT, splice, dropping caches
//! - `writing`: fallocate, copy_file_range, writable mappings
//! - `written_back`: a mount that writes back; `journal_disks`: one whose journal lies on several disks
//! - `random`: seeds

// Every test binary compiles all of this and uses its share.
#![allow(dead_code, unused_imports)]

pub mod backend;
pub mod content;
pub mod disk;
pub mod journal_disks;
pub mod locking;
pub mod mount;
pub mod pair;
pub mod process;
#[path = "../faultfs/protocol.rs"]
pub mod protocol;
pub mod random;
pub mod reading;
pub mod scene;
pub mod stalls;
pub mod scratch;
pub mod user;
pub mod waiter;
pub mod writing;
pub mod written_back;

pub use backend::{BackendOptions, FaultBackend};
pub use content::Content;
pub use disk::SmallDisk;
pub use mount::{Mount, MountOptions};
pub use pair::Pair;
pub use protocol::{Action, Counters, InodeNumbers, Network, Operation, Rule, Times};
pub use random::Random;
pub use scene::Scene;
pub use scratch::{Scratch, with_time_limit};
pub use user::{OTHER_USER, SHARED_GROUP, USER, as_user, under_umask};

/// Whether the full counts are wanted rather than a sample.
pub fn long_run() -> bool {
    std::env::var_os("CACHEFS_LONG").is_some_and(|value| value == "1")
}

/// `sample`, or `full` with CACHEFS_LONG=1.
pub fn sample_or_full<T>(sample: T, full: T) -> T {
    if long_run() { full } else { sample }
}

/// Polls until `condition` holds; panics with `what` after `limit`.
pub fn wait_until(limit: std::time::Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + limit;
    while !condition() {
        assert!(
            std::time::Instant::now() < deadline,
            "{what}: not within {limit:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
