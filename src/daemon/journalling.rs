//! The journal of a mount with `write_mode=back`, and what stands behind it.

use super::disks::Disk;
use super::journal_devices::JournalDevices;
use super::journal_places::JournalPlace;
use super::prepare::Prepared;
use crate::backend::Backend;
use crate::backend::lanes::Lane;
use crate::cache::Cache;
use crate::config::{CloseMode, ConflictMode, FsyncMode, Settings};
use crate::io::Io;
use crate::io::engine::Engine;
use crate::io::local::LocalDisk;
use crate::journal::{Journal, JournalDirectory, JournalSettings, SyncMode, Testimony, Witness};
use crate::sys::credentials;
use crate::types::FileKey;
use crate::writeback::{
    ConflictAnswer, WriteBack, WriteBackFigures, WriteBackParts, WriteBackSettings,
};
use anyhow::Context;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sixteenth of the journal, within these bounds: what is trimmed at once, and written ahead.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 8 << 20..=64 << 20;
/// Four to the smallest segment, headers included: twice the kernel's largest write.
const BATCH_BYTES: usize = 511 * 4096 - 128;
/// Of the journal, where no limit is given: the rest takes what is written over and what is told again.
const DIRTY_PART: u64 = 2;
/// How long the end of a mount waits for the backend to take what it does not have.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A disk that takes longer than all others is given up: longer than a disk takes to recover from an error by itself.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(15);

/// What an old copy of the journal lacks is noticed, but for what came in so long.
const WITNESS_INTERVAL: Duration = Duration::from_secs(2);

/// Opens the journal, and puts what is in it before the backend. What is known of it is noted in these cache directories.
pub(super) fn start(
    settings: &Settings,
    prepared: &Prepared,
    disks: &[Disk],
    engine: &Arc<Engine>,
    backend: Arc<dyn Backend>,
    root: &FileKey,
) -> anyhow::Result<(Arc<WriteBack>, JournalDevices)> {
    let options = &settings.journal;
    let directories = prepared.journal_directories.iter();
    let directories: Vec<_> = directories.map(|place| directory(place, engine)).collect();
    let names: Vec<&str> = directories.iter().map(|d| d.name.as_str()).collect();
    let notes = directories
        .iter()
        .filter_map(|directory| directory.io.as_ref().ok().cloned())
        .collect();
    let what = format!("journal in {}", names.join(", "));
    let settings_of_it = journal_settings(settings, prepared, root)?;
    let (journal, found) =
        Journal::open(directories, witness(disks), settings_of_it).context(what)?;
    let records = found.len();
    let devices = JournalDevices::new(journal.clone(), engine.clone(), prepared)
        .context("the descriptors of the journal's directories")?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let back = WriteBack::start(WriteBackParts {
        settings: WriteBackSettings {
            delay: options.writeback_delay,
            parallel: options.writeback_parallel,
            bytes_per_second: options.writeback_bytes_per_second,
            dirty_limit_bytes: options
                .dirty_limit_bytes
                .unwrap_or(options.size_bytes / DIRTY_PART),
            conflict: match options.conflict {
                ConflictMode::KeepBoth => ConflictAnswer::KeepBoth,
                ConflictMode::Ours => ConflictAnswer::Ours,
                ConflictMode::Theirs => ConflictAnswer::Theirs,
            },
            durable_at_close: options.close == CloseMode::Durable,
        },
        inner: backend,
        journal,
        found,
        own: credentials::own().context("the daemon's groups")?,
        host: host.trim().replace('/', "_"),
        notes,
    })
    .context("starting the threads that write back")?;
    if records > 0 {
        tell_of_replay(records, &back.figures());
    }
    Ok((back, devices))
}

fn tell_of_replay(records: usize, found: &WriteBackFigures) {
    tracing::info!(
        "the journal was read: {records} records, {} bytes in {} files that the backend does not have yet; they are shown, and \
         sent to it",
        found.dirty_bytes,
        found.dirty_files
    );
}

/// Of a journal that holds something for the backend, and that a mount without one does not look at.
pub(super) fn passed_by(disks: &[Disk], root: &FileKey) -> Option<String> {
    let witness = witness(disks);
    let missed = witness.missed(&root.0, None)?;
    Some(passed_by_in_words(&witness, &missed))
}

fn passed_by_in_words(witness: &Witness, journal: &Testimony) -> String {
    format!(
        "write_mode=through looks at no journal, and this backend has one in {}: {} what was written and the backend does not \
         have; mount with write_mode=back to have it sent. If it is lost for good, `{}` gives up what it held",
        journal.directories,
        journal.holding_in_words(),
        witness.forget_command(journal)
    )
}

/// What the cache directories remember of journals.
pub(super) fn witness(disks: &[Disk]) -> Witness {
    let place = |disk: &Disk| {
        let io: Arc<dyn Io> = disk.local.clone();
        (disk.cache.name.clone(), io)
    };
    Witness::hear(disks.iter().map(place).collect())
}

fn directory(place: &JournalPlace, engine: &Arc<Engine>) -> JournalDirectory {
    let name = place.path.display().to_string();
    let opened = place.directory.as_ref().map_err(Clone::clone);
    let io = opened.and_then(|directory| {
        let descriptor = directory.directory.try_clone();
        let disk = descriptor.and_then(|descriptor| LocalDisk::open(descriptor, engine.clone()));
        disk.map_err(|error| error.to_string())
    });
    let io = io.map(|disk| disk as Arc<dyn Io>);
    JournalDirectory { name, io }
}

fn journal_settings(
    settings: &Settings,
    prepared: &Prepared,
    root: &FileKey,
) -> anyhow::Result<JournalSettings> {
    let options = &settings.journal;
    let segment_bytes = options.size_bytes / SEGMENTS / (1 << 20) * (1 << 20);
    let backend_name = prepared.backend_name.as_os_str().as_bytes();
    Ok(JournalSettings {
        mode: sync_mode(options.fsync),
        interval: options.interval,
        size_bytes: options.size_bytes,
        segment_bytes: segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
        batch_bytes: BATCH_BYTES,
        spread: options.erasure,
        witness_interval: WITNESS_INTERVAL,
        device_timeout: DEVICE_TIMEOUT,
        name: random_name()?,
        backend: root.0.to_vec(),
        backend_name: String::from_utf8_lossy(backend_name).into_owned(),
    })
}

/// What is cached of a file goes on to be its content when an upload has made its version another. On a thread of its own:
/// uploads end in the middle of changes that hold on to what is cached.
pub(super) fn carry_over(back: &WriteBack, cache: &Arc<Cache>, lane: &Arc<Lane>) {
    let (cache, lane) = (cache.clone(), lane.clone());
    back.set_carry_over(Box::new(move |key, shown, present| {
        let (cache, key, shown, present) = (cache.clone(), key.clone(), *shown, *present);
        // Refused, it is fetched again.
        let _ = lane.submit(move || {
            if let Some(file) = cache.cached(&key, &shown) {
                file.keep().adopt(present);
            }
            cache.times_set(&key, &shown, &present);
        });
    }));
}

/// What is put beside other files is whole where the rest of it is cached.
pub(super) fn lend_cached(back: &WriteBack, cache: &Arc<Cache>) {
    let cache = cache.clone();
    back.set_read_cached(Box::new(move |key, version, buffer, offset| {
        let file = cache.cached(key, version);
        file.is_some_and(|file| cache.read_held(&file, buffer, offset))
    }));
}

/// Brings to the backend what it takes in time, and says what is left.
pub(super) fn shut_down(back: &WriteBack) {
    let left = back.shutdown(Instant::now() + DRAIN_TIMEOUT);
    if left > 0 {
        tracing::warn!(
            "{left} files are not on the backend as they were written; they are in the journal, for the next mount"
        );
    }
}

fn sync_mode(fsync: FsyncMode) -> SyncMode {
    match fsync {
        FsyncMode::Immediate => SyncMode::Immediate,
        FsyncMode::Batch => SyncMode::Batch,
        FsyncMode::Periodic => SyncMode::Periodic,
        FsyncMode::None => SyncMode::None,
    }
}

/// random(4): 16 bytes, written as 32 digits and dashes.
fn random_name() -> anyhow::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .context("a random name for the journal")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).context("a random name for the journal")?;
    Ok(number.to_be_bytes())
}
