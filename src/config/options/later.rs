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

pub const ROWS: &[OptionRow] = &[
    later("transport", "the FUSE ring transport"),
    later("peers", "caches that read from each other"),
    later("encryption", "encrypted cache contents"),
];
