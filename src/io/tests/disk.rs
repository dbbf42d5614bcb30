use super::*;
use nix::sys::mman::{MapFlags, ProtFlags};

fn blocking() -> Arc<Engine> {
    Engine::start(EngineSettings {
        kind: EngineKind::Blocking,
        ..EngineSettings::default()
    })
    .unwrap()
}

#[test]
fn names_are_made_listed_renamed_and_removed() {
    let scratch = Scratch::new();
    let disk = scratch.disk(&blocking());
    disk.create_directory("objects").unwrap();
    disk.create_directory("objects").unwrap();
    disk.create_directory("objects/00").unwrap();
    drop(create(&disk, "objects/00/a", b"a"));
    drop(create(&disk, "objects/00/b", b"b"));
    let again = disk.open("objects/00/a", OpenMode::CreateNew);
    assert_eq!(again.err().unwrap().raw_os_error(), Some(libc::EEXIST));
    disk.rename("objects/00/a", "objects/00/b").unwrap();
    disk.sync_directory("objects/00").unwrap();
    disk.sync_all().unwrap();
    let mut names = Vec::new();
    let mut collect = |name: &str| {
        names.push(name.to_owned());
        true
    };
    disk.list("objects/00", &mut collect).unwrap();
    assert_eq!(names, ["b"]);
    let file = disk.open("objects/00/b", OpenMode::Read).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, *b"a");
    disk.remove_file("objects/00/b").unwrap();
    let gone = disk.open("objects/00/b", OpenMode::Read);
    assert_eq!(gone.err().unwrap().raw_os_error(), Some(libc::ENOENT));
    let not_a_directory = disk.create_directory("objects/../objects");
    assert!(
        not_a_directory.is_ok(),
        "'..' that stays beneath is harmless"
    );
    assert!(disk.space().unwrap().total_bytes > 0);
}

#[test]
fn a_listing_is_whole_and_ends_when_asked() {
    let scratch = Scratch::new();
    let disk = scratch.disk(&blocking());
    for number in 0..3000 {
        std::fs::write(
            scratch
                .path()
                .join(format!("a-rather-long-name-{number:05}")),
            b"",
        )
        .unwrap();
    }
    let mut names = std::collections::BTreeSet::new();
    disk.list("", &mut |name| names.insert(name.to_owned()))
        .unwrap();
    assert_eq!(names.len(), 3000);
    let mut seen = 0;
    let mut stop_at_ten = |_: &str| {
        seen += 1;
        seen < 10
    };
    disk.list("", &mut stop_at_ten).unwrap();
    assert_eq!(seen, 10);
}

#[test]
fn nothing_outside_the_root_is_reached() {
    let scratch = Scratch::new();
    let inside = scratch.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(scratch.path().join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
    std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
    let disk = open_disk(&inside, &blocking());
    for path in ["link", "up/secret", "../secret", "/etc/passwd"] {
        assert!(disk.open(path, OpenMode::Read).is_err(), "{path}");
        assert!(disk.open(path, OpenMode::ReadWrite).is_err(), "{path}");
    }
    assert!(disk.create_directory("up/x").is_err());
    assert!(disk.remove_file("../secret").is_err());
    assert!(disk.rename("link", "../link").is_err());
    assert!(disk.create_directory("link").is_err());
}

#[test]
fn facts_are_those_of_the_file() {
    let scratch = Scratch::new();
    let disk = scratch.disk(&blocking());
    let file = create(&disk, "object", &pattern(10_000, 21));
    file.set_size(1 << 20).unwrap();
    file.sync_data().unwrap();
    let facts = file.facts().unwrap();
    assert_eq!(facts.size_bytes, 1 << 20);
    assert!(facts.is_regular);
    assert_eq!(facts.link_count, 1);
    assert_eq!(facts.owner_uid, nix::unistd::geteuid().as_raw());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let age_ns = now.as_nanos() as i128 - facts.mtime_ns;
    assert!(age_ns.abs() < 60_000_000_000, "{age_ns}");
    if disk.supports_holes() {
        assert!(facts.allocated_bytes < 1 << 20);
    }
}

#[test]
fn a_file_is_exclusive_only_when_nobody_has_it_open_or_mapped() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let path = scratch.path().join("object");
        drop(create(&disk, "object", &pattern(1 << 20, 22)));
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let file = disk.open("object", mode).unwrap();
            assert!(file.is_exclusive(), "{name}");
            // A direct read opens our own second descriptor, which must not count.
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let done =
                move |result: std::io::Result<usize>, _| sender.send(result.unwrap()).unwrap();
            file.submit_read(engine.take_buffer(4096), 0, 4096, true, Box::new(done));
            assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), 4096, "{name}");
            assert!(
                file.is_exclusive(),
                "{name}: a completed read holds nothing"
            );
            let other = std::fs::File::open(&path).unwrap();
            assert!(!file.is_exclusive(), "{name}: open elsewhere");
            let length = std::num::NonZero::new(4096).unwrap();
            let mapping = map_private(&other, length);
            drop(other);
            assert!(!file.is_exclusive(), "{name}: mapped elsewhere");
            unmap(mapping, length);
            assert!(file.is_exclusive(), "{name}: all let go");
        }
    }
}

#[allow(unsafe_code)]
fn map_private(
    file: &std::fs::File,
    length: std::num::NonZero<usize>,
) -> std::ptr::NonNull<std::ffi::c_void> {
    let (protection, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice, never dereferenced.
    unsafe { nix::sys::mman::mmap(None, length, protection, flags, file, 0).unwrap() }
}

#[allow(unsafe_code)]
fn unmap(mapping: std::ptr::NonNull<std::ffi::c_void>, length: std::num::NonZero<usize>) {
    // SAFETY: exactly the mapping made by `map_private`, which nobody uses.
    unsafe { nix::sys::mman::munmap(mapping, length.get()).unwrap() }
}

#[test]
fn an_open_that_breaks_our_lease_does_not_kill_us() {
    let scratch = Scratch::new();
    let disk = scratch.disk(&blocking());
    let file = create(&disk, "object", b"bytes");
    let path = scratch.path().join("object");
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            for _ in 0..2000 {
                drop(std::fs::File::open(&path).unwrap());
            }
        });
        while !opener.is_finished() {
            file.is_exclusive();
        }
    });
    assert!(file.is_exclusive());
}

#[test]
fn random_access_changes_no_bytes() {
    let scratch = Scratch::new();
    let disk = scratch.disk(&blocking());
    let content = pattern(300_000, 23);
    let file = create(&disk, "object", &content);
    file.set_random_access(true);
    let mut bytes = vec![0; content.len()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), content.len());
    assert!(bytes == content);
    file.set_random_access(false);
}

#[test]
fn bytes_written_past_the_page_cache_are_those_read_through_it() {
    const LENGTH: usize = 1 << 20;
    let scratch = Scratch::new();
    let disk = scratch.disk(&blocking());
    let file = create(&disk, "object", &pattern(LENGTH, 3));
    // In pages before, so that old ones would show.
    let mut seen = vec![0; 2 * LENGTH];
    assert_eq!(file.read_at(&mut seen, 0).unwrap(), LENGTH);
    let content = pattern(LENGTH, 29);
    let mut memory = vec![0; LENGTH + 4096];
    let start = memory.as_ptr().align_offset(4096);
    // Of an aligned piece of memory, and of one that is not; at offsets of both kinds.
    for (shift, offset) in [(0, LENGTH), (0, 0), (1, LENGTH), (0, 4097)] {
        let data = &mut memory[start + shift..][..LENGTH - shift];
        data.copy_from_slice(&content[shift..]);
        file.write_past_cache(data, offset as u64).unwrap();
        let length = file.read_at(&mut seen, 0).unwrap();
        assert!(length >= offset + data.len());
        assert!(seen[offset..][..data.len()] == *data, "{shift} {offset}");
    }
}

#[test]
fn every_feature_asked_for_is_in_the_report_with_a_reason() {
    let settings = EngineSettings {
        polling: true,
        sq_poll_idle: Some(Duration::from_millis(10)),
        huge_pages: true,
        numa_aware: true,
        ..EngineSettings::default()
    };
    let names = |engine: &Engine| {
        let mut names: Vec<_> = engine.report().features.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names
    };
    let all = ["fixed_buffers", "huge_pages", "numa", "polling", "sqpoll"];
    for kind in [EngineKind::Auto, EngineKind::Blocking] {
        let scratch = Scratch::new();
        let engine = Engine::start(EngineSettings {
            kind,
            ..settings.clone()
        })
        .unwrap();
        let disk = scratch.disk(&engine);
        assert_eq!(names(&engine), all);
        assert!(
            engine
                .report()
                .features
                .iter()
                .all(|f| !f.detail.is_empty())
        );
        eprintln!("{:#?}\n{:#?}", engine.report(), disk.report());
        let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
        assert!(left.is_empty(), "probing leaves nothing behind");
    }
    let plain = EngineSettings {
        fixed_buffers: false,
        ..EngineSettings::default()
    };
    assert!(names(&Engine::start(plain).unwrap()).is_empty());
}
