//! Files of a directory that are opened one after the other: looked up and fetched ahead of the walker.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};
use support::content::expect_content;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);
const OFF: &str = "readahead=0";
/// What a client of NFS believes names for.
const TTL_MS: u64 = 30_000;

struct World {
    // In this order: the mount goes before its backend, the directory last.
    mount: Mount,
    backend: FaultBackend,
    scratch: Scratch,
}

fn like_nfs() -> BackendOptions {
    BackendOptions {
        ttl_ms: TTL_MS,
        ..Default::default()
    }
}

fn content(file: u64) -> Content {
    Content::new(500 + file, 1, 2000 + file * 37 % 30_000)
}

fn name(file: u64) -> String {
    format!("walked/f{file:05}")
}

impl World {
    fn new(test: &str, files: u64, server: BackendOptions, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let backend = FaultBackend::start(&scratch, server);
        fs::create_dir(backend.plain.join("walked")).unwrap();
        for file in 0..files {
            content(file)
                .create(&backend.plain.join(name(file)))
                .unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        // A server's clock that has come on: nothing waits for a version to settle.
        fs::write(backend.plain.join("newer"), "x").unwrap();
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
        fs::metadata(mount.join("newer")).unwrap();
        Self {
            mount,
            backend,
            scratch,
        }
    }

    fn number(&self, name: &str) -> u64 {
        self.mount.status_number(&format!("cache.{name}"))
    }
}

/// The files in the order of their listing, which is read to its end, as find(1) does it.
fn listed(root: &Path) -> Vec<u64> {
    let names = fs::read_dir(root.join("walked")).unwrap();
    let number = |name: String| name[1..].parse().unwrap();
    names
        .map(|entry| number(entry.unwrap().file_name().into_string().unwrap()))
        .collect()
}

/// Opens, reads and closes one file after the other; how long that took.
fn walk(root: &Path, files: &[u64]) -> Duration {
    let began = Instant::now();
    for file in files {
        let read = fs::read(root.join(name(*file))).unwrap();
        assert_eq!(content(*file).check(0, &read), Ok(()));
        assert_eq!(read.len() as u64, content(*file).size_bytes);
    }
    began.elapsed()
}

#[test]
fn a_walk_is_several_times_faster_than_reading_the_backend_one_by_one() {
    let files = sample_or_full(80, 2000);
    let times = [false, true].map(|through_mount| {
        let world = World::new("walk-far", files, like_nfs(), &[]);
        let root = match through_mount {
            true => world.mount.path().to_owned(),
            false => world.backend.mountpoint.clone(),
        };
        world.backend.set_network(Network {
            latency_us: 20_000,
            bandwidth_bytes_per_s: None,
        });
        with_time_limit(&world.scratch, LIMIT, move || walk(&root, &listed(&root)))
    });
    let [without, with] = times;
    // On a machine busy with other things these take up a part of both.
    let factor = sample_or_full(2, 3);
    assert!(
        with * factor <= without,
        "{with:?}, and {without:?} from the backend"
    );
}

#[test]
fn a_walk_goes_on_from_directory_to_directory() {
    const DIRECTORIES: u64 = 20;
    const FILES: u64 = 8;
    let world = World::new("walk-tree", 1, like_nfs(), &[]);
    let name = |directory: u64, file: u64| format!("d{directory}/f{file}");
    for directory in 0..DIRECTORIES {
        fs::create_dir(world.backend.plain.join(format!("d{directory}"))).unwrap();
        for file in 0..FILES {
            let path = world.backend.plain.join(name(directory, file));
            content(file).create(&path).unwrap();
        }
    }
    let mount = world.mount.path().to_owned();
    with_time_limit(&world.scratch, LIMIT, move || {
        for directory in 0..DIRECTORIES {
            let files = fs::read_dir(mount.join(format!("d{directory}"))).unwrap();
            let paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
            assert_eq!(paths.len() as u64, FILES);
            for path in paths {
                fs::read(path).unwrap();
            }
        }
    });
    let of_one: u64 = (0..FILES).map(|file| content(file).size_bytes).sum();
    let total = of_one * DIRECTORIES;
    let used = world.number("readahead_used_bytes");
    assert!(
        used * 2 >= total,
        "{used} of {total} bytes were there in time"
    );
}

/// Walkers who take turns, as several workers of one list do.
#[test]
fn several_walkers_of_one_directory_are_followed() {
    let world = World::new("walk-several", 200, like_nfs(), &[]);
    let mount = world.mount.path().to_owned();
    with_time_limit(&world.scratch, LIMIT, move || {
        let order = listed(&mount);
        std::thread::scope(|scope| {
            for part in order.chunks(50) {
                let mount = &mount;
                scope.spawn(move || walk(mount, part));
            }
        });
    });
    let total: u64 = (0..200).map(|file| content(file).size_bytes).sum();
    let used = world.number("readahead_used_bytes");
    assert!(
        used * 2 >= total,
        "{used} of {total} bytes were there in time"
    );
    assert_eq!(world.backend.counters().bytes_read, total);
}

#[test]
fn a_walk_asks_the_backend_no_more_than_without_readahead() {
    let calls = [&[OFF][..], &[]].map(|options| {
        let world = World::new("walk-calls", 200, like_nfs(), options);
        let mount = world.mount.path().to_owned();
        let order = listed(&mount);
        world.backend.reset_counters();
        with_time_limit(&world.scratch, LIMIT, move || walk(&mount, &order));
        world.backend.counters().all_calls()
    });
    let [without, with] = calls;
    assert!(with * 10 <= without * 11, "{with}, and {without} without");
}

#[test]
fn opens_without_an_order_fetch_next_to_nothing_ahead() {
    let world = World::new("walk-scattered", 300, like_nfs(), &[]);
    let mount = world.mount.path().to_owned();
    with_time_limit(&world.scratch, LIMIT, move || {
        let order = listed(&mount);
        let scattered: Vec<u64> = (0..60).map(|step| order[step * 113 % 300]).collect();
        walk(&mount, &scattered);
    });
    let opened = 60;
    let fetched = world.backend.counters().reads_by_file.len();
    assert!(fetched <= opened + 20, "{fetched} files for {opened} opens");
}

#[test]
fn a_file_that_changes_after_it_was_fetched_ahead_is_read_as_it_is() {
    // Whoever changes a file here is another client: names are not believed.
    let world = World::new("walk-changed", 60, BackendOptions::default(), &[]);
    let mount = world.mount.path().to_owned();
    let order = with_time_limit(&world.scratch, LIMIT, {
        let mount = mount.clone();
        move || listed(&mount)
    });
    walk(&mount, &order[..20]);
    let next = order[21];
    wait_until(LIMIT, "a file to be fetched ahead", || {
        let counters = world.backend.counters();
        counters.reads_by_file.contains_key(&name(next))
    });
    let changed = [order[21], order[22], order[23]];
    let plain = &world.backend.plain;
    let new = |file: u64| Content {
        version: 2,
        ..content(file)
    };
    for file in &changed[..2] {
        new(*file).replace(&plain.join(name(*file))).unwrap();
    }
    let in_place = File::options()
        .write(true)
        .open(plain.join(name(changed[2])));
    new(changed[2]).write_to(&in_place.unwrap()).unwrap();
    walk(&mount, &order[20..21]);
    for file in changed {
        expect_content(&mount.join(name(file)), new(file));
    }
    walk(&mount, &order[24..]);
}

/// A walker is refused what is being fetched for them just when its owner opens it.
#[test]
fn who_may_read_a_file_reads_it_while_a_walker_is_refused() {
    let server = BackendOptions {
        squash: true,
        ..Default::default()
    };
    let world = World::new("walk-refused-beside", 60, server, &[]);
    let order = listed(&world.backend.mountpoint);
    let wanted = order[20];
    let there = world.backend.plain.join(name(wanted));
    chown(&there, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    fs::set_permissions(&there, Permissions::from_mode(0o600)).unwrap();
    let rule = Rule::new(Operation::Open, &name(wanted), Action::Hang);
    world.backend.add_rule(rule.limit_calls(1));
    let mount = world.mount.path().to_owned();
    with_time_limit(&world.scratch, LIMIT, move || {
        as_user(USER, move || {
            walk(&mount, &listed(&mount)[..20]);
            Ok(())
        })
        .unwrap();
    });
    world.backend.wait_for_hung(1);
    let path = world.mount.join(name(wanted));
    let owner = std::thread::spawn(move || as_user(OTHER_USER, || fs::read(path)));
    std::thread::sleep(Duration::from_secs(1));
    world.backend.release(None);
    let read = owner.join().unwrap().unwrap();
    assert_eq!(content(wanted).check(0, &read), Ok(()));
    assert_eq!(read.len() as u64, content(wanted).size_bytes);
}

/// The backend alone decides, and root is nobody there.
#[test]
fn nothing_is_fetched_ahead_that_the_walker_may_not_read() {
    let server = BackendOptions {
        squash: true,
        ..Default::default()
    };
    let world = World::new("walk-refused", 60, server, &[]);
    let plain = world.backend.plain.join("walked");
    let order = listed(&world.backend.mountpoint);
    let forbidden = &order[20..30];
    for file in &order {
        let path = world.backend.plain.join(name(*file));
        let mode = match forbidden.contains(file) {
            true => 0o600,
            false => 0o644,
        };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    }
    fs::set_permissions(&plain, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&world.backend.plain, Permissions::from_mode(0o755)).unwrap();
    world.backend.reset_counters();
    let mount = world.mount.path().to_owned();
    let walked = order.clone();
    with_time_limit(&world.scratch, LIMIT, move || {
        as_user(USER, move || {
            let order = listed(&mount);
            assert_eq!(order, walked);
            walk(&mount, &order[..20]);
            assert!(File::open(mount.join(name(order[20]))).is_err());
            walk(&mount, &order[30..]);
            Ok(())
        })
        .unwrap();
    });
    let read = world.backend.counters().reads_by_file;
    for file in forbidden {
        assert!(!read.contains_key(&name(*file)), "{} was read", name(*file));
    }
}
