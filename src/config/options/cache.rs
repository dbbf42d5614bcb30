//! Rows about the cache: where it lies, how large it is, what goes in and out.

use super::disk::show_flag;
use super::{Kind, OptionRow};
use crate::config::CacheSize;
use crate::config::settings::{ChecksumKind, EvictionPolicy};
use crate::config::units::{GIB, KIB, MIB, TIB, show_duration, show_size};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

const fn size(
    bare_unit_bytes: u64,
    min_bytes: u64,
    max_bytes: u64,
    set: fn(&mut crate::config::Settings, u64),
) -> Kind {
    Kind::Size {
        bare_unit_bytes,
        min_bytes,
        max_bytes,
        power_of_two: false,
        set,
    }
}

const fn block_size(bare_unit_bytes: u64) -> Kind {
    Kind::Size {
        bare_unit_bytes,
        min_bytes: 16 * KIB,
        max_bytes: 4 * MIB,
        power_of_two: true,
        set: |s, bytes| s.block_size_bytes = Some(bytes),
    }
}

const fn ttl(bare_unit: Duration) -> Kind {
    Kind::Duration {
        bare_unit,
        min: Duration::ZERO,
        max: CENTURY,
        set: |s, ttl| s.cache_ttl = (!ttl.is_zero()).then_some(ttl),
    }
}

pub const ROWS: &[OptionRow] = &[
    OptionRow {
        name: "cache_dir",
        kind: Kind::Paths(|s, paths| s.cache_directories = paths),
        show: Some(|s| {
            if s.cache_directories.is_empty() {
                return "a directory named after the backend under /var/cache/nfs-cachefs"
                    .to_owned();
            }
            let paths: Vec<_> = s
                .cache_directories
                .iter()
                .map(|p| p.to_string_lossy())
                .collect();
            paths.join(":")
        }),
        help: "directories on local disks that hold the cache; several are filled by their sizes, and one that is lost costs its share only",
    },
    OptionRow {
        name: "cache_size",
        kind: Kind::SizeOrPercent(|s, size| s.cache_size = size),
        show: Some(|s| s.cache_size.to_string()),
        help: "the most the cache may take on all its disks together; derived is the smaller of 80 % of the disk and what leaves 5 % of it free",
    },
    OptionRow {
        name: "cache_size_gb",
        kind: size(GIB, 16 * MIB, 1024 * 1024 * TIB, |s, bytes| {
            s.cache_size = CacheSize::Bytes(bytes)
        }),
        show: None,
        help: "cache_size in gigabytes",
    },
    OptionRow {
        name: "block_size",
        kind: block_size(1),
        show: Some(|s| {
            s.block_size_bytes
                .map_or_else(|| "by file size and access pattern".to_owned(), show_size)
        }),
        help: "how much is fetched at least on a miss",
    },
    OptionRow {
        name: "block_size_mb",
        kind: block_size(MIB),
        show: None,
        help: "block_size in megabytes",
    },
    OptionRow {
        name: "max_concurrent",
        kind: Kind::Count {
            min: 1,
            max: 256,
            set: |s, count| s.max_concurrent_fills = count as usize,
        },
        show: Some(|s| s.max_concurrent_fills.to_string()),
        help: "pieces of up to 1 MiB on their way from the backend to the cache at once",
    },
    OptionRow {
        name: "adaptive",
        kind: Kind::Flag(|s, on| s.adaptive = on),
        show: Some(|s| show_flag(s.adaptive)),
        help: "how many pieces are fetched at once, how large they are and how far ahead is found out from what arrives, up to max_concurrent and readahead; off: just these",
    },
    OptionRow {
        name: "eviction",
        kind: Kind::Choice {
            values: &[
                ("s3fifo", |s| s.eviction = EvictionPolicy::S3Fifo),
                ("lru", |s| s.eviction = EvictionPolicy::Lru),
                ("lfu", |s| s.eviction = EvictionPolicy::Lfu),
                ("arc", |s| s.eviction = EvictionPolicy::Arc),
                ("s3-fifo", |s| s.eviction = EvictionPolicy::S3Fifo),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.eviction {
                EvictionPolicy::S3Fifo => "s3fifo",
                EvictionPolicy::Lru => "lru",
                EvictionPolicy::Lfu => "lfu",
                EvictionPolicy::Arc => "arc",
            }
            .to_owned()
        }),
        help: "what goes when the cache is full: s3fifo keeps what is used again through any scan; lru: the least recently used, lfu: the least often used; arc: between the two",
    },
    OptionRow {
        name: "checksum",
        kind: Kind::Choice {
            values: &[
                ("none", |s| s.checksum = ChecksumKind::None),
                ("scrub", |s| s.checksum = ChecksumKind::Scrub),
                ("fill", |s| s.checksum = ChecksumKind::Fill),
                ("read", |s| s.checksum = ChecksumKind::Read),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.checksum {
                ChecksumKind::None => "none",
                ChecksumKind::Scrub => "scrub",
                ChecksumKind::Fill => "fill",
                ChecksumKind::Read => "read",
            }
            .to_owned()
        }),
        help: "checksums of cached blocks: made after the fill and checked in the background (scrub), made during the fill (fill), and checked at every read as well, without passthrough (read)",
    },
    OptionRow {
        name: "scrub_rate",
        kind: size(1, 64 * KIB, TIB, |s, bytes| {
            s.scrub_bytes_per_second = bytes
        }),
        show: Some(|s| show_size(s.scrub_bytes_per_second)),
        help: "the most that is read in a second to check what is cached; has no effect with checksum=none",
    },
    OptionRow {
        name: "scrub_interval",
        kind: Kind::Duration {
            bare_unit: Duration::from_secs(1),
            min: Duration::from_secs(1),
            max: CENTURY,
            set: |s, interval| s.scrub_interval = interval,
        },
        show: Some(|s| show_duration(s.scrub_interval)),
        help: "all that is cached is checked so often; has no effect with checksum=none",
    },
    OptionRow {
        name: "ttl",
        kind: ttl(Duration::from_secs(1)),
        show: Some(|s| s.cache_ttl.map_or_else(|| "0s".to_owned(), show_duration)),
        help: "at an open, cached content first fetched longer ago than this is fetched anew; 0: kept for as long as it is right",
    },
    OptionRow {
        name: "ttl_hours",
        kind: ttl(HOUR),
        show: None,
        help: "ttl in hours",
    },
    OptionRow {
        name: "pin_interval",
        kind: Kind::Duration {
            bare_unit: Duration::from_secs(1),
            min: Duration::from_secs(1),
            max: Duration::from_secs(86_400),
            set: |s, interval| s.pin_interval = interval,
        },
        show: Some(|s| show_duration(s.pin_interval)),
        help: "what is pinned is looked through this often for what is new or changed on the backend, and when anybody meets it",
    },
    OptionRow {
        name: "min_cache_file_size",
        kind: size(1, 0, TIB, |s, bytes| s.min_cache_file_size_bytes = bytes),
        show: Some(|s| show_size(s.min_cache_file_size_bytes)),
        help: "smaller files are read past the cache",
    },
    OptionRow {
        name: "min_cache_file_size_mb",
        kind: size(MIB, 0, TIB, |s, bytes| s.min_cache_file_size_bytes = bytes),
        show: None,
        help: "min_cache_file_size in megabytes",
    },
    OptionRow {
        name: "small_file_size",
        kind: size(1, 0, 64 * MIB, |s, bytes| s.small_file_size_bytes = bytes),
        show: Some(|s| show_size(s.small_file_size_bytes)),
        help: "files up to this size are fetched whole before their open returns, and are served from memory rather than by passthrough",
    },
    OptionRow {
        name: "readahead",
        kind: size(1, 0, GIB, |s, bytes| s.readahead_max_bytes = bytes),
        show: Some(|s| show_size(s.readahead_max_bytes)),
        help: "how far a stream of reads is fetched ahead of at most; 0: nothing is fetched ahead",
    },
    OptionRow {
        name: "readahead_mb",
        kind: size(MIB, 0, GIB, |s, bytes| s.readahead_max_bytes = bytes),
        show: None,
        help: "readahead in megabytes",
    },
];
