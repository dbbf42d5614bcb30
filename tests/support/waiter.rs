//! A process that makes one call on a mount when told, so that signals can be sent to it while it waits. It is the
//! test binary itself, run with [`serve`] as its only test.

use super::locking::{Owner, lock_range};
use super::process;
use super::reading::{AlignedBuffer, Mapping, open_direct};
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

const KIND: &str = "CACHEFS_WAITER_KIND";
const PATH: &str = "CACHEFS_WAITER_PATH";

/// The calls. The first three are made on a file opened before.
pub const KINDS: [&str; 6] = ["buffered", "direct", "mapped", "open", "lookup", "list"];

pub struct Waiter {
    child: Child,
    orders: ChildStdin,
}

impl Waiter {
    /// Starts one for a call of `kind` on `path`; `test` is the name of the test that calls [`serve`]. Returns when
    /// it is ready for [`Waiter::go`].
    pub fn start(test: &str, kind: &str, path: &Path) -> Self {
        let own = std::env::current_exe().expect("the test binary has a path");
        let mut command = Command::new(own);
        command
            .args([test, "--exact", "--ignored", "--nocapture"])
            .env(KIND, kind)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = process::spawn(command).expect("the test binary starts");
        let orders = child.stdin.take().expect("it was piped");
        let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(
            lines.any(|line| line.ends_with("ready")),
            "{kind}: not ready"
        );
        Self { child, orders }
    }

    pub fn go(&mut self) {
        self.orders.write_all(b"go\n").expect("it listens");
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// `None` when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        process::wait_for(&mut self.child, limit)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.wait(Duration::from_secs(10));
    }
}

/// The other side. Does nothing where it was not started by a [`Waiter`].
pub fn serve() {
    let (Ok(kind), Some(path)) = (std::env::var(KIND), std::env::var_os(PATH)) else {
        return;
    };
    let path = Path::new(&path);
    let ready = || {
        println!("\nready");
        let mut line = String::new();
        io::stdin().read_line(&mut line).expect("the test tells");
    };
    let outcome = match kind.as_str() {
        "buffered" => {
            let file = File::open(path).expect("open");
            ready();
            file.read_at(&mut [0; 65536], 0).map(drop)
        }
        "direct" => {
            let file = open_direct(path).expect("open");
            ready();
            let mut buffer = AlignedBuffer::new(65536);
            file.read_at(buffer.bytes_mut(), 0).map(drop)
        }
        "mapped" => {
            let file = File::open(path).expect("open");
            let mapping = Mapping::new(&file, 65536).expect("map");
            ready();
            mapping.read(0, 4096);
            Ok(())
        }
        "open" => {
            ready();
            File::open(path).map(drop)
        }
        "lookup" => {
            ready();
            fs::metadata(path).map(drop)
        }
        "list" => {
            ready();
            fs::read_dir(path).map(|entries| assert!(entries.count() > 0))
        }
        "flock" => {
            let file = File::open(path).expect("open");
            ready();
            rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from)
        }
        // Takes a lock on bytes 10 to 29, and lets it go with its end.
        "lock" => {
            let file = File::options().read(true).write(true).open(path);
            let file = file.expect("open");
            ready();
            lock_range(&file, Owner::Process, true, (10, 20)).expect("the lock");
            io::stdin().read_line(&mut String::new()).map(drop)
        }
        "mkdir" => {
            ready();
            fs::create_dir(path)
        }
        other => panic!("no call is named {other}"),
    };
    outcome.expect("the call");
}
