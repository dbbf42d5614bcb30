//! From options to a mount that serves.

use super::assemble::assemble;
use super::background::{Announcer, Launched, announce, launch, leave_terminal};
use super::error::{StartError, exit_status};
use super::prepare::prepare;
use super::{log, run};
use crate::config::{Given, Resolved};
use crate::types::printable::one_line;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// What is to be mounted where.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// What the mount table shows.
    pub source: OsString,
    /// The backend, where the options do not name one.
    pub backend: Option<PathBuf>,
    pub mountpoint: PathBuf,
    pub resolved: Resolved,
    /// To be resolved again when the settings file has changed.
    pub given: Given,
    /// Stay in this process until the mount ends.
    pub foreground: bool,
}

/// Mounts. In the background: returns when the mount serves or failed to, with the exit status; errors are
/// on stderr. In the foreground: does not return before the mount has ended. Must be called while the
/// process has one thread.
pub fn mount(request: MountRequest) -> i32 {
    let announcer = if request.foreground {
        Announcer::foreground()
    } else {
        match launch() {
            Ok(Launched::Daemon(announcer)) => announcer,
            Ok(Launched::Caller(outcome)) => {
                let warning = match outcome.exit_status {
                    exit_status::SUCCESS => "warning: ",
                    _ => "",
                };
                for line in outcome.message.lines() {
                    announce(&format!("{warning}{line}"));
                }
                return outcome.exit_status;
            }
            Err(error) => {
                announce(&format!("going into the background: {error}"));
                return exit_status::SYSTEM;
            }
        }
    };
    let foreground = request.foreground;
    let status = start(request, announcer);
    // A thread that hangs in the backend keeps our descriptors when we end; whoever reads the caller's output to
    // its end must not wait for it.
    if !foreground && let Err(error) = leave_terminal() {
        tracing::warn!("leaving the terminal: {error}");
    }
    // Threads may hang in the backend for good: nothing waits for them.
    crate::sys::process::exit_now(status)
}

fn start(request: MountRequest, announcer: Announcer) -> i32 {
    match try_start(&request, &announcer) {
        Ok((prepared, assembled)) => run::serve(assembled, request, prepared, announcer),
        Err(error) => {
            let status = error.exit_status();
            announcer.failed(status, &one_line(&error.to_string()));
            status
        }
    }
}

fn try_start(
    request: &MountRequest,
    announcer: &Announcer,
) -> Result<(super::prepare::Prepared, super::assemble::Assembled), StartError> {
    let system =
        |what: &'static str| move |error: io::Error| StartError::System(format!("{what}: {error}"));
    let settings = &request.resolved.settings;
    log::install(
        settings.log,
        settings.log_file.as_deref(),
        announcer.is_background(),
    )
    .map_err(system("log"))?;
    run::block_signals().map_err(system("blocking signals"))?;
    raise_descriptor_limit();
    let mut prepared = prepare(
        settings,
        request.source.clone(),
        request.backend.as_deref(),
        &request.mountpoint,
    )?;
    let mountpoint = prepared.mountpoint.clone();
    for directory in prepared.directories_mut() {
        directory
            .record_holder(&mountpoint)
            .map_err(system("lock file of a directory"))?;
    }
    std::env::set_current_dir("/").map_err(system("chdir /"))?;
    let assembled = assemble(settings, &prepared).map_err(StartError::Component)?;
    prepared.keep_directories();
    Ok((prepared, assembled))
}

/// As many descriptors as the hard limit allows; one per open file is needed.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        tracing::warn!("raising the limit of open files: {errno}");
    }
}
