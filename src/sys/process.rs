//! Processes and signals.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork};

/// Which side of a fork this is.
pub enum Side {
    Parent { child_pid: i32 },
    Child,
}

/// fork(2). An error when this process has more than one thread: the child would inherit locks that
/// nobody releases.
pub fn fork_single_threaded() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "cannot go into the background: {threads} threads run already"
        )));
    }
    // SAFETY: this is the only thread, so the child's memory is consistent and no lock is held
    // by a thread that does not exist in it.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent {
            child_pid: child.as_raw(),
        }),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Ignores signals for the whole process.
pub fn ignore_signals(signals: &[Signal]) -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in signals {
        // SAFETY: SIG_IGN installs no code of ours.
        unsafe { sigaction(*signal, &action) }?;
    }
    Ok(())
}

/// _exit(2): ends the process at once, without destructors and without waiting for any thread.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit is always sound; nothing of ours runs after it.
    unsafe { libc::_exit(status) }
}

/// What /proc/PID/stat (proc_pid_stat(5)) tells of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessFacts {
    /// Since boot, in clock ticks: tells apart two processes that had one id.
    pub start_ticks: u64,
    /// Its first thread has ended. That of a process that only ends as a whole ends no earlier than every thread is
    /// to die before it runs any code again; some may still hang in the kernel and keep descriptors open.
    pub is_dead: bool,
}

/// ENOENT when there is no such process.
pub fn process_facts(pid: i32) -> io::Result<ProcessFacts> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    facts_in(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

fn facts_in(stat: &[u8]) -> Option<ProcessFacts> {
    // The name, in parentheses, may hold anything, these too.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat[name_end + 1..]
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let state = fields.next()?;
    // State is the third field, the start the 22nd.
    let start = std::str::from_utf8(fields.nth(22 - 4)?).ok()?;
    Some(ProcessFacts {
        start_ticks: start.parse().ok()?,
        is_dead: matches!(state, b"Z" | b"X"),
    })
}

/// The process that a thread is of, and its name. `None` when it has ended.
pub fn process_of(thread: u32) -> Option<(u32, String)> {
    let status = std::fs::read(format!("/proc/{thread}/status")).ok()?;
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Tgid:"))?;
    let process = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
    let name = std::fs::read(format!("/proc/{process}/comm")).ok()?;
    Some((
        process,
        String::from_utf8_lossy(&name).trim_end().to_owned(),
    ))
}

/// The supplementary groups of a process or thread, from /proc/PID/status (proc_pid_status(5)). ENOENT when there is none
/// of that id.
pub fn groups_of(pid: u32) -> io::Result<Vec<u32>> {
    let status = std::fs::read(format!("/proc/{pid}/status"))?;
    groups_in(&status)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status is not understood")))
}

fn groups_in(status: &[u8]) -> Option<Vec<u32>> {
    // The name, on the first line, has its line ends escaped.
    let groups = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Groups:"))?;
    groups
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .map(|field| std::str::from_utf8(field).ok()?.parse().ok())
        .collect()
}

/// Whether a thread is ending, or was sent a signal that ends it (which reaches it as SIGKILL), or is no more.
pub fn is_ending(thread: u32) -> bool {
    let read = |file| std::fs::read(format!("/proc/{thread}/{file}"));
    match (read("status"), read("stat")) {
        (Ok(status), Ok(stat)) => is_killed_in(&status) || is_exiting_in(&stat),
        _ => true,
    }
}

fn is_killed_in(status: &[u8]) -> bool {
    const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);
    let mut lines = status.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let pending = line
            .strip_prefix(b"SigPnd:")
            .or_else(|| line.strip_prefix(b"ShdPnd:"));
        let text = pending.and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .is_some_and(|signals| signals & SIGKILL_BIT != 0)
    })
}

fn is_exiting_in(stat: &[u8]) -> bool {
    /// PF_EXITING (linux/sched.h).
    const EXITING: u64 = 0x4;
    let after_name = stat.iter().rposition(|byte| *byte == b')');
    let mut fields = after_name
        .map_or(&[][..], |at| &stat[at + 1..])
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    // The state, which comes first, is field 3; the flags are field 9.
    let flags = fields
        .nth(9 - 3)
        .and_then(|text| std::str::from_utf8(text).ok());
    flags
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|flags| flags & EXITING != 0)
}

/// A descriptor of another process, so that its end can be waited for and its id is not confused with a
/// later one's. ESRCH when there is no such process.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until the process has ended with all its threads; false when it has not after `timeout`.
pub fn wait_for_end(process: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left_ms = deadline
            .saturating_duration_since(std::time::Instant::now())
            .as_millis()
            .min(i32::MAX as u128) as i32;
        let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_a_process_are_read_whatever_its_name() {
        let ours = process_facts(std::process::id() as i32).expect("we run");
        assert!(!ours.is_dead && ours.start_ticks > 0);
        let stat = b"7 (a) Z (b) c) Z 1 7 7 0 -1 4 0 0 0 0 5 6 0 0 20 0 3 0 4711 0 0\n";
        let facts = facts_in(stat).expect("well-formed");
        assert_eq!(facts.start_ticks, 4711);
        assert!(facts.is_dead);
        assert_eq!(facts_in(b"7 (a"), None);
    }

    #[test]
    fn groups_are_read_from_their_own_line() {
        let status = b"Name:\tGroups:\\n1\nUid:\t0\t0\t0\t0\nGroups:\t4 24 1000 \nVmPeak:\t7 kB\n";
        assert_eq!(groups_in(status), Some(vec![4, 24, 1000]));
        assert_eq!(groups_in(b"Groups:\t \n"), Some(vec![]));
        assert_eq!(groups_in(b"Groups:\t4 x\n"), None);
        assert_eq!(groups_in(b"Name:\ta\n"), None);
        assert!(groups_of(std::process::id()).is_ok());
    }

    #[test]
    fn a_thread_is_ending_when_it_was_killed_exits_or_is_gone() {
        assert!(!is_ending(std::process::id()));
        assert!(is_ending(i32::MAX as u32));
        assert!(is_killed_in(
            b"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"
        ));
        assert!(!is_killed_in(
            b"SigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\n"
        ));
        assert!(is_exiting_in(b"7 (a) b) R 1 7 7 0 -1 4194308 0 0"));
        assert!(!is_exiting_in(b"7 (a) b) R 1 7 7 0 -1 4194304 0 0"));
    }

    #[test]
    fn a_process_nobody_has_waited_for_is_dead() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id() as i32;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !process_facts(pid).expect("not waited for").is_dead {
            assert!(std::time::Instant::now() < deadline, "`true` does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.wait().expect("wait");
    }

    #[test]
    fn the_end_of_a_process_is_noticed_and_a_living_one_times_out() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .expect("sleep");
        let process = open_process(child.id() as i32).expect("pidfd");
        assert!(!wait_for_end(&process, Duration::from_millis(20)).expect("poll"));
        child.kill().expect("kill");
        assert!(wait_for_end(&process, Duration::from_secs(5)).expect("poll"));
        child.wait().expect("wait");
    }
}
