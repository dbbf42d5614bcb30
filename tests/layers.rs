//! The architecture, checked over the source text: imports point downward, `unsafe` stays in its two
//! homes, nothing is left to be done, every folder has its front page.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down. Modules of one row do not import one another.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["daemon"],
    &["config"],
    &["fuse"],
    &["fs"],
    &["writeback"],
    &["cache", "journal", "readahead", "tuning"],
    &["backend"],
    &["io"],
    &["sys"],
    &["events", "clock", "metrics", "watch"],
    &["types"],
];

const HOMES_OF_UNSAFE: &[&str] = &["src/sys", "src/io"];

/// Spelled so that this file does not contain them.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!"),
    concat!("unimple", "mented!"),
];

/// What is wrong with one file of src, by its path from the top of the repository.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found = import_violations(path, text);
    let code = code_only(text);
    let at_home = HOMES_OF_UNSAFE.iter().any(|home| path.starts_with(home));
    if !at_home {
        for (number, line) in code.lines().enumerate() {
            if words(line).any(|word| word == "unsafe") {
                found.push(format!(
                    "{path}:{}: unsafe outside src/sys and src/io",
                    number + 1
                ));
            }
        }
    }
    found.extend(unfinished(path, text));
    found
}

fn import_violations(path: &str, text: &str) -> Vec<String> {
    let Some((own_layer, own_name)) = module_of(path).and_then(|name| Some((layer(name)?, name)))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (line, module) in crate_references(&code_only(text)) {
        let Some(other_layer) = layer(&module) else {
            found.push(format!("{path}:{line}: crate::{module} is in no layer"));
            continue;
        };
        if other_layer < own_layer || (other_layer == own_layer && module != own_name) {
            found.push(format!(
                "{path}:{line}: {own_name} must not use crate::{module}"
            ));
        }
    }
    found
}

/// The top-level module a file belongs to; `None` for lib.rs and main.rs, which may use everything.
fn module_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix("src/")?;
    let name = below.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib" && name != "main").then_some(name)
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Every `crate::name`, and every first name in `crate::{...}`, with its line number.
fn crate_references(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|letter| is_word(letter) || letter == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                for name in first_names(group) {
                    found.push((line, name));
                }
            }
            None => {
                let name: String = rest.chars().take_while(|letter| is_word(*letter)).collect();
                // A capital is an item that lib.rs itself shows, a macro has no layer.
                if !name.is_empty() {
                    found.push((line, name));
                }
            }
        }
    }
    found
}

/// The names at the outermost level of `a::b, c::{d, e}, f}`.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0usize;
    let mut item = String::new();
    for letter in group.chars() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    names.push(item);
    let first = |item: String| {
        item.trim()
            .chars()
            .take_while(|c| is_word(*c))
            .collect::<String>()
    };
    names
        .into_iter()
        .map(first)
        .filter(|name| !name.is_empty())
        .collect()
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for mark in UNFINISHED.iter().filter(|mark| line.contains(**mark)) {
            found.push(format!("{path}:{}: {mark}", number + 1));
        }
    }
    found
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter| !is_word(letter))
        .filter(|word| !word.is_empty())
}

/// The text with comments and string contents blanked; lines stay where they are.
fn code_only(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let rest = &letters[at..];
        let end = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment_length(rest),
            ['"', ..] => string_length(rest),
            ['r', '"' | '#', ..] if at == 0 || !is_word(letters[at - 1]) => raw_string_length(rest),
            ['\'', '\\', _, '\'', ..] => 4,
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if end == 0 {
            code.push(letters[at]);
            at += 1;
        } else {
            code.extend(
                rest[..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at += end;
        }
    }
    code
}

fn block_comment_length(text: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

fn string_length(text: &[char]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// 0 where it is a raw identifier (`r#type`) and no string.
fn raw_string_length(text: &[char]) -> usize {
    let hashes = text[1..]
        .iter()
        .take_while(|letter| **letter == '#')
        .count();
    if text.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = 2 + hashes;
    let found = text[body..]
        .windows(end.len())
        .position(|window| window == end);
    found.map_or(text.len(), |position| body + position + end.len())
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` with its path from the top of the repository.
fn rust_files(directory: &Path, into: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a directory can be listed").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let name = path
                .strip_prefix(repository())
                .expect("it is below the top");
            into.push((name.display().to_string(), text));
        }
    }
}

fn files_in(directory: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&repository().join(directory), &mut files);
    files
}

#[test]
fn imports_point_downward_and_unsafe_stays_at_home() {
    let files = files_in("src");
    assert!(files.len() > 10, "the source is found");
    let found: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| violations(path, text))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn nothing_is_left_to_be_done() {
    let mut found = Vec::new();
    for directory in ["mount-helper", "tests", "benches"] {
        for (path, text) in files_in(directory) {
            found.extend(unfinished(&path, &text));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_folder_has_a_front_page_and_every_module_a_layer() {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join("src")).expect("src is there") {
        let entry = entry.expect("a directory can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        let module = name.strip_suffix(".rs").unwrap_or(&name);
        if !["lib", "main"].contains(&module) && layer(module).is_none() {
            found.push(format!("src/{name} is in no layer"));
        }
        if entry.path().is_dir() {
            let page = fs::read_to_string(entry.path().join("mod.rs")).unwrap_or_default();
            if !page.starts_with("//!") {
                found.push(format!("src/{name}/mod.rs does not begin with //!"));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn planted_violations_are_found() {
    let count = |path: &str, text: &str| violations(path, text).len();
    assert_eq!(count("src/cache/fill.rs", "use crate::fs::Node;"), 1);
    assert_eq!(count("src/cache/fill.rs", "use crate::readahead::Plan;"), 1);
    assert_eq!(
        count(
            "src/cache/fill.rs",
            "use crate::{io::Io, fuse, types::{Version}};"
        ),
        1
    );
    assert_eq!(
        count("src/io/uring.rs", "fn f() -> crate::backend::Place {}"),
        1
    );
    assert_eq!(
        count("src/io/uring.rs", "pub(crate) use crate::somewhere::X;"),
        1
    );
    assert_eq!(count("src/types.rs", "use crate::clock::Clock;"), 1);
    assert_eq!(count("src/clock.rs", "use crate::sys::time;"), 1);
    assert_eq!(count("src/fs/read.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(count("src/fs/read.rs", concat!("// TO", "DO: later")), 1);
    assert_eq!(
        count("src/fs/read.rs", concat!("fn f() { todo", "!() }")),
        1
    );
}

#[test]
fn what_is_allowed_is_not_reported() {
    let count = |path: &str, text: &str| violations(path, text).len();
    assert_eq!(
        count(
            "src/cache/fill.rs",
            "use crate::{cache::Index, io::Io, types::Version};"
        ),
        0
    );
    assert_eq!(count("src/events.rs", "use crate::types::NodeId;"), 0);
    assert_eq!(count("src/io/uring.rs", "unsafe { f() }"), 0);
    assert_eq!(count("src/main.rs", "use crate::cli::run;"), 0);
    assert_eq!(
        count("src/fs/read.rs", "// unsafe here, crate::fuse too\n"),
        0
    );
    assert_eq!(
        count(
            "src/fs/read.rs",
            "let s = \"crate::fuse \\\" unsafe\"; let c = '\"';"
        ),
        0
    );
    assert_eq!(
        count("src/fs/read.rs", "let s = r#\"unsafe \" crate::fuse\"#;"),
        0
    );
    assert_eq!(count("src/lib.rs", "#![deny(unsafe_code)]"), 0);
}
