//! `nfs-cachefs reload MOUNTPOINT`

use super::status::ask;
use super::{complain, say};
use crate::config::Changes;
use crate::daemon::control::{Reply, Request};
use crate::daemon::error::exit_status;
use crate::types::printable::one_line;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "cache_size, the watermarks, write_limit and log can change while a mount serves; what else has changed is named, and holds from the next mount on. Where the file has an error nothing changes. SIGHUP does the same, and logs it.\n\nExit status: 0 done, 1 usage, 2 error."
)]
pub struct Arguments {
    /// The mount whose settings are meant
    mountpoint: PathBuf,
}

pub fn run(arguments: &Arguments) -> i32 {
    match ask(&arguments.mountpoint, &Request::Reload) {
        Ok(Reply::Reloaded(changes)) => tell(&changes),
        Ok(Reply::Error { message }) => fail(message),
        Ok(other) => fail(format_args!("unexpected answer {other:?}")),
        Err(error) => fail(error),
    }
}

fn tell(changes: &Changes) -> i32 {
    for change in &changes.made {
        say(&(one_line(change) + "\n"));
    }
    for change in &changes.refused {
        complain(format_args!("{change} holds from the next mount on"));
    }
    if *changes == Changes::default() {
        say(
            "nothing has changed (what the command line and /etc/fstab say goes before the file)\n",
        );
    }
    exit_status::SUCCESS
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}
