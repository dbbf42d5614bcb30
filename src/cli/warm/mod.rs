//! `nfs-cachefs warm PATH... [--list FILE] [--check | --evict]`
//!
//! The tree is walked through the mount, as whoever runs this; the daemon fetches each file, so that no byte of it
//! comes here.
//!
//! - `names`: the files to bring in, as they are found; `workers`: who asks the daemon for each
//! - `tally`: what became of them; `progress`: shown meanwhile
//! - `evicting`: the other way round

mod evicting;
mod names;
mod progress;
mod tally;
mod workers;

use self::names::Names;
use self::progress::Progress;
use self::tally::Tally;
use self::workers::{Task, Told};
use super::located::expect_served;
use super::{complain, say};
use crate::daemon::error::exit_status;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at how far it has come.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Not everything is in the cache.
const NOT_ALL: i32 = 3;

const AFTER_HELP: &str = "\
Fetches whole files and trees below mounts of nfs-cachefs into their caches, without reading them here. What is there already is not fetched again, so an interrupted run is simply repeated. What does not fit beside the rest is left out and named. Files go by the rights of who runs this.

With --json a line is printed for each file that is not cached (event \"file\"), every second (\"progress\") and at the end (\"end\").

Exit status: 0 all of it is cached (with --evict: is gone), 1 usage, 2 error, 3 something is not (or was left).";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Files, and directories with all beneath them
    #[arg(required_unless_present = "list")]
    paths: Vec<PathBuf>,
    /// More of them, one a line; - for standard input
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// The names in the list end with a zero byte rather than a newline
    #[arg(short = '0', requires = "list")]
    null: bool,
    /// Files on their way at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Only say what is not cached
    #[arg(long, conflicts_with = "evict")]
    check: bool,
    /// Give it all up again: drop it from the cache
    #[arg(long)]
    evict: bool,
    /// Print JSON, a line each
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> i32 {
    for path in &arguments.paths {
        if let Err(error) = expect_served(path) {
            complain(format_args!("{}: {error}", path.display()));
            return exit_status::SYSTEM;
        }
    }
    let list = match arguments.list.as_deref().map(open_list).transpose() {
        Ok(list) => list,
        Err(error) => {
            complain(error);
            return exit_status::USAGE;
        }
    };
    let null = arguments.null;
    let listed = list
        .into_iter()
        .flat_map(move |list| names::listed(list, null));
    let given = arguments.paths.clone().into_iter().map(Ok).chain(listed);
    if arguments.evict {
        return evicting::run(given, arguments.json);
    }
    let task = arguments.task();
    let names = Arc::new(Names::new(given, !task.is_check()));
    let tally = bring_in(&names, task, arguments);
    match tally.is_complete() {
        true => exit_status::SUCCESS,
        false => NOT_ALL,
    }
}

impl Arguments {
    fn task(&self) -> Task {
        match self.check {
            true => Task::Check,
            false => Task::warm_up(),
        }
    }
}

fn open_list(path: &Path) -> Result<Box<dyn Read + Send>, String> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn bring_in(names: &Arc<Names>, task: Task, arguments: &Arguments) -> Tally {
    let first_look = names.look_ahead();
    if let Some(look) = &first_look
        && matches!(task, Task::Warm { .. })
    {
        look.too_large().iter().for_each(complain);
    }
    let mut progress = Progress::new(arguments.json, first_look.map(|look| look.total()));
    let mut tally = Tally::default();
    let told = workers::start(names, task, arguments.jobs.into());
    loop {
        match told.recv_timeout(SHOW_EVERY) {
            Ok(Told { path, outcome }) => {
                if let Some(reason) = tally.count(&outcome) {
                    progress.name(&path, &outcome, &reason);
                }
            }
            Err(error) if error.is_disconnected() => break,
            Err(_) => {}
        }
        progress.show(&tally, names.files_found());
    }
    let summary = progress.end(&tally, task.is_check());
    say(&summary);
    if tally.unconfirmed_files > 0 {
        complain(format_args!(
            "the server does not answer: {} of the files that are cached are as they were last known, and what is new there is not known",
            tally.unconfirmed_files
        ));
    }
    tally
}
