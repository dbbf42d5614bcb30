//! `GET /metrics` and the status page: as much of HTTP/1.1 as a scrape or a browser needs. A connection is one request and one answer, both within a
//! time limit; few are served at once.

use super::exposition;
use super::page::{MapSource, PAGE, Page};
use crate::config::MetricsAddress;
use crate::daemon::status::Status;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;
const CONNECTIONS_MAX: usize = 8;
/// For the whole of a request, and for each part of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before the next connection is waited for, where one could not be taken: descriptors are short, say.
const RETRY: Duration = Duration::from_millis(100);

/// Tells the state of the mount; waits for the local disks only.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

/// A server on threads of its own. Dropping it removes the name of its unix socket, unless another has taken it.
#[derive(Debug)]
pub struct MetricsServer {
    socket: Option<(PathBuf, (u64, u64))>,
}

/// What can be asked for.
struct Served {
    status: StatusSource,
    page: Page,
}

/// An answer: state, type and body.
type Answer = (&'static str, &'static str, String);

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The page needs nothing from anywhere else, and shows itself in nobody's frame.
const PAGE_TYPE: &str = "text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'none'; \
    script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

impl Served {
    fn answer(&self, method: Option<&str>, path: Option<&str>) -> serde_json::Result<Answer> {
        Ok(match (method, path) {
            (Some("GET" | "HEAD"), Some("/metrics")) => (
                "200 OK",
                "text/plain; version=0.0.4; charset=utf-8",
                exposition(&(self.status)()),
            ),
            (Some("GET" | "HEAD"), Some("/")) => ("200 OK", PAGE_TYPE, PAGE.to_owned()),
            (Some("GET" | "HEAD"), Some("/state")) => ("200 OK", JSON, self.page.state()?),
            (Some("GET" | "HEAD"), Some("/map")) => ("200 OK", JSON, self.page.map()?),
            (Some("GET" | "HEAD"), _) => {
                ("404 Not Found", PLAIN, "see / and /metrics\n".to_owned())
            }
            _ => ("405 Method Not Allowed", PLAIN, "GET only\n".to_owned()),
        })
    }
}

const FOREIGN_NAME: &str = "ask by address, or as localhost\n";

/// Whether the request names this machine by an address or as localhost. A page from elsewhere, whose name its owner lets
/// lead to a loopback address, comes with that name, and a browser would let it read the answer.
fn is_asked_by_address(head: &str) -> bool {
    let lines = head.lines().skip(1).map_while(|line| line.split_once(':'));
    let mut hosts = lines.filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    hosts.all(|(_, host)| {
        let host = host.trim();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        host.is_empty()
            || name.eq_ignore_ascii_case("localhost")
            || host.parse::<SocketAddr>().is_ok()
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    })
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Ends a connection, whoever reads it.
type Cut = Box<dyn Fn() + Send>;

trait Connection: Read + Write + Send {
    fn cut(&self) -> io::Result<Cut>;
    fn limit(&self, timeout: Duration) -> io::Result<()>;
    /// Whether a name of anybody's may lead here.
    fn has_names(&self) -> bool;
}

impl Connection for TcpStream {
    fn cut(&self) -> io::Result<Cut> {
        let other = self.try_clone()?;
        Ok(Box::new(move || {
            let _ = other.shutdown(Shutdown::Both);
        }))
    }

    fn has_names(&self) -> bool {
        true
    }

    fn limit(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl Connection for UnixStream {
    fn cut(&self) -> io::Result<Cut> {
        let other = self.try_clone()?;
        Ok(Box::new(move || {
            let _ = other.shutdown(Shutdown::Both);
        }))
    }

    fn has_names(&self) -> bool {
        false
    }

    fn limit(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept()?.0),
            Self::Unix(listener) => Box::new(listener.accept()?.0),
        })
    }
}

impl MetricsServer {
    pub fn start(
        address: &MetricsAddress,
        status: StatusSource,
        map: MapSource,
    ) -> io::Result<Self> {
        let (listener, socket) = match address {
            MetricsAddress::Tcp(address) => (Listener::Tcp(TcpListener::bind(address)?), None),
            MetricsAddress::Unix(path) => {
                let listener = bind_socket(path)?;
                (
                    Listener::Unix(listener),
                    Some((path.clone(), identity(path)?)),
                )
            }
        };
        let served = Arc::new(Served {
            page: Page::start(status.clone(), map)?,
            status,
        });
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || accept_all(&listener, &served))?;
        Ok(Self { socket })
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        if let Some((path, ours)) = &self.socket
            && identity(path).is_ok_and(|present| present == *ours)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let facts = path.symlink_metadata()?;
    Ok((facts.dev(), facts.ino()))
}

/// Takes over the name of a socket that nobody listens to. Every user may ask, as on a port.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|facts| facts.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Who is connected. Whoever asks nothing makes way for who comes later: idle connections keep no scraper out.
#[derive(Default)]
struct Clients {
    open: AtomicUsize,
    /// Those that have not asked yet, the oldest first.
    silent: Mutex<BTreeMap<u64, Cut>>,
}

impl Clients {
    fn make_way(&self) -> bool {
        self.open.load(Ordering::Acquire) < CONNECTIONS_MAX
            || self
                .silent
                .lock()
                .pop_first()
                .map(|(_, cut)| cut())
                .is_some()
    }
}

fn accept_all(listener: &Listener, served: &Arc<Served>) {
    let clients = Arc::<Clients>::default();
    for id in 0_u64.. {
        let Ok(connection) = listener.accept() else {
            std::thread::sleep(RETRY);
            continue;
        };
        let (Ok(cut), true) = (connection.cut(), clients.make_way()) else {
            continue;
        };
        clients.open.fetch_add(1, Ordering::AcqRel);
        clients.silent.lock().insert(id, cut);
        let (served, among) = (served.clone(), clients.clone());
        let spawned = std::thread::Builder::new()
            .name("metrics-client".to_owned())
            .spawn(move || {
                let has_asked = || drop(among.silent.lock().remove(&id));
                if let Err(error) = serve_one(connection, &served, has_asked) {
                    tracing::debug!("metrics connection: {error}");
                }
                among.silent.lock().remove(&id);
                among.open.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            clients.silent.lock().remove(&id);
            clients.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn serve_one(
    mut connection: Box<dyn Connection>,
    served: &Served,
    has_asked: impl FnOnce(),
) -> io::Result<()> {
    let head = read_head(&mut *connection)?;
    has_asked();
    let request = head.lines().next().unwrap_or_default();
    let mut words = request.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split('?').next();
    let (state, kind, body) = match !connection.has_names() || is_asked_by_address(&head) {
        true => served.answer(method, path)?,
        false => ("403 Forbidden", PLAIN, FOREIGN_NAME.to_owned()),
    };
    connection.limit(TIMEOUT)?;
    let head = format!(
        "HTTP/1.1 {state}\r\nContent-Type: {kind}\r\nCache-Control: no-store\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    match method {
        Some("HEAD") => Ok(()),
        _ => connection.write_all(body.as_bytes()),
    }
}

/// Up to the empty line. A client that sends byte by byte is cut off as well.
fn read_head(connection: &mut dyn Connection) -> io::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        connection.limit(left)?;
        match connection.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&part[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
