//! Which paths a reader wants to hear of.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A pattern with `*` or `?` is compared with the whole path, and `*` passes over slashes, as with `find -path`; one
/// without covers the path and all below it.
pub fn covers(pattern: &str, path: &Path) -> bool {
    let wanted = pattern.trim_matches('/');
    match wanted.contains(['*', '?']) {
        true => matches(wanted.as_bytes(), path.as_os_str().as_bytes()),
        false => path.starts_with(wanted),
    }
}

/// Each `*` first stands for nothing, and for one byte more whenever the rest does not match: only the last one has to
/// be tried again.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else {
                    return false;
                };
                star = Some((star_at, taken + 1));
                (at, from) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_covers_what_is_below_it_and_a_pattern_what_it_matches() {
        for (pattern, path, wanted) in [
            ("models", "models/a/b", true),
            ("/models/", "models", true),
            ("models", "models2", false),
            ("", "anything", true),
            ("*.bin", "models/a.bin", true),
            ("*.bin", "models/a.bin.part", false),
            ("m?dels/*", "models/a/b", true),
            ("*a*b*c", "xxaxxbxbxc", true),
            ("*a*b*c", "xxaxxbxbx", false),
            ("a*", "a", true),
            ("?", "", false),
        ] {
            assert_eq!(covers(pattern, Path::new(path)), wanted, "{pattern} {path}");
        }
    }
}
