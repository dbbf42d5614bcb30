//! The cache disk and the backend.

use super::{Finding, NO_ANSWER};
use crate::daemon::cache_directory::probe_disk;
use crate::daemon::mount_table;
use crate::daemon::prepare::{default_cache_parent, with_timeout};
use crate::sys::handle_probe::handle_length_bytes;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BACKEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The nearest existing directory above the default cache directory: it is on the same disk.
pub fn default_cache_disk() -> PathBuf {
    default_cache_parent()
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

pub fn examine(cache: &Path, backend: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![cache_disk(cache)];
    // Without a backend to try, the cache disk shows at least what the kernel and our privileges can do.
    findings.push(file_handles(backend.unwrap_or(cache)));
    findings
}

fn filesystem_of(path: &Path) -> String {
    path.canonicalize()
        .and_then(|path| mount_table::mount_of(&path))
        .ok()
        .flatten()
        .map_or_else(|| "unknown".to_owned(), |mount| mount.filesystem_type)
}

fn cache_disk(cache: &Path) -> Finding {
    const SUBJECT: &str = "cache disk";
    const LOST: &str = "no cache can lie there";
    let filesystem = filesystem_of(cache);
    match probe_disk(cache, &filesystem) {
        Ok(()) => Finding::good(
            SUBJECT,
            format!(
                "{} ({filesystem}): O_DIRECT and holes work",
                cache.display()
            ),
        ),
        Err(problem) => Finding::fatal(SUBJECT, format!("{}: {problem}", cache.display()), LOST),
    }
}

fn file_handles(backend: &Path) -> Finding {
    const SUBJECT: &str = "name_to_handle_at";
    let path = backend.to_owned();
    let probed = with_timeout(BACKEND_TIMEOUT, move || {
        let directory = File::open(&path)?;
        handle_length_bytes(directory.as_fd())
    });
    let shown = backend.display();
    match probed {
        Ok(Some(Ok(length))) => Finding::good(
            SUBJECT,
            format!(
                "{shown} ({}): handles of {length} bytes",
                filesystem_of(backend)
            ),
        ),
        Ok(Some(Err(error))) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Finding::missing(
            SUBJECT,
            format!("{shown} ({}) has none", filesystem_of(backend)),
            "files are known by inode and path, cached data is dropped on any doubt",
        ),
        Ok(Some(Err(error))) => {
            Finding::fatal(SUBJECT, format!("{shown}: {error}"), "nothing to cache")
        }
        Ok(None) => Finding::fatal(SUBJECT, format!("{shown}: {NO_ANSWER}"), "nothing to cache"),
        Err(error) => Finding::fatal(SUBJECT, error.to_string(), "nothing to cache"),
    }
}
