//! Promise 4, the end of a mount: it always comes, whatever the backend does, and leaves the cache directory to the
//! next one.

mod support;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::time::{Duration, Instant};
use support::scene::*;
use support::waiter::Waiter;
use support::*;

/// A command on a backend that does not answer.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn umount_waits_for_what_waits_for_a_stopped_backend_and_then_unmounts() {
    let mut scene = Scene::new("umount", &[]);
    let cold = scene.mount.join("cold1");
    scene.backend.stop();
    let reader = std::thread::spawn(move || fs::read(cold).is_err());
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    scene.mount.umount();
    let took = begin.elapsed();
    assert!(took < BACKEND_TIMEOUT + Duration::from_secs(2), "{took:?}");
    let failed = with_time_limit(&scene.scratch, LIMIT, move || reader.join().unwrap());
    assert!(failed, "the reader got bytes from a stopped backend");
}

#[test]
fn umount_names_a_program_that_uses_the_mount_and_leaves_it() {
    let scene = Scene::new("busy", &[]);
    let file = File::open(scene.mount.join("hot")).unwrap();
    scene.backend.stop();
    scene.expect_known_in_time();
    let (took, output) = timed(|| scene.mount.command("umount", &[], COMMAND_LIMIT));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        told.contains(&format!("pid {}", std::process::id())),
        "{told}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    scene.expect_known_at_once();
    drop(file);
}

#[test]
fn plain_umount_works_once_the_waiting_programs_are_killed_and_the_next_one_comes_up() {
    let mut scene = Scene::new("plain-umount", &[]);
    let mut waiters: Vec<Waiter> = ["buffered", "direct", "mapped"]
        .iter()
        .zip(0..)
        .map(|(kind, index)| {
            let path = scene.mount.join(format!("cold{index}"));
            Waiter::start("waits_as_told", kind, &path)
        })
        .collect();
    scene.backend.stop();
    waiters.iter_mut().for_each(Waiter::go);
    std::thread::sleep(Duration::from_millis(500));
    for waiter in &mut waiters {
        support::process::kill_now(waiter.pid());
        waiter.wait(Duration::from_secs(2)).expect("it ends");
    }
    let begin = Instant::now();
    let mut outcome = umount2(scene.mount.path(), MntFlags::empty());
    while outcome == Err(nix::errno::Errno::EBUSY) && begin.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(20));
        outcome = umount2(scene.mount.path(), MntFlags::empty());
    }
    outcome.expect("nobody uses it");
    let status = scene.mount.expect_end(Duration::from_secs(10));
    assert!(status.success(), "{status}");
    println!("ended {:?} after umount", begin.elapsed());

    // What is known is served without the backend, and with it as soon as it is back.
    let (took, ()) = timed(|| scene.mount.remount());
    assert!(took < Duration::from_secs(2), "mounting took {took:?}");
    scene.expect_known_at_once();
    scene.backend.resume();
    scene.wait_for_reachable(true, Duration::from_secs(20));
    scene.backend.reset_counters();
    let path = scene.mount.join("hot");
    with_time_limit(&scene.scratch, LIMIT, move || {
        support::content::expect_content(&path, hot());
    });
    assert_eq!(scene.backend.counters().bytes_read, 0, "the cache is warm");
}

/// Not a test: the process behind [`Waiter`].
#[test]
#[ignore = "run by others as their child"]
fn waits_as_told() {
    support::waiter::serve();
}

#[test]
fn sigterm_ends_a_daemon_that_programs_wait_in() {
    let mut scene = Scene::new("sigterm", &[]);
    let cold = scene.mount.join("cold1");
    let directory = File::open(scene.mount.join("known")).unwrap();
    scene.backend.stop();
    let reader = std::thread::spawn(move || fs::read(cold).is_err());
    std::thread::sleep(Duration::from_millis(300));
    support::process::send(scene.mount.pid(), Signal::SIGTERM);
    let status = scene.mount.expect_end(Duration::from_secs(12));
    assert!(status.success(), "{status}");
    let failed = with_time_limit(&scene.scratch, LIMIT, move || reader.join().unwrap());
    assert!(failed);
    drop(directory);
}

/// A mount with a thread of its daemon stuck in the kernel beyond kill -9: the backend has taken its request, and
/// the kernel waits for the answer.
fn stuck_scene(test: &str) -> Scene {
    let scene = Scene::new(test, &[]);
    scene
        .backend
        .add_rule(Rule::new(Operation::Lookup, "unlisted/*", Action::Hang));
    let unknown = scene.mount.join("unlisted/unknown");
    std::thread::spawn(move || fs::metadata(unknown));
    scene.backend.wait_for_hung(1);
    scene
}

/// The same cache directory is mounted again while the old daemon still hangs, which then ends.
fn take_over(scene: &mut Scene, mut stuck: Child) {
    assert_eq!(
        support::process::state(stuck.id() as i32),
        Some('Z'),
        "the scene is not what it is meant to be: the daemon is not stuck"
    );
    scene.backend.reset_counters();
    let (took, ()) = timed(|| scene.mount.remount());
    assert!(took < Duration::from_secs(5), "mounting took {took:?}");
    let path = scene.mount.join("hot");
    with_time_limit(&scene.scratch, LIMIT, move || {
        support::content::expect_content(&path, hot());
    });
    assert_eq!(scene.backend.counters().bytes_read, 0, "the cache is warm");
    scene.backend.clear_rules();
    scene.backend.release(None);
    support::process::wait_for(&mut stuck, Duration::from_secs(10)).expect("the old one ends");
    scene.expect_everything();
    scene.mount.umount();
}

#[test]
fn a_killed_daemon_that_hangs_in_the_kernel_is_unmounted_and_its_cache_taken_over() {
    let mut scene = stuck_scene("stuck");
    let stuck = scene.mount.kill_stuck();
    let (took, output) = timed(|| scene.mount.command("umount", &[], COMMAND_LIMIT));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(took < Duration::from_secs(3), "umount took {took:?}");
    take_over(&mut scene, stuck);
}

#[test]
fn a_killed_daemon_that_hangs_in_the_kernel_is_replaced_by_the_next_mount() {
    let mut scene = stuck_scene("stuck-remount");
    let stuck = scene.mount.kill_stuck();
    let (took, output) = timed(|| scene.mount.command("status", &[], COMMAND_LIMIT));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("its daemon is dead"), "{told}");
    assert!(took < Duration::from_secs(1), "status took {took:?}");
    let hot = scene.mount.join("hot");
    let waiting = std::thread::spawn(move || fs::read(hot).is_err());
    std::thread::sleep(Duration::from_millis(200));
    take_over(&mut scene, stuck);
    let failed = with_time_limit(&scene.scratch, LIMIT, move || waiting.join().unwrap());
    assert!(failed, "what the dead daemon was asked is not answered");
}

#[test]
fn a_daemon_whose_threads_hang_ends_and_gives_its_cache_up() {
    let mut scene = stuck_scene("stuck-end");
    let (took, output) = timed(|| scene.mount.command("umount", &[], COMMAND_LIMIT));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(
        took < BACKEND_TIMEOUT + Duration::from_secs(3),
        "umount took {took:?}"
    );
    let stuck = scene.mount.kill_stuck();
    take_over(&mut scene, stuck);
}

/// A thread of the daemon waits in the kernel for a page that a program keeps until the daemon has read it.
#[test]
fn a_killed_daemon_ends_that_has_the_kernel_forget_what_a_program_waits_for() {
    let mut scene = Scene::new("guarded", &[]);
    scene
        .backend
        .add_rule(Rule::new(Operation::Read, "half", Action::Hang));
    let file = File::open(scene.mount.join("half")).unwrap();
    let reader = std::thread::spawn(move || file.read_at(&mut [0; 4096], 8 << 20).is_err());
    scene.backend.wait_for_hung(1);
    let changed = File::options()
        .append(true)
        .open(scene.backend.plain.join("half"));
    changed.unwrap().write_all(b"more").unwrap();
    let (daemon, half) = (scene.mount.pid(), scene.mount.join("half"));
    // Whoever finds the change waits for the page, too.
    let finder = std::thread::spawn(move || {
        while fs::metadata(&half).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let what = "the kernel to be told, and to wait";
    wait_until(Duration::from_secs(20), what, || {
        is_waiting_in_the_kernel(daemon, "fuse-forget")
    });
    let mut killed = scene.mount.kill_stuck();
    scene.backend.clear_rules();
    scene.backend.release(None);
    let ended = support::process::wait_for(&mut killed, Duration::from_secs(15));
    ended.expect("it ends, though nobody unmounts");
    let failed = with_time_limit(&scene.scratch, LIMIT, move || reader.join().unwrap());
    assert!(failed, "what the dead daemon was asked is not answered");
    with_time_limit(&scene.scratch, LIMIT, move || finder.join().unwrap());
    scene.mount.remount();
    let path = scene.mount.join("hot");
    with_time_limit(&scene.scratch, LIMIT, move || {
        support::content::expect_content(&path, hot());
    });
}

/// Whether a thread of this name is in state D (proc_pid_stat(5)).
fn is_waiting_in_the_kernel(process: i32, thread: &str) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return false;
    };
    threads.flatten().any(|entry| {
        let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        read("comm").trim() == thread && read("stat").contains(") D ")
    })
}

#[test]
fn a_backend_that_hangs_after_its_root_was_opened_fails_the_mount_in_time() {
    let mut scene = Scene::new("late-hang", &[]);
    scene.mount.umount();
    // The first question that is asked of the root itself hangs, not those on the way to it.
    for skipped in 1..4 {
        // Nothing is known that could be served.
        let _ = fs::remove_file(scene.mount.cache_dir().join("names.redb"));
        scene.backend.reset_counters();
        let rule = Rule::new(Operation::Getattr, "*", Action::Hang).skip_calls(skipped);
        scene.backend.add_rule(rule);
        let (took, output) = timed(|| scene.mount.try_mount(COMMAND_LIMIT));
        let hung = scene.backend.counters().hung;
        scene.backend.clear_rules();
        scene.backend.release(None);
        if hung == 0 {
            assert!(output.status.success());
            nix::mount::umount2(scene.mount.path(), MntFlags::empty()).expect("it is mounted");
            continue;
        }
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("no answer within"), "{skipped}: {told}");
        assert!(
            took < BACKEND_TIMEOUT + Duration::from_secs(2),
            "{skipped}: {took:?}"
        );
        assert!(support::scratch::mount_at(scene.mount.path()).is_none());
    }
    scene.mount.remount();
}
