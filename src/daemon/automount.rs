//! Mounting at a point of autofs, as systemd's automount units make them. While it waits for its mount only the process
//! group that mounts there may look at it (Documentation/filesystems/autofs.rst); and for that group no other such point
//! mounts anything, though the backend may be one.

use super::mount_table::topmost_at;
use nix::unistd::{Pid, getpgrp, setpgid};
use std::io;
use std::path::Path;

/// The process group that mounts, where this process has left it.
#[derive(Debug)]
pub struct MounterGroup(Option<Pid>);

impl MounterGroup {
    /// Leaves it if `mountpoint` is such a point, which this process cannot look at any more then. Who leads a session is
    /// in no such group.
    pub fn leave(mountpoint: &Path) -> io::Result<Self> {
        let mount = topmost_at(mountpoint)?;
        if mount.is_none_or(|mount| mount.filesystem_type != "autofs") {
            return Ok(Self(None));
        }
        let group = getpgrp();
        let own = Pid::from_raw(0);
        Ok(Self(setpgid(own, own).is_ok().then_some(group)))
    }

    /// Joins it again, to mount.
    pub fn rejoin(&self) -> io::Result<()> {
        match self.0 {
            Some(group) => Ok(setpgid(Pid::from_raw(0), group)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_nothing_is_left() {
        let before = getpgrp();
        let group = MounterGroup::leave(Path::new("/proc")).expect("mountinfo");
        assert_eq!((group.0, getpgrp()), (None, before));
        group.rejoin().expect("nothing to do");
    }
}
