//! Where messages go: a file, stderr, or the system log (RFC 3164 datagrams to /dev/log).

use crate::config::LogLevel;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

const SYSLOG_SOCKET: &str = "/dev/log";
/// Facility daemon (3), severity notice (5); the level stands in the text.
const SYSLOG_PRIORITY: u32 = 3 * 8 + 5;

/// The level of the subscriber that is installed.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Installs the process's subscriber: to `file` if given, to the system log in the background, else to
/// stderr. Panics are logged too.
pub fn install(level: LogLevel, file: Option<&Path>, background: bool) -> io::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_ansi(false).with_target(false);
    let installed = if let Some(path) = file {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)
            .map_err(|error| io::Error::other(format!("log_file {}: {error}", path.display())))?;
        registry.with(lines.with_writer(Arc::new(file))).try_init()
    } else if background {
        let lines = lines.without_time().with_writer(Syslog::connect);
        registry.with(lines).try_init()
    } else if std::env::var_os("JOURNAL_STREAM").is_some() {
        let lines = lines.without_time().with_writer(io::stderr);
        registry.with(lines).try_init()
    } else {
        registry.with(lines.with_writer(io::stderr)).try_init()
    };
    installed.map_err(|error| io::Error::other(format!("starting the log: {error}")))?;
    let _ = LEVEL.set(handle);
    std::panic::set_hook(Box::new(|panic| tracing::error!("internal error: {panic}")));
    Ok(())
}

/// How much is logged from now on.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(filter(level))
    {
        tracing::warn!("changing how much is logged: {error}");
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// One message to the system log, sent when dropped. Without a system log it is lost, and a full one is
/// not waited for.
struct Syslog {
    socket: Option<UnixDatagram>,
    text: Vec<u8>,
}

impl Syslog {
    fn connect() -> Self {
        let socket = UnixDatagram::unbound().ok().filter(|socket| {
            socket.set_nonblocking(true).is_ok() && socket.connect(SYSLOG_SOCKET).is_ok()
        });
        Self {
            socket,
            text: format!("<{SYSLOG_PRIORITY}>nfs-cachefs[{}]: ", std::process::id()).into_bytes(),
        }
    }
}

impl Write for Syslog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(self.text.trim_ascii_end());
        }
    }
}
