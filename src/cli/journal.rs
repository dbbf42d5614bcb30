//! `nfs-cachefs journal status|scrub|rebuild|replace MOUNTPOINT`, and `nfs-cachefs journal forget|accept JOURNAL CACHE_DIR...`

use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request};
use crate::daemon::error::exit_status;
use crate::daemon::journal_devices::JournalChange;
use crate::daemon::journal_memory;
use crate::daemon::status::JournalStatus;
use crate::types::printable::one_line;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 it worked, 1 usage, 2 error, 3 status, or after waiting: devices or shards are missing."
)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the devices of a journal, and how many more may be lost
    Status {
        /// The mount whose journal is meant
        mountpoint: PathBuf,
    },
    /// Read all that is needed, and mend what is damaged
    Scrub {
        /// The mount whose journal is meant
        mountpoint: PathBuf,
        /// Return at once; `journal status` tells how far it is
        #[arg(long)]
        no_wait: bool,
    },
    /// Take in again the directories of journal_dir that do not take part; what they hold is removed
    Rebuild {
        /// The mount whose journal is meant
        mountpoint: PathBuf,
        /// Return when they are taken in; what they lack comes to them in the background, `journal status` tells how far it is
        #[arg(long)]
        no_wait: bool,
    },
    /// Put another directory in the place of one; change journal_dir in fstab, too
    Replace {
        /// The mount whose journal is meant
        mountpoint: PathBuf,
        /// As journal_dir names it
        old: PathBuf,
        /// Empty, or of this journal before: what it holds of a journal is removed
        new: PathBuf,
        /// Return when it is taken in; what it lacks comes to it in the background, `journal status` tells how far it is
        #[arg(long)]
        no_wait: bool,
    },
    /// Give up a journal that is lost for good, with all that was written and the backend does not have
    ///
    /// A mount whose journal is not there is refused, and names the journal and this command. The next mount begins a new
    /// one in empty directories. Nothing is removed that is in a journal.
    Forget {
        /// As the refused mount names it
        journal: String,
        /// All cache directories of the mount, none of which is in use
        #[arg(required = true, value_name = "CACHE_DIR")]
        cache_directories: Vec<PathBuf>,
    },
    /// Take copies of a journal's directories for all there is of it
    ///
    /// After a crash a mount is refused where directories of its journal are copies, and no others can tell that these are
    /// not old. What an old copy lacks is lost.
    Accept {
        /// As the refused mount names it
        journal: String,
        /// All cache directories of the mount, none of which is in use
        #[arg(required = true, value_name = "CACHE_DIR")]
        cache_directories: Vec<PathBuf>,
    },
}

/// Less may be lost than could be.
const WEAK: i32 = 3;
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub fn run(arguments: Arguments) -> i32 {
    let done = match arguments.action {
        Action::Status { mountpoint } => journal_status(&mountpoint).map(Some),
        Action::Scrub {
            mountpoint,
            no_wait,
        } => change(&mountpoint, JournalChange::Scrub, no_wait),
        Action::Rebuild {
            mountpoint,
            no_wait,
        } => change(&mountpoint, JournalChange::Rebuild, no_wait),
        Action::Replace {
            mountpoint,
            old,
            new,
            no_wait,
        } => {
            let (old, new) = (text(&old), text(&new));
            change(&mountpoint, JournalChange::Replace { old, new }, no_wait)
        }
        Action::Forget {
            journal,
            cache_directories,
        } => forget(&journal, &cache_directories).map(|()| None),
        Action::Accept {
            journal,
            cache_directories,
        } => accept(&journal, &cache_directories).map(|()| None),
    };
    match done {
        Ok(None) => exit_status::SUCCESS,
        Ok(Some(status)) => {
            say(&status.devices_in_words());
            match status.is_weak() {
                true => WEAK,
                false => exit_status::SUCCESS,
            }
        }
        Err(error) => {
            complain(error);
            exit_status::SYSTEM
        }
    }
}

fn forget(journal: &str, cache_directories: &[PathBuf]) -> Result<(), String> {
    let forgotten = journal_memory::forget(journal, cache_directories);
    let forgotten = forgotten.map_err(|error| format!("{error:#}"))?;
    let line = format!(
        "the journal {journal} in {} is forgotten; {} what was written to {} and that does not have",
        forgotten.directories,
        forgotten.holding_in_words(),
        forgotten.backend_name
    );
    say(&(one_line(&line) + "\n"));
    Ok(())
}

fn accept(journal: &str, cache_directories: &[PathBuf]) -> Result<(), String> {
    let accepted = journal_memory::accept(journal, cache_directories);
    let accepted = accepted.map_err(|error| format!("{error:#}"))?;
    let line = format!(
        "the journal {journal} in {} is taken as it is: mount it",
        accepted.directories
    );
    say(&(one_line(&line) + "\n"));
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What there is when everything is done, unless nobody waits for that.
fn change(
    mountpoint: &Path,
    change: JournalChange,
    no_wait: bool,
) -> Result<Option<JournalStatus>, String> {
    match ask(mountpoint, &Request::Journal { change })? {
        Reply::JournalChanging => {}
        other => return Err(refusal(other)),
    }
    if no_wait {
        return Ok(None);
    }
    loop {
        let status = journal_status(mountpoint)?;
        if !status.is_at_work {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn journal_status(mountpoint: &Path) -> Result<JournalStatus, String> {
    match ask(mountpoint, &Request::Status)? {
        Reply::Status(status) if status.journal.state.is_empty() => {
            Err("it has no journal: it is mounted with write_mode=through".to_owned())
        }
        Reply::Status(status) => Ok(status.journal),
        other => Err(refusal(other)),
    }
}

fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Error { message } => message,
        other => format!("unexpected answer {other:?}"),
    }
}
