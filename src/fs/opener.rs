//! Who opens a file, and how.

use super::FileSystem;
use super::node::Node;
use crate::backend::access::Access;
use crate::backend::{FilesystemIndex, Place, Placed};
use crate::types::Credentials;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// __FMODE_EXEC (linux/fs.h): the kernel is about to run the file.
const OPEN_TO_EXECUTE: i32 = 0x20;

/// Whether a file opened with these flags is to be run.
pub(super) fn runs(flags: i32) -> bool {
    flags & OPEN_TO_EXECUTE != 0
}

/// How a file is opened, and by whom where the backend decides by that.
#[derive(Clone)]
pub(super) struct Opener {
    pub flags: i32,
    pub caller: Option<Credentials>,
    /// The backend could not be asked: what is cached is given however old it is.
    pub is_unasked: bool,
}

impl Opener {
    /// What the backend must let them do.
    pub fn access(&self) -> Access {
        match runs(self.flags) {
            true => Access::Execute,
            false => Access::Read,
        }
    }

    pub fn opened(&self, node: &Arc<Node>) -> Arc<OpenedBy> {
        Arc::new(OpenedBy {
            node: node.clone(),
            reader: self.caller.clone(),
        })
    }
}

/// An open file, which its opener was let read.
pub(super) struct OpenedBy {
    pub node: Arc<Node>,
    pub reader: Option<Credentials>,
}

/// A file that somebody is likely to open, who has yet to be let read it: the open that fetches it asks that, too.
pub(super) struct OpenedAhead {
    pub fs: Weak<FileSystem>,
    pub node: Arc<Node>,
    pub reader: Option<Credentials>,
}

impl Placed for OpenedAhead {
    fn place(&self) -> Place {
        Place {
            only_caller: true,
            ..self.node.place_for(&self.reader)
        }
    }

    fn filesystem(&self) -> FilesystemIndex {
        self.node.filesystem
    }

    fn note_opened(&self, asked: Instant) {
        if let Some(fs) = self.fs.upgrade() {
            fs.note_access(&self.node, Access::Read, &self.reader, asked, &Ok(()));
        }
    }
}

impl Placed for OpenedBy {
    fn place(&self) -> Place {
        self.node.place_for(&self.reader)
    }

    fn filesystem(&self) -> FilesystemIndex {
        self.node.filesystem
    }
}
