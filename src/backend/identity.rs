//! What a backend file is called over restarts and renames: filesystem ids and file keys.
//!
//! A key is `filesystem id (8 bytes) | 1 | handle type (4, little endian) | handle` where the filesystem
//! is known to keep its handles, else `filesystem id (8) | 2 | inode (8, little endian) | birth time (8,
//! nanoseconds, little endian, 0 where there is none to trust)`.
//!
//! The filesystem id is a checksum of what stays the same over remount and reboot:
//! - NFS: "nfs" and the source ("server:/export"). Its `f_fsid` is always zero; handles are the same in
//!   every protocol version, so the version is left out. A server under another name is another filesystem.
//! - ext2/3/4, btrfs: `f_fsid`, made from the UUID (and the subvolume).
//! - xfs: the UUID where the kernel tells it (Linux 6.9), else `f_fsid` (made from the device number) and
//!   the source.
//! - others: type, source, and `f_fsid`, or the mount point where that is zero (FUSE). On overlayfs, whose
//!   inode numbers are those of several filesystems, also the device number, which differs at every
//!   mount: its keys do not outlive one.

use crate::sys::handle::{self, FileHandle};
use crate::sys::mountinfo::Mount;
use crate::sys::stat::{self, FilesystemStat, Stat};
use crate::types::FileKey;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

/// Names one filesystem over remounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FilesystemId(pub [u8; 8]);

const KEY_BY_HANDLE: u8 = 1;
const KEY_BY_INODE: u8 = 2;
const HANDLE_TYPE_OFFSET: usize = 9;
const HANDLE_OFFSET: usize = 13;

/// What is known of a kind of filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traits {
    /// Handles name the same file for as long as it exists, over reboots, and never another.
    pub keeps_handles: bool,
    /// Behind a network or another process: reads go O_DIRECT, calls may hang.
    pub remote: bool,
    /// Timestamps come from this machine's clock.
    pub local_clock: bool,
    /// The birth time never changes, so that it tells reuses of an inode number apart.
    pub keeps_birth_time: bool,
    /// Mode, owner and POSIX ACL say all about who may do what: these filesystems check by the kernel's own
    /// generic_permission(), and the kernel calls the same with the same facts for the mount (FUSE_POSIX_ACL), so
    /// that asking once more tells nothing.
    pub shows_rights: bool,
}

/// The traits of a mount's filesystem, by its type and options.
pub fn traits_of(mount: &Mount) -> Traits {
    let local = Traits {
        keeps_handles: false,
        remote: false,
        local_clock: true,
        keeps_birth_time: false,
        shows_rights: false,
    };
    let remote = Traits {
        remote: true,
        local_clock: false,
        ..local
    };
    match mount.fstype.as_str() {
        "ext2" | "ext3" | "ext4" | "xfs" => Traits {
            keeps_handles: true,
            shows_rights: true,
            ..local
        },
        "tmpfs" | "btrfs" | "f2fs" | "bcachefs" => Traits {
            keeps_birth_time: true,
            shows_rights: true,
            ..local
        },
        // It may keep NFSv4 ACLs.
        "zfs" => Traits {
            keeps_birth_time: true,
            ..local
        },
        "nfs" | "nfs4" => Traits {
            // The handles of v4.0 may be volatile, and v2 is not trusted with anything.
            keeps_handles: matches!(mount.option("vers"), Some("3" | "4.1" | "4.2")),
            ..remote
        },
        "cifs" | "smb3" | "ceph" | "9p" | "virtiofs" | "lustre" | "afs" | "gpfs" | "beegfs"
        | "orangefs" | "pvfs2" | "coda" | "wekafs" | "ocfs2" | "gfs2" => remote,
        fstype if fstype.starts_with("fuse") => remote,
        _ => local,
    }
}

/// The id of the filesystem that `directory` (not an O_PATH descriptor) lies on.
pub fn filesystem_id(
    mount: &Mount,
    facts: &FilesystemStat,
    device: (u32, u32),
    directory: Option<BorrowedFd<'_>>,
) -> FilesystemId {
    let source = mount.source.as_bytes();
    let fsid = facts.id.to_le_bytes();
    match mount.fstype.as_str() {
        "nfs" | "nfs4" => checksum(&[b"nfs", source]),
        "ext2" | "ext3" | "ext4" => checksum(&[b"ext", &fsid]),
        "btrfs" => checksum(&[b"btrfs", &fsid]),
        "xfs" => match directory.and_then(stat::filesystem_uuid) {
            Some(uuid) => checksum(&[b"xfs", &uuid]),
            None => checksum(&[b"xfs", source, &fsid]),
        },
        "overlay" => checksum(&[
            b"overlay",
            source,
            &fsid,
            &device.0.to_le_bytes(),
            &device.1.to_le_bytes(),
        ]),
        fstype if facts.id == 0 => {
            checksum(&[fstype.as_bytes(), source, mount.mount_point.as_bytes()])
        }
        fstype => checksum(&[fstype.as_bytes(), source, &fsid]),
    }
}

/// Another id for a filesystem that would share one with a different one (a clone of the same disk, mounted
/// beside it).
pub fn distinguished(id: FilesystemId, mount: &Mount) -> FilesystemId {
    checksum(&[b"clone", &id.0, mount.mount_point.as_bytes()])
}

fn checksum(parts: &[&[u8]]) -> FilesystemId {
    let mut bytes = Vec::with_capacity(128);
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
    FilesystemId(sum.to_le_bytes())
}

/// The key of what `fd` (O_PATH is enough) refers to, whose attributes are `stat`.
pub fn key_of(
    id: FilesystemId,
    traits: Traits,
    fd: BorrowedFd<'_>,
    stat: &Stat,
) -> io::Result<FileKey> {
    if traits.keeps_handles {
        match handle::handle_of(fd) {
            Ok(handle) => return Ok(key_by_handle(id, &handle)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EOVERFLOW | libc::ENOSYS) => {}
                _ => return Err(error),
            },
        }
    }
    let birth = match traits.keeps_birth_time {
        true => stat::birth_time(fd)?.unwrap_or_default(),
        false => Default::default(),
    };
    let birth_ns = birth
        .seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(i64::from(birth.nanoseconds));
    let mut key = start_of_key(id, KEY_BY_INODE);
    key.extend_from_slice(&stat.attributes.inode.to_le_bytes());
    key.extend_from_slice(&birth_ns.to_le_bytes());
    Ok(FileKey(key.into()))
}

fn key_by_handle(id: FilesystemId, handle: &FileHandle) -> FileKey {
    let mut key = start_of_key(id, KEY_BY_HANDLE);
    key.extend_from_slice(&handle.kind.to_le_bytes());
    key.extend_from_slice(&handle.bytes);
    FileKey(key.into())
}

fn start_of_key(id: FilesystemId, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.extend_from_slice(&id.0);
    key.push(kind);
    key
}

/// The handle in a key of the filesystem `id`; `None` for keys by inode and keys of other filesystems.
pub fn handle_in(key: &FileKey, id: FilesystemId) -> Option<FileHandle> {
    let bytes = &key.0;
    if bytes.get(..8)? != id.0 || *bytes.get(8)? != KEY_BY_HANDLE {
        return None;
    }
    Some(FileHandle {
        kind: i32::from_le_bytes(
            bytes
                .get(HANDLE_TYPE_OFFSET..HANDLE_OFFSET)?
                .try_into()
                .ok()?,
        ),
        bytes: bytes[HANDLE_OFFSET..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fstype: &str, source: &str, options: &str) -> Mount {
        Mount {
            id: 1,
            root: "/".into(),
            mount_point: "/mnt".into(),
            fstype: fstype.into(),
            source: source.into(),
            options: options.into(),
        }
    }

    #[test]
    fn nfs_keeps_handles_except_in_versions_that_do_not() {
        for (fstype, options, keeps) in [
            ("nfs", "rw,vers=3,hard", true),
            ("nfs4", "rw,vers=4.2", true),
            ("nfs4", "rw,vers=4.1", true),
            ("nfs4", "rw,vers=4.0", false),
            ("nfs", "rw,vers=2", false),
            ("nfs", "rw", false),
            ("fuse.sshfs", "rw", false),
        ] {
            let traits = traits_of(&mount(fstype, "s:/e", options));
            assert_eq!(traits.keeps_handles, keeps, "{fstype} {options}");
            assert!(traits.remote && !traits.local_clock);
        }
    }

    #[test]
    fn an_nfs_id_is_the_same_for_every_version_and_differs_by_export() {
        let facts = FilesystemStat::default();
        let id = |mount: &Mount| filesystem_id(mount, &facts, (0, 50), None);
        let v3 = id(&mount("nfs", "s:/e", "vers=3"));
        assert_eq!(v3, id(&mount("nfs4", "s:/e", "vers=4.2")));
        assert_ne!(v3, id(&mount("nfs", "s:/other", "vers=3")));
        assert_ne!(v3, distinguished(v3, &mount("nfs", "s:/e", "")));
    }

    #[test]
    fn a_handle_comes_back_from_its_key_and_only_on_its_filesystem() {
        let id = FilesystemId([1; 8]);
        let handle = FileHandle {
            kind: -7,
            bytes: (0..handle::HANDLE_BYTES_MAX as u8).collect(),
        };
        let key = key_by_handle(id, &handle);
        assert!(key.0.len() <= 160);
        assert_eq!(handle_in(&key, id), Some(handle));
        assert_eq!(handle_in(&key, FilesystemId([2; 8])), None);
        assert_eq!(handle_in(&FileKey([1; 8].as_slice().into()), id), None);
    }
}
