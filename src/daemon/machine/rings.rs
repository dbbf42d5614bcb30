//! io_uring: whether there is one, which of the operations the engine needs it has, and its polling modes.

use super::Finding;
use io_uring::{IoUring, Probe, opcode};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The operations the engine uses, and what it does without them.
const OPERATIONS: [(&str, u8, &str); 5] = [
    (
        "READ_FIXED",
        opcode::ReadFixed::CODE,
        "the blocking engine reads cache disks",
    ),
    (
        "READ",
        opcode::Read::CODE,
        "the blocking engine reads cache disks",
    ),
    (
        "SPLICE",
        opcode::Splice::CODE,
        "fills copy through memory, at three times the CPU",
    ),
    (
        "WRITE",
        opcode::Write::CODE,
        "fills copy through memory, at three times the CPU",
    ),
    (
        "ASYNC_CANCEL",
        opcode::AsyncCancel::CODE,
        "reads on a failing disk are waited for",
    ),
];

pub fn examine(cache: &Path) -> Vec<Finding> {
    let ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => return vec![no_ring(&error)],
    };
    let mut findings = vec![Finding::good("io_uring", features(&ring))];
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    for (name, code, lost) in OPERATIONS {
        let subject = format!("io_uring {name}");
        findings.push(match &probed {
            Ok(()) if probe.is_supported(code) => Finding::good(&subject, "supported"),
            Ok(()) => Finding::missing(&subject, "not in this kernel", lost),
            Err(error) => {
                Finding::missing(&subject, format!("the kernel does not tell: {error}"), lost)
            }
        });
    }
    findings.push(submission_polling());
    findings.push(completion_polling(cache));
    findings
}

pub(super) fn no_ring(error: &std::io::Error) -> Finding {
    let disabled =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let why = match disabled.trim() {
        "1" | "2" => format!(
            "switched off by sysctl kernel.io_uring_disabled={}",
            disabled.trim()
        ),
        _ => error.to_string(),
    };
    Finding::missing(
        "io_uring",
        why,
        "a pool of threads reads cache disks, cold random reads are 3 to 4 times slower",
    )
}

fn features(ring: &IoUring) -> String {
    let parameters = ring.params();
    let mut words = vec!["works"];
    for (has, word) in [
        (parameters.is_feature_nodrop(), "no completion is dropped"),
        (parameters.is_feature_single_mmap(), "one mapping"),
        (parameters.is_feature_ext_arg(), "waits with timeouts"),
    ] {
        if has {
            words.push(word);
        }
    }
    words.join(", ")
}

fn submission_polling() -> Finding {
    let built: std::io::Result<IoUring> = IoUring::builder().setup_sqpoll(10).build(8);
    match built {
        Ok(_) => Finding::good("SQPOLL", "works (nvme_sq_poll_idle_ms)"),
        Err(error) => Finding::missing(
            "SQPOLL",
            error.to_string(),
            "nvme_sq_poll_idle_ms has no effect: every batch of reads costs a system call",
        ),
    }
}

fn completion_polling(cache: &Path) -> Finding {
    const LOST: &str = "nvme_polling_mode has no effect: completions come by interrupt";
    match poll_queue(cache) {
        Some((disk, true)) => Finding::good("IOPOLL", format!("disk {disk} has polling queues")),
        Some((disk, false)) => Finding::missing(
            "IOPOLL",
            format!("disk {disk} has no polling queues (nvme.poll_queues)"),
            LOST,
        ),
        None => Finding::missing(
            "IOPOLL",
            format!("{} lies on no block device of its own", cache.display()),
            LOST,
        ),
    }
}

/// The disk under a directory, and whether it has polling queues (queue/io_poll in sysfs; a partition's
/// queue is its disk's).
fn poll_queue(directory: &Path) -> Option<(String, bool)> {
    let device = directory.metadata().ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let sysfs: PathBuf = format!("/sys/dev/block/{major}:{minor}").into();
    let block = sysfs.canonicalize().ok()?;
    let disk = match block.join("queue").is_dir() {
        true => block,
        false => block.parent()?.to_owned(),
    };
    let polls = std::fs::read_to_string(disk.join("queue/io_poll")).ok()?;
    Some((
        disk.file_name()?.to_string_lossy().into_owned(),
        polls.trim() == "1",
    ))
}
