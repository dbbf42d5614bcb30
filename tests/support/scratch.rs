//! A directory per test, in CACHEFS_TEST_DIR or the system's temporary directory, and time limits for
//! code that may hang on a mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::time::Duration;

const NAME_PREFIX: &str = "cachefs-test-";

static NEXT: AtomicU64 = AtomicU64::new(0);
static SWEEP: Once = Once::new();

/// Removed when dropped, with every mount below it and every process given to it.
pub struct Scratch {
    path: PathBuf,
    processes: ProcessList,
}

/// Processes to kill when the directory goes. One that was waited for must be taken off, as its
/// number may be another's then.
#[derive(Clone, Default)]
pub struct ProcessList(Arc<Mutex<Vec<i32>>>);

impl ProcessList {
    pub fn add(&self, pid: i32) {
        self.0.lock().expect("no panic holds it").push(pid);
    }

    pub fn remove(&self, pid: i32) {
        self.0
            .lock()
            .expect("no panic holds it")
            .retain(|known| *known != pid);
    }

    fn kill_all(&self) {
        for pid in self.0.lock().expect("no panic holds it").iter() {
            super::process::kill_now(*pid);
        }
    }
}

impl Scratch {
    pub fn new(test: &str) -> Self {
        let base =
            std::env::var_os("CACHEFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        fs::create_dir_all(&base).expect("the test directory can be made");
        let base = base.canonicalize().expect("the test directory is there");
        SWEEP.call_once(|| sweep(&base));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!(
            "{NAME_PREFIX}{}-{number}-{test}",
            std::process::id()
        ));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            path,
            processes: ProcessList::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    pub fn processes(&self) -> ProcessList {
        self.processes.clone()
    }

    /// Ends every FUSE connection below this directory: all calls waiting in it fail.
    pub fn abort_connections(&self) {
        for mount in mounts_below(&self.path) {
            if mount.filesystem.starts_with("fuse") {
                let control = format!("/sys/fs/fuse/connections/{}/abort", mount.device_minor);
                if let Err(error) = fs::write(&control, "1") {
                    eprintln!("{control}: {error}");
                }
            }
        }
        self.processes.kill_all();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.processes.kill_all();
        remove_tree(&self.path);
    }
}

/// Runs `work` on a thread of its own. When it does not end in time, everything mounted in `scratch` is
/// aborted, so that whatever hangs is freed, and the test fails.
pub fn with_time_limit<T: Send + 'static>(
    scratch: &Scratch,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, outcome) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = done.send(work());
    });
    match outcome.recv_timeout(limit) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            scratch.abort_connections();
            panic!("not done within {limit:?}");
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("a thread that ends well has sent its value"),
        },
    }
}

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub struct MountLine {
    pub mountpoint: PathBuf,
    pub filesystem: String,
    pub source: String,
    pub device_minor: u32,
}

/// Every mount of this namespace, in the order they were made.
pub fn all_mounts() -> Vec<MountLine> {
    let text = fs::read("/proc/self/mountinfo").expect("/proc is mounted");
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(parse_mount_line).collect()
}

/// The one on top at exactly this path.
pub fn mount_at(path: &Path) -> Option<MountLine> {
    all_mounts()
        .into_iter()
        .rfind(|mount| mount.mountpoint == path)
}

fn mounts_below(path: &Path) -> Vec<MountLine> {
    let mut mounts = all_mounts();
    mounts.retain(|mount| mount.mountpoint.starts_with(path));
    mounts
}

fn parse_mount_line(line: &str) -> Option<MountLine> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let mut after = after.split(' ');
    let (_, minor) = before.get(2)?.split_once(':')?;
    Some(MountLine {
        mountpoint: PathBuf::from(unescape(before.get(4)?)),
        filesystem: after.next()?.to_owned(),
        source: unescape(after.next()?),
        device_minor: minor.parse().ok()?,
    })
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Unmounts all below, then removes. A tree that something is still mounted in is left alone.
fn remove_tree(path: &Path) {
    for mount in mounts_below(path).iter().rev() {
        let lazily = nix::mount::MntFlags::MNT_DETACH;
        if let Err(error) = nix::mount::umount2(&mount.mountpoint, lazily) {
            eprintln!("unmounting {}: {error}", mount.mountpoint.display());
        }
    }
    if mounts_below(path).is_empty() {
        if let Err(error) = fs::remove_dir_all(path) {
            eprintln!("removing {}: {error}", path.display());
        }
    } else {
        eprintln!("{}: left, something is mounted in it", path.display());
    }
}

/// Removes what test processes left that were killed.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME_PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove_tree(&entry.path());
        }
    }
}
