//! `nfs-cachefs evict MOUNTPOINT [PATH...]`

use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request, WirePath, relative_to_mount};
use crate::daemon::error::exit_status;
use crate::daemon::unmount::find;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "All paths are looked up first: one that is not there is an error, and nothing goes.\n\nExit status: 0 everything asked for is gone, 1 usage, 2 error (a cache directory out of use among them), 3 files in use, or pinned, were left."
)]
pub struct Arguments {
    /// The mount whose cache is meant
    mountpoint: PathBuf,
    /// Files, or directories with all beneath them: absolute, or relative to MOUNTPOINT; without any, everything goes
    paths: Vec<OsString>,
}

/// Some files are open, mapped or pinned, and were left in the cache.
const FILES_LEFT: i32 = 3;

pub fn run(arguments: &Arguments) -> i32 {
    let paths = match wire_paths(arguments) {
        Ok(paths) => paths,
        Err(error) => {
            complain(error);
            return exit_status::USAGE;
        }
    };
    match ask(&arguments.mountpoint, &Request::Evict { paths }) {
        Ok(Reply::Evicted(evicted)) => {
            say(&evicted.in_words());
            match evicted.files_left() {
                0 => exit_status::SUCCESS,
                _ => FILES_LEFT,
            }
        }
        Ok(Reply::Error { message }) | Err(message) => {
            complain(message);
            exit_status::SYSTEM
        }
        Ok(other) => {
            complain(format_args!("unexpected answer {other:?}"));
            exit_status::SYSTEM
        }
    }
}

/// The paths relative to the mount's root. An absolute path may name the mountpoint as the operator does or
/// resolved.
fn wire_paths(arguments: &Arguments) -> Result<Vec<WirePath>, String> {
    let given = std::path::absolute(&arguments.mountpoint).map_err(|error| error.to_string())?;
    let (resolved, mount) = find(&arguments.mountpoint)
        .map_err(|error| format!("{}: {error}", arguments.mountpoint.display()))?;
    // A bind mount of a part shows no more than that.
    let part = mount.map_or(PathBuf::new(), |mount| {
        mount.root.components().skip(1).collect()
    });
    if arguments.paths.is_empty() && part != Path::new("") {
        return Ok(vec![WirePath::from(part.as_path())]);
    }
    let relative = |path: &OsString| {
        // An unset variable of a script, and everything would go.
        if path.is_empty() {
            return Err("an empty path; without any path everything goes".to_owned());
        }
        relative_to_mount(&given, path)
            .or_else(|| relative_to_mount(&resolved, path))
            .map(|path| WirePath::from(part.join(path).as_path()))
            .ok_or_else(|| {
                format!(
                    "{}: not inside {}",
                    Path::new(path).display(),
                    arguments.mountpoint.display()
                )
            })
    };
    arguments.paths.iter().map(relative).collect()
}
