//! `nfs-cachefs options`: the option table, as the README shows it.

use super::say;
use crate::config::options_markdown;
use crate::daemon::error::exit_status;

pub fn run() -> i32 {
    say(&options_markdown());
    exit_status::SUCCESS
}
