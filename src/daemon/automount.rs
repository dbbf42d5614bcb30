//! Points of autofs, as systemd's automount units make them. For the process group that mounts there each of them is an empty
//! directory: it waits for no mount and asks for none (Documentation/filesystems/autofs.rst). Who is run by systemd to mount
//! something is in that group, and the backend may be such a point.

use super::mount_table::{Mount, mounts};
use nix::unistd::{Pid, getpgrp, setpgid};
use std::io;

pub const AUTOFS: &str = "autofs";

/// The process group that mounts, where this process has left it.
#[derive(Debug)]
pub struct MounterGroup(Option<Pid>);

impl MounterGroup {
    /// Leaves it if this process is in one, and can then look at no point that waits to be mounted by that group any more. Who
    /// leads a session is in no such group.
    pub fn leave() -> io::Result<Self> {
        let group = getpgrp();
        if !mounts()?.iter().any(|mount| is_mounted_by(mount, group)) {
            return Ok(Self(None));
        }
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

/// Whether this is a point that `group` mounts at.
fn is_mounted_by(mount: &Mount, group: Pid) -> bool {
    let of_point = || mount.value_of("pgrp")?.parse().ok();
    mount.filesystem_type == AUTOFS && of_point() == Some(group.as_raw())
}

#[cfg(test)]
mod tests {
    use super::super::mount_table::parse;
    use super::*;

    #[test]
    fn the_group_that_mounts_is_told_by_the_points_it_mounts_at() {
        let mounts = parse(
            b"40 22 0:36 / /mnt/nfs rw,relatime shared:9 - autofs systemd-1 rw,fd=48,pgrp=1,timeout=0,minproto=5,direct\n\
              41 22 0:37 / /mnt/x rw - tmpfs pgrp=7 rw,pgrp=7\n",
        );
        for (group, is_mounter) in [(1, true), (7, false), (12, false)] {
            let group = Pid::from_raw(group);
            let found = mounts.iter().any(|mount| is_mounted_by(mount, group));
            assert_eq!(found, is_mounter, "{group}");
        }
    }

    #[test]
    fn who_mounts_for_nobody_leaves_nothing() {
        let before = getpgrp();
        let group = MounterGroup::leave().expect("mountinfo");
        assert_eq!((group.0, getpgrp()), (None, before));
        group.rejoin().expect("nothing to do");
    }
}
