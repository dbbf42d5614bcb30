//! Waiting until the backend has what was changed on a mount.

use super::control::{Client, NOT_ALLOWED, Reply, Request, WirePath};
use super::journal_control::{BackReply, BackRequest, UnsentReport};
use std::io;
use std::time::{Duration, Instant};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A backend that takes nothing for so long takes nothing.
const STALLED_AFTER: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCES_MAX: u32 = 2;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The daemon says why.
    #[error("{0}")]
    Refused(String),
    /// It was not heard.
    #[error("{0}")]
    Silent(String),
}

impl From<Unanswered> for String {
    fn from(unanswered: Unanswered) -> Self {
        unanswered.to_string()
    }
}

/// Asks the daemon of one mount.
pub fn ask(client: io::Result<Client>, ask: BackRequest) -> Result<BackReply, Unanswered> {
    let reply = client.and_then(|client| client.ask(&Request::Back { ask }, ANSWER_TIMEOUT));
    match reply {
        Ok(Reply::Back { told }) => Ok(told),
        Ok(Reply::Error { message }) => Err(Unanswered::Refused(message)),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(Unanswered::Silent(in_words(&error))),
    }
}

fn unexpected(reply: &impl std::fmt::Debug) -> Unanswered {
    Unanswered::Refused(format!("unexpected answer {reply:?}"))
}

fn in_words(error: &io::Error) -> String {
    let is_root = nix::unistd::geteuid().is_root();
    match error.kind() {
        io::ErrorKind::PermissionDenied => NOT_ALLOWED.to_owned(),
        // Sockets of others lie elsewhere.
        io::ErrorKind::NotFound if !is_root => NOT_ALLOWED.to_owned(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "its daemon is gone; `nfs-cachefs umount` cleans up".to_owned()
        }
        _ if is_silent(error) => "the daemon does not answer".to_owned(),
        _ => error.to_string(),
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
/// nothing any more. What is left. A daemon that is not heard is asked again, but not often.
pub fn drain(
    paths: &[WirePath],
    connect: impl Fn() -> io::Result<Client>,
    mut tell: impl FnMut(&UnsentReport),
) -> Result<UnsentReport, Unanswered> {
    let mut moved_at = Instant::now();
    let mut silences = 0;
    let mut left: Option<UnsentReport> = None;
    loop {
        let flush = BackRequest::Flush {
            paths: paths.to_vec(),
            moment: left.as_ref().map(|left| left.moment),
        };
        let told = match ask(connect(), flush) {
            Ok(BackReply::Unsent(told)) => told,
            Ok(other) => return Err(unexpected(&other)),
            Err(Unanswered::Silent(_)) if silences < SILENCES_MAX => {
                silences += 1;
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            }
            Err(unanswered) => return Err(unanswered),
        };
        silences = 0;
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
