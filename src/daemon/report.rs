//! The components' state as [`Status`].

use super::journal_status;
use super::latency::latencies;
use super::pinning::PinsStatus;
use super::prepare::LostCacheDirectory;
use super::status::{
    BackendStatus, CacheDirectoryStatus, CacheStatus, EngineStatus, FuseStatus, JournalStatus,
    NamesStatus, OptionStatus, State, Status, WritebackStatus,
};
use super::status_of_scrub::{DamagedStatus, PassStatus, ScrubStatus};
use super::tuning::Tuning;
use crate::backend::DirectoryBackend;
use crate::backend::health::{Health, HealthState};
use crate::cache::names::Names;
use crate::cache::scrub::{Damaged, PassReport};
use crate::cache::{Cache, CacheDirectory};
use crate::config::{ChecksumKind, Identity, KeepWritten, PassthroughChoice, Settings};
use crate::fs::FileSystem;
use crate::fuse::ProtocolReport;
use crate::io::engine::Engine;
use crate::io::local::LocalDisk;
use crate::metrics::{BackendMetrics, CacheMetrics};
use crate::writeback::{WriteBack, WriteBackFigures};
use std::path::PathBuf;
use std::sync::Arc;

const NOTHING_PROVEN: &str = "the backend is not on a disk of this machine, so others may write to a file unnoticed while it is written here; \
    what is written is fetched at its next read; with keep_written=always it is not, where no other machine writes to such files";
const READS_ARE_CHECKED: &str =
    "with checksum=read every read comes to the daemon, which checks it";
/// What a mount by an ordinary user goes without.
pub const LOST_WITHOUT_ROOT: &str = "run by an ordinary user: complete files are read through the daemon (no passthrough), files are found by path rather than by handle, and the backend is asked as that user, whoever asks here";

/// Everything that has something to say.
pub struct Reporter {
    pub backend_path: PathBuf,
    pub backend: Arc<DirectoryBackend>,
    pub backend_metrics: Arc<BackendMetrics>,
    pub health: Arc<Health>,
    pub cache: Arc<Cache>,
    pub cache_metrics: Arc<CacheMetrics>,
    pub names: Arc<Names>,
    pub disks: Vec<Arc<LocalDisk>>,
    pub lost: Vec<LostCacheDirectory>,
    pub engine: Arc<Engine>,
    pub protocol: ProtocolReport,
    pub filesystem: Arc<FileSystem>,
    pub tuning: Arc<Tuning>,
    /// With `write_mode=back`.
    pub back: Option<Arc<WriteBack>>,
    pub settings: Settings,
    /// What to know of directories that hold less than they seem to.
    pub ill_placed: Vec<String>,
    /// Of a journal that is not asked for: it is there as long as the mount, whose cache directories remember it.
    pub passed_by: Option<String>,
    pub reader_threads: usize,
}

impl Reporter {
    /// Waits for the local disks, never for the backend.
    pub fn status(&self) -> Status {
        let directories = self.directories();
        let health = self.health.state();
        let reachable = health != HealthState::Away;
        let broken = directories.iter().any(|directory| directory.state != "ok");
        let engine = self.engine.report();
        let figures = self.back.as_ref().map(|back| back.figures());
        Status {
            state: if reachable && !broken {
                State::Serving
            } else {
                State::Degraded
            },
            backend: self.backend_status(health),
            names: self.names_status(),
            pins: self.pins_status(),
            tuning: self.tuning.status(),
            cache: self.cache_status(directories),
            scrub: self.scrub_status(),
            journal: figures.as_ref().map(JournalStatus::of).unwrap_or_default(),
            writeback: figures
                .as_ref()
                .map(WritebackStatus::of)
                .unwrap_or_default(),
            engine: EngineStatus {
                name: engine.engine.to_owned(),
                reason: engine.reason.clone(),
            },
            fuse: FuseStatus {
                protocol: format!(
                    "{}.{}",
                    self.protocol.kernel_version.0, self.protocol.kernel_version.1
                ),
                passthrough: match &self.protocol.passthrough {
                    Ok(()) => "on".to_owned(),
                    Err(reason) => format!("off: {reason}"),
                },
                threads: self.reader_threads as u64,
            },
            read_only: self.settings.mount_flags.read_only,
            options: self.options(figures.as_ref()),
            warnings: self.warnings(reachable, figures.as_ref()),
            nodes: self.filesystem.node_count() as u64,
            handles: self.filesystem.handle_count() as u64,
            longest_wait_ms: self.filesystem.longest_wait().as_millis() as u64,
            pieces_in_flight: self.cache.pieces_in_flight() as u64,
            latencies: latencies(&self.backend_metrics, &self.cache_metrics),
            ..Status::default()
        }
    }

    fn backend_status(&self, health: HealthState) -> BackendStatus {
        let metrics = &self.backend_metrics;
        let root = self.backend.filesystems().into_iter().next();
        let latency = self.health.latency();
        BackendStatus {
            reachable: health != HealthState::Away,
            state: match health {
                HealthState::Reachable => "reachable",
                HealthState::Slow => "slow",
                HealthState::Away => "away",
            }
            .to_owned(),
            is_moved: self.moved_root().is_some(),
            away_seconds: self
                .health
                .absent_for()
                .map(|absent_for| absent_for.as_secs()),
            stale_answers: metrics.stale_answers.get(),
            bytes_read: metrics.bytes_read.get(),
            bytes_written: metrics.bytes_written.get(),
            ops: metrics.metadata_calls.count() + metrics.data_calls.count(),
            path: self.backend_path.display().to_string(),
            filesystem: root.map_or("not found yet".to_owned(), |root| {
                format!("{} {}", root.fstype, root.source)
            }),
            errors: metrics.errors.get(),
            timeouts: metrics.timeouts.get(),
            timeout_ms: self.settings.backend_timeout.as_millis() as u64,
            threads_lost: metrics.threads_lost.get().max(0) as u64,
            latency_p50_us: latency.p50.as_micros() as u64,
            latency_p99_us: latency.p99.as_micros() as u64,
        }
    }

    fn names_status(&self) -> NamesStatus {
        let report = self.names.report();
        NamesStatus {
            records: report.records,
            waiting: report.waiting,
            not_noted: report.not_noted,
            state: report.failure.unwrap_or_else(|| "ok".to_owned()),
        }
    }

    fn pins_status(&self) -> PinsStatus {
        let pins = self.filesystem.pins();
        let pinned = self.cache.pinned();
        PinsStatus {
            pins: pins.len() as u64,
            files: pinned.files,
            bytes: pinned.bytes,
            bytes_limit: self.cache.pinned_bytes_max(),
            missing_files: pins.iter().map(|pin| pin.missing_files).sum(),
        }
    }

    fn cache_status(&self, directories: Vec<CacheDirectoryStatus>) -> CacheStatus {
        let metrics = &self.cache_metrics;
        let caches = self.cache.directories();
        CacheStatus {
            bytes_used: caches.iter().map(|cache| cache.space.used_bytes()).sum(),
            bytes_limit: caches.iter().map(|cache| cache.space.limit_bytes()).sum(),
            files: caches.iter().map(|cache| cache.file_count()).sum(),
            hit_bytes: metrics.hit_bytes.get(),
            miss_bytes: metrics.miss_bytes.get(),
            passthrough_opens: metrics.passthrough_opens.get(),
            readahead_bytes: metrics.ahead_bytes.get(),
            readahead_used_bytes: metrics.ahead_used_bytes.get(),
            readahead_wasted_bytes: metrics.ahead_wasted_bytes.get(),
            bypass_bytes: metrics.bypass_bytes.get(),
            fills_discarded: metrics.fills_discarded.get(),
            objects_evicted: metrics.objects_evicted.get(),
            trimmed_bytes: metrics.trimmed_bytes.get(),
            written_today_bytes: caches.iter().map(|cache| cache.written_today().bytes).sum(),
            write_limit_bytes: caches
                .iter()
                .filter_map(|cache| cache.write_limit_bytes())
                .sum(),
            doubted: metrics.doubted.get(),
            directories,
        }
    }

    fn scrub_status(&self) -> ScrubStatus {
        let report = self.cache.scrub_report();
        let seconds_of = |pass: &PassReport| pass.took.as_secs_f64();
        ScrubStatus {
            running: report.is_running,
            passes: report.passes,
            answered: report.answered,
            checked_bytes: report.checked_bytes,
            summed_bytes: report.summed_bytes,
            bad_blocks: report.bad_blocks,
            bad_files: report.bad_files,
            paused_ms: report.paused.as_millis() as u64,
            last_pass: report.last_pass.map(|pass| PassStatus {
                files: pass.files,
                checked_bytes: pass.checked_bytes,
                summed_bytes: pass.summed_bytes,
                bad_blocks: pass.bad_blocks,
                bad_files: pass.bad_files,
                seconds: seconds_of(&pass),
            }),
            damaged: report.damaged.iter().map(damaged_status).collect(),
        }
    }

    fn directories(&self) -> Vec<CacheDirectoryStatus> {
        let working = self.cache.directories().iter().map(|cache| {
            let space = cache.disk_space().ok();
            CacheDirectoryStatus {
                path: cache.name.clone(),
                state: cache
                    .failure()
                    .or_else(|| cache.shortage())
                    .unwrap_or_else(|| "ok".to_owned()),
                bytes_used: cache.space.used_bytes(),
                disk_bytes_total: space.map_or(0, |space| space.total_bytes),
                disk_bytes_available: space.map_or(0, |space| space.available_bytes),
            }
        });
        let lost = self.lost.iter().map(|lost| CacheDirectoryStatus {
            path: lost.path.display().to_string(),
            state: lost.reason.clone(),
            ..CacheDirectoryStatus::default()
        });
        working.chain(lost).collect()
    }

    fn absence(&self) -> String {
        let absent_for = self.health.absent_for().unwrap_or_default();
        let left = self.settings.stale.saturating_sub(absent_for);
        format!(
            "the backend does not answer since {} s ago ({}); {}",
            absent_for.as_secs(),
            self.health.reason().unwrap_or_default(),
            match (self.settings.stale.is_zero(), left.is_zero()) {
                (true, _) => "what is known is not served, with stale=off".to_owned(),
                (_, true) => "longer than `stale`: what is known is EIO".to_owned(),
                _ => format!("what is known is served for {} s more", left.as_secs()),
            }
        )
    }

    /// The backend's directory is served wherever it is by now. Asks nobody: the kernel keeps its name.
    fn moved_root(&self) -> Option<String> {
        let present = self.backend.present_path()?;
        let named = &self.backend_path;
        let by_now = match present.as_os_str() == "/" {
            true => "which is mounted nowhere any more".to_owned(),
            false => format!("now {}", present.display()),
        };
        (present != *named).then(|| {
            format!(
                "the backend {} was renamed, removed or unmounted since the start: what is served is the directory that was there, \
                 {by_now}; unmount and mount again for what has that name now",
                named.display(),
            )
        })
    }

    /// Those of which there is more to say than what was given.
    fn options(&self, figures: Option<&WriteBackFigures>) -> Vec<OptionStatus> {
        let replaced =
            figures.and_then(|figures| journal_status::replaced(&self.settings, figures));
        let mut options = self.without_effect();
        options.extend(replaced);
        options
    }

    /// Options that were asked for and can do nothing here.
    fn without_effect(&self) -> Vec<OptionStatus> {
        let mut options: Vec<OptionStatus> = self
            .engine
            .report()
            .features
            .iter()
            .filter(|feature| !feature.in_use)
            .filter_map(|feature| {
                let name = match feature.name {
                    "polling" => "nvme_polling_mode",
                    "sqpoll" => "nvme_sq_poll_idle_ms",
                    "fixed_buffers" => "nvme_fixed_buffers",
                    "huge_pages" => "nvme_use_hugepages",
                    "numa" => "nvme_numa_aware",
                    _ => return None,
                };
                Some(OptionStatus {
                    name: name.to_owned(),
                    value: String::new(),
                    from: String::new(),
                    no_effect_because: Some(feature.detail.clone()),
                })
            })
            .collect();
        if let Err(reason) = &self.protocol.passthrough
            && self.settings.passthrough == PassthroughChoice::Auto
        {
            let reason = match self.settings.checksum {
                ChecksumKind::Read => READS_ARE_CHECKED.to_owned(),
                ChecksumKind::None | ChecksumKind::Scrub | ChecksumKind::Fill => reason.clone(),
            };
            options.push(OptionStatus {
                name: "passthrough".to_owned(),
                value: String::new(),
                from: String::new(),
                no_effect_because: Some(reason),
            });
        }
        options.extend(self.scrub_options_without_effect());
        options.extend(journal_status::without_effect(&self.settings));
        let filesystems = self.backend.filesystems();
        let is_remote = !filesystems.is_empty() && filesystems.iter().all(|one| one.remote);
        if self.settings.keep_written == KeepWritten::Proven && is_remote {
            options.push(OptionStatus {
                name: "keep_written".to_owned(),
                value: String::new(),
                from: String::new(),
                no_effect_because: Some(NOTHING_PROVEN.to_owned()),
            });
        }
        if self.settings.identity == Identity::Caller && !nix::unistd::geteuid().is_root() {
            options.push(OptionStatus {
                name: "identity".to_owned(),
                value: "daemon".to_owned(),
                from: String::new(),
                no_effect_because: Some(
                    "the daemon is not root and can act as nobody but its own user".to_owned(),
                ),
            });
        }
        options
    }

    fn scrub_options_without_effect(&self) -> Vec<OptionStatus> {
        let defaults = Settings::default();
        let asked = [
            (
                "scrub_rate",
                self.settings.scrub_bytes_per_second != defaults.scrub_bytes_per_second,
            ),
            (
                "scrub_interval",
                self.settings.scrub_interval != defaults.scrub_interval,
            ),
        ];
        let is_off = self.settings.checksum == ChecksumKind::None;
        asked
            .into_iter()
            .filter(|(_, asked)| *asked && is_off)
            .map(|(name, _)| OptionStatus {
                name: name.to_owned(),
                value: String::new(),
                from: String::new(),
                no_effect_because: Some("with checksum=none nothing is checked".to_owned()),
            })
            .collect()
    }

    fn warnings(&self, reachable: bool, figures: Option<&WriteBackFigures>) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(figures) = figures {
            warnings.extend(journal_status::warnings(&self.settings, figures));
        }
        if !reachable {
            warnings.push(self.absence());
        }
        warnings.extend(self.names.notices());
        warnings.extend(self.moved_root());
        warnings.extend(self.ill_placed.iter().cloned());
        warnings.extend(self.passed_by.clone());
        for cache in self.cache.directories() {
            warnings.extend(cache.notices.lock().iter().cloned());
            warnings.extend(out_of_order(cache));
        }
        for disk in &self.disks {
            if !disk.supports_direct_io() {
                warnings.push(format!(
                    "a cache disk has no O_DIRECT, fills go through the page cache: {}",
                    disk.report().direct_io_detail
                ));
            }
        }
        if !nix::unistd::geteuid().is_root() {
            warnings.push(LOST_WITHOUT_ROOT.to_owned());
        }
        warnings
    }
}

fn damaged_status(damaged: &Damaged) -> DamagedStatus {
    DamagedStatus {
        path: damaged
            .path
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
        inode: damaged.inode,
        offset: damaged.offset,
        blocks: damaged.blocks,
        at_seconds: damaged.at.seconds,
    }
}

/// What the administrator has to do about a cache directory, if anything.
fn out_of_order(cache: &CacheDirectory) -> Option<String> {
    let failed = cache.failure().map(|reason| {
        format!("out of use until the next mount, its files are read from the backend: {reason}; check that disk, then mount again")
    });
    let trouble = failed.or_else(|| cache.shortage())?;
    Some(format!("cache directory {}: {trouble}", cache.name))
}
