//! A folder that is removed whatever happens, short of SIGKILL; the next run removes what that has left.

use nix::sys::signal::{SigSet, Signal};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const PREFIX: &str = ".nfs-cachefs-bench-";

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub struct Folder {
    pub name: PathBuf,
    mountpoint: PathBuf,
}

impl Folder {
    pub fn make(mountpoint: &Path) -> io::Result<Self> {
        remove_left_over(mountpoint)?;
        hear_signals()?;
        let name = PathBuf::from(format!("{PREFIX}{}", std::process::id()));
        std::fs::create_dir(mountpoint.join(&name))?;
        Ok(Self {
            name,
            mountpoint: mountpoint.to_owned(),
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let path = self.mountpoint.join(&self.name);
        if let Err(error) = std::fs::remove_dir_all(&path) {
            crate::cli::complain(format_args!(
                "{}: {error}; remove it by hand",
                path.display()
            ));
        }
    }
}

/// Of runs that were killed.
fn remove_left_over(mountpoint: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(mountpoint)? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid: Option<i32> = pid.and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(mountpoint.join(&name))?;
        }
    }
    Ok(())
}

/// Measuring ends at the next step, and the folder goes.
fn hear_signals() -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                IS_INTERRUPTED.store(true, Ordering::Relaxed);
            }
        })?;
    Ok(())
}

pub fn fail_if_interrupted() -> io::Result<()> {
    match IS_INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(io::Error::other("interrupted")),
        false => Ok(()),
    }
}
