//! Requests that change bytes, to their verbs.

use super::{ByteRequest, abi};
use crate::fs::error::FsError;
use crate::fs::operations::{Created, Done, Operations, RangeCopy};
use crate::fuse::decode::Header;
use crate::fuse::dispatch::{Dispatcher, context, structure};
use crate::fuse::encode;
use crate::fuse::reply::Reply;

impl<O: Operations + ?Sized> Dispatcher<O> {
    pub(in crate::fuse) fn answer_bytes(
        &self,
        header: &Header,
        request: ByteRequest<'_>,
        reply: Reply,
    ) {
        let (context, node) = (context(header), header.node);
        let operations = &self.operations;
        match request {
            ByteRequest::Create { name, creation } => match name {
                Some(name) => operations.create(context, node, name, creation, created(reply)),
                None => operations.create_unnamed(context, node, creation, created(reply)),
            },
            ByteRequest::Write { handle, write } => operations.write(
                context,
                handle,
                write,
                Box::new(move |result| {
                    let reply = reply.having_moved(*result.as_ref().unwrap_or(&0));
                    structure(reply, result.map(written))
                }),
            ),
            ByteRequest::Flush { handle, lock_owner } => {
                operations.flush(context, handle, lock_owner, nothing(reply));
            }
            ByteRequest::Sync { handle, data_only } => {
                operations.sync(context, handle, data_only, nothing(reply));
            }
            ByteRequest::Allocate {
                handle,
                mode,
                range,
            } => operations.allocate(context, handle, mode, range, nothing(reply)),
            ByteRequest::CopyRange { copy, wide } => self.answer_copy(header, copy, wide, reply),
        }
    }

    fn answer_copy(&self, header: &Header, copy: RangeCopy, wide: bool, reply: Reply) {
        self.operations.copy_range(
            context(header),
            copy,
            Box::new(move |result| match (result, wide) {
                (Ok(copied_bytes), true) => reply
                    .having_moved(copied_bytes as usize)
                    .structure(&abi::CopyFileRangeOut { copied_bytes }),
                (Ok(copied_bytes), false) => reply
                    .having_moved(copied_bytes as usize)
                    .structure(&written(copied_bytes as usize)),
                (Err(error), _) => reply.error(&error),
            }),
        );
    }
}

fn created(reply: Reply) -> Done<Created> {
    // The result is kept until the kernel has the reply.
    Box::new(move |result| match &result {
        Ok(created) => reply.data(&encode::created(created)),
        Err(error) => reply.error(error),
    })
}

fn nothing(reply: Reply) -> Done<()> {
    Box::new(move |result: Result<(), FsError>| match result {
        Ok(()) => reply.success(),
        Err(error) => reply.error(&error),
    })
}

fn written(size_bytes: usize) -> abi::WriteOut {
    abi::WriteOut {
        size_bytes: u32::try_from(size_bytes).expect("no more than was asked for, 32 bits"),
        padding: 0,
    }
}
