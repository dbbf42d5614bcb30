//! Each bad input ends with an exit status and a message that names what is wrong; and nothing is
//! served from a cache that there is reason to doubt.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::content::expect_content;
use support::mount::{PROGRAM, private_directory};
use support::scratch::mount_at;
use support::*;

const LIMIT: Duration = Duration::from_secs(30);

struct Attempt {
    backend: PathBuf,
    mountpoint: PathBuf,
    options: String,
}

impl Attempt {
    /// One that would work.
    fn good(scratch: &Scratch) -> Self {
        let cache = scratch.path().join("cache");
        private_directory(&cache);
        Self {
            backend: scratch.directory("plain"),
            mountpoint: scratch.directory("mount"),
            options: format!("cache_dir={}", cache.display()),
        }
    }

    fn with_cache(scratch: &Scratch, cache: &Path) -> Self {
        Self {
            options: format!("cache_dir={}", cache.display()),
            ..Self::good(scratch)
        }
    }

    fn run(&self, foreground: bool) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .arg("mount")
            .arg(&self.backend)
            .arg(&self.mountpoint);
        command.args(["-o", &self.options]);
        if foreground {
            command.arg("-f");
        }
        support::process::run(command, LIMIT)
    }

    /// Fails in both forms, naming `culprit`, and leaves nothing mounted.
    fn expect_refusal(&self, culprit: &str) {
        for foreground in [true, false] {
            let output = self.run(foreground);
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "accepted, -f {foreground}");
            assert!(
                output.status.code().is_some(),
                "ended by a signal: {message}"
            );
            assert!(
                message.contains(culprit),
                "{message:?} does not name {culprit}"
            );
            assert!(!message.contains("panicked"), "{message}");
        }
    }

    fn expect_refusal_unmounted(&self, culprit: &Path) {
        self.expect_refusal(&culprit.display().to_string());
        assert!(mount_at(&self.mountpoint).is_none(), "something is mounted");
    }
}

#[test]
fn a_backend_that_is_missing_or_no_directory_is_refused() {
    let scratch = Scratch::new("bad-backend");
    let mut attempt = Attempt::good(&scratch);
    attempt.backend = scratch.path().join("missing");
    attempt.expect_refusal_unmounted(&attempt.backend);
    attempt.backend = scratch.path().join("file");
    fs::write(&attempt.backend, b"text").unwrap();
    attempt.expect_refusal_unmounted(&attempt.backend);
}

#[test]
fn a_backend_that_cannot_be_read_is_refused() {
    let scratch = Scratch::new("bad-unreadable");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let attempt = Attempt {
        backend: backend.mountpoint.clone(),
        ..Attempt::good(&scratch)
    };
    for operation in [Operation::Opendir, Operation::Readdir] {
        backend.add_rule(Rule::new(operation, "*", Action::Errno(libc::EACCES)));
    }
    attempt.expect_refusal_unmounted(&backend.mountpoint);
}

#[test]
fn a_mountpoint_that_is_missing_or_a_file_is_refused() {
    let scratch = Scratch::new("bad-mountpoint");
    let mut attempt = Attempt::good(&scratch);
    attempt.mountpoint = scratch.path().join("missing");
    attempt.expect_refusal_unmounted(&attempt.mountpoint);
    attempt.mountpoint = scratch.path().join("file");
    fs::write(&attempt.mountpoint, b"text").unwrap();
    attempt.expect_refusal_unmounted(&attempt.mountpoint);
}

#[test]
fn a_cache_directory_inside_backend_or_mount_is_refused() {
    let scratch = Scratch::new("bad-inside");
    let mut attempt = Attempt::good(&scratch);
    for parent in [attempt.backend.clone(), attempt.mountpoint.clone()] {
        let inside = parent.join("cache");
        private_directory(&inside);
        attempt.options = format!("cache_dir={}", inside.display());
        attempt.expect_refusal_unmounted(&inside);
    }
}

#[test]
fn a_cache_directory_that_others_can_touch_is_refused() {
    let scratch = Scratch::new("bad-owner");
    let cache = scratch.path().join("foreign");
    private_directory(&cache);
    let attempt = Attempt::with_cache(&scratch, &cache);
    chown(&cache, Some(65534), Some(65534)).unwrap();
    attempt.expect_refusal_unmounted(&cache);
    chown(&cache, Some(0), Some(0)).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o770)).unwrap();
    attempt.expect_refusal_unmounted(&cache);
}

#[test]
fn a_cache_directory_that_is_a_symlink_or_a_file_is_refused() {
    let scratch = Scratch::new("bad-symlink");
    let target = scratch.path().join("target");
    private_directory(&target);
    let link = scratch.path().join("link");
    symlink(&target, &link).unwrap();
    let mut attempt = Attempt::with_cache(&scratch, &link);
    attempt.expect_refusal_unmounted(&link);
    let file = scratch.path().join("file");
    fs::write(&file, b"text").unwrap();
    attempt.options = format!("cache_dir={}", file.display());
    attempt.expect_refusal_unmounted(&file);
}

#[test]
fn a_cache_or_mountpoint_in_use_is_refused_and_the_first_mount_goes_on() {
    let scratch = Scratch::new("bad-in-use");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    fs::write(backend.plain.join("file"), b"text").unwrap();
    let mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let same_cache = Attempt {
        backend: backend.plain.clone(),
        mountpoint: scratch.directory("second"),
        options: format!("cache_dir={}", mount.cache_dir().display()),
    };
    same_cache.expect_refusal_unmounted(mount.cache_dir());
    let other_cache = scratch.path().join("other cache");
    private_directory(&other_cache);
    let same_mountpoint = Attempt {
        backend: backend.plain.clone(),
        mountpoint: mount.path().to_owned(),
        options: format!("cache_dir={}", other_cache.display()),
    };
    same_mountpoint.expect_refusal(&mount.path().display().to_string());
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"text");
}

#[test]
fn a_cache_filesystem_without_direct_io_is_refused() {
    let scratch = Scratch::new("bad-ramfs");
    let disk = scratch.directory("ramfs");
    mount_here(&disk, "ramfs", None);
    let cache = disk.join("cache");
    private_directory(&cache);
    Attempt::with_cache(&scratch, &cache).expect_refusal_unmounted(&cache);
}

#[test]
fn a_cache_filesystem_too_small_for_any_cache_is_refused() {
    let scratch = Scratch::new("bad-small");
    let disk = scratch.directory("tmpfs");
    mount_here(&disk, "tmpfs", Some("size=1m"));
    let cache = disk.join("cache");
    private_directory(&cache);
    let attempt = Attempt::with_cache(&scratch, &cache);
    attempt.expect_refusal("at least 16M");
    assert!(mount_at(&attempt.mountpoint).is_none());
}

fn mount_here(path: &Path, filesystem: &str, data: Option<&str>) {
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("test"), path, Some(filesystem), flags, data)
        .unwrap_or_else(|error| panic!("{filesystem} on {}: {error}", path.display()));
}

#[test]
fn options_that_are_not_understood_are_named_with_the_nearest() {
    let scratch = Scratch::new("bad-options");
    let mut attempt = Attempt::good(&scratch);
    let good = attempt.options.clone();
    for (option, named) in [
        ("cache_sise=1G", "cache_size"),
        ("cache_size=12Q", "cache_size"),
        ("backend_timeout=soon", "backend_timeout"),
        ("io_engine=steam", "io_engine"),
        ("passthroug=off", "passthrough"),
    ] {
        attempt.options = format!("{good},{option}");
        attempt.expect_refusal(named);
        let word = option.split('=').next().unwrap();
        attempt.expect_refusal(word);
    }
    assert!(mount_at(&attempt.mountpoint).is_none());
}

#[test]
fn commands_on_what_is_not_mounted_fail_and_name_it() {
    let scratch = Scratch::new("bad-commands");
    let path = scratch.directory("empty");
    for verb in ["status", "umount", "evict"] {
        let mut command = Command::new(PROGRAM);
        command.arg(verb).arg(&path);
        let output = support::process::run(command, LIMIT);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{verb} succeeded");
        assert!(
            message.contains(&path.display().to_string()),
            "{verb}: {message:?}"
        );
    }
}

/// Every regular file of a cache.
fn cache_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(cache_files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// Fills a cache, unmounts, lets `damage` loose on its files, mounts again: the bytes are right.
fn survives(test: &str, damage: impl Fn(&Path, &[PathBuf])) {
    let scratch = Scratch::new(test);
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let contents: Vec<(String, Content)> = (0..8)
        .map(|index| {
            (
                format!("file{index}"),
                Content::new(51 + index, 1, 300_000 * (index + 1)),
            )
        })
        .collect();
    for (name, content) in &contents {
        content.create(&backend.plain.join(name)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut mount = Mount::start(&scratch, &backend.mountpoint, MountOptions::new(&scratch));
    let check = |mount: &Mount| {
        let (path, contents) = (mount.path().to_owned(), contents.clone());
        with_time_limit(&scratch, Duration::from_secs(60), move || {
            for (name, content) in contents {
                expect_content(&path.join(name), content);
            }
        });
    };
    check(&mount);
    std::thread::sleep(Duration::from_secs(1));
    mount.umount();
    let files = cache_files(mount.cache_dir());
    assert!(!files.is_empty());
    damage(mount.cache_dir(), &files);
    mount.remount();
    check(&mount);
    check(&mount);
    mount.umount();
}

fn is_index(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "redb")
}

fn is_object(path: &Path) -> bool {
    path.components()
        .any(|component| component.as_os_str() == "objects")
}

#[test]
fn a_corrupt_index_is_set_aside_and_built_again() {
    survives("bad-index", |directory, files| {
        let indexes: Vec<_> = files.iter().filter(|path| is_index(path)).collect();
        assert!(!indexes.is_empty(), "no index in {}", directory.display());
        for path in indexes {
            let length_bytes = fs::metadata(path).unwrap().len() as usize;
            fs::write(path, vec![0xa5; length_bytes]).unwrap();
        }
    });
}

#[test]
fn a_truncated_index_is_set_aside_and_built_again() {
    survives("bad-short-index", |_, files| {
        for path in files.iter().filter(|path| is_index(path)) {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(100)
                .unwrap();
        }
    });
}

#[test]
fn truncated_objects_are_not_believed() {
    survives("bad-truncated", |_, files| {
        for path in files.iter().filter(|path| is_object(path)) {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
    });
}

#[test]
fn foreign_files_among_the_objects_do_no_harm() {
    survives("bad-foreign", |_, files| {
        for path in files.iter().filter(|path| is_object(path)) {
            let directory = path.parent().unwrap();
            fs::write(directory.join("not one of ours"), b"foreign").unwrap();
            symlink("/etc/passwd", directory.join("a link"))
                .or_else(exists_is_fine)
                .unwrap();
        }
    });
}

fn exists_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::AlreadyExists {
        Ok(())
    } else {
        Err(error)
    }
}

#[test]
fn objects_swapped_for_others_are_not_believed() {
    survives("bad-swapped", |_, files| {
        let large = |path: &&PathBuf| fs::metadata(path).unwrap().len() >= 300_000;
        let objects: Vec<_> = files
            .iter()
            .filter(|path| is_object(path))
            .filter(large)
            .collect();
        for pair in objects.chunks_exact(2) {
            let beside = pair[0].with_extension("swap");
            fs::rename(pair[0], &beside).unwrap();
            fs::rename(pair[1], pair[0]).unwrap();
            fs::rename(&beside, pair[1]).unwrap();
        }
    });
}

/// What another program, or a later version of this one, wrote is refused and left as it is.
#[test]
fn a_cache_of_a_newer_format_and_a_foreign_directory_are_refused_untouched() {
    let newer = "nfs-cachefs cache\nformat 99\n";
    let cases = [
        ("cachefs.format", newer, "newer"),
        ("cachefs.format", "something else", "unreadable"),
        ("letters.txt", "dear aunt", "letters.txt"),
    ];
    for (name, text, word) in cases {
        let scratch = Scratch::new("bad-format");
        let attempt = Attempt::good(&scratch);
        let cache = scratch.path().join("cache");
        fs::write(cache.join(name), text).unwrap();
        attempt.expect_refusal_unmounted(&cache);
        attempt.expect_refusal(word);
        assert_eq!(fs::read_to_string(cache.join(name)).unwrap(), text);
        assert!(!cache.join("objects").exists() && !cache.join("index.redb").exists());
    }
}

#[test]
fn options_of_later_versions_are_refused_by_name() {
    let scratch = Scratch::new("bad-later");
    for option in ["encryption=on", "peers=a"] {
        let mut attempt = Attempt {
            backend: scratch.path().join("plain"),
            mountpoint: scratch.path().join("mount"),
            options: String::new(),
        };
        attempt.options.push_str(option);
        attempt.expect_refusal(option.split('=').next().unwrap());
        attempt.expect_refusal("not yet");
    }
}
