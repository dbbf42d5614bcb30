//! What becomes of a file whose version, object or source goes away while it is in use.

use super::backend::{CallKind, Change, Effect};
use super::{SOON, Setup, World, eventually, plan, whole};
use crate::cache::FetchError;
use crate::types::ByteRange;
use std::time::Instant;

#[test]
fn a_read_of_a_file_dropped_meanwhile_is_answered() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 100_000);
    let file = world.open(&key);
    let mut calls = 0;
    world.backend.set_script(move |call| {
        calls += usize::from(call.kind == CallKind::Attributes);
        match call.kind {
            CallKind::Attributes if calls == 1 => Effect::Hang,
            _ => Effect::Nothing,
        }
    });
    let reading = world.start_read(&file, plan(ByteRange::new(0, 5000)));
    world.backend.wait_for_hanging(1);
    // A stat that is older than it looks asks for another version: this file is set aside.
    let mut stale = file.version();
    stale.ctime.seconds -= 1;
    let other = world.cache.file(&key, stale);
    assert!(file.is_gone() && !file.is_changed());
    world.backend.release();
    let bytes = reading.recv_timeout(SOON).expect("answered").unwrap();
    world.compare(&file, ByteRange::new(0, 5000), &bytes);
    file.end_use();
    drop(other);
    eventually("the backend's file is closed", || {
        world.backend.open_sources() == 0
    });
}

#[test]
fn a_small_file_dropped_before_its_fetch_is_answered() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 10_000);
    let file = world.open(&key);
    let mut stale = file.version();
    stale.ctime.seconds -= 1;
    let other = world.cache.file(&key, stale);
    assert!(matches!(
        world.fetch_whole(&file),
        Err(FetchError::Bypass | FetchError::Changed)
    ));
    world.check(&file, whole(&file));
    assert_eq!(file.extents().total_bytes(), 0);
    drop(other);
}

#[test]
fn a_small_file_dropped_during_its_fetch_is_answered() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 10_000);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Read => Effect::Hang,
        _ => Effect::Nothing,
    });
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let woken = Box::new(move |outcome| sender.send(outcome).unwrap());
    world.cache.fetch_whole(&file, woken);
    world.backend.wait_for_hanging(1);
    let mut stale = file.version();
    stale.ctime.seconds -= 1;
    let other = world.cache.file(&key, stale);
    world.backend.release();
    assert!(receiver.recv_timeout(SOON).expect("answered").is_err());
    world.check(&file, whole(&file));
    drop(other);
    assert_eq!(world.directory().space.reserved_bytes(), 0);
}

#[test]
fn a_small_file_comes_whole_or_in_pieces_never_both_at_once() {
    // What came second would be written over bytes that had been verified and were being read.
    for whole_first in [true, false] {
        let world = World::new(&Setup::default());
        let key = world.backend.create("file", 100_000);
        let file = world.open(&key);
        world.backend.set_script(|call| match call.kind {
            CallKind::Read => Effect::Hang,
            _ => Effect::Nothing,
        });
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let fetch_whole = || {
            let woken = Box::new(move |outcome| sender.send(outcome).unwrap());
            world.cache.fetch_whole(&file, woken);
        };
        let all = plan(whole(&file));
        let reading = if whole_first {
            fetch_whole();
            world.backend.wait_for_hanging(1);
            world.start_read(&file, all)
        } else {
            let reading = world.start_read(&file, all);
            world.backend.wait_for_hanging(1);
            fetch_whole();
            reading
        };
        world.backend.release();
        receiver.recv_timeout(SOON).expect("answered").unwrap();
        let bytes = reading.recv_timeout(SOON).expect("answered").unwrap();
        world.compare(&file, whole(&file), &bytes);
        assert_eq!(world.backend.bytes_read(), file.size_bytes());
        file.end_use();
    }
}

#[test]
fn a_source_shorter_than_its_version_says_leaves_nothing_open() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Read => Effect::ChangeBefore(Change::Truncate),
        _ => Effect::Nothing,
    });
    let end = ByteRange::new(250_000, 300_000);
    assert!(matches!(world.read(&file, end), Err(FetchError::Changed)));
    world.backend.set_script(|_| Effect::Nothing);
    assert!(file.is_changed());
    file.end_use();
    eventually("nothing is under way", || {
        file.state.lock().pieces.is_idle()
    });
    eventually("the backend's file is closed", || {
        world.backend.open_sources() == 0
    });
    assert_eq!(world.directory().space.reserved_bytes(), 0);
}

#[test]
fn a_file_given_up_while_its_source_is_opened_leaves_it_closed() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Open => Effect::Hang,
        _ => Effect::Nothing,
    });
    let reading = world.start_read(&file, plan(ByteRange::new(0, 5000)));
    world.backend.wait_for_hanging(1);
    world.cache.discard(&file);
    assert!(matches!(
        reading.recv_timeout(SOON).unwrap(),
        Err(FetchError::Changed)
    ));
    file.end_use();
    world.backend.release();
    eventually("nothing is under way", || {
        file.state.lock().pieces.is_idle()
    });
    eventually("the backend's file is closed", || {
        world.backend.open_sources() == 0
    });
}

#[test]
fn no_thread_of_the_disk_waits_for_the_backend_to_close_a_file() {
    // What closes last decides where: a piece that failed must hand that over.
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let file = world.open(&key);
    world.backend.set_script(|call| match call.kind {
        CallKind::Read => Effect::Fail(libc::EIO),
        _ => Effect::Nothing,
    });
    let reading = world.start_read(&file, plan(ByteRange::new(0, 5000)));
    file.end_use();
    assert!(matches!(
        reading.recv_timeout(SOON).unwrap(),
        Err(FetchError::Backend(_))
    ));
    eventually("the backend's file is closed", || {
        world.backend.open_sources() == 0
    });
    let closers = world.backend.closers();
    assert_eq!(closers, ["demand"], "threads that closed it");
}

#[test]
fn readahead_that_does_not_begin_at_a_block_fetches_whole_blocks() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let file = world.open(&key);
    world
        .cache
        .fetch_ahead(&file, ByteRange::new(5001, 100_001));
    eventually("it is there", || {
        file.extents().contains(ByteRange::new(4096, 102_400))
    });
    let mut odd = plan(ByteRange::new(200_001, 200_011));
    odd.ahead = ByteRange::new(220_001, 230_001).into();
    let reading = world.start_read(&file, odd);
    assert!(reading.recv_timeout(SOON).unwrap().is_ok());
    eventually("it is there", || {
        file.extents().contains(ByteRange::new(220_001, 230_001))
    });
    assert_eq!(world.directory().failure(), None);
    file.end_use();
}

#[test]
fn dropping_the_cached_file_in_use_keeps_what_its_handles_have() {
    let world = World::new(&Setup::default());
    let key = world.backend.create("file", 300_000);
    let file = world.open(&key);
    world.check(&file, ByteRange::new(0, 100_000));
    let began = Instant::now();
    let mut stale = file.version();
    stale.ctime.seconds -= 1;
    let other = world.cache.file(&key, stale);
    let bytes_before = world.backend.bytes_read();
    world.check(&file, ByteRange::new(0, 100_000));
    assert_eq!(world.backend.bytes_read(), bytes_before);
    world.check(&file, whole(&file));
    assert!(began.elapsed() < SOON);
    file.end_use();
    drop((file, other));
    world.sweep();
    assert_eq!(world.used_bytes(), 0);
    assert_eq!(world.objects(), Vec::<String>::new());
}
