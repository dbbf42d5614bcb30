//! fsx (File System eXerciser, `cargo install fsx`): random operations on one file through the mount, every read
//! verified. Left out where the program is not installed. CACHEFS_SEED repeats a run.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(1200);

const MAPPED: &str = "mapread = 10\nmapwrite = 10\n";
const UNMAPPED: &str = "mapread = 0\nmapwrite = 0\n";
const EVERYTHING: &str = "close_open = 2\ninvalidate = 2\nfsync = 1\nfdatasync = 1\nposix_fallocate = 5\n\
    punch_hole = 5\ncopy_file_range = 5\nsendfile = 5\nposix_fadvise = 1\n";

fn program() -> Option<PathBuf> {
    let in_home = std::env::home_dir().map(|home| home.join(".cargo/bin/fsx"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("fsx"));
    in_path.chain(in_home).find(|path| path.exists())
}

/// Runs fsx with these weights on files of up to `size_bytes`.
fn exercise(test: &str, options: &[&str], size_bytes: u64, weights: &str) {
    let Some(program) = program() else {
        eprintln!("fsx is not installed: left out");
        return;
    };
    let scratch = Scratch::new(test);
    let plain = scratch.directory("plain");
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    let mount = Mount::start(&scratch, &plain, mount_options);
    let settings = scratch.path().join("fsx.toml");
    let text = format!(
        "flen = {size_bytes}\n[opsize]\nmax = {}\nalign = 1\n[weights]\nread = 20\nwrite = 20\ntruncate = 5\n{weights}",
        size_bytes / 4
    );
    fs::write(&settings, text).unwrap();
    let mut random = Random::from_environment(test);
    for _ in 0..sample_or_full(1, 5) {
        let seed = random.next() % (1 << 32);
        let mut command = Command::new(&program);
        command
            .arg("-f")
            .arg(&settings)
            .args([
                "-N",
                sample_or_full("2000", "20000"),
                "-S",
                &seed.to_string(),
                "-P",
            ])
            .arg(scratch.path())
            .arg(mount.join("file"));
        let output = process::run(command, LIMIT);
        let told = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = told.lines().rev().take(40).collect();
        assert!(output.status.success(), "fsx -S {seed}: {last:#?}");
    }
}

#[test]
fn fsx_finds_nothing() {
    exercise("fsx", &[], 256 << 10, &format!("{MAPPED}{EVERYTHING}"));
}

#[test]
fn fsx_finds_nothing_in_a_file_of_16_mib() {
    exercise("fsx-large", &[], 16 << 20, &format!("{MAPPED}{EVERYTHING}"));
}

#[test]
fn fsx_finds_nothing_without_mappings() {
    exercise(
        "fsx-unmapped",
        &[],
        256 << 10,
        &format!("{UNMAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_without_passthrough() {
    exercise(
        "fsx-daemon",
        &["passthrough=off"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_with_passthrough_of_small_files() {
    exercise(
        "fsx-passthrough",
        &["small_file_size=1"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_with_all_that_is_written_kept() {
    exercise(
        "fsx-kept",
        &["keep_written=always", "small_file_size=1"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}

#[test]
fn fsx_finds_nothing_with_direct_io() {
    exercise(
        "fsx-direct",
        &["direct_io"],
        1 << 20,
        &format!("{MAPPED}{EVERYTHING}"),
    );
}
