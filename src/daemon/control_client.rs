//! The other end of the control socket.

use super::control::{Following, LINE_TIMEOUT, Reply, Request, Sockets, socket_path, write_line};
use super::prepare::with_timeout;
use super::watching::WatchRequest;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// To whom the socket is closed.
pub const NOT_ALLOWED: &str =
    "only the user who mounted it and root may ask; try as that user, or as root";

/// What a daemon tells for as long as it is listened to.
pub type Lines = BufReader<UnixStream>;

/// A connection to the daemon of a mount.
#[derive(Debug)]
pub struct Client {
    pub(super) stream: UnixStream,
}

impl Client {
    /// ENOENT or ECONNREFUSED when no daemon serves this mountpoint. Does not touch the mount. A
    /// daemon that hangs is still connected to, by its kernel's queue.
    pub fn connect(directory: &Path, mountpoint: &Path) -> io::Result<Client> {
        let path = socket_path(directory, mountpoint);
        // connect(2) waits where the queue of a hung daemon is full.
        let sockets = Sockets::open(directory)?;
        let stream = with_timeout(LINE_TIMEOUT, move || {
            UnixStream::connect(sockets.address(&path))
        })?
        .ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Client { stream })
    }

    /// The daemon's process id, known even when it does not answer.
    pub fn daemon_pid(&self) -> io::Result<i32> {
        Ok(getsockopt(&self.stream, PeerCredentials)?.pid())
    }

    /// Asks and waits up to `timeout` for the reply.
    pub fn ask(&self, request: &Request, timeout: Duration) -> io::Result<Reply> {
        self.stream.set_write_timeout(Some(timeout))?;
        self.stream.set_read_timeout(Some(timeout))?;
        write_line(&self.stream, request)?;
        let mut line = Vec::new();
        BufReader::new(&self.stream).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(io::Error::other)
    }

    /// The lines that follow a request to watch; each may be long in coming.
    pub fn follow(self, request: &WatchRequest, timeout: Duration) -> io::Result<Lines> {
        self.stream.set_write_timeout(Some(timeout))?;
        self.stream.set_read_timeout(None)?;
        let follow = request.clone();
        write_line(&self.stream, &Following { follow })?;
        Ok(BufReader::new(self.stream))
    }
}
