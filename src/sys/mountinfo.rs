//! The mounts this process sees: /proc/self/mountinfo (proc_pid_mountinfo(5)). Reading it asks no server.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// What directory of the filesystem is mounted: not "/" for bind mounts of a part.
    pub root: OsString,
    pub mount_point: OsString,
    /// "ext4", "nfs4", "fuse.sshfs"...
    pub fstype: String,
    /// The device or "server:/export".
    pub source: OsString,
    /// Options of the filesystem ("vers=4.2", ...), as opposed to those of the mount.
    pub options: String,
}

impl Mount {
    /// The value of the filesystem option `name=value`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options
            .split(',')
            .filter_map(|option| option.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// All mounts, in the kernel's order.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = unescaped(fields.nth(2)?);
    let mount_point = unescaped(fields.next()?);
    // Mount options and any number of tagged fields end at a lone "-".
    fields.find(|field| *field == b"-")?;
    let fstype = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescaped(fields.next()?);
    let options = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    Some(Mount {
        id,
        root: OsString::from_vec(root),
        mount_point: OsString::from_vec(mount_point),
        fstype,
        source: OsString::from_vec(source),
        options,
    })
}

/// Undoes the kernel's `\ooo` (octal) for space, tab, newline and backslash.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(digits, 8).ok()
            });
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_tags_escapes_and_options_is_understood() {
        let line = br"36 35 0:48 /sub /mnt/two\040words rw,noatime master:1 shared:9 - nfs4 srv:/a\134b rw,vers=4.2,rsize=1048576";
        let mount = parse(line).unwrap();
        assert_eq!(mount.id, 36);
        assert_eq!(mount.root, "/sub");
        assert_eq!(mount.mount_point, "/mnt/two words");
        assert_eq!(mount.fstype, "nfs4");
        assert_eq!(mount.source, r"srv:/a\b");
        assert_eq!(mount.option("vers"), Some("4.2"));
        assert_eq!(mount.option("minorversion"), None);
    }

    #[test]
    fn lines_that_are_none_are_left_out() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 0:48 / /mnt rw"), None);
        assert!(
            mounts()
                .unwrap()
                .iter()
                .any(|mount| mount.mount_point == "/")
        );
    }
}
