//! `nfs-cachefs status MOUNTPOINT [--json]`

use super::located::locate_as_written;
use super::{complain, say};
use crate::daemon::control::{Client, Lines, NOT_ALLOWED, Reply, Request, socket_directory};
use crate::daemon::draining::is_silent;
use crate::daemon::error::exit_status;
use crate::daemon::mount_table::Mount;
use crate::daemon::unmount::{connect, find, is_dead};
use crate::daemon::watching::WatchRequest;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const WALK_TIMEOUT: Duration = Duration::from_secs(3600);
const START_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 the daemon answered, 1 usage, 2 it did not, or nothing is mounted there."
)]
pub struct Arguments {
    /// The mount to show
    mountpoint: PathBuf,
    /// Print JSON; the keys below state, backend, cache, journal and writeback stay in later versions
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    let status = match ask(&arguments.mountpoint, &Request::Status) {
        Ok(Reply::Status(status)) => status,
        Ok(other) => return fail(format_args!("unexpected answer {other:?}")),
        Err(error) => return fail(error),
    };
    if arguments.json {
        match serde_json::to_string_pretty(&status) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => return fail(error),
        }
    } else {
        say(&status.in_words());
    }
    exit_status::SUCCESS
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}

/// A mount is there a moment before its daemon can be asked.
pub fn patiently(connect: impl Fn() -> io::Result<Client>) -> io::Result<Client> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let outcome = connect();
        let error = outcome.as_ref().err().map(io::Error::kind);
        let is_absent = matches!(
            error,
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        );
        if !is_absent || Instant::now() >= deadline {
            return outcome;
        }
        std::thread::sleep(START_PATIENCE / 20);
    }
}

/// What walks over trees lasts as long as there are files to look at.
fn patience_with(request: &Request) -> Duration {
    match request {
        Request::Evict { .. } | Request::Pin { .. } => WALK_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    }
}

/// Asks the daemon of the mount at `mountpoint`; errors say what to do.
pub fn ask(mountpoint: &Path, request: &Request) -> Result<Reply, String> {
    let patience = patience_with(request);
    if patience > ANSWER_TIMEOUT {
        expect_answer(mountpoint)?;
    }
    connected(mountpoint)?
        .ask(request, patience)
        .map_err(|error| no_answer(mountpoint, &error))
}

/// The lines of what it is told to follow.
pub fn follow(mountpoint: &Path, request: &WatchRequest) -> Result<Lines, String> {
    expect_answer(mountpoint)?;
    connected(mountpoint)?
        .follow(request, ANSWER_TIMEOUT)
        .map_err(|error| no_answer(mountpoint, &error))
}

/// A daemon that hangs takes what it is asked, and never answers: who may wait for long finds out before. One that may not be
/// asked, or is gone, does not hang.
pub fn hangs(mountpoint: &Path) -> bool {
    let Ok((_, Some(mount))) = find(mountpoint) else {
        return false;
    };
    let asked = connect(&mount).and_then(|client| client.ask(&Request::Status, ANSWER_TIMEOUT));
    asked.is_err_and(|error| is_silent(&error))
}

fn expect_answer(mountpoint: &Path) -> Result<(), String> {
    match hangs(mountpoint) {
        true => Err(no_answer(mountpoint, &io::ErrorKind::TimedOut.into())),
        false => Ok(()),
    }
}

fn no_answer(mountpoint: &Path, error: &io::Error) -> String {
    let shown = mountpoint.display();
    match is_silent(error) {
        true => format!("{shown}: the daemon does not answer"),
        false => format!("{shown}: {error}"),
    }
}

fn no_mount(path: &Path) -> String {
    let shown = path.display();
    match locate_as_written(path) {
        Some(located) => format!(
            "{shown}: it lies below a mount of nfs-cachefs, which is {}",
            located.mountpoint.display()
        ),
        None => format!("{shown}: not a mount of nfs-cachefs"),
    }
}

fn connected(mountpoint: &Path) -> Result<Client, String> {
    let shown = mountpoint.display();
    let (path, mount) = find(mountpoint).map_err(|error| format!("{shown}: {error}"))?;
    let connected = match &mount {
        Some(mount) => patiently(|| connect(mount)),
        // One that is just ending still answers.
        None => Client::connect(&socket_directory(), &path),
    };
    let owner = mount.as_ref().and_then(Mount::owner);
    let client = connected.map_err(|error| match (mount.is_some(), error.kind()) {
        (_, io::ErrorKind::PermissionDenied) => {
            format!("{shown}: {NOT_ALLOWED}")
        }
        (false, _) => no_mount(mountpoint),
        (true, _) if owner.is_some_and(|owner| owner != nix::unistd::geteuid().as_raw()) => {
            format!(
                "{shown}: it is a mount of user {}, who alone may ask; try as that user",
                owner.unwrap_or_default()
            )
        }
        (true, _) => {
            format!("{shown}: its daemon is gone ({error}); `nfs-cachefs umount {shown}` cleans up")
        }
    })?;
    if client.daemon_pid().is_ok_and(is_dead) {
        return Err(format!(
            "{shown}: its daemon is dead; `nfs-cachefs umount {shown}` cleans up"
        ));
    }
    Ok(client)
}
