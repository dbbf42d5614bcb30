//! The content of a test file as a function of (seed, version, offset).
//!
//! Eight-byte words. The first word of a 4 KiB block is the version, masked by (seed, block number), so it
//! can be read back from the block alone; the others are a hash of (seed, version, word number).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;

pub const BLOCK_BYTES: u64 = 4096;
const WORD_BYTES: u64 = 8;
const WORDS_PER_BLOCK: u64 = BLOCK_BYTES / WORD_BYTES;
/// Versions stay below this, so that a random word is recognised as no version at all.
pub const VERSION_LIMIT: u64 = 1 << 32;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn word(seed: u64, version: u64, index: u64) -> u64 {
    if index.is_multiple_of(WORDS_PER_BLOCK) {
        mix(mix(seed) ^ index) ^ version
    } else {
        mix(mix(mix(seed) ^ version) ^ index)
    }
}

/// Fills `buffer` with the bytes of one version from `offset` on.
pub fn fill(buffer: &mut [u8], seed: u64, version: u64, offset: u64) {
    let mut position = 0;
    while position < buffer.len() {
        let at = offset + position as u64;
        let bytes = word(seed, version, at / WORD_BYTES).to_le_bytes();
        let skip = (at % WORD_BYTES) as usize;
        let count = (bytes.len() - skip).min(buffer.len() - position);
        buffer[position..position + count].copy_from_slice(&bytes[skip..skip + count]);
        position += count;
    }
}

/// What a piece of a file turned out to hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Every byte is of this version.
    Version(u64),
    /// Whole blocks of more than one version.
    Mixed { first: u64, other: u64, offset: u64 },
    /// Bytes of no version: zeros, torn inside a block, another file's.
    Foreign { offset: u64 },
}

/// Tells which version `buffer`, read at `offset`, belongs to. `offset` must be block-aligned.
pub fn identify(buffer: &[u8], seed: u64, offset: u64) -> Piece {
    assert!(
        offset.is_multiple_of(BLOCK_BYTES),
        "pieces start at a block"
    );
    let mut found: Option<u64> = None;
    let mut expected = [0u8; BLOCK_BYTES as usize];
    for (number, block) in buffer.chunks(BLOCK_BYTES as usize).enumerate() {
        let at = offset + number as u64 * BLOCK_BYTES;
        let version = if let Some(stamp) = block.first_chunk::<8>() {
            u64::from_le_bytes(*stamp) ^ word(seed, 0, at / WORD_BYTES)
        } else {
            // A tail shorter than its stamp belongs to what came before it in this piece; no file ends
            // like that whose tail is read alone.
            found.unwrap_or(0)
        };
        if version >= VERSION_LIMIT {
            return Piece::Foreign { offset: at };
        }
        fill(&mut expected[..block.len()], seed, version, at);
        if expected[..block.len()] != *block {
            return Piece::Foreign { offset: at };
        }
        match found {
            None => found = Some(version),
            Some(first) if first != version => {
                return Piece::Mixed {
                    first,
                    other: version,
                    offset: at,
                };
            }
            Some(_) => {}
        }
    }
    Piece::Version(found.unwrap_or(0))
}

/// Writes the bytes `from..to` of one version into `file`, created where missing, not truncated below
/// `from`; a rewrite from 0 sets the size to `to`. Synced to the disk before it returns.
pub fn write(file: &Path, seed: u64, version: u64, from: u64, to: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        version < VERSION_LIMIT,
        "versions are below {VERSION_LIMIT}"
    );
    let output = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .with_context(|| format!("opening {}", file.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = from;
    while offset < to {
        let length = (to - offset).min(buffer.len() as u64) as usize;
        fill(&mut buffer[..length], seed, version, offset);
        output
            .write_all_at(&buffer[..length], offset)
            .with_context(|| format!("writing {}", file.display()))?;
        offset += length as u64;
    }
    output.set_len(to)?;
    output
        .sync_all()
        .with_context(|| format!("syncing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_pair(first: u64, second: u64) -> Vec<u8> {
        let mut bytes = vec![0; 2 * BLOCK_BYTES as usize];
        let (left, right) = bytes.split_at_mut(BLOCK_BYTES as usize);
        fill(left, 7, first, 8 * BLOCK_BYTES);
        fill(right, 7, second, 9 * BLOCK_BYTES);
        bytes
    }

    #[test]
    fn one_version_is_recognised_from_any_block() {
        assert_eq!(
            identify(&block_pair(5, 5), 7, 8 * BLOCK_BYTES),
            Piece::Version(5)
        );
        assert_eq!(
            identify(&block_pair(5, 5)[..4096 + 100], 7, 8 * BLOCK_BYTES),
            Piece::Version(5)
        );
        assert_eq!(
            identify(&block_pair(5, 5)[..4096 + 3], 7, 8 * BLOCK_BYTES),
            Piece::Version(5)
        );
    }

    #[test]
    fn a_mix_names_both_versions() {
        let mixed = Piece::Mixed {
            first: 5,
            other: 6,
            offset: 9 * BLOCK_BYTES,
        };
        assert_eq!(identify(&block_pair(5, 6), 7, 8 * BLOCK_BYTES), mixed);
    }

    #[test]
    fn zeros_torn_blocks_and_moved_blocks_are_foreign() {
        assert_eq!(
            identify(&[0; 4096], 7, 4096),
            Piece::Foreign { offset: 4096 }
        );
        let mut torn = block_pair(5, 5);
        fill(&mut torn[2048..4096], 7, 6, 8 * BLOCK_BYTES + 2048);
        assert_eq!(
            identify(&torn, 7, 8 * BLOCK_BYTES),
            Piece::Foreign {
                offset: 8 * BLOCK_BYTES
            }
        );
        assert_eq!(
            identify(&block_pair(5, 5), 7, 0),
            Piece::Foreign { offset: 0 }
        );
        assert_eq!(
            identify(&block_pair(5, 5), 8, 8 * BLOCK_BYTES),
            Piece::Foreign {
                offset: 8 * BLOCK_BYTES
            }
        );
    }

    #[test]
    fn filling_in_odd_pieces_gives_the_same_bytes() {
        let whole = block_pair(3, 3);
        let mut pieces = vec![0; whole.len()];
        for (number, piece) in pieces.chunks_mut(1003).enumerate() {
            fill(piece, 7, 3, 8 * BLOCK_BYTES + number as u64 * 1003);
        }
        assert_eq!(whole, pieces);
    }
}
