//! Who may do what, where only the backend can tell: its decisions, per user, remembered for as long as the attributes
//! they were made under are believed, as an NFS client's access cache does.
//!
//! What always holds: an answer from what is known, and bytes from the cache, are given only to a user whom the backend
//! has let have them, every directory above included; while it is away its last word counts, and where it never gave one it
//! is waited for as for bytes that are not cached.

use super::FileSystem;
use super::node::{DEPTH_MAX, Node};
use crate::backend::access::{Access, is_refusal};
use crate::backend::{FilesystemIndex, Place};
use crate::cache::names::KnownDecision;
use crate::types::{Attributes, Caller, Credentials, FileKind, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// Decisions remembered by each shard.
const DECISIONS_MAX: NonZeroUsize = NonZeroUsize::new(2048).expect("not zero");

/// A user, a file and what for. A file's nodes share its decisions.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    filesystem: FilesystemIndex,
    inode: u64,
    access: Access,
    caller: Credentials,
}

/// What a decision goes by, as far as it shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rights {
    permissions: u32,
    uid: u32,
    gid: u32,
    /// Another one may be another ACL, or another file. `None`: a directory whose names changed last, which they do all the
    /// time.
    ctime: Option<Timestamp>,
}

impl Rights {
    fn of(attributes: &Attributes) -> Self {
        let names_changed =
            attributes.kind == FileKind::Directory && attributes.ctime == attributes.mtime;
        Self {
            permissions: attributes.permissions,
            uid: attributes.uid,
            gid: attributes.gid,
            ctime: (!names_changed).then_some(attributes.ctime),
        }
    }

    fn known(decision: &KnownDecision) -> Self {
        Self {
            permissions: decision.permissions,
            uid: decision.uid,
            gid: decision.gid,
            ctime: decision.ctime,
        }
    }
}

#[derive(Clone, Copy)]
struct Decision {
    is_granted: bool,
    rights: Rights,
    /// `None`: in an earlier life.
    asked: Option<Instant>,
}

impl Decision {
    fn known(&self) -> KnownDecision {
        let Rights {
            permissions,
            uid,
            gid,
            ctime,
        } = self.rights;
        KnownDecision {
            is_granted: self.is_granted,
            permissions,
            uid,
            gid,
            ctime,
        }
    }
}

/// The backend's decisions.
pub(super) struct AccessCache {
    shards: [Mutex<LruCache<Question, Decision>>; SHARDS],
    hasher: RandomState,
}

impl AccessCache {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(DECISIONS_MAX))),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, question: &Question) -> &Mutex<LruCache<Question, Decision>> {
        let hash = self.hasher.hash_one((question.inode, question.caller.uid));
        &self.shards[hash as usize % SHARDS]
    }

    fn get(&self, question: &Question) -> Option<Decision> {
        self.shard(question).lock().get(question).copied()
    }

    fn put(&self, question: Question, decision: Decision) {
        self.shard(&question).lock().put(question, decision);
    }
}

/// What somebody wants of a node, beside finding it: every directory above it must be open to them.
#[derive(Clone)]
pub(super) struct Asking {
    node: Arc<Node>,
    access: Option<Access>,
    /// `None`: nobody has to be asked.
    caller: Option<Credentials>,
}

/// An access to one node, and the rights that were known when it was asked for.
struct Level {
    node: Arc<Node>,
    question: Question,
    rights: Rights,
    kind: FileKind,
    timeout: Duration,
}

impl Asking {
    pub(super) fn to(node: &Arc<Node>, access: Access, caller: &Option<Credentials>) -> Self {
        Self {
            node: node.clone(),
            access: Some(access),
            caller: caller.clone(),
        }
    }

    /// The way to a node, whatever it lets do.
    pub(super) fn way_to(node: &Arc<Node>, caller: &Option<Credentials>) -> Self {
        Self {
            node: node.clone(),
            access: None,
            caller: caller.clone(),
        }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where the backend is asked, and for what.
    fn innermost(&self) -> Option<(Arc<Node>, Access)> {
        match self.access {
            Some(access) => Some((self.node.clone(), access)),
            None => Some((self.node.parent()?, Access::Search)),
        }
    }

    /// The node itself, if anything is wanted of it, then the directories above it.
    fn each_level(&self, fs: &FileSystem, caller: &Credentials, mut visit: impl FnMut(Level)) {
        let mut next = self.innermost();
        for _ in 0..DEPTH_MAX {
            let Some((node, access)) = next else {
                return;
            };
            visit(fs.level(&node, access, caller));
            next = node.parent().map(|parent| (parent, Access::Search));
        }
    }
}

impl FileSystem {
    /// Who asks, where the backend decides by that.
    pub(super) fn asker(&self, node: &Node, caller: &Caller) -> Option<Credentials> {
        self.is_asked(node).then(|| self.credentials(caller))
    }

    /// Where the backend has a node, for somebody.
    pub(super) fn place(&self, node: &Node, caller: &Credentials) -> Place {
        let caller = self.is_asked(node).then(|| caller.clone());
        node.place_for(&caller)
    }

    /// A directory of a filesystem that has to be asked may lie above one that has not.
    fn is_asked(&self, node: &Node) -> bool {
        let decides = |filesystem| self.backend.decides_access(filesystem);
        self.callers.act_for_themselves()
            && (decides(FilesystemIndex(0)) || decides(node.filesystem))
    }

    fn level(&self, node: &Arc<Node>, access: Access, caller: &Credentials) -> Level {
        let there = self.backend.change_time_there(&node.key);
        let state = node.state.lock();
        let mut attributes = node.attributes(&state);
        // What is written here changes nobody's rights.
        attributes.ctime = there.unwrap_or(attributes.ctime);
        Level {
            node: node.clone(),
            question: Question {
                filesystem: node.filesystem,
                inode: node.inode,
                access,
                caller: caller.clone(),
            },
            rights: Rights::of(&attributes),
            kind: attributes.kind,
            timeout: state.timeout(),
        }
    }

    /// What the backend has said within the attributes' timeout.
    pub(super) fn decided(&self, asking: &Asking) -> Option<bool> {
        // What a change of ours has outdated, its owner or mode perhaps, is asked for right after it.
        self.known_decision(asking, |level, decision| {
            let good_for = level.timeout.max(self.first_timeout(level.kind));
            let is_young = |asked: Instant| asked.elapsed() < good_for;
            decision.asked.is_some_and(is_young)
        })
    }

    /// What it has said last, whenever that was.
    pub(super) fn last_decided(&self, asking: &Asking) -> Option<bool> {
        self.known_decision(asking, |_, _| true)
    }

    fn known_decision(
        &self,
        asking: &Asking,
        is_good: impl Fn(&Level, &Decision) -> bool,
    ) -> Option<bool> {
        let Some(caller) = &asking.caller else {
            return Some(true);
        };
        let (mut is_refused, mut is_known) = (false, true);
        asking.each_level(self, caller, |level| {
            let known = self
                .decisions
                .get(&level.question)
                .filter(|decision| decision.rights == level.rights && is_good(&level, decision));
            match known {
                Some(decision) => is_refused |= !decision.is_granted,
                None => is_known = false,
            }
        });
        match is_refused {
            true => Some(false),
            false => is_known.then_some(true),
        }
    }

    /// The backend's decision, asked for where it is not known. EACCES if it refuses. Blocks on the backend.
    pub(super) fn ask(&self, asking: &Asking) -> io::Result<()> {
        let Some(caller) = &asking.caller else {
            return Ok(());
        };
        match self.decided(asking) {
            Some(true) => return Ok(()),
            Some(false) => return Err(refused()),
            None => {}
        }
        let mut levels = Vec::new();
        asking.each_level(self, caller, |level| levels.push(level));
        self.ask_levels(&levels)
    }

    /// Asks for the first of these accesses, to which the others are the way. Where it is refused, asks outwards which of
    /// them is: what lies behind that one may open with it.
    fn ask_levels(&self, levels: &[Level]) -> io::Result<()> {
        let asked = Instant::now();
        let mut outcome = Ok(());
        let mut refusals = 0;
        for level in levels {
            let place = level.node.place_for(&Some(level.question.caller.clone()));
            match self.backend.check_access(&place, level.question.access) {
                Ok(()) => break,
                Err(error) if is_refusal(&error) => {
                    outcome = Err(error);
                    refusals += 1;
                }
                // Whether it is this one that is closed, or the one before, cannot be told.
                Err(error) => return outcome.and(Err(error)),
            }
        }
        let (closed, open) = levels.split_at(refusals);
        if let Some(closed) = closed.last() {
            self.note_level(closed, false, asked);
        }
        for level in open {
            self.note_level(level, true, asked);
        }
        outcome
    }

    /// Remembers what a call that was made as `caller` told of an access to a node.
    pub(super) fn note_access<T>(
        &self,
        node: &Arc<Node>,
        access: Access,
        caller: &Option<Credentials>,
        asked: Instant,
        outcome: &io::Result<T>,
    ) {
        let is_granted = match outcome {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if is_refusal(error) => false,
            Err(_) => return,
        };
        if let Some(caller) = caller {
            self.note_level(&self.level(node, access, caller), is_granted, asked);
        }
    }

    fn note_level(&self, level: &Level, is_granted: bool, asked: Instant) {
        let decision = Decision {
            is_granted,
            rights: level.rights,
            asked: Some(asked),
        };
        let Question { access, caller, .. } = &level.question;
        self.names
            .note_decision(&level.node.key, *access, caller, &decision.known());
        self.decisions.put(level.question.clone(), decision);
    }

    /// Takes decisions of an earlier life back, where there is none of this. Waits for the local disk.
    pub(super) fn recall_decisions(&self, asking: &Asking) {
        let Some(caller) = &asking.caller else {
            return;
        };
        asking.each_level(self, caller, |level| {
            let Question { access, caller, .. } = &level.question;
            if self.decisions.get(&level.question).is_none()
                && let Some(known) = self.names.decision(&level.node.key, *access, caller)
            {
                // Known, and not fresh: asked for anew once the backend is back.
                let decision = Decision {
                    is_granted: known.is_granted,
                    rights: Rights::known(&known),
                    asked: None,
                };
                self.decisions.put(level.question, decision);
            }
        });
    }
}

pub(super) fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::EACCES)
}
