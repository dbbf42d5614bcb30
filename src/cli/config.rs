//! `nfs-cachefs config [MOUNTPOINT] [--json]`: the settings of a mount, and where each comes from.

use super::mount::as_named;
use super::status::ask;
use super::{complain, say};
use crate::config::{Given, Tolerance};
use crate::daemon::control::{Reply, Request};
use crate::daemon::error::exit_status;
use crate::daemon::fstab::entry_for;
use crate::daemon::unmount::find;
use crate::types::printable::one_line;
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of a mount that serves: what is in effect. Of another: what would be with /etc/fstab and the settings file as they are. Without MOUNTPOINT: what holds for all mounts.\n\nWhat is given counts in this order: command line, /etc/fstab, the settings file (the table of the mount's name, of its mountpoint, [default]), default.\n\nExit status: 0 told, 1 a setting is wrong, 2 error."
)]
pub struct Arguments {
    /// A mount that serves, or is to
    mountpoint: Option<PathBuf>,
    /// Options as of the command line, for a mount that does not serve
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    options: Vec<OsString>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    value: String,
    from: String,
}

pub fn run(arguments: &Arguments) -> i32 {
    let told = match &arguments.mountpoint {
        Some(mountpoint) if serves(mountpoint) => in_effect(mountpoint),
        other => planned(other.as_deref(), &arguments.options),
    };
    let settings = match told {
        Ok(settings) => settings,
        Err((status, error)) => {
            complain(error);
            return status;
        }
    };
    if arguments.json {
        match serde_json::to_string_pretty(&settings) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => {
                complain(error);
                return exit_status::SYSTEM;
            }
        }
        return exit_status::SUCCESS;
    }
    let lines = settings.iter().map(|setting| {
        let word = match setting.value.is_empty() {
            true => setting.name.clone(),
            false => format!("{}={}", setting.name, setting.value),
        };
        one_line(&format!("{word:<50} {}", setting.from)) + "\n"
    });
    say(&lines.collect::<String>());
    exit_status::SUCCESS
}

fn serves(mountpoint: &Path) -> bool {
    find(mountpoint).is_ok_and(|(_, mount)| mount.is_some())
}

fn in_effect(mountpoint: &Path) -> Result<Vec<Setting>, (i32, String)> {
    let failed = |error| (exit_status::SYSTEM, error);
    match ask(mountpoint, &Request::Status).map_err(failed)? {
        Reply::Status(status) => {
            let options = status.options.into_iter();
            let setting = options.map(|option| Setting {
                name: option.name,
                value: option.value,
                from: option.from,
            });
            Ok(setting.collect())
        }
        other => Err(failed(format!("unexpected answer {other:?}"))),
    }
}

fn planned(mountpoint: Option<&Path>, options: &[OsString]) -> Result<Vec<Setting>, (i32, String)> {
    let mountpoint = mountpoint.map(as_named).unwrap_or_default();
    let fstab = entry_for(&mountpoint).map(|entry| entry.options);
    if fstab.is_none() && !mountpoint.as_os_str().is_empty() {
        complain(format_args!(
            "{}: nothing of nfs-cachefs is mounted there, and /etc/fstab has no line for it: a mount would have this",
            mountpoint.display()
        ));
    }
    let given = Given {
        lists: fstab.iter().chain(options).cloned().collect(),
        fstab,
        mountpoint,
        tolerance: Tolerance::Strict,
    };
    let resolved = given.resolve(nix::unistd::geteuid().is_root());
    let resolved = resolved.map_err(|error| (exit_status::USAGE, error.to_string()))?;
    let settings = resolved.in_effect().into_iter();
    let setting = settings.map(|(name, value, origin)| Setting {
        name: name.to_owned(),
        value,
        from: origin.to_string(),
    });
    Ok(setting.collect())
}
