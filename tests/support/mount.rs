//! The program under test: `nfs-cachefs mount` in the foreground, as a child.

use super::backend::FaultBackend;
use super::process;
use super::scratch::{ProcessList, Scratch, mount_at};
use super::wait_until;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nfs-cachefs");

const START_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
const UMOUNT_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct MountOptions {
    pub mountpoint: PathBuf,
    /// Given as they are, colon-separated.
    pub cache_dirs: Vec<PathBuf>,
    /// Further `key=value` or `key` options. With `write_mode=back` and no `journal_dir` the journal lies beside the first cache directory.
    pub options: Vec<String>,
    /// The daemon's hard limit of descriptors, where it is not the test's.
    pub descriptors_max: Option<usize>,
}

impl MountOptions {
    /// `scratch`/mount with its cache in `scratch`/cache.
    pub fn new(scratch: &Scratch) -> Self {
        let cache = scratch.path().join("cache");
        if !cache.exists() {
            private_directory(&cache);
        }
        Self {
            mountpoint: scratch.directory("mount"),
            cache_dirs: vec![cache],
            options: Vec::new(),
            descriptors_max: None,
        }
    }

    pub fn with(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The value of `-o`.
    pub fn option_text(&self) -> String {
        let directories: Vec<String> = self
            .cache_dirs
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut words = vec![format!("cache_dir={}", directories.join(":"))];
        words.extend(self.options.iter().cloned());
        let is_given = |start: &str| self.options.iter().any(|option| option.starts_with(start));
        if is_given("write_mode=back") && !is_given("journal_dir=") {
            let cache = &self.cache_dirs[0];
            let name = cache.file_name().expect("a directory").to_string_lossy();
            let journal = cache.with_file_name(format!("journal-of-{name}"));
            words.push(format!("journal_dir={}", journal.display()));
        }
        words.join(",")
    }
}

/// A served mount; ends when dropped.
pub struct Mount {
    processes: ProcessList,
    log: PathBuf,
    backend: PathBuf,
    options: MountOptions,
    child: Option<Child>,
}

impl Mount {
    /// Mounts `backend` and waits until it serves.
    pub fn start(scratch: &Scratch, backend: &Path, options: MountOptions) -> Self {
        let mut mount = Self {
            processes: scratch.processes(),
            log: scratch.path().join("daemon.log"),
            backend: backend.to_owned(),
            options,
            child: None,
        };
        mount.remount();
        mount
    }

    pub fn path(&self) -> &Path {
        &self.options.mountpoint
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.options.mountpoint.join(name)
    }

    pub fn cache_dir(&self) -> &Path {
        &self.options.cache_dirs[0]
    }

    pub fn options_mut(&mut self) -> &mut MountOptions {
        &mut self.options
    }

    /// Starts the daemon again after [`Self::umount`] or [`Self::kill9`].
    pub fn remount(&mut self) {
        assert!(self.child.is_none(), "it is still mounted");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log can be written");
        let mut command = match self.options.descriptors_max {
            None => Command::new(PROGRAM),
            Some(limit) => {
                let mut command = Command::new("prlimit");
                command
                    .arg(format!("--nofile={limit}:{limit}"))
                    .arg(PROGRAM);
                command
            }
        };
        command
            .arg("mount")
            .arg(&self.backend)
            .arg(&self.options.mountpoint)
            .args(["-f", "-o", &self.options.option_text()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log);
        let replaces_another = self.serves();
        let mut child = process::spawn(command).expect("the program starts");
        let pid = child.id() as i32;
        self.processes.add(pid);
        let deadline = Instant::now() + START_LIMIT;
        while !self.serves() || (replaces_another && self.serving_pid() != Some(pid)) {
            let told = || std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = child.try_wait().expect("it is ours") {
                panic!("nfs-cachefs mount ended: {status}\n{}", told());
            }
            assert!(
                Instant::now() < deadline,
                "nfs-cachefs does not serve\n{}",
                told()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
    }

    fn serves(&self) -> bool {
        mount_at(&self.options.mountpoint).is_some_and(|mount| mount.filesystem.starts_with("fuse"))
    }

    fn serving_pid(&self) -> Option<i32> {
        let output = self.command("status", &["--json"], COMMAND_LIMIT);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status["pid"].as_i64().map(|pid| pid as i32)
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("it is mounted").id() as i32
    }

    /// `status --json`, parsed.
    pub fn status(&self) -> serde_json::Value {
        let output = self.command("status", &["--json"], COMMAND_LIMIT);
        assert!(
            output.status.success(),
            "status: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("status --json is JSON")
    }

    /// A number of the status by its path: `cache.hit_bytes`.
    pub fn status_number(&self, path: &str) -> u64 {
        let status = self.status();
        let found = path.split('.').fold(&status, |value, key| &value[key]);
        found
            .as_u64()
            .unwrap_or_else(|| panic!("status has no number {path}: {status}"))
    }

    /// `nfs-cachefs VERB MOUNTPOINT ARGUMENTS`.
    pub fn command(&self, verb: &str, arguments: &[&str], limit: Duration) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .arg(verb)
            .arg(&self.options.mountpoint)
            .args(arguments);
        process::run(command, limit)
    }

    /// `nfs-cachefs umount`; the daemon ends well.
    pub fn umount(&mut self) {
        let output = self.command("umount", &[], UMOUNT_LIMIT);
        assert!(
            output.status.success(),
            "umount: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let status = self
            .reap(UMOUNT_LIMIT)
            .expect("the daemon ends after umount");
        assert!(status.success(), "the daemon ended with {status}");
        assert!(!self.serves(), "the mount is still there after umount");
    }

    /// SIGKILL, and the dead mount removed, as an administrator would.
    pub fn kill9(&mut self) {
        process::kill_now(self.pid());
        self.reap(UMOUNT_LIMIT).expect("a killed daemon ends");
        self.detach();
    }

    /// SIGKILL beside a backend that is stopped. A call that the backend had in hand when it was stopped keeps even a
    /// killed process until it is answered (fs/fuse/dev.c, request_wait_answer), and is answered here.
    pub fn kill9_beside(&mut self, stopped: &FaultBackend) {
        process::kill_now(self.pid());
        if self.reap(Duration::from_secs(2)).is_none() {
            stopped.resume();
            self.reap(UMOUNT_LIMIT).expect("a killed daemon ends");
            stopped.stop();
        }
        self.detach();
    }

    /// SIGKILL while its threads may hang in the kernel, where nothing ends them: the process is given out as
    /// it is, and the mount is left.
    pub fn kill_stuck(&mut self) -> Child {
        process::kill_now(self.pid());
        let child = self.child.take().expect("it is mounted");
        wait_until(Duration::from_secs(10), "the daemon to be dead", || {
            matches!(process::state(child.id() as i32), None | Some('Z'))
        });
        child
    }

    /// What a new daemon would say that cannot mount, and its exit status.
    pub fn try_mount(&self, limit: Duration) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .arg("mount")
            .arg(&self.backend)
            .arg(&self.options.mountpoint)
            .args(["-o", &self.options.option_text()]);
        process::run(command, limit)
    }

    /// All that its daemons have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the end of the daemon that something else brings about.
    pub fn expect_end(&mut self, limit: Duration) -> ExitStatus {
        self.reap(limit).expect("the daemon ends")
    }

    fn reap(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = process::wait_for(child, limit)?;
        self.processes.remove(child.id() as i32);
        self.child = None;
        Some(status)
    }

    fn detach(&self) {
        while mount_at(&self.options.mountpoint).is_some() {
            let lazily = nix::mount::MntFlags::MNT_DETACH;
            if nix::mount::umount2(&self.options.mountpoint, lazily).is_err() {
                break;
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.is_some() {
            let pid = self.pid();
            process::send(pid, nix::sys::signal::Signal::SIGTERM);
            if self.reap(Duration::from_secs(15)).is_none() {
                process::kill_now(pid);
                let _ = self.reap(Duration::from_secs(15));
            }
        }
        self.detach();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log);
            eprintln!("the daemon said:\n{}", log.unwrap_or_default());
        }
    }
}

/// The program where every user can run it: the build may lie where only its owner can go.
pub fn program_for_all(scratch: &Scratch) -> PathBuf {
    let copy = scratch.path().join("nfs-cachefs");
    if !copy.exists() {
        std::fs::copy(PROGRAM, &copy).expect("the program can be copied");
    }
    copy
}

/// A directory as a cache directory must be: ours, 0700.
pub fn private_directory(path: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
