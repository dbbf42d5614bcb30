//! `nfs-cachefs doctor MOUNTPOINT [--json]`

use super::status::ask;
use super::{complain, say};
use crate::daemon::control::{Reply, Request};
use crate::daemon::doctor::{
    Advice, Urgency, of_backend_mount, of_disk, of_journal_places, of_limits, of_machine, of_status,
};
use crate::daemon::error::exit_status;
use crate::daemon::machine::examine;
use crate::daemon::mount_table::{mount_of, mounts, resolve_parent};
use crate::daemon::status::Status;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks at the mount, at how its backend is mounted, at the cache disks and at what this machine can do; each line says what to do. `!!` is something that does not work, `--` something that could be better. Takes up to about 15 s.\n\nExit status: 0 nothing is wrong, 1 usage, 2 error, 3 something is wrong."
)]
pub struct Arguments {
    /// The mount to look at
    mountpoint: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something does not work.
const SOME_WRONG: i32 = 3;

pub fn run(arguments: &Arguments) -> i32 {
    let advice = match ask(&arguments.mountpoint, &Request::Status) {
        Ok(Reply::Status(status)) => look_at(&status),
        Ok(other) => return fail(format_args!("unexpected answer {other:?}")),
        Err(error) => return fail(error),
    };
    if arguments.json {
        match serde_json::to_string_pretty(&advice) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => return fail(error),
        }
    } else if advice.is_empty() {
        say("nothing to say: all is as it should be\n");
    } else {
        let lines: String = advice.iter().map(Advice::in_words).collect();
        say(&lines);
    }
    let is_wrong = |advice: &Advice| advice.urgency == Urgency::Wrong;
    match advice.iter().any(is_wrong) {
        true => SOME_WRONG,
        false => exit_status::SUCCESS,
    }
}

/// What is wrong comes first.
pub fn look_at(status: &Status) -> Vec<Advice> {
    let mut advice = of_status(status);
    let backend = Path::new(&status.backend.path);
    // Its mount is found without touching it: it may hang, or be covered by the cached one.
    let mounted = mounts().unwrap_or_default();
    let below = mounted.iter().filter(|mount| !mount.is_cachefs());
    let below = below.filter(|mount| backend.starts_with(&mount.mountpoint));
    if let Some(mount) = below.max_by_key(|mount| mount.mountpoint.as_os_str().len()) {
        advice.extend(of_backend_mount(mount));
    }
    let directories: Vec<&Path> = status
        .cache
        .directories
        .iter()
        .map(|one| Path::new(&one.path))
        .collect();
    advice.extend(
        directories
            .iter()
            .filter_map(|one| of_disk(one, is_rotating(one))),
    );
    // A path that is no UTF-8 is not in the status as it is.
    let is_told = !status.backend.path.contains(char::REPLACEMENT_CHARACTER);
    let reachable = (status.backend.reachable && is_told).then_some(backend);
    // What a broken disk cannot do this machine may do all the same.
    let working = status
        .cache
        .directories
        .iter()
        .find(|one| one.state == "ok");
    let findings = examine(working.map(|one| Path::new(&one.path)), reachable);
    advice.extend(of_machine(&findings));
    advice.extend(of_journal_places(&status.journal));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", status.pid));
    advice.extend(limits.ok().and_then(|limits| of_limits(&limits)));
    advice.sort_by_key(|one| one.urgency != Urgency::Wrong);
    advice
}

/// As the kernel tells of the disk, or of the one that a partition is on.
fn is_rotating(directory: &Path) -> bool {
    let mount = resolve_parent(directory).and_then(|path| mount_of(&path));
    let Ok(Some(mount)) = mount else {
        return false;
    };
    let device = format!("/sys/dev/block/{}:{}", mount.major, mount.minor);
    ["queue/rotational", "../queue/rotational"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(Path::new(&device).join(file)).ok())
        .any(|told| told.trim() == "1")
}

fn fail(error: impl std::fmt::Display) -> i32 {
    complain(error);
    exit_status::SYSTEM
}
