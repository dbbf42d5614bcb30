//! The command line of `nfs-cachefs` and of the mount helper; one file per subcommand.
//!
//! Exit statuses are those of mount(8): 0 it worked, 1 wrong usage or permissions, 2 system error, 32
//! the mount (or unmount) failed. `check` exits 1 when the daemon cannot run on this machine.
//!
//! - `mount`, `umount`, `status`, `list`, `why`, `trace`, `top`, `doctor`, `bench`, `bugreport`, `config`, `reload`, `flush`, `conflicts`, `evict`, `scrub`, `warm`, `pin` (and `unpin`), `check`, `options`, `metrics`: the subcommands; `pages`: their man pages
//! - `located`: where a path of the command line lies
//! - `helper`: what mount(8) runs as /sbin/mount.cachefs; `umount_helper`: what umount(8) runs

mod bench;
mod bugreport;
mod check;
mod config;
mod conflicts;
mod doctor;
mod evict;
mod flush;
pub mod helper;
mod journal;
mod list;
mod located;
mod mount;
mod metrics;
mod options;
mod pages;
mod pin;
mod reload;
mod scrub;
mod status;
mod top;
mod trace;
mod umount;
mod umount_helper;
mod warm;
mod why;

use crate::daemon::error::exit_status;
use crate::daemon::guard;
use crate::types::printable::one_line;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

const AFTER_HELP: &str = "\
Example:
  nfs-cachefs mount /mnt/nfs /mnt/cached -o cache_dir=/nvme/cache,cache_size=200G
  nfs-cachefs status /mnt/cached
  nfs-cachefs umount /mnt/cached

The same in /etc/fstab:
  /mnt/nfs /mnt/cached cachefs cache_dir=/nvme/cache,cache_size=200G,_netdev 0 0

Exit status: 0 success, 1 usage or permissions, 2 system error, 32 mount or unmount failed.";

/// Puts a local disk in front of a slow or remote directory: what was read once is read from the disk.
#[derive(Debug, Parser)]
#[command(name = "nfs-cachefs", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Arguments {
    /// The same as the command `check`
    #[arg(long, exclusive = true)]
    check_io_uring: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show BACKEND at MOUNTPOINT, cached on local disk; needs root
    Mount(mount::Arguments),
    /// Unmount and wait until the daemon has ended; a daemon that is dead or hangs is cut off
    Umount(umount::Arguments),
    /// Show how a mount is doing: backend, cache, and options that have no effect here
    Status(status::Arguments),
    /// List all mounts of this machine, those whose daemon is dead among them
    List(list::Arguments),
    /// Tell how a file stands: what is cached of it, how it is opened, and why the last read of it missed
    Why(why::Arguments),
    /// Print every operation of a mount as it ends
    Trace(trace::Arguments),
    /// Show live which files and processes use a mount, and what their reads find in the cache
    Top(top::Arguments),
    /// Look for what is wrong with a mount, or could be better, and say what to do about it
    Doctor(doctor::Arguments),
    /// Measure the cache disk, the backend, misses, hits and writes, and say whether the cache helps
    Bench(bench::Arguments),
    /// Gather what helps to find out what is wrong into one archive
    Bugreport(bugreport::Arguments),
    /// Print the settings of a mount, and where each of them comes from
    Config(config::Arguments),
    /// Have a mount read the settings file again
    Reload(reload::Arguments),
    /// Have what was written with write_mode=back sent to the backend now
    Flush(flush::Arguments),
    /// Show what was written here to files that somebody else has changed, and say what becomes of it
    Conflicts(conflicts::Arguments),
    /// Drop cached data of a mount; it is fetched again when it is read
    Evict(evict::Arguments),
    /// Fetch files and trees into the cache before they are read, or say what is not there
    Warm(warm::Arguments),
    /// Keep files and trees in the cache, whatever else is read
    Pin(pin::Arguments),
    /// Let them go like all else
    Unpin(pin::UnpinArguments),
    /// Check what a mount has cached against its checksums, in the background
    Scrub(scrub::Arguments),
    /// Look after the devices of a journal (write_mode=back)
    Journal(journal::Arguments),
    /// Show what this kernel and machine can do, and what is lost without it
    Check(check::Arguments),
    /// Print all mount options with their values and defaults, as Markdown
    Options,
    /// Print all metrics that the option `metrics` shows to Prometheus, as Markdown
    Metrics,
    /// Write man pages and shell completions into a folder
    #[command(hide = true)]
    Pages(pages::Arguments),
}

/// Runs the command line and returns the exit status. Called while the process has one thread.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if guard::is_asked_for(arguments.first()) {
        return guard::run(arguments);
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return match error.use_stderr() {
                true => exit_status::USAGE,
                false => exit_status::SUCCESS,
            };
        }
    };
    if arguments.check_io_uring {
        return check::run(&check::Arguments::default());
    }
    match arguments.command {
        Some(Command::Mount(arguments)) => mount::run(arguments),
        Some(Command::Umount(arguments)) => umount::run(&arguments),
        Some(Command::Status(arguments)) => status::run(&arguments),
        Some(Command::List(arguments)) => list::run(&arguments),
        Some(Command::Why(arguments)) => why::run(&arguments),
        Some(Command::Trace(arguments)) => trace::run(&arguments),
        Some(Command::Top(arguments)) => top::run(&arguments),
        Some(Command::Doctor(arguments)) => doctor::run(&arguments),
        Some(Command::Bench(arguments)) => bench::run(&arguments),
        Some(Command::Bugreport(arguments)) => bugreport::run(&arguments),
        Some(Command::Config(arguments)) => config::run(&arguments),
        Some(Command::Reload(arguments)) => reload::run(&arguments),
        Some(Command::Flush(arguments)) => flush::run(&arguments),
        Some(Command::Conflicts(arguments)) => conflicts::run(&arguments),
        Some(Command::Evict(arguments)) => evict::run(&arguments),
        Some(Command::Warm(arguments)) => warm::run(&arguments),
        Some(Command::Pin(arguments)) => pin::run(&arguments),
        Some(Command::Unpin(arguments)) => pin::unpin(&arguments),
        Some(Command::Scrub(arguments)) => scrub::run(&arguments),
        Some(Command::Journal(arguments)) => journal::run(arguments),
        Some(Command::Check(arguments)) => check::run(&arguments),
        Some(Command::Options) => options::run(),
        Some(Command::Metrics) => metrics::run(),
        Some(Command::Pages(arguments)) => pages::run(&arguments),
        None => exit_status::USAGE,
    }
}

/// What the shell tells of a command that SIGPIPE has ended.
const ENDED_UNREAD: i32 = 128 + nix::libc::SIGPIPE;

/// Prints an error the way all commands do: in one line, whatever the names in it.
fn complain(error: impl std::fmt::Display) {
    let line = one_line(&error.to_string());
    // There is nobody else to tell.
    let _ = write_or_end(io::stderr().lock(), &format!("nfs-cachefs: {line}\n"));
}

/// Tells a person that there is nothing to tell. Not on stdout, which is as empty for whoever counts lines.
fn remark(text: &str) {
    if io::stdout().is_terminal() {
        complain(text);
    }
}

/// Prints to stdout. Where that takes it no more, as on a full disk, the command ends, and says so.
fn say(text: &str) {
    if let Err(error) = write_or_end(io::stdout().lock(), text) {
        complain(format_args!("standard output: {error}"));
        std::process::exit(exit_status::SYSTEM);
    }
}

/// Where nobody reads any more a command ends, as any other does, and quietly.
fn write_or_end(mut out: impl Write, text: &str) -> io::Result<()> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = &written
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(ENDED_UNREAD);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run_words(words: &[&str]) -> i32 {
        run(words.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_exits_with_1_and_help_with_0() {
        assert_eq!(run_words(&["nfs-cachefs", "mount", "/only-one"]), 1);
        assert_eq!(run_words(&["nfs-cachefs", "dance"]), 1);
        assert_eq!(run_words(&["nfs-cachefs", "--help"]), 0);
        assert_eq!(
            run_words(&["nfs-cachefs", "mount", "/a", "/b", "-o", "cahce_dir=/x"]),
            1
        );
    }

    #[test]
    fn commands_on_what_is_not_mounted_fail() {
        assert_eq!(run_words(&["nfs-cachefs", "umount", "/proc"]), 32);
        assert_ne!(run_words(&["nfs-cachefs", "status", "/proc"]), 0);
    }
}
