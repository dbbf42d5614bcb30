//! Writing through the mount: what was written is what the mount and the backend show, at once.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::reading::AlignedBuffer;
use support::writing::{WritableMapping, allocate, copy_range, open_with, read_write};
use support::*;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

struct Place {
    mount: Mount,
    plain: PathBuf,
    scratch: Scratch,
}

impl Place {
    fn new(test: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let plain = scratch.directory("plain");
        let mut mount_options = MountOptions::new(&scratch);
        for option in options {
            mount_options = mount_options.with(option);
        }
        let mount = Mount::start(&scratch, &plain, mount_options);
        Self {
            mount,
            plain,
            scratch,
        }
    }

    /// Runs `work` with the mount's and the backend's directory.
    fn run(&self, work: impl FnOnce(&Path, &Path) + Send + 'static) {
        let (mount, plain) = (self.mount.path().to_owned(), self.plain.clone());
        with_time_limit(&self.scratch, LIMIT, move || work(&mount, &plain));
    }
}

/// The file is these bytes, on the mount and on the backend.
fn expect(mount: &Path, plain: &Path, name: &str, bytes: &[u8]) {
    for directory in [plain, mount] {
        let path = directory.join(name);
        let found = fs::read(&path).unwrap();
        assert!(found == bytes, "{}: other bytes", path.display());
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    }
}

fn written_files_are_whole(test: &str, options: &[&str]) {
    let place = Place::new(test, options);
    let seed = Random::from_environment(test).next();
    place.run(move |mount, plain| {
        for (index, size) in [0, 1, 4095, 4096, 70_000, 3 * MIB + 17]
            .into_iter()
            .enumerate()
        {
            let name = format!("file{index}");
            let content = Content::new(seed, index as u64, size as u64).bytes(0, size);
            fs::write(mount.join(&name), &content).unwrap();
            expect(mount, plain, &name, &content);
            // Once more over it, shorter, and read through one handle while it is written.
            let shorter = &content[..size / 2];
            fs::write(mount.join(&name), shorter).unwrap();
            expect(mount, plain, &name, shorter);
            let mut file = read_write(&mount.join(&name));
            file.write_all_at(b"in the middle", 10).unwrap();
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"at the end").unwrap();
            let mut present = fs::read(plain.join(&name)).unwrap();
            assert!(present.ends_with(b"at the end"));
            assert_eq!(&present[10..23], b"in the middle");
            let mut seen = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut seen).unwrap();
            assert!(seen == present, "{name}: the writer reads other bytes");
            drop(file);
            expect(mount, plain, &name, &std::mem::take(&mut present));
        }
    });
}

#[test]
fn what_is_written_is_read_back_here_and_on_the_backend() {
    written_files_are_whole("writing", &[]);
}

#[test]
fn what_is_written_is_read_back_without_passthrough() {
    written_files_are_whole("writing-daemon", &["passthrough=off"]);
}

#[test]
fn what_is_written_is_read_back_with_direct_io() {
    written_files_are_whole("writing-direct", &["direct_io"]);
}

#[test]
fn appends_go_to_the_end_whoever_moved_it() {
    let place = Place::new("appending", &[]);
    place.run(|mount, plain| {
        let append = |path: PathBuf| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .unwrap()
        };
        let mut one = append(mount.join("log"));
        let mut two = append(mount.join("log"));
        let mut foreign = append(plain.join("log"));
        let mut expected = Vec::new();
        for round in 0..200 {
            for (who, file) in [
                ("one", &mut one),
                ("two", &mut two),
                ("foreign", &mut foreign),
            ] {
                let line = format!("{who} {round}\n");
                file.write_all(line.as_bytes()).unwrap();
                expected.extend(line.as_bytes());
            }
        }
        assert!(
            fs::read(plain.join("log")).unwrap() == expected,
            "lines were lost or moved"
        );
        drop((one, two, foreign));
        expect(mount, plain, "log", &expected);
    });
}

#[test]
fn an_open_creates_truncates_and_refuses_as_it_is_asked() {
    let place = Place::new("open-flags", &[]);
    place.run(|mount, plain| {
        let path = mount.join("file");
        let new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path)
            .unwrap();
        new.write_all_at(b"first", 0).unwrap();
        assert_eq!(
            fs::metadata(plain.join("file")).unwrap().mode() & 0o777,
            0o640
        );
        let again = OpenOptions::new().write(true).create_new(true).open(&path);
        assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EEXIST));
        // A name made behind our back, which the kernel still takes for absent.
        assert!(fs::metadata(mount.join("other")).is_err());
        fs::write(plain.join("other"), b"somebody else's").unwrap();
        let found = OpenOptions::new()
            .append(true)
            .create(true)
            .open(mount.join("other"))
            .unwrap();
        (&found).write_all(b", and ours").unwrap();
        expect(mount, plain, "other", b"somebody else's, and ours");
        let truncating = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_TRUNC)
            .open(&path)
            .unwrap();
        assert_eq!(truncating.metadata().unwrap().len(), 0);
        expect(mount, plain, "file", b"");
        // Read-only for everybody, but for who makes it.
        let frozen = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(mount.join("frozen"))
            .unwrap();
        (&frozen).write_all(b"once").unwrap();
        drop(frozen);
        expect(mount, plain, "frozen", b"once");
    });
}

#[test]
fn direct_writes_of_any_alignment_are_seen_through_the_page_cache() {
    let place = Place::new("writing-o-direct", &[]);
    place.run(|mount, plain| {
        let path = mount.join("file");
        let mut expected = vec![7u8; 100_000];
        fs::write(&path, &expected).unwrap();
        let cached = File::open(&path).unwrap();
        let direct = open_with(&path, libc::O_DIRECT).unwrap();
        let mut random = Random::from_environment("writing-o-direct");
        for round in 0..100 {
            let mut seen = vec![0; expected.len()];
            cached.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == expected, "round {round}: stale pages");
            let aligned = round % 2 == 0;
            let (offset, length) = match aligned {
                true => (random.below(20) * 4096, 4096),
                false => (random.below(90_000), 1 + random.below(9_000)),
            };
            let mut buffer = AlignedBuffer::new(length as usize);
            buffer.bytes_mut().fill(round as u8);
            direct.write_all_at(buffer.bytes(), offset).unwrap();
            expected[offset as usize..(offset + length) as usize].fill(round as u8);
        }
        drop(direct);
        drop(cached);
        expect(mount, plain, "file", &expected);
    });
}

#[test]
fn ranges_are_allocated_zeroed_and_punched() {
    let place = Place::new("fallocate", &[]);
    place.run(|mount, plain| {
        let path = mount.join("file");
        let mut expected = vec![9u8; 200_000];
        fs::write(&path, &expected).unwrap();
        let file = read_write(&path);
        allocate(&file, libc::FALLOC_FL_KEEP_SIZE, 200_000, 100_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 200_000);
        allocate(&file, 0, 250_000, 10_000).unwrap();
        expected.resize(260_000, 0);
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        allocate(&file, punch, 5_000, 90_000).unwrap();
        expected[5_000..95_000].fill(0);
        allocate(&file, libc::FALLOC_FL_ZERO_RANGE, 120_001, 333).unwrap();
        expected[120_001..120_334].fill(0);
        let collapse = allocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
        assert_eq!(collapse.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        let mut seen = vec![1; expected.len()];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "the writer reads other bytes");
        drop(file);
        expect(mount, plain, "file", &expected);
    });
}

#[test]
fn ranges_are_copied_between_files_and_within_one() {
    let place = Place::new("copy-range", &[]);
    place.run(|mount, plain| {
        let content = Content::new(5, 1, 3 * MIB as u64).bytes(0, 3 * MIB);
        fs::write(plain.join("from"), &content).unwrap();
        let from = File::open(mount.join("from")).unwrap();
        let to = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(mount.join("to"))
            .unwrap();
        let copied = copy_range(&from, 100, &to, 10, 2 * MIB).unwrap();
        assert!(copied > 0 && copied <= 2 * MIB);
        let mut expected = vec![0; 10];
        expected.extend(&content[100..100 + copied]);
        let within = copy_range(&to, 0, &to, 5 << 20, 1000).unwrap();
        expected.resize(5 << 20, 0);
        let front = expected[..within].to_vec();
        expected.extend(front);
        drop((from, to));
        expect(mount, plain, "to", &expected);
    });
}

#[test]
fn mapped_stores_are_on_the_backend_after_msync_munmap_and_close() {
    let place = Place::new("mapped-stores", &[]);
    place.run(|mount, plain| {
        let path = mount.join("file");
        let mut expected = vec![1u8; 100_000];
        fs::write(&path, &expected).unwrap();
        let file = read_write(&path);
        let mapping = WritableMapping::new(&file, expected.len()).unwrap();
        mapping.store(5_000, b"stored");
        expected[5_000..5_006].copy_from_slice(b"stored");
        mapping.sync().unwrap();
        assert!(
            fs::read(plain.join("file")).unwrap() == expected,
            "after msync"
        );
        mapping.store(50_000, b"before close");
        expected[50_000..50_012].copy_from_slice(b"before close");
        drop(file);
        assert!(
            fs::read(plain.join("file")).unwrap() == expected,
            "after close"
        );
        // What is written beside it is seen in the mapping.
        read_write(&path).write_all_at(b"written", 90_000).unwrap();
        expected[90_000..90_007].copy_from_slice(b"written");
        assert_eq!(mapping.load(90_000, 7), b"written");
        mapping.store(70_000, b"after close");
        expected[70_000..70_011].copy_from_slice(b"after close");
        drop(mapping);
        expect(mount, plain, "file", &expected);
    });
}

#[test]
fn holes_and_data_of_a_file_being_written_are_found() {
    let place = Place::new("seek-writing", &[]);
    place.run(|mount, plain| {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(mount.join("file"))
            .unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        let seek = |path: &Path, offset, whence| {
            let file = File::open(path).unwrap();
            nix::unistd::lseek(&file, offset, whence).map_err(|error| error as i32)
        };
        for (offset, whence) in [
            (0, nix::unistd::Whence::SeekData),
            (0, nix::unistd::Whence::SeekHole),
            (1 << 20, nix::unistd::Whence::SeekHole),
            (5 << 20, nix::unistd::Whence::SeekData),
        ] {
            let here = seek(&mount.join("file"), offset, whence);
            assert_eq!(
                here,
                seek(&plain.join("file"), offset, whence),
                "{offset} {whence:?}"
            );
        }
        drop(file);
    });
}

#[test]
fn a_file_without_a_name_is_written_and_read() {
    let place = Place::new("tmpfile", &[]);
    place.run(|mount, plain| {
        let file = open_with(mount, libc::O_TMPFILE).unwrap();
        file.write_all_at(b"nameless", 0).unwrap();
        let mut seen = [0; 8];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"nameless");
        assert_eq!(file.metadata().unwrap().len(), 8);
        assert_eq!(fs::read_dir(plain).unwrap().count(), 0);
    });
}

#[test]
fn files_belong_to_who_makes_them_and_rights_are_the_callers() {
    let place = Place::new("writing-identity", &[]);
    fs::set_permissions(&place.plain, fs::Permissions::from_mode(0o777)).unwrap();
    for part in [place.scratch.path(), place.mount.path()] {
        fs::set_permissions(part, fs::Permissions::from_mode(0o777)).unwrap_or_default();
    }
    fs::write(place.plain.join("roots"), b"root's").unwrap();
    let script = "umask 027; echo mine > mine && ! echo x 2>/dev/null >> roots && ls -ln mine";
    let mut command = std::process::Command::new("setpriv");
    command
        .args([
            "--reuid=1234",
            "--regid=2345",
            "--groups=3456",
            "sh",
            "-c",
            script,
        ])
        .current_dir(place.mount.path());
    let output = process::run(command, LIMIT);
    assert!(output.status.success(), "{output:?}");
    let facts = fs::metadata(place.plain.join("mine")).unwrap();
    assert_eq!(
        (facts.uid(), facts.gid(), facts.mode() & 0o777),
        (1234, 2345, 0o640)
    );
    assert_eq!(fs::read(place.plain.join("roots")).unwrap(), b"root's");
}

#[test]
fn what_was_written_is_cached_by_the_next_open_and_changes_after_it_are_seen() {
    let place = Place::new("written-then-cached", &[]);
    place.run(|mount, plain| {
        let path = mount.join("file");
        for round in 0u8..20 {
            fs::write(&path, vec![round; 300_000]).unwrap();
            expect(mount, plain, "file", &vec![round; 300_000]);
            fs::write(plain.join("file"), vec![round ^ 0x80; 300_000]).unwrap();
            expect(mount, plain, "file", &vec![round ^ 0x80; 300_000]);
        }
    });
}
