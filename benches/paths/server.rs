//! The first read of a cold file over a simulated NFS server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::support::measure::{Meter, Sample, Work, drop_caches};
use crate::support::report::Report;
use crate::support::slow_server::SlowServer;
use crate::support::subject::{evict, product, start_cached};
use crate::workload::{stream, write_random};

pub const NAME: &str = "miss-slow-server";
/// About 5 s a round at that bandwidth.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// Reads the file directly from the slow server and through the cache, in turns. Skipped, and said so, where
/// the example has not been built.
pub fn run(
    scratch: &Path,
    rounds: usize,
    size_bytes: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let size_bytes = size_bytes.min(FILE_BYTES_MAX);
    let backing = scratch.join("server-disk");
    std::fs::create_dir_all(&backing)?;
    write_random(&backing.join("file"), size_bytes)?;
    // A file that is the newest thing on its server is read 20 ms later than any other (docs/SEMANTICS.md); what
    // is measured here is any other.
    std::thread::sleep(Duration::from_millis(100));
    std::fs::write(backing.join("newer"), b"")?;

    let Some(server) = SlowServer::start(NAME, &backing, scratch, Duration::ZERO)? else {
        return Ok(());
    };
    let export = &server.export;
    let mountpoint = scratch.join("mount-slow");
    let cached = start_cached(
        export,
        &mountpoint,
        &scratch.join("cache-slow"),
        "passthrough=auto",
    )?;
    for round in 0..rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                drop_caches()?;
                report.add(
                    NAME,
                    "native",
                    first_read(&export.join("file"), size_bytes, None)?,
                );
            } else {
                evict(&mountpoint)?;
                drop_caches()?;
                let before = cached_bytes(&mountpoint)?;
                let mut sample =
                    first_read(&mountpoint.join("file"), size_bytes, Some(cached.pid()))?;
                sample.complete_after_ms = Some(wait_complete(&mountpoint, before + size_bytes)?);
                report.add(NAME, "cached", sample);
            }
        }
    }
    Ok(())
}

fn first_read(path: &Path, size_bytes: u64, daemon_pid: Option<i32>) -> anyhow::Result<Sample> {
    let meter = Meter::start(daemon_pid, None)?;
    let begin = Instant::now();
    File::open(path)?.read_exact_at(&mut [0; 4096], 0)?;
    let first_byte = begin.elapsed();
    let bytes = stream(path, size_bytes, None)?;
    let mut sample = meter.stop(&Work {
        operations: bytes.div_ceil(1 << 20),
        bytes,
        latencies: None,
    })?;
    sample.first_byte_ms = Some(first_byte.as_secs_f64() * 1e3);
    Ok(sample)
}

fn cached_bytes(mountpoint: &Path) -> anyhow::Result<u64> {
    let output = product()
        .arg("status")
        .arg(mountpoint)
        .arg("--json")
        .output()?;
    let status: Value = serde_json::from_slice(&output.stdout).context("the status is no JSON")?;
    status["cache"]["bytes_used"]
        .as_u64()
        .context("the status has no cache.bytes_used")
}

/// Milliseconds until the cache holds this much; an error after 30 s.
fn wait_complete(mountpoint: &Path, wanted_bytes: u64) -> anyhow::Result<f64> {
    let begin = Instant::now();
    while cached_bytes(mountpoint)? < wanted_bytes {
        ensure!(
            begin.elapsed() < Duration::from_secs(30),
            "the file is not complete in the cache after 30 s"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
