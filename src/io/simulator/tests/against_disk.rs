//! Without faults the simulator answers as a directory on a real disk does, errors included.

use super::super::{Dice, FaultPlan, Simulation, seed_of_this_run};
use crate::io::{Io, IoFile, OpenMode};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PATHS: [&str; 13] = [
    "a",
    "b",
    "c",
    "d",
    "d/a",
    "d/b",
    "d/e",
    "d/e/a",
    "e",
    "e/a",
    "a/x",
    "missing/x",
    "d/missing/x",
];

fn real_open(path: &Path, mode: OpenMode) -> io::Result<File> {
    match mode {
        OpenMode::Read => File::open(path),
        OpenMode::ReadWrite => OpenOptions::new().read(true).write(true).open(path),
        OpenMode::CreateNew => OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path),
    }
}

fn real_create_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ENOTDIR))
            }
        }
        other => other,
    }
}

fn real_list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().into_string().unwrap());
    }
    names.sort();
    Ok(names)
}

fn simulated_list(disk: &dyn Io, path: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    disk.list(path, &mut |name| {
        names.push(name.to_owned());
        true
    })?;
    names.sort();
    Ok(names)
}

/// Equal results, or equal errno.
fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    simulated: io::Result<T>,
    real: io::Result<T>,
) {
    let simulated = simulated.map_err(|error| error.raw_os_error());
    let real = real.map_err(|error| error.raw_os_error());
    assert_eq!(simulated, real, "{what}: simulated, real");
}

struct Both {
    disk: Arc<dyn Io>,
    root: PathBuf,
    /// Allocation is comparable: the real filesystem counts 4 KiB blocks as they are written.
    counts_blocks: bool,
    open: Vec<(Arc<dyn IoFile>, File)>,
}

impl Both {
    fn open(&mut self, path: &str, mode: OpenMode) {
        let simulated = self.disk.open(path, mode);
        let real = real_open(&self.root.join(path), mode);
        match (simulated, real) {
            (Ok(simulated), Ok(real)) => self.open.push((simulated, real)),
            (simulated, real) => compare(
                &format!("open {path} {mode:?}"),
                simulated.map(|_| ()),
                real.map(|_| ()),
            ),
        }
    }

    fn compare_open(&self, index: usize) {
        let (simulated, real) = &self.open[index];
        let facts = simulated.facts().unwrap();
        let metadata = real.metadata().unwrap();
        assert_eq!(facts.is_regular, metadata.is_file());
        if !facts.is_regular {
            return;
        }
        assert_eq!(facts.size_bytes, metadata.len());
        assert_eq!(facts.link_count, metadata.nlink());
        assert_eq!(facts.owner_uid, metadata.uid());
        if self.counts_blocks {
            let allocated_bytes = metadata.blocks() * 512;
            // ext4 counts blocks of its extent tree too.
            let tree_bytes = 16 * 4096;
            let range = facts.allocated_bytes..=facts.allocated_bytes + tree_bytes;
            assert!(
                range.contains(&allocated_bytes),
                "{facts:?} {allocated_bytes}"
            );
        }
    }

    fn write(&self, index: usize, data: &[u8], offset: u64) {
        let (simulated, real) = &self.open[index];
        compare(
            &format!("write {} at {offset}", data.len()),
            simulated.write_all_at(data, offset),
            real.write_all_at(data, offset),
        );
    }

    fn read(&self, index: usize, length_bytes: usize, offset: u64) {
        let (simulated, real) = &self.open[index];
        let mut ours = vec![1; length_bytes];
        let mut theirs = vec![1; length_bytes];
        compare(
            &format!("read {length_bytes} at {offset}"),
            simulated.read_at(&mut ours, offset),
            real.read_at(&mut theirs, offset),
        );
        assert!(
            ours == theirs,
            "read {length_bytes} at {offset}: other bytes"
        );
    }

    fn set_size(&self, index: usize, size_bytes: u64) {
        let (simulated, real) = &self.open[index];
        compare(
            &format!("set_size {size_bytes}"),
            simulated.set_size(size_bytes),
            real.set_len(size_bytes),
        );
    }

    fn random_operation(&mut self, dice: &mut Dice) {
        let path = PATHS[dice.below(PATHS.len() as u64) as usize];
        let other = PATHS[dice.below(PATHS.len() as u64) as usize];
        let real = self.root.join(path);
        let index = dice.below(self.open.len().max(1) as u64) as usize;
        let has_open = !self.open.is_empty();
        let offset = match dice.below(8) {
            0 => 1 << (30 + dice.below(8)),
            1 => dice.below(32) * 4096,
            _ => dice.below(100_000),
        };
        match dice.below(16) {
            0 => compare(
                &format!("create_directory {path}"),
                self.disk.create_directory(path),
                real_create_directory(&real),
            ),
            1 => compare(
                &format!("list {path}"),
                simulated_list(&*self.disk, path),
                real_list(&real),
            ),
            2 => compare(
                &format!("remove {path}"),
                self.disk.remove_file(path),
                std::fs::remove_file(&real),
            ),
            3 => compare(
                &format!("rename {path} {other}"),
                self.disk.rename(path, other),
                std::fs::rename(&real, self.root.join(other)),
            ),
            4 | 5 => self.open(path, OpenMode::CreateNew),
            6 => self.open(path, OpenMode::ReadWrite),
            7 => self.open(path, OpenMode::Read),
            8 if self.open.len() > 4 => drop(self.open.swap_remove(index)),
            9 | 10 if has_open => {
                let mut data = vec![0; dice.below(12_000) as usize];
                dice.fill(&mut data);
                self.write(index, &data, offset);
            }
            11 | 12 if has_open => self.read(index, dice.below(20_000) as usize, offset),
            13 if has_open => self.set_size(index, offset),
            14 if has_open => compare(
                "sync_data",
                self.open[index].0.sync_data(),
                self.open[index].1.sync_data(),
            ),
            15 => compare(
                &format!("sync_directory {path}"),
                self.disk.sync_directory(path),
                OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_DIRECTORY)
                    .open(&real)
                    .and_then(|directory| directory.sync_all()),
            ),
            _ => {}
        }
        for index in 0..self.open.len() {
            self.compare_open(index);
        }
    }

    /// Every name and every byte.
    fn compare_tree(&self, directory: &str) {
        let names = simulated_list(&*self.disk, directory).unwrap();
        assert_eq!(names, real_list(&self.root.join(directory)).unwrap());
        for name in names {
            let path = Path::new(directory).join(name);
            let path = path.to_str().unwrap();
            let simulated = self.disk.open(path, OpenMode::Read).unwrap();
            let real = File::open(self.root.join(path)).unwrap();
            if !simulated.facts().unwrap().is_regular {
                self.compare_tree(path);
                continue;
            }
            let size_bytes = simulated.facts().unwrap().size_bytes;
            assert_eq!(size_bytes, real.metadata().unwrap().len());
            for offset in [0, size_bytes.saturating_sub(1 << 17)] {
                let mut ours = vec![1; 1 << 17];
                let mut theirs = vec![2; 1 << 17];
                let moved = simulated.read_at(&mut ours, offset).unwrap();
                assert_eq!(moved, real.read_at(&mut theirs, offset).unwrap());
                assert!(ours[..moved] == theirs[..moved], "{path} at {offset}");
            }
        }
    }
}

fn scratch_directory() -> tempfile::TempDir {
    let parent =
        std::env::var_os("CACHEFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

fn is_ext4(path: &Path) -> bool {
    let facts = nix::sys::statfs::statfs(path).unwrap();
    facts.filesystem_type() == nix::sys::statfs::EXT4_SUPER_MAGIC
}

#[test]
fn random_operations_answer_as_on_a_real_directory() {
    let seed = seed_of_this_run();
    let scratch = scratch_directory();
    for round in 0..12 {
        let seed = seed.wrapping_add(round);
        println!("round with CACHEFS_SEED={seed}");
        let root = scratch.path().join(round.to_string());
        std::fs::create_dir(&root).unwrap();
        let simulation = Simulation::new(seed, FaultPlan::none());
        let mut both = Both {
            disk: simulation.device("disk"),
            counts_blocks: is_ext4(&root),
            root,
            open: Vec::new(),
        };
        let mut dice = Dice::new(seed);
        for _ in 0..600 {
            both.random_operation(&mut dice);
        }
        both.compare_tree("");
        // A real process that dies loses as little.
        both.open.clear();
        simulation.kill();
        simulation.restart();
        both.disk = simulation.device("disk");
        both.compare_tree("");
    }
}

#[test]
fn limits_answer_as_on_ext4() {
    let scratch = scratch_directory();
    if !is_ext4(scratch.path()) {
        return;
    }
    let simulation = Simulation::deterministic(1);
    let mut both = Both {
        disk: simulation.device("disk"),
        root: scratch.path().to_owned(),
        counts_blocks: true,
        open: Vec::new(),
    };
    both.open("file", OpenMode::CreateNew);
    both.open("file", OpenMode::Read);
    let longest = "n".repeat(255);
    both.open(&longest, OpenMode::CreateNew);
    both.open(&format!("{longest}n"), OpenMode::CreateNew);
    both.open(&format!("{longest}n"), OpenMode::Read);
    both.open("file/", OpenMode::Read);
    both.open(".", OpenMode::Read);
    both.open(".", OpenMode::ReadWrite);
    both.open("new/", OpenMode::CreateNew);
    let limit = super::super::transfer::FILE_SIZE_MAX_BYTES;
    for offset in [
        0,
        limit - 4096,
        limit - 1,
        limit,
        limit + 1,
        i64::MAX as u64 - 4096,
        i64::MAX as u64,
    ] {
        for index in 0..both.open.len() {
            both.write(index, &[7; 4096], offset);
            both.write(index, &[], offset);
            both.read(index, 100, offset);
            both.set_size(index, offset);
            both.compare_open(index);
        }
    }
}
