//! What an administrator does to a mount, and finds out about it.

mod support;

use nfs_cachefs::daemon::control::{socket_directory, socket_path};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::content::expect_content;
use support::mount::{PROGRAM, private_directory};
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const HELPER: &str = env!("CARGO_BIN_EXE_mount-cachefs");

fn content() -> Content {
    Content::new(7, 1, 3 << 20)
}

fn mounted(test: &str, options: &[&str]) -> (Mount, PathBuf, Scratch) {
    let scratch = Scratch::new(test);
    let backend = scratch.directory("plain");
    content().create(&backend.join("file")).unwrap();
    fs::create_dir(backend.join("part")).unwrap();
    content().create(&backend.join("part/inside")).unwrap();
    let mut all = MountOptions::new(&scratch).with("cache_size=64M");
    for option in options {
        all = all.with(option);
    }
    let mount = Mount::start(&scratch, &backend, all);
    expect_content(&mount.join("file"), content());
    expect_content(&mount.join("part/inside"), content());
    wait_until(LIMIT, "the daemon to answer", || {
        mount.command("status", &[], LIMIT).status.success()
    });
    (mount, backend, scratch)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    support::process::run(command, LIMIT)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn signals_that_ask_for_nothing_are_survived() {
    let (mount, _, _scratch) = mounted("signals", &[]);
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ] {
        support::process::send(mount.pid(), signal);
        assert_eq!(mount.status_number("pid"), mount.pid() as u64);
    }
    expect_content(&mount.join("file"), content());
}

fn bind(from: &Path, to: &Path) {
    let none: Option<&str> = None;
    nix::mount::mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
}

#[test]
fn commands_on_a_bind_mount_reach_the_daemon() {
    let (mount, _, scratch) = mounted("bind", &[]);
    let (whole, part) = (scratch.directory("whole"), scratch.directory("part"));
    bind(mount.path(), &whole);
    bind(&mount.join("part"), &part);
    for path in [&whole, &part] {
        let output = run(PROGRAM, &["status", text(path)]);
        assert!(output.status.success(), "{}", told(&output));
    }
    // A bind mount of a part concerns no more than that.
    for arguments in [
        &["evict", text(&part)][..],
        &["evict", text(&part), "inside"],
    ] {
        expect_content(&mount.join("part/inside"), content());
        wait_until(LIMIT, "the file to be let go of", || {
            run(PROGRAM, arguments).status.success()
        });
    }
    wait_until(LIMIT, "the other to stay", || {
        mount.status_number("cache.files") == 1
    });
    for path in [&whole, &part] {
        let output = run(PROGRAM, &["umount", text(path)]);
        assert!(output.status.success(), "{}", told(&output));
        assert!(support::scratch::mount_at(path).is_none());
    }
    expect_content(&mount.join("part/inside"), content());
    bind(mount.path(), &whole);
    umount2(mount.path(), MntFlags::empty()).unwrap();
    expect_content(&whole.join("file"), content());
    let output = run(PROGRAM, &["umount", text(&whole)]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn remounting_changes_ro_and_rw_and_refuses_the_rest() {
    let (mut mount, backend, _scratch) = mounted("remount", &[]);
    let path = text(mount.path()).to_owned();
    let remount = |words: &str| run(HELPER, &[text(&backend), &path, "-o", words]);
    let written = || fs::write(Path::new(&path).join("new"), "x");
    written().unwrap();
    let kernels = "user_id=0,group_id=0,default_permissions,allow_other,relatime";
    let output = remount(&format!("remount,rw,{kernels},ro"));
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(written().unwrap_err().raw_os_error(), Some(libc::EROFS));
    expect_content(&mount.join("file"), content());
    let output = remount("remount,rw");
    assert!(output.status.success(), "{}", told(&output));
    written().unwrap();
    let held = File::options()
        .append(true)
        .open(mount.join("new"))
        .unwrap();
    let output = remount("remount,ro");
    assert!(
        told(&output).contains("open for writing"),
        "{}",
        told(&output)
    );
    drop(held);
    // What mount(8) adds from /etc/fstab.
    let in_effect = format!(
        "remount,ro,cache_dir={},_netdev",
        mount.cache_dir().display()
    );
    let output = remount(&in_effect);
    assert!(output.status.success(), "{}", told(&output));
    assert!(remount("remount,rw").status.success());
    for word in ["cache_size=1G", "nosuid", "actimeo=4"] {
        let output = remount(&format!("remount,{word}"));
        assert_eq!(output.status.code(), Some(32));
        assert!(told(&output).contains(word) && told(&output).contains("unmount"));
    }
    mount.umount();
    mount.options_mut().options.push("ro".to_owned());
    mount.remount();
    expect_content(&mount.join("file"), content());
    let output = remount("remount,rw");
    assert!(
        told(&output).contains("mounted with ro"),
        "{}",
        told(&output)
    );
    assert!(!remount("remount,rw,nonsense").status.success());
}

#[test]
fn umount_from_inside_names_the_shell_and_not_itself() {
    let (mut mount, _, _scratch) = mounted("inside", &[]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("'{PROGRAM}' umount \"$PWD\"; echo $$ $?")])
        .current_dir(mount.path());
    let output = support::process::run(shell, LIMIT);
    let (said, message) = (String::from_utf8_lossy(&output.stdout), told(&output));
    let mut words = said.split_whitespace();
    let (shell_pid, status) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(status, "32", "{message}");
    assert!(
        message.contains(&format!("sh (pid {shell_pid})")),
        "{message}"
    );
    assert!(!message.contains("nfs-cachefs (pid"), "{message}");
    // With nobody but the command itself inside, it goes.
    let mut alone = Command::new(PROGRAM);
    alone
        .args(["umount", text(mount.path())])
        .current_dir(mount.path());
    let output = support::process::run(alone, LIMIT);
    assert!(output.status.success(), "{}", told(&output));
    assert!(mount.expect_end(LIMIT).success());
}

#[test]
fn a_backend_renamed_or_replaced_is_served_on_and_told_of() {
    let (mount, backend, scratch) = mounted("renamed", &["actimeo=0"]);
    let moved = scratch.path().join("moved");
    fs::rename(&backend, &moved).unwrap();
    fs::create_dir(&backend).unwrap();
    fs::write(backend.join("file"), "another tree").unwrap();
    expect_content(&mount.join("file"), content());
    fs::write(moved.join("later"), "seen").unwrap();
    assert_eq!(fs::read(mount.join("later")).unwrap(), b"seen");
    let warnings = mount.status()["warnings"].to_string();
    assert!(warnings.contains(text(&moved)), "{warnings}");
    fs::remove_dir_all(&backend).unwrap();
    fs::rename(&moved, &backend).unwrap();
    assert_eq!(mount.status()["warnings"].to_string(), "[]");
}

struct Refused {
    scratch: Scratch,
}

impl Refused {
    fn mount(&self, cache_dirs: &str, mountpoint: &str) -> String {
        let backend = self.scratch.directory("plain");
        let options = format!("cache_dir={cache_dirs}");
        let arguments = ["mount", text(&backend), mountpoint, "-o", &options];
        let output = run(PROGRAM, &arguments);
        assert!(!output.status.success(), "accepted");
        told(&output)
    }

    fn names(&self, directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_refused_mount_leaves_nothing_behind() {
    let refused = Refused {
        scratch: Scratch::new("refused"),
    };
    let scratch = &refused.scratch;
    let mountpoint = text(&scratch.directory("mount")).to_owned();
    let one = text(&scratch.path().join("c1")).to_owned();
    refused.mount(&format!("{one}:{one}"), &mountpoint);
    refused.mount(&one, &format!("{mountpoint}/missing"));
    let foreign = scratch.path().join("foreign");
    private_directory(&foreign);
    fs::write(foreign.join("letter"), "dear aunt").unwrap();
    refused.mount(&format!("{one}:{}", foreign.display()), &mountpoint);
    assert_eq!(refused.names(&foreign), ["letter"]);
    let newer = scratch.path().join("newer");
    private_directory(&newer);
    fs::write(
        newer.join("cachefs.format"),
        "nfs-cachefs cache\nformat 99\n",
    )
    .unwrap();
    refused.mount(&format!("{one}:{}", newer.display()), &mountpoint);
    assert_eq!(refused.names(&newer), ["cachefs.format"]);
    let left = refused.names(scratch.path());
    assert_eq!(left, ["foreign", "mount", "newer", "plain"]);
}

#[test]
fn a_cache_in_memory_is_told_of_when_mounting_and_by_status() {
    let scratch = Scratch::new("tmpfs");
    let disk = scratch.directory("memory");
    let none: Option<&str> = None;
    nix::mount::mount(none, &disk, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let cache = disk.join("cache");
    private_directory(&cache);
    let backend = scratch.directory("plain");
    let mountpoint = scratch.directory("mount");
    let options = format!("cache_dir={},cache_size=64M", cache.display());
    let output = run(
        PROGRAM,
        &["mount", text(&backend), text(&mountpoint), "-o", &options],
    );
    let status = run(PROGRAM, &["status", text(&mountpoint)]);
    let ended = run(PROGRAM, &["umount", text(&mountpoint)]);
    assert!(output.status.success() && ended.status.success());
    for said in [
        told(&output),
        String::from_utf8_lossy(&status.stdout).into_owned(),
    ] {
        assert!(
            said.contains("warning") && said.contains("does not survive a reboot"),
            "{said}"
        );
    }
}

#[test]
fn a_cache_directory_whose_disk_is_not_mounted_is_left_out_and_not_made_anew() {
    let scratch = Scratch::new("unmounted-disk");
    let (store, disk) = (scratch.directory("store"), scratch.directory("disk"));
    let none: Option<&str> = None;
    let attach = || {
        nix::mount::mount(Some(&store), &disk, none, MsFlags::MS_BIND, none).unwrap();
    };
    attach();
    let cache = disk.join("cache");
    let backend = scratch.directory("plain");
    content().create(&backend.join("file")).unwrap();
    let mut options = MountOptions::new(&scratch).with("cache_size=64M");
    options.cache_dirs.push(cache.clone());
    let mut mount = Mount::start(&scratch, &backend, options);
    let check = |mount: &Mount| {
        let path = mount.join("file");
        with_time_limit(&scratch, LIMIT, move || expect_content(&path, content()));
        mount.status().to_string()
    };
    assert!(!check(&mount).contains("is not used"));
    mount.umount();
    assert!(cache.exists(), "a new directory on a disk that is there");

    umount2(&disk, MntFlags::empty()).unwrap();
    mount.remount();
    let warnings = check(&mount);
    let expected = format!("not mounted at {}", disk.display());
    assert!(warnings.contains(&expected), "{warnings}");
    assert!(!cache.exists(), "it was made anew");
    mount.umount();

    // What it knows outlives that, and a directory that is alone again knows too.
    mount.remount();
    assert!(check(&mount).contains(&expected));
    mount.umount();
    attach();
    mount.remount();
    assert!(!check(&mount).contains("is not used"));
    mount.umount();
    umount2(&disk, MntFlags::empty()).unwrap();
}

#[test]
fn a_daemon_in_the_background_has_a_session_of_its_own() {
    let scratch = Scratch::new("session");
    let backend = scratch.directory("plain");
    let options = MountOptions::new(&scratch);
    let mountpoint = text(&options.mountpoint);
    let mounted = run(
        PROGRAM,
        &[
            "mount",
            text(&backend),
            mountpoint,
            "-o",
            &options.option_text(),
        ],
    );
    assert!(mounted.status.success(), "{mounted:?}");
    let status = run(PROGRAM, &["status", mountpoint, "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let pid = status["pid"].as_i64().unwrap();
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid as i32)));
    assert!(run(PROGRAM, &["umount", mountpoint]).status.success());
    assert_eq!(session.map(|session| i64::from(session.as_raw())), Ok(pid));
}

#[test]
fn another_user_is_told_who_may() {
    let (mount, backend, scratch) = mounted("nobody", &[]);
    let program = support::mount::program_for_all(&scratch);
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).uid(65534).gid(65534);
        let output = support::process::run(command, LIMIT);
        assert!(!output.status.success());
        told(&output)
    };
    for verb in ["status", "evict", "flush", "conflicts", "umount"] {
        let said = as_nobody(&[verb, text(mount.path())]);
        assert!(
            said.contains("only the user who mounted it and root may"),
            "{verb}: {said}"
        );
    }
    let said = as_nobody(&["mount", text(&backend), "/mnt"]);
    assert!(
        said.contains("cache_dir") && said.contains("root"),
        "{said}"
    );
}

#[test]
fn indexes_set_aside_do_not_pile_up() {
    let (mut mount, _, _scratch) = mounted("piles", &[]);
    for round in 0..3 {
        mount.umount();
        let index = mount.cache_dir().join("index.redb");
        fs::write(&index, vec![0xa5; 100_000 + round]).unwrap();
        mount.remount();
        expect_content(&mount.join("file"), content());
        let aside = |name: &str| name.starts_with("index.damaged-");
        let names = fs::read_dir(mount.cache_dir()).unwrap();
        let kept = names
            .filter(|entry| aside(entry.as_ref().unwrap().file_name().to_str().unwrap()))
            .count();
        assert_eq!(kept, 1);
    }
}

/// Whatever has come in is gone afterwards, or was told of.
#[test]
fn evicting_right_after_reading_leaves_nothing_untold() {
    let (mount, _, _scratch) = mounted("evict", &[]);
    for _ in 0..sample_or_full(10, 300) {
        expect_content(&mount.join("file"), content());
        expect_content(&mount.join("part/inside"), content());
        let output = mount.command("evict", &[], LIMIT);
        let left = mount.status_number("cache.files");
        match output.status.code() {
            Some(0) => assert_eq!(left, 0, "{output:?}"),
            Some(3) => {}
            other => panic!("{other:?}: {output:?}"),
        }
    }
}

/// Also what is in the kernel's pages.
#[test]
fn what_was_evicted_is_fetched_again() {
    let (mount, _, _scratch) = mounted("evict-pages", &["passthrough=off"]);
    for paths in [&[][..], &["file"][..]] {
        expect_content(&mount.join("file"), content());
        expect_content(&mount.join("file"), content());
        assert!(mount.command("evict", paths, LIMIT).status.success());
        let fetched = mount.status_number("backend.bytes_read");
        expect_content(&mount.join("file"), content());
        let again = mount.status_number("backend.bytes_read") - fetched;
        assert!(again >= content().size_bytes, "{paths:?}: {again}");
    }
}

#[test]
fn a_killed_daemon_is_replaced_though_its_mount_was_looked_at() {
    let (mut mount, _, _scratch) = mounted("replaced", &[]);
    // The kernel remembers this for longer than the daemon lives.
    fs::metadata(mount.path()).unwrap();
    let mut killed = mount.kill_stuck();
    killed.wait().unwrap();
    mount.remount();
    expect_content(&mount.join("file"), content());
}

#[test]
fn a_daemon_killed_before_it_noted_anything_leaves_a_cache_that_works() {
    let (mut mount, backend, _scratch) = mounted("early", &[]);
    let other = Content::new(77, 1, 300_000);
    for name in ["one", "two", "three"] {
        other.create(&backend.join(name)).unwrap();
    }
    expect_content(&mount.join("file"), content());
    mount.umount();
    mount.remount();
    expect_content(&mount.join("one"), other);
    mount.kill9();
    mount.remount();
    for name in ["one", "two", "three", "file"] {
        expect_content(&mount.join(name), other_or(name, other));
    }
    let state = &mount.status()["cache"]["directories"][0]["state"];
    assert_eq!(state, "ok");
    let fetched = mount.status_number("backend.bytes_read");
    support::reading::drop_caches().unwrap();
    for name in ["one", "two", "three"] {
        expect_content(&mount.join(name), other);
    }
    assert_eq!(mount.status_number("backend.bytes_read"), fetched);
}

fn other_or(name: &str, other: Content) -> Content {
    match name {
        "file" => content(),
        _ => other,
    }
}

#[test]
fn a_directory_is_evicted_while_what_is_in_it_comes_and_goes() {
    let (mount, backend, _scratch) = mounted("evict-tree", &[]);
    let content = Content::new(78, 1, 5000);
    for number in 0..300 {
        let directory = backend.join(format!("tree/d{}", number % 10));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(number.to_string());
        content.create(&path).unwrap();
        expect_content(&mount.join(path.strip_prefix(&backend).unwrap()), content);
    }
    let comes_and_goes = std::thread::spawn(move || {
        for _ in 0..300 {
            fs::create_dir(backend.join("tree/passing")).unwrap();
            fs::remove_dir(backend.join("tree/passing")).unwrap();
        }
    });
    let output = mount.command("evict", &["tree"], LIMIT);
    assert!(output.status.success(), "{}", told(&output));
    let counted = String::from_utf8_lossy(&output.stdout);
    assert!(counted.starts_with("300 files"), "{counted}");
    comes_and_goes.join().unwrap();
}

/// Monitors that hold connections, or many commands at once, make no mount look hung: what is in use is not cut off.
#[test]
fn a_mount_whose_daemon_is_asked_by_many_is_not_cut_off() {
    let (mount, _, _scratch) = mounted("asked-by-many", &[]);
    let mut open = File::create(mount.join("open")).unwrap();
    open.write_all(b"one").unwrap();
    let socket = socket_path(&socket_directory(), mount.path());
    let held: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let refused = run(PROGRAM, &["umount", text(mount.path())]);
    assert_eq!(refused.status.code(), Some(32), "{}", told(&refused));
    assert!(
        told(&refused).contains("busy: used by"),
        "{}",
        told(&refused)
    );
    open.write_all(b"two").unwrap();
    drop(held);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let status = mount.command("status", &["--json"], LIMIT);
                assert!(status.status.success(), "{}", told(&status));
            });
        }
    });
    drop(open);
    assert_eq!(fs::read(mount.join("open")).unwrap(), b"onetwo");
}
