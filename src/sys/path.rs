//! Opening by name without leaving a directory: openat2(2), and what else turns a name or a descriptor into
//! a descriptor.

#![allow(unsafe_code)]

use super::{checked, retried};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path given to one openat2 call; the kernel's PATH_MAX counts the terminating zero.
const PATH_BYTES_MAX: usize = 4095;
/// How often a walk that raced a rename is begun anew before its EAGAIN is passed on.
const RACES_MAX: u32 = 1000;

/// Opens a directory by an ordinary path, for reading. Symbolic links are followed.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `path` is a zero-terminated string that outlives the call.
    let fd = retried(|| unsafe { libc::open(path.as_ptr(), flags) }.into())?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: the walk neither leaves
/// `directory` nor follows any link, whatever is renamed meanwhile. Mount points are crossed.
/// A trailing link can be opened itself with O_PATH | O_NOFOLLOW; else ELOOP. ".." that would
/// leave is EXDEV. `path` may be longer than PATH_MAX.
pub fn open_beneath(directory: BorrowedFd<'_>, path: &OsStr, flags: i32) -> io::Result<OwnedFd> {
    let mut rest = path.as_bytes();
    let mut from: Option<OwnedFd> = None;
    while rest.len() > PATH_BYTES_MAX {
        let cut = rest[..PATH_BYTES_MAX]
            .iter()
            .rposition(|byte| *byte == b'/')
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
        let base = from.as_ref().map_or(directory, as_fd);
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let next = openat2(base, OsStr::from_bytes(&rest[..cut]), flags)?;
        from = Some(next);
        rest = &rest[cut + 1..];
    }
    let base = from.as_ref().map_or(directory, as_fd);
    openat2(base, OsStr::from_bytes(rest), flags)
}

/// Makes a file that must not exist, beneath `directory` as [`open_beneath`] goes; `flags` as open(2) has them,
/// O_CREAT | O_EXCL or O_TMPFILE among them.
pub fn create_beneath(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    flags: i32,
    mode: u32,
) -> io::Result<OwnedFd> {
    openat2_retried(directory, name, flags, mode)
}

fn as_fd(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

fn openat2(directory: BorrowedFd<'_>, path: &OsStr, flags: i32) -> io::Result<OwnedFd> {
    openat2_retried(directory, path, flags, 0)
}

fn openat2_retried(
    directory: BorrowedFd<'_>,
    path: &OsStr,
    flags: i32,
    mode: u32,
) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    let mut tries = 0;
    loop {
        match openat2_once(directory, &path, flags, mode) {
            // A rename or mount anywhere on the machine while ".." was walked: openat2(2) says to try again.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && tries < RACES_MAX => {
                tries += 1
            }
            outcome => return outcome,
        }
    }
}

fn openat2_once(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: open_how is plain integers, for which all zeros is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: path and `how` outlive the call, and the size is that of `how`.
    let fd = retried(|| unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory.as_raw_fd(),
            path.as_ptr(),
            &how as *const libc::open_how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens what `fd` refers to once more, with other flags, through /proc/self/fd: an O_PATH descriptor
/// becomes a readable one of the same inode, whatever its name is by now.
pub fn reopen(fd: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    let path = proc_path(fd);
    // SAFETY: `path` is a zero-terminated string that outlives the call.
    let fd = retried(|| unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// faccessat2(2) with AT_EACCESS: whether the calling thread, as it is for files, has this access (R_OK, X_OK...) to what
/// a descriptor refers to. EACCES if not.
pub fn check_access(fd: BorrowedFd<'_>, mode: i32) -> io::Result<()> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the empty string is zero-terminated.
    checked(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mode,
            flags,
        )
    })
    .map(drop)
}

/// The path by which the kernel finds what a descriptor of this process refers to.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no zero byte")
}

/// The target of the symbolic link that an O_PATH descriptor refers to; EINVAL (ENOENT on some
/// kernels) if it is no link.
pub fn read_link(link: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut target = vec![0u8; libc::PATH_MAX as usize + 1];
    // SAFETY: the buffer is writable for the length given; the empty string is zero-terminated.
    let length = checked(unsafe {
        libc::readlinkat(
            link.as_raw_fd(),
            c"".as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        )
    } as libc::c_long)?;
    target.truncate(length as usize);
    Ok(target)
}

/// posix_fadvise(2) POSIX_FADV_RANDOM for the whole file: the kernel reads no more than asked.
pub fn advise_random(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// lseek(2) with SEEK_DATA or SEEK_HOLE; moves the descriptor's own offset. A negative offset, as one past the end, is
/// ENXIO.
pub fn seek(fd: BorrowedFd<'_>, offset: u64, whence: i32) -> io::Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::ENXIO))?;
    // SAFETY: no memory is involved.
    checked(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) }).map(|found| found as u64)
}

/// A name or path for a system call; EINVAL if it holds a zero byte.
pub(super) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    fn scratch() -> tempfile::TempDir {
        let base =
            std::env::var_os("CACHEFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        tempfile::tempdir_in(base).expect("the test directory can be written to")
    }

    fn beneath(directory: &OwnedFd, path: &str) -> Result<OwnedFd, Option<i32>> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        open_beneath(directory.as_fd(), OsStr::new(path), flags).map_err(|e| e.raw_os_error())
    }

    #[test]
    fn a_walk_neither_leaves_the_directory_nor_follows_a_link() {
        let directory = scratch();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(directory.path().join("outside"), b"").unwrap();
        symlink("sub", tree.join("link")).unwrap();
        let root = open_directory(&tree).unwrap();
        assert_eq!(beneath(&root, "../outside").err(), Some(Some(libc::EXDEV)));
        assert_eq!(
            beneath(&root, "sub/../../outside").err(),
            Some(Some(libc::EXDEV))
        );
        assert_eq!(beneath(&root, "/etc").err(), Some(Some(libc::EXDEV)));
        assert_eq!(beneath(&root, "link/x").err(), Some(Some(libc::ELOOP)));
        let link = beneath(&root, "link").unwrap();
        assert_eq!(read_link(link.as_fd()).unwrap(), b"sub");
    }

    #[test]
    fn a_component_swapped_with_a_link_during_the_walk_leads_nowhere() {
        let directory = scratch();
        let path = directory.path();
        fs::create_dir(path.join("dir")).unwrap();
        fs::write(path.join("dir/passwd"), b"").unwrap();
        symlink("/etc", path.join("evil")).unwrap();
        let inode = fs::metadata(path.join("dir/passwd")).unwrap().ino();
        let root = open_directory(path).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for (from, to) in [("dir", "t"), ("evil", "dir"), ("dir", "evil"), ("t", "dir")]
                    {
                        fs::rename(path.join(from), path.join(to)).unwrap();
                    }
                }
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            let (mut found, mut refused) = (0, 0);
            while found + refused < 20_000
                || ((found == 0 || refused == 0) && Instant::now() < deadline)
            {
                match beneath(&root, "dir/passwd") {
                    Ok(fd) => {
                        assert_eq!(fs::File::from(fd).metadata().unwrap().ino(), inode);
                        found += 1;
                    }
                    Err(errno) => {
                        assert!(
                            matches!(errno, Some(libc::ELOOP | libc::ENOENT)),
                            "{errno:?}"
                        );
                        refused += 1;
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(
                found > 0 && refused > 0,
                "{found} found, {refused} refused: no race"
            );
        });
    }
}
