//! What the documents say of options, tests, files and bytes, compared with the source.

use nfs_cachefs::config::{Tolerance, options_markdown, parse_options};
use nfs_cachefs::daemon::prometheus::metrics_markdown;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/SEMANTICS.md",
    "docs/METRICS.md",
    "docs/ON_DISK_FORMAT.md",
];

/// Where paths in the documents may begin.
const TOP_FOLDERS: &[&str] = &[
    "src/",
    "tests/",
    "benches/",
    "docs/",
    "packaging/",
    "systemd/",
    "mount-helper/",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks, code blocks left out.
fn quoted(text: &str) -> Vec<&str> {
    let outside_blocks = text.split("```").step_by(2);
    outside_blocks
        .flat_map(|part| part.lines())
        .filter(|line| !line.starts_with("    "))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// Names in the first column of the option table, and in the lists below it.
fn option_names(markdown: &str) -> Vec<String> {
    let in_rows = markdown
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let in_lists = markdown
        .lines()
        .filter(|line| line.starts_with("Passed over") || line.starts_with("Refused"))
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    in_rows.chain(in_lists).map(str::to_owned).collect()
}

#[test]
fn every_option_stands_in_the_readme() {
    let names = option_names(&options_markdown());
    assert!(names.len() > 60, "{names:?}");
    let readme = read("README.md");
    for name in names {
        assert!(
            readme.contains(&format!("`{name}`")),
            "{name} is not in README.md; put the output of `nfs-cachefs options` between the markers"
        );
    }
}

#[test]
fn option_lists_in_the_readme_are_understood() {
    let readme = read("README.md");
    let mut lists: Vec<&str> = Vec::new();
    for line in readme.lines() {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "-o" => lists.extend(words.next()),
                // The fourth field of fstab(5).
                "cachefs" if line.ends_with("0 0") => lists.extend(words.next()),
                _ => lists.extend(word.strip_prefix("OPTIONS=")),
            }
        }
    }
    assert!(lists.len() >= 3, "{lists:?}");
    for list in lists {
        let list = list.trim_end_matches('`');
        if let Err(error) = parse_options(&[list], Tolerance::Strict) {
            panic!("README.md: '{list}': {error}");
        }
    }
}

#[test]
fn the_metrics_are_drawn_as_they_are_told() {
    assert!(
        read("docs/METRICS.md").contains(&metrics_markdown()),
        "put the output of `nfs-cachefs metrics` into docs/METRICS.md"
    );
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard = read("packaging/grafana/nfs-cachefs.json");
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(
        parsed["panels"]
            .as_array()
            .is_some_and(|all| all.len() >= 8)
    );
    let table = metrics_markdown();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut asked = 0;
    for rest in dashboard.split("nfs_cachefs_").skip(1) {
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches("_bucket");
        let cell = format!("`nfs_cachefs_{name}`");
        assert!(table.contains(&cell), "{name} is no metric");
        asked += 1;
    }
    assert!(asked > 15, "{asked}");
}

#[test]
fn every_test_named_in_semantics_exists() {
    let text = read("docs/SEMANTICS.md");
    let named: Vec<(&str, &str)> = quoted(&text)
        .into_iter()
        .filter_map(|span| span.split_once(".rs: "))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for (file, test) in named {
        let file = format!("{file}.rs");
        assert!(
            read(&file).contains(&format!("fn {test}(")),
            "docs/SEMANTICS.md names {test}, which is not in {file}"
        );
    }
}

#[test]
fn every_file_named_in_the_documents_exists() {
    let mut named = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for span in quoted(&text) {
            let path = span.split([':', ' ']).next().unwrap_or(span);
            if TOP_FOLDERS.iter().any(|top| path.starts_with(top)) && !path.contains('*') {
                named += 1;
                assert!(
                    repository().join(path).exists(),
                    "{document} names {path}, which is not there"
                );
            }
        }
    }
    assert!(named > 60, "only {named}: are paths still found?");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let decisions = fs::read_dir(repository().join("docs/decisions")).expect("docs/decisions");
    let decisions = decisions.map(|entry| {
        let name = entry.expect("an entry").file_name();
        format!("docs/decisions/{}", name.to_string_lossy())
    });
    let documents = DOCUMENTS.iter().map(|name| (*name).to_owned());
    for document in documents.chain(decisions) {
        let folder = Path::new(&document)
            .parent()
            .map_or_else(PathBuf::new, Path::to_owned);
        let text = read(&document);
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                repository().join(&folder).join(target).exists(),
                "{document} links to {target}, which is not there"
            );
        }
    }
}

/// Name and size of each field of the record's fixed part, in order, from its declaration.
fn fields_in_source(source: &str) -> Vec<(String, u64)> {
    let body = source
        .split_once("struct Header {")
        .and_then(|(_, rest)| rest.split_once('}'))
        .expect("src/cache/record.rs declares Header")
        .0;
    body.lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(": "))
        .map(|(name, kind)| match kind {
            "U32" | "I32" => (name.to_owned(), 4),
            "U64" | "I64" => (name.to_owned(), 8),
            other => panic!("a field of type {other}: say its size here"),
        })
        .collect()
}

#[test]
fn the_record_is_drawn_as_it_is_declared() {
    let document = read("docs/ON_DISK_FORMAT.md");
    let table = document
        .split_once("<!-- record:begin -->")
        .and_then(|(_, rest)| rest.split_once("<!-- record:end -->"))
        .expect("the markers of the record table")
        .0;
    let mut expected = fields_in_source(&read("src/cache/record.rs")).into_iter();
    let mut offset = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[1].parse(), Ok(offset), "offset in '{row}'");
        let Ok(size) = cells[2].parse::<u64>() else {
            assert!(cells[3].starts_with("extents"), "'{row}'");
            assert_eq!(expected.next(), None, "fields missing before '{row}'");
            return;
        };
        let name = cells[3].trim_matches('`').to_owned();
        assert_eq!(Some((name, size)), expected.next(), "'{row}'");
        offset += size;
    }
    panic!("the record table does not end with the extents");
}
