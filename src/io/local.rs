//! [`Io`] on a real directory. Paths are resolved beneath the root descriptor and through no symbolic link
//! (openat2(2)); the root's own path is never used again.

use super::engine::Engine;
use super::local_file::{DirectSupport, LocalFile};
use super::probe::{DiskReport, probe_disk};
use super::{Buffer, DiskSpace, Io, IoFile, OpenMode, device_ring};
use crate::sys::disk;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// One cache directory on a local disk.
pub struct LocalDisk {
    root: OwnedFd,
    engine: Arc<Engine>,
    direct: Arc<DirectSupport>,
    report: DiskReport,
}

impl LocalDisk {
    /// Takes the directory `root_fd` and tries, with a file that is gone again at once, what its
    /// filesystem can do. Blocks on the disk. Makes the process ignore SIGIO (see
    /// [`IoFile::is_exclusive`]). The errors are those of creating and writing that file: a
    /// read-only disk shows here. A full one cannot be tried, which is no error.
    pub fn open(root_fd: OwnedFd, engine: Arc<Engine>) -> io::Result<Arc<Self>> {
        disk::ignore_lease_signal();
        let facts = disk::statx(root_fd.as_fd())?;
        if u32::from(facts.stx_mode) & libc::S_IFMT != libc::S_IFDIR {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        engine.place_near(facts.stx_dev_major, facts.stx_dev_minor);
        let report = probe_disk(root_fd.as_fd(), &engine)?;
        let direct = Arc::new(DirectSupport {
            writes: report.direct_io,
            polled_reads: report.polled_reads,
        });
        Ok(Arc::new(Self {
            root: root_fd,
            engine,
            direct,
            report,
        }))
    }

    /// What the filesystem of this disk can do.
    pub fn report(&self) -> &DiskReport {
        &self.report
    }

    /// Whether files here can be opened O_DIRECT; without, everything goes through the page cache.
    pub fn supports_direct_io(&self) -> bool {
        self.report.direct_io
    }

    /// Whether files here can be sparse and holes be punched.
    pub fn supports_holes(&self) -> bool {
        self.report.holes
    }

    fn open_beneath(&self, path: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        loop {
            match openat2(&self.root, path, how) {
                // A rename somewhere on the system raced the resolution.
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.open_beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// The directory that holds the last name of a path, and that name.
    fn parent<'path>(&self, path: &'path str) -> io::Result<(OwnedFd, &'path str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok((self.directory(parent)?, name))
    }
}

impl Io for LocalDisk {
    fn create_directory(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name, Mode::S_IRWXU) {
            Err(nix::errno::Errno::EEXIST) => {
                let facts = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if facts.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(libc::ENOTDIR))
                }
            }
            other => Ok(other?),
        }
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
        let directory = self.directory(path)?;
        disk::list_names(directory.as_fd(), &mut |name| {
            each(&String::from_utf8_lossy(name))
        })
    }

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        // O_NONBLOCK: a foreign FIFO in our directory must not stop us; no effect on regular files.
        let (flags, permissions) = match mode {
            OpenMode::Read => (OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()),
            OpenMode::ReadWrite => (OFlag::O_RDWR | OFlag::O_NONBLOCK, Mode::empty()),
            OpenMode::CreateNew => (OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, private),
        };
        let descriptor = self.open_beneath(path, flags, permissions)?;
        Ok(Arc::new(LocalFile::new(
            File::from(descriptor),
            mode != OpenMode::Read,
            self.engine.clone(),
            self.direct.clone(),
        )))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        Ok(nix::fcntl::renameat(
            &from_parent,
            from_name,
            &to_parent,
            to_name,
        )?)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        Ok(nix::unistd::fsync(self.directory(path)?)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&self.root)?)
    }

    fn as_device_thread(
        &self,
        length_bytes: usize,
        work: &mut dyn FnMut(Buffer),
    ) -> io::Result<()> {
        match self.engine.has_rings() {
            true => device_ring::with_ring(length_bytes, work),
            false => super::with_buffer(length_bytes, work),
        }
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let facts = nix::sys::statvfs::fstatvfs(&self.root)?;
        let fragment_bytes = facts.fragment_size();
        Ok(DiskSpace {
            total_bytes: facts.blocks().saturating_mul(fragment_bytes),
            available_bytes: facts.blocks_available().saturating_mul(fragment_bytes),
            total_inodes: facts.files(),
            available_inodes: facts.files_available(),
        })
    }
}
