//! The control socket of a mount: a unix stream socket, one JSON request and one JSON reply, a line
//! each, per connection; or, to who wants to follow what programs do, lines until it has enough. Only the user that runs the daemon (and root) may connect.
//!
//! Its name is made from the mountpoint, so that a command finds it without touching the mount.

pub use super::control_client::{Client, Lines, NOT_ALLOWED};
use super::control_slots::{Slot, Slots};
use super::journal_control::{AskBack, BackReply, BackRequest};
use super::journal_devices::JournalChange;
use super::mount_table::path_hash;
use super::prepare::default_cache_parent;
use super::status::Status;
use super::watching::{self, WatchRequest};
use super::why::WhyStatus;
use crate::config::Changes;
use crate::watch::Watch;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The longest request line.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// How long one side waits for the other to send or take its line.
pub(super) const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    Status,
    /// Drops cached data of these paths, relative to the mount's root, directories with all beneath
    /// them; none: of everything.
    Evict {
        paths: Vec<WirePath>,
    },
    /// Keeps what these paths lead to in the cache.
    Pin {
        paths: Vec<WirePath>,
    },
    Unpin {
        paths: Vec<WirePath>,
    },
    /// What is pinned.
    Pins,
    /// How one file stands.
    Why {
        path: WirePath,
    },
    /// Has all that is cached checked from now on.
    Scrub,
    /// Reads the settings file again, as SIGHUP does.
    Reload,
    /// About changes that are not on the backend.
    Back {
        ask: BackRequest,
    },
    /// Changes the devices of the journal, or has them checked.
    Journal {
        change: JournalChange,
    },
    /// Unmount and end, as SIGTERM does.
    Stop,
}

/// Asks for lines without end instead of one reply: see [`watching`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Following {
    pub follow: WatchRequest,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    Evicted(Evicted),
    /// Those asked for, or all.
    Pins {
        pins: Vec<Pin>,
    },
    Why(Box<WhyStatus>),
    /// `scrub.answered` of the status reaches this when it is done.
    Scrubbing {
        asked: u64,
    },
    Reloaded(Changes),
    Back {
        told: BackReply,
    },
    /// `journal.is_at_work` of the status is false when it is done.
    JournalChanging,
    Stopping,
    Error {
        message: String,
    },
}

/// A path that is pinned, as it was last looked through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub path: WirePath,
    pub files: u64,
    pub bytes: u64,
    /// Not in the cache, or not yet.
    pub missing_files: u64,
    pub missing_bytes: u64,
    /// Why something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What an evict request did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    pub files: u64,
    pub bytes: u64,
    /// Files left because they are open or mapped.
    pub files_in_use: u64,
    /// Files left because they are pinned.
    #[serde(default)]
    pub files_pinned: u64,
}

impl Evicted {
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.files_in_use += other.files_in_use;
        self.files_pinned += other.files_pinned;
    }

    pub fn files_left(&self) -> u64 {
        self.files_in_use + self.files_pinned
    }

    pub fn in_words(&self) -> String {
        let pinned = match self.files_pinned {
            0 => String::new(),
            files => format!(", {files} pinned files left: `nfs-cachefs unpin` lets them go"),
        };
        format!(
            "{} files, {} bytes evicted; {} files in use left{pinned}\n",
            self.files, self.bytes, self.files_in_use
        )
    }
}

/// A path in JSON: text where it is UTF-8, else its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WirePath {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<WirePath> for PathBuf {
    fn from(path: WirePath) -> Self {
        match path {
            WirePath::Text(text) => PathBuf::from(text),
            WirePath::Bytes(bytes) => PathBuf::from(std::ffi::OsString::from_vec(bytes)),
        }
    }
}

/// Drops cached data of paths relative to the mount's root.
pub type Evict = Box<dyn Fn(&[PathBuf]) -> anyhow::Result<Evicted> + Send + Sync>;

/// What is to become of pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinChange {
    Pin(Vec<PathBuf>),
    Unpin(Vec<PathBuf>),
    /// They are only told of.
    Nothing,
}

/// Changes the pins; tells of those that were asked for, or of all.
pub type ChangePins = Box<dyn Fn(PinChange) -> anyhow::Result<Vec<Pin>> + Send + Sync>;

/// Tells how a file stands, by its path relative to the mount's root.
pub type Why = Box<dyn Fn(&Path) -> anyhow::Result<WhyStatus> + Send + Sync>;

/// Reads the settings file again.
pub type Reload = Box<dyn Fn() -> anyhow::Result<Changes> + Send + Sync>;
/// Does something to the journal's devices.
pub type ChangeJournal = Box<dyn Fn(JournalChange) -> anyhow::Result<()> + Send + Sync>;

/// Has all that is cached checked; the number of the request.
pub type Scrub = Box<dyn Fn() -> anyhow::Result<u64> + Send + Sync>;

/// What the daemon does for each request. Each may block; none is called under a lock.
pub struct Handlers {
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    pub evict: Evict,
    pub pins: ChangePins,
    pub why: Why,
    pub scrub: Scrub,
    pub reload: Reload,
    pub journal: ChangeJournal,
    pub back: AskBack,
    pub watch: Arc<Watch>,
    pub stop: Box<dyn Fn() + Send + Sync>,
}

impl Handlers {
    fn change_pins(&self, change: PinChange) -> Reply {
        let pins = (self.pins)(change);
        pins.map_or_else(Reply::failed, |pins| Reply::Pins { pins })
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(Box::new((self.status)())),
            Request::Evict { paths } => {
                let evicted = (self.evict)(&local_paths(paths));
                evicted.map_or_else(Reply::failed, Reply::Evicted)
            }
            Request::Pin { paths } => self.change_pins(PinChange::Pin(local_paths(paths))),
            Request::Unpin { paths } => self.change_pins(PinChange::Unpin(local_paths(paths))),
            Request::Pins => self.change_pins(PinChange::Nothing),
            Request::Why { path } => {
                let why = (self.why)(&PathBuf::from(path));
                why.map_or_else(Reply::failed, |why| Reply::Why(Box::new(why)))
            }
            Request::Scrub => {
                let asked = (self.scrub)();
                asked.map_or_else(Reply::failed, |asked| Reply::Scrubbing { asked })
            }
            Request::Reload => (self.reload)().map_or_else(Reply::failed, Reply::Reloaded),
            Request::Back { ask } => {
                let told = (self.back)(ask);
                told.map_or_else(Reply::failed, |told| Reply::Back { told })
            }
            Request::Journal { change } => {
                let asked = (self.journal)(change);
                asked.map_or_else(Reply::failed, |()| Reply::JournalChanging)
            }
            Request::Stop => {
                (self.stop)();
                Reply::Stopping
            }
        }
    }
}

fn local_paths(paths: Vec<WirePath>) -> Vec<PathBuf> {
    paths.into_iter().map(PathBuf::from).collect()
}

impl Reply {
    fn failed(error: anyhow::Error) -> Self {
        Self::Error {
            message: format!("{error:#}"),
        }
    }
}

/// Where the sockets of this user's mounts lie.
pub fn socket_directory() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/nfs-cachefs");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(own) => PathBuf::from(own).join("nfs-cachefs"),
        None => default_cache_parent().join("run"),
    }
}

/// The socket of the mount at `mountpoint` (resolved).
pub fn socket_path(directory: &Path, mountpoint: &Path) -> PathBuf {
    directory.join(format!("{:016x}.sock", path_hash(mountpoint)))
}

/// An open directory of sockets. A socket's address has 108 bytes (unix(7)), which paths exceed: here
/// it is reached through the descriptor, whatever the length of the directory's path.
pub(super) struct Sockets(File);

impl Sockets {
    pub fn open(directory: &Path) -> io::Result<Sockets> {
        Ok(Sockets(File::open(directory)?))
    }

    pub fn address(&self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default();
        Path::new(&format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }
}

/// A socket that is being served. Dropping it removes the name, unless another daemon has taken it.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    identity: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket of a mount and serves it from threads of its own. A name left by a dead
    /// daemon is taken over.
    pub fn serve(
        directory: &Path,
        mountpoint: &Path,
        handlers: Arc<Handlers>,
    ) -> io::Result<ControlSocket> {
        std::fs::DirBuilder::new()
            .mode(0o755)
            .recursive(true)
            .create(directory)?;
        let path = socket_path(directory, mountpoint);
        // Bound under another name first: the final name never shows a socket with open permissions.
        let private = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&private);
        let listener = UnixListener::bind(Sockets::open(directory)?.address(&private))?;
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600))?;
        let facts = private.symlink_metadata()?;
        std::fs::rename(&private, &path)?;
        let socket = ControlSocket {
            path,
            identity: (facts.dev(), facts.ino()),
        };
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&listener, &handlers))?;
        if let Err(error) = remove_dead(directory) {
            tracing::debug!("sockets of dead daemons: {error}");
        }
        Ok(socket)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|facts| (facts.dev(), facts.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the names that daemons left which were killed. One that is there before it is listened at would look dead: names
/// are given to sockets only then.
fn remove_dead(directory: &Path) -> io::Result<()> {
    let sockets = Sockets::open(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let dead = path.symlink_metadata().ok();
        let dead = dead.filter(|facts| facts.file_type().is_socket());
        let (Some(dead), true) = (dead, path.extension() == Some("sock".as_ref())) else {
            continue;
        };
        if !is_refused(&sockets.address(&path)) {
            continue;
        }
        // Its mount may have a new daemon by now, which must keep its socket: taken aside, it can be told which it is.
        let aside = path.with_extension(format!("{}.dead", std::process::id()));
        std::fs::rename(&path, &aside)?;
        let facts = aside.symlink_metadata()?;
        match (facts.dev(), facts.ino()) == (dead.dev(), dead.ino()) {
            true => std::fs::remove_file(&aside)?,
            false => std::fs::rename(&aside, &path)?,
        }
    }
    Ok(())
}

/// Nobody listens there. A daemon that hangs has a full queue at most, for which nobody waits here.
fn is_refused(address: &Path) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None).and_then(|socket| {
        let address = UnixAddr::new(address)?;
        connect(socket.as_raw_fd(), &address)
    });
    connected == Err(Errno::ECONNREFUSED)
}

fn accept_all(listener: &UnixListener, handlers: &Arc<Handlers>) {
    let slots = Arc::new(Slots::default());
    for stream in listener.incoming() {
        let Ok(stream) = stream.map(Arc::new) else {
            continue;
        };
        let slot = slots.take(&stream);
        let handlers = handlers.clone();
        let spawned = std::thread::Builder::new()
            .name("control-client".to_owned())
            .spawn(move || {
                if let Err(error) = serve_one(&stream, &slot, &handlers) {
                    tracing::debug!("control connection: {error}");
                }
            });
        if let Err(error) = spawned {
            tracing::debug!("control connection: {error}");
        }
    }
}

fn serve_one(stream: &UnixStream, slot: &Slot, handlers: &Handlers) -> io::Result<()> {
    stream.set_read_timeout(Some(LINE_TIMEOUT))?;
    stream.set_write_timeout(Some(LINE_TIMEOUT))?;
    let mut line = Vec::new();
    BufReader::new(stream)
        .take(REQUEST_BYTES_MAX)
        .read_until(b'\n', &mut line)?;
    slot.has_asked();
    if let Ok(Following { follow }) = serde_json::from_slice(&line) {
        return watching::serve(stream, &handlers.watch, follow);
    }
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => handlers.answer(request),
        Err(error) => Reply::Error {
            message: format!("not a request this version knows: {error}"),
        },
    };
    write_line(stream, &reply)
}

pub(super) fn write_line(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// `path` relative to the mount's root: given absolute (lexically beneath the mountpoint) or relative to
/// it already. `None` when it lies elsewhere.
pub fn relative_to_mount(mountpoint: &Path, path: &OsStr) -> Option<PathBuf> {
    let path = Path::new(path);
    let relative = match path.is_absolute() {
        true => path.strip_prefix(mountpoint).ok()?,
        false => path,
    };
    let plain = relative.components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    plain.then(|| {
        relative
            .components()
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect()
    })
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
