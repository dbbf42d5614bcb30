use super::*;
use crate::daemon::prepare::prepare;
use crate::daemon::test_scratch;
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

#[test]
fn what_is_not_a_mount_of_ours_is_refused() {
    let error = unmount(Path::new("/proc"), Dirty::Keep).unwrap_err();
    assert!(matches!(error, UnmountError::NotMounted(_)), "{error}");
    assert!(unmount(Path::new("/no/such/parent"), Dirty::Keep).is_err());
}

#[test]
fn a_program_that_uses_a_directory_is_found_and_named() {
    let scratch = test_scratch();
    let inside = scratch.path().canonicalize().expect("scratch");
    let mut child = Command::new("sleep")
        .arg("30")
        .current_dir(&inside)
        .spawn()
        .expect("sleep");
    let users = users_of(&inside);
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(
        users.iter().any(|user| user.pid == child.id() as i32),
        "{users:?}"
    );
    assert!(users_in_words(&users).contains("pid"));
}

/// A mount of ours whose daemon is whoever holds the descriptor. `None` where the test may not mount.
fn raw_mount(mountpoint: &Path) -> Option<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .ok()?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    );
    let kind = format!("fuse.{}", crate::daemon::FILESYSTEM_SUBTYPE);
    mount(
        Some("cachefs"),
        mountpoint,
        Some(kind.as_str()),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(data.as_str()),
    )
    .ok()?;
    Some(device)
}

#[test]
fn a_mount_whose_daemon_died_is_cleaned_up() {
    let scratch = test_scratch();
    let Some(device) = raw_mount(scratch.path()) else {
        return;
    };
    drop(device);
    assert_eq!(
        unmount(scratch.path(), Dirty::Keep).expect("unmounts"),
        Unmounted::Aborted { why: "gone" }
    );
    assert_eq!(find(scratch.path()).expect("mountinfo").1, None);
}

#[test]
fn a_mount_whose_daemon_hangs_is_cut_off_and_detached() {
    let scratch = test_scratch();
    let Some(device) = raw_mount(scratch.path()) else {
        return;
    };
    assert_eq!(
        unmount(scratch.path(), Dirty::Keep).expect("unmounts"),
        Unmounted::Aborted { why: "hung" }
    );
    assert_eq!(find(scratch.path()).expect("mountinfo").1, None);
    drop(device);
}

#[test]
fn a_new_mount_detaches_a_dead_one_and_refuses_a_living_one() {
    let scratch = test_scratch();
    let root = scratch.path().canonicalize().expect("scratch");
    let (backend, mountpoint) = (root.join("backend"), root.join("mount"));
    for path in [&backend, &mountpoint] {
        std::fs::create_dir(path).expect("directory");
    }
    let settings = crate::config::Settings {
        cache_directories: vec![root.join("cache")],
        ..Default::default()
    };
    let Some(device) = raw_mount(&mountpoint) else {
        return;
    };
    let busy = prepare(&settings, "x".into(), Some(&backend), &mountpoint).unwrap_err();
    assert!(busy.to_string().contains("busy: 'cachefs'"), "{busy}");
    drop(device);
    prepare(&settings, "x".into(), Some(&backend), &mountpoint).expect("prepared");
    assert_eq!(find(&mountpoint).expect("mountinfo").1, None);
}
