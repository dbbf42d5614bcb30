//! Options whose capability does not exist yet: refused by name, so that nobody believes in them.

use super::{Kind, OptionRow};

const fn later(name: &'static str, what: &'static str) -> OptionRow {
    OptionRow {
        name,
        kind: Kind::Later(what),
        show: None,
        help: "",
    }
}

const JOURNAL: &str = "the write journal";
const WRITE_BACK: &str = "write-back";
const TUNING: &str = "tuning by itself";

pub const ROWS: &[OptionRow] = &[
    later("fsync", JOURNAL),
    later("close", JOURNAL),
    later("journal_dir", JOURNAL),
    later("journal_size", JOURNAL),
    later("batch_interval", JOURNAL),
    later("erasure", JOURNAL),
    later("writeback_parallel", WRITE_BACK),
    later("conflicts", WRITE_BACK),
    later("adaptive", TUNING),
    later("transport", "the FUSE ring transport"),
    later("peers", "caches that read from each other"),
    later("encryption", "encrypted cache contents"),
];
