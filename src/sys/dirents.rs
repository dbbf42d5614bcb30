//! Reading directories with getdents64(2), one kernel buffer at a time.

#![allow(unsafe_code)]

use super::{checked, retried};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes before the name in a `struct linux_dirent64`: inode 8, offset 8, record length 2, type 1.
const NAME_OFFSET: usize = 19;

/// One record of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dirent<'a> {
    pub inode: u64,
    /// DT_* of the entry; DT_UNKNOWN where the filesystem does not tell.
    pub kind: u8,
    pub name: &'a [u8],
}

/// Fills `buffer` from the directory's position on and answers how many bytes of records are in it;
/// 0 at the end.
pub fn read_records(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for the length given.
    retried(|| unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })
    .map(|length| length as usize)
}

/// The record at the front of `records` and the bytes it takes; `None` at the end or where the bytes are
/// no record.
pub fn first_record(records: &[u8]) -> Option<(Dirent<'_>, usize)> {
    let inode = u64::from_ne_bytes(records.get(..8)?.try_into().ok()?);
    let length = usize::from(u16::from_ne_bytes(records.get(16..18)?.try_into().ok()?));
    let kind = *records.get(18)?;
    let name = records.get(NAME_OFFSET..length)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let dirent = Dirent {
        inode,
        kind,
        name: &name[..end],
    };
    Some((dirent, length))
}

/// Back to the first record.
pub fn rewind(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::lseek(directory.as_raw_fd(), 0, libc::SEEK_SET) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_records_end_the_listing_instead_of_being_believed() {
        assert_eq!(first_record(&[]), None);
        assert_eq!(first_record(&[0; 18]), None);
        let mut record = vec![0u8; 24];
        record[0] = 7;
        record[16] = 24;
        record[18] = libc::DT_REG;
        record[19] = b'a';
        let (dirent, length) = first_record(&record).unwrap();
        assert_eq!((dirent.inode, dirent.name, length), (7, &b"a"[..], 24));
        record[16] = 25;
        assert_eq!(first_record(&record), None);
        record[16] = 5;
        assert_eq!(first_record(&record), None);
    }
}
