//! All measurements, in order.

use super::folder::Folder;
use super::measure::{
    MIB, Measured, forget_pages, open_each, open_uncached, read_scattered, read_through,
    write_durably, write_through,
};
use super::told::Report;
use crate::cli::status::ask;
use crate::daemon::control::{Reply, Request, WirePath};
use crate::daemon::status::Status;
use crate::daemon::why::WhyStatus;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Less says nothing.
const SIZE_BYTES_MIN: u64 = 4 << 20;
const SMALL_FILES: usize = 20;
const SMALL_FILE_BYTES: usize = 16 << 10;
/// A file that is being closed, or fetched, cannot be let go of yet.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A mount, and where its parts are.
pub struct Subject {
    pub mountpoint: PathBuf,
    pub backend: PathBuf,
    pub cache: PathBuf,
    /// To be read, and nothing else; from the root of the mount.
    pub file: Option<PathBuf>,
    pub status: Status,
    /// Of the files that are read and written.
    pub size_bytes: u64,
}

pub fn measure_all(subject: &Subject) -> Result<Report, String> {
    let mut report = Report::of(&subject.status);
    let disk = measure_disk(&subject.cache, subject.size_bytes);
    (report.disk_read, report.disk_hot) = disk.map_err(|error| {
        format!(
            "{}: the disk of the cache: {error}",
            subject.cache.display()
        )
    })?;
    match &subject.file {
        Some(file) => {
            let_go(subject, file)?;
            measure_reads(subject, file, &mut report)?;
        }
        None => {
            let folder = Folder::make(&subject.mountpoint)
                .map_err(|error| format!("{}: {error}", subject.mountpoint.display()))?;
            let measured = measure_in(subject, &folder.name, &mut report);
            // What was cached for this is of no use to anybody.
            let _ = let_go(subject, &folder.name);
            measured?;
        }
    }
    Ok(report)
}

fn measure_in(subject: &Subject, folder: &Path, report: &mut Report) -> Result<(), String> {
    measure_writes(subject, folder, report).map_err(|error| format!("writing: {error}"))?;
    measure_reads(subject, &folder.join("read"), report)?;
    measure_opens(subject, folder, report).map_err(|error| format!("opening: {error}"))
}

/// In a file without a name, of which nothing can be left: from the disk, and from memory.
fn measure_disk(cache: &Path, size_bytes: u64) -> io::Result<(Measured, Measured)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(cache)?;
    let written = write_through(&file, size_bytes)?;
    forget_pages(&file)?;
    let cold = read_through(&file, written.bytes)?;
    Ok((cold, read_through(&file, written.bytes)?))
}

/// The file to be read is made on the backend, past the mount: nothing of it is cached.
fn measure_writes(subject: &Subject, folder: &Path, report: &mut Report) -> io::Result<()> {
    let on_backend = subject.backend.join(folder);
    let through = subject.mountpoint.join(folder);
    report.backend_write = Some(write_through(
        &File::create_new(on_backend.join("read"))?,
        subject.size_bytes,
    )?);
    report.mount_write = Some(write_through(
        &File::create_new(through.join("written"))?,
        subject.size_bytes,
    )?);
    report.backend_sync = Some(write_durably(&File::create_new(
        on_backend.join("synced"),
    )?)?);
    report.mount_sync = Some(write_durably(&File::create_new(
        through.join("synced-through"),
    )?)?);
    Ok(())
}

fn measure_reads(subject: &Subject, file: &Path, report: &mut Report) -> Result<(), String> {
    let shown = subject.mountpoint.join(file);
    let said = |error: io::Error| format!("{}: {error}", shown.display());
    let on_backend = open_uncached(&subject.backend.join(file)).map_err(said)?;
    let size_bytes = on_backend
        .metadata()
        .map_err(said)?
        .len()
        .min(subject.size_bytes);
    if size_bytes < SIZE_BYTES_MIN {
        return Err(format!(
            "{}: {} MiB are too little to measure with, or the backend takes no more in 5 s",
            shown.display(),
            size_bytes / MIB as u64
        ));
    }
    report.backend_read = read_through(&on_backend, size_bytes).map_err(said)?;
    report.backend_small = read_scattered(&on_backend, size_bytes).map_err(said)?;
    let missing = File::open(&shown).map_err(said)?;
    forget_pages(&missing).map_err(said)?;
    report.miss = read_through(&missing, size_bytes).map_err(said)?;
    forget_pages(&missing).map_err(said)?;
    drop(missing);
    let cached = wait_until_cached(subject, file, report.miss.bytes)?;
    let hit = File::open(&shown).map_err(said)?;
    forget_cached_pages(&cached, &hit).map_err(said)?;
    report.hit_small = read_scattered(&hit, report.miss.bytes).map_err(said)?;
    forget_cached_pages(&cached, &hit).map_err(said)?;
    report.hit = read_through(&hit, report.miss.bytes).map_err(said)?;
    report.hit_hot = read_through(&hit, report.miss.bytes).map_err(said)?;
    Ok(())
}

/// Those of the object, and those that the kernel has of the mount's file.
fn forget_cached_pages(cached: &WhyStatus, shown: &File) -> io::Result<()> {
    forget_pages(shown)?;
    match (&cached.directory, &cached.object) {
        (Some(directory), Some(object)) => {
            forget_pages(&File::open(Path::new(directory).join(object))?)
        }
        _ => Ok(()),
    }
}

/// Files that were opened before: on the backend, and through the mount.
fn measure_opens(subject: &Subject, folder: &Path, report: &mut Report) -> io::Result<()> {
    let names: Vec<PathBuf> = (0..SMALL_FILES)
        .map(|number| folder.join(format!("small{number}")))
        .collect();
    for name in &names {
        std::fs::write(subject.backend.join(name), [0x5a; SMALL_FILE_BYTES])?;
    }
    let below =
        |root: &Path| -> Vec<PathBuf> { names.iter().map(|name| root.join(name)).collect() };
    let (on_backend, through) = (below(&subject.backend), below(&subject.mountpoint));
    open_each(&on_backend)?;
    report.backend_open = Some(open_each(&on_backend)?);
    open_each(&through)?;
    report.mount_open = Some(open_each(&through)?);
    Ok(())
}

/// What is read first is to be missed.
fn let_go(subject: &Subject, file: &Path) -> Result<(), String> {
    let request = Request::Evict {
        paths: vec![WirePath::from(file)],
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(&subject.mountpoint, &request)? {
            Reply::Evicted(evicted) if evicted.files_left() == 0 => return Ok(()),
            Reply::Evicted(_) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN_AFTER),
            Reply::Evicted(_) => {
                return Err(format!(
                    "{}: it is in use or pinned, so its first read cannot be measured; choose another file",
                    file.display()
                ));
            }
            Reply::Error { message } => return Err(message),
            other => return Err(format!("unexpected answer {other:?}")),
        }
    }
}

/// Where what was read does not stay there is nothing to measure.
fn wait_until_cached(
    subject: &Subject,
    file: &Path,
    wanted_bytes: u64,
) -> Result<WhyStatus, String> {
    let path = WirePath::from(file);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = Request::Why { path: path.clone() };
        let why = match ask(&subject.mountpoint, &request)? {
            Reply::Why(why) => why,
            Reply::Error { message } => return Err(message),
            other => return Err(format!("unexpected answer {other:?}")),
        };
        let is_cached = why.cached_bytes >= wanted_bytes;
        let is_late = Instant::now() >= deadline;
        // How it is read was decided when it was opened first, and holds until the last one has closed it.
        if is_cached && (why.open.is_empty() || is_late) {
            return Ok(*why);
        }
        if is_late {
            return Err(format!(
                "what was read does not stay in the cache, so there is no hit to measure:\n{}",
                why.in_words()
            ));
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}
