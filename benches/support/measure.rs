//! Counters of the kernel around a piece of work, and medians.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

/// One run of a workload on one subject. What does not apply is left out of the JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub operations_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mib_per_s: Option<f64>,
    pub cpu_us_per_operation: f64,
    pub daemon_cpu_us_per_operation: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_requests: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_resident_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_after_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_per_sync: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained_after_s: Option<f64>,
}

/// What a workload did.
pub struct Work {
    pub operations: u64,
    pub bytes: u64,
    /// Nanoseconds of single operations.
    pub latencies: Option<Histogram<u64>>,
}

pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are supported")
}

/// Counters read before the work; [`Meter::stop`] turns the differences into a sample.
pub struct Meter {
    begin: Instant,
    reader_cpu: Duration,
    daemon: Option<(i32, Duration)>,
    disk: Option<(u64, DiskCounters)>,
}

impl Meter {
    /// `disk_of`: count the reads of the disk below this path.
    pub fn start(daemon_pid: Option<i32>, disk_of: Option<&Path>) -> anyhow::Result<Self> {
        let daemon = daemon_pid
            .map(|pid| process_cpu(pid).map(|cpu| (pid, cpu)))
            .transpose()?;
        let disk = match disk_of {
            Some(path) => {
                let device = fs::metadata(path)?.dev();
                disk_counters(device)?.map(|counters| (device, counters))
            }
            None => None,
        };
        Ok(Self {
            reader_cpu: own_cpu()?,
            daemon,
            disk,
            begin: Instant::now(),
        })
    }

    pub fn stop(self, work: &Work) -> anyhow::Result<Sample> {
        let elapsed_s = self.begin.elapsed().as_secs_f64().max(1e-9);
        let operations = work.operations.max(1) as f64;
        let reader = own_cpu()?.saturating_sub(self.reader_cpu);
        let daemon = match self.daemon {
            Some((pid, before)) => process_cpu(pid)?.saturating_sub(before),
            None => Duration::ZERO,
        };
        let mut sample = Sample {
            operations_per_s: operations / elapsed_s,
            mib_per_s: (work.bytes > 0).then(|| work.bytes as f64 / elapsed_s / f64::from(1 << 20)),
            cpu_us_per_operation: (reader + daemon).as_secs_f64() * 1e6 / operations,
            daemon_cpu_us_per_operation: daemon.as_secs_f64() * 1e6 / operations,
            ..Sample::default()
        };
        if let Some(latencies) = &work.latencies {
            sample.p50_us = Some(latencies.value_at_quantile(0.5) as f64 / 1e3);
            sample.p99_us = Some(latencies.value_at_quantile(0.99) as f64 / 1e3);
        }
        if let Some((device, before)) = self.disk
            && let Some(after) = disk_counters(device)?
        {
            sample.disk_read_bytes =
                Some((after.read_sectors - before.read_sectors) as f64 * SECTOR_BYTES);
            sample.disk_read_requests = Some((after.read_requests - before.read_requests) as f64);
        }
        Ok(sample)
    }
}

/// /proc/diskstats counts in these, whatever the disk's own sectors are (Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: f64 = 512.0;

struct DiskCounters {
    read_requests: u64,
    read_sectors: u64,
}

/// None where the device has no line (overlay, btrfs, tmpfs).
fn disk_counters(device: u64) -> anyhow::Result<Option<DiskCounters>> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let text = fs::read_to_string("/proc/diskstats").context("/proc/diskstats")?;
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.len() > 5 && fields[0] == major.to_string() && fields[1] == minor.to_string() {
            return Ok(Some(DiskCounters {
                read_requests: fields[3].parse()?,
                read_sectors: fields[5].parse()?,
            }));
        }
    }
    Ok(None)
}

fn own_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec())
        .sum::<i64>();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}

/// User and system time of a process with all its threads (proc_pid_stat(5), fields 14 and 15).
fn process_cpu(pid: i32) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon is gone")?;
    // The command name may hold spaces and parentheses; the fields follow its last one.
    let (_, fields) = text.rsplit_once(')').context("an odd /proc/PID/stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>())
        .sum::<Result<_, _>>()
        .context("an odd /proc/PID/stat")?;
    let ticks_per_s =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_s as f64))
}

pub fn resident_mib(pid: i32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon is gone")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("an odd VmRSS")?
        .parse()?;
    Ok(kib / 1024.0)
}

/// Writes everything back and forgets clean pages, names and inodes. Root only.
pub fn drop_caches() -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "cold workloads need root");
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")
}

/// The middle value; of an even number, the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
