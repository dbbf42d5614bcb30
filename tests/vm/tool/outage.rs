//! A writer that remembers what was acknowledged to it, while the server comes and goes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::content::{self, BLOCK_BYTES};
use crate::readers;

const SEED: u64 = 13;
/// Leaves the processor to others.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes and syncs one block after the other for as long as `lasts`, then looks for every acknowledged one in `source`,
/// the same file on the server. An error is no broken promise: the writer opens the file again and goes on.
pub fn write(path: &Path, source: &Path, lasts: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut file = Some(File::create(path)?);
    let mut acknowledged = Vec::new();
    let (mut errors, mut slowest, mut last) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    let mut number = 0;
    while begin.elapsed() < lasts {
        let start = Instant::now();
        match write_block(&mut file, path, number) {
            Ok(()) => {
                acknowledged.push(number);
                last = begin.elapsed();
            }
            Err(error) => {
                errors.push(error);
                file = None;
            }
        }
        slowest = slowest.max(start.elapsed());
        number += 1;
        std::thread::sleep(PAUSE);
    }
    drop(file);
    println!(
        "{} blocks acknowledged, the last after {} s; {} errors {:?}; slowest {} ms",
        acknowledged.len(),
        last.as_secs(),
        errors.len(),
        errors.first(),
        slowest.as_millis()
    );
    for number in &acknowledged {
        check_block(source, *number).with_context(|| format!("LOST: block {number}"))?;
    }
    ensure!(
        last + Duration::from_secs(10) > lasts,
        "the writer did not go on"
    );
    Ok(())
}

fn write_block(file: &mut Option<File>, path: &Path, number: u64) -> io::Result<()> {
    let mut block = [0; BLOCK_BYTES as usize];
    content::fill(&mut block, SEED, number, number * BLOCK_BYTES);
    if file.is_none() {
        *file = Some(File::options().write(true).open(path)?);
    }
    let file = file.as_ref().expect("just opened");
    file.write_all_at(&block, number * BLOCK_BYTES)?;
    file.sync_data()
}

fn check_block(source: &Path, number: u64) -> anyhow::Result<()> {
    let mut block = [0; BLOCK_BYTES as usize];
    File::open(source)?.read_exact_at(&mut block, number * BLOCK_BYTES)?;
    let found = readers::version_of(&block, SEED, number * BLOCK_BYTES)?;
    ensure!(found == number, "it is of version {found}");
    Ok(())
}
