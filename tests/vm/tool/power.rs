//! Writers whose machine may lose its power at any moment, and the question what is left of their work.
//!
//! Each writer has a file of its own. Its steps (writes, and changes of size) follow from its number and theirs, so the
//! file after any step is known without a second copy. What was acknowledged stands in a log on another disk.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::content::{self, BLOCK_BYTES, Piece, mix};
use crate::readers;

const SEED: u64 = 17;
/// Blocks of a writer's file, at most.
const FILE_BLOCKS: u64 = 512;
/// Steps without a sync are far fewer.
const UNSYNCED_STEPS_MAX: u64 = 10_000;
/// Leaves the processor to others.
const PAUSE: Duration = Duration::from_millis(2);
/// Replaces a file by another of the same name instead.
const REPLACER: &str = "replacer";

#[derive(Clone, Copy)]
enum Step {
    Write { first: u64, count: u64 },
    Resize { blocks: u64 },
}

fn step(writer: u64, number: u64) -> Step {
    let random = mix(SEED ^ mix(writer) ^ mix(number << 8));
    let place = random >> 16;
    let count = match random % 16 {
        0 => {
            return Step::Resize {
                blocks: place % FILE_BLOCKS,
            };
        }
        1 => 64 + (random >> 48) % 128,
        _ => 1 + (random >> 48) % 8,
    };
    let first = place % (FILE_BLOCKS - count);
    Step::Write { first, count }
}

fn is_synced(writer: u64, number: u64) -> bool {
    mix(SEED ^ mix(number) ^ mix(writer << 8)).is_multiple_of(4)
}

/// The file of a writer: which step has written each block; 0 where none has.
#[derive(Default, PartialEq, Eq)]
struct Blocks(Vec<u64>);

impl Blocks {
    fn take(&mut self, writer: u64, number: u64) {
        match step(writer, number) {
            Step::Write { first, count } => {
                let end = (first + count) as usize;
                self.0.resize(self.0.len().max(end), 0);
                self.0[first as usize..end].fill(number);
            }
            Step::Resize { blocks } => self.0.resize(blocks as usize, 0),
        }
    }

    fn read(path: &Path, seed: u64) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let zeros = [0; BLOCK_BYTES as usize];
        let block = |(index, block): (usize, &[u8])| {
            let offset = index as u64 * BLOCK_BYTES;
            match content::identify(block, seed, offset) {
                _ if block == zeros => Ok(0),
                Piece::Version(number) => Ok(number),
                other => anyhow::bail!("TORN: {}: {other:?}", path.display()),
            }
        };
        let blocks = bytes.chunks(BLOCK_BYTES as usize).enumerate().map(block);
        Ok(Self(blocks.collect::<anyhow::Result<_>>()?))
    }
}

/// What was acknowledged last, by writer.
struct Log(File);

impl Log {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut options = File::options();
        let options = options.append(true).create(true);
        let file = options.custom_flags(libc::O_DSYNC).open(path)?;
        Ok(Self(file))
    }

    fn note(&self, writer: &str, number: u64) -> std::io::Result<()> {
        (&self.0).write_all(format!("{writer} {number}\n").as_bytes())
    }

    fn read(path: &Path) -> anyhow::Result<HashMap<String, u64>> {
        let text = fs::read_to_string(path)?;
        let line = |line: &str| {
            let (writer, number) = line.split_once(' ')?;
            Some((writer.to_owned(), number.parse().ok()?))
        };
        Ok(text.lines().filter_map(line).collect())
    }
}

/// Goes on where the log says, until the power goes or every writer had an error.
pub fn write(directory: &Path, log: &Path, writers: u64) -> anyhow::Result<()> {
    let before = match log.exists() {
        true => Log::read(log)?,
        false => HashMap::new(),
    };
    let log = &Log::open(log)?;
    let from = |writer: &str| before.get(writer).map_or(1, |number| number + 1);
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let name = writer.to_string();
            let first = from(&name);
            scope.spawn(move || until_an_error(&name, write_on(directory, log, writer, first)));
        }
        let first = from(REPLACER);
        scope.spawn(move || until_an_error(REPLACER, replace_on(directory, log, first)));
    });
    Ok(())
}

fn until_an_error(writer: &str, ended: std::io::Result<()>) {
    if let Err(error) = ended {
        println!("{writer}: {error}");
    }
}

fn write_on(directory: &Path, log: &Log, writer: u64, first: u64) -> std::io::Result<()> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false);
    let file = options.open(directory.join(writer.to_string()))?;
    for number in first.. {
        match step(writer, number) {
            Step::Write { first, count } => {
                let mut bytes = vec![0; (count * BLOCK_BYTES) as usize];
                content::fill(&mut bytes, seed(writer), number, first * BLOCK_BYTES);
                file.write_all_at(&bytes, first * BLOCK_BYTES)?;
            }
            Step::Resize { blocks } => file.set_len(blocks * BLOCK_BYTES)?,
        }
        if is_synced(writer, number) {
            file.sync_data()?;
            log.note(&writer.to_string(), number)?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn seed(writer: u64) -> u64 {
    SEED + writer
}

fn replace_on(directory: &Path, log: &Log, first: u64) -> std::io::Result<()> {
    let (fresh, replaced) = (directory.join("fresh"), directory.join(REPLACER));
    for number in first.. {
        let mut bytes = vec![0; replaced_bytes(number)];
        content::fill(&mut bytes, SEED, number, 0);
        fs::write(&fresh, &bytes)?;
        fs::rename(&fresh, &replaced)?;
        log.note(REPLACER, number)?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn replaced_bytes(number: u64) -> usize {
    (BLOCK_BYTES * (1 + number % 40) + 100) as usize
}

/// Every file in `directory` must be what some step left, none before the last that was acknowledged. Prints which, and
/// notes them in the log: the next check is not content with less.
pub fn check(directory: &Path, log: &Path, writers: u64) -> anyhow::Result<()> {
    let acknowledged = Log::read(log)?;
    let log = Log::open(log)?;
    let least = |writer: &str| acknowledged.get(writer).copied().unwrap_or(0);
    let mut found = Vec::new();
    for writer in 0..writers {
        let name = writer.to_string();
        let path = directory.join(&name);
        let number = last_step(&path, writer, least(&name))
            .with_context(|| format!("writer {writer}, acknowledged up to {}", least(&name)))?;
        found.push((name, number));
    }
    let replaced = whole_version(&directory.join(REPLACER), least(REPLACER))?;
    found.push((REPLACER.to_owned(), replaced));
    for (writer, number) in &found {
        log.note(writer, *number)?;
        print!("{writer}:{number} ");
    }
    println!();
    Ok(())
}

fn last_step(path: &Path, writer: u64, least: u64) -> anyhow::Result<u64> {
    if least == 0 && !path.exists() {
        return Ok(0);
    }
    let found = Blocks::read(path, seed(writer))?;
    let mut blocks = Blocks::default();
    let mut last = (least == 0 && found == blocks).then_some(0);
    for number in 1..=least + UNSYNCED_STEPS_MAX {
        blocks.take(writer, number);
        if number >= least && blocks == found {
            last = Some(number);
        }
    }
    let newest = found.0.iter().max().copied().unwrap_or(0);
    last.with_context(|| format!("LOST: no step leaves it so; the newest that shows is {newest}"))
}

fn whole_version(path: &Path, least: u64) -> anyhow::Result<u64> {
    if least == 0 && !path.exists() {
        return Ok(0);
    }
    let version = readers::verify(path, SEED, None)?;
    ensure!(
        version >= least,
        "LOST: {REPLACER} shows {version}, {least} was acknowledged"
    );
    let bytes = fs::metadata(path)?.len();
    ensure!(
        bytes == replaced_bytes(version) as u64,
        "TORN: {REPLACER} of version {version} has {bytes} bytes"
    );
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_after(directory: &Path, number: u64) -> Blocks {
        let mut blocks = Blocks::default();
        for number in 1..=number {
            blocks.take(0, number);
        }
        let file = File::create(directory.join("0")).expect("file");
        file.set_len(blocks.0.len() as u64 * BLOCK_BYTES)
            .expect("size");
        for (index, version) in blocks.0.iter().enumerate().filter(|(_, it)| **it > 0) {
            let mut block = [0; BLOCK_BYTES as usize];
            let offset = index as u64 * BLOCK_BYTES;
            content::fill(&mut block, seed(0), *version, offset);
            file.write_all_at(&block, offset).expect("block");
        }
        blocks
    }

    #[test]
    fn a_file_is_told_by_the_step_that_left_it() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0");
        for number in [1, 2, 57, 300] {
            let blocks = left_after(directory.path(), number);
            let last = last_step(&path, 0, number / 2).expect("a step");
            // Steps that change nothing that shows may follow.
            let mut after = Blocks::default();
            (1..=last).for_each(|step| after.take(0, step));
            assert!(last >= number && after == blocks, "{number}: {last}");
        }
    }

    #[test]
    fn less_than_was_acknowledged_and_a_step_left_out_are_told() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0");
        left_after(directory.path(), 300);
        assert!(last_step(&path, 0, 400).is_err());
        let shown = (0..300).rev().find_map(|number| match step(0, number) {
            Step::Write { first, .. } => Some(first),
            Step::Resize { .. } => None,
        });
        let file = File::options().write(true).open(&path).expect("file");
        let zeros = [0; BLOCK_BYTES as usize];
        let offset = shown.expect("a write") * BLOCK_BYTES;
        file.write_all_at(&zeros, offset).expect("block");
        assert!(last_step(&path, 0, 100).is_err());
    }
}
