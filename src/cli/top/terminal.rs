//! Keys and drawing on a terminal that knows the sequences of ECMA-48, as all in use do.

use super::screen::Size;
use crate::cli::say;
use crate::daemon::control::Lines;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, Stdin, stdin};
use std::os::fd::AsFd;

const OTHER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const FIRST_SCREEN: &str = "\x1b[?25h\x1b[?1049l";
const TO_THE_TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

pub enum Input {
    /// From the daemon.
    Line(String),
    Key(u8),
    /// The daemon, or the terminal, is gone.
    End,
}

/// The terminal is as it was once this is dropped.
pub struct Terminal {
    lines: Lines,
    stdin: Stdin,
    before: Option<Termios>,
}

impl Terminal {
    pub fn open(lines: Lines) -> io::Result<Self> {
        let stdin = stdin();
        // Without one there are no keys.
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
            tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        }
        say(OTHER_SCREEN);
        Ok(Self {
            lines,
            stdin,
            before,
        })
    }

    pub fn size(&self) -> Size {
        match terminal_size::terminal_size() {
            Some((terminal_size::Width(columns), terminal_size::Height(rows))) => Size {
                columns: columns.into(),
                rows: rows.into(),
            },
            None => Size::USUAL,
        }
    }

    pub fn draw(&self, rows: &[String]) {
        let rows: Vec<String> = rows
            .iter()
            .map(|row| format!("{row}{CLEAR_LINE}"))
            .collect();
        say(&format!("{TO_THE_TOP}{}{CLEAR_BELOW}", rows.join("\r\n")));
    }

    /// Waits for a line or a key.
    pub fn next(&mut self) -> io::Result<Input> {
        let is_line = !self.lines.buffer().is_empty() || self.wait_for_line()?;
        if is_line {
            let mut line = String::new();
            return Ok(match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => Input::End,
                Ok(_) => Input::Line(line),
            });
        }
        let mut key = [0];
        Ok(match nix::unistd::read(&self.stdin, &mut key) {
            Ok(1) => Input::Key(key[0]),
            Ok(_) | Err(_) => Input::End,
        })
    }

    /// False if a key came first.
    fn wait_for_line(&self) -> io::Result<bool> {
        let mut ends = vec![PollFd::new(self.lines.get_ref().as_fd(), PollFlags::POLLIN)];
        if self.before.is_some() {
            ends.push(PollFd::new(self.stdin.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut ends, PollTimeout::NONE) {
                // A window of another size is drawn with the next line.
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(ends[0].any() == Some(true)),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        say(FIRST_SCREEN);
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.stdin, SetArg::TCSANOW, before);
        }
    }
}
