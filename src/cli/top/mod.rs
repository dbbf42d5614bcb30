//! `nfs-cachefs top MOUNTPOINT [--batch] [--iterations N] [--interval SECONDS] [--sort ORDER] [--json]`
//!
//! - `screen`: what is shown, pure
//! - `terminal`: keys and drawing

mod screen;
mod terminal;

use self::screen::{Size, screen};
use self::terminal::{Input, Terminal};
use super::status::follow;
use super::trace::understood;
use super::{complain, say};
use crate::daemon::control::Lines;
use crate::daemon::error::exit_status;
use crate::daemon::watching::{Load, WatchLine, WatchRequest};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Rates of the last interval, by file and by process, those that lead first. Keys: s another order, q the end. A read \
is a hit where it found all its bytes in the cache, a miss where it waited for the backend. What the kernel does by \
itself is not counted: reads of files that it has opened by passthrough (their opens are), or of pages that it still \
has. The daemon counts while somebody looks, up to 8192 files and processes apart in an interval.

Exit status: 0 success, 1 usage, 2 error.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The mount to look at
    mountpoint: PathBuf,
    /// Print one screen after the other as plain text; the same where the output is no terminal
    #[arg(long)]
    batch: bool,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Seconds between two
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Order::Bytes)]
    sort: Order,
    /// Print JSON, an object a line for each interval
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    /// Read and written
    Bytes,
    Operations,
    /// Reads that waited for the backend
    Misses,
    /// Time that programs have waited
    Time,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Bytes => Self::Operations,
            Self::Operations => Self::Misses,
            Self::Misses => Self::Time,
            Self::Time => Self::Bytes,
        }
    }

    fn in_a_word(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Operations => "operations",
            Self::Misses => "misses",
            Self::Time => "time",
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.1 to 3600".to_owned()),
    }
}

pub fn run(arguments: &Arguments) -> i32 {
    let request = WatchRequest::Load {
        interval_ms: (arguments.interval * 1000.0) as u64,
    };
    let is_live = !arguments.batch && !arguments.json && std::io::stdout().is_terminal();
    let shown = follow(&arguments.mountpoint, &request).and_then(|lines| match is_live {
        true => show_live(lines, arguments),
        false => print_each(lines, arguments),
    });
    match shown {
        Ok(()) => exit_status::SUCCESS,
        Err(error) => {
            complain(error);
            exit_status::SYSTEM
        }
    }
}

fn left_of(arguments: &Arguments) -> u64 {
    arguments.iterations.unwrap_or(u64::MAX)
}

fn print_each(lines: Lines, arguments: &Arguments) -> Result<(), String> {
    let mut left = left_of(arguments);
    for line in lines.lines() {
        let Ok(line) = line else { break };
        let Some(load) = load_in(&line)? else {
            continue;
        };
        match arguments.json {
            true => say(&(line + "\n")),
            false => {
                let rows = screen(
                    &load,
                    &arguments.mountpoint,
                    arguments.sort,
                    Size::UNLIMITED,
                );
                say(&(rows.join("\n") + "\n\n"));
            }
        }
        left -= 1;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

fn load_in(line: &str) -> Result<Option<Load>, String> {
    match understood(line)? {
        WatchLine::Load(load) => Ok(Some(*load)),
        WatchLine::Refused { message } => Err(message),
        WatchLine::Listening | WatchLine::Operation(_) | WatchLine::Lost { .. } => Ok(None),
    }
}

fn show_live(lines: Lines, arguments: &Arguments) -> Result<(), String> {
    let mut terminal = Terminal::open(lines).map_err(|error| format!("the terminal: {error}"))?;
    let mut left = left_of(arguments);
    let mut order = arguments.sort;
    let mut load = Load::default();
    loop {
        let size = terminal.size();
        terminal.draw(&screen(&load, &arguments.mountpoint, order, size));
        match terminal.next().map_err(|error| error.to_string())? {
            Input::Line(line) => {
                if let Some(newer) = load_in(&line)? {
                    load = newer;
                    left -= 1;
                }
            }
            Input::Key(b's') => order = order.next(),
            Input::Key(b'q' | CONTROL_C) | Input::End => return Ok(()),
            Input::Key(_) => {}
        }
        if left == 0 {
            return Ok(());
        }
    }
}

const CONTROL_C: u8 = 3;
