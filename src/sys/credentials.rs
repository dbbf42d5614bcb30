//! The file-system identity of a thread: setfsuid(2), setfsgid(2), setgroups(2), capset(2), umask(2). The kernel keeps
//! these per thread; the C library's setgroups() would change every thread, so the system calls are made themselves.

#![allow(unsafe_code)]

use super::checked;
use crate::types::Credentials;
use std::cell::Cell;
use std::io;

/// CAP_SETGID and CAP_SETUID (linux/capability.h), as bits: what it takes to come back.
const TO_COME_BACK: u32 = 1 << 6 | 1 << 7;
/// _LINUX_CAPABILITY_VERSION_3: 64 bits in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// More groups than this nobody has (NGROUPS_MAX).
const GROUPS_MAX: usize = 65536;

/// Runs `act` with the caller's user, group and supplementary groups for files, and without a capability that would
/// go beyond them; nothing of the calling thread stays changed. A plain call where this process is not root, and so cannot be
/// anybody else. `act` must not start a thread: it would keep the identity.
pub fn as_caller<T>(
    credentials: &Credentials,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if !nix::unistd::geteuid().is_root() {
        return act();
    }
    let _own = OwnIdentity::leave(credentials)?;
    act()
}

/// Whom the calling thread is for files.
pub fn own() -> io::Result<Credentials> {
    Ok(Credentials {
        uid: file_system_uid(NO_CHANGE),
        gid: file_system_gid(NO_CHANGE),
        groups: groups()?.into(),
    })
}

/// Runs `act` under a umask of its own, whatever other threads have.
pub fn with_umask<T>(umask: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    own_umask()?;
    let _own = OwnUmask(set_umask(umask));
    act()
}

/// What to restore when dropped, in reverse order. A thread that kept a caller's identity would act for others with
/// it: where restoring fails the process ends.
struct OwnIdentity {
    groups: Option<Vec<u32>>,
    gid: Option<u32>,
    uid: Option<u32>,
    capabilities: Option<Capabilities>,
}

impl OwnIdentity {
    fn leave(credentials: &Credentials) -> io::Result<Self> {
        let mut own = Self {
            groups: None,
            gid: None,
            uid: None,
            capabilities: None,
        };
        let groups = groups()?;
        if groups != *credentials.groups {
            set_groups(&credentials.groups)?;
            own.groups = Some(groups);
        }
        let gid = file_system_gid(NO_CHANGE);
        if gid != credentials.gid {
            own.gid = Some(gid);
            set_file_system_gid(credentials.gid)?;
        }
        let uid = file_system_uid(NO_CHANGE);
        if uid != credentials.uid {
            let capabilities = Capabilities::get()?;
            own.uid = Some(uid);
            set_file_system_uid(credentials.uid)?;
            own.capabilities = Some(capabilities);
            capabilities.only(TO_COME_BACK).set()?;
        }
        Ok(own)
    }

    fn restore(&self) -> io::Result<()> {
        if let Some(capabilities) = &self.capabilities {
            capabilities.set()?;
        }
        if let Some(uid) = self.uid {
            set_file_system_uid(uid)?;
        }
        if let Some(gid) = self.gid {
            set_file_system_gid(gid)?;
        }
        if let Some(groups) = &self.groups {
            set_groups(groups)?;
        }
        Ok(())
    }
}

impl Drop for OwnIdentity {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            tracing::error!("cannot put back the daemon's own identity: {error}");
            std::process::abort();
        }
    }
}

/// An id nobody has: asks setfsuid(2) and setfsgid(2) what is set.
const NO_CHANGE: u32 = u32::MAX;

fn file_system_uid(uid: u32) -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as u32 }
}

fn file_system_gid(gid: u32) -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as u32 }
}

fn set_file_system_uid(uid: u32) -> io::Result<()> {
    file_system_uid(uid);
    refused_unless(file_system_uid(NO_CHANGE) == uid)
}

fn set_file_system_gid(gid: u32) -> io::Result<()> {
    file_system_gid(gid);
    refused_unless(file_system_gid(NO_CHANGE) == gid)
}

/// These calls have no error of their own.
fn refused_unless(done: bool) -> io::Result<()> {
    match done {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

fn groups() -> io::Result<Vec<u32>> {
    let none = std::ptr::null_mut::<u32>();
    // SAFETY: with a size of zero nothing is written.
    let count = checked(unsafe { libc::syscall(libc::SYS_getgroups, 0, none) })?;
    let mut groups = vec![0u32; count as usize];
    // SAFETY: the buffer is writable for as many ids as the size says.
    let count = checked(unsafe {
        libc::syscall(
            libc::SYS_getgroups,
            groups.len() as i32,
            groups.as_mut_ptr(),
        )
    })?;
    groups.truncate(count as usize);
    Ok(groups)
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    if groups.len() > GROUPS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the ids are readable for as many as the size says.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// A thread's capability sets (`struct __user_cap_data_struct`, low and high half).
#[derive(Clone, Copy)]
#[repr(C)]
struct Capabilities([CapabilityHalf; 2]);

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `struct __user_cap_header_struct`; pid 0 is the calling thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const THIS_THREAD: CapabilityHeader = CapabilityHeader {
    version: CAPABILITY_VERSION,
    pid: 0,
};

impl Capabilities {
    fn get() -> io::Result<Self> {
        let mut header = THIS_THREAD;
        let mut sets = Self([CapabilityHalf::default(); 2]);
        // SAFETY: both have the layout that this version asks for and are writable.
        checked(unsafe { libc::syscall(libc::SYS_capget, &mut header, &mut sets) })?;
        Ok(sets)
    }

    /// Those that may be had again, with fewer in effect.
    fn only(mut self, low_bits: u32) -> Self {
        self.0[0].effective &= low_bits;
        self.0[1].effective = 0;
        self
    }

    fn set(&self) -> io::Result<()> {
        let mut header = THIS_THREAD;
        // SAFETY: both have the layout that this version asks for.
        checked(unsafe { libc::syscall(libc::SYS_capset, &mut header, self) })?;
        Ok(())
    }
}

/// Puts the thread's umask back.
struct OwnUmask(u32);

impl Drop for OwnUmask {
    fn drop(&mut self) {
        set_umask(self.0);
    }
}

fn set_umask(umask: u32) -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::umask(umask & 0o777) }
}

/// Gives the calling thread a umask apart from the others', once: unshare(2), CLONE_FS.
fn own_umask() -> io::Result<()> {
    thread_local!(static IS_APART: Cell<bool> = const { Cell::new(false) });
    if !IS_APART.get() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        IS_APART.set(true);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::Arc;

    fn somebody() -> Credentials {
        Credentials {
            uid: 12345,
            gid: 23456,
            groups: Arc::from([34567, 34568]),
        }
    }

    /// What the kernel checks files by, of this thread.
    fn identity() -> (u32, u32, Vec<u32>, u32) {
        let capabilities = Capabilities::get().expect("capget");
        (
            file_system_uid(NO_CHANGE),
            file_system_gid(NO_CHANGE),
            groups().expect("getgroups"),
            capabilities.0[0].effective,
        )
    }

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn a_file_belongs_to_who_asked_and_nothing_of_the_thread_stays_changed() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().expect("scratch");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).expect("chmod");
        let before = identity();
        let path = directory.path().join("theirs");
        let seen = as_caller(&somebody(), || {
            std::fs::write(&path, b"x")?;
            Ok(identity())
        });
        let (uid, gid, groups, capabilities) = seen.expect("as somebody");
        assert_eq!((uid, gid), (12345, 23456));
        assert_eq!(groups, [34567, 34568]);
        assert_eq!(capabilities & !TO_COME_BACK, 0);
        assert_eq!(identity(), before);
        let facts = std::fs::metadata(&path).expect("stat");
        assert_eq!((facts.uid(), facts.gid()), (12345, 23456));
    }

    #[test]
    fn nobody_may_do_as_a_caller_what_the_caller_may_not() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().expect("scratch");
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory.path(), closed).expect("chmod");
        let path = directory.path().join("refused");
        let error = as_caller(&somebody(), || std::fs::write(&path, b"x")).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn other_threads_keep_their_identity() {
        if !is_root() {
            return;
        }
        as_caller(&somebody(), || {
            // Tests run beside the first thread.
            let first = nix::unistd::getpid();
            let status = std::fs::read_to_string(format!("/proc/{first}/status"))?;
            let groups = status.lines().find(|line| line.starts_with("Groups:"));
            assert!(!groups.expect("a line of groups").contains("34567"));
            Ok(())
        })
        .expect("as somebody");
    }

    #[test]
    fn a_panic_gives_the_identity_back_too() {
        if !is_root() {
            return;
        }
        let before = identity();
        let outcome = std::panic::catch_unwind(|| {
            as_caller::<()>(&somebody(), || std::panic::resume_unwind(Box::new(())))
        });
        assert!(outcome.is_err());
        assert_eq!(identity(), before);
    }

    #[test]
    fn a_umask_is_the_threads_own() {
        let directory = tempfile::tempdir().expect("scratch");
        let path = directory.path().join("file");
        std::thread::scope(|scope| {
            let made = scope.spawn(|| with_umask(0o027, || std::fs::write(&path, b"")));
            made.join().expect("the thread").expect("written");
        });
        let mode = std::fs::metadata(&path).expect("stat").mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
