//! Names of a tree, taken out of texts. Rather too much goes than too little.

use crate::daemon::status::Status;

const LEFT_OUT: &str = "<left out>";

/// What is no name of the tree: the mount, its backend, its cache and its journal.
pub struct Known(Vec<String>);

impl Known {
    pub fn of(status: &Status) -> Self {
        let directories = status.cache.directories.iter().map(|one| &one.path);
        let devices = status.journal.devices.iter().map(|one| &one.path);
        let own = [&status.mountpoint, &status.backend.path, &status.name];
        let all = own.into_iter().chain(directories).chain(devices);
        let mut known: Vec<String> = all.filter(|path| !path.is_empty()).cloned().collect();
        // The longest is what a text means.
        known.sort_by_key(|path| std::cmp::Reverse(path.len()));
        Self(known)
    }

    /// Names in the log stand in quotation marks, whole; a path that does not may go on behind any character, so
    /// the rest of its line goes with it, and one that begins with a name may have begun anywhere before.
    pub fn without_names(&self, text: &str) -> String {
        let lines = text.lines().map(|line| self.line_without_names(line));
        lines.map(|line| line + "\n").collect()
    }

    fn line_without_names(&self, line: &str) -> String {
        let mut kept = String::new();
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            if next == '"' {
                kept.push_str(&format!("\"{LEFT_OUT}\""));
                rest = after_quotation(rest);
            } else if next == '/' {
                let known = self.0.iter().find(|path| is_whole(rest, path));
                let known = known.map(String::as_str).or_else(|| rate_in(&kept, rest));
                let Some(known) = known else {
                    return cut_at_path(line, &kept);
                };
                kept.push_str(known);
                rest = &rest[known.len()..];
            } else {
                kept.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        kept
    }

    /// Fields that hold names go, and so does what sentences tell of them.
    pub fn status_without_names(&self, status: &Status) -> Status {
        let mut status = status.clone();
        status
            .scrub
            .damaged
            .iter_mut()
            .for_each(|one| one.path = None);
        status.writeback.conflict_paths.clear();
        status.writeback.oldest.clear();
        for warning in &mut status.warnings {
            *warning = self.line_without_names(warning);
        }
        status
    }
}

/// The unit of a speed, such as MiB/s.
fn rate_in(before: &str, text: &str) -> Option<&'static str> {
    let follows = text.strip_prefix("/s")?.chars().next();
    let is_unit =
        before.ends_with('B') && follows.is_none_or(|next| matches!(next, ' ' | ',' | ';' | ')'));
    is_unit.then_some("/s")
}

fn cut_at_path(line: &str, kept: &str) -> String {
    let is_absolute = kept.is_empty() || kept.ends_with([' ', '(', '=', '`', '\'']);
    if is_absolute {
        return format!("{kept}{LEFT_OUT}");
    }
    // The time and the level.
    match line.starts_with(|first: char| first.is_ascii_digit()) {
        true => {
            let words: Vec<&str> = line.split_whitespace().take(2).collect();
            format!("{} {LEFT_OUT}", words.join(" "))
        }
        false => LEFT_OUT.to_owned(),
    }
}

/// Not the beginning of another path: something of the tree may follow it.
fn is_whole(text: &str, path: &str) -> bool {
    let follows = text.strip_prefix(path).map(|rest| rest.chars().next());
    matches!(
        follows,
        Some(None | Some(' ' | ':' | ',' | ';' | ')' | '"' | '`' | '\''))
    )
}

/// What stands behind the text in quotation marks that `text` begins with, as Rust writes them.
fn after_quotation(text: &str) -> &str {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !is_escaped => return &text[at + 1..],
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let mut status = Status::default();
        status.mountpoint = "/mnt/c".to_owned();
        status.backend.path = "/mnt/nfs".to_owned();
        Known::of(&status)
    }

    #[test]
    fn names_go_and_what_is_known_of_the_mount_stays() {
        for (line, wanted) in [
            ("WARN the backend is slow", "WARN the backend is slow"),
            (
                r#"WARN path="a\"b/secret" beside="x" both are kept"#,
                r#"WARN path="<left out>" beside="<left out>" both are kept"#,
            ),
            ("/mnt/c: serves /mnt/nfs", "/mnt/c: serves /mnt/nfs"),
            ("/mnt/c/secret name: failed", "<left out>"),
            ("removing dir/secret name: failed", "<left out>"),
            (
                "2026-01-01T00:00:00Z  WARN my dir/secret: failed",
                "2026-01-01T00:00:00Z WARN <left out>",
            ),
            ("INFO 12 MiB/s, not more", "INFO 12 MiB/s, not more"),
            (r#"an unended "secret"#, r#"an unended "<left out>""#),
        ] {
            assert_eq!(known().line_without_names(line), wanted);
        }
    }
}
