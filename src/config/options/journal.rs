//! Rows about the journal, and how what is in it gets to the backend.

use super::{Kind, OptionRow};
use crate::config::journal_settings::{CloseMode, ConflictMode, FsyncMode};
use crate::config::units::{KIB, MIB, TIB, show_duration, show_size};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

pub const ROWS: &[OptionRow] = &[
    OptionRow {
        name: "journal_dir",
        kind: Kind::Paths(|s, paths| s.journal.directories = paths),
        show: Some(|s| {
            let paths = s.journal.directories.iter();
            let paths: Vec<_> = paths.map(|path| path.to_string_lossy()).collect();
            match paths.is_empty() {
                true => "none".to_owned(),
                false => paths.join(":"),
            }
        }),
        help: "directories on local disks, each on one of its own, that hold what is not on the backend yet; needed by write_mode=back",
    },
    OptionRow {
        name: "erasure",
        kind: Kind::Erasure(|s, spread| s.journal.erasure = spread),
        show: Some(|s| s.journal.erasure.to_string()),
        help: "how the journal is spread over k+m directories, any m of which may be lost: 1+0 one directory, 1+1 a mirror, 4+2 large writes in four parts with two of parity, small ones in three copies; fixed when the journal is made",
    },
    OptionRow {
        name: "journal_size",
        kind: Kind::Size {
            bare_unit_bytes: 1,
            min_bytes: 64 * MIB,
            max_bytes: TIB,
            power_of_two: false,
            set: |s, bytes| s.journal.size_bytes = bytes,
        },
        show: Some(|s| show_size(s.journal.size_bytes)),
        help: "what the journal takes in each of its directories; when it is full of what the backend does not take, writers wait 30 s at most, then it is ENOSPC",
    },
    OptionRow {
        name: "fsync_mode",
        kind: Kind::Choice {
            values: &[
                ("batch", |s| s.journal.fsync = FsyncMode::Batch),
                ("immediate", |s| s.journal.fsync = FsyncMode::Immediate),
                ("periodic", |s| s.journal.fsync = FsyncMode::Periodic),
                ("none", |s| s.journal.fsync = FsyncMode::None),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.journal.fsync {
                FsyncMode::Batch => "batch",
                FsyncMode::Immediate => "immediate",
                FsyncMode::Periodic => "periodic",
                FsyncMode::None => "none",
            }
            .to_owned()
        }),
        help: "what fsync waits for in the journal: batch: a sync shared by those who come together; immediate: a sync that begins at once; periodic: nothing, all is synced each batch_interval; none: nothing, and nothing is synced",
    },
    OptionRow {
        name: "batch_interval",
        kind: Kind::Duration {
            bare_unit: Duration::from_millis(1),
            min: Duration::from_millis(1),
            max: Duration::from_secs(60),
            set: |s, interval| s.journal.interval = interval,
        },
        show: Some(|s| show_duration(s.journal.interval)),
        help: "what was written and nobody waits for is in the journal's files after this",
    },
    OptionRow {
        name: "writeback_delay",
        kind: Kind::Duration {
            bare_unit: Duration::from_secs(1),
            min: Duration::ZERO,
            max: HOUR,
            set: |s, delay| s.journal.writeback_delay = delay,
        },
        show: Some(|s| show_duration(s.journal.writeback_delay)),
        help: "a changed file waits this long for more changes before it is sent to the backend",
    },
    OptionRow {
        name: "writeback_parallel",
        kind: Kind::Count {
            min: 1,
            max: 64,
            set: |s, count| s.journal.writeback_parallel = count as usize,
        },
        show: Some(|s| s.journal.writeback_parallel.to_string()),
        help: "files on their way from the journal to the backend at once",
    },
    OptionRow {
        name: "writeback_rate",
        kind: Kind::Size {
            bare_unit_bytes: 1,
            min_bytes: 64 * KIB,
            max_bytes: TIB,
            power_of_two: false,
            set: |s, bytes| s.journal.writeback_bytes_per_second = Some(bytes),
        },
        show: Some(|s| {
            let rate = s.journal.writeback_bytes_per_second;
            rate.map_or_else(|| "none".to_owned(), show_size)
        }),
        help: "the most that is sent from the journal to the backend in a second, while nobody waits for it",
    },
    OptionRow {
        name: "dirty_limit",
        kind: Kind::Size {
            bare_unit_bytes: 1,
            min_bytes: 16 * MIB,
            max_bytes: TIB,
            power_of_two: false,
            set: |s, bytes| s.journal.dirty_limit_bytes = Some(bytes),
        },
        show: Some(|s| {
            let limit = s.journal.dirty_limit_bytes;
            limit.map_or_else(|| "half of journal_size".to_owned(), show_size)
        }),
        help: "no more than this is taken that the backend does not have: from half of it on writers are slowed down, at the limit they wait 30 s at most, then it is ENOSPC",
    },
    OptionRow {
        name: "close",
        kind: Kind::Choice {
            values: &[
                ("returns", |s| s.journal.close = CloseMode::Nothing),
                ("durable", |s| s.journal.close = CloseMode::Durable),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.journal.close {
                CloseMode::Nothing => "returns",
                CloseMode::Durable => "durable",
            }
            .to_owned()
        }),
        help: "what close of a file that was written waits for with write_mode=back: returns: nothing; durable: as fsync",
    },
    OptionRow {
        name: "conflict",
        kind: Kind::Choice {
            values: &[
                ("keep-both", |s| s.journal.conflict = ConflictMode::KeepBoth),
                ("ours", |s| s.journal.conflict = ConflictMode::Ours),
                ("theirs", |s| s.journal.conflict = ConflictMode::Theirs),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.journal.conflict {
                ConflictMode::KeepBoth => "keep-both",
                ConflictMode::Ours => "ours",
                ConflictMode::Theirs => "theirs",
            }
            .to_owned()
        }),
        help: "a file that somebody else has changed before what was written here came to the backend: keep-both: ours goes beside theirs, see `nfs-cachefs conflicts`; ours: written over theirs where all of the file was written here, else as keep-both; theirs: ours is given up",
    },
];
