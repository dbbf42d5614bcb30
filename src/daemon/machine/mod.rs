//! What this kernel and machine can do, found out by trying; nothing here changes anything that outlives
//! the check. Each [`Finding`] is one line of `nfs-cachefs check`.
//!
//! - `rings`: io_uring and its operations
//! - `kernel_fuse`: the FUSE protocol and passthrough, by a throw-away mount in a child process
//! - `storage`: cache disks and the backend
//! - `limits`: privileges and resource limits

mod kernel_fuse;
mod limits;
mod rings;
mod storage;

pub use kernel_fuse::run_probe as run_fuse_probe;

use std::path::Path;

/// How much hangs on a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// The daemon runs without it.
    Missing,
    /// The daemon cannot run.
    Fatal,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub subject: String,
    pub verdict: Verdict,
    /// What was found, or why it is missing.
    pub detail: String,
    /// What is lost without it; empty when nothing is.
    pub lost: String,
}

impl Finding {
    fn good(subject: &str, detail: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            verdict: Verdict::Good,
            detail: detail.into(),
            lost: String::new(),
        }
    }

    fn missing(subject: &str, detail: impl Into<String>, lost: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            verdict: Verdict::Missing,
            detail: detail.into(),
            lost: lost.to_owned(),
        }
    }

    fn fatal(subject: &str, detail: impl Into<String>, lost: &str) -> Self {
        Self {
            verdict: Verdict::Fatal,
            ..Self::missing(subject, detail, lost)
        }
    }

    /// `ok`, `--` or `NO`, the subject, what was found, and what is lost without it.
    pub fn in_words(&self) -> String {
        let mark = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Missing => "--",
            Verdict::Fatal => "NO",
        };
        let lost = match self.lost.is_empty() {
            true => String::new(),
            false => format!("; without it: {}", self.lost),
        };
        format!("{mark}  {:<24} {}{lost}", self.subject, self.detail)
    }
}

/// How the detail of a finding ends where something outside this machine was asked in vain.
pub const NO_ANSWER: &str = "no answer";

/// Tries everything. `cache` and `backend` are the directories a mount would use; without them the
/// disk of the default cache directory is tried, for both. Blocks up to about 15 s.
pub fn examine(cache: Option<&Path>, backend: Option<&Path>) -> Vec<Finding> {
    let cache = cache.map_or_else(storage::default_cache_disk, Path::to_owned);
    let mut findings = rings::examine(&cache);
    findings.extend(kernel_fuse::examine(&cache));
    findings.extend(storage::examine(&cache, backend));
    findings.extend(limits::examine());
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_that_is_not_good_says_what_is_lost() {
        let scratch = crate::daemon::test_scratch();
        let mut findings = storage::examine(scratch.path(), Some(scratch.path()));
        findings.extend(limits::examine());
        assert!(findings.len() >= 5);
        // A machine without io_uring has one finding for all of it.
        findings.extend(rings::examine(scratch.path()));
        findings.push(rings::no_ring(&std::io::Error::from_raw_os_error(
            libc::EPERM,
        )));
        for finding in findings {
            assert_eq!(
                finding.verdict == Verdict::Good,
                finding.lost.is_empty(),
                "{finding:?}"
            );
            assert_eq!(finding.in_words().lines().count(), 1);
        }
    }
}
