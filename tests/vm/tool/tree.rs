//! A deterministic directory tree, and the checksum of any tree.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use anyhow::Context;

use crate::content::{self, mix};

/// Every sixteenth file is large; these share half of the bytes.
const LARGE_EVERY: u64 = 16;
const FILES_PER_DIRECTORY: u64 = 64;

/// Writes `files` files of about `total_bytes` together, in directories of 64, with symbolic and hard links,
/// an empty file, a non-UTF-8 name and a name of 255 bytes.
pub fn write(directory: &Path, seed: u64, files: u64, total_bytes: u64) -> anyhow::Result<()> {
    let large_files = files.div_ceil(LARGE_EVERY).max(1);
    let small_files = (files - large_files.min(files)).max(1);
    for number in 0..files {
        let folder = directory.join(format!("d{:03}", number / FILES_PER_DIRECTORY));
        if number.is_multiple_of(FILES_PER_DIRECTORY) {
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        let share = if number.is_multiple_of(LARGE_EVERY) {
            total_bytes / 2 / large_files
        } else {
            total_bytes / 2 / small_files
        };
        // Sizes from half to one and a half of the share: nothing lines up with blocks.
        let size_bytes = share / 2 + mix(seed ^ number) % share.max(1);
        let file = folder.join(format!("f{number:06}"));
        content::write(&file, seed ^ number, 1, 0, size_bytes)?;
        if number.is_multiple_of(50) {
            symlink(
                file.file_name().unwrap_or(OsStr::new("f")),
                folder.join(format!("symbolic{number}")),
            )?;
            fs::hard_link(&file, folder.join(format!("hard{number}")))?;
        }
    }
    fs::write(directory.join("empty"), b"")?;
    fs::write(
        directory.join(OsString::from_vec(b"latin1-\xe9\xff".to_vec())),
        b"not UTF-8",
    )?;
    fs::write(directory.join("n".repeat(255)), b"a long name")?;
    Ok(())
}

pub struct Sum {
    pub checksum: u64,
    pub files: u64,
    pub bytes: u64,
}

/// One checksum over the names, types, modes, sizes, link targets and contents of a tree, in name order.
pub fn sum(directory: &Path) -> anyhow::Result<Sum> {
    let mut sum = Sum {
        checksum: 0,
        files: 0,
        bytes: 0,
    };
    add_directory(directory, &mut sum)?;
    Ok(sum)
}

fn add(sum: &mut Sum, bytes: &[u8]) {
    let digest = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    sum.checksum = mix(sum.checksum ^ digest ^ bytes.len() as u64);
}

fn add_directory(directory: &Path, sum: &mut Sum) -> anyhow::Result<()> {
    let mut entries = fs::read_dir(directory)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("listing {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path)
            .with_context(|| format!("looking at {}", path.display()))?;
        add(sum, entry.file_name().as_bytes());
        add(sum, &metadata.mode().to_le_bytes());
        if metadata.is_dir() {
            add_directory(&path, sum)?;
        } else if metadata.file_type().is_symlink() {
            add(sum, fs::read_link(&path)?.as_os_str().as_bytes());
        } else if metadata.is_file() {
            add(sum, &metadata.len().to_le_bytes());
            add_file(&path, sum).with_context(|| format!("reading {}", path.display()))?;
        } else if metadata.file_type().is_block_device() || metadata.file_type().is_char_device() {
            add(sum, &metadata.rdev().to_le_bytes());
        }
    }
    Ok(())
}

fn add_file(path: &Path, sum: &mut Sum) -> std::io::Result<()> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                digest.update(&buffer[..count]);
                sum.bytes += count as u64;
            }
        }
    }
    sum.files += 1;
    add(sum, &digest.finalize().to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> tempfile::TempDir {
        let parent =
            std::env::var_os("CACHEFS_TEST_DIR").map_or_else(std::env::temp_dir, Into::into);
        tempfile::tempdir_in(parent).expect("a scratch directory")
    }

    #[test]
    fn equal_trees_have_equal_sums_and_one_byte_changes_it() {
        let scratch = scratch();
        let (left, right) = (scratch.path().join("left"), scratch.path().join("right"));
        for side in [&left, &right] {
            write(side, 3, 100, 1 << 20).expect("the tree is written");
        }
        let (first, second) = (sum(&left).expect("sum"), sum(&right).expect("sum"));
        assert_eq!(
            (first.checksum, first.files),
            (second.checksum, second.files)
        );
        content::write(&right.join("d001/f000099"), 99, 2, 0, 10).expect("the change is written");
        assert_ne!(first.checksum, sum(&right).expect("sum").checksum);
    }
}
