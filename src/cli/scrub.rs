//! `nfs-cachefs scrub MOUNTPOINT [--wait]`

use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request};
use crate::daemon::error::exit_status;
use crate::daemon::status_of_scrub::{PassStatus, ScrubStatus};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 it has begun, or with --wait all is as it was stored, 1 usage, 2 error, 3 with --wait: blocks were bad; they are fetched again."
)]
pub struct Arguments {
    /// The mount whose cache is meant
    mountpoint: PathBuf,
    /// Wait for the end, and tell what was found
    #[arg(long)]
    wait: bool,
}

/// Some blocks were not what was stored.
const BAD_BLOCKS: i32 = 3;
/// A pass lasts as long as there is to read.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub fn run(arguments: &Arguments) -> i32 {
    match scrub(arguments) {
        Ok(None) => exit_status::SUCCESS,
        Ok(Some(pass)) => {
            say(&(pass.in_words() + "\n"));
            match pass.bad_blocks {
                0 => exit_status::SUCCESS,
                _ => BAD_BLOCKS,
            }
        }
        Err(error) => {
            complain(error);
            exit_status::SYSTEM
        }
    }
}

fn scrub(arguments: &Arguments) -> Result<Option<PassStatus>, String> {
    let asked = match ask(&arguments.mountpoint, &Request::Scrub)? {
        Reply::Scrubbing { asked } => asked,
        other => return Err(refusal(other)),
    };
    if !arguments.wait {
        return Ok(None);
    }
    loop {
        let status = scrub_status(&arguments.mountpoint)?;
        if status.answered >= asked {
            return Ok(Some(status.last_pass.unwrap_or_default()));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn scrub_status(mountpoint: &Path) -> Result<ScrubStatus, String> {
    match ask(mountpoint, &Request::Status)? {
        Reply::Status(status) => Ok(status.scrub),
        other => Err(refusal(other)),
    }
}

fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Error { message } => message,
        other => format!("unexpected answer {other:?}"),
    }
}
