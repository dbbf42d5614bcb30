//! Close-to-open: what one has written and closed is what the next open of another sees, and what is on the server.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::content::{self, Piece, identify, mix};
use crate::readers;

const SEED: u64 = 7;

#[derive(Clone, Copy, Debug)]
enum Way {
    /// In place, the same size.
    Rewrite,
    /// In place, after O_TRUNC, another size.
    Truncate,
    /// A new file renamed over the old one.
    Replace,
}

/// Writes and closes; no fsync but what close implies.
fn write(path: &Path, version: u64, size_bytes: u64, truncate: bool) -> anyhow::Result<()> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(truncate);
    let file = options
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    let mut bytes = vec![0; size_bytes as usize];
    content::fill(&mut bytes, SEED, version, 0);
    file.write_all_at(&bytes, 0)
        .with_context(|| format!("writing {}", path.display()))?;
    if file.metadata()?.len() != size_bytes {
        file.set_len(size_bytes)?;
    }
    // std does not tell what close(2) answers.
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    nix::unistd::close(fd).with_context(|| format!("closing {}", path.display()))
}

/// In each round one of the directories writes a file, and after that all of them read it; `on_server` tells which
/// is the server's own. Small files and large ones in turns.
pub fn rounds(directories: &[PathBuf], rounds: u64, seed: u64) -> anyhow::Result<()> {
    let names = ["small", "large"];
    for name in names {
        write(&directories[0].join(name), 0, 1 << 20, true)?;
    }
    for round in 1..=rounds {
        let random = mix(seed ^ mix(round));
        let writer = (random % directories.len() as u64) as usize;
        let way = [Way::Rewrite, Way::Truncate, Way::Replace][(random >> 8) as usize % 3];
        let (name, about) = match (random >> 16) % 2 {
            0 => (names[0], 9_000),
            _ => (names[1], 600_000),
        };
        let path = directories[writer].join(name);
        one_round(&path, way, about, random, round)
            .and_then(|size_bytes| all_see(directories, name, round, size_bytes))
            .with_context(|| {
                format!("round {round} (seed {seed}, {way:?} of {})", path.display())
            })?;
    }
    println!(
        "{rounds} rounds, {} readers each, 0 stale",
        directories.len()
    );
    Ok(())
}

fn one_round(path: &Path, way: Way, about: u64, random: u64, round: u64) -> anyhow::Result<u64> {
    let size_bytes = match way {
        Way::Rewrite => fs::metadata(path)?.len(),
        Way::Truncate | Way::Replace => about / 2 + (random >> 24) % about,
    };
    match way {
        Way::Rewrite => write(path, round, size_bytes, false)?,
        Way::Truncate => write(path, round, size_bytes, true)?,
        Way::Replace => {
            let fresh = path.with_extension("new");
            write(&fresh, round, size_bytes, true)?;
            fs::rename(&fresh, path)?;
        }
    }
    Ok(size_bytes)
}

fn all_see(directories: &[PathBuf], name: &str, round: u64, size_bytes: u64) -> anyhow::Result<()> {
    for directory in directories {
        let path = directory.join(name);
        // Twice: from the server, and from the cache.
        for _ in 0..2 {
            let got = readers::verify(&path, SEED, Some(size_bytes))
                .with_context(|| format!("reading {}", path.display()))?;
            ensure!(
                got == round,
                "STALE: {} shows version {got}",
                path.display()
            );
        }
    }
    Ok(())
}

/// A handle that stays open shows what another client has changed when attributes time out.
pub fn follow(file: &Path, seen: &Path, rounds: u64, limit: Duration) -> anyhow::Result<()> {
    const SIZE_BYTES: u64 = 9_000;
    const LOOK_AGAIN: Duration = Duration::from_millis(500);
    content::write(file, SEED, 1, 0, SIZE_BYTES)?;
    let reader = File::open(seen).with_context(|| format!("opening {}", seen.display()))?;
    let mut bytes = vec![0; SIZE_BYTES as usize];
    let mut slowest = Duration::ZERO;
    for version in 2..rounds + 2 {
        content::write(file, SEED, version, 0, SIZE_BYTES)?;
        let begin = Instant::now();
        loop {
            let length = readers::read_piece(&reader, &mut bytes, 0)?;
            let found = identify(&bytes[..length], SEED, 0);
            if found == Piece::Version(version) {
                break;
            }
            if begin.elapsed() > limit {
                bail!("version {version}: after {limit:?} the handle shows {found:?}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        slowest = slowest.max(begin.elapsed());
    }
    println!(
        "{rounds} changes, the slowest seen after {} s",
        slowest.as_secs()
    );
    Ok(())
}
