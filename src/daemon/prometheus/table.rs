//! The metrics: a row for each number of the status.

use super::{cache_rows, mount_rows};
use serde_json::Value;

/// What all names begin with.
pub const PREFIX: &str = "nfs_cachefs_";

/// The latencies, which are no single numbers: name and help.
pub const LATENCY: (&str, &str) = (
    "latency_seconds",
    "How long calls on the backend took (of=\"backend\", kind metadata or data), and reads that waited for the cache disk or for the backend (of=\"read\", kind hit or miss); reads answered from memory or by passthrough are not timed",
);
pub const INFO: (&str, &str) = (
    "info",
    "1; its labels say the version, the name of the mount, the backend and the engine",
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts up for the life of the daemon.
    Counter,
    Gauge,
    /// 1 while the text is this, else 0.
    Is(&'static str),
}

pub struct Row {
    /// Keys from the top of `status --json`; `[]` stands for each of a list, which its `path` tells apart.
    pub path: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// How many of the name's unit one is.
    scale: f64,
    pub help: &'static str,
}

const fn row(path: &'static str, name: &'static str, kind: Kind, help: &'static str) -> Row {
    Row {
        path,
        name,
        kind,
        scale: 1.0,
        help,
    }
}

pub(super) const fn counter(path: &'static str, name: &'static str, help: &'static str) -> Row {
    row(path, name, Kind::Counter, help)
}

pub(super) const fn gauge(path: &'static str, name: &'static str, help: &'static str) -> Row {
    row(path, name, Kind::Gauge, help)
}

pub(super) const fn is(
    path: &'static str,
    word: &'static str,
    name: &'static str,
    help: &'static str,
) -> Row {
    row(path, name, Kind::Is(word), help)
}

impl Row {
    pub(super) const fn in_milliseconds(mut self) -> Self {
        self.scale = 1e-3;
        self
    }

    pub(super) const fn in_microseconds(mut self) -> Self {
        self.scale = 1e-6;
        self
    }

    pub fn kind_in_words(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Is(_) => "gauge",
        }
    }

    /// In the unit of the name; `None` where the status has nothing to say.
    pub fn value(&self, found: &Value) -> Option<f64> {
        let number = match (self.kind, found) {
            (Kind::Is(word), Value::String(text)) => f64::from(text == word),
            (_, Value::Bool(on)) => f64::from(*on),
            (_, number) => number.as_f64()?,
        };
        Some(number * self.scale)
    }
}

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    mount_rows::ROWS.iter().chain(cache_rows::ROWS)
}

/// Numbers of the status that are no metrics: which process it is, each incident of damage, each file that waits, each
/// decision, and the latencies, which are a histogram.
#[cfg(test)]
const NO_METRICS: &[&str] = &[
    "pid",
    "scrub.damaged[]",
    "writeback.oldest[]",
    "tuning.last[]",
    "latencies[]",
];

/// The table of docs/METRICS.md.
pub fn metrics_markdown() -> String {
    let mut text =
        "| metric | type | in `status --json` | what it is |\n|---|---|---|---|\n".to_owned();
    let mut line = |name: &str, kind: &str, path: &str, help: &str| {
        let cell = help.replace('|', "\\|");
        text.push_str(&format!(
            "| `{PREFIX}{name}` | {kind} | `{path}` | {cell} |\n"
        ));
    };
    for row in rows() {
        line(row.name, row.kind_in_words(), row.path, row.help);
    }
    line(LATENCY.0, "histogram", "latencies[]", LATENCY.1);
    line(INFO.0, "gauge", "version, name, backend.path", INFO.1);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::{CacheDirectoryStatus, LatencyStatus, Status};
    use crate::daemon::status_of_scrub::{DamagedStatus, PassStatus};

    /// The places of all numbers and switches.
    fn numbers(value: &Value, path: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(keys) => {
                for (key, value) in keys {
                    let dot = if path.is_empty() { "" } else { "." };
                    numbers(value, &format!("{path}{dot}{key}"), into);
                }
            }
            Value::Array(values) => {
                for value in values {
                    numbers(value, &format!("{path}[]"), into);
                }
            }
            Value::Number(_) | Value::Bool(_) => into.push(path.to_owned()),
            Value::String(_) | Value::Null => {}
        }
    }

    /// Nothing in it is absent.
    fn full_status() -> Status {
        let mut status = Status::default();
        status.backend.away_seconds = Some(1);
        status.cache.directories = vec![CacheDirectoryStatus::default()];
        status.scrub.last_pass = Some(PassStatus::default());
        status.scrub.damaged = vec![DamagedStatus::default()];
        status.latencies = vec![LatencyStatus::default()];
        status
    }

    #[test]
    fn every_number_of_the_status_is_a_metric_and_no_metric_is_about_nothing() {
        let status = serde_json::to_value(full_status()).expect("serializes");
        let mut found = Vec::new();
        numbers(&status, "", &mut found);
        let is_one = |path: &String| !NO_METRICS.iter().any(|none| path.starts_with(none));
        for path in found.iter().filter(|path| is_one(path)) {
            assert!(
                rows().any(|row| row.path == path),
                "{path} of the status has no row in src/daemon/prometheus/table.rs"
            );
        }
        for row in rows().filter(|row| !matches!(row.kind, Kind::Is(_))) {
            assert!(found.iter().any(|path| path == row.path), "{}", row.path);
        }
    }

    #[test]
    fn names_tell_kind_and_unit() {
        for row in rows() {
            let is_counter = row.kind == Kind::Counter;
            assert_eq!(row.name.ends_with("_total"), is_counter, "{}", row.name);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(row.name.chars().all(plain), "{}", row.name);
            let same = rows().filter(|other| other.name == row.name);
            assert_eq!(same.count(), 1, "{}", row.name);
        }
    }
}
