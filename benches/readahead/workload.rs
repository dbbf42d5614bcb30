//! What is done to a directory, one function each.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::measure::Work;

const MIB: u64 = 1 << 20;
const SMALL_FILE_BYTES: usize = 8 << 10;
const RECORDS: u64 = 200;

pub struct Amounts {
    pub file_bytes: u64,
    pub files: u64,
}

pub struct Pattern {
    pub name: &'static str,
    pub run: fn(&Path, &Amounts) -> anyhow::Result<Work>,
}

pub const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "sequential",
        run: sequential,
    },
    Pattern {
        name: "backward",
        run: backward,
    },
    Pattern {
        name: "strided",
        run: strided,
    },
    Pattern {
        name: "random",
        run: random,
    },
];

/// One large file, a directory of small ones, and one that is newer than they are.
pub fn make_files(root: &Path, amounts: &Amounts) -> anyhow::Result<()> {
    fs::create_dir_all(root.join("walked"))?;
    let file = File::create(root.join("file"))?;
    let mut piece = vec![0; MIB as usize];
    for (number, offset) in (0..amounts.file_bytes).step_by(MIB as usize).enumerate() {
        piece.fill(number as u8);
        file.write_all_at(&piece, offset)?;
    }
    for number in 0..amounts.files {
        let path = root.join(format!("walked/f{number:06}"));
        fs::write(path, &piece[..SMALL_FILE_BYTES])?;
    }
    // The newest files of a server are read 20 ms later than others (docs/SEMANTICS.md).
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::write(root.join("newer"), b"")?;
    fs::metadata(root.join("newer"))?;
    Ok(())
}

/// Reads these places of the file.
fn read_at(
    root: &Path,
    offsets: impl Iterator<Item = u64>,
    length_bytes: u64,
) -> anyhow::Result<Work> {
    let file = File::open(root.join("file"))?;
    let mut buffer = vec![0; length_bytes as usize];
    let mut operations = 0;
    for offset in offsets {
        file.read_exact_at(&mut buffer, offset)?;
        operations += 1;
    }
    Ok(Work {
        operations,
        bytes: operations * length_bytes,
        latencies: None,
    })
}

fn sequential(root: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    read_at(root, (0..amounts.file_bytes).step_by(MIB as usize), MIB)
}

fn backward(root: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    const LENGTH_BYTES: u64 = 64 << 10;
    let end = amounts.file_bytes;
    let offsets = (1..=RECORDS).map(|record| end - record * LENGTH_BYTES);
    read_at(root, offsets, LENGTH_BYTES)
}

fn strided(root: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    let step_bytes = (amounts.file_bytes / RECORDS) & !4095;
    read_at(root, (0..RECORDS).map(|record| record * step_bytes), 4096)
}

fn random(root: &Path, amounts: &Amounts) -> anyhow::Result<Work> {
    let pages = amounts.file_bytes / 4096;
    let scattered = (1..=RECORDS).map(|record| record.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
    read_at(root, scattered.map(|number| number % pages * 4096), 4096)
}

/// As `find | xargs cat` does it: the listing to its end, then one file after the other.
pub fn walk(root: &Path, _amounts: &Amounts) -> anyhow::Result<Work> {
    let names = fs::read_dir(root.join("walked"))?;
    let paths: Vec<_> = names
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let mut bytes = 0;
    for path in &paths {
        bytes += fs::read(path)?.len() as u64;
    }
    Ok(Work {
        operations: paths.len() as u64,
        bytes,
        latencies: None,
    })
}
