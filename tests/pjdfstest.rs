//! pjdfstest (`cargo install pjdfstest`): what POSIX says of names, attributes and rights, on a mount and on the
//! directory behind it. Left out where the program is not installed.

mod support;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Group, Uid, User};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(600);
/// As many as it runs at least; fewer, and it was not understood.
const CASES_MIN: usize = 300;

fn program() -> Option<PathBuf> {
    let in_home = std::env::home_dir().map(|home| home.join(".cargo/bin/pjdfstest"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("pjdfstest"));
    in_path.chain(in_home).find(|path| path.exists())
}

/// Two users with groups of their own, whom it acts as.
fn settings() -> String {
    let names = |user: &User| {
        let group = Group::from_gid(user.gid).unwrap().expect("a user's group");
        format!("[{:?}, {:?}]", user.name, group.name)
    };
    let of_uid = |uid: u32| User::from_uid(Uid::from_raw(uid)).unwrap();
    let mut users = [65534, 1, 2, 3].into_iter().filter_map(of_uid);
    let is_own = |user: &User| user.gid != Gid::from_raw(0);
    let mut pair = Vec::new();
    while pair.len() < 2 {
        let user = users.next().expect("two users beside root");
        if is_own(&user) {
            pair.push(names(&user));
        }
    }
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
        [settings]\nnaptime = 0.01\nallow_remount = false\n[dummy_auth]\nentries = [{}]\n",
        pair.join(", ")
    )
}

/// The name of a socket has room for 108 bytes.
const SHORT: &str = "/mnt";

/// Runs it at `place`, which is shown to it under a short name, in a mount namespace of a thread. What became of each
/// case, by its name.
fn outcomes(
    scratch: &Scratch,
    program: &Path,
    settings: &Path,
    place: &Path,
) -> BTreeMap<String, String> {
    let mut command = Command::new(program);
    command.arg("-c").arg(settings).args(["-p", SHORT]);
    command.stdin(Stdio::null());
    let place = place.to_owned();
    let output = with_time_limit(scratch, LIMIT, move || {
        let (nothing, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(nothing, "/", nothing, private, nothing).unwrap();
        mount(Some(&place), SHORT, nothing, MsFlags::MS_BIND, nothing).unwrap();
        command.output().unwrap()
    });
    let told = String::from_utf8_lossy(&output.stdout);
    let outcome = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, outcome) = (words.next()?, words.next()?);
        let is_case = name.contains("::") && words.next().is_none();
        is_case.then(|| (name.to_owned(), outcome.to_owned()))
    };
    let outcomes: BTreeMap<String, String> = told.lines().filter_map(outcome).collect();
    assert!(
        outcomes.len() >= CASES_MIN,
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    outcomes
}

/// No case that the disk passes is anything else on the mount, but for those that it has no way to try there.
fn compare(test: &str, options: &[&str]) {
    let Some(program) = program() else {
        eprintln!("pjdfstest is not installed: left out");
        return;
    };
    let scratch = Scratch::new(test);
    let open = Permissions::from_mode(0o755);
    fs::set_permissions(scratch.path(), open).unwrap();
    let settings_file = scratch.path().join("pjdfstest.toml");
    fs::write(&settings_file, settings()).unwrap();
    let plain = scratch.directory("plain");
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    let mount = Mount::start(&scratch, &plain, mount_options);
    let disk = scratch.directory("disk");
    let on_disk = outcomes(&scratch, &program, &settings_file, &disk);
    let on_mount = outcomes(&scratch, &program, &settings_file, mount.path());
    let is_worse = |(name, outcome): &(&String, &String)| {
        *outcome != "ok" && *outcome != "skipped" && on_disk.get(*name).is_none_or(|o| o == "ok")
    };
    let worse: Vec<_> = on_mount.iter().filter(is_worse).collect();
    assert!(worse.is_empty(), "the disk passes these: {worse:#?}");
    assert!(on_mount.len() >= on_disk.len(), "cases are missing");
    for (place, of) in [("disk", &on_disk), ("mount", &on_mount)] {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        of.values()
            .for_each(|outcome| *counts.entry(outcome).or_default() += 1);
        println!("{place}: {counts:?} of {}", of.len());
    }
}

#[test]
fn pjdfstest_finds_nothing_that_the_disk_does_not_have() {
    compare("pjdfstest", &[]);
}

#[test]
fn pjdfstest_finds_nothing_without_passthrough() {
    compare("pjdfstest-daemon", &["passthrough=off"]);
}
