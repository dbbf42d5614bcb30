//! What is wrong with a mount, and what would make it better: each with what to do about it.
//!
//! From the status of the mount, from how its backend is mounted, and from what was tried on this machine.

use super::journal_places::on_one_disk;
use super::machine::{Finding, NO_ANSWER, Verdict};
use super::mount_table::Mount;
use super::status::{CacheDirectoryStatus, JournalStatus, Status, bytes};
use crate::cache::room::DISK_FULL;
use crate::types::printable::one_line;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// A median that is felt at every open.
const SLOW_CALL_US: u64 = 5_000;
/// A median of fewer says nothing.
const CALLS_MIN: u64 = 100;
/// What a read of the server should ask for at once.
const READ_SIZE_WANTED: u64 = 1 << 18;
/// A cache that gives away what it is asked for soon after.
const POOR_HITS_PERCENT: u64 = 50;
/// Enough for most.
const DESCRIPTORS_WANTED: u64 = 65_536;
/// Below that there is nothing to judge by.
const READ_BYTES_MIN: u64 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Something does not work, or may not.
    Wrong,
    /// It works, and could do better.
    Better,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    pub urgency: Urgency,
    pub found: String,
    /// What to do, a command where there is one.
    pub remedy: String,
}

impl Advice {
    fn wrong(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            urgency: Urgency::Wrong,
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    fn better(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            urgency: Urgency::Better,
            ..Self::wrong(found, remedy)
        }
    }

    pub fn in_words(&self) -> String {
        let mark = match self.urgency {
            Urgency::Wrong => "!!",
            Urgency::Better => "--",
        };
        let (found, remedy) = (one_line(&self.found), one_line(&self.remedy));
        format!("{mark}  {found}\n    {remedy}\n")
    }
}

/// From what the daemon tells.
pub fn of_status(status: &Status) -> Vec<Advice> {
    let mut advice = Vec::new();
    advice.extend(of_backend(status));
    advice.extend(of_directories(status));
    advice.extend(of_journal(status));
    if status.scrub.bad_blocks > 0 {
        advice.push(Advice::wrong(
            format!(
                "the cache disks gave other bytes than were stored, {} blocks",
                status.scrub.bad_blocks
            ),
            "dmesg | tail; smartctl -a on the disk; a test of the memory",
        ));
    }
    advice.extend(of_hits(status));
    advice.extend(of_space(status));
    for option in status.options.iter().filter(|one| one.from != "default") {
        if let Some(reason) = &option.no_effect_because {
            let found = format!("{}={} has no effect: {reason}", option.name, option.value);
            let remedy = format!("leave it out ({})", option.from);
            advice.push(Advice::better(found, remedy));
        }
    }
    advice
}

fn of_backend(status: &Status) -> Option<Advice> {
    let backend = &status.backend;
    if backend.is_moved {
        return Some(Advice::wrong(
            format!(
                "the backend {} was renamed, removed or unmounted since the mount: what is served is not what has that name now",
                backend.path
            ),
            format!(
                "nfs-cachefs umount {}, and mount it again",
                status.mountpoint
            ),
        ));
    }
    if !backend.reachable {
        return Some(Advice::wrong(
            format!("the backend {} does not answer", backend.path),
            format!(
                "look at the server and the way to it: timeout 5 stat -f {}; what is known is served meanwhile",
                backend.path
            ),
        ));
    }
    let is_slow = backend.latency_p50_us > SLOW_CALL_US && backend.ops >= CALLS_MIN;
    is_slow.then(|| {
        Advice::better(
            format!(
                "a call on the backend takes {} ms (median), and every open makes one",
                backend.latency_p50_us / 1000
            ),
            "where files do not change behind it: mount with nocto, or a longer actimeo",
        )
    })
}

fn of_directories(status: &Status) -> Vec<Advice> {
    let broken = status.cache.directories.iter();
    let broken = broken.filter(|directory| directory.state != "ok");
    broken
        .map(|directory| {
            let path = &directory.path;
            // It goes on by itself, and what is cached there would not outlive a new mount.
            let remedy = match directory.state.starts_with(DISK_FULL) {
                true => format!("df {path}; make room on that disk: the cache goes on by itself, and loses what it has if it is mounted anew before"),
                false => format!("dmesg | tail; df {path}; see to the disk first (fsck, mount -o remount,rw where it became read-only), then unmount and mount again: while the disk is as it is a new mount fails, or goes without it"),
            };
            Advice::wrong(format!("cache directory {path}: {}", directory.state), remedy)
        })
        .collect()
}

fn of_journal(status: &Status) -> Vec<Advice> {
    let mountpoint = &status.mountpoint;
    let mut advice = of_journal_devices(&status.journal, mountpoint);
    if status.writeback.conflicts > 0 {
        advice.push(Advice::wrong(
            format!(
                "{} files were changed elsewhere, too",
                status.writeback.conflicts
            ),
            format!("nfs-cachefs conflicts {mountpoint}"),
        ));
    }
    if status.writeback.failing_files > 0 {
        advice.push(Advice::wrong(
            format!(
                "the backend does not take {} files",
                status.writeback.failing_files
            ),
            format!("nfs-cachefs flush {mountpoint} --wait tells why"),
        ));
    }
    advice
}

fn of_journal_devices(journal: &JournalStatus, mountpoint: &str) -> Vec<Advice> {
    let mut advice = Vec::new();
    if !["", "ok"].contains(&journal.state.as_str()) {
        advice.push(Advice::wrong(
            format!("the journal takes nothing any more: {}", journal.state),
            "dmesg | tail; look at its disks, then unmount and mount again",
        ));
    }
    for device in journal.devices.iter().filter(|one| one.state != "ok") {
        advice.push(Advice::wrong(
            format!("the journal goes without {}: {}", device.path, device.state),
            format!(
                "with its disk there again: nfs-cachefs journal rebuild {mountpoint}; with another one: nfs-cachefs journal replace {mountpoint} {} NEW",
                device.path
            ),
        ));
    }
    if journal.erasure.ends_with("+0") {
        advice.push(Advice::better(
            format!("no disk of the journal may be lost (erasure={}): what is not on the backend yet is lost with it", journal.erasure),
            "unmount, then mount with empty directories on two disks or more as journal_dir, and erasure=1+1 or another with a second number",
        ));
    }
    if journal.lost_batches > 0 {
        advice.push(Advice::wrong(
            format!(
                "{} batches of the journal have lost more shards than may be: what they hold is EIO",
                journal.lost_batches
            ),
            format!("bring back the disks that have them; nfs-cachefs journal status {mountpoint}"),
        ));
    }
    if journal.weak_batches > 0 && !journal.is_at_work {
        advice.push(Advice::wrong(
            format!(
                "{} batches of the journal lack shards",
                journal.weak_batches
            ),
            format!("nfs-cachefs journal scrub {mountpoint}"),
        ));
    }
    advice
}

/// From the directories of the journal.
pub fn of_journal_places(journal: &JournalStatus) -> Vec<Advice> {
    let paths = journal.devices.iter().map(|device| Path::new(&device.path));
    let together = on_one_disk(paths).into_iter();
    together
        .map(|found| {
            Advice::better(
                found,
                "name directories on other disks, one after the other: nfs-cachefs journal replace",
            )
        })
        .collect()
}

/// A full cache that evicts what is read again.
fn of_hits(status: &Status) -> Option<Advice> {
    let cache = &status.cache;
    let read_bytes = cache.hit_bytes + cache.miss_bytes;
    if read_bytes < READ_BYTES_MIN || cache.objects_evicted == 0 {
        return None;
    }
    let hits_percent = cache.hit_bytes * 100 / read_bytes;
    (hits_percent < POOR_HITS_PERCENT).then(|| {
        Advice::better(
            format!(
                "{hits_percent} % of the bytes read hit, and {} files were evicted: the cache of {} may be too small",
                cache.objects_evicted,
                bytes(cache.bytes_limit)
            ),
            "a larger cache_size, or pin what is to stay: nfs-cachefs pin PATH",
        )
    })
}

/// Disks that have not the room for what `cache_size` promises.
fn of_space(status: &Status) -> Option<Advice> {
    let cache = &status.cache;
    let working = || cache.directories.iter().filter(|one| one.state == "ok");
    let sum = |of: fn(&CacheDirectoryStatus) -> u64| working().map(of).sum::<u64>();
    let (used, available) = (
        sum(|one| one.bytes_used),
        sum(|one| one.disk_bytes_available),
    );
    let is_short = working().count() > 0 && used + available < cache.bytes_limit / 2;
    is_short.then(|| {
        Advice::better(
            format!(
                "the cache may take {}, and with what is free on its disks it has room for {} at most",
                bytes(cache.bytes_limit),
                bytes(used + available)
            ),
            "make room on the disks of cache_dir, name another, or lower cache_size",
        )
    })
}

/// From how the backend is mounted, where that is by NFS.
pub fn of_backend_mount(mount: &Mount) -> Vec<Advice> {
    if !mount.filesystem_type.starts_with("nfs") {
        return Vec::new();
    }
    let mut advice = Vec::new();
    let anew = |words: &str| mount_anew(mount, words);
    for word in ["soft", "softerr"] {
        if mount.shows(word) {
            advice.push(Advice::wrong(
                format!("the backend is mounted with {word}: a server slow for a moment is an error, or old attributes"),
                anew("hard"),
            ));
        }
    }
    if mount
        .value_of("vers")
        .is_some_and(|version| version == "4.0")
    {
        advice.push(Advice::better(
            "the backend is mounted with vers=4.0, which has no file handles to know files by",
            anew("vers=4.2"),
        ));
    }
    let read_size = mount.value_of("rsize").and_then(|size| size.parse().ok());
    if let Some(size) = read_size.filter(|size: &u64| *size < READ_SIZE_WANTED) {
        advice.push(Advice::better(
            format!("the backend is read {} at a time (rsize)", bytes(size)),
            anew("rsize=1048576"),
        ));
    }
    if mount.value_of("nconnect").is_none() {
        advice.push(Advice::better(
            "one connection carries all that is read of the backend",
            anew("nconnect=4"),
        ));
    }
    advice
}

fn mount_anew(mount: &Mount, words: &str) -> String {
    format!(
        "with the cached mount unmounted: umount {0} && mount -o {words} {1} {0}; and the same in /etc/fstab",
        mount.mountpoint.display(),
        mount.source.to_string_lossy()
    )
}

/// What the process that asks has, and not the daemon; and what matters where an option asks for it, which the status tells.
const NOT_THE_DAEMONS: [&str; 5] = [
    "open files",
    "locked memory",
    "SQPOLL",
    "IOPOLL",
    "FUSE ring transport",
];

/// From what was tried on this machine.
pub fn of_machine(findings: &[Finding]) -> Vec<Advice> {
    let concerns = |finding: &&Finding| {
        let subject = finding.subject.as_str();
        finding.verdict != Verdict::Good
            && !NOT_THE_DAEMONS.contains(&subject)
            && !subject.starts_with("CAP_")
    };
    let concerning = findings.iter().filter(concerns);
    concerning
        .map(|finding| match finding.detail.ends_with(NO_ANSWER) {
            true => Advice::wrong(
                format!("the backend does not answer ({})", finding.subject),
                "look at the server and the way to it; what is known is served meanwhile",
            ),
            false => of_finding(finding),
        })
        .collect()
}

fn of_finding(finding: &Finding) -> Advice {
    Advice {
        urgency: match finding.verdict {
            Verdict::Fatal => Urgency::Wrong,
            Verdict::Good | Verdict::Missing => Urgency::Better,
        },
        found: format!(
            "{}: {}; without it: {}",
            finding.subject, finding.detail, finding.lost
        ),
        remedy: remedy(finding).to_owned(),
    }
}

fn remedy(finding: &Finding) -> &'static str {
    let says = |errno: i32| {
        let message = io::Error::from_raw_os_error(errno).to_string();
        finding.detail.contains(&message)
    };
    match finding.subject.as_str() {
        _ if says(libc::EROFS) => {
            "dmesg | tail; see to the disk of cache_dir first (fsck, mount -o remount,rw where it became read-only), then unmount and mount again"
        }
        _ if says(libc::ENOSPC) => "df; make room on the disk of cache_dir",
        "cache disk" => "put cache_dir on a local disk with ext4, xfs or btrfs",
        "name_to_handle_at" => "mount the export with NFS v3, v4.1 or v4.2",
        "io_uring" => "sysctl kernel.io_uring_disabled=0, where the kernel has it",
        _ => "boot a newer kernel (6.9 or newer has all); uname -r shows which this is",
    }
}

/// From /proc/PID/limits of the daemon.
pub fn of_limits(limits: &str) -> Option<Advice> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let hard: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    (hard < DESCRIPTORS_WANTED).then(|| {
        Advice::better(
            format!("the daemon may open {hard} files, three for each that a program has open"),
            "LimitNOFILE=1048576 in its unit, or ulimit -Hn 1048576 before mounting, where the machine (a container) lets it be raised",
        )
    })
}

/// From the disk below a cache directory.
pub fn of_disk(directory: &Path, is_rotating: bool) -> Option<Advice> {
    is_rotating.then(|| {
        Advice::better(
            format!(
                "{} lies on a disk that says it turns (virtual disks may say so wrongly)",
                directory.display()
            ),
            "move cache_dir to an SSD: a cache on a slow disk may be slower than the server",
        )
    })
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
