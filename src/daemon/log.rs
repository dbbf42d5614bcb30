//! Where messages go: a file, stderr, or the system log (RFC 3164 datagrams to /dev/log).

use crate::config::LogLevel;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;

const SYSLOG_SOCKET: &str = "/dev/log";
/// Facility daemon (3), severity notice (5); the level stands in the text.
const SYSLOG_PRIORITY: u32 = 3 * 8 + 5;

/// Installs the process's subscriber: to `file` if given, to the system log in the background, else to
/// stderr. Panics are logged too.
pub fn install(level: LogLevel, file: Option<&Path>, background: bool) -> io::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_ansi(false)
        .with_target(false);
    let installed = if let Some(path) = file {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)
            .map_err(|error| io::Error::other(format!("log_file {}: {error}", path.display())))?;
        builder.with_writer(Arc::new(file)).try_init()
    } else if background {
        builder
            .without_time()
            .with_writer(Syslog::connect)
            .try_init()
    } else if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().with_writer(io::stderr).try_init()
    } else {
        builder.with_writer(io::stderr).try_init()
    };
    installed.map_err(|error| io::Error::other(format!("starting the log: {error}")))?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("internal error: {panic}")));
    Ok(())
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
