//! Changes of a file at random points of its first read through the cache.
//!
//! One round: SOURCE gets a version, CACHED is opened and read in pieces while another thread changes SOURCE.
//! What must hold:
//! - a read call that did not overlap an in-place rewrite returns bytes of one version (a replaced or an
//!   appended file is never seen half-changed by anyone, so there every read call counts);
//! - an open after the change sees the new version, whole, also when read again from the cache.
//!
//! An error of a read call of the old handle is no mix: the server may have taken the old file away.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::content::{self, Piece, identify, mix};
use crate::readers;

const PIECE_BYTES: usize = 128 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Replace,
    Rewrite,
    /// The modification time is put back afterwards; the size stays as it is.
    RewriteAndPutBack,
    Append,
}

const KINDS: [Kind; 4] = [
    Kind::Replace,
    Kind::Rewrite,
    Kind::RewriteAndPutBack,
    Kind::Append,
];

/// One round's change.
#[derive(Debug)]
struct Change<'a> {
    kind: Kind,
    /// The file as it is written to.
    path: &'a Path,
    before: u64,
    size_bytes: u64,
    delay: Duration,
}

#[derive(Default)]
struct Tally {
    read_errors: u64,
    handles_that_moved: u64,
    changed_while_reading: u64,
}

struct ReadCall {
    begin: Instant,
    end: Instant,
    piece: Piece,
}

/// Runs `rounds` rounds; the first broken promise ends it with an error that names the round and the seed. `through`:
/// every other change is made by the name it is read by.
pub fn run(
    cached: &Path,
    source: &Path,
    rounds: u64,
    seed: u64,
    size_bytes: u64,
    through: bool,
) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    // How long a cold read takes here: the changes are spread over it.
    content::write(source, seed, 1, 0, size_bytes)?;
    let begin = Instant::now();
    ensure!(
        readers::verify(cached, seed, Some(size_bytes))? == 1,
        "the first read is not of version 1"
    );
    let mut read_time = begin.elapsed();
    for round in 1..=rounds {
        let random = mix(seed ^ mix(round));
        let change = Change {
            kind: KINDS[random as usize % KINDS.len()],
            path: if through && round.is_multiple_of(2) {
                cached
            } else {
                source
            },
            before: round * 2,
            size_bytes,
            delay: delay(random, read_time),
        };
        let took = one_round(cached, source, seed, &change, &mut tally)
            .with_context(|| format!("round {round} (seed {seed}, {change:?})"))?;
        read_time = (read_time * 7 + took) / 8;
    }
    println!(
        "{rounds} rounds, {} changed during the read, {} handles moved to the new version, {} reads failed on the old handle",
        tally.changed_while_reading, tally.handles_that_moved, tally.read_errors
    );
    Ok(())
}

/// Somewhere in the first read; every fourth change within the timestamp step of the version before it, as far as the
/// machine is fast enough.
fn delay(random: u64, read_time: Duration) -> Duration {
    match (random >> 4) % 4 {
        0 => Duration::ZERO,
        _ => read_time.mul_f64(((random >> 8) % 1000) as f64 / 900.0),
    }
}

fn one_round(
    cached: &Path,
    source: &Path,
    seed: u64,
    change: &Change<'_>,
    tally: &mut Tally,
) -> anyhow::Result<Duration> {
    let Change {
        kind,
        before,
        size_bytes,
        delay,
        ..
    } = *change;
    // A new version by rename: the file is cold whatever the last round left.
    replace(source, seed, before, size_bytes)?;
    let (calls, change_begin, change_end) = std::thread::scope(|scope| {
        let changer = scope.spawn(move || {
            std::thread::sleep(delay);
            let begin = Instant::now();
            make(change, seed).map(|()| (begin, Instant::now()))
        });
        let calls = read_once(cached, seed, tally);
        let (begin, end) = changer.join().expect("the changer does not panic")?;
        anyhow::Ok((calls?, begin, end))
    })?;

    let took = calls.last().map_or(delay, |last| last.end - calls[0].begin);
    if calls.last().is_some_and(|last| last.end > change_begin) {
        tally.changed_while_reading += 1;
    }
    let mut versions = Vec::new();
    for call in &calls {
        let in_place = matches!(kind, Kind::Rewrite | Kind::RewriteAndPutBack);
        let overlaps = in_place && call.begin < change_end && call.end > change_begin;
        match &call.piece {
            Piece::Version(version) => versions.push(*version),
            _ if overlaps => {}
            other => anyhow::bail!("a read returned {other:?}"),
        }
    }
    versions.dedup();
    ensure!(
        versions
            .iter()
            .all(|version| [before, before + 1].contains(version)),
        "stale versions {versions:?}"
    );
    tally.handles_that_moved += u64::from(versions.len() > 1);

    let (want, want_bytes) = match kind {
        Kind::Append => (before, grown(size_bytes)),
        Kind::Replace | Kind::Rewrite | Kind::RewriteAndPutBack => (before + 1, size_bytes),
    };
    for attempt in [
        "first open after the change",
        "second open after the change",
    ] {
        let got = readers::verify(cached, seed, Some(want_bytes)).context(attempt)?;
        ensure!(got == want, "{attempt}: version {got} instead of {want}");
    }
    Ok(took)
}

fn grown(size_bytes: u64) -> u64 {
    size_bytes + size_bytes / 4 + 13
}

fn make(change: &Change<'_>, seed: u64) -> anyhow::Result<()> {
    let Change {
        kind,
        path,
        before,
        size_bytes,
        ..
    } = *change;
    match kind {
        Kind::Replace => replace(path, seed, before + 1, size_bytes),
        Kind::Rewrite => content::write(path, seed, before + 1, 0, size_bytes),
        Kind::RewriteAndPutBack => {
            let modified = fs::metadata(path)?.modified()?;
            content::write(path, seed, before + 1, 0, size_bytes)?;
            let file = File::options().write(true).open(path)?;
            Ok(file.set_modified(modified)?)
        }
        Kind::Append => content::write(path, seed, before, size_bytes, grown(size_bytes)),
    }
}

/// Reads the file once by one handle; a failed call ends it and is counted.
fn read_once(path: &Path, seed: u64, tally: &mut Tally) -> anyhow::Result<Vec<ReadCall>> {
    let mut calls = Vec::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let Ok(file) = File::open(path) else {
        tally.read_errors += 1;
        return Ok(calls);
    };
    let mut offset = 0;
    loop {
        let begin = Instant::now();
        let Ok(count) = std::os::unix::fs::FileExt::read_at(&file, &mut buffer, offset) else {
            tally.read_errors += 1;
            return Ok(calls);
        };
        let end = Instant::now();
        if count == 0 {
            return Ok(calls);
        }
        let piece = identify(&buffer[..count], seed, offset);
        calls.push(ReadCall { begin, end, piece });
        // A short read in the middle of a block: go on from the block's begin.
        let next = offset + count as u64;
        let aligned = next / content::BLOCK_BYTES * content::BLOCK_BYTES;
        offset = if aligned > offset {
            aligned
        } else {
            return Ok(calls);
        };
        if aligned != next && file.metadata().is_ok_and(|now| now.len() <= next) {
            return Ok(calls);
        }
    }
}

/// A new file under the old name, complete when the name changes hands.
fn replace(path: &Path, seed: u64, version: u64, size_bytes: u64) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    content::write(&fresh, seed, version, 0, size_bytes)?;
    fs::rename(&fresh, path).with_context(|| format!("replacing {}", path.display()))
}
