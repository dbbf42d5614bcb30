//! A directory of very many names, listed in bounded memory.

use crate::figures::{Peak, mebibytes, resident};
use crate::support::*;
use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

const LIST_LIMIT: Duration = Duration::from_secs(600);
/// What listing may add to the daemon's memory, however many names there are.
const GROWTH_MAX_BYTES: u64 = 32 << 20;

#[test]
fn a_directory_of_a_million_names_is_listed_in_bounded_memory() {
    let _alone = crate::alone();
    let scratch = Scratch::new("listing");
    let names: u64 = sample_or_full(20_000, 1_000_000);
    let plain = scratch.directory("plain");
    let wide = scratch.directory("plain/wide");
    let first = wide.join("0000000000");
    File::create(&first).expect("a file can be made");
    let mut target = first.clone();
    for number in 1..names {
        let path = wide.join(format!("{number:010}"));
        // ext4 allows 65,000 links of one inode.
        if number % 60_000 == 0 {
            File::create(&path).expect("a file can be made");
            target = path;
        } else {
            fs::hard_link(&target, &path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        }
    }
    let mount = Mount::start(&scratch, &plain, MountOptions::new(&scratch));
    let pid = mount.pid();
    fs::read_dir(mount.path())
        .expect("it can be listed")
        .for_each(drop);
    let before = resident(pid).total_bytes;
    let path = mount.join("wide");
    for (shown, command, lines) in [
        (
            "ls -f",
            format!("ls -f {} | wc -l", path.display()),
            names + 2,
        ),
        (
            "find",
            format!("find {} | wc -l", path.display()),
            names + 1,
        ),
    ] {
        let peak = Peak::of(move || resident(pid).total_bytes);
        let began = Instant::now();
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]);
        let output = process::run(shell, LIST_LIMIT);
        let elapsed = began.elapsed();
        let peak = peak.end();
        let counted: u64 = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .expect("a number");
        println!(
            "{shown}: {counted} lines in {elapsed:.1?}; resident {:.1} MiB before, at most {:.1} MiB, {:.1} MiB after",
            mebibytes(before),
            mebibytes(peak),
            mebibytes(resident(pid).total_bytes),
        );
        assert_eq!(counted, lines, "{shown}");
        assert!(
            peak.saturating_sub(before) < GROWTH_MAX_BYTES,
            "{shown}: {peak} bytes"
        );
    }
}
