//! The settings file: a table for all mounts, and one for each that is to differ, by its name or its mountpoint.
//!
//! ```toml
//! [default]
//! cache_size = "200G"
//! noatime = true
//!
//! [mount."/mnt/cached"]
//! nfs_backend = "/mnt/nfs"
//! cache_dir = ["/nvme0/cache", "/nvme1/cache"]
//! ```

use super::error::ConfigError;
use super::options::{self, Kind};
use super::suggest;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Read where no other is named.
pub const SETTINGS_FILE: &str = "/etc/nfs-cachefs.toml";
/// A longer one is no settings file.
const BYTES_MAX: u64 = 1 << 20;

/// An option that the file sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWord {
    pub name: String,
    pub value: Option<OsString>,
    pub line: usize,
}

/// What the file says, checked as a whole: a word in a table of another mount that is not understood is an error, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsFile {
    default: Vec<FileWord>,
    mounts: Vec<(String, Vec<FileWord>)>,
}

impl SettingsFile {
    /// `None` where there is no such file. Errors name file and line. What others may write decides nothing of what root mounts.
    pub fn read(path: &Path, for_root: bool) -> Result<Option<Self>, ConfigError> {
        let unreadable = |error: io::Error| ConfigError::File {
            path: path.to_owned(),
            line: None,
            what: error.to_string(),
        };
        let facts = match std::fs::metadata(path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        if !facts.is_file() {
            // Of a FIFO or a device the end may never come.
            return Err(unreadable(io::Error::other("not a regular file")));
        }
        if let Some(others) = for_root.then(|| others_who_write(&facts)).flatten() {
            return Err(unreadable(io::Error::other(others)));
        }
        if facts.len() > BYTES_MAX {
            return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text)
            .map(Some)
            .map_err(|(line, what)| ConfigError::File {
                path: path.to_owned(),
                line: Some(line),
                what,
            })
    }

    /// Words that hold for a mount, the more particular ones last: those for all, for the mountpoint, for the name.
    pub fn words(&self, mountpoint: &Path, name: Option<&str>) -> Vec<&FileWord> {
        let of = |wanted: &[u8]| {
            let tables = self.mounts.iter();
            let own = tables.filter(move |(of, _)| of.as_bytes() == wanted);
            own.flat_map(|(_, words)| words).collect::<Vec<_>>()
        };
        let by_path = of(mountpoint.as_os_str().as_bytes());
        let mut words: Vec<&FileWord> = self.default.iter().chain(by_path).collect();
        let named_here = words.iter().rev().find(|word| word.name == "name");
        let named_here = named_here.and_then(|word| word.value.clone());
        let name = name.map(OsString::from).or(named_here);
        words.extend(name.map(|name| of(name.as_bytes())).unwrap_or_default());
        words
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let parsed = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (line(at), error.message().to_owned())
        })?;
        let mut file = Self::default();
        for (key, value) in parsed.get_ref() {
            let here = line(key.span().start);
            let Some(table) = value.get_ref().as_table() else {
                return Err((here, outside_tables(key.get_ref())));
            };
            match key.get_ref().as_ref() {
                "default" => file.default = words_of(table, &line)?,
                "mount" => {
                    for (mount, value) in table {
                        let here = line(mount.span().start);
                        let table = value.get_ref().as_table();
                        let table = table.ok_or_else(|| (here, not_a_mount(mount.get_ref())))?;
                        let words = words_of(table, &line)?;
                        let name = mount_name(mount.get_ref()).map_err(|what| (here, what))?;
                        file.mounts.push((name, words));
                    }
                }
                other => return Err((here, unknown_table(other))),
            }
        }
        Ok(file)
    }
}

/// Says who may write to the file beside root, and what to do about it.
fn others_who_write(facts: &Metadata) -> Option<String> {
    let owner = facts.uid();
    let (whose, remedy) = if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        (format!("it belongs to user {owner}"), "chown root")
    } else if facts.mode() & libc::S_IWOTH != 0 {
        ("everybody may write to it".to_owned(), "chmod o-w")
    } else if facts.mode() & libc::S_IWGRP != 0 && facts.gid() != 0 {
        let group = facts.gid();
        (format!("group {group} may write to it"), "chmod g-w")
    } else {
        return None;
    };
    Some(format!(
        "{whose}, who could choose so what root mounts and runs; {remedy} the file, or name another with config"
    ))
}

fn outside_tables(key: &str) -> String {
    format!(
        "'{key}' stands in no table: write it below [default], or below [mount.\"/its/mountpoint\"]"
    )
}

fn not_a_mount(key: &str) -> String {
    format!(
        "'{key}' below [mount] is no table: write [mount.\"/its/mountpoint\"], or [mount.NAME], above the options of a mount"
    )
}

/// A mountpoint as the mount table has it, or a name.
fn mount_name(written: &str) -> Result<String, String> {
    if !written.starts_with('/') {
        return Ok(written.to_owned());
    }
    let names = || written.split('/').filter(|name| !name.is_empty());
    if names().any(|name| matches!(name, "." | "..")) {
        return Err(format!(
            "[mount.\"{written}\"] is no mountpoint as mount(8) shows it: write it without . and .."
        ));
    }
    Ok(names().fold(String::new(), |path, name| path + "/" + name))
}

fn unknown_table(name: &str) -> String {
    let nearest = suggest::nearest(name, ["default", "mount"].into_iter());
    let hint = nearest.map_or_else(String::new, |nearest| {
        format!("; did you mean '{nearest}'?")
    });
    format!("unknown table [{name}]{hint}; there are [default] and [mount.\"/its/mountpoint\"]")
}

/// In the order of the file.
fn words_of(
    table: &DeTable<'_>,
    line: &impl Fn(usize) -> usize,
) -> Result<Vec<FileWord>, (usize, String)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut words = Vec::new();
    for (key, value) in entries {
        let line = line(key.span().start);
        words.push(word(key.get_ref(), value, line).map_err(|error| (line, error))?);
    }
    Ok(words)
}

fn word(name: &str, value: &Spanned<DeValue<'_>>, line: usize) -> Result<FileWord, String> {
    let row = options::find(name).ok_or_else(|| {
        let known = options::all().map(|row| row.name);
        let nearest = suggest::nearest(name, known).map(str::to_owned);
        let name = name.to_owned();
        ConfigError::Unknown { name, nearest }.to_string()
    })?;
    if matches!(row.kind, Kind::PassedOver) || name == "config" {
        return Err(format!(
            "'{name}' has no meaning in this file: it is a word for the command line and /etc/fstab"
        ));
    }
    let value = text_of(&row.kind, value.get_ref())
        .ok_or_else(|| format!("'{name}': expected {}", expected(&row.kind)))?;
    Ok(FileWord {
        name: name.to_owned(),
        value,
        line,
    })
}

fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Word(_) => "true; for its contrary write the contrary word".to_owned(),
        Kind::Paths(_) => {
            "an absolute path in quotation marks, or a list of them: [\"/one\", \"/two\"]"
                .to_owned()
        }
        other => format!(
            "{}, in quotation marks if it is no number",
            other.expected_in_words()
        ),
    }
}

/// The value as an option list has it; the inner `None` is a word that stands alone.
#[allow(clippy::option_option)]
fn text_of(kind: &Kind, value: &DeValue<'_>) -> Option<Option<OsString>> {
    let text = match (kind, value) {
        (Kind::Word(_), DeValue::Boolean(true)) => return Some(None),
        (Kind::Word(_), _) => return None,
        (Kind::Flag(_), DeValue::Boolean(on)) => if *on { "on" } else { "off" }.to_owned(),
        (Kind::Paths(_), DeValue::Array(paths)) => {
            let paths = paths.iter().map(|path| path.get_ref().as_str());
            let paths: Option<Vec<&str>> = paths.collect();
            let escaped = paths?.into_iter().map(|path| path.replace(':', "\\:"));
            escaped.collect::<Vec<_>>().join(":")
        }
        // Not taken for one, as it may be meant for several.
        (Kind::Paths(_), DeValue::String(path)) if path.contains(":/") => return None,
        (Kind::Paths(_), DeValue::String(path)) => path.replace(':', "\\:"),
        (_, DeValue::String(text)) => text.to_string(),
        (_, DeValue::Integer(number)) => number.as_str().replace('_', ""),
        _ => return None,
    };
    Some(Some(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[&FileWord]) -> Vec<String> {
        let value = |word: &FileWord| word.value.clone().unwrap_or_default();
        let words = words.iter();
        words
            .map(|word| {
                format!(
                    "{}={}@{}",
                    word.name,
                    value(word).to_string_lossy(),
                    word.line
                )
            })
            .collect()
    }

    #[test]
    fn the_more_particular_table_comes_later_and_lines_are_known() {
        let text = "# all\n[default]\nreadahead = \"8M\"\nnoatime = true\nmax_concurrent = 1_6\n\n\
                    [mount.\"/mnt//c/\"]\ncache_dir = [\"/a\", \"/b:c\"]\ndirect_io = false\n[mount.models]\ncache_dir = \"/d:e\"\n";
        let file = SettingsFile::parse(text).expect("parsed");
        assert_eq!(
            told(&file.words(Path::new("/mnt/c"), Some("models"))),
            [
                "readahead=8M@3",
                "noatime=@4",
                "max_concurrent=16@5",
                "cache_dir=/a:/b\\:c@8",
                "direct_io=off@9",
                "cache_dir=/d\\:e@11"
            ]
        );
        assert_eq!(file.words(Path::new("/mnt/d"), None).len(), 3);
        let named = "[mount.\"/m\"]\nname = \"models\"\n[mount.models]\nttl = 3\n";
        let named = SettingsFile::parse(named).expect("parsed");
        assert_eq!(
            told(&named.words(Path::new("/m"), None)),
            ["name=models@2", "ttl=3@4"]
        );
        assert_eq!(named.words(Path::new("/m"), Some("other")).len(), 1);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, line, wanted) in [
            ("[default]\n[mount.\"/mnt/../c\"]", 2, "without . and .."),
            (
                "[default]\n\ncahce_dir = \"/x\"",
                3,
                "did you mean 'cache_dir'?",
            ),
            (
                "[mount.\"/a\"]\nreadahead = true",
                2,
                "'readahead': expected",
            ),
            ("[default]\nro = false", 2, "true"),
            ("[default]\n_netdev = true", 2, "no meaning in this file"),
            ("cache_size = \"1G\"", 1, "stands in no table"),
            ("[defaults]\n", 1, "did you mean 'default'?"),
            ("[mount]\nro = true", 2, "is no table"),
            ("[default]\nro = ", 2, ""),
            ("[default]\ncache_dir = \"/a:/b\"", 2, "or a list of them"),
            ("[default]\nlog = \"info\"\nlog = \"warn\"", 3, "duplicate"),
        ] {
            let (found, told) = SettingsFile::parse(text).expect_err(text);
            assert_eq!(found, line, "{text}: {told}");
            assert!(told.contains(wanted), "{text}: {told}");
        }
    }
}
