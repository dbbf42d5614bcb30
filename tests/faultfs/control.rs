//! The control socket: each connection has a thread, so that a command is answered whatever the
//! filesystem waits for.

use crate::protocol::{Command, Reply};
use crate::server::Server;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

/// Accepts connections until the process ends.
pub fn listen(listener: UnixListener, server: Arc<Server>) -> io::Result<()> {
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { continue };
                let server = server.clone();
                thread::spawn(move || {
                    if let Err(error) = converse(connection, &server) {
                        eprintln!("faultfs: control connection: {error}");
                    }
                });
            }
        })?;
    Ok(())
}

fn converse(connection: UnixStream, server: &Server) -> io::Result<()> {
    let mut writer = connection.try_clone()?;
    for line in BufReader::new(connection).lines() {
        let reply = match serde_json::from_str::<Command>(&line?) {
            Ok(command) => server.control(command),
            Err(error) => Reply::Failed {
                message: format!("not understood: {error}"),
            },
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        writer.write_all(text.as_bytes())?;
    }
    Ok(())
}
