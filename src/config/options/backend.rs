//! Rows about the backend: where it is, how long it may take and how long it is believed.

use super::{Kind, OptionRow};
use crate::config::settings::{Identity, KeepWritten, LockPlace, LookupCache, Settings, WriteMode};
use crate::config::units::show_duration;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const fn duration(min: Duration, max: Duration, set: fn(&mut Settings, Duration)) -> Kind {
    Kind::Duration {
        bare_unit: SECOND,
        min,
        max,
        set,
    }
}

fn set_all_timeouts(settings: &mut Settings, timeout: Duration) {
    settings.attributes.file_min = timeout;
    settings.attributes.file_max = timeout;
    settings.attributes.directory_min = timeout;
    settings.attributes.directory_max = timeout;
}

pub const ROWS: &[OptionRow] = &[
    OptionRow {
        name: "write_mode",
        kind: Kind::Choice {
            values: &[
                ("through", |s| s.write_mode = WriteMode::Through),
                ("back", |s| s.write_mode = WriteMode::Back),
            ],
            later: &[],
        },
        show: Some(|s| match s.write_mode {
            WriteMode::Through => "through".to_owned(),
            WriteMode::Back => "back".to_owned(),
        }),
        help: "when a change of bytes is on the backend: through: before it is answered, and on stable storage there after fsync or close; back: later, and on stable storage of journal_dir after fsync",
    },
    OptionRow {
        name: "locks",
        kind: Kind::Choice {
            values: &[
                ("backend", |s| s.locks = LockPlace::Backend),
                ("local", |s| s.locks = LockPlace::Local),
            ],
            later: &[],
        },
        show: Some(|s| match s.locks {
            LockPlace::Backend => "backend".to_owned(),
            LockPlace::Local => "local".to_owned(),
        }),
        help: "where flock and fcntl locks are taken: on the backend, where its other clients see them, or among the programs of this mount only",
    },
    OptionRow {
        name: "keep_written",
        kind: Kind::Choice {
            values: &[
                ("proven", |s| s.keep_written = KeepWritten::Proven),
                ("always", |s| s.keep_written = KeepWritten::Always),
                ("never", |s| s.keep_written = KeepWritten::Never),
            ],
            later: &[],
        },
        show: Some(|s| match s.keep_written {
            KeepWritten::Proven => "proven".to_owned(),
            KeepWritten::Always => "always".to_owned(),
            KeepWritten::Never => "never".to_owned(),
        }),
        help: "which files stay cached while they are written to: those that provably nobody else has open (local backends), all (where no other machine writes to a file that is being written here), or none",
    },
    OptionRow {
        name: "identity",
        kind: Kind::Choice {
            values: &[
                ("caller", |s| s.identity = Identity::Caller),
                ("daemon", |s| s.identity = Identity::Daemon),
            ],
            later: &[],
        },
        show: Some(|s| match s.identity {
            Identity::Caller => "caller".to_owned(),
            Identity::Daemon => "daemon".to_owned(),
        }),
        help: "as whom the backend is asked: as whoever asks here, so that what it refuses them is refused, or as the daemon's own user, and the kernel's checks of mode bits have to do",
    },
    OptionRow {
        name: "nfs_backend",
        kind: Kind::Path(|s, path| s.backend = Some(path)),
        show: Some(|s| {
            s.backend.as_ref().map_or_else(
                || "the source of the mount".to_owned(),
                |path| path.to_string_lossy().into_owned(),
            )
        }),
        help: "the directory being cached",
    },
    OptionRow {
        name: "backend_timeout",
        kind: duration(Duration::from_millis(100), HOUR, |s, timeout| {
            s.backend_timeout = timeout
        }),
        show: Some(|s| show_duration(s.backend_timeout)),
        help: "a call on the backend that takes longer is an error (ETIMEDOUT)",
    },
    OptionRow {
        name: "revalidate_timeout",
        kind: duration(Duration::ZERO, HOUR, |s, timeout| {
            s.revalidate_timeout = timeout
        }),
        show: Some(|s| show_duration(s.revalidate_timeout)),
        help: "what is known is answered after this long when the backend has not answered",
    },
    OptionRow {
        name: "stale",
        kind: Kind::DurationOrOff {
            max: Duration::from_secs(3650 * 86_400),
            set: |s, stale| s.stale = stale,
        },
        show: Some(|s| match s.stale.is_zero() {
            true => "off".to_owned(),
            false => show_duration(s.stale),
        }),
        help: "for how long what is known stands in for a backend that is away, restarts included; EIO after that",
    },
    OptionRow {
        name: "softreval",
        kind: Kind::Word(|s| s.stale = Settings::default().stale),
        show: None,
        help: "the word of nfs(5) for the default of stale",
    },
    OptionRow {
        name: "nosoftreval",
        kind: Kind::Word(|s| s.stale = Duration::ZERO),
        show: None,
        help: "the word of nfs(5) for stale=off",
    },
    OptionRow {
        name: "clock_skew",
        kind: duration(Duration::ZERO, DAY, |s, skew| s.clock_skew = skew),
        show: Some(|s| show_duration(s.clock_skew)),
        help: "how far the server's clock and this machine's may differ; a file that may have changed just now by that reckoning is fetched 20 ms later (2 s where the server keeps whole seconds)",
    },
    OptionRow {
        name: "actimeo",
        kind: duration(Duration::ZERO, DAY, set_all_timeouts),
        show: None,
        help: "sets acregmin, acregmax, acdirmin and acdirmax",
    },
    OptionRow {
        name: "acregmin",
        kind: duration(Duration::ZERO, DAY, |s, timeout| {
            s.attributes.file_min = timeout
        }),
        show: Some(|s| show_duration(s.attributes.file_min)),
        help: "attributes of a file are believed at least this long",
    },
    OptionRow {
        name: "acregmax",
        kind: duration(Duration::ZERO, DAY, |s, timeout| {
            s.attributes.file_max = timeout
        }),
        show: Some(|s| show_duration(s.attributes.file_max)),
        help: "attributes of a file are believed at most this long",
    },
    OptionRow {
        name: "acdirmin",
        kind: duration(Duration::ZERO, DAY, |s, timeout| {
            s.attributes.directory_min = timeout
        }),
        show: Some(|s| show_duration(s.attributes.directory_min)),
        help: "attributes and names of a directory are believed at least this long",
    },
    OptionRow {
        name: "acdirmax",
        kind: duration(Duration::ZERO, DAY, |s, timeout| {
            s.attributes.directory_max = timeout
        }),
        show: Some(|s| show_duration(s.attributes.directory_max)),
        help: "attributes and names of a directory are believed at most this long",
    },
    OptionRow {
        name: "ac",
        kind: Kind::Word(|s| s.attributes = Settings::default().attributes),
        show: None,
        help: "the default timeouts again",
    },
    OptionRow {
        name: "noac",
        kind: Kind::Word(|s| set_all_timeouts(s, Duration::ZERO)),
        show: None,
        help: "actimeo=0",
    },
    OptionRow {
        name: "cto",
        kind: Kind::Word(|s| s.attributes.close_to_open = true),
        show: Some(|s| {
            if s.attributes.close_to_open {
                "on"
            } else {
                "off"
            }
            .to_owned()
        }),
        help: "every open asks the backend whether the file is still the same",
    },
    OptionRow {
        name: "nocto",
        kind: Kind::Word(|s| s.attributes.close_to_open = false),
        show: None,
        help: "an open believes attributes that are within their timeout",
    },
    OptionRow {
        name: "lookupcache",
        kind: Kind::Choice {
            values: &[
                ("all", |s| s.lookup_cache = LookupCache::All),
                ("positive", |s| s.lookup_cache = LookupCache::Positive),
                ("pos", |s| s.lookup_cache = LookupCache::Positive),
                ("none", |s| s.lookup_cache = LookupCache::None),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.lookup_cache {
                LookupCache::All => "all",
                LookupCache::Positive => "positive",
                LookupCache::None => "none",
            }
            .to_owned()
        }),
        help: "which names are remembered: those that exist and those that do not, the former only, or none",
    },
];
