//! Where a path lies: on which mount of ours, and where below its root.

use super::status::hangs;
use crate::daemon::mount_table::{mount_of, resolve_parent};
use parking_lot::Mutex;
use std::path::{Component, Path, PathBuf};

pub struct Located {
    pub mountpoint: PathBuf,
    /// From the root of what is mounted, also where a bind mount shows only a part.
    pub below: PathBuf,
}

/// The path itself need not exist, its directory must.
pub fn locate(path: &Path) -> Result<Located, String> {
    if path.as_os_str().is_empty() {
        return Err("an empty path".to_owned());
    }
    expect_served(path)?;
    let resolved = resolve_parent(path).map_err(|error| error.to_string())?;
    let resolved = match resolved.is_symlink() {
        true => resolved.canonicalize().map_err(|error| error.to_string())?,
        false => resolved,
    };
    find(&resolved)
}

/// A look at what a hung daemon serves would not end: it is asked before, once, of however many paths.
pub fn expect_served(path: &Path) -> Result<(), String> {
    static ANSWERED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let Some(Located { mountpoint, .. }) = locate_as_written(path) else {
        return Ok(());
    };
    if ANSWERED.lock().contains(&mountpoint) {
        return Ok(());
    }
    if hangs(&mountpoint) {
        return Err("the daemon does not answer".to_owned());
    }
    ANSWERED.lock().push(mountpoint);
    Ok(())
}

/// The same without a look at the path, for which an absent server may be waited: `None` where links or `..` may lead
/// elsewhere before the mount is reached.
pub fn locate_as_written(path: &Path) -> Option<Located> {
    let written = std::path::absolute(path).ok()?;
    let is_plain = !written
        .components()
        .any(|part| part == Component::ParentDir);
    find(&written).ok().filter(|_| is_plain)
}

fn find(path: &Path) -> Result<Located, String> {
    let mount = mount_of(path).map_err(|error| error.to_string())?;
    let mount = mount
        .filter(|mount| mount.is_cachefs())
        .ok_or("not below a mount of nfs-cachefs")?;
    let below = path.strip_prefix(&mount.mountpoint);
    let below = below.map_err(|error| error.to_string())?;
    let root: PathBuf = mount.root.components().skip(1).collect();
    Ok(Located {
        below: root.join(below),
        mountpoint: mount.mountpoint,
    })
}
