use super::*;
use crate::daemon::device_status::DeviceStatus;
use crate::daemon::mount_table::parse;
use crate::daemon::status::{CacheDirectoryStatus, OptionStatus};

fn told(advice: &[Advice]) -> String {
    advice.iter().map(Advice::in_words).collect()
}

#[test]
fn a_mount_that_is_well_needs_no_advice_and_each_trouble_has_its_remedy() {
    let mut status = Status {
        mountpoint: "/mnt/c".to_owned(),
        ..Status::default()
    };
    status.backend.reachable = true;
    assert_eq!(of_status(&status), []);
    status.backend.latency_p50_us = 20_000;
    assert_eq!(of_status(&status), [], "one call tells nothing");
    status.backend.ops = CALLS_MIN;
    status.scrub.bad_blocks = 2;
    status.writeback.conflicts = 1;
    status.writeback.failing_files = 3;
    status.journal.state = "no such disk".to_owned();
    status.journal.weak_batches = 4;
    status.journal.lost_batches = 2;
    status.journal.devices = vec![DeviceStatus {
        path: "/disk/j1".to_owned(),
        state: "it is empty".to_owned(),
    }];
    status.cache.hit_bytes = 1 << 30;
    status.cache.miss_bytes = 3 << 30;
    status.cache.objects_evicted = 9;
    status.cache.directories = vec![CacheDirectoryStatus {
        path: "/nvme".to_owned(),
        state: "out of use".to_owned(),
        ..CacheDirectoryStatus::default()
    }];
    status.options = vec![OptionStatus {
        name: "passthrough".to_owned(),
        value: "auto".to_owned(),
        from: "/etc/fstab".to_owned(),
        no_effect_because: Some("Linux 6.9 is needed".to_owned()),
    }];
    let text = told(&of_status(&status));
    for wanted in [
        "takes 20 ms",
        "nocto",
        "smartctl",
        "nfs-cachefs conflicts /mnt/c",
        "nfs-cachefs flush /mnt/c",
        "takes nothing any more: no such disk",
        "goes without /disk/j1: it is empty",
        "journal replace /mnt/c /disk/j1 NEW",
        "2 batches of the journal have lost",
        "journal scrub /mnt/c",
        "25 % of the bytes",
        "cache directory /nvme: out of use",
        "then unmount and mount again",
        "leave it out (/etc/fstab)",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
    status.backend.reachable = false;
    assert!(told(&of_status(&status)).contains("does not answer"));
}

#[test]
fn a_disk_without_room_is_told_of_before_and_after_it_is_full() {
    let mut status = Status::default();
    status.backend.reachable = true;
    status.cache.bytes_limit = 150 << 20;
    status.cache.directories = vec![CacheDirectoryStatus {
        path: "/nvme".to_owned(),
        state: "ok".to_owned(),
        bytes_used: 3 << 20,
        disk_bytes_available: 90 << 20,
        ..CacheDirectoryStatus::default()
    }];
    assert_eq!(of_status(&status), []);
    status.cache.directories[0].disk_bytes_available = 2 << 20;
    let text = told(&of_status(&status));
    assert!(text.contains("has room for 5.0 MiB at most"), "{text}");
    status.cache.directories[0].state = format!("{DISK_FULL}: make room on that disk");
    let text = told(&of_status(&status));
    assert!(text.contains("goes on by itself"), "{text}");
    assert!(!text.contains("unmount"), "{text}");
}

#[test]
fn how_an_export_is_mounted_is_judged() {
    let line = |options: &str| {
        let text = format!("36 35 0:52 / /mnt/nfs rw - nfs4 server:/x rw,{options}\n");
        parse(text.as_bytes()).remove(0)
    };
    let good = line("vers=4.2,rsize=1048576,hard,nconnect=4");
    assert_eq!(of_backend_mount(&good), []);
    let text = told(&of_backend_mount(&line("vers=4.0,rsize=32768,soft")));
    for wanted in [
        "with soft",
        "mount -o hard server:/x /mnt/nfs",
        "vers=4.2",
        "32.0 KiB at a time",
        "nconnect=4",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
}

#[test]
fn a_backend_that_has_gone_from_its_path_is_told_of_whether_it_answers_or_not() {
    let mut status = Status {
        mountpoint: "/mnt/c".to_owned(),
        ..Status::default()
    };
    status.backend.is_moved = true;
    for reachable in [true, false] {
        status.backend.reachable = reachable;
        let text = told(&of_status(&status));
        assert!(text.contains("nfs-cachefs umount /mnt/c"), "{text}");
    }
}

#[test]
fn whatever_this_machine_lacks_has_a_remedy() {
    let lacking = |subject: &str| Finding {
        subject: subject.to_owned(),
        verdict: Verdict::Missing,
        detail: "not there".to_owned(),
        lost: "speed".to_owned(),
    };
    let findings = ["CAP_SYS_ADMIN", "open files", "io_uring", "passthrough"].map(lacking);
    let advice = of_machine(&findings);
    assert_eq!(advice.len(), 2);
    for wanted in ["io_uring_disabled", "newer kernel"] {
        assert!(told(&advice).contains(wanted), "{wanted}");
    }
    let failing = |errno: i32| Finding {
        subject: "cache disk".to_owned(),
        verdict: Verdict::Fatal,
        detail: format!("/nvme: {}", io::Error::from_raw_os_error(errno)),
        lost: "no cache can lie there".to_owned(),
    };
    for (errno, wanted) in [
        (libc::EROFS, "fsck"),
        (libc::ENOSPC, "make room"),
        (libc::EIO, "ext4"),
    ] {
        let advice = told(&of_machine(&[failing(errno)]));
        assert!(advice.contains(wanted), "{wanted} in {advice}");
    }
    let limits = |hard: &str| {
        format!("Max open files            1024                 {hard}                files\n")
    };
    assert!(of_limits(&limits("20000")).is_some_and(|one| one.found.contains("20000")));
    assert_eq!(of_limits(&limits("1048576")), None);
}
