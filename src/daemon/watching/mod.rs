//! What programs do with the mount, told over the control socket for as long as somebody asks: each operation (`trace`),
//! or sums by file and by process (`top`).
//!
//! What always holds: nothing is kept and next to nothing spent while nobody asks; what is kept is bounded; a reader
//! that is slow delays nobody, and learns how much it has missed.
//!
//! - `told`: the lines that go over the socket
//! - `queue`: operations on their way to one reader; `pattern`: which of them it wants
//! - `tally`: sums of an interval

mod pattern;
mod queue;
mod tally;
mod told;

pub use told::{Counts, FileLoad, Load, Operation, ProcessLoad, WatchLine, WatchRequest};

use self::queue::Queue;
use self::tally::Tally;
use crate::watch::{Listener, Listening, Watch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether anybody still reads, where there is nothing to tell.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;

const TOO_MANY: &str = "this mount is watched by as many as can be (trace, top); end one of them";

/// Tells until the reader has gone.
pub fn serve(stream: &UnixStream, watch: &Arc<Watch>, request: WatchRequest) -> io::Result<()> {
    // Whoever reads slowly may take its time.
    stream.set_write_timeout(None)?;
    match request {
        WatchRequest::Operations { pattern } => tell_operations(stream, watch, pattern),
        WatchRequest::Load { interval_ms } => {
            let interval_ms = interval_ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
            tell_load(stream, watch, Duration::from_millis(interval_ms))
        }
    }
}

fn tell_operations(
    stream: &UnixStream,
    watch: &Arc<Watch>,
    pattern: Option<String>,
) -> io::Result<()> {
    let queue = Arc::new(Queue::new(pattern));
    let Some(_listening) = listen(stream, watch, queue.clone())? else {
        return Ok(());
    };
    loop {
        let lines = queue.take(LOOK_AGAIN_AFTER);
        if lines.is_empty() && has_gone_within(stream, Duration::ZERO)? {
            return Ok(());
        }
        write_lines(stream, &lines)?;
    }
}

fn tell_load(stream: &UnixStream, watch: &Arc<Watch>, interval: Duration) -> io::Result<()> {
    let tally = Arc::new(Tally::default());
    let Some(_listening) = listen(stream, watch, tally.clone())? else {
        return Ok(());
    };
    let mut since = Instant::now();
    while !has_gone_within(stream, interval)? {
        let (now, before) = (Instant::now(), since);
        since = now;
        let load = tally.take(now - before);
        write_lines(stream, &[WatchLine::Load(Box::new(load))])?;
    }
    Ok(())
}

/// The first line says that whatever is done from then on is told.
fn listen(
    stream: &UnixStream,
    watch: &Arc<Watch>,
    listener: Arc<dyn Listener>,
) -> io::Result<Option<Listening>> {
    let listening = watch.listen(listener);
    let first = match &listening {
        Some(_) => WatchLine::Listening,
        None => WatchLine::Refused {
            message: TOO_MANY.to_owned(),
        },
    };
    write_lines(stream, &[first])?;
    Ok(listening)
}

fn write_lines(mut stream: &UnixStream, lines: &[WatchLine]) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    stream.write_all(&text)
}

/// The reader says nothing more: all that can come from it is its end.
fn has_gone_within(stream: &UnixStream, patience: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut ends = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ends, timeout)? > 0)
}
