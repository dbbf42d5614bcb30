//! Going into the background. The caller's process forks once and waits on a pipe; the child starts the
//! mount and writes one line: how it went. Only then does the caller return.

use super::error::exit_status;
use crate::sys::process::{Side, fork_single_threaded};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Prints to stderr, if anybody reads it.
pub(super) fn announce(message: &str) {
    let _ = writeln!(io::stderr(), "nfs-cachefs: {message}");
}

/// How the start went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub exit_status: i32,
    /// Empty where there is nothing to say.
    pub message: String,
}

/// Which side of the fork the program goes on as.
pub enum Launched {
    /// The caller: the start has ended like this.
    Caller(Outcome),
    /// The daemon: it tells through this.
    Daemon(Announcer),
}

/// Tells the caller how the start went, at most once. Dropped without a word, the caller
/// reports that the daemon died.
#[derive(Debug)]
pub struct Announcer {
    /// `None` in the foreground, where stderr and the exit status say everything.
    pipe: Option<File>,
}

impl Announcer {
    /// For a daemon that stays in the foreground.
    pub fn foreground() -> Self {
        Self { pipe: None }
    }

    /// Whether messages on stderr are seen by nobody after the start.
    pub fn is_background(&self) -> bool {
        self.pipe.is_some()
    }

    /// The mount serves: the terminal is let go of, the caller prints the warnings and returns 0.
    pub fn serving(self, warnings: &[String]) -> io::Result<()> {
        if self.pipe.is_some() {
            leave_terminal()?;
            // Not before: an automount point lets only the process group that mounts there look at it meanwhile.
            setsid()?;
        }
        self.tell(&Outcome {
            exit_status: exit_status::SUCCESS,
            message: warnings.join("\n"),
        })
    }

    /// The start failed: the caller prints `message` and returns `exit_status`. In the foreground
    /// this prints.
    pub fn failed(self, exit_status: i32, message: &str) {
        if self.pipe.is_none() {
            announce(message);
            return;
        }
        let outcome = Outcome {
            exit_status,
            message: message.to_owned(),
        };
        if self.tell(&outcome).is_err() {
            announce(message);
        }
    }

    fn tell(self, outcome: &Outcome) -> io::Result<()> {
        match self.pipe {
            Some(mut pipe) => pipe.write_all(&serde_json::to_vec(outcome)?),
            None => Ok(()),
        }
    }
}

/// Forks. The caller blocks until the daemon serves, fails or dies. An error when there are other
/// threads already.
pub fn launch() -> io::Result<Launched> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match fork_single_threaded()? {
        Side::Parent { child_pid } => {
            drop(writer);
            Ok(Launched::Caller(wait_for_outcome(
                File::from(reader),
                child_pid,
            )))
        }
        Side::Child => {
            drop(reader);
            Ok(Launched::Daemon(Announcer {
                pipe: Some(File::from(writer)),
            }))
        }
    }
}

fn wait_for_outcome(mut reader: File, child_pid: i32) -> Outcome {
    let mut text = Vec::new();
    let read = reader.read_to_end(&mut text);
    match serde_json::from_slice(&text) {
        Ok(outcome) if read.is_ok() => outcome,
        _ => Outcome {
            exit_status: exit_status::SYSTEM,
            message: format!(
                "the daemon ended before it served ({})",
                how_it_ended(Pid::from_raw(child_pid))
            ),
        },
    }
}

fn how_it_ended(child: Pid) -> String {
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, status)) => format!("exit status {status}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("{signal}"),
        Ok(other) => format!("{other:?}"),
        Err(errno) => errno.to_string(),
    }
}

/// Standard input, output and error lead nowhere from now on.
pub fn leave_terminal() -> io::Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open(Path::new("/dev/null"))?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcer() -> (Announcer, File) {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
        let announcer = Announcer {
            pipe: Some(File::from(writer)),
        };
        (announcer, File::from(reader))
    }

    #[test]
    fn the_caller_gets_the_error_text_and_the_exit_status() {
        let (announcer, reader) = announcer();
        announcer.failed(32, "backend /x: does not exist\nsecond line");
        let outcome = wait_for_outcome(reader, 0);
        assert_eq!(outcome.exit_status, 32);
        assert_eq!(outcome.message, "backend /x: does not exist\nsecond line");
    }

    #[test]
    fn a_daemon_that_dies_silently_is_an_error() {
        let mut child = std::process::Command::new("sh");
        let mut child = child.args(["-c", "exit 7"]).spawn().expect("sh");
        let (announcer, reader) = announcer();
        drop(announcer);
        let outcome = wait_for_outcome(reader, child.id() as i32);
        assert_eq!(outcome.exit_status, exit_status::SYSTEM);
        let _ = child.wait();
        assert!(
            outcome.message.contains("exit status 7"),
            "{}",
            outcome.message
        );
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        assert!(launch().is_err());
        drop(stop);
        assert!(other.join().expect("thread").is_err());
    }
}
