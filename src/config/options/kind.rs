//! The kinds of value an option takes: how each is read, checked and put into [`Settings`].

use crate::config::cache_size::CacheSize;
use crate::config::error::ConfigError;
use crate::config::settings::{MetricsAddress, Settings};
use crate::config::units::{
    GIB, MIB, parse_bool, parse_duration, parse_size, show_duration, show_size,
};
use crate::journal::Spread;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// A value of a choice, and what it sets.
pub type Choice = (&'static str, fn(&mut Settings));

/// What an option takes and what it changes.
pub enum Kind {
    /// A word that stands alone.
    Word(fn(&mut Settings)),
    /// Alone, or with 1/0, true/false, yes/no, on/off.
    Flag(fn(&mut Settings, bool)),
    Size {
        /// What a bare number counts.
        bare_unit_bytes: u64,
        min_bytes: u64,
        max_bytes: u64,
        power_of_two: bool,
        set: fn(&mut Settings, u64),
    },
    /// From 1 to `max`, with or without %.
    Percent { max: u8, set: fn(&mut Settings, u8) },
    /// A size a day; `None` for 0.
    SizePerDay(fn(&mut Settings, Option<u64>)),
    /// A size, or a percentage of the disk.
    SizeOrPercent(fn(&mut Settings, CacheSize)),
    Duration {
        /// What a bare number counts.
        bare_unit: Duration,
        min: Duration,
        max: Duration,
        set: fn(&mut Settings, Duration),
    },
    /// A duration in seconds where no unit is given; `off` is none at all.
    DurationOrOff {
        max: Duration,
        set: fn(&mut Settings, Duration),
    },
    Count {
        min: u64,
        max: u64,
        set: fn(&mut Settings, u64),
    },
    Choice {
        values: &'static [Choice],
        /// Values that a later version brings, and what they stand for.
        later: &'static [(&'static str, &'static str)],
    },
    /// An absolute path.
    Path(fn(&mut Settings, PathBuf)),
    /// An absolute path; `off` is none.
    PathOrOff(fn(&mut Settings, Option<PathBuf>)),
    /// Absolute paths separated by ':' (`\:` is a colon in a name).
    Paths(fn(&mut Settings, Vec<PathBuf>)),
    /// A loopback address with its port, or unix: and an absolute path; `off` is none.
    Listen(fn(&mut Settings, Option<MetricsAddress>)),
    /// `k+m`: data and parity shards.
    Erasure(fn(&mut Settings, Spread)),
    /// Non-empty text without control characters.
    Text(fn(&mut Settings, String)),
    /// A word of mount(8) that is none of our business, with or without a value.
    PassedOver,
    /// Refused: this comes with a later version.
    Later(&'static str),
}

/// What a value was expected to look like.
pub struct Expected(pub String);

impl Kind {
    /// Reads `value` and changes `settings`.
    pub fn apply(
        &self,
        settings: &mut Settings,
        name: &str,
        value: Option<&OsStr>,
    ) -> Result<(), ConfigError> {
        match self {
            Self::PassedOver => return Ok(()),
            Self::Later(what) => {
                return Err(ConfigError::NotYet {
                    name: name.to_owned(),
                    what,
                });
            }
            Self::Word(set) => {
                if let Some(value) = value {
                    return Err(ConfigError::UnwantedValue {
                        name: name.to_owned(),
                        value: value.to_string_lossy().into_owned(),
                    });
                }
                set(settings);
                return Ok(());
            }
            Self::Flag(set) if value.is_none() => {
                set(settings, true);
                return Ok(());
            }
            _ => {}
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Err(ConfigError::MissingValue {
                name: name.to_owned(),
                expected: self.expected_in_words(),
            });
        };
        self.refuse_later_value(name, value)?;
        self.apply_value(settings, value)
            .map_err(|Expected(expected)| ConfigError::BadValue {
                name: name.to_owned(),
                value: value.to_string_lossy().into_owned(),
                expected,
            })
    }

    fn refuse_later_value(&self, name: &str, value: &OsStr) -> Result<(), ConfigError> {
        if let Self::Choice { later, .. } = self
            && let Some((word, what)) = later.iter().find(|(word, _)| value == OsStr::new(word))
        {
            return Err(ConfigError::NotYet {
                name: format!("{name}={word}"),
                what,
            });
        }
        Ok(())
    }

    fn apply_value(&self, settings: &mut Settings, value: &OsStr) -> Result<(), Expected> {
        let expected = || Expected(self.expected_in_words());
        match self {
            Self::Path(set) => set(settings, absolute_path(value).ok_or_else(expected)?),
            Self::PathOrOff(set) => match value == OsStr::new("off") {
                true => set(settings, None),
                false => set(settings, Some(absolute_path(value).ok_or_else(expected)?)),
            },
            Self::Paths(set) => set(settings, absolute_paths(value).ok_or_else(expected)?),
            _ => {
                let text = value.to_str().ok_or_else(expected)?;
                self.apply_text(settings, text).ok_or_else(expected)?;
            }
        }
        Ok(())
    }

    /// `None` when `text` is not what this kind takes.
    fn apply_text(&self, settings: &mut Settings, text: &str) -> Option<()> {
        match self {
            Self::Flag(set) => set(settings, parse_bool(text)?),
            Self::Size {
                bare_unit_bytes,
                min_bytes,
                max_bytes,
                power_of_two,
                set,
            } => {
                let bytes = parse_size(text, *bare_unit_bytes)?;
                let fits = (*min_bytes..=*max_bytes).contains(&bytes)
                    && (!power_of_two || bytes.is_power_of_two());
                fits.then(|| set(settings, bytes))?;
            }
            Self::Percent { max, set } => {
                let percent = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok()?;
                (1..=*max)
                    .contains(&percent)
                    .then(|| set(settings, percent))?;
            }
            Self::SizePerDay(set) => {
                let bytes = parse_size(text.strip_suffix("/day").unwrap_or(text), 1)?;
                set(settings, (bytes > 0).then_some(bytes));
            }
            Self::SizeOrPercent(set) => set(settings, size_or_percent(text)?),
            Self::Duration {
                bare_unit,
                min,
                max,
                set,
            } => {
                let duration = parse_duration(text, *bare_unit)?;
                (*min..=*max)
                    .contains(&duration)
                    .then(|| set(settings, duration))?;
            }
            Self::DurationOrOff { max, set } => {
                let duration = match text {
                    "off" => Duration::ZERO,
                    _ => parse_duration(text, Duration::from_secs(1))?,
                };
                (duration <= *max).then(|| set(settings, duration))?;
            }
            Self::Count { min, max, set } => {
                let count = text.parse::<u64>().ok()?;
                (*min..=*max)
                    .contains(&count)
                    .then(|| set(settings, count))?;
            }
            Self::Choice { values, .. } => {
                let (_, set) = values.iter().find(|(word, _)| *word == text)?;
                set(settings);
            }
            Self::Listen(set) => set(settings, listen_address(text)?),
            Self::Erasure(set) => set(settings, Spread::parse(text)?),
            Self::Text(set) => {
                (!text.chars().any(char::is_control)).then(|| set(settings, text.to_owned()))?;
            }
            Self::Word(_)
            | Self::Path(_)
            | Self::PathOrOff(_)
            | Self::Paths(_)
            | Self::PassedOver
            | Self::Later(_) => {
                return None;
            }
        }
        Some(())
    }

    /// What may be written as the value, for messages and the README.
    pub fn expected_in_words(&self) -> String {
        match self {
            Self::Word(_) => "none".to_owned(),
            Self::Flag(_) => "none, or 1/0, true/false, yes/no, on/off".to_owned(),
            Self::Size {
                bare_unit_bytes,
                min_bytes,
                max_bytes,
                power_of_two,
                ..
            } => {
                let what = match *bare_unit_bytes {
                    GIB => "gigabytes (G is meant where no unit is given)",
                    MIB => "megabytes (M is meant where no unit is given)",
                    _ => "a size (K, M, G, T; bytes where no unit is given)",
                };
                let power = if *power_of_two {
                    ", a power of two"
                } else {
                    ""
                };
                format!(
                    "{what} from {} to {}{power}",
                    show_size(*min_bytes),
                    show_size(*max_bytes)
                )
            }
            Self::Percent { max, .. } => format!("a percentage from 1% to {max}%"),
            Self::SizePerDay(_) => "a size a day (200G/day), or 0 for no limit".to_owned(),
            Self::SizeOrPercent(_) => {
                "a size (K, M, G, T; bytes where no unit is given) or 1% to 95% of the disk"
                    .to_owned()
            }
            Self::Duration {
                bare_unit,
                min,
                max,
                ..
            } => {
                let bare = match bare_unit.as_millis() {
                    1 => "milliseconds",
                    1_000 => "seconds",
                    _ => "hours",
                };
                format!(
                    "a duration (ms, s, m, h, d; {bare} where no unit is given) from {} to {}",
                    show_duration(*min),
                    show_duration(*max)
                )
            }
            Self::DurationOrOff { max, .. } => format!(
                "a duration (ms, s, m, h, d; seconds where no unit is given) up to {}, or off",
                show_duration(*max)
            ),
            Self::Count { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::Choice { values, .. } => {
                let words: Vec<&str> = values.iter().map(|(word, _)| *word).collect();
                words.join("|")
            }
            Self::Path(_) => "an absolute path".to_owned(),
            Self::PathOrOff(_) => "an absolute path, or off".to_owned(),
            Self::Paths(_) => "absolute paths separated by ':'".to_owned(),
            Self::Listen(_) => {
                "a loopback address and port (127.0.0.1:9119), unix:/an/absolute/path, or off"
                    .to_owned()
            }
            Self::Erasure(_) => {
                "k+m, both whole numbers: k from 1, m from 0, 16 together at most".to_owned()
            }
            Self::Text(_) => "text".to_owned(),
            Self::PassedOver => "anything".to_owned(),
            Self::Later(_) => "nothing yet".to_owned(),
        }
    }
}

fn size_or_percent(text: &str) -> Option<CacheSize> {
    match text.strip_suffix('%') {
        Some(number) => number
            .parse::<u8>()
            .ok()
            .filter(|percent| (1..=95).contains(percent))
            .map(CacheSize::PercentOfDisk),
        None => parse_size(text, 1).map(CacheSize::Bytes),
    }
}

/// What is told is for this machine: there is no password to it.
fn listen_address(text: &str) -> Option<Option<MetricsAddress>> {
    if text == "off" {
        return Some(None);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = absolute_path(OsStr::new(path))?;
        return Some(Some(MetricsAddress::Unix(path)));
    }
    let address: SocketAddr = text.parse().ok()?;
    let is_ours = address.ip().is_loopback() && address.port() != 0;
    is_ours.then_some(Some(MetricsAddress::Tcp(address)))
}

fn absolute_path(value: &OsStr) -> Option<PathBuf> {
    let path = PathBuf::from(value);
    (path.is_absolute() && !value.as_bytes().contains(&0)).then_some(path)
}

fn absolute_paths(value: &OsStr) -> Option<Vec<PathBuf>> {
    let mut paths = vec![Vec::new()];
    let mut bytes = value.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => paths.push(Vec::new()),
            b'\\' if bytes.peek() == Some(&b':') => paths.last_mut()?.extend(bytes.next()),
            other => paths.last_mut()?.push(other),
        }
    }
    paths
        .into_iter()
        .map(|path| absolute_path(&OsString::from_vec(path)))
        .collect()
}
