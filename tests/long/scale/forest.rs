//! Many small files: file `n` has `1 + n % 100` bytes that tell `n`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Debug)]
pub struct Forest {
    pub root: PathBuf,
    pub directories: usize,
    pub files_each: usize,
}

impl Forest {
    pub fn files(&self) -> usize {
        self.directories * self.files_each
    }

    /// Makes the files, two directories at a time.
    pub fn plant(&self) {
        self.each_directory(2, |directory| {
            let path = self.directory(&self.root, directory);
            fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            for file in 0..self.files_each {
                let path = path.join(format!("f{file:04}"));
                let mut file_made =
                    File::create_new(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                file_made
                    .write_all(&content(directory * self.files_each + file))
                    .unwrap_or_else(|e| panic!("{path:?}: {e}"));
            }
        });
    }

    /// Reads every file below `root`, a mount of the forest, and compares it.
    pub fn read_all(&self, root: &Path, readers: usize) {
        self.each_directory(readers, |directory| {
            let path = self.directory(root, directory);
            for file in 0..self.files_each {
                self.check(&path, directory, file);
            }
        });
    }

    /// Reads one file in full.
    pub fn read_one(&self, root: &Path, directory: usize, file: usize) {
        self.check(&self.directory(root, directory), directory, file);
    }

    fn check(&self, path: &Path, directory: usize, file: usize) {
        let path = path.join(format!("f{file:04}"));
        let mut found = Vec::with_capacity(128);
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut found))
            .unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert_eq!(
            found,
            content(directory * self.files_each + file),
            "{path:?}"
        );
    }

    fn directory(&self, root: &Path, directory: usize) -> PathBuf {
        root.join(format!("d{directory:04}"))
    }

    fn each_directory(&self, threads: usize, act: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let directory = next.fetch_add(1, Ordering::Relaxed);
                        if directory >= self.directories {
                            return;
                        }
                        act(directory);
                    }
                });
            }
        });
    }
}

fn content(number: usize) -> Vec<u8> {
    let mut bytes = format!("{number:016}").repeat(7).into_bytes();
    bytes.truncate(1 + number % 100);
    bytes
}
