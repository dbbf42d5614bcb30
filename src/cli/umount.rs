//! `nfs-cachefs umount MOUNTPOINT`

use super::complain;
use crate::daemon::error::exit_status;
use crate::daemon::unmount::{Unmounted, unmount};
use std::path::PathBuf;

const AFTER_HELP: &str = "\
umount(8) works too, but returns before the daemon has ended.

Exit status: 0 unmounted, 1 usage, 2 unmounted but the daemon has not ended within 30 s, 32 in use or not mounted.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The mount to end
    mountpoint: PathBuf,
}

pub fn run(arguments: &Arguments) -> i32 {
    let shown = arguments.mountpoint.display();
    // Called from inside the mount, this process would be one of those that use it.
    let found = std::path::absolute(&arguments.mountpoint)
        .and_then(|path| std::env::set_current_dir("/").map(|()| path));
    let mountpoint = match found {
        Ok(path) => path,
        Err(error) => {
            complain(format_args!("{shown}: {error}"));
            return exit_status::MOUNT_FAILED;
        }
    };
    match unmount(&mountpoint) {
        Ok(Unmounted::Cleanly) => exit_status::SUCCESS,
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
