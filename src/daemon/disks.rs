//! The cache directories as the components get them: opened, with their limits, and what is to be told of them.

use super::cache_directory::CacheDirectory as PreparedDirectory;
use super::journal_places::on_one_disk;
use super::prepare::{LostCacheDirectory, Prepared};
use crate::cache::policy::PolicyKind;
use crate::cache::watermarks::{FreeMarks, HeldMarks, Watermarks};
use crate::cache::{Cache, CacheDirectory, Evicted, OpenError, check_layout};
use crate::config::{self, CacheSize, DiskShare, Settings};
use crate::io::Io;
use crate::io::engine::Engine;
use crate::io::local::LocalDisk;
use crate::metrics::CacheMetrics;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Memory for index pages, over all cache directories: the inner pages for millions of files. Leaves are mostly
/// found in the kernel's page cache.
const INDEX_CACHE_BYTES: usize = 12 << 20;

pub(super) struct Disk {
    pub local: Arc<LocalDisk>,
    pub cache: Arc<CacheDirectory>,
    device: u64,
}

/// Opens the cache in each directory. Where there are several, one whose disk fails is left out.
pub(super) fn open_disks(
    prepared: &Prepared,
    engine: &Arc<Engine>,
    policy: PolicyKind,
    metrics: &Arc<CacheMetrics>,
) -> anyhow::Result<(Vec<Disk>, Vec<LostCacheDirectory>)> {
    let several = prepared.cache_directories.len() > 1;
    let index_cache_bytes = INDEX_CACHE_BYTES / prepared.cache_directories.len().max(1);
    let (mut disks, mut lost) = (Vec::new(), prepared.lost_cache_directories.clone());
    // All are looked at before anything is written to the first.
    let looked_at: Vec<_> = prepared
        .cache_directories
        .iter()
        .map(|directory| (directory, look_at_disk(directory, engine)))
        .collect();
    for (directory, outcome) in &looked_at {
        if let Err(error @ OpenError::Layout(_)) = outcome {
            bail!("cache directory {}: {error}", directory.path.display());
        }
    }
    for (directory, looked_at) in looked_at {
        let name = directory.path.display().to_string();
        let opened = looked_at.and_then(|local| {
            open_disk(&name, directory, local, metrics, index_cache_bytes, policy)
        });
        match opened {
            Ok(disk) => disks.push(disk),
            Err(OpenError::Io(error)) if several => lost.push(LostCacheDirectory {
                path: directory.path.clone(),
                reason: error.to_string(),
            }),
            Err(error) => bail!("cache directory {name}: {error}"),
        }
    }
    if disks.is_empty() {
        bail!("no cache directory can be used; name another with cache_dir");
    }
    Ok((disks, lost))
}

/// Refuses what is no cache of ours.
fn look_at_disk(
    directory: &PreparedDirectory,
    engine: &Arc<Engine>,
) -> Result<Arc<LocalDisk>, OpenError> {
    let root = directory.directory.try_clone()?;
    let local = LocalDisk::open(root, engine.clone())?;
    check_layout(&*local)?;
    Ok(local)
}

fn open_disk(
    name: &str,
    directory: &PreparedDirectory,
    local: Arc<LocalDisk>,
    metrics: &Arc<CacheMetrics>,
    index_cache_bytes: usize,
    policy: PolicyKind,
) -> Result<Disk, OpenError> {
    let io: Arc<dyn Io> = local.clone();
    let cache = CacheDirectory::open(
        name.to_owned(),
        io,
        index_cache_bytes,
        policy,
        metrics.clone(),
    )?;
    for notice in cache.notices.lock().iter() {
        tracing::warn!("{notice}");
    }
    Ok(Disk {
        local,
        cache,
        device: directory.identity.0,
    })
}

/// What an eviction could not reach is no success.
pub(super) fn refuse_untouched(cache: &Cache, evicted: &Evicted) -> anyhow::Result<()> {
    let untouched: Vec<String> = cache
        .directories()
        .iter()
        .filter_map(|directory| {
            let reason = directory.failure().or_else(|| directory.unreachable())?;
            Some(format!("cache directory {}: {reason}", directory.name))
        })
        .collect();
    if untouched.is_empty() {
        return Ok(());
    }
    bail!(
        "{} files, {} bytes evicted, and nothing of what is out of use: {}",
        evicted.files,
        evicted.bytes,
        untouched.join("; ")
    )
}

pub(super) fn warnings(
    prepared: &Prepared,
    disks: &[Disk],
    lost: &[LostCacheDirectory],
) -> Vec<String> {
    let lost = lost.iter().map(|lost| {
        format!(
            "cache directory {} is not used: {}",
            lost.path.display(),
            lost.reason
        )
    });
    let short = disks.iter().filter_map(|disk| {
        let shortage = disk.cache.shortage()?;
        Some(format!("cache directory {}: {shortage}", disk.cache.name))
    });
    lost.chain(short).chain(ill_placed(prepared)).collect()
}

/// Directories that hold less than they seem to.
pub(super) fn ill_placed(prepared: &Prepared) -> Vec<String> {
    let in_memory = |what: &str, directory: &PreparedDirectory| {
        directory.is_in_memory().then(|| {
            format!(
                "{what} directory {}: on tmpfs: it takes memory, and what it holds does not survive a reboot; a directory on a \
                 local disk keeps it",
                directory.path.display()
            )
        })
    };
    let caches = prepared.cache_directories.iter();
    let caches = caches.filter_map(|directory| in_memory("cache", directory));
    let journals = prepared.journal_directories.iter();
    let journals = journals.filter_map(|place| place.directory.as_ref().ok());
    let together = on_one_disk(journals.clone().map(|directory| &*directory.path));
    let journals = journals.filter_map(|directory| in_memory("journal", directory));
    caches.chain(journals).chain(together).collect()
}

fn watermarks(settings: &config::Watermarks) -> Watermarks {
    let free = |marks: config::FreePercent| FreeMarks {
        run_percent: marks.run,
        cull_percent: marks.cull,
        stop_percent: marks.stop,
    };
    Watermarks {
        held: settings
            .held()
            .map(|(high_percent, low_percent)| HeldMarks {
                high_percent,
                low_percent,
            }),
        free_bytes: settings.free_bytes().map(free),
        free_inodes: settings.free_inodes().map(free),
    }
}

/// The limit over all disks, split among the directories in proportion to what each could hold.
pub(super) fn set_limits(settings: &Settings, disks: &[Disk]) -> anyhow::Result<()> {
    let mut shares: BTreeMap<u64, (DiskShare, u64)> = BTreeMap::new();
    for disk in disks {
        let space = disk
            .cache
            .disk_space()
            .with_context(|| format!("space of {}", disk.cache.name))?;
        let (share, directories) = shares.entry(disk.device).or_insert((
            DiskShare {
                total_bytes: space.total_bytes,
                available_bytes: space.available_bytes,
                used_by_cache_bytes: 0,
            },
            0,
        ));
        share.used_by_cache_bytes += disk.cache.space.used_bytes();
        *directories += 1;
    }
    let all: Vec<DiskShare> = shares.values().map(|(share, _)| *share).collect();
    let limit_bytes = settings
        .cache_size
        .limit_bytes(&all)
        .map_err(anyhow::Error::msg)?;
    let total: u64 = all.iter().map(DiskShare::capacity_bytes).sum();
    for disk in disks {
        let (share, directories) = &shares[&disk.device];
        let part = u128::from(limit_bytes) * u128::from(share.capacity_bytes()) / u128::from(total);
        let own_bytes = (part / u128::from(*directories)) as u64;
        disk.cache.space.set_limit(own_bytes);
        disk.cache.set_watermarks(watermarks(&settings.watermarks));
        disk.cache
            .set_write_limit(settings.write_limit_bytes.map(|bytes| {
                (u128::from(bytes) * u128::from(own_bytes) / u128::from(limit_bytes)) as u64
            }));
        if let CacheSize::Bytes(wanted) = settings.cache_size
            && wanted > total
        {
            tracing::warn!(
                "cache_size is larger than what the cache disks have free; when they are full, reads go past the cache"
            );
        }
    }
    Ok(())
}
