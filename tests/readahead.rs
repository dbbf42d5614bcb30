//! What is fetched ahead of readers: enough, in time, and little in vain. Counted in the backend.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use support::*;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const OFF: &str = "readahead=0";

/// A file on a server far away or near, behind a thick or a thin link.
struct World {
    // In this order: the mount goes before its backend, the directory last.
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
    content: Content,
}

impl World {
    fn new(test: &str, network: Network, size_bytes: u64, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        let content = Content::new(31, 1, size_bytes);
        content.create(&backend.plain.join("file")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        // A server's clock that has come on: nothing waits for the version to settle.
        std::fs::write(backend.plain.join("newer"), "x").unwrap();
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        std::fs::metadata(mount.join("newer")).unwrap();
        backend.set_network(network);
        backend.reset_counters();
        Self {
            mount,
            backend,
            scratch,
            content,
        }
    }

    /// Reads these ranges one after the other; how long that took.
    fn read(&self, ranges: Vec<(u64, usize)>) -> Duration {
        self.read_after(Vec::new(), ranges)
    }

    /// The same by a handle that has read others before.
    fn read_after(&self, before: Vec<(u64, usize)>, ranges: Vec<(u64, usize)>) -> Duration {
        let (path, content) = (self.mount.join("file"), self.content);
        with_time_limit(&self.scratch, LIMIT, move || {
            let file = File::open(&path).unwrap();
            read_ranges(&file, content, &before);
            read_ranges(&file, content, &ranges)
        })
    }
}

fn read_ranges(file: &File, content: Content, ranges: &[(u64, usize)]) -> Duration {
    let mut buffer = vec![0; ranges.iter().map(|(_, length)| *length).max().unwrap_or(0)];
    let began = Instant::now();
    for (offset, length) in ranges {
        let bytes = &mut buffer[..*length];
        file.read_exact_at(bytes, *offset).unwrap();
        let shown = &bytes[..(*length).min(4096)];
        assert_eq!(content.check(*offset, shown), Ok(()));
    }
    began.elapsed()
}

fn network(latency_ms: u64, bandwidth_bytes_per_s: u64) -> Network {
    Network {
        latency_us: latency_ms * 1000,
        bandwidth_bytes_per_s: Some(bandwidth_bytes_per_s),
    }
}

fn sequential(size_bytes: u64) -> Vec<(u64, usize)> {
    (0..size_bytes / MIB)
        .map(|piece| (piece * MIB, MIB as usize))
        .collect()
}

/// What a link carries in that time, beside what was read in it once the window has grown. The sample's link is so thin that a machine busy with
/// other things keeps up with it.
fn check_bandwidth(test: &str, latency_ms: u64) {
    let (bandwidth, share, size_mib) =
        sample_or_full((20_000_000, 0.8, 80), (110_000_000, 0.9, 1024));
    let size_bytes = size_mib * MIB;
    let world = World::new(test, network(latency_ms, bandwidth), size_bytes, &[]);
    let mut first = sequential(size_bytes);
    let rest = first.split_off(first.len() / 4);
    let timed_bytes = rest.len() as u64 * MIB;
    let took = world.read_after(first, rest);
    let rate = timed_bytes as f64 / took.as_secs_f64();
    assert!(
        rate >= share * bandwidth as f64,
        "{:.1} MB/s at {latency_ms} ms",
        rate / 1e6
    );
    assert_eq!(world.backend.counters().bytes_read, size_bytes);
}

#[test]
fn one_reader_of_a_cold_file_gets_a_thin_links_bandwidth() {
    check_bandwidth("readahead-thin-near", 1);
}

#[test]
fn one_reader_of_a_cold_file_gets_a_thin_links_bandwidth_from_afar() {
    check_bandwidth("readahead-thin-far", 20);
}

#[test]
fn a_thick_link_to_a_server_far_away_is_filled() {
    let size_bytes = 512 * MIB;
    let world = World::new(
        "readahead-thick",
        network(20, 1_200_000_000),
        size_bytes,
        &[],
    );
    let took = world.read(sequential(size_bytes));
    let most = world.backend.counters().reading_bytes_max;
    println!("{:.0} MB/s", size_bytes as f64 / took.as_secs_f64() / 1e6);
    // 1.2 GB/s times 20 ms; half of it on a machine that does other things.
    let filled = sample_or_full(12_000_000, 24_000_000);
    assert!(most >= filled, "{most} bytes were in flight at most");
}

/// A reader with an order, which is slow by its latency alone.
fn check_speedup(test: &str, ranges: Vec<(u64, usize)>) {
    let times: Vec<Duration> = [&[OFF][..], &[]]
        .into_iter()
        .map(|options| {
            let world = World::new(test, network(20, 1_200_000_000), 64 * MIB, options);
            world.read(ranges.clone())
        })
        .collect();
    let [without, with] = times[..] else {
        unreachable!("two were measured")
    };
    assert!(with * 3 <= without, "{with:?}, and {without:?} without");
}

#[test]
fn records_at_equal_distances_are_read_ahead() {
    let ranges = (0..100).map(|record| (record * 512 * 1024 + 8192, 4096));
    check_speedup("readahead-strided", ranges.collect());
}

#[test]
fn a_file_read_backward_is_read_ahead() {
    let ranges = (1..=200).map(|record| (64 * MIB - record * 64 * 1024, 64 * 1024));
    check_speedup("readahead-backward", ranges.collect());
}

#[test]
fn scattered_reads_fetch_next_to_nothing_more_than_without_readahead() {
    let mut random = Random::from_environment("readahead-random");
    let reads = sample_or_full(1000, 5000);
    let ranges = (0..reads).map(|_| (random.below(256 * MIB / 4096) * 4096, 4096));
    let ranges: Vec<(u64, usize)> = ranges.collect();
    let bytes_read = [&[OFF][..], &[]].map(|options| {
        let world = World::new("readahead-random", Network::default(), 256 * MIB, options);
        world.read(ranges.clone());
        world.backend.counters().bytes_read
    });
    let [without, with] = bytes_read;
    assert!(with * 20 <= without * 21, "{with}, and {without} without");
}

#[test]
fn what_was_read_ahead_and_what_became_of_it_is_shown() {
    let world = World::new("readahead-status", network(1, 110_000_000), 64 * MIB, &[]);
    world.read(sequential(32 * MIB));
    let number = |name: &str| world.mount.status_number(&format!("cache.{name}"));
    let fetched = || number("readahead_bytes");
    wait_until(LIMIT, "what was not read to be counted", || {
        fetched() == number("readahead_used_bytes") + number("readahead_wasted_bytes")
    });
    let used = number("readahead_used_bytes");
    assert!(used >= 16 * MIB, "{used}");
    // What was not on its way when the file was closed is not fetched at all.
    assert!(fetched() < 64 * MIB, "{}", fetched());
}
