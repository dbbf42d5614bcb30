//! The requests that change bytes, to their verbs.

use super::abi;
use super::decode::{Header, Request};
use super::dispatch::{context, structure};
use super::encode;
use super::reply::Reply;
use crate::fs::error::FsError;
use crate::fs::operations::{Created, Done, Operations, RangeCopy};

pub(super) fn answer<O: Operations + ?Sized>(
    operations: &O,
    header: &Header,
    request: Request<'_>,
    reply: Reply,
) {
    let (context, node) = (context(header), header.node);
    match request {
        Request::Create { name, creation } => match name {
            Some(name) => operations.create(context, node, name, creation, created(reply)),
            None => operations.create_unnamed(context, node, creation, created(reply)),
        },
        Request::Write { handle, write } => operations.write(
            context,
            handle,
            write,
            Box::new(move |result| structure(reply, result.map(written))),
        ),
        Request::Flush { handle } => operations.flush(context, handle, done(reply)),
        Request::Fsync { handle, data_only } => {
            operations.sync(context, handle, data_only, done(reply));
        }
        Request::Allocate {
            handle,
            mode,
            range,
        } => operations.allocate(context, handle, mode, range, done(reply)),
        Request::CopyRange { copy, wide } => copy_range(operations, header, copy, wide, reply),
        // The caller names every other request.
        _ => reply.errno(libc::ENOSYS),
    }
}

fn created(reply: Reply) -> Done<Created> {
    // The result is kept until the kernel has the reply.
    Box::new(move |result| match &result {
        Ok(created) => reply.data(&encode::created(created)),
        Err(error) => reply.error(error),
    })
}

fn done(reply: Reply) -> Done<()> {
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

fn copy_range<O: Operations + ?Sized>(
    operations: &O,
    header: &Header,
    copy: RangeCopy,
    wide: bool,
    reply: Reply,
) {
    operations.copy_range(
        context(header),
        copy,
        Box::new(move |result| match (result, wide) {
            (Ok(copied_bytes), true) => reply.structure(&abi::CopyFileRangeOut { copied_bytes }),
            (Ok(copied), false) => reply.structure(&written(copied as usize)),
            (Err(error), _) => reply.error(&error),
        }),
    );
}
