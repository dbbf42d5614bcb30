//! What is told of a request to who watches: how it is called, and what it concerns.

use super::bytes::ByteRequest;
use super::decode::{Header, Request};
use super::dispatch::Dispatcher;
use super::locks::LockCall;
use super::names::NameRequest;
use super::reply::Reply;
use crate::clock::wall_clock;
use crate::fs::operations::Operations;
use crate::types::{NewNode, NodeId, Removal};
use crate::watch::Asked;
use std::ffi::OsStr;
use std::path::PathBuf;

/// What a request is about.
#[derive(Default)]
struct Subject<'a> {
    operation: &'static str,
    /// Where it is not the node of the header.
    node: Option<NodeId>,
    /// In the directory that the node is.
    name: Option<&'a OsStr>,
    to: Option<(NodeId, &'a OsStr)>,
    offset: Option<u64>,
}

impl<O: Operations + ?Sized> Dispatcher<O> {
    /// Nobody watches, usually.
    pub(super) fn watched(&self, header: &Header, request: &Request<'_>, reply: Reply) -> Reply {
        if !self.watch.is_on() {
            return reply;
        }
        let Some(subject) = subject_of(header, request) else {
            return reply;
        };
        let to = subject.to;
        let asked = Asked {
            operation: subject.operation,
            path: self.path(subject.node.unwrap_or(header.node), subject.name),
            to: to.and_then(|(parent, name)| self.path(parent, Some(name))),
            caller: header.caller,
            offset: subject.offset,
        };
        self.watch.begin(header.unique, wall_clock(), asked);
        reply.watched_by(self.watch.clone())
    }

    fn path(&self, node: NodeId, name: Option<&OsStr>) -> Option<PathBuf> {
        let path = self.operations.path_of(node)?;
        Some(match name {
            Some(name) => path.join(name),
            None => path,
        })
    }
}

/// `None` where there is nothing to tell: it needs no answer, or is refused as unknown.
fn subject_of<'a>(header: &Header, request: &Request<'a>) -> Option<Subject<'a>> {
    Some(match request {
        Request::Lookup { name } => named("lookup", name),
        Request::Attributes { .. } => plain("getattr"),
        Request::ReadLink => plain("readlink"),
        Request::Open { .. } => plain("open"),
        Request::Read { offset, .. } => at("read", *offset),
        Request::Release { .. } => plain("release"),
        Request::OpenDirectory => plain("opendir"),
        Request::ReadDirectory { .. } => plain("readdir"),
        Request::ReleaseDirectory { .. } => plain("releasedir"),
        Request::Space => plain("statfs"),
        Request::ListXattr { .. } => plain("listxattr"),
        Request::GetXattr { .. } => plain("getxattr"),
        Request::Seek { offset, .. } => at("lseek", *offset),
        Request::Bytes(request) => bytes(request),
        Request::Names(request) => names(header, request)?,
        Request::Locks(LockCall::Find(_)) => plain("getlk"),
        Request::Locks(LockCall::Set(_)) => plain("setlk"),
        Request::Forget { .. }
        | Request::BatchForget(_)
        | Request::Interrupt { .. }
        | Request::Acknowledge
        | Request::Refuse(_)
        | Request::Ignore => return None,
    })
}

fn bytes<'a>(request: &ByteRequest<'a>) -> Subject<'a> {
    match request {
        ByteRequest::Create {
            name: Some(name), ..
        } => named("create", name),
        ByteRequest::Create { name: None, .. } => plain("tmpfile"),
        ByteRequest::Write { write, .. } => at("write", write.offset),
        ByteRequest::Flush { .. } => plain("flush"),
        ByteRequest::Sync { .. } => plain("fsync"),
        ByteRequest::Allocate { range, .. } => at("fallocate", range.start),
        ByteRequest::CopyRange { copy, .. } => at("copy_file_range", copy.from_offset),
    }
}

fn names<'a>(header: &Header, request: &NameRequest<'a>) -> Option<Subject<'a>> {
    Some(match request {
        NameRequest::Make { name, new } => named(made_by(new), name),
        NameRequest::Link { node, name } => Subject {
            node: Some(*node),
            to: Some((header.node, name)),
            ..plain("link")
        },
        NameRequest::Remove { name, removal } => match removal {
            Removal::File => named("unlink", name),
            Removal::Directory => named("rmdir", name),
        },
        NameRequest::Rename {
            name,
            new_parent,
            new_name,
            ..
        } => Subject {
            to: Some((*new_parent, new_name)),
            ..named("rename", name)
        },
        NameRequest::SetAttributes {
            size_bytes: Some(_),
            ..
        } => plain("truncate"),
        NameRequest::SetAttributes {
            size_bytes: None, ..
        } => plain("setattr"),
        NameRequest::SetXattr { .. } => plain("setxattr"),
        NameRequest::RemoveXattr { .. } => plain("removexattr"),
        NameRequest::SyncDirectory => plain("fsyncdir"),
        NameRequest::SyncFilesystem => plain("syncfs"),
        NameRequest::Unsupported => return None,
    })
}

fn made_by(new: &NewNode) -> &'static str {
    match new {
        NewNode::Node { .. } => "mknod",
        NewNode::Directory { .. } => "mkdir",
        NewNode::Symlink { .. } => "symlink",
    }
}

fn plain(operation: &'static str) -> Subject<'static> {
    Subject {
        operation,
        ..Subject::default()
    }
}

fn named<'a>(operation: &'static str, name: &'a OsStr) -> Subject<'a> {
    Subject {
        operation,
        name: Some(name),
        ..Subject::default()
    }
}

fn at(operation: &'static str, offset: u64) -> Subject<'static> {
    Subject {
        operation,
        offset: Some(offset),
        ..Subject::default()
    }
}
