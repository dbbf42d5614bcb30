//! `nfs-cachefs mount BACKEND MOUNTPOINT [-o key=value,...] [-f]`

use super::complain;
use crate::config::{Given, Origin, Tolerance};
use crate::daemon::error::exit_status;
use crate::daemon::mount_table::resolve_parent;
use crate::daemon::report::LOST_WITHOUT_ROOT;
use crate::daemon::start::{MountRequest, mount};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Returns when the mount serves; the daemon goes on in the background and logs to syslog. Without options the cache lies under /var/cache/nfs-cachefs, or ~/.cache/nfs-cachefs of an ordinary user, and takes up to 80 % of that disk.

Exit status: 0 the mount serves, 1 usage or permissions, 2 system error, 32 the mount failed.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The directory to cache, normally a mounted NFS export
    backend: PathBuf,
    /// An existing directory where the files are to appear; may be BACKEND itself
    mountpoint: PathBuf,
    /// Options, separated by commas; may be repeated (`nfs-cachefs options` lists them)
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    options: Vec<OsString>,
    /// Stay in the foreground until the mount ends, and log to stderr
    #[arg(short, long)]
    foreground: bool,
}

pub fn run(arguments: Arguments) -> i32 {
    let is_root = nix::unistd::geteuid().is_root();
    let given = Given {
        mountpoint: as_named(&arguments.mountpoint),
        lists: arguments.options,
        fstab: None,
        tolerance: Tolerance::Strict,
    };
    let resolved = match given.resolve(is_root) {
        Ok(resolved) => resolved,
        Err(error) => {
            complain(error);
            return exit_status::USAGE;
        }
    };
    if let Some(named) = &resolved.settings.backend
        && *named != arguments.backend
        && resolved.origin("nfs_backend") == Origin::CommandLine
    {
        complain(format_args!(
            "two backends: {} and nfs_backend={}; leave the option out",
            arguments.backend.display(),
            named.display()
        ));
        return exit_status::USAGE;
    }
    if !is_root {
        complain(LOST_WITHOUT_ROOT);
    }
    mount(MountRequest {
        source: arguments.backend.clone().into_os_string(),
        backend: Some(arguments.backend),
        mountpoint: arguments.mountpoint,
        resolved,
        given,
        foreground: arguments.foreground,
    })
}

/// How settings files name a mountpoint. Where it cannot be looked at the mount fails, and says why.
pub(super) fn as_named(mountpoint: &Path) -> PathBuf {
    resolve_parent(mountpoint).unwrap_or_else(|_| mountpoint.to_owned())
}
