//! A small real disk: a filesystem in a file, on a loop device, that somebody else fills.

use super::Scratch;
use super::mount::private_directory;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHUNKS: [usize; 2] = [1 << 20, 4096];

/// Unmounted with its scratch directory.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `kind` is ext4 or xfs. Nothing of it is kept for root.
    pub fn new(scratch: &Scratch, kind: &str, size_bytes: u64) -> Self {
        let image = scratch.path().join("disk.image");
        File::create(&image).unwrap().set_len(size_bytes).unwrap();
        let quiet: &[&str] = match kind {
            "ext4" => &["-q", "-F", "-m", "0"],
            _ => &["-q"],
        };
        run(Command::new(format!("mkfs.{kind}")).args(quiet).arg(&image));
        let path = scratch.directory("disk");
        run(Command::new("mount")
            .args(["-o", "loop", "-t", kind])
            .args([&image, &path]));
        Self { path }
    }

    /// A directory on it for a cache.
    pub fn cache_directory(&self) -> PathBuf {
        let cache = self.path.join("cache");
        private_directory(&cache);
        cache
    }

    fn foreign_file(&self) -> PathBuf {
        self.path.join("somebody else's")
    }

    /// Another program takes every block there is.
    pub fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.foreign_file())
            .unwrap();
        for chunk in CHUNKS {
            let bytes = vec![0x77; chunk];
            while file.write_all(&bytes).is_ok() {}
            // What is freed by others comes back with the journal's next commit.
            nix::unistd::syncfs(&file).unwrap();
        }
        assert!(self.free_bytes() < CHUNKS[0] as u64, "it is not full");
    }

    /// It gives them back.
    pub fn free(&self) {
        fs::remove_file(self.foreign_file()).unwrap();
        nix::unistd::syncfs(File::open(&self.path).unwrap()).unwrap();
    }

    pub fn free_bytes(&self) -> u64 {
        free_bytes(&self.path)
    }
}

fn free_bytes(path: &Path) -> u64 {
    let facts = nix::sys::statvfs::statvfs(path).unwrap();
    facts.blocks_available() * facts.fragment_size()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
