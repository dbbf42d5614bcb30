//! Who is measured: a directory, and the daemon that serves it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SubjectName {
    /// The directory itself
    Native,
    /// The directory through bindfs
    Bindfs,
    /// nfs-cachefs as it comes
    Cached,
    /// nfs-cachefs with passthrough=off: every byte through the daemon
    CachedDaemon,
}

impl SubjectName {
    pub fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Bindfs => "bindfs",
            Self::Cached => "cached",
            Self::CachedDaemon => "cached-daemon",
        }
    }
}

pub struct Subject {
    pub name: SubjectName,
    /// Where the backend's tree is seen.
    pub root: PathBuf,
    daemon: Option<Mounted>,
}

impl Subject {
    /// Mounts what the name says over an empty directory of `scratch`; blocks until it serves.
    pub fn start(name: SubjectName, backend: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let mountpoint = scratch.join(format!("mount-{}", name.label()));
        let daemon = match name {
            SubjectName::Native => {
                return Ok(Self {
                    name,
                    root: backend.to_owned(),
                    daemon: None,
                });
            }
            SubjectName::Bindfs => {
                let mut command = Command::new("bindfs");
                command.arg("-f").arg(backend).arg(&mountpoint);
                Mounted::start(command, &mountpoint).context("bindfs (apt-get install bindfs)")?
            }
            SubjectName::Cached | SubjectName::CachedDaemon => {
                let cache = scratch.join(format!("cache-{}", name.label()));
                let options = if name == SubjectName::Cached {
                    "passthrough=auto"
                } else {
                    "passthrough=off"
                };
                start_cached(backend, &mountpoint, &cache, options)?
            }
        };
        Ok(Self {
            name,
            root: mountpoint,
            daemon: Some(daemon),
        })
    }

    pub fn daemon_pid(&self) -> Option<i32> {
        self.daemon.as_ref().map(Mounted::pid)
    }

    pub fn is_cached(&self) -> bool {
        matches!(self.name, SubjectName::Cached | SubjectName::CachedDaemon)
    }
}

/// nfs-cachefs on a cache directory of its own.
pub fn start_cached(
    backend: &Path,
    mountpoint: &Path,
    cache: &Path,
    options: &str,
) -> anyhow::Result<Mounted> {
    std::fs::DirBuilder::new().recursive(true).create(cache)?;
    std::fs::set_permissions(cache, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut command = product();
    command
        .arg("mount")
        .args([backend, mountpoint])
        .arg("-f")
        .arg("-o")
        .arg(format!("cache_dir={},{options}", cache.display()));
    Mounted::start(command, mountpoint).context("nfs-cachefs")
}

/// The program that cargo built for this benchmark.
pub fn product() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nfs-cachefs"))
}

/// Everything out of the cache of a mount.
pub fn evict(mountpoint: &Path) -> anyhow::Result<()> {
    let output = product().arg("evict").arg(mountpoint).output()?;
    anyhow::ensure!(
        output.status.success(),
        "evict: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A daemon in the foreground and its mount; both gone when dropped.
pub struct Mounted {
    mountpoint: PathBuf,
    daemon: Child,
}

impl Mounted {
    /// Starts the daemon and waits for its mount, 30 s at most.
    pub fn start(mut command: Command, mountpoint: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(mountpoint)?;
        let daemon = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        let mut mounted = Self {
            mountpoint: mountpoint.to_owned(),
            daemon,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_mounted(mountpoint)? {
            if let Some(status) = mounted.daemon.try_wait()? {
                bail!("the daemon ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!(
                    "nothing was mounted on {} within 30 s",
                    mountpoint.display()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(mounted)
    }

    pub fn pid(&self) -> i32 {
        self.daemon.id().cast_signed()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The readers are done; what still holds the mount is a failure that detaching must survive.
        let flags = nix::mount::MntFlags::empty();
        if nix::mount::umount2(&self.mountpoint, flags).is_err() {
            let _ = nix::mount::umount2(&self.mountpoint, nix::mount::MntFlags::MNT_DETACH);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.daemon.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let path = path.to_str().context("a scratch path in UTF-8")?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path)))
}
