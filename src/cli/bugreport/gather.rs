//! What is looked at. Nothing here touches the mount itself, which may hang.

use super::names::Known;
use crate::cli::doctor::look_at;
use crate::cli::status::ask;
use crate::daemon::control::{Reply, Request};
use crate::daemon::doctor::Advice;
use crate::daemon::machine::{Finding, examine};
use crate::daemon::mount_table::mounts;
use crate::daemon::prometheus::exposition;
use crate::daemon::status::Status;
use crate::types::printable::harmless;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

const LOG_LINES: usize = 5000;

/// What the kernel says of itself and of what the daemon needs of it.
const KERNEL_FILES: &[&str] = &[
    "/proc/version",
    "/etc/os-release",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/sys/kernel/io_uring_disabled",
    "/proc/sys/fs/file-nr",
    "/sys/module/fuse/parameters/enable_uring",
    "/sys/module/fuse/parameters/max_user_bgreq",
    "/sys/module/fuse/parameters/max_user_congthresh",
    "/sys/module/nfs/parameters/nfs_access_max_cachesize",
];

/// Of the daemon.
const PROCESS_FILES: &[&str] = &["status", "limits", "io", "cgroup", "oom_score_adj"];

pub struct Part {
    pub name: String,
    pub text: String,
}

/// In plain words; where names are asked for, they are in it.
fn part(name: &str, text: impl AsRef<str>) -> Part {
    Part {
        name: name.to_owned(),
        text: harmless(text.as_ref()),
    }
}

pub fn of_machine() -> Vec<Part> {
    let findings: Vec<String> = examine(None, None).iter().map(Finding::in_words).collect();
    vec![
        part(
            "version.txt",
            concat!("nfs-cachefs ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        part("check.txt", findings.join("\n") + "\n"),
        part("kernel.txt", files("", KERNEL_FILES)),
    ]
}

pub fn of_mount(mountpoint: &Path, with_names: bool) -> Vec<Part> {
    let status = match ask(mountpoint, &Request::Status) {
        Ok(Reply::Status(status)) => status,
        Ok(other) => return vec![part("status.txt", format!("unexpected answer {other:?}\n"))],
        Err(error) => return vec![part("status.txt", error + "\n")],
    };
    let known = Known::of(&status);
    let shown = match with_names {
        true => *status.clone(),
        false => known.status_without_names(&status),
    };
    let log = match with_names {
        true => log_of(&status),
        false => known.without_names(&log_of(&status)),
    };
    let advice: String = look_at(&shown).iter().map(Advice::in_words).collect();
    vec![
        part("status.txt", shown.in_words()),
        Part {
            name: "status.json".to_owned(),
            text: serde_json::to_string_pretty(&shown).unwrap_or_else(|error| error.to_string()),
        },
        part("config.txt", settings(&shown)),
        part("metrics.txt", exposition(&shown)),
        part("doctor.txt", advice),
        part("mounted.txt", mounted(&status)),
        part("process.txt", process(status.pid)),
        part("log.txt", log),
    ]
}

fn files(folder: &str, names: &[&str]) -> String {
    let tell = |name: &&str| {
        let path = format!("{folder}{name}");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| format!("{error}\n"));
        format!("== {path}\n{text}\n")
    };
    names.iter().map(tell).collect()
}

/// Threads with what they wait for: a name in the kernel.
fn process(pid: u32) -> String {
    let mut text = files(&format!("/proc/{pid}/"), PROCESS_FILES);
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = threads.map(|thread| thread.path()).collect();
    paths.sort();
    for path in paths {
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        text += &format!("{:<16} {}\n", read("comm").trim_end(), read("wchan"));
    }
    text
}

fn settings(status: &Status) -> String {
    let told = status.options.iter().map(|option| {
        let because = option.no_effect_because.as_ref();
        let because = because.map_or_else(String::new, |why| format!(", without effect: {why}"));
        format!(
            "{}={} ({}{because})\n",
            option.name, option.value, option.from
        )
    });
    told.collect()
}

/// The mount, and what its directories are on.
fn mounted(status: &Status) -> String {
    let directories = status.cache.directories.iter().map(|one| &one.path);
    let devices = status.journal.devices.iter().map(|one| &one.path);
    let paths = [&status.mountpoint, &status.backend.path];
    let mounts = mounts().unwrap_or_default();
    let mut text = String::new();
    for path in paths.into_iter().chain(directories).chain(devices) {
        let above = mounts
            .iter()
            .filter(|mount| Path::new(path).starts_with(&mount.mountpoint))
            .max_by_key(|mount| mount.mountpoint.as_os_str().len());
        text += &match above {
            Some(mount) => format!("{path}: {}\n", mount.in_words()),
            None => format!("{path}: on no mount\n"),
        };
    }
    text
}

/// The last lines: of the file that the mount was told to write to, else of the system's journal.
fn log_of(status: &Status) -> String {
    let option = status.options.iter().find(|one| one.name == "log_file");
    let file = option.filter(|option| option.value.starts_with('/'));
    match file {
        Some(file) => last_lines(&file.value)
            .unwrap_or_else(|error| format!("the log could not be read: {error}\n")),
        None => journal_of(status.pid),
    }
}

fn last_lines(path: &str) -> std::io::Result<String> {
    let mut last = VecDeque::new();
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        if last.len() == LOG_LINES {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line?).into_owned() + "\n");
    }
    Ok(last.into_iter().collect())
}

fn journal_of(pid: u32) -> String {
    let lines = format!("--lines={LOG_LINES}");
    let told = Command::new("journalctl")
        .args(["--no-pager", "--output=short-iso", &lines])
        .arg(format!("_PID={pid}"))
        .output();
    match told {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("no log_file is set, and journalctl cannot be run: {error}\n"),
    }
}
