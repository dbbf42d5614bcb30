//! The settings file: what counts, what is wrong with it, and what changes while a mount serves.

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::mount::PROGRAM;
use support::*;

const LIMIT: Duration = Duration::from_secs(20);
const HELPER: &str = env!("CARGO_BIN_EXE_mount-cachefs");

struct Place {
    scratch: Scratch,
    backend: PathBuf,
    file: PathBuf,
}

impl Place {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let backend = scratch.directory("plain");
        Content::new(7, 1, 3 << 20)
            .create(&backend.join("file"))
            .unwrap();
        Self {
            backend,
            file: scratch.path().join("settings.toml"),
            scratch,
        }
    }

    fn options(&self) -> MountOptions {
        MountOptions::new(&self.scratch).with(&format!("config={}", self.file.display()))
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    fn mount(&self, options: MountOptions) -> Mount {
        let mount = Mount::start(&self.scratch, &self.backend, options);
        wait_until(LIMIT, "the daemon to answer", || {
            mount.command("status", &[], LIMIT).status.success()
        });
        mount
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.file.display())
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    support::process::run(command, LIMIT)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_plan_that_mount_would_refuse_is_refused() {
    let scratch = Scratch::new("settings-plan");
    for (options, wanted) in [
        (
            "write_mode=back",
            "name a directory on a local disk with journal_dir",
        ),
        ("erasure=1+1", "erasure is for write_mode=back"),
        ("journal_dir=/j", "journal_dir is for write_mode=back"),
        (
            "write_mode=back,journal_dir=/a:/b",
            "journal_dir names 2 directories, and erasure=1+0 takes 1",
        ),
        (
            "write_mode=back,erasure=2+1,journal_dir=/a:/b",
            "names 2 directories, and erasure=2+1 takes 3",
        ),
    ] {
        let (backend, mountpoint) = (scratch.directory("plain"), scratch.directory("mount"));
        let cache = format!("cache_dir={}", scratch.path().join("cache").display());
        let list = format!("config=off,{cache},{options}");
        for words in [
            &["config", text(&mountpoint), "-o", &list][..],
            &["mount", text(&backend), text(&mountpoint), "-o", &list],
        ] {
            let output = run(PROGRAM, words);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
            assert!(told.contains(wanted), "{words:?}: {told}");
        }
    }
    let all = run(PROGRAM, &["config", "-o", "config=off,write_mode=back"]);
    assert!(all.status.success(), "{all:?}");
}

#[test]
fn a_key_of_the_file_begins_no_line() {
    let place = Place::new("settings-forged");
    place.write("[default]\n\"x\\nforged\\u202e\" = 1\n");
    let file = format!("config={}", text(&place.file));
    let output = run(PROGRAM, &["config", "-o", &file]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("x\\nforged\\u{202e}"), "{told:?}");
    assert_eq!(told.lines().count(), 1, "{told:?}");
}

/// Value and origin of an option, as `config --json` tells them.
fn setting(mountpoint: &Path, more: &[&str], name: &str) -> (String, String) {
    let arguments = [&["config", text(mountpoint), "--json"], more].concat();
    let output = run(PROGRAM, &arguments);
    assert!(output.status.success(), "{output:?}");
    let settings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = settings.as_array().unwrap().iter();
    let found = all.clone().find(|one| one["name"] == name).expect(name);
    let word = |key: &str| found[key].as_str().unwrap().to_owned();
    (word("value"), word("from"))
}

#[test]
fn what_is_given_counts_more_than_the_file_and_that_more_than_the_default() {
    let place = Place::new("settings-order");
    let options = place.options().with("log=debug").with("name=models");
    let options = options.with("noatime").with("nodev");
    place.write(&format!(
        "[default]\nlog = \"error\"\nreadahead = \"8M\"\nmax_concurrent = 4\n\
         [mount.\"{}\"]\nmax_concurrent = 5\nttl = \"1h\"\n[mount.models]\nttl = \"2h\"\n\
         [mount.others]\nreadahead = \"1M\"\n",
        options.mountpoint.display()
    ));
    let list = options.option_text();
    let mount = place.mount(options);
    // What would be, and what is.
    for more in [&["-o", &list][..], &[]] {
        let setting = |name: &str| setting(mount.path(), more, name);
        let file = |value: &str, line: usize| (value.to_owned(), place.at(line));
        assert_eq!(setting("log").1, "command line");
        for word in ["noatime", "nodev"] {
            let given = (String::new(), "command line".to_owned());
            assert_eq!(setting(word), given);
        }
        assert_eq!(setting("readahead"), file("8M", 3));
        assert_eq!(setting("max_concurrent"), file("5", 6));
        assert_eq!(setting("ttl"), file("2h", 9));
        assert_eq!(
            setting("eviction"),
            ("s3fifo".to_owned(), "default".to_owned())
        );
    }
    let shown = mount.status();
    let options = shown["options"].as_array().unwrap();
    let readahead = options.iter().find(|option| option["name"] == "readahead");
    assert_eq!(readahead.unwrap()["value"], "8M");
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line_and_nothing_is_mounted() {
    let place = Place::new("settings-wrong");
    let options = place.options();
    for (content, wanted) in [
        (
            "[default]\n\nraedahead = \"1M\"",
            ":3: unknown option 'raedahead'; did you mean 'readahead'?",
        ),
        ("[mount.other]\nttl = \"soon\"", ""),
        (
            "[default]\nttl = \"soon\"",
            ":2: option 'ttl=soon': expected a duration",
        ),
        ("[default\n", ":1: "),
        (
            "[mount.other]\ncache_sise = \"1G\"",
            ":2: unknown option 'cache_sise'",
        ),
    ] {
        place.write(content);
        let list = options.option_text();
        let mountpoint = text(&options.mountpoint);
        if wanted.is_empty() {
            // A value of another mount's is looked at when that is mounted.
            let fake = run(
                HELPER,
                &[text(&place.backend), mountpoint, "-f", "-o", &list],
            );
            assert!(fake.status.success(), "{fake:?}");
            continue;
        }
        let mounting = run(
            PROGRAM,
            &["mount", text(&place.backend), mountpoint, "-o", &list],
        );
        assert_eq!(mounting.status.code(), Some(1), "{content}");
        let planned = run(PROGRAM, &["config", mountpoint, "-o", &list]);
        let fake = run(
            HELPER,
            &[text(&place.backend), mountpoint, "-f", "-o", &list],
        );
        for output in [mounting, planned, fake] {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let whole = format!("{}{wanted}", place.file.display());
            assert!(told.contains(&whole), "{whole} in\n{told}");
        }
    }
}

#[test]
fn a_settings_file_that_never_ends_is_refused_at_once() {
    let place = Place::new("settings-fifo");
    nix::unistd::mkfifo(&place.file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let options = place.options();
    let planned = run(
        PROGRAM,
        &[
            "config",
            text(&options.mountpoint),
            "-o",
            &options.option_text(),
        ],
    );
    assert_eq!(planned.status.code(), Some(1));
    let told = String::from_utf8_lossy(&planned.stderr).into_owned();
    let whole = format!("{}: not a regular file", place.file.display());
    assert!(told.contains(&whole), "{told}");
}

#[test]
fn what_others_may_write_decides_nothing_of_what_root_mounts() {
    let place = Place::new("settings-others");
    place.write("[default]\ncache_size = \"64M\"\n");
    let option = format!("config={}", place.file.display());
    let mountpoint = place.scratch.directory("mount");
    let config = || run(PROGRAM, &["config", text(&mountpoint), "-o", &option]);
    let told = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let mode = |bits| {
        fs::set_permissions(&place.file, fs::Permissions::from_mode(bits)).unwrap();
    };
    for (bits, owner, group, remedy) in [
        (0o666, 0, 0, "chmod o-w"),
        (0o664, 0, 100, "chmod g-w"),
        (0o600, 65534, 0, "chown root"),
    ] {
        std::os::unix::fs::chown(&place.file, Some(owner), Some(group)).unwrap();
        mode(bits);
        let refused = config();
        assert!(!refused.status.success(), "{bits:o}");
        assert!(told(&refused).contains(remedy), "{}", told(&refused));
        assert!(
            told(&refused).contains(text(&place.file)),
            "{}",
            told(&refused)
        );
    }
    std::os::unix::fs::chown(&place.file, Some(0), Some(0)).unwrap();
    for bits in [0o644, 0o660] {
        mode(bits);
        let taken = config();
        assert!(taken.status.success(), "{bits:o}: {}", told(&taken));
    }
}

#[test]
fn the_mount_helper_takes_its_backend_from_the_file() {
    let place = Place::new("settings-helper");
    let options = place.options();
    place.write(&format!(
        "[mount.\"{}\"]\nnfs_backend = \"{}\"\ncache_dir = [\"{}\"]\nnoatime = true\n",
        options.mountpoint.display(),
        place.backend.display(),
        options.cache_dirs[0].display()
    ));
    let list = format!("rw,config={}", place.file.display());
    let mountpoint = text(&options.mountpoint);
    let output = run(HELPER, &["cachefs", mountpoint, "-o", &list]);
    assert!(output.status.success(), "{output:?}");
    let read = fs::read(options.mountpoint.join("file"));
    let unmounted = run(PROGRAM, &["umount", mountpoint]);
    assert!(unmounted.status.success(), "{unmounted:?}");
    assert_eq!(read.unwrap().len(), 3 << 20);
}

#[test]
fn a_reload_changes_what_can_change_and_names_the_rest() {
    let place = Place::new("settings-reload");
    place.write("[default]\ncache_size = \"64M\"\nreadahead = \"8M\"\n");
    let mount = place.mount(place.options());
    let limit = || mount.status_number("cache.bytes_limit");
    assert_eq!(limit(), 64 << 20);
    let reload = || run(PROGRAM, &["reload", text(mount.path())]);
    let output = reload();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "nothing has changed (what the command line and /etc/fstab say goes before the file)\n"
    );
    place.write("[default]\nreadahead = \"4M\"\ncache_size = \"128M\"\nlog = \"debug\"\n");
    let output = reload();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("cache_size=128M") && told.contains("log=debug"),
        "{told}"
    );
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        refused.contains("readahead=4M holds from the next mount on"),
        "{refused}"
    );
    assert_eq!(limit(), 128 << 20);
    let told = setting(mount.path(), &[], "cache_size");
    assert_eq!(told, ("128M".to_owned(), place.at(3)));
    assert_eq!(setting(mount.path(), &[], "readahead").0, "8M");
    // A mistake leaves all as it is.
    place.write("[default]\ncache_size = \"32M\"\ncache_dri = \"/x\"\n");
    let output = reload();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(":3: unknown option"));
    assert_eq!(limit(), 128 << 20);
    // A signal does the same.
    place.write("[default]\ncache_size = \"32M\"\nreadahead = \"8M\"\n");
    support::process::send(mount.pid(), Signal::SIGHUP);
    wait_until(LIMIT, "the signal to be taken", || limit() == 32 << 20);
    wait_until(LIMIT, "the log to tell of it", || {
        mount.log().contains("settings read again: cache_size=32M")
    });
}

#[test]
fn a_lowered_limit_makes_room_at_once() {
    let place = Place::new("settings-lower");
    let size: u64 = 8 << 20;
    for name in ["a", "b", "c", "d", "e", "f"] {
        Content::new(9, 1, size)
            .create(&place.backend.join(name))
            .unwrap();
    }
    place.write("[default]\ncache_size = \"128M\"\n");
    let mount = place.mount(place.options());
    for name in ["a", "b", "c", "d", "e", "f"] {
        fs::read(mount.join(name)).unwrap();
    }
    assert!(mount.status_number("cache.bytes_used") >= 6 * size);
    place.write("[default]\ncache_size = \"32M\"\n");
    assert!(
        run(PROGRAM, &["reload", text(mount.path())])
            .status
            .success()
    );
    wait_until(LIMIT, "the cache to shrink", || {
        mount.status_number("cache.bytes_used") <= 32 << 20
    });
}
