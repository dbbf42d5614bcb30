//! Requests about locks, to their verbs.

use super::{LockCall, decode};
use crate::fs::operations::Operations;
use crate::fuse::decode::Header;
use crate::fuse::dispatch::{Dispatcher, context, structure};
use crate::fuse::reply::Reply;

impl<O: Operations + ?Sized> Dispatcher<O> {
    pub(in crate::fuse) fn answer_locks(&self, header: &Header, call: LockCall, reply: Reply) {
        let context = context(header);
        match call {
            LockCall::Find(request) => self.operations.find_lock(
                context,
                request,
                Box::new(move |result| structure(reply, result.map(decode::found))),
            ),
            LockCall::Set(request) => self.operations.set_lock(
                context,
                request,
                Box::new(move |result| match result {
                    Ok(()) => reply.success(),
                    Err(error) => reply.error(&error),
                }),
            ),
        }
    }
}
