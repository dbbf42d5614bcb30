//! A handle between its making and its way to the kernel.
//!
//! What always holds: it is closed again where its number does not arrive.

use super::FileSystem;
use super::open_file::Handle;
use super::operations::OpenReply;
use std::sync::Arc;

/// A handle on its way to the kernel; closed again where it does not arrive.
pub(super) struct NewHandle {
    fs: Arc<FileSystem>,
    handle: Option<Arc<Handle>>,
    keep_cache: bool,
}

impl FileSystem {
    pub(super) fn new_handle(&self, handle: Handle, keep_cache: bool) -> NewHandle {
        NewHandle {
            fs: self.this(),
            handle: Some(Arc::new(handle)),
            keep_cache,
        }
    }
}

impl NewHandle {
    pub(super) fn handle(&self) -> &Arc<Handle> {
        self.handle.as_ref().expect("there until it is given away")
    }

    pub(super) fn reply(mut self) -> OpenReply {
        let handle = self.handle.take().expect("given away once");
        let passthrough = handle.open.passthrough.clone();
        if passthrough.is_some() {
            self.fs.metrics.passthrough_opens.add(1);
        }
        OpenReply {
            direct_io: handle.direct_io,
            keep_cache: self.keep_cache,
            passthrough,
            told_of_close: handle.writing.is_some() || self.fs.locks.is_noted(&handle.node.key),
            handle: self.fs.handles.insert(handle),
        }
    }
}

impl Drop for NewHandle {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            let node = handle.node.clone();
            self.fs.close_handle(handle);
            self.fs.nodes.drop_unused(&node);
        }
    }
}
