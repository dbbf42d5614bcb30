//! Privileges and resource limits of this process.

use super::Finding;
use nix::sys::resource::{Resource, getrlimit};

/// Bytes of read buffers that the engine registers with the kernel.
const REGISTERED_BYTES: u64 = 64 << 20;
const DESCRIPTORS_WANTED: u64 = 65_536;

/// Bit numbers of capabilities(7).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_IPC_LOCK: u32 = 14;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SETUID: u32 = 7;

pub fn examine() -> Vec<Finding> {
    vec![
        capability(
            "CAP_SYS_ADMIN",
            CAP_SYS_ADMIN,
            "no passthrough, and fusermount3 does the mounting: complete files are read at a third of the disk's speed",
        ),
        capability(
            "CAP_DAC_READ_SEARCH",
            CAP_DAC_READ_SEARCH,
            "files are found again by path rather than by handle: cached data is dropped on any doubt",
        ),
        capability(
            "CAP_SETUID",
            CAP_SETUID,
            "the backend is asked as this user, whoever asks here (identity=caller has no effect)",
        ),
        locked_memory(),
        descriptors(),
    ]
}

fn capability(name: &str, bit: u32, lost: &str) -> Finding {
    match effective_capabilities() {
        Some(set) if set & (1 << bit) != 0 => Finding::good(name, "held"),
        Some(_) => Finding::missing(name, "not held", lost),
        None => Finding::missing(name, "/proc/self/status does not tell", lost),
    }
}

fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn locked_memory() -> Finding {
    const LOST: &str = "read buffers are mapped for each read (nvme_fixed_buffers has no effect)";
    let may_lock = effective_capabilities().is_some_and(|set| set & (1 << CAP_IPC_LOCK) != 0);
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        _ if may_lock => Finding::good("locked memory", "unlimited (CAP_IPC_LOCK)"),
        Ok((soft, _)) if soft >= REGISTERED_BYTES => {
            Finding::good("locked memory", format!("{} MiB", soft >> 20))
        }
        Ok((soft, _)) => Finding::missing(
            "locked memory",
            format!("{} MiB (ulimit -l)", soft >> 20),
            LOST,
        ),
        Err(errno) => Finding::missing("locked memory", errno.to_string(), LOST),
    }
}

fn descriptors() -> Finding {
    const LOST: &str = "fewer files can be open at once; further opens fail with EMFILE";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= DESCRIPTORS_WANTED => {
            Finding::good("open files", format!("up to {hard}"))
        }
        Ok((_, hard)) => Finding::missing("open files", format!("up to {hard} (ulimit -Hn)"), LOST),
        Err(errno) => Finding::missing("open files", errno.to_string(), LOST),
    }
}
