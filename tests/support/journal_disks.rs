//! [`Place`]: a mount with `write_mode=back` whose journal lies in several directories that can be lost.

use super::*;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(60);

/// A mount whose journal lies in the directories `j0`, `j1` and so on, and which brings nothing to the backend by itself.
pub struct Place {
    pub mount: Mount,
    pub devices: usize,
    /// What was written and synced.
    pub files: Vec<(String, Vec<u8>)>,
    /// The directory goes last.
    pub scratch: Scratch,
}

impl Place {
    pub fn new(test: &str, erasure: &str) -> Self {
        Self::on(Scratch::new(test), erasure, "64M")
    }

    /// Where `j0` and so on may be mounted already.
    pub fn on(scratch: Scratch, erasure: &str, size: &str) -> Self {
        let devices: usize = erasure
            .split('+')
            .map(|n| n.parse::<usize>().unwrap())
            .sum();
        let directories: Vec<String> = (0..devices)
            .map(|number| {
                let directory = scratch.path().join(format!("j{number}"));
                directory.display().to_string()
            })
            .collect();
        let options = MountOptions::new(&scratch)
            .with("write_mode=back")
            .with(&format!("journal_size={size}"))
            .with("writeback_delay=1h")
            .with(&format!("erasure={erasure}"))
            .with(&format!("journal_dir={}", directories.join(":")));
        let plain = scratch.directory("plain");
        let mount = Mount::start(&scratch, &plain, options);
        Self {
            mount,
            devices,
            files: Vec::new(),
            scratch,
        }
    }

    pub fn directory(&self, device: usize) -> PathBuf {
        self.scratch.path().join(format!("j{device}"))
    }

    /// A large file, in shards, and a small one, in copies; on stable storage when it returns.
    pub fn write(&mut self) {
        for length in [400_000, 300] {
            let number = self.files.len();
            let data = bytes(number as u8, length);
            let name = format!("file{number}");
            let file = File::create(self.mount.join(&name)).unwrap();
            file.write_all_at(&data, 0).unwrap();
            file.sync_all().unwrap();
            self.files.push((name, data));
        }
    }

    pub fn expect_all(&self, context: &str) {
        for (name, expected) in &self.files {
            let found = fs::read(self.mount.join(name));
            let found = found.unwrap_or_else(|error| panic!("{context}, {name}: {error}"));
            assert!(found == *expected, "{context}: {name}");
        }
    }

    pub fn kill_and_remount(&mut self) {
        self.mount.kill9();
        self.mount.remount();
    }

    pub fn tolerated(&self) -> u64 {
        self.mount.status_number("journal.tolerated_losses")
    }

    pub fn segments(&self, device: usize) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory(device).join("segments")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Writes over what a disk has, here and there, its first blocks among it.
    pub fn corrupt(&self, device: usize, random: &mut Random) {
        for path in self.segments(device) {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len();
            for round in 0..100 {
                let at = match round {
                    0..30 => random.below(2 << 20),
                    _ => random.below(length),
                };
                file.write_all_at(&bytes(round, 900), at).unwrap();
            }
        }
    }

    pub fn lose(&self, device: usize, how: Loss, random: &mut Random) {
        let path = self.directory(device);
        match how {
            Loss::Removed => fs::remove_dir_all(&path).unwrap(),
            Loss::Emptied => {
                fs::remove_dir_all(path.join("segments")).unwrap();
                fs::remove_file(path.join("journal.head")).unwrap();
            }
            Loss::Corrupted => self.corrupt(device, random),
        }
    }

    pub fn journal(&self, action: &str, arguments: &[&str]) -> Output {
        let mut command = std::process::Command::new(super::mount::PROGRAM);
        command.args(["journal", action]).arg(self.mount.path());
        command.args(arguments);
        super::process::run(command, LIMIT)
    }

    pub fn expect_journal(&self, action: &str, arguments: &[&str]) -> String {
        let output = self.journal(action, arguments);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{action}: {told}{error}");
        told
    }

    /// Options from now on, in the place of one that begins so.
    pub fn set_option(&mut self, start: &str, option: &str) {
        let options = &mut self.mount.options_mut().options;
        options.retain(|option| !option.starts_with(start));
        options.push(option.to_owned());
    }

    /// What a mount that is refused says.
    pub fn refusal(&self) -> String {
        let output = self.mount.try_mount(LIMIT);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{told}");
        told
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Removed,
    Emptied,
    Corrupted,
}

pub const LOSSES: [Loss; 3] = [Loss::Removed, Loss::Emptied, Loss::Corrupted];

pub fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| seed.wrapping_add((at / 7) as u8))
        .collect()
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}
