//! How files are fetched follows from what arrives, and each decision is told with its reason.

mod support;

use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::reading::{AlignedBuffer, open_direct};
use support::*;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
/// What a miss fetches around a scattered read.
const BLOCK_BYTES: u64 = 16 << 10;

struct World {
    // In this order: the mount goes before its backend, the directory last.
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
    content: Content,
}

impl World {
    fn new(test: &str, latency_us: u64, bandwidth: u64, size_bytes: u64, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, BackendOptions::default());
        let content = Content::new(77, 1, size_bytes);
        content.create(&backend.plain.join("file")).unwrap();
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        backend.set_network(Network {
            latency_us,
            bandwidth_bytes_per_s: Some(bandwidth),
        });
        Self {
            mount,
            backend,
            scratch,
            content,
        }
    }

    fn tuning(&self) -> Value {
        self.mount.status()["tuning"].clone()
    }

    /// Whether such a decision is told of.
    fn has_decided(&self, what: &str) -> bool {
        let told = self.tuning()["last"].clone();
        let told = told.as_array().unwrap().iter();
        let mut words = told.map(|one| one["decision"].as_str().unwrap().to_owned());
        words.any(|words| words.contains(what))
    }

    /// Reads in the background until the result is dropped.
    fn load(&self, readers: u64, read: impl Fn(&Path, u64) + Send + Sync + 'static) -> Loading {
        let stop = Arc::new(AtomicBool::new(false));
        let read = Arc::new(read);
        let threads = (0..readers).map(|reader| {
            let (stop, read) = (stop.clone(), read.clone());
            let path = self.mount.join("file");
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    read(&path, reader);
                }
            })
        });
        Loading {
            threads: threads.collect(),
            stop,
        }
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("daemon.log")).unwrap()
    }
}

struct Loading {
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Loading {
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("all that is read is right");
        }
    }
}

/// Past the kernel's pages: what is evicted is fetched again.
fn read_in_order(path: &Path, content: Content, bytes: u64) {
    let file = open_direct(path).unwrap();
    let mut buffer = AlignedBuffer::new(MIB as usize);
    for piece in 0..bytes / MIB {
        file.read_exact_at(buffer.bytes_mut(), piece * MIB).unwrap();
        assert_eq!(content.check(piece * MIB, &buffer.bytes()[..4096]), Ok(()));
    }
}

/// While a file is read in order.
fn pieces_become_small(world: &World) -> bool {
    let is_small = || world.tuning()["piece_bytes"].as_u64().unwrap() <= 256 << 10;
    let (path, content) = (world.mount.join("file"), world.content);
    let reading = std::thread::spawn(move || read_in_order(&path, content, 256 * MIB));
    while !reading.is_finished() && !is_small() {
        std::thread::sleep(Duration::from_millis(50));
    }
    with_time_limit(&world.scratch, LIMIT, move || reading.join().unwrap());
    is_small()
}

#[test]
fn pieces_become_small_on_a_thin_link_and_the_reason_is_told() {
    // On a machine that is busy all may be read before anything is decided.
    let world = (0..3)
        .map(|_| World::new("tuning-thin", 1000, 20_000_000, 256 * MIB, &[]))
        .find(pieces_become_small)
        .expect("smaller pieces in one of three reads");
    assert!(world.has_decided("piece size 1.0 MiB -> "));
    assert!(world.logged().contains("tuning: piece size 1.0 MiB -> "));
    let output = world.mount.command("status", &[], LIMIT);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(words.contains("pieces at once, of "), "{words}");
    assert_eq!(world.backend.counters().bytes_read, 256 * MIB);
}

#[test]
fn more_pieces_at_once_are_tried_where_readers_wait_for_a_place() {
    let world = World::new(
        "tuning-crowd",
        100_000,
        1 << 30,
        512 * MIB,
        &["max_concurrent=64"],
    );
    assert_eq!(world.tuning()["pieces_in_flight"], 32);
    let next = AtomicU64::new(0);
    let content = world.content;
    let load = world.load(60, move |path, _| {
        // Nothing twice, and in no order.
        let block = next.fetch_add(1, Ordering::Relaxed) * 12_289 % (512 * MIB / BLOCK_BYTES);
        let mut buffer = AlignedBuffer::new(4096);
        let file = open_direct(path).unwrap();
        let offset = block * BLOCK_BYTES;
        file.read_exact_at(buffer.bytes_mut(), offset).unwrap();
        assert_eq!(content.check(offset, buffer.bytes()), Ok(()));
    });
    let tried = "pieces at once 32 -> 64: tried, as others wait for a place";
    wait_until(LIMIT, "more to be tried", || world.has_decided(tried));
    // What comes of it is a matter of the machine, too.
    wait_until(LIMIT, "the trial to end", || {
        let decisions = world.tuning()["decisions"].as_u64().unwrap();
        let is_kept = world.has_decided("pieces at once 64: kept");
        is_kept || decisions >= 2 && !long_run()
    });
    load.end();
    let pieces = world.tuning()["pieces_in_flight"].as_u64().unwrap();
    assert!((2..=64).contains(&pieces), "{pieces}");
}

#[test]
fn readahead_is_tried_shorter_where_much_is_fetched_in_vain() {
    let world = World::new("tuning-waste", 1000, 200_000_000, 128 * MIB, &[]);
    let content = world.content;
    let tried = "readahead 64.0 MiB -> 16.0 MiB: tried, as much is fetched ahead in vain";
    wait_until(LIMIT, "less to be tried", || {
        // A program that looks at the front of a file, again and again.
        read_in_order(&world.mount.join("file"), content, 8 * MIB);
        world.mount.command("evict", &[], LIMIT);
        world.has_decided(tried)
    });
    let readahead = world.tuning()["readahead_bytes"].as_u64().unwrap();
    assert!(readahead <= 64 * MIB, "{readahead}");
}

#[test]
fn nothing_is_tuned_where_that_is_switched_off() {
    let options = ["adaptive=off", "max_concurrent=48", "readahead=8M"];
    let world = World::new("tuning-off", 1000, 40_000_000, 160 * MIB, &options);
    let (path, content) = (world.mount.join("file"), world.content);
    with_time_limit(&world.scratch, LIMIT, move || {
        read_in_order(&path, content, 160 * MIB);
    });
    let tuning = world.tuning();
    let number = |name: &str| tuning[name].as_u64().unwrap();
    assert_eq!(
        (&tuning["adaptive"], number("decisions")),
        (&false.into(), 0)
    );
    assert_eq!(number("pieces_in_flight"), 48);
    assert_eq!(number("piece_bytes"), MIB);
    assert_eq!(number("readahead_bytes"), 8 * MIB);
    assert!(!world.logged().contains("tuning:"));
}
