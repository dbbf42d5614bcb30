//! Attaching to a mount point and leaving it again.

use crate::sys::fuse_device::FuseDevice;
use crate::sys::fusermount;
use nix::mount::{MntFlags, MsFlags};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What `mount` and `df` show as the type, after `fuse.`.
pub const SUBTYPE: &str = "cachefs";

/// Settings of fusermount3.
const HELPER_SETTINGS: &str = "/etc/fuse.conf";

/// Who may use the mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only the user who mounted.
    Owner,
    /// `allow_root`
    OwnerAndRoot,
    /// `allow_other`
    Everyone,
}

/// What the mount system call needs to know.
#[derive(Clone, Debug)]
pub struct MountPlan {
    pub mountpoint: PathBuf,
    /// Shown as the source, exactly as given.
    pub source_name: String,
    pub access: Access,
    /// The kernel checks mode bits and owner by itself.
    pub default_permissions: bool,
    /// `ro`, `nosuid`, `nodev`, `noexec`, `noatime`...: what is absent is not set.
    pub flags: MsFlags,
}

/// Why mounting or serving failed.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    #[error("cannot use the mount point {path}: {source}")]
    Mountpoint {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open /dev/fuse: {0} (it needs the fuse module: 'modprobe fuse')")]
    Device(#[source] io::Error),
    #[error("cannot mount at {path}: {source}")]
    Mount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "allow_other and allow_root: {HELPER_SETTINGS} does not let ordinary users open their mounts to others; \
         leave the option out, or have root add the line user_allow_other there"
    )]
    OthersRefused,
    #[error("the kernel and we could not agree on a FUSE protocol: {0}")]
    Negotiation(#[source] io::Error),
    #[error("mounted at {0}, but it does not show in /proc/self/mountinfo")]
    Vanished(PathBuf),
    #[error("starting a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("not enough memory for request buffers: {0}")]
    Memory(#[source] io::Error),
    #[error("reading requests from the kernel: {0}")]
    Read(#[source] io::Error),
    #[error("cannot unmount {path}: {source}")]
    Unmount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How far [`Mounted::unmount`] goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnmountMode {
    /// EBUSY while a program uses the mount.
    IfUnused,
    /// The name goes now, the rest when the last program lets go (`umount -l`).
    Detach,
}

/// A place in the mount table that is ours. Knows its device number, so that it never unmounts
/// somebody else's mount at the same path.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    device: DeviceNumber,
}

/// Major and minor number of a filesystem, as in `st_dev`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

/// Mounts; where that is not for this user to do, through fusermount3. Nobody answers yet: the first use of the mount waits
/// until requests are read from the device.
pub fn mount(plan: &MountPlan) -> Result<(FuseDevice, Mounted), FuseError> {
    let unusable = |source| FuseError::Mountpoint {
        path: plan.mountpoint.clone(),
        source,
    };
    let path = plan.mountpoint.canonicalize().map_err(unusable)?;
    let device = match mount_ourselves(plan, &path) {
        Err(error) if error.is_refusal() => mount_by_helper(plan, &path)?,
        outcome => outcome?,
    };
    match topmost_at(&path) {
        Ok(Some(number)) => Ok((
            device,
            Mounted {
                path,
                device: number,
            },
        )),
        _ => {
            // Ours was put there a moment ago by this thread.
            let _ = take_away(&path, UnmountMode::Detach);
            Err(FuseError::Vanished(path))
        }
    }
}

fn mount_ourselves(plan: &MountPlan, path: &Path) -> Result<FuseDevice, FuseError> {
    let failed = |source| FuseError::Mount {
        path: path.to_owned(),
        source,
    };
    let device = FuseDevice::open().map_err(FuseError::Device)?;
    let root_mode = path.metadata().map_err(failed)?.mode() & libc::S_IFMT;
    let mut options = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={}",
        device.as_fd().as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid(),
    );
    for word in plan.words() {
        options.push(',');
        options.push_str(word);
    }
    nix::mount::mount(
        Some(plan.source_name.as_str()),
        path,
        Some(format!("fuse.{SUBTYPE}").as_str()),
        plan.flags,
        Some(options.as_str()),
    )
    .map_err(|errno| failed(errno.into()))?;
    Ok(device)
}

fn mount_by_helper(plan: &MountPlan, path: &Path) -> Result<FuseDevice, FuseError> {
    if plan.access != Access::Owner && !lets_others_in(Path::new(HELPER_SETTINGS)) {
        return Err(FuseError::OthersRefused);
    }
    match fusermount::mount(path, &helper_options(plan)) {
        Ok(device) => Ok(FuseDevice::from(device)),
        Err(source) => Err(FuseError::Mount {
            path: path.to_owned(),
            source,
        }),
    }
}

impl FuseError {
    /// Mounting is not for this user to do.
    fn is_refusal(&self) -> bool {
        let (Self::Device(source) | Self::Mount { source, .. }) = self else {
            return false;
        };
        matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES))
    }
}

/// Whether ordinary users may open their mounts to others (fuse.conf(5)); where that cannot be read the helper says.
fn lets_others_in(settings: &Path) -> bool {
    match std::fs::read_to_string(settings) {
        Ok(text) => text.lines().any(|line| line.trim() == "user_allow_other"),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// What fusermount3 is told: it adds whom the mount belongs to, `nosuid` and `nodev`.
fn helper_options(plan: &MountPlan) -> OsString {
    let mut options = format!(
        "fsname={},subtype={SUBTYPE}",
        plan.source_name.replace('\\', "\\\\").replace(',', "\\,")
    );
    let flags = [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_NOEXEC, "noexec"),
        (MsFlags::MS_NOATIME, "noatime"),
        (MsFlags::MS_SYNCHRONOUS, "sync"),
        (MsFlags::MS_DIRSYNC, "dirsync"),
    ];
    let set = flags.iter().filter(|(flag, _)| plan.flags.contains(*flag));
    for word in plan.words().chain(set.map(|(_, word)| *word)) {
        options.push(',');
        options.push_str(word);
    }
    options.into()
}

impl MountPlan {
    /// What the kernel's FUSE is told, beside whom the mount belongs to.
    fn words(&self) -> impl Iterator<Item = &'static str> {
        let words = [
            (self.access != Access::Owner, "allow_other"),
            (self.default_permissions, "default_permissions"),
        ];
        words
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, word)| word)
    }
}

/// umount2(2), or the helper where that is not for this user to do.
fn take_away(path: &Path, mode: UnmountMode) -> io::Result<()> {
    let lazily = mode == UnmountMode::Detach;
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazily);
    match nix::mount::umount2(path, flags) {
        Err(nix::Error::EPERM) => fusermount::unmount(path, lazily),
        outcome => Ok(outcome?),
    }
}

impl Mounted {
    /// The mount point, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn device_number(&self) -> DeviceNumber {
        self.device
    }

    /// Takes the mount out of the mount table; fine if it has gone already. EBUSY as an error when it is
    /// in use, or covered by another mount.
    pub fn unmount(&self, mode: UnmountMode) -> Result<(), FuseError> {
        let failed = |source| FuseError::Unmount {
            path: self.path.clone(),
            source,
        };
        match topmost_at(&self.path).map_err(failed)? {
            Some(device) if device == self.device => {}
            _ if !is_mounted(self.device).map_err(failed)? => return Ok(()),
            _ => return Err(failed(io::Error::from_raw_os_error(libc::EBUSY))),
        }
        take_away(&self.path, mode).map_err(failed)
    }
}

/// The filesystem mounted last at `path` itself, if any.
fn topmost_at(path: &Path) -> io::Result<Option<DeviceNumber>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(mounts_in(&table)
        .filter(|(_, mountpoint)| mountpoint.as_os_str() == path.as_os_str())
        .map(|(device, _)| device)
        .last())
}

fn is_mounted(device: DeviceNumber) -> io::Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(mounts_in(&table).any(|(other, _)| other == device))
}

/// Device number and mount point of each line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn mounts_in(table: &[u8]) -> impl Iterator<Item = (DeviceNumber, PathBuf)> + '_ {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = str::from_utf8(fields.nth(2)?).ok()?;
        let (major, minor) = number.split_once(':')?;
        let device = DeviceNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        };
        Some((device, unescaped(fields.nth(1)?)))
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Sets how far ahead the kernel reads in cached files, and returns what it is now.
pub fn set_read_ahead(device: DeviceNumber, read_ahead_bytes: u64) -> io::Result<u64> {
    let path = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        device.major, device.minor
    );
    std::fs::write(&path, (read_ahead_bytes / 1024).to_string())?;
    let now_kib = std::fs::read_to_string(&path)?;
    now_kib
        .trim()
        .parse::<u64>()
        .map(|kib| kib * 1024)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = b"29 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            40 29 0:45 / /a\\040b\\134c rw shared:1 - fuse.cachefs src rw\n\
            41 40 0:46 / /a\\040b\\134c rw - fuse.cachefs src rw\nbroken\n";
        let mounts: Vec<_> = mounts_in(table).collect();
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].1, Path::new("/"));
        assert_eq!(mounts[2].1.as_os_str().as_bytes(), b"/a b\\c");
        assert_eq!(
            mounts[2].0,
            DeviceNumber {
                major: 0,
                minor: 46
            }
        );
    }

    #[test]
    fn others_are_let_in_only_by_a_line_of_its_own() {
        let directory = tempfile::tempdir().expect("scratch");
        let settings = directory.path().join("fuse.conf");
        assert!(!lets_others_in(&settings));
        std::fs::write(&settings, "#user_allow_other\nmount_max = 7\n").expect("written");
        assert!(!lets_others_in(&settings));
        std::fs::write(&settings, "mount_max = 7\nuser_allow_other\n").expect("written");
        assert!(lets_others_in(&settings));
    }

    #[test]
    fn the_helper_is_told_names_with_commas() {
        let plan = MountPlan {
            mountpoint: "/m".into(),
            source_name: "a,b\\c".into(),
            access: Access::Owner,
            default_permissions: true,
            flags: MsFlags::MS_RDONLY | MsFlags::MS_NOATIME,
        };
        assert_eq!(
            helper_options(&plan),
            "fsname=a\\,b\\\\c,subtype=cachefs,default_permissions,ro,noatime"
        );
    }
}
