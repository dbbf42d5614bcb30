//! Rows about how local disks are read and written, and how the kernel reads cached files.

use super::{Kind, OptionRow};
use crate::config::settings::{EngineChoice, PassthroughChoice};
use std::time::Duration;

pub(super) fn show_flag(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

pub const ROWS: &[OptionRow] = &[
    OptionRow {
        name: "io_engine",
        kind: Kind::Choice {
            values: &[
                ("auto", |s| s.io.engine = EngineChoice::Auto),
                ("uring", |s| s.io.engine = EngineChoice::Uring),
                ("blocking", |s| s.io.engine = EngineChoice::Blocking),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.io.engine {
                EngineChoice::Auto => "auto",
                EngineChoice::Uring => "uring",
                EngineChoice::Blocking => "blocking",
            }
            .to_owned()
        }),
        help: "how cache disks are read: io_uring or a pool of threads; auto takes io_uring where it works, uring refuses to start without it",
    },
    OptionRow {
        name: "passthrough",
        kind: Kind::Choice {
            values: &[
                ("auto", |s| s.passthrough = PassthroughChoice::Auto),
                ("off", |s| s.passthrough = PassthroughChoice::Off),
            ],
            later: &[],
        },
        show: Some(|s| {
            match s.passthrough {
                PassthroughChoice::Auto => "auto",
                PassthroughChoice::Off => "off",
            }
            .to_owned()
        }),
        help: "the kernel reads complete files straight from the cache disk, where it can (Linux 6.9, CAP_SYS_ADMIN)",
    },
    OptionRow {
        name: "direct_io",
        kind: Kind::Flag(|s, on| s.direct_io = on),
        show: Some(|s| show_flag(s.direct_io)),
        help: "reads bypass the kernel's page cache",
    },
    OptionRow {
        name: "nvme_use_io_uring",
        kind: Kind::Flag(|s, on| s.io.nvme_use_io_uring = Some(on)),
        show: None,
        help: "0 is io_engine=blocking, 1 is io_engine=auto",
    },
    OptionRow {
        name: "nvme_queue_depth",
        kind: Kind::Count {
            min: 1,
            max: 4096,
            set: |s, count| s.io.queue_depth = count as u32,
        },
        show: Some(|s| s.io.queue_depth.to_string()),
        help: "reads on their way from one cache disk at once",
    },
    OptionRow {
        name: "nvme_polling_mode",
        kind: Kind::Flag(|s, on| s.io.polling = on),
        show: Some(|s| show_flag(s.io.polling)),
        help: "completions of direct reads are polled for (IOPOLL): lower latency for CPU time, where the disk has polling queues",
    },
    OptionRow {
        name: "nvme_fixed_buffers",
        kind: Kind::Flag(|s, on| s.io.fixed_buffers = on),
        show: Some(|s| show_flag(s.io.fixed_buffers)),
        help: "read buffers are registered with the kernel once instead of being mapped for each read",
    },
    OptionRow {
        name: "nvme_sq_poll_idle_ms",
        kind: Kind::Duration {
            bare_unit: Duration::from_millis(1),
            min: Duration::ZERO,
            max: Duration::from_secs(60),
            set: |s, idle| s.io.submission_polling_idle = (!idle.is_zero()).then_some(idle),
        },
        show: Some(|s| {
            s.io.submission_polling_idle
                .map_or(0, |idle| idle.as_millis())
                .to_string()
        }),
        help: "a kernel thread takes submissions without system calls (SQPOLL) and sleeps after this idle time; 0: no such thread",
    },
    OptionRow {
        name: "nvme_use_hugepages",
        kind: Kind::Flag(|s, on| s.io.huge_pages = on),
        show: Some(|s| show_flag(s.io.huge_pages)),
        help: "read buffers lie in huge pages",
    },
    OptionRow {
        name: "nvme_numa_aware",
        kind: Kind::Flag(|s, on| s.io.numa_aware = on),
        show: Some(|s| show_flag(s.io.numa_aware)),
        help: "threads that serve a cache disk run on the CPUs of the disk's memory node",
    },
];
