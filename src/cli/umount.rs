//! `nfs-cachefs umount MOUNTPOINT`

use super::flush::Progress;
use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request};
use crate::daemon::error::exit_status;
use crate::daemon::journal_control::UnsentReport;
use crate::daemon::status::bytes;
use crate::daemon::unmount::{Dirty, Unmounted, unmount};
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
What was written with write_mode=back goes to the backend first; where that does not take it, the mount stays.
umount(8) works too, but returns before the daemon has ended; without the helper /sbin/umount.fuse.cachefs it leaves
what the backend does not take within 10 s for the next mount.

Exit status: 0 unmounted, 1 usage, 2 unmounted but the daemon has not ended within 30 s, 32 in use, not mounted, or not all is on the backend.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The mount to end
    mountpoint: PathBuf,
    /// Leave what is not on the backend for the next mount
    #[arg(long)]
    keep_dirty: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    umount(&arguments.mountpoint, arguments.keep_dirty)
}

/// The same for whoever else is asked to unmount.
pub(super) fn umount(mountpoint: &Path, keep_dirty: bool) -> i32 {
    let shown = mountpoint.display();
    // Called from inside the mount, this process would be one of those that use it.
    let found = std::path::absolute(mountpoint)
        .and_then(|path| std::env::set_current_dir("/").map(|()| path));
    let mountpoint = match found {
        Ok(path) => path,
        Err(error) => {
            complain(format_args!("{shown}: {error}"));
            return exit_status::MOUNT_FAILED;
        }
    };
    let left_bytes = match keep_dirty {
        true => dirty_bytes(&mountpoint),
        false => 0,
    };
    let mut progress = Progress::default();
    let mut tell = |left: &UnsentReport| progress.show(left);
    let dirty = match keep_dirty {
        true => Dirty::Keep,
        false => Dirty::Send(&mut tell),
    };
    let outcome = unmount(&mountpoint, dirty);
    progress.end();
    match outcome {
        Ok(Unmounted::Cleanly) => {
            if left_bytes > 0 {
                let left = bytes(left_bytes);
                say(&format!(
                    "{shown}: {left} of changes stay in the journal, for the next mount\n"
                ));
            }
            exit_status::SUCCESS
        }
        Ok(Unmounted::Aborted { why }) => {
            complain(format_args!(
                "{shown}: the daemon is {why}: its connection was cut and the mount detached"
            ));
            exit_status::SUCCESS
        }
        Ok(Unmounted::DaemonRemains { pid }) => {
            complain(format_args!(
                "{shown}: unmounted, but the daemon (pid {pid}) has not ended yet"
            ));
            exit_status::SYSTEM
        }
        Err(error) => {
            complain(error);
            exit_status::MOUNT_FAILED
        }
    }
}

/// What a daemon that answers has not sent yet.
fn dirty_bytes(mountpoint: &Path) -> u64 {
    match ask(mountpoint, &Request::Status) {
        Ok(Reply::Status(status)) => status.journal.dirty_bytes,
        Ok(_) | Err(_) => 0,
    }
}
