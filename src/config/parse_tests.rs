use super::*;
use crate::config::options::Kind;
use crate::config::units::{GIB, KIB, MIB};
use crate::config::{
    Access, CacheSize, ConfigFile, EngineChoice, EvictionPolicy, FreePercent, FsyncMode, LogLevel,
    LookupCache, PassthroughChoice, options_markdown,
};
use crate::config::{
    ChecksumKind, CloseMode, ConflictMode, Identity, KeepWritten, LockPlace, MetricsAddress,
    WriteMode,
};
use std::path::PathBuf;
use std::time::Duration;

fn parse(list: &str) -> Result<Settings, ConfigError> {
    parse_options(&[list], Tolerance::Strict)
}

fn good(list: &str) -> Settings {
    parse(list).unwrap_or_else(|error| panic!("{list}: {error}"))
}

fn free_percent(run: u8, cull: u8, stop: u8) -> FreePercent {
    FreePercent { run, cull, stop }
}

fn error_text(list: &str) -> String {
    parse(list).expect_err(list).to_string()
}

#[test]
fn every_option_sets_what_it_names() {
    type Check = fn(&Settings) -> bool;
    let cases: &[(&str, Check)] = &[
        ("nfs_backend=/mnt/nfs", |s| {
            s.backend == Some(PathBuf::from("/mnt/nfs"))
        }),
        ("cache_dir=/a:/b:/c", |s| s.cache_directories.len() == 3),
        (r"cache_dir=/a\:b", |s| {
            s.cache_directories == [PathBuf::from("/a:b")]
        }),
        ("cache_size=200G", |s| {
            s.cache_size == CacheSize::Bytes(200 * GIB)
        }),
        ("cache_size=80%", |s| {
            s.cache_size == CacheSize::PercentOfDisk(80)
        }),
        ("cache_size_gb=5", |s| {
            s.cache_size == CacheSize::Bytes(5 * GIB)
        }),
        ("block_size=64K", |s| s.block_size_bytes == Some(64 * KIB)),
        ("block_size_mb=4", |s| s.block_size_bytes == Some(4 * MIB)),
        ("max_concurrent=3", |s| s.max_concurrent_fills == 3),
        ("adaptive=off", |s| !s.adaptive),
        ("adaptive", |s| *s == Settings::default()),
        ("eviction=s3fifo", |s| *s == Settings::default()),
        ("eviction=lru", |s| s.eviction == EvictionPolicy::Lru),
        ("eviction=lfu", |s| s.eviction == EvictionPolicy::Lfu),
        ("eviction=arc", |s| s.eviction == EvictionPolicy::Arc),
        ("eviction=lru,eviction=s3-fifo", |s| {
            *s == Settings::default()
        }),
        ("high_watermark=80,low_watermark=50%", |s| {
            s.watermarks.held() == Some((80, 50))
        }),
        ("low_watermark=80", |s| {
            s.watermarks.held() == Some((95, 80))
        }),
        ("high_watermark=80", |s| {
            s.watermarks.held() == Some((80, 75))
        }),
        ("brun=20%", |s| {
            s.watermarks.free_bytes() == Some(free_percent(20, 7, 3))
        }),
        ("bcull=6,bstop=2", |s| {
            s.watermarks.free_bytes() == Some(free_percent(10, 6, 2))
        }),
        ("frun=30,fcull=20,fstop=10", |s| {
            let is_bytes = s.watermarks.free_bytes().is_some();
            s.watermarks.free_inodes() == Some(free_percent(30, 20, 10)) && !is_bytes
        }),
        ("write_limit=200G/day", |s| {
            s.write_limit_bytes == Some(200 * GIB)
        }),
        ("write_limit=0", |s| *s == Settings::default()),
        ("checksum=none", |s| *s == Settings::default()),
        ("checksum=scrub", |s| s.checksum == ChecksumKind::Scrub),
        ("checksum=fill", |s| s.checksum == ChecksumKind::Fill),
        ("checksum=read", |s| s.checksum == ChecksumKind::Read),
        ("scrub_rate=100M", |s| s.scrub_bytes_per_second == 100 * MIB),
        ("scrub_interval=1d", |s| {
            s.scrub_interval == Duration::from_secs(86_400)
        }),
        ("ttl=90m", |s| {
            s.cache_ttl == Some(Duration::from_secs(5400))
        }),
        ("ttl=0", |s| s.cache_ttl.is_none()),
        ("pin_interval=10m", |s| {
            s.pin_interval == Duration::from_secs(600)
        }),
        ("ttl_hours=24", |s| {
            s.cache_ttl == Some(Duration::from_secs(86_400))
        }),
        ("direct_io", |s| s.direct_io),
        ("direct_io=yes,direct_io=off", |s| !s.direct_io),
        ("readahead=8M", |s| s.readahead_max_bytes == 8 * MIB),
        ("readahead_mb=4", |s| s.readahead_max_bytes == 4 * MIB),
        ("min_cache_file_size=4096", |s| {
            s.min_cache_file_size_bytes == 4096
        }),
        ("min_cache_file_size_mb=2", |s| {
            s.min_cache_file_size_bytes == 2 * MIB
        }),
        ("small_file_size=64K", |s| {
            s.small_file_size_bytes == 64 * KIB
        }),
        ("allow_other", |s| s.access() == Some(Access::Everybody)),
        ("allow_other=0", |s| s.access() == Some(Access::Owner)),
        ("allow_root", |s| s.access() == Some(Access::OwnerAndRoot)),
        ("ro", |s| s.mount_flags.read_only),
        ("ro,rw", |s| !s.mount_flags.read_only),
        ("rw,ro", |s| s.mount_flags.read_only),
        ("nosuid", |s| !s.mount_flags.allow_suid),
        ("nosuid,suid", |s| s.mount_flags.allow_suid),
        ("nodev", |s| !s.mount_flags.allow_devices),
        ("nodev,dev", |s| s.mount_flags.allow_devices),
        ("noexec", |s| !s.mount_flags.allow_exec),
        ("noexec,exec", |s| s.mount_flags.allow_exec),
        ("noatime", |s| !s.mount_flags.update_atime),
        ("noatime,atime", |s| s.mount_flags.update_atime),
        ("sync", |s| s.mount_flags.sync),
        ("sync,async", |s| !s.mount_flags.sync),
        ("dirsync", |s| s.mount_flags.sync_names),
        ("write_mode=through", |s| s.write_mode == WriteMode::Through),
        ("write_mode=back", |s| s.write_mode == WriteMode::Back),
        ("journal_dir=/j", |s| {
            s.journal.directories == [PathBuf::from("/j")]
        }),
        ("journal_dir=/j:/k,erasure=1+1", |s| {
            s.journal.directories.len() == 2 && s.journal.erasure.to_string() == "1+1"
        }),
        ("journal_size=2G", |s| s.journal.size_bytes == 2 * GIB),
        ("fsync_mode=periodic", |s| {
            s.journal.fsync == FsyncMode::Periodic
        }),
        ("batch_interval=5", |s| {
            s.journal.interval == Duration::from_millis(5)
        }),
        ("writeback_delay=3", |s| {
            s.journal.writeback_delay == Duration::from_secs(3)
        }),
        ("writeback_parallel=2", |s| {
            s.journal.writeback_parallel == 2
        }),
        ("writeback_rate=10M", |s| {
            s.journal.writeback_bytes_per_second == Some(10 * MIB)
        }),
        ("dirty_limit=64M", |s| {
            s.journal.dirty_limit_bytes == Some(64 * MIB)
        }),
        ("close=durable", |s| s.journal.close == CloseMode::Durable),
        ("conflict=theirs", |s| {
            s.journal.conflict == ConflictMode::Theirs
        }),
        ("locks=local", |s| s.locks == LockPlace::Local),
        ("keep_written=always", |s| {
            s.keep_written == KeepWritten::Always
        }),
        ("config=/etc/x.toml", |s| {
            s.config == ConfigFile::At(PathBuf::from("/etc/x.toml"))
        }),
        ("config=off", |s| s.config == ConfigFile::Off),
        ("metrics=127.0.0.1:9119", |s| {
            let address = s.metrics.as_ref().map(ToString::to_string);
            address.as_deref() == Some("127.0.0.1:9119")
        }),
        ("metrics=[::1]:9119", |s| {
            matches!(s.metrics, Some(MetricsAddress::Tcp(_)))
        }),
        ("metrics=unix:/run/x.sock", |s| {
            s.metrics == Some(MetricsAddress::Unix(PathBuf::from("/run/x.sock")))
        }),
        ("metrics=[::1]:9119,metrics=off", |s| {
            *s == Settings::default()
        }),
        ("identity=daemon", |s| s.identity == Identity::Daemon),
        ("ro,nosuid,defaults", |s| {
            s.mount_flags == Settings::default().mount_flags
        }),
        ("nvme_use_io_uring=0", |s| {
            s.io.engine == EngineChoice::Blocking
        }),
        ("nvme_use_io_uring", |s| s.io.engine == EngineChoice::Auto),
        ("nvme_queue_depth=64", |s| s.io.queue_depth == 64),
        ("nvme_polling_mode=true", |s| s.io.polling),
        ("nvme_fixed_buffers=no", |s| !s.io.fixed_buffers),
        ("nvme_sq_poll_idle_ms=50", |s| {
            s.io.submission_polling_idle == Some(Duration::from_millis(50))
        }),
        ("nvme_use_hugepages=on", |s| s.io.huge_pages),
        ("nvme_numa_aware=1", |s| s.io.numa_aware),
        ("io_engine=uring", |s| s.io.engine == EngineChoice::Uring),
        ("passthrough=off", |s| {
            s.passthrough == PassthroughChoice::Off
        }),
        ("actimeo=7", |s| {
            let a = s.attributes;
            [a.file_min, a.file_max, a.directory_min, a.directory_max]
                == [Duration::from_secs(7); 4]
        }),
        ("acregmin=1", |s| {
            s.attributes.file_min == Duration::from_secs(1)
        }),
        ("acregmax=2m", |s| {
            s.attributes.file_max == Duration::from_secs(120)
        }),
        ("acdirmin=500ms", |s| {
            s.attributes.directory_min == Duration::from_millis(500)
        }),
        ("acdirmax=31", |s| {
            s.attributes.directory_max == Duration::from_secs(31)
        }),
        ("noac", |s| {
            s.attributes.directory_max.is_zero() && s.attributes.file_max.is_zero()
        }),
        ("noac,ac", |s| {
            s.attributes == Settings::default().attributes
        }),
        ("nosoftreval", |s| s.stale.is_zero()),
        ("nosoftreval,softreval", |s| *s == Settings::default()),
        ("nocto", |s| !s.attributes.close_to_open),
        ("nocto,cto", |s| s.attributes.close_to_open),
        ("lookupcache=pos", |s| {
            s.lookup_cache == LookupCache::Positive
        }),
        ("backend_timeout=5", |s| {
            s.backend_timeout == Duration::from_secs(5)
        }),
        ("revalidate_timeout=0", |s| s.revalidate_timeout.is_zero()),
        ("stale=1h", |s| s.stale == Duration::from_secs(3600)),
        ("stale=off", |s| s.stale.is_zero()),
        ("clock_skew=2s", |s| s.clock_skew == Duration::from_secs(2)),
        ("fuse_threads=4", |s| s.fuse_threads == Some(4)),
        ("log=debug", |s| s.log == LogLevel::Debug),
        ("log_file=/var/log/x", |s| {
            s.log_file == Some(PathBuf::from("/var/log/x"))
        }),
        ("name=models", |s| s.name.as_deref() == Some("models")),
    ];
    for (list, check) in cases {
        assert!(check(&good(list)), "{list}");
    }
    let accepted =
        options::all().filter(|row| !matches!(row.kind, Kind::Later(_) | Kind::PassedOver));
    for row in accepted {
        let tried = cases.iter().any(|(list, _)| {
            list.split(',')
                .any(|word| word.split('=').next() == Some(row.name))
        });
        assert!(tried, "no case sets {}", row.name);
    }
}

#[test]
fn every_option_with_a_value_refuses_a_bad_one_by_name() {
    for row in options::all() {
        let (list, wanted) = match row.kind {
            Kind::Later(_) => (format!("{}=x", row.name), "not yet"),
            Kind::PassedOver => continue,
            Kind::Word(_) => (format!("{}=1", row.name), "takes no value"),
            Kind::Text(_) => (format!("{}=\u{1}", row.name), "expected"),
            _ => (format!("{}=?!", row.name), "expected"),
        };
        let text = error_text(&list);
        assert!(
            text.contains(row.name) && text.contains(wanted),
            "{list}: {text}"
        );
        if !matches!(row.kind, Kind::Word(_) | Kind::Flag(_) | Kind::Later(_)) {
            assert!(
                error_text(row.name).contains("needs a value"),
                "{}",
                row.name
            );
        }
    }
}

#[test]
fn values_out_of_bounds_name_the_bounds() {
    for (list, wanted) in [
        ("block_size=8K", "16K to 4M"),
        ("block_size=8M", "16K to 4M"),
        ("block_size=48K", "power of two"),
        ("cache_size=0%", "95%"),
        ("cache_size=96%", "95%"),
        ("cache_size=1M", "at least 16M"),
        ("max_concurrent=0", "from 1 to 256"),
        ("max_concurrent=-1", "from 1 to 256"),
        ("nvme_queue_depth=5000", "4096"),
        ("backend_timeout=0", "from 100ms"),
        ("cache_dir=relative", "absolute"),
        ("cache_dir=/a::/b", "absolute"),
        ("io_engine=aio", "auto|uring|blocking"),
        ("checksum=crc64", "none|scrub|fill|read"),
        ("scrub_rate=1K", "from 64K"),
    ] {
        let text = error_text(list);
        assert!(text.contains(wanted), "{list}: {text}");
    }
}

#[test]
fn contradictions_say_what_to_do() {
    for (list, first, second) in [
        ("acregmin=70", "acregmin", "acregmax"),
        ("allow_other,allow_root", "allow_other", "allow_root"),
        ("acdirmin=2m", "acdirmin", "acdirmax"),
        ("block_size=4M,cache_size=2M", "block_size", "cache_size"),
        ("dirty_limit=2G", "dirty_limit", "journal_size"),
        (
            "revalidate_timeout=1m",
            "revalidate_timeout",
            "backend_timeout",
        ),
        (
            "io_engine=uring,nvme_use_io_uring=0",
            "nvme_use_io_uring",
            "io_engine",
        ),
        (
            "io_engine=blocking,nvme_polling_mode",
            "nvme_polling_mode",
            "io_engine",
        ),
        (
            "nvme_use_io_uring=0,nvme_sq_poll_idle_ms=5",
            "nvme_sq_poll_idle_ms",
            "nvme_use_io_uring",
        ),
    ] {
        let text = error_text(list);
        assert!(
            text.contains(first) && text.contains(second),
            "{list}: {text}"
        );
    }
}

#[test]
fn a_word_of_nfs_is_told_where_it_belongs() {
    for list in ["vers=4.2", "hard", "sec=krb5", "xprtsec=tls", "bg"] {
        let text = error_text(list);
        assert!(text.contains("nfs(5)"), "{text}");
    }
}

#[test]
fn an_unknown_option_is_refused_with_the_nearest_name() {
    assert!(error_text("cache_szie=1G").contains("'cache_size'"));
    assert!(error_text("nvme_queue_dept=1").contains("'nvme_queue_depth'"));
    assert!(error_text("wrte_mode=back").contains("'write_mode'"));
    assert!(error_text("qqqqqq").contains("lists all of them"));
    let sloppy = parse_options(&["qqqqqq,ro,cache_szie=1"], Tolerance::Sloppy);
    assert!(sloppy.is_ok_and(|s| s.mount_flags.read_only));
    assert!(parse_options(&["log=loud"], Tolerance::Sloppy).is_err());
}

#[test]
fn a_capability_of_a_later_version_is_refused_by_name() {
    for list in ["encryption=on", "peers=a"] {
        let text = error_text(list);
        assert!(
            text.contains("not yet") && text.contains(list.split('=').next().unwrap()),
            "{text}"
        );
    }
}

#[test]
fn words_of_mount_and_fstab_pass() {
    let list = "_netdev,nofail,auto,noauto,user,users,x-systemd.automount,x-initrd.mount,comment=a b,relatime,X-mount.mkdir=0755";
    assert_eq!(good(list), Settings::default());
}

#[test]
fn quoted_and_escaped_commas_belong_to_the_value() {
    assert_eq!(
        good(r#"cache_dir="/a,b:/c",ro"#).cache_directories,
        [PathBuf::from("/a,b"), PathBuf::from("/c")]
    );
    assert_eq!(good(r"name=a\,b").name.as_deref(), Some("a,b"));
    assert!(good(",,ro,").mount_flags.read_only);
    assert!(error_text(r#"name="open"#).contains("quotation"));
}

#[test]
fn lists_are_read_in_order_and_non_utf8_paths_survive() {
    let settings = parse_options(&["ro,log=debug", "rw"], Tolerance::Strict).expect("two lists");
    assert!(!settings.mount_flags.read_only && settings.log == LogLevel::Debug);
    let raw = OsString::from_vec(b"nfs_backend=/mnt/\xff".to_vec());
    let settings = parse_options(&[raw], Tolerance::Strict).expect("bytes");
    assert_eq!(
        settings.backend,
        Some(PathBuf::from(OsStr::from_bytes(b"/mnt/\xff")))
    );
}

#[test]
fn no_name_stands_twice_in_the_table() {
    let mut names: Vec<&str> = options::all().map(|row| row.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_readme_shows_the_option_table() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))
        .expect("README.md");
    let shown = readme
        .split("<!-- options:begin -->\n")
        .nth(1)
        .and_then(|rest| rest.split("<!-- options:end -->").next())
        .expect("the README has the option markers");
    assert!(
        shown.trim() == options_markdown().trim(),
        "run `nfs-cachefs options` and paste its output"
    );
}
