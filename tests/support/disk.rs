//! Small real disks: filesystems in files, on loop devices. Somebody else fills them, or they end in the middle of writing.

use super::mount::private_directory;
use super::{Scratch, wait_until};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const CHUNKS: [usize; 2] = [1 << 20, 4096];

/// Unmounted with its scratch directory.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `kind` is ext4 or xfs. Nothing of it is kept for root.
    pub fn new(scratch: &Scratch, kind: &str, size_bytes: u64) -> Self {
        let image = scratch.path().join("disk.image");
        let path = scratch.directory("disk");
        mount_image(&image, &path, kind, size_bytes);
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

/// Makes a filesystem in a new file, and mounts it.
pub fn mount_image(image: &Path, path: &Path, kind: &str, size_bytes: u64) {
    File::create(image).unwrap().set_len(size_bytes).unwrap();
    let quiet: &[&str] = match kind {
        "ext4" => &["-q", "-F", "-m", "0"],
        _ => &["-q"],
    };
    run(Command::new(format!("mkfs.{kind}")).args(quiet).arg(image));
    mount_again(image, path, kind);
}

/// Mounts what is in an image, once nothing else has it.
pub fn mount_again(image: &Path, path: &Path, kind: &str) {
    wait_until(LIMIT, "the image to be free", || {
        let used = Command::new("losetup").arg("-j").arg(image).output();
        used.unwrap().stdout.is_empty()
    });
    run(Command::new("mount")
        .args(["-o", "loop", "-t", kind])
        .args([image, path]));
}

/// Takes the name away, whoever has files open there.
pub fn detach(path: &Path) {
    nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

/// EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, which are one number.
const IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// As of a power cut: what is in the filesystem's log in memory is not written either.
const WITHOUT_LOG: u32 = 2;

/// Ends a filesystem: what it has not written is lost, and all that is asked of it fails from now on.
pub fn cut_off(path: &Path) {
    let directory = File::open(path).unwrap();
    let flags = WITHOUT_LOG;
    // SAFETY: it reads one u32, which outlives the call.
    let failed = unsafe { libc::ioctl(directory.as_raw_fd(), IOC_SHUTDOWN, &flags) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// Why images cannot be mounted here.
pub fn can_mount_images(scratch: &Scratch) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root mounts images".to_owned());
    }
    let image = scratch.path().join("trial.image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let trial = Command::new("losetup")
        .args(["-f", "--show"])
        .arg(&image)
        .output();
    let trial = trial.map_err(|error| format!("losetup: {error}"))?;
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !trial.status.success() {
        return Err(format!("no loop devices: {}", told(&trial.stderr)));
    }
    run(Command::new("losetup").args(["-d", &told(&trial.stdout)]));
    Ok(())
}

fn free_bytes(path: &Path) -> u64 {
    let facts = nix::sys::statvfs::statvfs(path).unwrap();
    facts.blocks_available() * facts.fragment_size()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
