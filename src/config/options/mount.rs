//! Rows about the mount itself, and the words of mount(8), fstab(5) and systemd.mount(5).

use super::{Kind, OptionRow};
use crate::config::settings::{Access, ConfigFile, LogLevel};

/// A word that the kernel keeps with the mount.
const fn word(
    name: &'static str,
    set: fn(&mut crate::config::Settings),
    help: &'static str,
) -> OptionRow {
    OptionRow {
        name,
        kind: Kind::Word(set),
        show: None,
        help,
    }
}

/// A word that is none of our business.
const fn passed_over(name: &'static str) -> OptionRow {
    OptionRow {
        name,
        kind: Kind::PassedOver,
        show: None,
        help: "",
    }
}

pub const ROWS: &[OptionRow] = &[
    OptionRow {
        name: "allow_other",
        kind: Kind::Flag(|s, on| s.allow_other = Some(on)),
        show: Some(|s| {
            match s.access() {
                None => "on when run by root, else off",
                Some(Access::Everybody) => "on",
                Some(Access::Owner | Access::OwnerAndRoot) => "off",
            }
            .to_owned()
        }),
        help: "every user may use the mount",
    },
    OptionRow {
        name: "allow_root",
        kind: Kind::Flag(|s, on| s.allow_root = Some(on)),
        show: Some(|s| {
            if s.access() == Some(Access::OwnerAndRoot) {
                "on"
            } else {
                "off"
            }
            .to_owned()
        }),
        help: "the user who mounted and root may use the mount",
    },
    OptionRow {
        name: "fuse_threads",
        kind: Kind::Count {
            min: 1,
            max: 64,
            set: |s, count| s.fuse_threads = Some(count as usize),
        },
        show: Some(|s| {
            s.fuse_threads.map_or_else(
                || "by the number of CPUs".to_owned(),
                |count| count.to_string(),
            )
        }),
        help: "threads that read requests from the kernel",
    },
    OptionRow {
        name: "config",
        kind: Kind::PathOrOff(|s, path| {
            s.config = path.map_or(ConfigFile::Off, ConfigFile::At);
        }),
        show: Some(|s| match &s.config {
            ConfigFile::Usual => "/etc/nfs-cachefs.toml when run by root".to_owned(),
            ConfigFile::At(path) => path.to_string_lossy().into_owned(),
            ConfigFile::Off => "off".to_owned(),
        }),
        help: "settings file with a table for all mounts and one for each; what is given here counts more",
    },
    OptionRow {
        name: "name",
        kind: Kind::Text(|s, name| s.name = Some(name)),
        show: Some(|s| {
            s.name
                .clone()
                .unwrap_or_else(|| "the mountpoint".to_owned())
        }),
        help: "what this mount is called by `status`, and in the log when it begins and ends",
    },
    OptionRow {
        name: "log",
        kind: Kind::Choice {
            values: &[
                ("error", |s| s.log = LogLevel::Error),
                ("warn", |s| s.log = LogLevel::Warn),
                ("info", |s| s.log = LogLevel::Info),
                ("debug", |s| s.log = LogLevel::Debug),
                ("trace", |s| s.log = LogLevel::Trace),
            ],
            later: &[],
        },
        show: Some(|s| s.log.to_string()),
        help: "how much is logged",
    },
    OptionRow {
        name: "log_file",
        kind: Kind::Path(|s, path| s.log_file = Some(path)),
        show: Some(|s| {
            s.log_file.as_ref().map_or_else(
                || "stderr with -f, else syslog".to_owned(),
                |path| path.to_string_lossy().into_owned(),
            )
        }),
        help: "where the log is appended",
    },
    OptionRow {
        name: "metrics",
        kind: Kind::Listen(|s, address| s.metrics = address),
        show: Some(|s| {
            s.metrics
                .as_ref()
                .map_or_else(|| "off".to_owned(), ToString::to_string)
        }),
        help: "where Prometheus finds the metrics of this mount, by HTTP as /metrics, and a browser the status page, as / (docs/METRICS.md)",
    },
    word(
        "ro",
        |s| s.mount_flags.read_only = true,
        "a read-only mount; the last of ro and rw counts",
    ),
    word(
        "rw",
        |s| s.mount_flags.read_only = false,
        "a mount that takes changes",
    ),
    word(
        "sync",
        |s| s.mount_flags.sync = true,
        "a write or a changed name is on stable storage before it is answered",
    ),
    word(
        "async",
        |s| s.mount_flags.sync = false,
        "what is written is on stable storage after fsync and close",
    ),
    word(
        "dirsync",
        |s| s.mount_flags.sync_names = true,
        "a changed name is on stable storage before it is answered",
    ),
    word(
        "nosuid",
        |s| s.mount_flags.allow_suid = false,
        "set-user-id bits have no effect",
    ),
    word(
        "suid",
        |s| s.mount_flags.allow_suid = true,
        "set-user-id bits have effect",
    ),
    word(
        "nodev",
        |s| s.mount_flags.allow_devices = false,
        "device nodes cannot be opened",
    ),
    word(
        "dev",
        |s| s.mount_flags.allow_devices = true,
        "device nodes can be opened",
    ),
    word(
        "noexec",
        |s| s.mount_flags.allow_exec = false,
        "programs cannot be run",
    ),
    word(
        "exec",
        |s| s.mount_flags.allow_exec = true,
        "programs can be run",
    ),
    word(
        "noatime",
        |s| s.mount_flags.update_atime = false,
        "access times are left alone",
    ),
    word(
        "atime",
        |s| s.mount_flags.update_atime = true,
        "access times are kept by the backend",
    ),
    word(
        "defaults",
        |s| s.mount_flags = crate::config::Settings::default().mount_flags,
        "rw, suid, dev, exec, atime, async",
    ),
];

pub const PASSED_OVER: &[OptionRow] = &[
    passed_over("_netdev"),
    passed_over("nofail"),
    passed_over("fail"),
    passed_over("auto"),
    passed_over("noauto"),
    passed_over("user"),
    passed_over("nouser"),
    passed_over("users"),
    passed_over("owner"),
    passed_over("group"),
    passed_over("comment"),
    passed_over("relatime"),
    passed_over("norelatime"),
    passed_over("strictatime"),
    passed_over("nostrictatime"),
    passed_over("lazytime"),
    passed_over("nolazytime"),
    passed_over("diratime"),
    passed_over("nodiratime"),
    passed_over("silent"),
    passed_over("loud"),
    passed_over("x-*"),
    passed_over("uhelper"),
    passed_over("helper"),
];
