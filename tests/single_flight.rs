//! What many ask for at once is fetched once, and little is fetched for little.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;
use support::*;

const MIB: u64 = 1 << 20;
const READERS: u64 = 16;
/// The largest block that the cache may choose.
const MAX_BLOCK_BYTES: u64 = 4 * MIB;

#[test]
fn sixteen_readers_of_a_cold_file_fetch_it_once() {
    let open = |path: &Path| File::open(path);
    check_one_fetch("single-flight", sample_or_full(256 * MIB, 1024 * MIB), open);
}

/// No page cache stands between these readers and the daemon.
#[test]
fn sixteen_direct_readers_of_a_cold_file_fetch_it_once() {
    check_one_fetch(
        "single-flight-direct",
        64 * MIB,
        support::reading::open_direct,
    );
}

fn check_one_fetch(test: &str, size_bytes: u64, open: fn(&Path) -> io::Result<File>) {
    let scratch = Scratch::new(test);
    let network = Network {
        latency_us: 1000,
        bandwidth_bytes_per_s: Some(110_000_000),
    };
    let backend = FaultBackend::start(
        &scratch,
        BackendOptions {
            network,
            ..Default::default()
        },
    );
    let content = Content::new(21, 1, size_bytes);
    content.create(&backend.plain.join("file")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    backend.reset_counters();
    let path = mount.join("file");
    with_time_limit(&scratch, Duration::from_secs(240), move || {
        let barrier = Arc::new(Barrier::new(READERS as usize));
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                let (path, barrier) = (&path, barrier.clone());
                scope.spawn(move || {
                    barrier.wait();
                    read_through(&open(path).unwrap(), content, reader);
                });
            }
        });
    });
    let read = backend.counters().bytes_read;
    assert!(
        read >= content.size_bytes,
        "{read} bytes read of {}",
        content.size_bytes
    );
    assert!(
        read <= content.size_bytes + MAX_BLOCK_BYTES,
        "{read} bytes read of {}",
        content.size_bytes
    );
}

/// Every reader reads all; each piece is checked in full by one of them, in part by the others.
fn read_through(file: &File, content: Content, reader: u64) {
    let mut buffer = support::reading::AlignedBuffer::new(MIB as usize);
    for piece in 0..content.size_bytes / MIB {
        let offset = piece * MIB;
        file.read_exact_at(buffer.bytes_mut(), offset).unwrap();
        let checked = if piece % READERS == reader {
            MIB as usize
        } else {
            4096
        };
        assert_eq!(
            content.check(offset, &buffer.bytes()[..checked]),
            Ok(()),
            "reader {reader}"
        );
    }
}

#[test]
fn random_reads_of_a_cold_file_fetch_at_most_sixteen_times_what_was_asked() {
    let scratch = Scratch::new("random-reads");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let content = Content::new(22, 1, 8 << 30);
    let mut random = Random::from_environment("random-reads");
    let mut offsets = BTreeSet::new();
    while offsets.len() < 1000 {
        offsets.insert(random.below(content.size_bytes / 4096) * 4096);
    }
    let plain = File::create_new(backend.plain.join("file")).unwrap();
    plain.set_len(content.size_bytes).unwrap();
    for offset in &offsets {
        plain
            .write_all_at(&content.bytes(*offset, 4096), *offset)
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut order: Vec<u64> = offsets.into_iter().collect();
    for index in (1..order.len()).rev() {
        order.swap(index, random.below(index as u64 + 1) as usize);
    }
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    backend.reset_counters();
    let path = mount.join("file");
    with_time_limit(&scratch, Duration::from_secs(120), move || {
        let file = File::open(path).unwrap();
        let mut buffer = [0; 4096];
        for offset in order {
            file.read_exact_at(&mut buffer, offset).unwrap();
            assert_eq!(content.check(offset, &buffer), Ok(()));
        }
    });
    let (read, asked) = (backend.counters().bytes_read, 1000 * 4096);
    assert!(
        read <= 16 * asked,
        "{read} bytes read for {asked} asked: {}x",
        read / asked
    );
}
