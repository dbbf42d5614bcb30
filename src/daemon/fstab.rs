//! /etc/fstab (fstab(5)): what is to be mounted.

use super::FILESYSTEM_SUBTYPE;
use super::mount_table::unescape;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const FSTAB: &str = "/etc/fstab";

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FstabEntry {
    pub source: OsString,
    pub mountpoint: PathBuf,
    pub options: OsString,
}

/// The line for a mountpoint. A file that cannot be read has none.
pub fn entry_for(mountpoint: &Path) -> Option<FstabEntry> {
    let (ours, _) = parse(&std::fs::read(FSTAB).unwrap_or_default());
    ours.into_iter()
        .rfind(|entry| entry.mountpoint == mountpoint)
}

/// The innermost directory, `path` itself or above it, where another filesystem than ours is to be mounted.
pub fn mountpoint_above(path: &Path) -> Option<PathBuf> {
    let (_, others) = parse(&std::fs::read(FSTAB).unwrap_or_default());
    innermost_above(path, others)
}

fn innermost_above(path: &Path, mountpoints: Vec<PathBuf>) -> Option<PathBuf> {
    let above = mountpoints
        .into_iter()
        .filter(|mountpoint| path.starts_with(mountpoint));
    above.max_by_key(|mountpoint| mountpoint.components().count())
}

/// Lines about mounts of ours, and where all others are to be.
fn parse(text: &[u8]) -> (Vec<FstabEntry>, Vec<PathBuf>) {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for (entry, kind) in text.split(|byte| *byte == b'\n').filter_map(parse_line) {
        match kind.strip_prefix(b"fuse.").unwrap_or(kind) == FILESYSTEM_SUBTYPE.as_bytes() {
            true => ours.push(entry),
            false => others.push(entry.mountpoint),
        }
    }
    (ours, others)
}

/// A line and the type of its filesystem.
fn parse_line(line: &[u8]) -> Option<(FstabEntry, &[u8])> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut fields = line.split(blank).filter(|field| !field.is_empty());
    let source = fields.next().filter(|field| !field.starts_with(b"#"))?;
    let mountpoint = PathBuf::from(unescape(fields.next()?));
    let kind = fields.next()?;
    let entry = FstabEntry {
        source: unescape(source),
        // A trailing slash is no part of the name.
        mountpoint: mountpoint.components().collect(),
        options: OsString::from_vec(fields.next().unwrap_or(b"defaults").to_vec()),
    };
    Some((entry, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn lines_of_ours_are_read_with_their_escapes() {
        let text = b"# a comment\n/mnt/nfs\t/mnt/my\\040c/  cachefs cache_size=1G,_netdev 0 0\n\
                     server:/x /mnt/x nfs defaults 0 0\n  cachefs /mnt/d fuse.cachefs\n";
        let (entries, others) = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(others, [PathBuf::from("/mnt/x")]);
        assert_eq!(entries[0].mountpoint, Path::new("/mnt/my c"));
        assert_eq!(entries[0].options.as_bytes(), b"cache_size=1G,_netdev");
        assert_eq!(entries[1].source, "cachefs");
        assert_eq!(entries[1].options, "defaults");
    }

    #[test]
    fn a_path_belongs_to_the_innermost_mountpoint_above_it() {
        let (_, others) = parse(
            b"/dev/a / ext4\nserver:/x /mnt nfs\nserver:/y /mnt/y/ nfs\n/dev/b none swap sw 0 0\n",
        );
        for (path, mountpoint) in [("/mnt/y/z", "/mnt/y"), ("/mnt/yy", "/mnt"), ("/srv", "/")] {
            let found = innermost_above(Path::new(path), others.clone());
            assert_eq!(found, Some(PathBuf::from(mountpoint)));
        }
    }
}
