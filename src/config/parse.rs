//! From option lists (`-o a,b=c -o d`) to [`Settings`].

use super::error::ConfigError;
use super::options;
use super::settings::Settings;
use super::suggest;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What happens to a word that no row of the table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// It is an error.
    Strict,
    /// It is passed over, as mount(8) `-s` asks for. Bad values of known options stay errors.
    Sloppy,
}

/// One word of an option list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub name: String,
    pub value: Option<OsString>,
}

/// Reads option lists in order, a later word overriding an earlier one, and validates the whole.
pub fn parse_options<S: AsRef<OsStr>>(
    lists: &[S],
    tolerance: Tolerance,
) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    for list in lists {
        for word in split_list(list.as_ref())? {
            apply(&mut settings, &word, tolerance)?;
        }
    }
    settings.validated()
}

pub(super) fn apply(
    settings: &mut Settings,
    word: &Word,
    tolerance: Tolerance,
) -> Result<(), ConfigError> {
    match options::find(&word.name) {
        Some(row) => row.kind.apply(settings, &word.name, word.value.as_deref()),
        None if tolerance == Tolerance::Sloppy => Ok(()),
        None => Err(ConfigError::Unknown {
            name: word.name.clone(),
            nearest: suggest::nearest(&word.name, options::all().map(|row| row.name))
                .map(str::to_owned),
        }),
    }
}

/// Cuts a list at its commas. A comma between double quotes, or after a backslash, belongs to the word;
/// quotes and such backslashes are taken off.
pub(super) fn split_list(list: &OsStr) -> Result<Vec<Word>, ConfigError> {
    let mut words = Vec::new();
    let mut current = Vec::new();
    let mut quoted = false;
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if matches!(bytes.peek(), Some(b',' | b'"')) => current.extend(bytes.next()),
            b',' if !quoted => words.extend(word(std::mem::take(&mut current))),
            other => current.push(other),
        }
    }
    if quoted {
        return Err(ConfigError::OpenQuote {
            list: list.to_string_lossy().into_owned(),
        });
    }
    words.extend(word(current));
    Ok(words)
}

/// `None` for the empty word between two commas, which mount(8) accepts too.
fn word(bytes: Vec<u8>) -> Option<Word> {
    if bytes.is_empty() {
        return None;
    }
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (
            &bytes[..at],
            Some(OsString::from_vec(bytes[at + 1..].to_vec())),
        ),
        None => (&bytes[..], None),
    };
    Some(Word {
        name: String::from_utf8_lossy(name).trim().to_owned(),
        value,
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
