//! Scratch directories and mounts for this module's tests.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

/// An empty directory that goes with the value; under CACHEFS_TEST_DIR if that is set.
pub fn scratch() -> tempfile::TempDir {
    let base = std::env::var_os("CACHEFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("backend-test-")
        .tempdir_in(base)
        .expect("the test directory can be written to")
}

/// A mount that goes with the value.
pub struct Mounted(PathBuf);

impl Mounted {
    /// A tmpfs at `at`; `None` without the privilege to mount.
    pub fn tmpfs(at: &Path) -> Option<Self> {
        let options = Some("size=64m");
        let done = mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), options);
        Self::unless_forbidden(done, at)
    }

    /// `from` once more at `at`; `None` without the privilege to mount.
    pub fn bind(from: &Path, at: &Path) -> Option<Self> {
        let done = mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        Self::unless_forbidden(done, at)
    }

    fn unless_forbidden(done: nix::Result<()>, at: &Path) -> Option<Self> {
        match done {
            Ok(()) => Some(Self(at.to_path_buf())),
            Err(nix::errno::Errno::EPERM) => {
                eprintln!("not allowed to mount: left out");
                None
            }
            Err(error) => panic!("mounting at {}: {error}", at.display()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
