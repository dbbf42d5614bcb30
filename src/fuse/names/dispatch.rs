//! Requests that change names and attributes, to their verbs.

use super::NameRequest;
use crate::fs::error::FsError;
use crate::fs::operations::{AttributesReply, Done, Entry, Operations};
use crate::fuse::decode::Header;
use crate::fuse::dispatch::{Dispatcher, context};
use crate::fuse::encode;
use crate::fuse::reply::Reply;
use crate::types::{AttributeChange, HandleId};

impl<O: Operations + ?Sized> Dispatcher<O> {
    pub(in crate::fuse) fn answer_names(
        &self,
        header: &Header,
        request: NameRequest<'_>,
        reply: Reply,
    ) {
        let (context, node) = (context(header), header.node);
        let operations = &self.operations;
        match request {
            NameRequest::Make { name, new } => {
                operations.make(context, node, name, new, entry(reply))
            }
            NameRequest::Link { node: file, name } => {
                operations.link(context, file, node, name, entry(reply))
            }
            NameRequest::Remove { name, removal } => {
                operations.remove(context, node, name, removal, nothing(reply))
            }
            NameRequest::Rename {
                name,
                new_parent,
                new_name,
                mode,
            } => {
                let to = (new_parent, new_name);
                operations.rename(context, (node, name), to, mode, nothing(reply))
            }
            NameRequest::SetAttributes {
                handle,
                size_bytes,
                change,
            } => self.answer_attributes(header, handle, size_bytes, change, reply),
            NameRequest::SetXattr { name, value, flags } => {
                operations.set_xattr(context, node, name, value, flags, nothing(reply))
            }
            NameRequest::RemoveXattr { name } => {
                operations.remove_xattr(context, node, name, nothing(reply))
            }
            NameRequest::SyncDirectory => operations.sync_directory(context, node, nothing(reply)),
            NameRequest::SyncFilesystem => {
                operations.sync_filesystem(context, node, nothing(reply))
            }
            NameRequest::Unsupported => reply.errno(libc::EINVAL),
        }
    }

    /// The size first: what else is asked for is to be seen when all is done.
    fn answer_attributes(
        &self,
        header: &Header,
        handle: Option<HandleId>,
        size_bytes: Option<u64>,
        change: AttributeChange,
        reply: Reply,
    ) {
        let (context, node) = (context(header), header.node);
        let Some(size_bytes) = size_bytes else {
            return self
                .operations
                .change_attributes(context, node, change, attributes(reply));
        };
        if change.is_nothing() {
            return self
                .operations
                .set_size(context, node, handle, size_bytes, attributes(reply));
        }
        let operations = self.operations.clone();
        self.operations.set_size(
            context,
            node,
            handle,
            size_bytes,
            Box::new(move |outcome| match outcome {
                Ok(_) => operations.change_attributes(context, node, change, attributes(reply)),
                Err(error) => reply.error(&error),
            }),
        );
    }
}

fn entry(reply: Reply) -> Done<Entry> {
    Box::new(move |result| match result {
        Ok(entry) => reply.structure(&encode::entry(&entry)),
        Err(error) => reply.error(&error),
    })
}

fn attributes(reply: Reply) -> Done<AttributesReply> {
    Box::new(move |result| match result {
        Ok(found) => reply.structure(&encode::attributes_out(&found)),
        Err(error) => reply.error(&error),
    })
}

fn nothing(reply: Reply) -> Done<()> {
    Box::new(move |result: Result<(), FsError>| match result {
        Ok(()) => reply.success(),
        Err(error) => reply.error(&error),
    })
}
