//! [`Pair`]: a mount and the directory behind it, which every user may enter and make names in.

use super::{Mount, MountOptions, Scratch, with_time_limit};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Pair {
    // In this order: the mount goes before its directories.
    pub mount: Mount,
    pub plain: PathBuf,
    pub scratch: Scratch,
}

impl Pair {
    pub fn new(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        Self::with(scratch, plain, mount_options)
    }

    pub fn with(scratch: Scratch, plain: PathBuf, options: MountOptions) -> Self {
        for (path, mode) in [(scratch.path(), 0o755), (&*plain, 0o1777)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
        }
        let mount = Mount::start(&scratch, &plain, options);
        Self {
            mount,
            plain,
            scratch,
        }
    }

    /// Runs `work` with the paths of the mount and of the directory behind it.
    pub fn run(&self, limit: Duration, work: impl FnOnce(&Path, &Path) + Send + 'static) {
        let (seen, plain) = (self.mount.path().to_owned(), self.plain.clone());
        with_time_limit(&self.scratch, limit, move || work(&seen, &plain));
    }
}
