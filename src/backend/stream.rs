//! An open backend directory, read one kernel buffer at a time.

use super::locate::Tree;
use super::{DirectoryStream, Found, ListedName, counted};
use crate::metrics::BackendMetrics;
use crate::sys::{dirents, stat};
use crate::types::{Credentials, FileKind};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

/// Asked of the kernel at once; NFS fills it from one READDIR or a few.
const RECORDS_BYTES: usize = 32 * 1024;
/// Names given per call.
const NAMES_PER_CALL: usize = 256;

pub struct OpenDirectory {
    tree: Arc<Tree>,
    directory: OwnedFd,
    /// Who looks the names up.
    caller: Option<Credentials>,
    metrics: Arc<BackendMetrics>,
    records: Box<[u8]>,
    /// The part of `records` not given out yet.
    pending: std::ops::Range<usize>,
}

impl OpenDirectory {
    /// `directory` is open for reading.
    pub fn new(
        tree: Arc<Tree>,
        directory: OwnedFd,
        caller: Option<Credentials>,
        metrics: Arc<BackendMetrics>,
    ) -> Self {
        Self {
            tree,
            directory,
            caller,
            metrics,
            records: vec![0; RECORDS_BYTES].into(),
            pending: 0..0,
        }
    }

    fn kind(&self, name: &OsStr, told: u8) -> io::Result<FileKind> {
        if told == libc::DT_UNKNOWN {
            return stat::kind_of(self.directory.as_fd(), name);
        }
        Ok(FileKind::from_mode(u32::from(told) << 12))
    }
}

impl DirectoryStream for OpenDirectory {
    fn next_names(&mut self, into: &mut Vec<ListedName>) -> io::Result<()> {
        let before = into.len();
        while into.len() - before < NAMES_PER_CALL {
            if self.pending.is_empty() {
                if into.len() > before {
                    return Ok(());
                }
                let length = counted(&self.metrics, || {
                    dirents::read_records(self.directory.as_fd(), &mut self.records)
                })?;
                if length == 0 {
                    return Ok(());
                }
                self.pending = 0..length;
            }
            let Some((record, length)) = dirents::first_record(&self.records[self.pending.clone()])
            else {
                self.pending = 0..0;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            };
            self.pending.start += length;
            if record.name == b"." || record.name == b".." {
                continue;
            }
            let name = OsString::from_vec(record.name.to_vec());
            let inode = record.inode;
            match self.kind(&name, record.kind) {
                Ok(kind) => into.push(ListedName { name, inode, kind }),
                // Gone since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.pending = 0..0;
        dirents::rewind(self.directory.as_fd())
    }

    fn lookup(&self, name: &OsStr) -> io::Result<Found> {
        counted(&self.metrics, || {
            let caller = self.caller.as_ref();
            self.tree.find(self.directory.as_fd(), name, caller)
        })
    }
}
