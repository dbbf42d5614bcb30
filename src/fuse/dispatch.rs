//! A decoded request to its verb of [`Operations`], with a completion that writes the reply.

use super::abi;
use super::bytes::ByteRequest;
use super::decode::{self, DecodeError, Header, Request};
use super::interrupts::Interrupts;
use super::mount::Access;
use super::reply::Reply;
use super::{directory, encode};
use crate::fs::error::FsError;
use crate::fs::operations::{Operations, RequestContext};
use crate::sys::fuse_device::FuseDevice;
use crate::types::HandleId;
use crate::watch::Watch;
use std::sync::Arc;

/// Shared by all reader threads.
pub struct Dispatcher<O: ?Sized> {
    pub(super) operations: Arc<O>,
    interrupts: Interrupts,
    access: Access,
    owner_uid: u32,
    /// The largest reply the kernel asks for; a request for more is cut to it.
    max_reply_bytes: usize,
    pub(super) watch: Arc<Watch>,
}

impl<O: Operations + ?Sized> Dispatcher<O> {
    pub fn new(
        operations: Arc<O>,
        access: Access,
        owner_uid: u32,
        max_reply_bytes: usize,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            operations,
            interrupts: Interrupts::default(),
            access,
            owner_uid,
            max_reply_bytes,
            watch,
        }
    }

    /// Handles one request as read from `device`. Returns once it is answered or handed over.
    pub fn dispatch(&self, device: &Arc<FuseDevice>, bytes: &[u8]) {
        let (header, request) = match decode::decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::error!("from the kernel: {error}");
                if let DecodeError::Malformed { unique, .. } = error {
                    Reply::new(device.clone(), unique).errno(libc::EIO);
                }
                return;
            }
        };
        match request {
            Request::Forget { lookups } => self.operations.forget(header.node, lookups),
            Request::BatchForget(list) => {
                for one in decode::forgotten(list) {
                    self.operations
                        .forget(crate::types::NodeId(one.node), one.lookups);
                }
            }
            Request::Interrupt { unique } => {
                self.interrupts.remember(unique);
                self.operations.interrupt(unique);
            }
            Request::Ignore => {}
            _ => {
                let reply = Reply::new(device.clone(), header.unique);
                let reply = self.watched(&header, &request, reply);
                self.answer(&header, request, reply);
                if self.interrupts.is_waiting(header.unique) {
                    self.operations.interrupt(header.unique);
                }
            }
        }
    }

    fn answer(&self, header: &Header, request: Request<'_>, reply: Reply) {
        if !self.is_allowed(header, &request) {
            return reply.errno(libc::EACCES);
        }
        match request {
            Request::Open { .. } | Request::Read { .. } | Request::Release { .. } => {
                self.answer_file(header, request, reply)
            }
            Request::Seek {
                handle,
                offset,
                whence,
            } => self.operations.seek(
                context(header),
                header.node,
                handle,
                offset,
                whence,
                Box::new(move |result| {
                    structure(reply, result.map(|offset| abi::LseekOut { offset }))
                }),
            ),
            Request::OpenDirectory
            | Request::ReadDirectory { .. }
            | Request::ReleaseDirectory { .. } => self.answer_directory(header, request, reply),
            Request::ListXattr { size_bytes } => self.operations.list_xattr(
                context(header),
                header.node,
                Box::new(move |result| extended_attribute(reply, size_bytes, result)),
            ),
            Request::GetXattr { name, size_bytes } => {
                let is_acl =
                    name == "system.posix_acl_access" || name == "system.posix_acl_default";
                self.operations.get_xattr(
                    context(header),
                    header.node,
                    name,
                    Box::new(move |result| match result {
                        // The kernel asks in order to check a permission, and takes this error for a
                        // refusal (fs/fuse/acl.c); without ACLs the mode bits decide.
                        Err(error) if is_acl && error.errno() == libc::EOPNOTSUPP => {
                            reply.errno(libc::ENODATA)
                        }
                        result => extended_attribute(reply, size_bytes, result),
                    }),
                )
            }
            Request::Bytes(request) => self.answer_bytes(header, request, reply),
            Request::Locks(call) => self.answer_locks(header, call, reply),
            Request::Names(request) => self.answer_names(header, request, reply),
            Request::Acknowledge => reply.success(),
            Request::Refuse(errno) => reply.errno(errno),
            _ => self.answer_node(header, request, reply),
        }
    }

    fn answer_node(&self, header: &Header, request: Request<'_>, reply: Reply) {
        let (context, node) = (context(header), header.node);
        match request {
            Request::Lookup { name } => self.operations.lookup(
                context,
                node,
                name,
                Box::new(move |result| match result {
                    Ok(found) => match encode::lookup(&found) {
                        Some(entry) if entry.node == 0 => {
                            reply.meaning(libc::ENOENT).structure(&entry)
                        }
                        Some(entry) => reply.structure(&entry),
                        None => reply.errno(libc::ENOENT),
                    },
                    Err(error) => reply.error(&error),
                }),
            ),
            Request::Attributes { handle } => self.operations.attributes(
                context,
                node,
                handle,
                Box::new(move |result| {
                    structure(reply, result.map(|found| encode::attributes_out(&found)))
                }),
            ),
            Request::ReadLink => self.operations.read_link(
                context,
                node,
                Box::new(move |result| match result {
                    Ok(target) => reply.data(&target),
                    Err(error) => reply.error(&error),
                }),
            ),
            Request::Space => self.operations.space(
                context,
                node,
                Box::new(move |result| structure(reply, result.map(|space| encode::space(&space)))),
            ),
            // The callers name every other request.
            _ => reply.errno(libc::ENOSYS),
        }
    }

    fn answer_file(&self, header: &Header, request: Request<'_>, reply: Reply) {
        let (context, node) = (context(header), header.node);
        match request {
            Request::Open { flags } => self.operations.open(
                context,
                node,
                flags,
                // The result is kept until the kernel has the reply, and with it its backing id.
                Box::new(move |result| match &result {
                    Ok(opened) => reply.structure(&encode::open(opened)),
                    Err(error) => reply.error(error),
                }),
            ),
            Request::Read {
                handle,
                offset,
                size_bytes,
            } => {
                let size_bytes = size_bytes.min(self.max_reply_bytes);
                self.operations.read(
                    context,
                    node,
                    handle,
                    offset,
                    size_bytes,
                    Box::new(move |result| match result {
                        Ok(read) => {
                            let data = &read.buffer[..read.length_bytes.min(size_bytes)];
                            reply.having_moved(data.len()).data(data);
                        }
                        Err(error) => reply.error(&error),
                    }),
                )
            }
            Request::Release { handle } => {
                self.operations.release(handle);
                reply.success();
            }
            _ => reply.errno(libc::ENOSYS),
        }
    }

    fn answer_directory(&self, header: &Header, request: Request<'_>, reply: Reply) {
        let (context, node) = (context(header), header.node);
        match request {
            Request::OpenDirectory => self.operations.open_directory(
                context,
                node,
                Box::new(move |result| {
                    structure(
                        reply,
                        result.map(|HandleId(handle)| abi::OpenOut {
                            handle,
                            flags: 0,
                            backing_id: 0,
                        }),
                    )
                }),
            ),
            Request::ReadDirectory {
                handle,
                offset,
                size_bytes,
                with_attributes,
            } => {
                let size_bytes = size_bytes.min(self.max_reply_bytes);
                let operations = self.operations.clone();
                self.operations.read_directory(
                    context,
                    node,
                    handle,
                    offset,
                    directory::budget(size_bytes, with_attributes),
                    with_attributes,
                    Box::new(move |result| match result {
                        Ok(items) => {
                            let packed = directory::pack(&items, size_bytes, with_attributes);
                            reply.data(&packed.bytes);
                            for node in packed.left_out {
                                operations.forget(node, 1);
                            }
                        }
                        Err(error) => reply.error(&error),
                    }),
                )
            }
            Request::ReleaseDirectory { handle } => {
                self.operations.release_directory(handle);
                reply.success();
            }
            _ => reply.errno(libc::ENOSYS),
        }
    }

    /// The kernel knows "owner" and "everyone" only. What works on a handle passes: pages are read and
    /// handles closed on behalf of whoever happens to run.
    fn is_allowed(&self, header: &Header, request: &Request<'_>) -> bool {
        let uid = header.caller.uid;
        match self.access {
            Access::Owner | Access::Everyone => true,
            Access::OwnerAndRoot => {
                uid == 0
                    || uid == self.owner_uid
                    || matches!(
                        request,
                        Request::Read { .. }
                            | Request::ReadDirectory { .. }
                            | Request::Release { .. }
                            | Request::Bytes(ByteRequest::Write { .. })
                            | Request::Bytes(ByteRequest::Flush { .. })
                            | Request::Bytes(ByteRequest::Sync { .. })
                            | Request::ReleaseDirectory { .. }
                            | Request::Acknowledge
                    )
            }
        }
    }
}

pub(super) fn context(header: &Header) -> RequestContext {
    RequestContext {
        unique: header.unique,
        caller: header.caller,
    }
}

pub(super) fn structure<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    reply: Reply,
    result: Result<T, FsError>,
) {
    match result {
        Ok(payload) => reply.structure(&payload),
        Err(error) => reply.error(&error),
    }
}

/// As getxattr(2): the size when asked for with a size of zero, ERANGE when the value is larger.
fn extended_attribute(reply: Reply, size_bytes: usize, result: Result<Vec<u8>, FsError>) {
    match result {
        Ok(value) if size_bytes == 0 => reply.structure(&abi::GetxattrOut {
            size_bytes: u32::try_from(value.len()).unwrap_or(u32::MAX),
            padding: 0,
        }),
        Ok(value) if value.len() > size_bytes => reply.errno(libc::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(&error),
    }
}
