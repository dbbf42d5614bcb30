//! The option table. A row is a name, what its value looks like and what it changes, how the value
//! in effect is shown, and one line of help; nothing else knows an option by name.
//!
//! - `cache`: places, sizes and policy of the cache
//! - `watermarks`: when the cache gives room back
//! - `disk`: how local disks are driven
//! - `backend`: timeouts and trust towards the backend
//! - `journal`: writing back
//! - `mount`: the mount itself, and words of mount(8)
//! - `later`: what is refused by name
//! - `kind`: the kinds of value

mod backend;
mod cache;
mod disk;
mod journal;
mod kind;
mod later;
mod mount;
mod watermarks;

pub use kind::Kind;

use super::parse::{Tolerance, parse_options};
use super::settings::Settings;

/// One option.
pub struct OptionRow {
    pub name: &'static str,
    pub kind: Kind,
    /// The value in effect, as an operator would write it; `None` for words that set no value.
    pub show: Option<fn(&Settings) -> String>,
    /// One line for the README.
    pub help: &'static str,
}

/// Groups of rows with their headings, in the order of the README.
const GROUPS: [(&str, &[OptionRow]); 6] = [
    ("The cache", cache::ROWS),
    ("Room in the cache", watermarks::ROWS),
    ("The backend", backend::ROWS),
    ("Writing back", journal::ROWS),
    ("Local disks", disk::ROWS),
    ("The mount", mount::ROWS),
];

/// Every row, the refused and the passed-over ones included.
pub fn all() -> impl Iterator<Item = &'static OptionRow> {
    GROUPS
        .iter()
        .flat_map(|(_, rows)| rows.iter())
        .chain(mount::PASSED_OVER)
        .chain(later::ROWS)
}

/// The row of a name; the families `x-*` and `X-*` of mount(8) share one.
pub fn find(name: &str) -> Option<&'static OptionRow> {
    let family = if name.starts_with("x-") || name.starts_with("X-") {
        "x-*"
    } else {
        name
    };
    all().find(|row| row.name == family)
}

/// Whether a word is for mount(8) and others, and says nothing to us.
fn is_passed_over(name: &str) -> bool {
    find(name).is_some_and(|row| {
        mount::PASSED_OVER
            .iter()
            .any(|other| other.name == row.name)
    })
}

/// Whether a word of an option list says no more than what is `in_effect`, as [`Settings::in_effect`] tells it.
pub fn is_repeated(word: &str, in_effect: &[(&str, &str)]) -> bool {
    let name = word.split('=').next().unwrap_or_default();
    let Ok(settings) = parse_options(&[word], Tolerance::Strict) else {
        return false;
    };
    let defaults = Settings::default().in_effect();
    let given = settings.in_effect();
    let mut told = given
        .iter()
        .filter(|row| row.0 == name || !defaults.contains(row))
        .peekable();
    let says_something = told.peek().is_some();
    let says_the_same = told.all(|(name, value)| in_effect.contains(&(*name, value.as_str())));
    is_passed_over(name) || says_something && says_the_same
}

impl Settings {
    /// Every option that has a value with the value in effect, in table order.
    pub fn in_effect(&self) -> Vec<(&'static str, String)> {
        all()
            .filter_map(|row| row.show.map(|show| (row.name, show(self))))
            .collect()
    }

    /// Words without a value that make a difference as things are, in table order: `ro`, say.
    pub fn words_in_effect(&self) -> Vec<&'static str> {
        let flags_after = |row: &OptionRow, settings: &Self| {
            let mut settings = settings.clone();
            if let Kind::Word(set) = row.kind {
                set(&mut settings);
            }
            settings.mount_flags
        };
        let defaults = Self::default();
        let has_effect = |row: &&OptionRow| {
            flags_after(row, self) == self.mount_flags
                && flags_after(row, &defaults) != defaults.mount_flags
        };
        mount::ROWS
            .iter()
            .filter(has_effect)
            .map(|row| row.name)
            .collect()
    }
}

/// An option as it is explained to an operator.
pub struct OptionHelp {
    pub name: &'static str,
    /// What may be written.
    pub value: String,
    /// Empty for words that have none.
    pub default: String,
    pub help: &'static str,
}

/// The options that can be given, in groups with their headings.
pub fn option_groups() -> Vec<(&'static str, Vec<OptionHelp>)> {
    let defaults = Settings::default();
    let explained = |row: &OptionRow| OptionHelp {
        name: row.name,
        value: row.kind.expected_in_words(),
        default: row.show.map_or_else(String::new, |show| show(&defaults)),
        help: row.help,
    };
    GROUPS
        .iter()
        .map(|(heading, rows)| (*heading, rows.iter().map(explained).collect()))
        .collect()
}

/// The option table of the README, in Markdown.
pub fn options_markdown() -> String {
    let mut text = String::new();
    for (heading, options) in option_groups() {
        text.push_str(&format!(
            "**{heading}**\n\n| option | value | default | what it does |\n|---|---|---|---|\n"
        ));
        for option in options {
            text.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                option.name,
                option.value.replace('|', "\\|"),
                option.default,
                option.help
            ));
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "Passed over, for mount(8), fstab and systemd: {}.\n\nRefused with \"not yet\": {}.\n",
        quoted_names(mount::PASSED_OVER),
        quoted_names(later::ROWS)
    ));
    text
}

fn quoted_names(rows: &[OptionRow]) -> String {
    let names: Vec<String> = rows.iter().map(|row| format!("`{}`", row.name)).collect();
    names.join(", ")
}
