//! Waiting until the backend has what was changed on a mount.

use super::control::{Client, NOT_ALLOWED, Reply, Request, WirePath};
use super::journal_control::{BackReply, BackRequest, UnsentReport};
use std::io;
use std::time::{Duration, Instant};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A backend that takes nothing for so long takes nothing.
const STALLED_AFTER: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the daemon of one mount.
pub fn ask(client: io::Result<Client>, ask: BackRequest) -> Result<BackReply, String> {
    let reply = client.and_then(|client| client.ask(&Request::Back { ask }, ANSWER_TIMEOUT));
    match reply {
        Ok(Reply::Back { told }) => Ok(told),
        Ok(Reply::Error { message }) => Err(message),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(NOT_ALLOWED.to_owned())
        }
        // Sockets of others lie elsewhere.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && !nix::unistd::geteuid().is_root() =>
        {
            Err(NOT_ALLOWED.to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("its daemon is gone; `nfs-cachefs umount` cleans up".to_owned())
        }
        Err(error) if is_silent(&error) => Err("the daemon does not answer".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a socket says whose other side has not answered in time.
pub fn is_silent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Has what is dirty below these paths sent, or all, and waits until the backend has it, has refused what is left, or takes
/// nothing any more. What is left.
pub fn drain(
    paths: &[WirePath],
    connect: impl Fn() -> io::Result<Client>,
    mut tell: impl FnMut(&UnsentReport),
) -> Result<UnsentReport, String> {
    let mut moved_at = Instant::now();
    let mut left: Option<UnsentReport> = None;
    loop {
        let flush = BackRequest::Flush {
            paths: paths.to_vec(),
            moment: left.as_ref().map(|left| left.moment),
        };
        let told = match ask(connect(), flush)? {
            BackReply::Unsent(told) => told,
            other => return Err(format!("unexpected answer {other:?}")),
        };
        tell(&told);
        if left.as_ref() != Some(&told) {
            moved_at = Instant::now();
        }
        if told.is_done() || told.is_refused() || moved_at.elapsed() > STALLED_AFTER {
            return Ok(told);
        }
        left = Some(told);
        std::thread::sleep(LOOK_INTERVAL);
    }
}
