//! /etc/fstab (fstab(5)): what is to be mounted.

use super::FILESYSTEM_SUBTYPE;
use super::mount_table::unescape;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const FSTAB: &str = "/etc/fstab";

/// A line about a mount of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FstabEntry {
    pub source: OsString,
    pub mountpoint: PathBuf,
    pub options: OsString,
}

/// The line for a mountpoint. A file that cannot be read has none.
pub fn entry_for(mountpoint: &Path) -> Option<FstabEntry> {
    let text = std::fs::read(FSTAB).unwrap_or_default();
    parse(&text)
        .into_iter()
        .rfind(|entry| entry.mountpoint == mountpoint)
}

fn parse(text: &[u8]) -> Vec<FstabEntry> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<FstabEntry> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut fields = line.split(blank).filter(|field| !field.is_empty());
    let source = fields.next().filter(|field| !field.starts_with(b"#"))?;
    let mountpoint = PathBuf::from(unescape(fields.next()?));
    let kind = fields.next()?;
    let ours = kind.strip_prefix(b"fuse.").unwrap_or(kind);
    (ours == FILESYSTEM_SUBTYPE.as_bytes()).then(|| FstabEntry {
        source: unescape(source),
        // A trailing slash is no part of the name.
        mountpoint: mountpoint.components().collect(),
        options: OsString::from_vec(fields.next().unwrap_or(b"defaults").to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn lines_of_ours_are_read_with_their_escapes() {
        let text = b"# a comment\n/mnt/nfs\t/mnt/my\\040c/  cachefs cache_size=1G,_netdev 0 0\n\
                     server:/x /mnt/x nfs defaults 0 0\n  cachefs /mnt/d fuse.cachefs\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].mountpoint, Path::new("/mnt/my c"));
        assert_eq!(entries[0].options.as_bytes(), b"cache_size=1G,_netdev");
        assert_eq!(entries[1].source, "cachefs");
        assert_eq!(entries[1].options, "defaults");
    }
}
