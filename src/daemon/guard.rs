//! A process beside the daemon that does nothing for as long as the daemon lives.
//!
//! Why: a killed daemon's thread may wait in the kernel for a page (a notification of the kernel's own page cache does,
//! fs/fuse/inode.c, fuse_reverse_inval_inode) that a program holds locked until the daemon has read it. Neither ends
//! then: the thread keeps the daemon's end of the connection open, for which the program waits. Somebody else has to
//! cut the connection.

use super::control::{Client, socket_directory};
use super::error::exit_status;
use super::mount_table::{self, Mount};
use super::unmount::{self, is_dead};
use crate::sys::process::{open_process, wait_for_end};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What it is called by: the same programs, under this name.
const NAME: &str = "cachefs-guard";

/// A daemon that ends as it should has ended by then.
const GRACE: Duration = Duration::from_secs(1);

/// Sent to the guard when the daemon's first thread has ended (PR_SET_PDEATHSIG(2const)).
const DEATH: Signal = Signal::SIGUSR1;

/// The guard of this daemon. Dropped, it ends: whoever ends in order needs none.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Called on the daemon's first thread, whose end it is told of, while the mount and its control socket are there.
    pub fn start(mountpoint: &Path) -> io::Result<Self> {
        let mount = mount_table::topmost_at(mountpoint)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let guard = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(std::process::id().to_string())
            .arg(mount.mount_id.to_string())
            .arg(mountpoint)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(guard))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            tracing::debug!("the guard: {error}");
        }
    }
}

/// Whether the program was called as a guard.
pub fn is_asked_for(program: Option<&OsString>) -> bool {
    program.is_some_and(|name| name == OsStr::new(NAME))
}

struct Guarded {
    daemon: i32,
    mount_id: u64,
    mountpoint: PathBuf,
}

/// Waits for the daemon's death, and cuts its connection if it hangs in the kernel then. Returns the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    match read_arguments(arguments).map(|guarded| watch_over(&guarded)) {
        Some(Ok(())) => exit_status::SUCCESS,
        Some(Err(_)) => exit_status::SYSTEM,
        None => exit_status::USAGE,
    }
}

fn read_arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Guarded> {
    let mut arguments = arguments.into_iter().skip(1);
    let mut number = || arguments.next()?.to_str()?.parse::<u64>().ok();
    Some(Guarded {
        daemon: i32::try_from(number()?).ok()?,
        mount_id: number()?,
        mountpoint: arguments.next()?.into(),
    })
}

fn watch_over(guarded: &Guarded) -> io::Result<()> {
    // What is sent to a whole group, as at the end of a unit, is not meant to end this before the daemon.
    SigSet::all().thread_block()?;
    let process = open_process(guarded.daemon)?;
    prctl::set_name(c"cachefs-guard")?;
    prctl::set_pdeathsig(DEATH)?;
    let mut deaths = SigSet::empty();
    deaths.add(DEATH);
    // Others may send it too.
    while getppid() == Pid::from_raw(guarded.daemon) && !is_dead(guarded.daemon) {
        deaths.wait()?;
    }
    if wait_for_end(&process, GRACE)? {
        return Ok(());
    }
    if let Some(mount) = still_there(guarded)? {
        unmount::abort(&mount);
    }
    Ok(())
}

/// The mount as long as it is this daemon's: another may have taken its place, number and all.
fn still_there(guarded: &Guarded) -> io::Result<Option<Mount>> {
    let mount = mount_table::mounts()?.into_iter().find(|mount| {
        mount.mount_id == guarded.mount_id
            && mount.mountpoint == guarded.mountpoint
            && mount.is_cachefs()
    });
    let pid = Client::connect(&socket_directory(), &guarded.mountpoint)
        .and_then(|client| client.daemon_pid());
    Ok(mount.filter(|_| pid.is_ok_and(|pid| pid == guarded.daemon && is_dead(pid))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_guard_s_command_line_ends_at_once() {
        let run = |words: &[&str]| run(words.iter().map(OsString::from));
        assert_eq!(run(&[NAME]), exit_status::USAGE);
        assert_eq!(run(&[NAME, "1", "x", "/"]), exit_status::USAGE);
        assert_eq!(run(&[NAME, "-1", "1", "/"]), exit_status::USAGE);
        assert!(is_asked_for(Some(&NAME.into())));
        assert!(!is_asked_for(Some(&"nfs-cachefs".into())));
        assert!(!is_asked_for(None));
    }
}
