//! Locks on one file by two clients: its two PATHs lead to it through different mounts.
//!
//! Every holder is a process of its own, this program run again, so that it can be killed and so that locks of
//! processes are told from one another.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

/// A lock that was let go of arrives at whoever waits for it on another client within this: the NFS v3 client asks again
/// every 30 s only, and the server's word that it is free can be lost where both are one machine.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(70);

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Family {
    /// flock(2)
    Flock,
    /// fcntl(2), of the process
    Record,
    /// fcntl(2), of the open file description
    Ofd,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    family: Family,
    is_exclusive: bool,
    /// Start and length; flock(2) has none.
    range: (i64, i64),
}

pub fn families() -> [Family; 3] {
    [Family::Flock, Family::Record, Family::Ofd]
}

fn open(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    let opened = options.read(true).write(true).open(path);
    opened.with_context(|| format!("opening {}", path.display()))
}

fn set(file: &File, wanted: Wanted, waits: bool) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let (start, length) = wanted.range;
    let kind = match wanted.is_exclusive {
        true => (libc::LOCK_EX, libc::F_WRLCK),
        false => (libc::LOCK_SH, libc::F_RDLCK),
    };
    let raw = libc::flock {
        l_type: kind.1 as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    let command = match (wanted.family, waits) {
        (Family::Record, true) => libc::F_SETLKW,
        (Family::Record, false) => libc::F_SETLK,
        (_, true) => libc::F_OFD_SETLKW,
        (_, false) => libc::F_OFD_SETLK,
    };
    // SAFETY: the descriptor is open, and `raw` outlives the call.
    let result = unsafe {
        match wanted.family {
            Family::Flock => libc::flock(fd, kind.0 | if waits { 0 } else { libc::LOCK_NB }),
            Family::Record | Family::Ofd => libc::fcntl(fd, command, &raw),
        }
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes an exclusive lock, says so, and holds it until its input ends.
pub fn hold(path: &Path, family: Family) -> anyhow::Result<()> {
    let file = open(path)?;
    set(&file, whole(family), true).context("waiting for the lock")?;
    println!("locked");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn whole(family: Family) -> Wanted {
    Wanted {
        family,
        is_exclusive: true,
        range: (0, 0),
    }
}

fn is_free(path: &Path, wanted: Wanted) -> anyhow::Result<bool> {
    match set(&open(path)?, wanted, false) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => bail!("trying {wanted:?} on {}: {error}", path.display()),
    }
}

struct Holder {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Holder {
    fn start(path: &Path, family: Family) -> anyhow::Result<Self> {
        let name = family.to_possible_value().context("a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("lock-hold")
            .arg(path)
            .arg(name.get_name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let told = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, told })
    }

    fn wait_until_locked(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        ensure!(line == "locked\n", "the holder ended without the lock");
        Ok(())
    }

    fn let_go(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait()?.success(), "the holder failed");
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Ended by itself, it is only reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one client locks excludes the other, until it is let go of, by itself or by the death of its holder.
pub fn exclude(holding: &Path, asking: &Path, family: Family) -> anyhow::Result<()> {
    let mut first = Holder::start(holding, family)?;
    first.wait_until_locked()?;
    ensure!(
        !is_free(asking, whole(family))?,
        "the other client has it, too"
    );
    let mut second = Holder::start(asking, family)?;
    let begin = Instant::now();
    first.let_go()?;
    second.wait_until_locked()?;
    let by_close = begin.elapsed();
    ensure!(!is_free(holding, whole(family))?, "two holders");
    let mut third = Holder::start(holding, family)?;
    let begin = Instant::now();
    second.kill()?;
    third.wait_until_locked()?;
    let by_death = begin.elapsed();
    third.let_go()?;
    // The server hears of a close a moment later.
    let begin = Instant::now();
    while !is_free(asking, whole(family))? {
        ensure!(begin.elapsed() < HANDED_OVER_WITHIN, "never let go of");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "{family:?}: handed over {} ms after a close, {} ms after a death",
        by_close.as_millis(),
        by_death.as_millis()
    );
    ensure!(
        by_close.max(by_death) < HANDED_OVER_WITHIN,
        "handed over too late"
    );
    Ok(())
}

/// Locks share and exclude by kind and range, each client beside the other.
pub fn share(one: &Path, other: &Path) -> anyhow::Result<()> {
    for family in families() {
        let shared = Wanted {
            is_exclusive: false,
            ..whole(family)
        };
        let held = open(one)?;
        set(&held, shared, false).context("a shared lock")?;
        ensure!(is_free(other, shared)?, "{family:?}: shared locks exclude");
        ensure!(
            !is_free(other, whole(family))?,
            "{family:?}: beside a shared one"
        );
    }
    for family in [Family::Record, Family::Ofd] {
        let part = |range| Wanted {
            range,
            ..whole(family)
        };
        let held = open(one)?;
        set(&held, part((100, 50)), false).context("a range")?;
        ensure!(
            is_free(other, part((0, 100)))?,
            "{family:?}: the range before"
        );
        ensure!(
            is_free(other, part((150, 10)))?,
            "{family:?}: the range after"
        );
        ensure!(
            !is_free(other, part((149, 1)))?,
            "{family:?}: its last byte"
        );
    }
    Ok(())
}

/// Adds one to the number in `counter` and a line to `log`, `rounds` times, under a lock of `counter`. Run by two
/// clients at once: what one reads under the lock is what the other wrote under it.
pub fn count(counter: &Path, log: &Path, family: Family, rounds: u64) -> anyhow::Result<()> {
    let file = open(counter)?;
    for _ in 0..rounds {
        // Of the process: closed with any of its descriptors. Of the description: with this one.
        let lock = open(counter)?;
        set(&lock, whole(family), true).context("waiting for the lock")?;
        let mut number = [0; 8];
        file.read_exact_at(&mut number, 0)?;
        let next = u64::from_le_bytes(number) + 1;
        file.write_all_at(&next.to_le_bytes(), 0)?;
        // Not the file that is locked: its open looks for what the other has closed.
        let mut lines = File::options().append(true).open(log)?;
        lines.write_all(format!("{next:015}\n").as_bytes())?;
        lines.sync_all()?;
    }
    Ok(())
}

/// Two clients count to twice `rounds` together.
pub fn count_together(one: &Path, other: &Path, rounds: u64) -> anyhow::Result<()> {
    for family in families() {
        let (counter, log) = ("counter", "log");
        std::fs::write(one.join(counter), 0u64.to_le_bytes())?;
        std::fs::write(one.join(log), "")?;
        let name = family.to_possible_value().context("a name")?;
        let start = |directory: &Path| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("lock-count").arg(directory.join(counter));
            command.arg(directory.join(log)).arg(name.get_name());
            anyhow::Ok(command.arg(rounds.to_string()).spawn()?)
        };
        for mut child in [start(one)?, start(other)?] {
            ensure!(child.wait()?.success(), "{family:?}: a client failed");
        }
        for directory in [one, other] {
            check_count(directory, counter, log, rounds * 2)
                .with_context(|| format!("{family:?}, {}", directory.display()))?;
        }
    }
    Ok(())
}

fn check_count(directory: &Path, counter: &str, log: &str, want: u64) -> anyhow::Result<()> {
    let number = std::fs::read(directory.join(counter))?;
    ensure!(
        number == want.to_le_bytes(),
        "counted {number:?} instead of {want}"
    );
    let log = std::fs::read_to_string(directory.join(log))?;
    let wanted: String = (1..=want).map(|line| format!("{line:015}\n")).collect();
    ensure!(log == wanted, "lines are missing or out of order:\n{log}");
    Ok(())
}
