//! Trees made, read, mapped, written and removed at once: nothing may be in the way of their removal.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::content::{self, mix};
use crate::readers;

const FILES: u64 = 12;
const SEED: u64 = 11;

/// Makes and removes a tree below `directory`, `rounds` times; every file is closed before the removal begins.
pub fn rounds(directory: &Path, source: &Path, rounds: u64) -> anyhow::Result<()> {
    for round in 0..rounds {
        let tree = format!("tree{round}");
        one_round(&directory.join(&tree), round).with_context(|| format!("round {round}"))?;
        let left = source.join(&tree);
        ensure!(!left.exists(), "{} is still there", left.display());
    }
    println!("{rounds} trees of {FILES} files");
    Ok(())
}

fn one_round(tree: &Path, round: u64) -> anyhow::Result<()> {
    let below = tree.join("below");
    fs::create_dir_all(&below)?;
    for number in 0..FILES {
        let size_bytes = 1 + mix(round ^ number) % 300_000;
        content::write(&below.join(number.to_string()), SEED, 1, 0, size_bytes)?;
    }
    for number in 0..FILES {
        use_file(&below.join(number.to_string()), number)?;
    }
    fs::remove_dir_all(tree).context("removing the tree")
}

fn use_file(path: &Path, number: u64) -> anyhow::Result<()> {
    match number % 4 {
        0 => readers::verify(path, SEED, None).map(drop),
        1 => readers::mapped(path, SEED, None).map(drop),
        2 => store_through_mapping(path),
        _ => {
            let file = File::options().write(true).open(path)?;
            Ok(file.write_all_at(b"written", 3)?)
        }
    }
}

fn store_through_mapping(path: &Path) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    // SAFETY: a fresh mapping of one page of a file that is not empty and that nobody truncates meanwhile; the byte
    // stored to lies within it, and nothing refers to it after it is unmapped.
    unsafe {
        let address = libc::mmap(
            std::ptr::null_mut(),
            1,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        ensure!(
            address != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        address.cast::<u8>().write_volatile(1);
        libc::munmap(address, 1);
    }
    Ok(())
}
