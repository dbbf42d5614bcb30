//! File contents that are a function of seed, version and offset, so that any bytes read anywhere tell
//! whether they are right and of which version they are.
//!
//! Each 512 bytes: 8 bytes magic xor seed, 8 bytes version, 8 bytes offset, then words scattered from
//! all three. 512 is finer than any block that a cache or a kernel moves.

use super::random::mix;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR_BYTES: u64 = 512;
const MAGIC: u64 = 0x6361_6368_6566_7331;
const PIECE_BYTES: u64 = 1 << 20;

/// One version of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub seed: u64,
    pub version: u64,
    pub size_bytes: u64,
}

impl Content {
    pub fn new(seed: u64, version: u64, size_bytes: u64) -> Self {
        Self {
            seed,
            version,
            size_bytes,
        }
    }

    /// The bytes of this version at `offset`, as if the file had no end.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let within = (at % SECTOR_BYTES) as usize;
            let sector = self.sector(at - within as u64);
            let count = (SECTOR_BYTES as usize - within).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&sector[within..within + count]);
            done += count;
        }
    }

    pub fn bytes(&self, offset: u64, length_bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; length_bytes];
        self.fill(offset, &mut buffer);
        buffer
    }

    fn sector(&self, offset: u64) -> [u8; SECTOR_BYTES as usize] {
        let mut sector = [0; SECTOR_BYTES as usize];
        let key = mix(self.seed ^ mix(self.version) ^ offset);
        for (index, word) in sector.chunks_exact_mut(8).enumerate() {
            let value = match index {
                0 => MAGIC ^ self.seed,
                1 => self.version,
                2 => offset,
                _ => (key ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        sector
    }

    /// Writes the whole content into an open file, in place, from the front; the size becomes this
    /// version's when all is written.
    pub fn write_to(&self, file: &File) -> io::Result<()> {
        let mut offset = 0;
        while offset < self.size_bytes {
            let count = PIECE_BYTES.min(self.size_bytes - offset);
            file.write_all_at(&self.bytes(offset, count as usize), offset)?;
            offset += count;
        }
        file.set_len(self.size_bytes)
    }

    /// Makes the file, which must not exist.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        self.write_to(&File::create_new(path)?)
    }

    /// Makes a new file beside `path` and renames it over it.
    pub fn replace(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        self.write_to(&File::create(&beside)?)?;
        std::fs::rename(&beside, path)
    }

    /// What is wrong with bytes read at `offset`, if anything. Bytes after the end are wrong.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        if offset + bytes.len() as u64 > self.size_bytes {
            return Err(format!(
                "{} bytes at {offset} of a file of {}",
                bytes.len(),
                self.size_bytes
            ));
        }
        let mut expected = vec![0; (PIECE_BYTES as usize).min(bytes.len())];
        for (index, piece) in bytes.chunks(PIECE_BYTES as usize).enumerate() {
            let at = offset + index as u64 * PIECE_BYTES;
            let expected = &mut expected[..piece.len()];
            self.fill(at, expected);
            if let Some(first) = piece
                .iter()
                .zip(&*expected)
                .position(|(got, want)| got != want)
            {
                return Err(self.describe(at + first as u64, &piece[first..]));
            }
        }
        Ok(())
    }

    fn describe(&self, offset: u64, bytes: &[u8]) -> String {
        let shown = &bytes[..bytes.len().min(32)];
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        format!(
            "version {} differs from offset {offset} on ({zeros} zeros from there): {shown:02x?}",
            self.version
        )
    }

    /// Reads a file to its end by positioned reads of `read_bytes`, checking every byte and the size.
    /// An error of a read is given back; wrong bytes panic.
    pub fn expect_in(&self, file: &File, read_bytes: usize) -> io::Result<()> {
        let mut buffer = vec![0; read_bytes];
        let mut offset = 0;
        loop {
            let count = file.read_at(&mut buffer, offset)?;
            if count == 0 {
                break;
            }
            if let Err(wrong) = self.check(offset, &buffer[..count]) {
                panic!("{wrong}");
            }
            offset += count as u64;
        }
        assert_eq!(offset, self.size_bytes, "the file ends elsewhere");
        Ok(())
    }
}

/// Opens, reads and checks a whole file; any error panics.
pub fn expect_content(path: &Path, content: Content) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    content
        .expect_in(&file, PIECE_BYTES as usize)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Which of `candidates` bytes read at `offset` belong to; `None` when to none: a mix, or invented.
pub fn version_of(candidates: &[Content], offset: u64, bytes: &[u8]) -> Option<Content> {
    let fits = |content: &&Content| content.check(offset, bytes).is_ok();
    candidates.iter().find(fits).copied()
}
