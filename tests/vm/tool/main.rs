//! vm-tool: writes and checks files whose every 4 KiB block tells which version of the file it belongs to.
//!
//! Used by the guest scripts under tests/vm: the content is a function of (seed, version, offset), so a
//! block of another version, of another file or offset, zeros and torn blocks are all told apart without
//! a second copy of the data. Exit status: 0 as promised, 1 a promise broken or an error.
//!
//! - `content.rs`: the function, and its inverse (block to version)
//! - `tree.rs`: a directory tree of such files; the checksum of any tree
//! - `readers.rs`: sequential, random and mapped readers, latency probe
//! - `torture.rs`: changes of a file at random points of its first read
//! - `closing.rs`: close-to-open between several directories that lead to the same files
//! - `locking.rs`: locks of two clients
//! - `outage.rs`: a writer while the server comes and goes
//! - `removing.rs`: trees used and removed at once
//! - `power.rs`: writers that lose their power, and what is left of their work

mod closing;
mod content;
mod locking;
mod outage;
mod power;
mod readers;
mod removing;
mod torture;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "vm-tool",
    about = "Writes and checks files that tell their version"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write FILE with one version's content (in place, whatever was there)
    Write {
        file: PathBuf,
        seed: u64,
        version: u64,
        size_bytes: u64,
    },
    /// Read FILE and print its version; fails on a mix, on zeros, on a version below --at-least
    Verify {
        file: PathBuf,
        seed: u64,
        #[arg(long, default_value_t = 0)]
        at_least: u64,
        /// Fail when the file has another size
        #[arg(long)]
        size_bytes: Option<u64>,
    },
    /// Write a deterministic tree: many small files, some large, links, odd names
    TreeWrite {
        directory: PathBuf,
        seed: u64,
        files: u64,
        total_bytes: u64,
    },
    /// Print one checksum over names, types, modes, sizes, link targets and contents
    TreeSum { directory: PathBuf },
    /// Read random pieces on several threads, each piece checked
    ReadRandom {
        file: PathBuf,
        seed: u64,
        reads: u64,
        #[arg(long, default_value_t = 4)]
        threads: u64,
        /// Length of a piece
        #[arg(long, default_value_t = 4096)]
        length_bytes: u64,
    },
    /// Map FILE, close it, run --between in a shell, then check the mapping
    MapVerify {
        file: PathBuf,
        seed: u64,
        #[arg(long)]
        between: Option<String>,
    },
    /// Read pieces of FILE for a while; fails when one takes longer than the limit
    Probe {
        file: PathBuf,
        seed: u64,
        seconds: u64,
        limit_ms: u64,
        /// Open and close around every read rather than once
        #[arg(long)]
        reopen: bool,
    },
    /// Change SOURCE at random points while its cold counterpart CACHED is read
    Torture {
        cached: PathBuf,
        source: PathBuf,
        rounds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 4 << 20)]
        size_bytes: u64,
        /// Every other change is made through CACHED
        #[arg(long)]
        through: bool,
    },
    /// Write through one of DIRECTORIES, all leading to the same files; all others must see it at their next open
    CloseToOpen {
        rounds: u64,
        directories: Vec<PathBuf>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Change FILE in place, the same size; a handle of SEEN, the same file elsewhere, must show each change in time
    Follow {
        file: PathBuf,
        seen: PathBuf,
        rounds: u64,
        #[arg(long, default_value_t = 70)]
        limit_s: u64,
    },
    /// Make, use and remove trees in DIRECTORY; SOURCE is the same on the server
    UseAndRemove {
        directory: PathBuf,
        source: PathBuf,
        rounds: u64,
    },
    /// Write and sync FILE for a while; what was acknowledged must be in SOURCE, the same file on the server
    WriteAcknowledged {
        file: PathBuf,
        source: PathBuf,
        seconds: u64,
    },
    /// Write and sync files in DIRECTORY until the power goes, and note in LOG what was acknowledged
    PowerWrite {
        directory: PathBuf,
        log: PathBuf,
        #[arg(long, default_value_t = 3)]
        writers: u64,
    },
    /// The files in DIRECTORY must be as some step left them, none before what LOG says; prints which step
    PowerCheck {
        directory: PathBuf,
        log: PathBuf,
        #[arg(long, default_value_t = 3)]
        writers: u64,
    },
    /// Locks taken by FILE exclude who asks by OTHER, and are handed over
    LockExclude {
        file: PathBuf,
        other: PathBuf,
        family: locking::Family,
    },
    /// Kinds and ranges of locks, by FILE and by OTHER
    LockShare { file: PathBuf, other: PathBuf },
    /// Two clients count under a lock, in DIRECTORY and in OTHER
    LockCountTogether {
        directory: PathBuf,
        other: PathBuf,
        rounds: u64,
    },
    /// Take a lock and hold it until the input ends
    LockHold {
        file: PathBuf,
        family: locking::Family,
    },
    /// One of those who count
    LockCount {
        counter: PathBuf,
        log: PathBuf,
        family: locking::Family,
        rounds: u64,
    },
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Write {
            file,
            seed,
            version,
            size_bytes,
        } => content::write(&file, seed, version, 0, size_bytes),
        Command::Verify {
            file,
            seed,
            at_least,
            size_bytes,
        } => {
            let version = readers::verify(&file, seed, size_bytes)?;
            anyhow::ensure!(
                version >= at_least,
                "version {version} is older than {at_least}"
            );
            println!("{version}");
            Ok(())
        }
        Command::TreeWrite {
            directory,
            seed,
            files,
            total_bytes,
        } => tree::write(&directory, seed, files, total_bytes),
        Command::TreeSum { directory } => {
            let sum = tree::sum(&directory)?;
            println!(
                "{:016x} {} files {} bytes",
                sum.checksum, sum.files, sum.bytes
            );
            Ok(())
        }
        Command::ReadRandom {
            file,
            seed,
            reads,
            threads,
            length_bytes,
        } => readers::random(&file, seed, reads, threads.max(1), length_bytes.max(1)),
        Command::MapVerify {
            file,
            seed,
            between,
        } => {
            println!("{}", readers::mapped(&file, seed, between.as_deref())?);
            Ok(())
        }
        Command::Probe {
            file,
            seed,
            seconds,
            limit_ms,
            reopen,
        } => readers::probe(
            &file,
            seed,
            Duration::from_secs(seconds),
            Duration::from_millis(limit_ms),
            reopen,
        ),
        Command::Torture {
            cached,
            source,
            rounds,
            seed,
            size_bytes,
            through,
        } => torture::run(&cached, &source, rounds, seed, size_bytes, through),
        Command::CloseToOpen {
            rounds,
            directories,
            seed,
        } => closing::rounds(&directories, rounds, seed),
        Command::Follow {
            file,
            seen,
            rounds,
            limit_s,
        } => closing::follow(&file, &seen, rounds, Duration::from_secs(limit_s)),
        Command::UseAndRemove {
            directory,
            source,
            rounds,
        } => removing::rounds(&directory, &source, rounds),
        Command::WriteAcknowledged {
            file,
            source,
            seconds,
        } => outage::write(&file, &source, Duration::from_secs(seconds)),
        Command::PowerWrite {
            directory,
            log,
            writers,
        } => power::write(&directory, &log, writers),
        Command::PowerCheck {
            directory,
            log,
            writers,
        } => power::check(&directory, &log, writers),
        Command::LockExclude {
            file,
            other,
            family,
        } => locking::exclude(&file, &other, family),
        Command::LockShare { file, other } => locking::share(&file, &other),
        Command::LockCountTogether {
            directory,
            other,
            rounds,
        } => locking::count_together(&directory, &other, rounds),
        Command::LockHold { file, family } => locking::hold(&file, family),
        Command::LockCount {
            counter,
            log,
            family,
            rounds,
        } => locking::count(&counter, &log, family, rounds),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm-tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}
