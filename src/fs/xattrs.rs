//! Extended attributes, asked of the backend and remembered as long as the file's other attributes: `ls -l` asks
//! for several of each file.

use super::FileSystem;
use super::access::{Asking, refused};
use super::error::FsError;
use super::node::Node;
use super::operations::{Done, RequestContext};
use super::pending::Pending;
use super::recalling::Wanted;
use crate::backend::access::Access;
use crate::cache::names::Names;
use crate::types::{Credentials, NodeId, Version};
use lru::LruCache;
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Answers remembered.
const ANSWERS_MAX: usize = 8192;
/// Larger values are not remembered.
const VALUE_BYTES_MAX: usize = 4096;

/// File capabilities (capabilities(7)).
const CAPABILITIES: &str = "security.capability";

/// The value, or the errno that stood in its place.
type Answer = Result<Arc<[u8]>, i32>;
/// A node and a name; no name: the list of names.
type Question = (NodeId, Option<OsString>);

pub(super) struct XattrCache {
    answers: Mutex<LruCache<Question, (Version, Answer)>>,
}

impl XattrCache {
    pub(super) fn new() -> Self {
        let entries = NonZeroUsize::new(ANSWERS_MAX).expect("not zero");
        Self {
            answers: Mutex::new(LruCache::new(entries)),
        }
    }

    fn get(&self, node: &Node, name: Option<&OsStr>) -> Option<Answer> {
        let version = node.version(&node.state.lock());
        let key = (node.id, name.map(OsStr::to_owned));
        let mut answers = self.answers.lock();
        let (seen, answer) = answers.get(&key)?;
        // Changing an extended attribute changes ctime.
        (*seen == version).then(|| answer.clone())
    }

    /// The same where the list of names shows that there is no such attribute.
    fn get_or_infer(&self, node: &Node, name: Option<&OsStr>) -> Option<Answer> {
        let known = self.get(node, name);
        // Those of the trusted namespace are listed for few.
        let listed = name.filter(|name| !name.as_bytes().starts_with(b"trusted."));
        known.or_else(|| match (listed, self.get(node, None)?) {
            (Some(_), Err(errno)) => Some(Err(errno)),
            (Some(name), Ok(names)) => {
                let mut names = names.split(|byte| *byte == 0);
                let is_listed = names.any(|listed| listed == name.as_bytes());
                (!is_listed).then_some(Err(libc::ENODATA))
            }
            (None, _) => None,
        })
    }

    fn put(
        &self,
        node: &Node,
        name: Option<&OsStr>,
        version: Version,
        answer: &io::Result<Vec<u8>>,
        names: &Names,
    ) {
        let answer: Answer = match answer {
            Ok(value) if value.len() <= VALUE_BYTES_MAX => Ok(value.as_slice().into()),
            Ok(_) => return,
            Err(error) => match error.raw_os_error() {
                Some(errno @ (libc::ENODATA | libc::EOPNOTSUPP)) => Err(errno),
                _ => return,
            },
        };
        let stored = answer.as_deref().map_err(|errno| *errno);
        names.note_xattr(&node.key, name, &version, stored);
        self.remember(node, name, version, answer);
    }

    fn remember(&self, node: &Node, name: Option<&OsStr>, version: Version, answer: Answer) {
        let key = (node.id, name.map(OsStr::to_owned));
        self.answers.lock().put(key, (version, answer));
    }

    /// Takes an answer of an earlier life back. Waits for the local disk.
    pub(super) fn recall(&self, names: &Names, node: &Node, name: Option<&OsStr>) {
        let version = node.version(&node.state.lock());
        if self.get(node, name).is_none()
            && let Some(known) = names.xattr(&node.key, name, &version)
        {
            self.remember(node, name, version, known.map(Into::into));
        }
    }
}

impl XattrCache {
    /// A file just made has no capabilities: the kernel asks for them before its first write.
    pub(super) fn note_made(&self, node: &Node) {
        let version = node.version(&node.state.lock());
        let none = Err(libc::ENODATA);
        self.remember(node, Some(OsStr::new(CAPABILITIES)), version, none);
    }

    /// One attribute, and so the list, has changed: ctime need not show it within one timestamp step.
    pub(super) fn forget(&self, node: &Node, name: &OsStr, names: &Names) {
        names.forget_xattr(&node.key, Some(name));
        names.forget_xattr(&node.key, None);
        let mut answers = self.answers.lock();
        answers.pop(&(node.id, Some(name.to_owned())));
        answers.pop(&(node.id, None));
    }
}

/// The kernel asks for it to check an access.
fn is_acl(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| name.as_bytes() == b"system.posix_acl_access")
}

/// While the backend is away, of an attribute nobody ever asked for.
pub(super) fn unknown(name: Option<&OsStr>) -> FsError {
    match is_acl(name) {
        // Whom it lets in cannot be told.
        true => FsError::Backend(refused()),
        // `ls -l` of what is known must not hang.
        false => FsError::BackendTimeout,
    }
}

fn reply(answer: Answer) -> Result<Vec<u8>, FsError> {
    answer
        .map(|value| value.to_vec())
        .map_err(|errno| FsError::Backend(io::Error::from_raw_os_error(errno)))
}

impl FileSystem {
    /// Attributes of the kernel and of the system belong to nobody who might not read the file.
    fn asking_for_xattr(
        &self,
        node: &Arc<Node>,
        name: Option<&OsStr>,
        caller: &Option<Credentials>,
    ) -> Asking {
        match name {
            Some(name) if name.as_bytes().starts_with(b"user.") => {
                Asking::to(node, Access::Read, caller)
            }
            _ => self.way_unless_open(node, None, caller),
        }
    }

    /// One attribute, or the list of names where `name` is `None`.
    pub(super) fn xattr(
        &self,
        context: RequestContext,
        id: NodeId,
        name: Option<&OsStr>,
        done: Done<Vec<u8>>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let caller = self.asker(&node, &context.caller);
        let asking = self.asking_for_xattr(&node, name, &caller);
        let fresh = !node.state.lock().fresh_for().is_zero();
        if fresh
            && self.decided(&asking) == Some(true)
            && let Some(answer) = self.xattrs.get(&node, name)
        {
            return done(reply(answer));
        }
        let pending = self.begin(context, done);
        let name = name.map(OsStr::to_owned);
        let (known, known_name) = (node.clone(), name.clone());
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<Vec<u8>>>| {
            let answer = fs.xattrs.get_or_infer(&known, known_name.as_deref());
            fs.is_known(&known) && answer.is_some_and(|answer| pending.finish(reply(answer)))
        };
        let (way, wanted) = (asking.clone(), Wanted::Xattr(name.clone()));
        self.ask_or_known(way, wanted, &pending, known, move |fs, pending| {
            if let Err(error) = fs.ask(&asking) {
                return fs.fail(&pending, FsError::Backend(error));
            }
            let version = node.version(&node.state.lock());
            let place = node.place_for(&caller);
            let answer = match &name {
                Some(name) => fs.backend.get_xattr(&place, name),
                None => fs.backend.list_xattr(&place),
            };
            fs.xattrs
                .put(&node, name.as_deref(), version, &answer, &fs.names);
            match answer {
                Ok(value) => {
                    pending.finish(Ok(value));
                }
                Err(error) => fs.fail(&pending, FsError::Backend(error)),
            }
        });
    }
}
