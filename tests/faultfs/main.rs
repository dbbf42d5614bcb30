//! faultfs: a directory served through FUSE as a slow, hung, erring or lying server would, for tests and
//! benchmarks. A process of its own, so that it can be stopped; it dies with the one that started it.
//!
//!     faultfs BACKING MOUNTPOINT CONTROL_SOCKET [--direct-io] [--ttl-ms N] [--squash]
//!
//! It is mounted once CONTROL_SOCKET can be connected to. SIGTERM unmounts and ends it.
//!
//! - `protocol`: what the control socket understands, shared with the tests
//! - `server`: the way of a call: counters, rules, work, network, reply
//! - `filesystem`: the FUSE verbs; `backing`: what they do; `nodes`: which file is which
//! - `rules`, `network`, `counters`, `schedule`, `control`: one each

mod backing;
mod control;
mod counters;
mod filesystem;
mod network;
mod nodes;
mod protocol;
mod rules;
mod schedule;
mod server;

use anyhow::{Context, bail};
use filesystem::FaultFilesystem;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use server::{MountSettings, Server};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// To what the kernel allows a process, where our privileges do.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let kernel_most = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(hard);
    setrlimit(Resource::RLIMIT_NOFILE, kernel_most, kernel_most)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .context("RLIMIT_NOFILE")
}

struct Arguments {
    backing: PathBuf,
    mountpoint: PathBuf,
    socket: PathBuf,
    settings: MountSettings,
}

fn main() -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    let arguments = parse(std::env::args().skip(1))?;
    // Blocked before any thread starts, so that only the waiting one below takes them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("blocking signals")?;
    // Every node the kernel knows holds a descriptor.
    raise_descriptor_limit()?;
    // Modes come with their umask applied.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());

    let backing = arguments
        .backing
        .canonicalize()
        .with_context(|| format!("{}", arguments.backing.display()))?;
    let server = Arc::new(Server::new(backing.clone(), arguments.settings)?);
    let squash = server.settings.squash;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(backing.display().to_string()),
        MountOption::Subtype("faultfs".into()),
    ];
    if !squash {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    config.clone_fd = true;
    let session = Session::new(
        FaultFilesystem(server.clone()),
        &arguments.mountpoint,
        &config,
    )
    .with_context(|| format!("mounting on {}", arguments.mountpoint.display()))?;
    unmount_on_signal(signals, server.clone(), arguments.mountpoint.clone())?;
    let listener = UnixListener::bind(&arguments.socket)
        .with_context(|| format!("{}", arguments.socket.display()))?;
    control::listen(listener, server)?;
    session.run().context("serving")
}

fn parse(words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut paths = Vec::new();
    let mut settings = MountSettings {
        direct_io: false,
        ttl: Duration::ZERO,
        squash: false,
    };
    let mut words = words;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--direct-io" => settings.direct_io = true,
            "--squash" => settings.squash = true,
            "--ttl-ms" => {
                let value = words.next().context("--ttl-ms needs a number")?;
                settings.ttl = Duration::from_millis(value.parse().context("--ttl-ms")?);
            }
            option if option.starts_with('-') => bail!("unknown option {option}"),
            path => paths.push(PathBuf::from(path)),
        }
    }
    let [backing, mountpoint, socket] = <[PathBuf; 3]>::try_from(paths)
        .map_err(|_| anyhow::anyhow!("usage: faultfs BACKING MOUNTPOINT CONTROL_SOCKET"))?;
    Ok(Arguments {
        backing,
        mountpoint,
        socket,
        settings,
    })
}

fn unmount_on_signal(
    signals: SigSet,
    server: Arc<Server>,
    mountpoint: PathBuf,
) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let _ = signals.wait();
            // Hung calls would keep their callers for ever once nobody serves the mount.
            server.give_up_hung_calls();
            std::process::exit(i32::from(!unmount(&mountpoint)));
        })?;
    Ok(())
}

fn unmount(mountpoint: &Path) -> bool {
    let lazily = nix::mount::MntFlags::MNT_DETACH;
    match nix::mount::umount(mountpoint).or_else(|_| nix::mount::umount2(mountpoint, lazily)) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("faultfs: unmounting {}: {error}", mountpoint.display());
            false
        }
    }
}
