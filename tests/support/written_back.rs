//! [`Place`]: a mount with `write_mode=back` before a backend that can be made to fail.

use super::*;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Place {
    pub mount: Mount,
    pub backend: FaultBackend,
    /// The directory goes last.
    pub scratch: Scratch,
}

impl Place {
    pub fn new(test: &str, options: &[&str]) -> Self {
        Self::on(test, BackendOptions::default(), options)
    }

    pub fn on(test: &str, server: BackendOptions, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, server);
        let mut mount_options = MountOptions::new(&scratch)
            .with("write_mode=back")
            .with("journal_size=64M")
            .with("backend_timeout=3s");
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        Self {
            mount,
            backend,
            scratch,
        }
    }

    /// One that brings nothing to the backend by itself.
    pub fn late(test: &str) -> Self {
        Self::new(test, &["writeback_delay=1h"])
    }

    pub fn here(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    pub fn there(&self, name: &str) -> PathBuf {
        self.backend.plain.join(name)
    }

    pub fn rule(&self, operation: Operation, path: &str, action: Action) -> u64 {
        self.backend.add_rule(Rule::new(operation, path, action))
    }

    /// `nfs-cachefs VERB` on a path of the mount.
    pub fn command(&self, verb: &str, path: &Path, arguments: &[&str]) -> Output {
        let mut command = std::process::Command::new(mount::PROGRAM);
        command.arg(verb).arg(path).args(arguments);
        process::run(command, LIMIT)
    }

    pub fn wait_for_backend(&self) {
        wait_until(LIMIT, "everything to be on the backend", || {
            self.mount.status_number("writeback.pending_files") == 0
        });
    }

    pub fn expect_agreement(&self, name: &str) {
        let here = fs::read(self.here(name)).unwrap();
        assert!(
            here == fs::read(self.there(name)).unwrap(),
            "{name} differs"
        );
    }

    /// What was put beside other files.
    pub fn conflicts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.backend.plain).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = paths
            .filter(|path| path.to_string_lossy().contains(".conflict-"))
            .collect();
        found.sort();
        found
    }
}

pub fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| seed.wrapping_add((at / 7) as u8))
        .collect()
}

pub fn create(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

pub fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
