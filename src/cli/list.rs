//! `nfs-cachefs list [--json]`: all mounts of this machine, those whose daemon is dead among them.

use super::{complain, remark, say};
use crate::daemon::control::{Reply, Request, WirePath};
use crate::daemon::error::exit_status;
use crate::daemon::mount_table::{Mount, mounts};
use crate::daemon::status::{State, Status, bytes};
use crate::daemon::unmount::{connect, is_dead};
use crate::types::printable::one_line;
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "In JSON a path is a string, or an array of its bytes where it is not UTF-8. A mount that is shown at several places (bind mounts) is listed at each.\n\nExit status: 0 all serve, or there are none, 2 error, 3 one is dead or does not answer."
)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A mount is dead, or does not answer.
const SOME_NOT_SERVING: i32 = 3;

#[derive(Serialize)]
struct Listed {
    mountpoint: WirePath,
    /// "serving", "degraded", "starting", "stopping", "dead", "not answering", or "unknown" where only its owner may ask.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_limit: Option<u64>,
}

pub fn run(arguments: &Arguments) -> i32 {
    let mounts = match mounts() {
        Ok(mounts) => mounts,
        Err(error) => {
            complain(format_args!("/proc/self/mountinfo: {error}"));
            return exit_status::SYSTEM;
        }
    };
    let ours = mounts.iter().filter(|mount| mount.is_cachefs());
    let listed: Vec<Listed> = ours.map(look_at).collect();
    if arguments.json {
        match serde_json::to_string_pretty(&listed) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => {
                complain(error);
                return exit_status::SYSTEM;
            }
        }
    } else {
        if listed.is_empty() {
            remark("nothing is mounted");
        }
        let lines = listed.iter().map(|one| one_line(&one.in_words()) + "\n");
        say(&lines.collect::<String>());
    }
    match listed
        .iter()
        .any(|one| matches!(one.state, "dead" | "not answering"))
    {
        true => SOME_NOT_SERVING,
        false => exit_status::SUCCESS,
    }
}

/// Never touches the mount itself, which may hang.
fn look_at(mount: &Mount) -> Listed {
    let nothing = |state| Listed {
        mountpoint: WirePath::from(&*mount.mountpoint),
        state,
        name: None,
        backend: None,
        pid: None,
        bytes_used: None,
        bytes_limit: None,
    };
    let client = match connect(mount) {
        Ok(client) => client,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return nothing("unknown"),
        Err(_) if mount.owner().is_some_and(|owner| !is_own(owner)) => return nothing("unknown"),
        Err(_) => return nothing("dead"),
    };
    if client.daemon_pid().is_ok_and(is_dead) {
        return nothing("dead");
    }
    match client.ask(&Request::Status, ANSWER_TIMEOUT) {
        Ok(Reply::Status(status)) => Listed::of(mount, *status),
        Ok(_) | Err(_) => nothing("not answering"),
    }
}

fn is_own(user: u32) -> bool {
    nix::unistd::geteuid().as_raw() == user
}

impl Listed {
    fn of(mount: &Mount, status: Status) -> Self {
        Self {
            mountpoint: WirePath::from(&*mount.mountpoint),
            state: match status.state {
                State::Starting => "starting",
                State::Serving => "serving",
                State::Degraded => "degraded",
                State::Stopping => "stopping",
            },
            name: (status.name != status.mountpoint).then_some(status.name),
            backend: Some(status.backend.path),
            pid: Some(status.pid),
            bytes_used: Some(status.cache.bytes_used),
            bytes_limit: Some(status.cache.bytes_limit),
        }
    }

    fn in_words(&self) -> String {
        let mountpoint = PathBuf::from(self.mountpoint.clone());
        let mountpoint = mountpoint.display();
        let (Some(backend), Some(pid)) = (&self.backend, self.pid) else {
            let hint = match self.state {
                "unknown" => "only the user who mounted it and root may ask".to_owned(),
                _ => format!("`nfs-cachefs umount {mountpoint}` cleans up"),
            };
            return format!("{mountpoint}: {}; {hint}", self.state);
        };
        let name = self.name.as_ref();
        let name = name.map_or_else(String::new, |name| format!(" ({name})"));
        format!(
            "{mountpoint}{name}: {}, caches {backend}, {} of {} used, pid {pid}",
            self.state,
            bytes(self.bytes_used.unwrap_or_default()),
            bytes(self.bytes_limit.unwrap_or_default())
        )
    }
}
