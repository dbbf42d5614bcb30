//! Promise 4, line by line, with the backend stopped or gone.

mod support;

use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::reading::{open_direct, read_range};
use support::scene::*;
use support::waiter::{self, Waiter};
use support::*;

const MIB: u64 = 1 << 20;
const READERS: u64 = 64;

#[test]
fn a_stopped_backend_delays_nothing_that_is_known_and_fails_the_rest_in_time() {
    stopped_backend("hung", &[]);
}

#[test]
fn a_stopped_backend_delays_nothing_that_is_known_without_io_uring_and_passthrough() {
    stopped_backend("hung-blocking", &["io_engine=blocking", "passthrough=off"]);
}

fn stopped_backend(test: &str, options: &[&str]) {
    let scene = Scene::new(test, options);
    let Scene {
        mount,
        backend,
        scratch,
        ..
    } = &scene;
    let hot_handle = File::open(mount.join("hot")).unwrap();
    let half_handle = open_direct(&mount.join("half")).unwrap();
    let cold_handles: Vec<File> = (0..READERS)
        .map(|index| File::open(mount.join(format!("cold{index}"))).unwrap())
        .collect();
    backend.stop();

    let (done, outcomes) = mpsc::channel();
    for (index, file) in cold_handles.into_iter().enumerate() {
        let done = done.clone();
        std::thread::spawn(move || {
            let (took, result) = timed(|| file.read_at(&mut vec![0; MIB as usize], MIB));
            let _ = done.send((format!("reader {index}"), took, result.map(drop)));
        });
    }
    let unknown = mount.join("unlisted/unknown");
    std::thread::spawn(move || {
        let (took, result) = timed(|| fs::metadata(unknown));
        let _ = done.send(("lookup".to_owned(), took, result.map(drop)));
    });
    std::thread::sleep(Duration::from_millis(300));

    // An open handle that hits does not wait at all.
    let hits = with_time_limit(scratch, LIMIT, move || {
        let mut hits = Vec::new();
        for offset in [0, 3 * MIB, 7 * MIB] {
            let (took, bytes) = timed(|| read_range(&hot_handle, offset, 65536));
            assert_eq!(hot().check(offset, &bytes.unwrap()), Ok(()));
            hits.push(("a hit", took));
        }
        let mut buffer = support::reading::AlignedBuffer::new(HALF_BYTES);
        let (took, read) = timed(|| half_handle.read_at(buffer.bytes_mut(), 0));
        assert_eq!(read.unwrap(), HALF_BYTES);
        assert_eq!(half().check(0, buffer.bytes()), Ok(()));
        hits.push(("a hit with O_DIRECT", took));
        hits
    });
    for (hit, took) in hits {
        assert!(took < scene.at_once(), "{hit} took {took:?}");
    }
    // What is known waits for the revalidation at most, then not at all.
    scene.expect_known_in_time();
    scene.expect_known_at_once();
    let (took, status) = timed(|| mount.status());
    assert_eq!(status["backend"]["reachable"], false);
    assert_eq!(status["state"], "degraded");
    assert!(took < Duration::from_secs(1), "status took {took:?}");

    for _ in 0..READERS + 1 {
        let (who, took, result) = outcomes.recv_timeout(LIMIT).expect("nobody waits for ever");
        assert!(result.is_err(), "{who} got an answer");
        assert!(took < BACKEND_TIMEOUT + SLACK, "{who}: {took:?}");
    }
    // By now everybody knows: a miss need not find out anew, and what is known stays so.
    let late = mount.join("unlisted/later");
    let (took, result) = with_time_limit(scratch, LIMIT, move || timed(|| fs::metadata(late)));
    assert!(
        result.is_err() && took < scene.at_once(),
        "{result:?} {took:?}"
    );
    scene.expect_known_at_once();

    backend.resume();
    let began = Instant::now();
    scene.wait_for_reachable(true, Duration::from_secs(2));
    println!("reachable {:?} after it was continued", began.elapsed());
    let unknown = mount.join("unlisted/unknown");
    let error = with_time_limit(scratch, LIMIT, || fs::metadata(unknown).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    scene.expect_everything();
    assert_eq!(mount.status()["backend"]["threads_lost"], 0);
}

#[test]
fn to_evict_a_path_does_not_wait_for_a_stopped_backend() {
    let scene = Scene::new("evict-hung", &[]);
    scene.backend.stop();
    let (took, output) = timed(|| scene.mount.command("evict", &["hot"], LIMIT));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "nobody can have found it");
    assert!(told.contains("does not answer"), "{told}");
    assert!(took < BACKEND_TIMEOUT + Duration::from_secs(5), "{took:?}");
    scene.expect_known_at_once();
    scene.backend.resume();
    scene.wait_for_reachable(true, Duration::from_secs(20));
    let output = scene.mount.command("evict", &["hot"], LIMIT);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_waiting_reader_goes_on_when_the_backend_does() {
    let scene = Scene::new("resumed", &[]);
    scene.backend.stop();
    let file = scene.mount.join("cold7");
    let reader = std::thread::spawn(move || {
        let file = File::open(file)?;
        cold(7).expect_in(&file, MIB as usize)
    });
    std::thread::sleep(Duration::from_secs(2));
    scene.backend.resume();
    with_time_limit(&scene.scratch, LIMIT, move || {
        reader.join().unwrap().unwrap();
    });
}

#[test]
fn ctrl_c_and_sigkill_end_whoever_waits() {
    let scene = Scene::new("signals", &[]);
    let path = |kind: &str, offset: u64| match kind {
        "open" => format!("small_cold{}", ["", "2"][offset as usize]),
        "lookup" => format!("unlisted/unknown{offset}"),
        "list" => format!("unlisted{}", ["", "2"][offset as usize]),
        "buffered" => format!("cold{offset}"),
        "direct" => format!("cold{}", 10 + offset),
        _ => format!("cold{}", 20 + offset),
    };
    let mut waiters = Vec::new();
    for kind in waiter::KINDS {
        for (offset, signal) in [Signal::SIGINT, Signal::SIGKILL].into_iter().enumerate() {
            let path = scene.mount.join(path(kind, offset as u64));
            waiters.push((kind, signal, Waiter::start("waits_as_told", kind, &path)));
        }
    }
    scene.backend.stop();
    for (_, _, waiter) in &mut waiters {
        waiter.go();
    }
    std::thread::sleep(Duration::from_millis(1500));
    for (kind, signal, waiter) in &mut waiters {
        assert!(!waiter.has_ended(), "{kind} does not wait");
        let begin = Instant::now();
        support::process::send(waiter.pid(), *signal);
        let status = waiter.wait(LIMIT).expect("it ends some time");
        let took = begin.elapsed();
        assert!(
            took < Duration::from_secs(1) + SLACK,
            "{kind} ended {took:?} after {signal}"
        );
        assert_eq!(status.signal(), Some(*signal as i32), "{kind}: {status}");
    }
    // Nothing that they left behind is in the way of others.
    scene.backend.resume();
    scene.wait_for_reachable(true, Duration::from_secs(2));
    scene.expect_everything();
}

/// Not a test: the process behind [`Waiter`].
#[test]
#[ignore = "run by others as their child"]
fn waits_as_told() {
    waiter::serve();
}

#[test]
fn with_a_backend_that_vanished_what_is_known_stays() {
    let mut scene = Scene::new("vanished", &[]);
    let hot_handle = File::open(scene.mount.join("hot")).unwrap();
    scene.backend.vanish();
    scene.expect_known_in_time();
    scene.expect_known_at_once();
    let bytes = read_range(&hot_handle, MIB, 65536).unwrap();
    assert_eq!(hot().check(MIB, &bytes), Ok(()));
    drop(hot_handle);
    assert_eq!(scene.mount.status()["backend"]["reachable"], false);
    let (cold, unknown) = (
        scene.mount.join("cold1"),
        scene.mount.join("unlisted/unknown"),
    );
    with_time_limit(&scene.scratch, LIMIT, move || {
        let (took, result) = timed(|| fs::read(cold));
        assert!(result.is_err());
        assert!(took < BACKEND_TIMEOUT + SLACK, "a miss took {took:?}");
        let (took, result) = timed(|| fs::metadata(unknown));
        assert!(result.is_err());
        assert!(took < BACKEND_TIMEOUT + SLACK, "a lookup took {took:?}");
    });
    scene.mount.umount();
}
