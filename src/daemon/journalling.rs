//! The journal of a mount with `write_mode=back`, and what stands behind it.

use super::journal_devices::JournalDevices;
use super::journal_places::JournalPlace;
use super::journal_status::DeviceStatus;
use super::prepare::Prepared;
use super::status::{JournalStatus, WritebackStatus};
use crate::backend::Backend;
use crate::backend::lanes::Lane;
use crate::cache::Cache;
use crate::config::{FsyncMode, Settings};
use crate::io::Io;
use crate::io::engine::Engine;
use crate::io::local::LocalDisk;
use crate::journal::{
    Journal, JournalDirectory, JournalFigures, JournalSettings, Outsider, SyncMode,
};
use crate::sys::credentials;
use crate::types::FileKey;
use crate::writeback::{WriteBack, WriteBackFigures, WriteBackParts, WriteBackSettings};
use anyhow::Context;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sixteenth of the journal, within these bounds: what is trimmed at once, and written ahead.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 8 << 20..=64 << 20;
/// Four to the smallest segment, headers included: twice the kernel's largest write.
const BATCH_BYTES: usize = 511 * 4096 - 128;
/// How long the end of a mount waits for the backend to take what it does not have.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A disk that takes longer than all others is given up: longer than a disk takes to recover from an error by itself.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens the journal, and puts what is in it before the backend. Which devices were the last is noted in `witness`.
pub(super) fn start(
    settings: &Settings,
    prepared: &Prepared,
    witness: Option<Arc<LocalDisk>>,
    engine: &Arc<Engine>,
    backend: Arc<dyn Backend>,
    root: &FileKey,
) -> anyhow::Result<(Arc<WriteBack>, JournalDevices)> {
    let options = &settings.journal;
    let directories = prepared.journal_directories.iter();
    let directories: Vec<_> = directories.map(|place| directory(place, engine)).collect();
    let names: Vec<&str> = directories.iter().map(|d| d.name.as_str()).collect();
    let what = format!("journal in {}", names.join(", "));
    let witness = witness.map(|disk| disk as Arc<dyn Io>);
    let settings_of_it = journal_settings(settings, prepared, root)?;
    let (journal, found) = Journal::open(directories, witness, settings_of_it).context(what)?;
    let devices = JournalDevices::new(journal.clone(), engine.clone(), prepared)
        .context("the descriptors of the journal's directories")?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let back = WriteBack::start(WriteBackParts {
        settings: WriteBackSettings {
            delay: options.writeback_delay,
            parallel: options.writeback_parallel,
        },
        inner: backend,
        journal,
        found,
        own: credentials::own().context("the daemon's groups")?,
        host: host.trim().replace('/', "_"),
    })
    .context("starting the threads that write back")?;
    Ok((back, devices))
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

pub(super) fn journal_status(figures: &WriteBackFigures) -> JournalStatus {
    let journal = &figures.journal;
    let (failure, devices, mending) = (&journal.failure, &journal.devices, &journal.mending);
    let member = |path: &String| DeviceStatus {
        path: path.clone(),
        state: "ok".to_owned(),
    };
    let outsider = |outsider: &Outsider| DeviceStatus {
        path: outsider.name.clone(),
        state: outsider.why.clone(),
    };
    let members = devices.members.iter().map(member);
    let erasure_devices = u64::from(devices.data_shards) + u64::from(devices.parity_shards);
    JournalStatus {
        dirty_bytes: figures.dirty_bytes,
        commits: journal.commits,
        syncs: journal.syncs,
        waits: journal.waits,
        cut_batches: journal.cut_batches,
        state: match failure {
            Some(failure) => failure.to_string(),
            None => "ok".to_owned(),
        },
        degraded_devices: erasure_devices - devices.members.len() as u64,
        erasure: format!("{}+{}", devices.data_shards, devices.parity_shards),
        devices: members
            .chain(devices.outsiders.iter().map(outsider))
            .collect(),
        tolerated_losses: journal.tolerated,
        weak_batches: journal.weak_batches,
        is_at_work: mending.is_mending || mending.is_scrubbing,
        checked_shards: mending.checked_shards,
        damaged_shards: mending.damaged_shards,
        mended_batches: mending.mended_batches,
        lost_batches: mending.lost_batches,
    }
}

pub(super) fn writeback_status(figures: &WriteBackFigures) -> WritebackStatus {
    WritebackStatus {
        pending_files: figures.dirty_files,
        failing_files: figures.failing_files,
        conflicts: figures.conflicts.count,
        conflict_paths: figures.conflicts.paths.clone(),
    }
}

/// What the operator should know of a journal, a sentence each.
pub(super) fn warnings(settings: &Settings, figures: &WriteBackFigures) -> Vec<String> {
    let mut warnings = device_warnings(&figures.journal);
    if matches!(
        settings.journal.fsync,
        FsyncMode::Periodic | FsyncMode::None
    ) {
        warnings.push(
            "fsync_mode=periodic and none: fsync waits for nothing, a power cut loses what came after the last sync".to_owned(),
        );
    }
    if let Some(failure) = &figures.journal.failure {
        warnings.push(format!(
            "the journal has failed: {failure}; nothing is taken any more; check its disks, then mount again"
        ));
    }
    if figures.failing_files > 0 {
        warnings.push(format!(
            "{} files are not taken by the backend; they stay in the journal and are tried again (the log says why)",
            figures.failing_files
        ));
    }
    if figures.conflicts.count > 0 {
        warnings.push(format!(
            "{} files were changed by somebody else while they were written here; ours lie beside theirs, the last as {}",
            figures.conflicts.count,
            figures.conflicts.paths.last().map_or("", String::as_str)
        ));
    }
    if figures.journal.cut_batches > 0 {
        warnings.push(format!(
            "{} batches at the end of the journal were not whole and were never acknowledged: cut off",
            figures.journal.cut_batches
        ));
    }
    warnings
}

fn device_warnings(journal: &JournalFigures) -> Vec<String> {
    let devices = &journal.devices;
    let mut warnings = Vec::new();
    if devices.parity_shards == 0 {
        warnings.push(
            "write_mode=back without a second journal directory: what is not on the backend yet is lost with its disk"
                .to_owned(),
        );
    } else if journal.tolerated < u64::from(devices.parity_shards) {
        warnings.push(format!(
            "the journal survives the loss of {} more disks, not of {}; `nfs-cachefs journal` tells and mends",
            journal.tolerated, devices.parity_shards
        ));
    }
    for Outsider { name, why } in &devices.outsiders {
        warnings.push(format!("the journal goes without {name}: {why}"));
    }
    if journal.mending.lost_batches > 0 {
        warnings.push(format!(
            "{} batches of the journal have lost more shards than may be: reading what they hold is EIO",
            journal.mending.lost_batches
        ));
    }
    warnings
}
