//! Options and settings. Every option of the command line, of `mount -o` and of fstab is one row of
//! one table; [`Settings`] is what comes out: plain data, validated once, read by everybody and
//! changed by nobody.
//!
//! What always holds: a word that is in no row is an error naming the nearest row; a row that
//! belongs to a later version is refused by name; every other row changes a field of [`Settings`] or is
//! a word of mount(8) that is none of our business.
//!
//! - `options`: the table, a file per group of rows; `options_markdown` prints it for the README
//! - `settings`: [`Settings`], its defaults, the checks that need more than one option
//! - `parse`: option lists to assignments, quoting included
//! - `units`: sizes, durations, booleans and their spelling
//! - `suggest`: the nearest known name
//! - `watermarks`: when files go to make room
//! - `cache_size`: how many bytes the cache may take, given the disks
//! - `error`: what is wrong with an option list

pub use cache_size::{CacheSize, DiskShare};
pub use error::ConfigError;
pub use journal_settings::{CloseMode, ConflictMode, FsyncMode, JournalOptions};
pub use options::{is_repeated, options_markdown};
pub use parse::{Tolerance, parse_options};
pub use settings::{
    Access, AttributeTimeouts, ChecksumKind, EngineChoice, EvictionPolicy, Identity, IoSettings,
    KeepWritten, LockPlace, LogLevel, LookupCache, MountFlags, PassthroughChoice, Settings,
    WriteMode,
};
pub use watermarks::{FreePercent, Watermarks};

mod cache_size;
mod error;
mod journal_settings;
mod options;
mod parse;
mod settings;
mod suggest;
mod units;
mod watermarks;
