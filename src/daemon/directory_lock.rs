//! Who holds a cache directory: flock(2) on a file in it.
//!
//! A lock lasts as long as a descriptor of it, and a thread that hangs in the kernel keeps those of its process
//! beyond kill -9. So the holder writes down who it is, and the lock of a dead one is passed over: the file is
//! replaced. What always holds: whoever takes or replaces the file does so under a flock on the directory itself,
//! which is only ever held for work on the local disk; a file that was taken no longer names the holder before.

use super::cache_directory::disk_problem;
use super::error::CacheDirectoryProblem as Problem;
use super::mount_table;
use crate::sys::process::process_facts;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pid, start time and mountpoint of the holder, a line each.
const LOCK_NAME: &str = "lock";

/// How long a daemon that is no longer mounted may take to let go of its directory.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(10);
/// flock(2) knows no timeout, and start-up is the only place that waits for it.
const RETRY: Duration = Duration::from_millis(50);

/// A cache directory held. Dropped, it is given up, whatever threads keep the descriptor.
#[derive(Debug)]
pub struct DirectoryLock {
    file: Flock<File>,
    /// The directory, where the lock file was made for this and is not to stay.
    made_in: Option<OwnedFd>,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Whoever is taking it just now would hold a file without a name: it stays then.
        if let Some(directory) = &self.made_in
            && let Ok(Some(_guard)) = guard(directory)
            && is_still_named(&self.file, directory)
        {
            let _ = unlinkat(directory, LOCK_NAME, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Whether the name leads to this lock file, and not to one that replaced it.
fn is_still_named(file: &File, directory: &OwnedFd) -> bool {
    let named = fstatat(directory, LOCK_NAME, AtFlags::AT_SYMLINK_NOFOLLOW);
    let own = fstat(file);
    matches!((named, own), (Ok(named), Ok(own)) if named.st_ino == own.st_ino)
}

enum Attempt {
    Taken(DirectoryLock),
    Held(Holder),
    /// Somebody else is trying just now.
    Crowded,
}

impl DirectoryLock {
    /// Takes the lock, also of a holder that is dead. Blocks up to 10 s for one that is stopping.
    pub fn take(directory: &OwnedFd) -> Result<Self, Problem> {
        let deadline = Instant::now() + STOPPING_TIMEOUT;
        let mut holder = Holder::unknown();
        loop {
            match try_take(directory)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Held(current) => holder = current,
                Attempt::Crowded => {}
            }
            if holder.is_mounted() || Instant::now() >= deadline {
                return Err(Problem::InUse {
                    mountpoint: holder.mountpoint,
                    pid: holder.pid,
                });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// The lock file stays.
    pub fn keep(&mut self) {
        self.made_in = None;
    }

    /// Writes down that this process holds the directory. Called after the last fork.
    pub fn record_holder(&mut self, mountpoint: &Path) -> io::Result<()> {
        let pid = std::process::id();
        let start_ticks = process_facts(pid as i32)?.start_ticks;
        self.write(&format!("{pid}\n{start_ticks}\n{}\n", mountpoint.display()))
    }

    /// Over what is there: a full disk has no other block for it.
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)
    }
}

fn try_take(directory: &OwnedFd) -> Result<Attempt, Problem> {
    let Some(_guard) = guard(directory)? else {
        return Ok(Attempt::Crowded);
    };
    let (file, is_new) = open_lock_file(directory)?;
    let held = match try_flock(file)? {
        Ok(file) => return taken(file, is_new, directory),
        Err(held) => held,
    };
    let holder = Holder::read(&held);
    if !holder.is_dead() {
        return Ok(Attempt::Held(holder));
    }
    tracing::warn!(
        pid = holder.pid,
        "the daemon that held the cache directory is dead, but hangs in the kernel: its lock is passed over"
    );
    unlinkat(directory, LOCK_NAME, UnlinkatFlags::NoRemoveDir)
        .map_err(|errno| disk_problem(errno.into()))?;
    match try_flock(open_lock_file(directory)?.0)? {
        Ok(file) => taken(file, false, directory),
        Err(_) => Ok(Attempt::Crowded),
    }
}

/// The flock on the directory itself; `None` while somebody else has it.
fn guard(directory: &OwnedFd) -> Result<Option<Flock<File>>, Problem> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let own = openat(directory, ".", flags, Mode::empty())
        .map_err(|errno| Problem::CannotOpen(errno.into()))?;
    Ok(try_flock(File::from(own))?.ok())
}

/// The lock file, and whether it was made now.
fn open_lock_file(directory: &OwnedFd) -> Result<(File, bool), Problem> {
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let private = Mode::from_bits_truncate(0o600);
    match openat(directory, LOCK_NAME, flags, private) {
        Err(nix::errno::Errno::ENOENT) => {}
        found => return Ok((lock_file(found)?, false)),
    }
    let made = openat(directory, LOCK_NAME, flags | OFlag::O_CREAT, private);
    Ok((lock_file(made)?, true))
}

fn lock_file(opened: nix::Result<OwnedFd>) -> Result<File, Problem> {
    opened
        .map(File::from)
        .map_err(|errno| disk_problem(errno.into()))
}

/// The file locked, or given back as somebody holds it.
fn try_flock(file: File) -> Result<Result<Flock<File>, File>, Problem> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Ok(lock)),
        Err((held, nix::errno::Errno::EWOULDBLOCK)) => Ok(Err(held)),
        Err((_, errno)) => Err(Problem::CannotOpen(errno.into())),
    }
}

fn taken(file: Flock<File>, is_new: bool, directory: &OwnedFd) -> Result<Attempt, Problem> {
    // One byte names nobody, and keeps the block.
    if file.metadata().map_err(disk_problem)?.len() > 1 {
        file.set_len(1).map_err(disk_problem)?;
    }
    let made_in = match is_new {
        true => Some(directory.try_clone().map_err(Problem::CannotOpen)?),
        false => None,
    };
    Ok(Attempt::Taken(DirectoryLock { file, made_in }))
}

/// Who holds a directory, as written by the holder; "unknown" before it did.
#[derive(Debug)]
struct Holder {
    pid: String,
    start_ticks: String,
    mountpoint: String,
}

impl Holder {
    fn unknown() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            pid: unknown(),
            start_ticks: unknown(),
            mountpoint: unknown(),
        }
    }

    fn read(file: &File) -> Self {
        let mut text = String::new();
        let mut reader = file;
        let _ = reader
            .seek(SeekFrom::Start(0))
            .and_then(|_| reader.take(8192).read_to_string(&mut text));
        let mut lines = text.lines().map(str::to_owned);
        match (lines.next(), lines.next(), lines.next()) {
            (Some(pid), Some(start_ticks), Some(mountpoint)) => Self {
                pid,
                start_ticks,
                mountpoint,
            },
            _ => Self::unknown(),
        }
    }

    /// Whether the very process that wrote this is dead. One that is not seen at all may live in another pid
    /// namespace, and a lock that is held although it has gone is somebody's.
    fn is_dead(&self) -> bool {
        let (Ok(pid), Ok(start_ticks)) = (self.pid.parse(), self.start_ticks.parse::<u64>()) else {
            return false;
        };
        process_facts(pid).is_ok_and(|facts| facts.is_dead && facts.start_ticks == start_ticks)
    }

    fn is_mounted(&self) -> bool {
        mount_table::topmost_at(Path::new(&self.mountpoint))
            .ok()
            .flatten()
            .is_some_and(|mount| mount.is_cachefs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::test_scratch;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).expect("scratch").into()
    }

    #[test]
    fn a_directory_in_use_names_the_mount_and_the_process() {
        let scratch = test_scratch();
        let directory = open(scratch.path());
        let mut lock = DirectoryLock::take(&directory).expect("free");
        // A mountpoint where a mount of ours is would be refused at once; one without is waited for.
        lock.record_holder(Path::new("/mnt/other")).expect("write");
        let holder = Holder::read(&open_lock_file(&directory).expect("lock file").0);
        assert_eq!(holder.pid, std::process::id().to_string());
        assert_eq!(holder.mountpoint, "/mnt/other");
        assert!(!holder.is_dead());
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            drop(lock);
        });
        DirectoryLock::take(&directory).expect("a daemon that is stopping is waited for");
        release.join().expect("thread");
    }

    #[test]
    fn the_lock_of_a_dead_process_is_passed_over_and_that_of_a_living_one_is_not() {
        let scratch = test_scratch();
        let directory = open(scratch.path());
        let mut stuck = DirectoryLock::take(&directory).expect("free");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let pid = child.id() as i32;
        let start_ticks = process_facts(pid).expect("it runs").start_ticks;
        let held = |attempt| matches!(attempt, Ok(Attempt::Held(_)));
        stuck
            .write(&format!("{pid}\n{start_ticks}\n/mnt/other\n"))
            .expect("write");
        assert!(held(try_take(&directory)), "it lives");
        child.kill().expect("kill");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !process_facts(pid).expect("not waited for").is_dead {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        stuck
            .write(&format!("{pid}\n{}\n/mnt/other\n", start_ticks + 1))
            .expect("write");
        assert!(held(try_take(&directory)), "another process had the id");
        stuck
            .write(&format!("{pid}\n{start_ticks}\n/mnt/other\n"))
            .expect("write");
        let taken = DirectoryLock::take(&directory).expect("the holder is dead");
        drop(stuck);
        assert!(held(try_take(&directory)), "the new holder keeps it");
        drop(taken);
        DirectoryLock::take(&directory).expect("free");
        child.wait().expect("wait");
    }
}
