//! The journal of a mount with `write_mode=back`, and what stands behind it.

use super::cache_directory::CacheDirectory;
use super::prepare::Prepared;
use super::status::{JournalStatus, WritebackStatus};
use crate::backend::Backend;
use crate::backend::lanes::Lane;
use crate::cache::Cache;
use crate::config::{FsyncMode, Settings};
use crate::io::engine::Engine;
use crate::io::local::LocalDisk;
use crate::journal::{Journal, JournalSettings, SyncMode};
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

/// Opens the journal, and puts what is in it before the backend.
pub(super) fn start(
    settings: &Settings,
    prepared: &Prepared,
    directory: &CacheDirectory,
    engine: &Arc<Engine>,
    backend: Arc<dyn Backend>,
    root: &FileKey,
) -> anyhow::Result<Arc<WriteBack>> {
    let options = &settings.journal;
    let opened = || {
        let descriptor = directory.directory.try_clone()?;
        let disk = LocalDisk::open(descriptor, engine.clone())?;
        let segment_bytes = options.size_bytes / SEGMENTS / (1 << 20) * (1 << 20);
        let journal = Journal::open(
            disk,
            JournalSettings {
                mode: sync_mode(options.fsync),
                interval: options.interval,
                size_bytes: options.size_bytes,
                segment_bytes: segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
                batch_bytes: BATCH_BYTES,
                name: random_name()?,
                backend: root.0.to_vec(),
                backend_name: String::from_utf8_lossy(prepared.backend_name.as_os_str().as_bytes())
                    .into_owned(),
            },
        )?;
        anyhow::Ok(journal)
    };
    let (journal, found) =
        opened().with_context(|| format!("journal directory {}", directory.path.display()))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    WriteBack::start(WriteBackParts {
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
    .context("starting the threads that write back")
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
    let failure = journal.failure.as_ref();
    JournalStatus {
        dirty_bytes: figures.dirty_bytes,
        commits: journal.commits,
        syncs: journal.syncs,
        waits: journal.waits,
        cut_batches: journal.cut_batches,
        state: failure.map_or_else(|| "ok".to_owned(), |failure| failure.to_string()),
        degraded_devices: u64::from(failure.is_some()),
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
    let mut warnings = vec![
        "write_mode=back with one journal directory: what is not on the backend yet is lost with its disk".to_owned(),
    ];
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
            "the journal's disk has failed: {failure}; nothing is taken any more; check the disk, then mount again"
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
