//! The faultfs process: a backend that fails as told.

use super::process;
use super::protocol::{
    Action, Command, Counters, InodeNumbers, Network, Operation, Reply, Rule, Times,
};
use super::scratch::{ProcessList, Scratch, mount_at};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const SOCKET: &str = "faultfs.sock";
const START_LIMIT: Duration = Duration::from_secs(20);
const CONTROL_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default)]
pub struct BackendOptions {
    /// Every open bypasses the kernel's page cache.
    pub direct_io: bool,
    /// How long the kernel may believe names and attributes.
    pub ttl_ms: u64,
    pub network: Network,
    pub times: Times,
    /// Decides by who asks, root being nobody.
    pub squash: bool,
}

/// A directory of real files and a faultfs mount of it. Ends when dropped.
pub struct FaultBackend {
    /// The plain files: what a change on the server changes.
    pub plain: PathBuf,
    /// Where they are served with faults.
    pub mountpoint: PathBuf,
    child: Child,
    processes: ProcessList,
    control: Mutex<BufReader<UnixStream>>,
}

impl FaultBackend {
    /// Serves `scratch`/plain on `scratch`/backend.
    pub fn start(scratch: &Scratch, options: BackendOptions) -> Self {
        let plain = scratch.directory("plain");
        Self::start_on(scratch, plain, options)
    }

    /// Serves an existing directory on `scratch`/backend.
    pub fn start_on(scratch: &Scratch, plain: PathBuf, options: BackendOptions) -> Self {
        let mountpoint = scratch.directory("backend");
        // The address of a socket has 108 bytes, which a path below a deep scratch folder exceeds:
        // bound by its name alone, and reached through the open folder.
        let folder = std::fs::File::open(scratch.path()).expect("the scratch folder opens");
        let socket = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
        // Of one that was there before.
        let _ = std::fs::remove_file(scratch.path().join(SOCKET));
        let mut command = std::process::Command::new(program());
        command.current_dir(scratch.path());
        command.arg(&plain).arg(&mountpoint).arg(SOCKET);
        command.arg("--ttl-ms").arg(options.ttl_ms.to_string());
        if options.direct_io {
            command.arg("--direct-io");
        }
        if options.squash {
            command.arg("--squash");
        }
        let mut child = process::spawn(command).expect("faultfs starts");
        let processes = scratch.processes();
        processes.add(child.id() as i32);
        let deadline = Instant::now() + START_LIMIT;
        let control = loop {
            if let Ok(connection) = UnixStream::connect(&socket) {
                break connection;
            }
            if let Some(status) = child.try_wait().expect("it is ours") {
                panic!("faultfs ended: {status}");
            }
            assert!(Instant::now() < deadline, "faultfs does not serve");
            std::thread::sleep(Duration::from_millis(2));
        };
        control
            .set_read_timeout(Some(CONTROL_LIMIT))
            .expect("a socket takes a timeout");
        let backend = Self {
            plain,
            mountpoint,
            child,
            processes,
            control: Mutex::new(BufReader::new(control)),
        };
        backend.set_network(options.network);
        backend.set_times(options.times);
        backend
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn add_rule(&self, rule: Rule) -> u64 {
        match self.ask(Command::AddRule { rule }) {
            Reply::RuleAdded { id } => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn remove_rule(&self, id: u64) {
        self.tell(Command::RemoveRule { id });
    }

    pub fn clear_rules(&self) {
        self.tell(Command::ClearRules);
    }

    /// Lets the calls that hang on a rule (or on any) go on; how many there were.
    pub fn release(&self, rule: Option<u64>) -> usize {
        match self.ask(Command::Release { id: rule }) {
            Reply::Released { calls } => calls,
            other => panic!("{other:?}"),
        }
    }

    pub fn set_network(&self, network: Network) {
        self.tell(Command::SetNetwork { network });
    }

    pub fn set_times(&self, times: Times) {
        self.tell(Command::SetTimes { times });
    }

    pub fn set_inodes(&self, inodes: InodeNumbers) {
        self.tell(Command::SetInodes { inodes });
    }

    pub fn counters(&self) -> Counters {
        match self.ask(Command::Counters) {
            Reply::Counters { counters } => counters,
            other => panic!("{other:?}"),
        }
    }

    pub fn reset_counters(&self) {
        self.tell(Command::ResetCounters);
    }

    /// Waits until so many calls hang.
    pub fn wait_for_hung(&self, calls: u64) {
        super::wait_until(Duration::from_secs(20), "calls to hang", || {
            self.counters().hung >= calls
        });
    }

    /// SIGSTOP: everything asked of it hangs.
    pub fn stop(&self) {
        process::stop(self.pid());
    }

    pub fn resume(&self) {
        process::resume(self.pid());
    }

    /// SIGKILL: the mount stays and every call on it fails (ENOTCONN).
    pub fn vanish(&mut self) {
        process::kill_now(self.pid());
        process::wait_for(&mut self.child, CONTROL_LIMIT).expect("a killed process ends");
    }

    fn tell(&self, command: Command) {
        match self.ask(command) {
            Reply::Done => {}
            other => panic!("{other:?}"),
        }
    }

    /// The reply to any command, `Failed` ones too.
    pub fn ask(&self, command: Command) -> Reply {
        let mut text = serde_json::to_string(&command).expect("a command is JSON");
        text.push('\n');
        let mut control = self.control.lock().expect("no panic holds it");
        control
            .get_mut()
            .write_all(text.as_bytes())
            .expect("faultfs listens");
        let mut line = String::new();
        control
            .read_line(&mut line)
            .expect("faultfs answers in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

impl Drop for FaultBackend {
    fn drop(&mut self) {
        // Answering what hangs comes before the end; a stopped process takes no signal but these.
        if matches!(self.child.try_wait(), Ok(None)) {
            process::resume(self.pid());
            process::send(self.pid(), nix::sys::signal::Signal::SIGTERM);
            if process::wait_for(&mut self.child, Duration::from_secs(5)).is_none() {
                process::kill_now(self.pid());
                let _ = process::wait_for(&mut self.child, Duration::from_secs(5));
            }
        }
        self.processes.remove(self.pid());
        if mount_at(&self.mountpoint).is_some() {
            let _ = nix::mount::umount2(&self.mountpoint, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Cargo builds examples beside the directory that test binaries are in.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("the test binary has a path");
    let profile = own
        .parent()
        .and_then(Path::parent)
        .expect("target/profile/deps/test");
    let program = profile.join("examples").join("faultfs");
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --example faultfs` (with --release for release tests)",
        program.display()
    );
    program
}

impl Rule {
    /// Hits every call of this kind on every path that matches.
    pub fn new(operation: impl Into<Option<Operation>>, path: &str, action: Action) -> Self {
        Self {
            operation: operation.into(),
            path: path.to_owned(),
            action,
            skip_calls: 0,
            limit_calls: None,
            probability: 1.0,
            seed: 0,
        }
    }

    pub fn skip_calls(mut self, calls: u64) -> Self {
        self.skip_calls = calls;
        self
    }

    pub fn limit_calls(mut self, calls: u64) -> Self {
        self.limit_calls = Some(calls);
        self
    }

    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        self.probability = probability;
        self.seed = seed;
        self
    }
}

impl Counters {
    pub fn calls(&self, operation: Operation) -> u64 {
        self.operations.get(&operation).copied().unwrap_or(0)
    }

    pub fn all_calls(&self) -> u64 {
        self.operations.values().sum()
    }
}
