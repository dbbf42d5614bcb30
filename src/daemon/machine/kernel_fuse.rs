//! The kernel's FUSE: a real mount of one file, in a mount namespace of a child process that nobody else
//! sees and that ends with it.

use super::Finding;
use fuser::{
    BackingId, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, Request, SessionACL,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

/// How long the child may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const CONTENT: &[u8] = b"read by the kernel itself";
const FILE_NAME: &str = "file";
const FILE_NODE: u64 = 2;

/// What the child found, as it prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The kernel's protocol version; empty when nothing could be mounted.
    protocol: String,
    mount_error: String,
    /// Empty when a read by passthrough gave the right bytes.
    passthrough_error: String,
}

pub fn examine(cache: &Path) -> Vec<Finding> {
    const NO_MOUNT: &str = "nothing can be mounted";
    if !Path::new("/dev/fuse").exists() {
        return vec![Finding::fatal(
            "FUSE",
            "/dev/fuse is missing (modprobe fuse)",
            NO_MOUNT,
        )];
    }
    if !nix::unistd::geteuid().is_root() {
        return vec![
            Finding::missing(
                "FUSE",
                "not tried: a trial mount needs root",
                "fusermount3 does the mounting, and no passthrough",
            ),
            ring_transport(),
        ];
    }
    let probe = match run_child(cache) {
        Ok(probe) => probe,
        Err(error) => {
            return vec![Finding::fatal(
                "FUSE",
                format!("the trial mount: {error}"),
                NO_MOUNT,
            )];
        }
    };
    if probe.protocol.is_empty() {
        return vec![Finding::fatal("FUSE", probe.mount_error, NO_MOUNT)];
    }
    vec![
        Finding::good("FUSE", format!("protocol {}", probe.protocol)),
        match probe.passthrough_error.is_empty() {
            true => Finding::good("passthrough", "a file was read by the kernel itself"),
            false => Finding::missing(
                "passthrough",
                probe.passthrough_error,
                "complete files are read through the daemon, at a third of the disk's speed",
            ),
        },
        ring_transport(),
    ]
}

fn ring_transport() -> Finding {
    let parameter = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    match parameter.as_deref().map(str::trim) {
        Ok("Y" | "1") => Finding::good("FUSE ring transport", "switched on in the kernel"),
        Ok(_) => Finding::missing(
            "FUSE ring transport",
            "switched off (fuse.enable_uring=0)",
            "nothing yet: this version does not use it",
        ),
        Err(_) => Finding::missing(
            "FUSE ring transport",
            "not in this kernel (Linux 6.14)",
            "nothing yet: this version does not use it",
        ),
    }
}

/// Runs `check --fuse-probe DIR` of this program and reads what it prints.
fn run_child(cache: &Path) -> io::Result<Probe> {
    let mut child = Command::new("/proc/self/exe")
        .arg("check")
        .arg("--fuse-probe")
        .arg(cache)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let process = crate::sys::process::open_process(child.id() as i32)?;
    if !crate::sys::process::wait_for_end(&process, PROBE_TIMEOUT)? {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::other("no answer"));
    }
    let output = child.wait_with_output()?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The child's work: tries a mount with a backing file in `directory` and prints what it found. Changes
/// the mount namespace of the whole process.
pub fn run_probe(directory: &Path) -> io::Result<()> {
    let probe = probe(directory);
    io::stdout().write_all(&serde_json::to_vec(&probe)?)
}

fn probe(directory: &Path) -> Probe {
    let found = Arc::new(Mutex::new(Probe::default()));
    if let Err(error) = mount_and_read(directory, &found) {
        let mut found = found.lock().expect("the filesystem does not panic");
        if found.protocol.is_empty() {
            found.mount_error = error.to_string();
        } else if found.passthrough_error.is_empty() {
            found.passthrough_error = error.to_string();
        }
    }
    let found = found.lock().expect("the filesystem does not panic");
    found.clone()
}

fn mount_and_read(directory: &Path, found: &Arc<Mutex<Probe>>) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )?;
    let backing = backing_file(directory);
    // Any directory does: only this process sees what is mounted there.
    let mountpoint = ["/mnt", "/tmp", "/run"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.is_dir())
        .ok_or_else(|| io::Error::other("no directory to mount on"))?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("nfs-cachefs-check".to_owned()),
        MountOption::RO,
    ];
    config.acl = SessionACL::Owner;
    let filesystem = OneFile {
        backing,
        found: found.clone(),
        registered: Mutex::new(None),
    };
    let session = fuser::spawn_mount(filesystem, mountpoint, &config)?;
    let content = std::fs::read(mountpoint.join(FILE_NAME));
    drop(session);
    match content? == CONTENT {
        true => Ok(()),
        false => Err(io::Error::other(
            "the kernel read other bytes than the file has",
        )),
    }
}

/// An unlinked file with [`CONTENT`] on the disk that a cache would use.
fn backing_file(directory: &Path) -> io::Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(directory)?;
    file.write_all(CONTENT)?;
    Ok(file)
}

/// A root directory with one file, which is read by passthrough where that works.
struct OneFile {
    /// Or why there is none.
    backing: io::Result<File>,
    found: Arc<Mutex<Probe>>,
    /// Kept until the end, so that the kernel may still read after the open.
    registered: Mutex<Option<BackingId>>,
}

impl OneFile {
    fn note(&self, error: impl ToString) {
        let mut found = self
            .found
            .lock()
            .expect("nothing panics while it is locked");
        if found.passthrough_error.is_empty() {
            found.passthrough_error = error.to_string();
        }
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        {
            let mut found = self
                .found
                .lock()
                .expect("nothing panics while it is locked");
            found.protocol = config.kernel_abi().to_string();
        }
        if config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .is_err()
        {
            self.note("the kernel does not offer it (Linux 6.9)");
        } else if config.set_max_stack_depth(2).is_err() {
            self.note("the kernel refuses a stacked filesystem");
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == OsStr::new(FILE_NAME) {
            true => reply.entry(
                &Duration::ZERO,
                &attributes(INodeNo(FILE_NODE)),
                Generation(0),
            ),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&Duration::ZERO, &attributes(node));
    }

    fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let backing = match &self.backing {
            Ok(file) => reply.open_backing(file),
            Err(error) => Err(io::Error::other(format!("no backing file: {error}"))),
        };
        match backing {
            Ok(backing) => {
                let mut registered = self
                    .registered
                    .lock()
                    .expect("nothing panics while it is locked");
                let backing = registered.insert(backing);
                reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), backing);
            }
            Err(error) => {
                self.note(error);
                reply.opened(FileHandle(0), FopenFlags::empty());
            }
        }
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        _size_bytes: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.note("the kernel asked the daemon for the data");
        reply.data(CONTENT.get(offset as usize..).unwrap_or_default());
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

fn attributes(node: INodeNo) -> FileAttr {
    let is_file = node == INodeNo(FILE_NODE);
    FileAttr {
        ino: node,
        size: if is_file { CONTENT.len() as u64 } else { 0 },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_file {
            FileType::RegularFile
        } else {
            FileType::Directory
        },
        perm: if is_file { 0o444 } else { 0o555 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
