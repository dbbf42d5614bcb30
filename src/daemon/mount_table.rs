//! /proc/self/mountinfo (proc_pid_mountinfo(5)): what is mounted where.

use super::FILESYSTEM_SUBTYPE;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub mount_id: u64,
    pub major: u32,
    pub minor: u32,
    /// What directory of the filesystem is mounted: not "/" for bind mounts of a part.
    pub root: PathBuf,
    pub mountpoint: PathBuf,
    pub filesystem_type: String,
    pub source: OsString,
    /// Of the mount and of the filesystem.
    options: String,
}

impl Mount {
    /// Whether this is a mount of ours.
    pub fn is_cachefs(&self) -> bool {
        self.filesystem_type.strip_prefix("fuse.") == Some(FILESYSTEM_SUBTYPE)
    }

    /// Whether the mount table shows this word among its options.
    pub fn shows(&self, word: &str) -> bool {
        self.options.split(',').any(|shown| shown == word)
    }

    /// The value of an option that the mount table shows as `name=value`.
    pub fn value_of(&self, name: &str) -> Option<&str> {
        let mut words = self.options.split(',');
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The user who mounted it.
    pub fn owner(&self) -> Option<u32> {
        let mut words = self.options.split(',');
        words.find_map(|word| word.strip_prefix("user_id=")?.parse().ok())
    }

    /// As mount(8) shows it.
    pub fn in_words(&self) -> String {
        format!(
            "{} on {} type {} ({})",
            self.source.to_string_lossy(),
            self.mountpoint.display(),
            self.filesystem_type,
            self.options
        )
    }

    /// The directory of this FUSE connection under /sys/fs/fuse/connections: its device's minor number
    /// (the major of such devices is 0; Documentation/filesystems/fuse.rst).
    pub fn connection_directory(&self) -> PathBuf {
        let device = (u64::from(self.major) << 20) | u64::from(self.minor);
        PathBuf::from(format!("/sys/fs/fuse/connections/{device}"))
    }
}

/// Every mount this process sees, in the order of mounting.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// The topmost mount at exactly this (absolute, resolved) path.
pub fn topmost_at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?
        .into_iter()
        .rfind(|mount| mount.mountpoint == path))
}

/// The other mounts of the same filesystem: bind mounts, and what they were made of.
pub fn others_of(mount: &Mount) -> io::Result<Vec<Mount>> {
    let device = |mount: &Mount| (mount.major, mount.minor);
    let mut others = mounts()?;
    others.retain(|other| device(other) == device(mount) && other.mount_id != mount.mount_id);
    Ok(others)
}

/// The mount that a resolved path lies on.
pub fn mount_of(path: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        .enumerate()
        .max_by_key(|(order, mount)| (mount.mountpoint.as_os_str().len(), *order))
        .map(|(_, mount)| mount))
}

pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let text = |at: usize| std::str::from_utf8(fields.get(at)?).ok();
    let (major, minor) = text(2)?.split_once(':')?;
    Some(Mount {
        mount_id: text(0)?.parse().ok()?,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        root: PathBuf::from(unescape(fields.get(3)?)),
        mountpoint: PathBuf::from(unescape(fields.get(4)?)),
        filesystem_type: text(separator + 1)?.to_owned(),
        source: unescape(fields.get(separator + 2)?),
        options: format!("{},{}", text(5)?, text(separator + 3).unwrap_or_default()),
    })
}

/// Takes the octal escapes (`\040`) out of a field.
pub(super) fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let code = (field[at] == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(field[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// `path` made absolute with every symbolic link before its last component resolved. The last one is
/// left alone, so that a dead or hung mount there is never touched.
pub fn resolve_parent(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => absolute.canonicalize(),
    }
}

/// A file name made of a path: '/' becomes '-', other bytes than letters, digits, '.' and '_' become
/// `%` and two hex digits; long ones end in a hash instead.
pub fn path_as_name(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut name = String::new();
    for byte in bytes.strip_prefix(b"/").unwrap_or(bytes) {
        match byte {
            b'/' => name.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => name.push(char::from(*byte)),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '-');
    }
    if name.len() > 200 {
        name.truncate(180);
        name.push_str(&format!("+{:016x}", path_hash(path)));
    }
    name
}

/// FNV-1a, 64 bits, of a path's bytes: the same in every version and on every machine.
pub fn path_hash(path: &Path) -> u64 {
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_escapes_and_optional_fields() {
        let text =
            b"36 35 98:0 /mnt1 /mnt2\\040x rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
                     40 36 0:52 / /m rw - fuse.cachefs cachefs rw,user_id=0\n\
                     broken line\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mountpoint, Path::new("/mnt2 x"));
        assert_eq!(mounts[0].root, Path::new("/mnt1"));
        assert!(!mounts[0].is_cachefs() && mounts[1].is_cachefs());
        assert_eq!(mounts[1].source, "cachefs");
        assert!(mounts[1].shows("user_id=0") && !mounts[1].shows("ro"));
        assert_eq!(
            mounts[1].connection_directory(),
            Path::new("/sys/fs/fuse/connections/52")
        );
    }

    #[test]
    fn the_root_is_mounted_and_a_path_finds_its_mount() {
        assert!(topmost_at(Path::new("/")).expect("mountinfo").is_some());
        let proc = mount_of(Path::new("/proc/self/status")).expect("mountinfo");
        assert_eq!(
            proc.map(|mount| mount.filesystem_type),
            Some("proc".to_owned())
        );
    }

    #[test]
    fn paths_become_distinct_names() {
        assert_eq!(path_as_name(Path::new("/mnt/nfs")), "mnt-nfs");
        assert_eq!(path_as_name(Path::new("/mnt-nfs")), "mnt%2dnfs");
        assert_eq!(path_as_name(Path::new("/")), "-");
        let long = PathBuf::from(format!("/{}", "a".repeat(255)));
        let longer = PathBuf::from(format!("/{}b", "a".repeat(254)));
        assert_ne!(path_as_name(&long), path_as_name(&longer));
        assert!(path_as_name(&long).len() <= 200);
    }
}
