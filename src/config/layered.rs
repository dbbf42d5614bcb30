//! Settings from several places: what is given counts more than the settings file, and that more than the default. Of each
//! option it is known where its value comes from.

use super::error::ConfigError;
use super::file::{SETTINGS_FILE, SettingsFile};
use super::options;
use super::parse::{self, Tolerance, Word};
use super::settings::{ConfigFile, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Fstab,
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Fstab => f.write_str("/etc/fstab"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// What was said of one mount, kept so that it can be read together with a settings file that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Resolved, but for its last component.
    pub mountpoint: PathBuf,
    /// Option lists, those of /etc/fstab among them.
    pub lists: Vec<OsString>,
    /// The list that /etc/fstab has for the mountpoint, where it was mounted by that.
    pub fstab: Option<OsString>,
    pub tolerance: Tolerance,
}

/// Settings, and where they come from.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
}

/// What a changed settings file has done to a mount that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// `name=value`.
    pub made: Vec<String>,
    /// They hold from the next mount on.
    pub refused: Vec<String>,
}

/// Values of all options that are shown.
type Shown = Vec<(&'static str, String)>;

impl Given {
    /// Reads the settings file and puts all together. Ordinary users have no settings file but one that they name.
    pub fn resolve(&self, is_root: bool) -> Result<Resolved, ConfigError> {
        let given = self.words()?;
        let mut alone = Settings::default();
        for (_, word) in &given {
            parse::apply(&mut alone, word, self.tolerance)?;
        }
        let mut resolved = Resolved {
            settings: Settings::default(),
            origins: BTreeMap::new(),
        };
        let path = match &alone.config {
            ConfigFile::Usual => is_root.then(|| PathBuf::from(SETTINGS_FILE)),
            ConfigFile::At(path) => Some(path.clone()),
            ConfigFile::Off => None,
        };
        if let Some(path) = path {
            let is_named = matches!(alone.config, ConfigFile::At(_));
            let file = SettingsFile::read(&path, is_root)?;
            if file.is_none() && is_named {
                return Err(missing(path));
            }
            let file = file.unwrap_or_default();
            resolved.take_file(&path, &file, &self.mountpoint, alone.name.as_deref())?;
        }
        for (origin, word) in &given {
            resolved.take(word, self.tolerance, origin)?;
        }
        let checked = resolved.settings.clone().validated();
        resolved.settings = checked.map_err(|error| resolved.located(error))?;
        // What holds for all mounts is not whole.
        if !self.mountpoint.as_os_str().is_empty() {
            resolved.settings.check_journal_places()?;
        }
        Ok(resolved)
    }

    fn words(&self) -> Result<Vec<(Origin, Word)>, ConfigError> {
        let in_fstab = match &self.fstab {
            Some(list) => parse::split_list(list)?,
            None => Vec::new(),
        };
        let mut words = Vec::new();
        for list in &self.lists {
            for word in parse::split_list(list)? {
                let origin = match in_fstab.contains(&word) {
                    true => Origin::Fstab,
                    false => Origin::CommandLine,
                };
                words.push((origin, word));
            }
        }
        Ok(words)
    }
}

fn missing(path: PathBuf) -> ConfigError {
    ConfigError::File {
        path,
        line: None,
        what: "there is no such file".to_owned(),
    }
}

impl Resolved {
    fn take_file(
        &mut self,
        path: &Path,
        file: &SettingsFile,
        mountpoint: &Path,
        name: Option<&str>,
    ) -> Result<(), ConfigError> {
        for word in file.words(mountpoint, name) {
            let line = word.line;
            let path = path.to_owned();
            let origin = Origin::File {
                path: path.clone(),
                line,
            };
            let word = Word {
                name: word.name.clone(),
                value: word.value.clone(),
            };
            self.take(&word, Tolerance::Strict, &origin)
                .map_err(|error| ConfigError::File {
                    path,
                    line: Some(line),
                    what: error.to_string(),
                })?;
        }
        Ok(())
    }

    /// The options whose values a word changes come from where it does, and the one it names.
    fn take(
        &mut self,
        word: &Word,
        tolerance: Tolerance,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        let before: Shown = self.settings.in_effect();
        parse::apply(&mut self.settings, word, tolerance)?;
        for (old, new) in before.into_iter().zip(self.settings.in_effect()) {
            if old != new {
                self.origins.insert(new.0, origin.clone());
            }
        }
        if let Some(row) = options::find(&word.name) {
            self.origins.insert(row.name, origin.clone());
        }
        Ok(())
    }

    /// As it is, with what can change while it serves as `new` has it. Names of the options that were changed, and of
    /// those that were to be and cannot.
    pub fn take_over(&self, new: &Resolved) -> (Resolved, Changes) {
        let mut next = self.clone();
        next.settings.cache_size = new.settings.cache_size;
        next.settings.watermarks = new.settings.watermarks;
        next.settings.write_limit_bytes = new.settings.write_limit_bytes;
        next.settings.log = new.settings.log;
        let mut changes = Changes::default();
        let values = self.settings.in_effect().into_iter();
        let wanted = new.settings.in_effect().into_iter();
        for (((name, old), (_, next_value)), (_, wanted)) in
            values.zip(next.settings.in_effect()).zip(wanted)
        {
            if old != next_value {
                changes.made.push(format!("{name}={next_value}"));
            } else if old != wanted {
                changes.refused.push(format!("{name}={wanted}"));
            }
            if next_value == wanted {
                next.origins.insert(name, new.origin(name));
            }
        }
        let (present, wanted) = (
            self.settings.words_in_effect(),
            new.settings.words_in_effect(),
        );
        let added = wanted.iter().filter(|word| !present.contains(word));
        let left_out = present.iter().filter(|word| !wanted.contains(word));
        changes.refused.extend(added.map(|word| (*word).to_owned()));
        changes
            .refused
            .extend(left_out.map(|word| format!("no {word}")));
        (next, changes)
    }

    /// The error with its place in the settings file, if the value that it names comes from there.
    fn located(&self, error: ConfigError) -> ConfigError {
        let name = match &error {
            ConfigError::BadValue { name, .. } => name.as_str(),
            ConfigError::NoJournal { option } => option,
            _ => return error,
        };
        match self.origin(name) {
            Origin::File { path, line } => ConfigError::File {
                path,
                line: Some(line),
                what: error.to_string(),
            },
            _ => error,
        }
    }

    pub fn origin(&self, name: &str) -> Origin {
        let known = self.origins.get(name);
        known.cloned().unwrap_or(Origin::Default)
    }

    /// Every option that has a value, with it and where it comes from; then words that have none and make a difference.
    pub fn in_effect(&self) -> Vec<(&'static str, String, Origin)> {
        let words = self.settings.words_in_effect().into_iter();
        let words = words.map(|name| (name, String::new()));
        let values = self.settings.in_effect().into_iter();
        values
            .chain(words)
            .map(|(name, value)| (name, value, self.origin(name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(fstab: &str, command_line: &str) -> Given {
        Given {
            mountpoint: PathBuf::from("/mnt/c"),
            lists: vec![fstab.into(), command_line.into()],
            fstab: Some(fstab.into()),
            tolerance: Tolerance::Strict,
        }
    }

    #[test]
    fn command_line_goes_before_fstab_before_file_before_default() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("settings.toml");
        let text = "[default]\nreadahead = \"1M\"\nmax_concurrent = 3\nlog = \"warn\"\nttl = \"1h\"\n\
                    [mount.m]\nttl = \"2h\"\nactimeo = 7\n";
        std::fs::write(&path, text).expect("written");
        let here = format!("config={},max_concurrent=4,log=debug", path.display());
        let resolved = given(&here, "log=error,name=m")
            .resolve(true)
            .expect("resolved");
        let line = |line| Origin::File {
            path: path.clone(),
            line,
        };
        for (name, value, origin) in [
            ("log", "error", Origin::CommandLine),
            ("max_concurrent", "4", Origin::Fstab),
            ("readahead", "1M", line(2)),
            ("ttl", "2h", line(7)),
            ("acregmin", "7s", line(8)),
            ("acdirmax", "7s", line(8)),
            ("eviction", "s3fifo", Origin::Default),
        ] {
            let found = resolved.in_effect().into_iter().find(|row| row.0 == name);
            assert_eq!(found, Some((name, value.to_owned(), origin)));
        }
    }

    #[test]
    fn what_can_change_while_it_serves_is_taken_over_and_the_rest_is_named() {
        let resolve = |words: &str| given("config=off", words).resolve(true).expect("resolved");
        let before = resolve("cache_size=1G,readahead=1M,log=info,noexec");
        let wanted = resolve("cache_size=2G,readahead=2M,log=debug,noatime");
        let (next, changes) = before.take_over(&wanted);
        assert_eq!(changes.made, ["cache_size=2G", "log=debug"]);
        assert_eq!(changes.refused, ["readahead=2M", "noatime", "no noexec"]);
        assert_eq!(next.settings.cache_size, wanted.settings.cache_size);
        assert_eq!(
            next.settings.readahead_max_bytes,
            before.settings.readahead_max_bytes
        );
    }

    #[test]
    fn a_bad_value_in_the_file_is_named_with_its_line_and_a_missing_file_is_an_error() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("settings.toml");
        std::fs::write(&path, "[default]\nttl = \"soon\"\n").expect("written");
        let option = format!("config={}", path.display());
        let told = given("", &option).resolve(true).unwrap_err().to_string();
        assert!(told.contains("settings.toml:2: "), "{told}");
        assert!(told.contains("ttl=soon"), "{told}");
        std::fs::write(&path, "[default]\nttl = 5\ncache_size = 5\n").expect("written");
        let told = given("", &option).resolve(true).unwrap_err().to_string();
        assert!(told.contains("settings.toml:3: "), "{told}");
        let told = given("", "config=/nonexistent.toml").resolve(true);
        assert!(told.unwrap_err().to_string().contains("no such file"));
        given("", "config=off").resolve(true).expect("no file");
    }
}
