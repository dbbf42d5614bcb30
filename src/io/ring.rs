//! What every ring here has in common: how it is set up, what is probed, and how the one thread that
//! waits in it is woken.
//!
//! A ring belongs to one thread that submits and reaps. That is not only cheaper (the kernel runs
//! completions when that thread enters, IORING_SETUP_DEFER_TASKRUN); the kernel finishes a request on
//! the thread that submitted it, so a request submitted by a thread that then sits in a call to a hung
//! server would never complete.

#![allow(unsafe_code)]

use crate::sys::wakeup::Wakeup;
use io_uring::{IoUring, Probe, opcode, types};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Marks the completions of the wake-up descriptor; slots are numbered from 0.
pub(crate) const WAKEUP_USER_DATA: u64 = u64::MAX;
/// Marks completions that mean nothing but that the ring was entered.
pub(crate) const NOP_USER_DATA: u64 = u64::MAX - 1;

/// The operations used here, with their names for reports.
const OPERATIONS: [(&str, u8); 5] = [
    ("read", opcode::Read::CODE),
    ("read_fixed", opcode::ReadFixed::CODE),
    ("splice", opcode::Splice::CODE),
    ("poll_add", opcode::PollAdd::CODE),
    ("nop", opcode::Nop::CODE),
];

/// Whether this kernel lets us have a ring, and which of the operations we use it knows. The error is a
/// sentence for the operator.
pub fn probe() -> Result<Vec<(&'static str, bool)>, String> {
    let ring = IoUring::new(4).map_err(|error| explain_refusal(&error))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| format!("io_uring cannot be probed ({error})"))?;
    Ok(OPERATIONS
        .iter()
        .map(|(name, code)| (*name, probe.is_supported(*code)))
        .collect())
}

/// Why there is no usable io_uring, if so.
pub(crate) fn usable() -> Result<(), String> {
    let missing: Vec<_> = probe()?
        .into_iter()
        .filter(|(_, supported)| !supported)
        .map(|(name, _)| name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "this kernel's io_uring lacks {}",
            missing.join(", ")
        ))
    }
}

fn explain_refusal(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(0);
    match (disabled, error.raw_os_error()) {
        (1 | 2, Some(libc::EPERM)) => {
            format!("io_uring is switched off: sysctl kernel.io_uring_disabled is {disabled}")
        }
        (_, Some(libc::EPERM | libc::EACCES)) => {
            "io_uring is not permitted here (seccomp or another security policy)".to_owned()
        }
        (_, Some(libc::ENOSYS)) => "this kernel has no io_uring".to_owned(),
        (_, Some(libc::ENOMEM)) => {
            format!("no memory for an io_uring ({error}); raise LimitMEMLOCK")
        }
        _ => format!("io_uring is refused: {error}"),
    }
}

/// A ring for the calling thread alone, with the cheapest completion mode that the kernel has
/// (6.1, 5.19, any).
pub(crate) fn single_thread_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_clamp()
        .build(entries)
        .or_else(|_| {
            IoUring::builder()
                .setup_coop_taskrun()
                .setup_clamp()
                .build(entries)
        })
        .or_else(|_| IoUring::builder().setup_clamp().build(entries))
}

/// A ring whose submissions a kernel thread picks up, asleep after `idle` without any.
pub(crate) fn submission_polled_ring(entries: u32, idle: Duration) -> io::Result<IoUring> {
    let idle_ms = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).max(1);
    IoUring::builder()
        .setup_sqpoll(idle_ms)
        .setup_clamp()
        .build(entries)
}

/// A ring whose completions are busily polled for (O_DIRECT only).
pub(crate) fn completion_polled_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_iopoll()
        .setup_clamp()
        .build(entries)
}

/// Queues the poll that lets `wakeup` end a wait in the ring, for as often as it is signalled.
/// Only the ring's thread may call it.
pub(crate) fn arm_wakeup(ring: &IoUring, wakeup: &Wakeup) -> bool {
    let entry = opcode::PollAdd::new(types::Fd(wakeup.as_raw_fd()), libc::POLLIN as u32)
        .multi(true)
        .build()
        .user_data(WAKEUP_USER_DATA);
    // SAFETY: only the ring's own thread uses its submission queue, and it holds no other borrow of it;
    // the entry refers to no memory, and the descriptor lives as long as the ring.
    unsafe { ring.submission_shared().push(&entry).is_ok() }
}

/// Submits what is queued and waits for at least one completion. False when the ring is unusable.
pub(crate) fn enter_and_wait(ring: &IoUring) -> bool {
    loop {
        match ring.submitter().submit_and_wait(1) {
            Ok(_) => return true,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Completions have to be reaped first.
                Some(libc::EBUSY | libc::EAGAIN) => return true,
                _ => {
                    tracing::error!("io_uring failed: {error}");
                    return false;
                }
            },
        }
    }
}
