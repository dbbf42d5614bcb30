//! What the control socket is asked of changes that are not on the backend, and answers.

use super::control::WirePath;
use super::status::bytes;
use crate::types::printable::one_line;
use crate::writeback::{Conflict, ConflictKind, Unsent, WriteBack};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum BackRequest {
    /// Has these sent at once, directories with all beneath them; none: all. With the moment of an earlier answer: what
    /// is left of that?
    Flush {
        paths: Vec<WirePath>,
        moment: Option<u64>,
    },
    /// What lies beside other files.
    Conflicts,
    /// These were looked at: known by what lies beside.
    ForgetConflicts { beside: Vec<WirePath> },
    /// What is not on the backend at the end stays in the journal, and nobody waits for it; or the backend gets some time
    /// for it, as ever.
    KeepDirty { keep: bool },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum BackReply {
    Unsent(UnsentReport),
    Conflicts { conflicts: Vec<ConflictReport> },
    Noted,
}

/// What is left of what somebody wants on the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsentReport {
    pub moment: u64,
    pub files: u64,
    pub bytes: u64,
    pub failing_files: u64,
    /// Of any files, since the start.
    pub sent_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Paths are relative to the mount's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictReport {
    pub path: WirePath,
    pub beside: WirePath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<WirePath>,
    /// Somebody else has removed the file, rather than changed it.
    pub is_removed: bool,
    /// Since 1970.
    pub seconds: i64,
    /// What somebody else has made of the file, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<TheirsReport>,
}

/// A version of a file, as stat(2) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TheirsReport {
    pub size_bytes: u64,
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
}

/// Answers, at once.
pub type AskBack = Box<dyn Fn(BackRequest) -> anyhow::Result<BackReply> + Send + Sync>;

impl UnsentReport {
    pub fn is_done(&self) -> bool {
        self.files == 0
    }

    /// The backend has refused all that is left.
    pub fn is_refused(&self) -> bool {
        self.failing_files == self.files
    }

    pub fn in_words(&self) -> String {
        let trouble = self.trouble.as_ref();
        format!(
            "{} files ({}) are not on the backend yet{}",
            self.files,
            bytes(self.bytes),
            trouble.map_or_else(String::new, |trouble| format!("; {}", one_line(trouble)))
        )
    }
}

impl From<Unsent> for UnsentReport {
    fn from(unsent: Unsent) -> Self {
        Self {
            moment: unsent.moment,
            files: unsent.files,
            bytes: unsent.bytes,
            failing_files: unsent.failing_files,
            sent_bytes: unsent.sent_bytes,
            trouble: unsent.trouble.or_else(|| {
                let path = unsent.awaited?;
                Some(format!(
                    "{}: the backend has not taken it yet",
                    path.display()
                ))
            }),
        }
    }
}

impl From<Conflict> for ConflictReport {
    fn from(conflict: Conflict) -> Self {
        Self {
            path: WirePath::from(&*conflict.path),
            beside: WirePath::from(&*conflict.beside),
            ranges: conflict.ranges.as_deref().map(WirePath::from),
            is_removed: conflict.kind == ConflictKind::Removed,
            seconds: conflict.seconds,
            theirs: conflict.theirs.map(|theirs| TheirsReport {
                size_bytes: theirs.size_bytes,
                mtime_seconds: theirs.mtime.seconds,
                mtime_nanoseconds: theirs.mtime.nanoseconds,
            }),
        }
    }
}

/// Answers for a mount; one that writes through has nothing to send, and no conflicts.
pub(super) fn answering(back: Option<Arc<WriteBack>>) -> AskBack {
    Box::new(move |request| {
        let back = back.as_ref().context(
            "mounted with write_mode=through: all that was acknowledged is on the backend",
        )?;
        Ok(match request {
            BackRequest::Flush { paths, moment } => {
                BackReply::Unsent(back.flush(&local(paths), moment).into())
            }
            BackRequest::Conflicts => BackReply::Conflicts {
                conflicts: back.conflicts().into_iter().map(Into::into).collect(),
            },
            BackRequest::KeepDirty { keep } => {
                back.keep_dirty_at_the_end(keep);
                BackReply::Noted
            }
            BackRequest::ForgetConflicts { beside } => {
                back.forget_conflicts(&local(beside));
                BackReply::Conflicts {
                    conflicts: back.conflicts().into_iter().map(Into::into).collect(),
                }
            }
        })
    })
}

fn local(paths: Vec<WirePath>) -> Vec<PathBuf> {
    paths.into_iter().map(PathBuf::from).collect()
}
