use super::*;
use crate::io::Buffer;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

const FILE_BYTES: usize = 3 * 1024 * 1024 + 777;

fn read(
    file: &Arc<dyn IoFile>,
    buffer: Buffer,
    offset: u64,
    length_bytes: usize,
    direct: bool,
) -> (io::Result<usize>, Buffer) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    file.submit_read(
        buffer,
        offset,
        length_bytes,
        direct,
        Box::new(move |result, buffer| sender.send((result, buffer)).unwrap()),
    );
    let answer = receiver.recv_timeout(PATIENCE).expect("the read completes");
    assert_eq!(
        receiver.recv_timeout(PATIENCE).err(),
        Some(crossbeam_channel::RecvTimeoutError::Disconnected),
        "the completion is dropped after its one call"
    );
    answer
}

#[test]
fn reads_of_every_alignment_return_the_bytes_of_the_file() {
    let content = pattern(FILE_BYTES, 1);
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = create(&disk, "object", &content);
        file.sync_data().unwrap();
        for direct in [false, true] {
            for offset in [
                0,
                1,
                511,
                4096,
                65_536,
                1_048_577,
                3_145_728,
                FILE_BYTES,
                FILE_BYTES + 9,
            ] {
                for length in [0, 1, 4095, 4096, 12_288, 65_536, 70_000, 1_048_576] {
                    let buffer = engine.take_buffer(length);
                    let (result, buffer) = read(&file, buffer, offset as u64, length, direct);
                    let start = offset.min(FILE_BYTES);
                    let expected = &content[start..(start + length).min(FILE_BYTES)];
                    let moved = result.unwrap();
                    let what = format!("{name}: {length} bytes at {offset}, direct {direct}");
                    assert_eq!(moved, expected.len(), "{what}");
                    assert!(buffer[..moved] == *expected, "{what}");
                }
            }
        }
        engine.shutdown();
        assert_eq!(engine.buffers().in_use(), 0, "{name}");
    }
}

#[test]
fn ten_thousand_concurrent_reads_each_complete_once_with_their_own_bytes() {
    let content = Arc::new(pattern(FILE_BYTES, 2));
    let seed = std::env::var("CACHEFS_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0x9e37_79b9);
    eprintln!("CACHEFS_TEST_SEED={seed}");
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = create(&disk, "object", &content);
        file.sync_data().unwrap();
        let (sender, receiver) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            for thread in 1..=4u64 {
                let (engine, file) = (&engine, &file);
                let (sender, content) = (sender.clone(), content.clone());
                scope.spawn(move || {
                    let mut state = seed ^ (thread << 32) | 1;
                    for _ in 0..2500 {
                        state = random(state);
                        let block = (state >> 8) % (FILE_BYTES as u64 / 4096);
                        let shift = if state & 3 == 0 {
                            (state >> 40) % 4096
                        } else {
                            0
                        };
                        let offset = block * 4096 + shift;
                        let length = 4096 * (1 + (state >> 60) as usize % 4);
                        let direct = state & 4 != 0;
                        let buffer = engine.take_buffer(length);
                        let (sender, content) = (sender.clone(), content.clone());
                        let done = move |result: io::Result<usize>, buffer: Buffer| {
                            let start = offset as usize;
                            let expected = &content[start..(start + length).min(FILE_BYTES)];
                            let right = result.is_ok_and(|moved| buffer[..moved] == *expected);
                            sender.send(right).unwrap();
                        };
                        file.submit_read(buffer, offset, length, direct, Box::new(done));
                    }
                });
            }
        });
        drop(sender);
        let answers: Vec<bool> = (0..10_000)
            .map(|_| {
                receiver
                    .recv_timeout(PATIENCE)
                    .expect("every read completes")
            })
            .collect();
        assert!(answers.iter().all(|right| *right), "{name}");
        assert_eq!(
            receiver.recv_timeout(PATIENCE).err(),
            Some(crossbeam_channel::RecvTimeoutError::Disconnected),
            "{name}: once each"
        );
    }
}

#[test]
fn a_read_that_the_kernel_refuses_gives_the_error_and_the_buffer_back() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        disk.create_directory("directory").unwrap();
        let directory = disk.open("directory", OpenMode::Read).unwrap();
        let mut buffer = engine.take_buffer(4096);
        buffer[0] = 77;
        let (result, buffer) = read(&directory, buffer, 0, 4096, true);
        assert_eq!(
            result.unwrap_err().raw_os_error(),
            Some(libc::EISDIR),
            "{name}"
        );
        assert_eq!(buffer[0], 77);
        let file = create(&disk, "object", b"short");
        let (result, _) = read(&file, Buffer::unpooled(16), 0, 17, false);
        assert_eq!(
            result.unwrap_err().raw_os_error(),
            Some(libc::EINVAL),
            "{name}"
        );
    }
}

#[test]
fn buffers_are_taken_by_size_and_are_never_short() {
    let engine = Engine::start(EngineSettings {
        small_buffers: 2,
        large_buffers: 1,
        ..EngineSettings::default()
    })
    .unwrap();
    let held: Vec<_> = (0..5).map(|_| engine.take_buffer(4096)).collect();
    assert_eq!(engine.buffers().in_use(), 3);
    assert!(held.iter().all(|buffer| buffer.len() >= 4096));
    assert_eq!(engine.take_buffer(5 << 20).len(), 5 << 20);
    drop(held);
    assert_eq!(engine.buffers().in_use(), 0);
}

#[test]
fn a_stopped_engine_refuses_reads_and_a_panicking_completion_harms_nobody() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = create(&disk, "object", &pattern(8192, 3));
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let panics = move |_: io::Result<usize>, _: Buffer| {
            counted.fetch_add(1, Ordering::SeqCst);
            panic!("on purpose");
        };
        file.submit_read(engine.take_buffer(4096), 0, 4096, false, Box::new(panics));
        let (result, _) = read(&file, engine.take_buffer(4096), 0, 4096, false);
        assert_eq!(result.unwrap(), 4096, "{name}");
        engine.shutdown();
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{name}");
        let (result, _) = read(&file, engine.take_buffer(4096), 0, 4096, false);
        let refused = result.unwrap_err().raw_os_error();
        assert_eq!(refused, Some(libc::ECANCELED), "{name}");
    }
}

#[test]
fn the_last_owner_of_the_engine_may_be_a_completion() {
    for (_, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        // Too large to be carried out by the caller.
        let length = 128 << 10;
        let file = create(&disk, "object", &pattern(length, 4));
        let buffer = engine.take_buffer(length);
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let (go, wait) = crossbeam_channel::bounded::<()>(1);
        let owned = (file.clone(), disk, engine);
        let done = move |result: io::Result<usize>, _: Buffer| {
            wait.recv_timeout(PATIENCE).unwrap();
            drop(owned);
            sender.send(result.unwrap()).unwrap();
        };
        file.submit_read(buffer, 0, length, true, Box::new(done));
        drop(file);
        go.send(()).unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), length);
    }
}

#[test]
fn what_is_in_memory_is_read_without_waiting() {
    let scratch = Scratch::new();
    let engine = Engine::start(EngineSettings::default()).unwrap();
    let disk = scratch.disk(&engine);
    let content = pattern(8192, 5);
    let file = create(&disk, "object", &content);
    let mut buffer = vec![0; 8192];
    if let Some(moved) = file.read_cached(&mut buffer, 0).unwrap() {
        assert_eq!(buffer[..moved], content[..moved]);
    }
}
