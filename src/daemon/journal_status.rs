//! What `status` says of the journal.

use super::control::WirePath;
use super::device_status::{DeviceStatus, device_warnings};
use super::status::{OptionStatus, bytes};
use crate::config::{FsyncMode, Settings, WriteMode};
use crate::writeback::{DirtyFileFigures, WriteBackFigures};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Conflicts that `status` names; the command tells of all.
const CONFLICTS_NAMED: usize = 100;

/// All zero with `write_mode=through`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// What the backend does not have yet, and the most there may be of it.
    pub dirty_bytes: u64,
    #[serde(default)]
    pub dirty_limit: u64,
    /// How long the oldest of it has been waiting.
    #[serde(default)]
    pub oldest_dirty_seconds: u64,
    /// Records; batches written; syncs of the device; who waited for one.
    #[serde(default)]
    pub records: u64,
    pub commits: u64,
    pub syncs: u64,
    #[serde(default)]
    pub waits: u64,
    /// How long a batch with its sync takes.
    #[serde(default)]
    pub commit_p50_us: u64,
    #[serde(default)]
    pub commit_p99_us: u64,
    /// Never acknowledged, and cut off at the start.
    #[serde(default)]
    pub cut_batches: u64,
    /// "ok", why nothing is taken any more, or nothing without a journal.
    #[serde(default)]
    pub state: String,
    /// Missing of those that `erasure` takes.
    pub degraded_devices: u64,
    #[serde(default)]
    pub erasure: String,
    /// Those that take part, then those that do not.
    #[serde(default)]
    pub devices: Vec<DeviceStatus>,
    /// How many more devices may be lost.
    #[serde(default)]
    pub tolerated_losses: u64,
    /// Batches that lack shards which the devices could have.
    #[serde(default)]
    pub weak_batches: u64,
    /// Shards are being checked or made.
    #[serde(default)]
    pub is_at_work: bool,
    /// By the last scrub, or the present one.
    #[serde(default)]
    pub checked_shards: u64,
    #[serde(default)]
    pub damaged_shards: u64,
    #[serde(default)]
    pub mended_batches: u64,
    /// More of their shards are gone than may be.
    #[serde(default)]
    pub lost_batches: u64,
}

/// All zero with `write_mode=through`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WritebackStatus {
    pub pending_files: u64,
    /// Of these, not taken by the backend when they were tried last.
    #[serde(default)]
    pub failing_files: u64,
    /// The oldest of them.
    #[serde(default)]
    pub oldest: Vec<DirtyFileStatus>,
    /// Files that lie beside others and that nobody has looked at, and the last of them.
    pub conflicts: u64,
    #[serde(default)]
    pub conflict_paths: Vec<String>,
}

/// A file that the backend does not have as it is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirtyFileStatus {
    pub path: WirePath,
    pub bytes: u64,
    pub age_seconds: u64,
    /// "waiting", "on its way", or "failing".
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl JournalStatus {
    pub(super) fn of(figures: &WriteBackFigures) -> Self {
        let journal = &figures.journal;
        let failure = journal.failure.as_ref();
        let oldest = figures.named.first();
        Self {
            dirty_bytes: figures.dirty_bytes,
            dirty_limit: figures.dirty_limit_bytes,
            oldest_dirty_seconds: oldest.map_or(0, |file| file.age.as_secs()),
            records: journal.appended_records,
            commits: journal.commits,
            syncs: journal.syncs,
            waits: journal.waits,
            commit_p50_us: journal.commit_p50.as_micros() as u64,
            commit_p99_us: journal.commit_p99.as_micros() as u64,
            cut_batches: journal.cut_batches,
            state: failure.map_or_else(|| "ok".to_owned(), |failure| failure.to_string()),
            ..Self::of_devices(journal)
        }
    }

    /// Nothing without a journal.
    pub(super) fn in_words(&self, writeback: &WritebackStatus) -> Option<String> {
        let is_there = !self.state.is_empty();
        is_there.then(|| {
            format!(
                "  journal   {}, {} of {} disks, {} more may be lost, {} of {} in {} files not on the backend yet (oldest {} s, {} failing), {} writes, {} commits (median {} us), {} syncs for {} waits, {} conflicts",
                self.condition(),
                self.present_devices(),
                self.present_devices() + self.degraded_devices,
                self.tolerated_losses,
                bytes(self.dirty_bytes),
                bytes(self.dirty_limit),
                writeback.pending_files,
                self.oldest_dirty_seconds,
                writeback.failing_files,
                self.records,
                self.commits,
                self.commit_p50_us,
                self.syncs,
                self.waits,
                writeback.conflicts
            )
        })
    }
}

impl WritebackStatus {
    pub(super) fn of(figures: &WriteBackFigures) -> Self {
        let last = figures.conflicts.iter().rev().take(CONFLICTS_NAMED);
        let path =
            |conflict: &crate::writeback::Conflict| conflict.beside.to_string_lossy().into_owned();
        Self {
            pending_files: figures.dirty_files,
            failing_files: figures.failing_files,
            oldest: figures.named.iter().map(DirtyFileStatus::of).collect(),
            conflicts: figures.conflicts.len() as u64,
            conflict_paths: last.map(path).collect(),
        }
    }

    /// What the warnings leave out: a file that is not taken, and the last that lies beside another.
    pub(super) fn in_words(&self) -> Vec<String> {
        let trouble = |file: &DirtyFileStatus| {
            let path = PathBuf::from(file.path.clone());
            let trouble = file.trouble.as_ref()?;
            Some(format!("  not taken {}: {trouble}", path.display()))
        };
        let last = self.conflict_paths.first();
        let beside = last.map(|path| format!("  conflict  the last of ours is {path}"));
        self.oldest
            .iter()
            .find_map(trouble)
            .into_iter()
            .chain(beside)
            .collect()
    }
}

impl DirtyFileStatus {
    pub(super) fn in_words(&self) -> String {
        let trouble = self.trouble.as_ref();
        format!(
            "{} not on the backend yet, {} s old, {}{}",
            bytes(self.bytes),
            self.age_seconds,
            self.state,
            trouble.map_or_else(String::new, |trouble| format!(": {trouble}"))
        )
    }

    pub(super) fn of(file: &DirtyFileFigures) -> Self {
        let state = match (&file.trouble, file.is_on_its_way) {
            (Some(_), _) => "failing",
            (None, true) => "on its way",
            (None, false) => "waiting",
        };
        Self {
            path: WirePath::from(&*file.path),
            bytes: file.bytes,
            age_seconds: file.age.as_secs(),
            state: state.to_owned(),
            trouble: file.trouble.as_deref().map(str::to_owned),
        }
    }
}

/// Options about writing back that were given to a mount that writes through.
pub(super) fn without_effect(settings: &Settings) -> Vec<OptionStatus> {
    if settings.write_mode == WriteMode::Back {
        return Vec::new();
    }
    const NAMES: [&str; 9] = [
        "journal_size",
        "fsync_mode",
        "batch_interval",
        "writeback_delay",
        "writeback_parallel",
        "writeback_rate",
        "dirty_limit",
        "close",
        "conflict",
    ];
    let defaults = Settings::default().in_effect();
    let given = settings.in_effect().into_iter();
    given
        .filter(|row| NAMES.contains(&row.0) && !defaults.contains(row))
        .map(|(name, _)| OptionStatus {
            name: name.to_owned(),
            value: String::new(),
            from: String::new(),
            no_effect_because: Some("with write_mode=through nothing is written back".to_owned()),
        })
        .collect()
}

/// The directories of a journal, where they are not those that were given any more.
pub(super) fn replaced(settings: &Settings, figures: &WriteBackFigures) -> Option<OptionStatus> {
    let devices = &figures.journal.devices;
    let outsiders = devices.outsiders.iter().map(|outsider| &outsider.name);
    let named: Vec<&String> = devices.members.iter().chain(outsiders).collect();
    let is_named = |path: &PathBuf| named.contains(&&path.display().to_string());
    let given = &settings.journal.directories;
    if given.iter().all(is_named) {
        return None;
    }
    let paths: Vec<&str> = named.iter().map(|name| name.as_str()).collect();
    Some(OptionStatus {
        name: "journal_dir".to_owned(),
        value: paths.join(":"),
        from: "nfs-cachefs journal replace".to_owned(),
        no_effect_because: None,
    })
}

/// What the operator should know of a journal, a sentence each. Names of files are in [`WritebackStatus`] alone.
pub(super) fn warnings(settings: &Settings, figures: &WriteBackFigures) -> Vec<String> {
    let mut warnings = device_warnings(&figures.journal);
    if matches!(
        settings.journal.fsync,
        FsyncMode::Periodic | FsyncMode::None
    ) {
        warnings.push(
            "fsync_mode=periodic and none: fsync waits for nothing, a power cut or a killed daemon loses what came after the last sync".to_owned(),
        );
    }
    if let Some(failure) = &figures.journal.failure {
        warnings.push(format!(
            "the journal has failed: {failure}; nothing is taken any more; check its disks, then mount again"
        ));
    }
    if figures.failing_files > 0 {
        warnings.push(format!(
            "{} files are not taken by the backend; they stay in the journal and are tried again",
            figures.failing_files
        ));
    }
    if !figures.conflicts.is_empty() {
        warnings.push(format!(
            "{} files were changed by somebody else while they were written here; ours lie beside theirs: see `nfs-cachefs conflicts`",
            figures.conflicts.len()
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
