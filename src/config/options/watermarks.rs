//! Rows about when the cache gives room back, and how much it writes.

use super::{Kind, OptionRow};
use crate::config::settings::Settings;
use crate::config::units::show_size;

const fn percent(set: fn(&mut Settings, u8)) -> Kind {
    Kind::Percent { max: 99, set }
}

fn show(percent: Option<u8>) -> String {
    percent.map_or_else(|| "by size".to_owned(), |percent| format!("{percent}%"))
}

pub const ROWS: &[OptionRow] = &[
    OptionRow {
        name: "high_watermark",
        kind: percent(|s, percent| s.watermarks.high_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.high_percent)),
        help: "of cache_size: with more in the cache files go; by size: all but a twentieth, 16M at least in a cache that is not tiny",
    },
    OptionRow {
        name: "low_watermark",
        kind: percent(|s, percent| s.watermarks.low_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.low_percent)),
        help: "of cache_size: until so much is left; by size: all but twice that",
    },
    OptionRow {
        name: "brun",
        kind: percent(|s, percent| s.watermarks.run_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.run_percent)),
        help: "of the cache disk's bytes: with so much free no more files go; as in cachefilesd.conf, where one of the three is given the others are 10%, 7% and 3%",
    },
    OptionRow {
        name: "bcull",
        kind: percent(|s, percent| s.watermarks.cull_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.cull_percent)),
        help: "with less free files go",
    },
    OptionRow {
        name: "bstop",
        kind: percent(|s, percent| s.watermarks.stop_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.stop_percent)),
        help: "with less free new data passes by uncached; by size: a 64th of the disk, 1G at most, which is always kept free",
    },
    OptionRow {
        name: "frun",
        kind: percent(|s, percent| s.watermarks.run_inodes_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.run_inodes_percent)),
        help: "brun for the disk's inodes; has no effect where a filesystem does not count them",
    },
    OptionRow {
        name: "fcull",
        kind: percent(|s, percent| s.watermarks.cull_inodes_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.cull_inodes_percent)),
        help: "bcull for inodes",
    },
    OptionRow {
        name: "fstop",
        kind: percent(|s, percent| s.watermarks.stop_inodes_percent = Some(percent)),
        show: Some(|s| show(s.watermarks.stop_inodes_percent)),
        help: "bstop for inodes",
    },
    OptionRow {
        name: "write_limit",
        kind: Kind::SizePerDay(|s, bytes| s.write_limit_bytes = bytes),
        show: Some(|s| {
            let limit = s.write_limit_bytes;
            limit.map_or_else(
                || "0".to_owned(),
                |bytes| format!("{}/day", show_size(bytes)),
            )
        }),
        help: "the most that is written to all cache disks together in a day (UTC), to spare them; after that what is not cached is read past the cache",
    },
];
