//! Files that somebody wants in the cache as a whole: asked for by extended attributes that no backend has, so that whoever
//! may read a file may warm it up, and nobody else.

use super::FileSystem;
use super::access::Asking;
use super::error::FsError;
use super::node::Node;
use super::opener::{OpenedAhead, OpenedBy};
use super::opening::{SMALL_FILE_TRIES, fetch_failed};
use super::operations::{Done, RequestContext};
use super::pending::Pending;
use super::recalling::Wanted;
use crate::backend::Placed;
use crate::backend::access::Access;
use crate::cache::{Allowance, Errand, FetchError};
use crate::types::warming::{HELD_ATTRIBUTE, Held, ROOM_ATTRIBUTE, WARM_ATTRIBUTE, Warmed};
use crate::types::{Credentials, FileKey, FileKind, NodeId, Version};
use serde::Serialize;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// What is asked of the cache.
#[derive(Clone)]
pub(super) enum Question {
    Held,
    Room,
    /// To fetch a file, as part of the warm-up of this name.
    Warm(String),
}

impl Question {
    /// `None`: it is an attribute of the backend's.
    pub(super) fn of(attribute: &OsStr) -> Option<Self> {
        match attribute.to_str()? {
            HELD_ATTRIBUTE => Some(Self::Held),
            ROOM_ATTRIBUTE => Some(Self::Room),
            other => Some(Self::Warm(other.strip_prefix(WARM_ATTRIBUTE)?.to_owned())),
        }
    }
}

type Answer = Arc<Pending<Vec<u8>>>;

fn tell(pending: &Answer, answer: &impl Serialize) {
    pending.finish(encode(answer));
}

fn encode(answer: &impl Serialize) -> Result<Vec<u8>, FsError> {
    serde_json::to_vec(answer).map_err(|error| FsError::Backend(io::Error::other(error)))
}

/// One file that is to be fetched, for somebody.
#[derive(Clone)]
struct Wish {
    node: Arc<Node>,
    caller: Option<Credentials>,
    allowance: Arc<Allowance>,
}

/// A version of a file, as the backend was seen to have it.
pub(super) struct Seen {
    pub key: FileKey,
    pub version: Version,
    pub first_seen: Instant,
    pub placed: Arc<dyn Placed>,
}

impl Seen {
    pub fn last(node: &Arc<Node>, caller: &Option<Credentials>) -> Self {
        let (version, first_seen) = {
            let state = node.state.lock();
            (node.version(&state), state.first_seen())
        };
        let placed = OpenedBy {
            node: node.clone(),
            reader: caller.clone(),
        };
        Self {
            key: node.key.clone(),
            version,
            first_seen,
            placed: Arc::new(placed),
        }
    }
}

impl Wish {
    fn to_read(&self) -> Asking {
        Asking::to(&self.node, Access::Read, &self.caller)
    }
}

impl FileSystem {
    pub(super) fn ask_cache(
        &self,
        context: RequestContext,
        id: NodeId,
        question: Question,
        done: Done<Vec<u8>>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let is_file = node.state.lock().kind() == FileKind::Regular;
        match question {
            Question::Room => done(encode(&self.cache.room_to_stay())),
            _ if !is_file => done(Err(FsError::NotRegular)),
            Question::Held => self.tell_held(context, node, done),
            Question::Warm(name) => self.warm(context, node, &name, done),
        }
    }

    fn tell_held(&self, context: RequestContext, node: Arc<Node>, done: Done<Vec<u8>>) {
        let caller = self.asker(&node, &context.caller);
        let asking = Asking::to(&node, Access::Read, &caller);
        let pending = self.begin(context, done);
        let known = node.clone();
        let known = move |fs: &Arc<FileSystem>, pending: &Answer| {
            fs.is_known(&known) && fs.tell_held_locally(&known, pending)
        };
        let way = asking.clone();
        self.ask_or_known(way, Wanted::Nothing, &pending, known, move |fs, pending| {
            let checked = fs.revalidate_bytes(&node, &caller);
            match checked.and_then(|_asked| fs.ask(&asking).map_err(FsError::Backend)) {
                Ok(()) => {
                    let held = fs.held(&node);
                    let is_confirmed = true;
                    tell(
                        &pending,
                        &Held {
                            is_confirmed,
                            ..held
                        },
                    );
                }
                Err(error) => fs.fail(&pending, error),
            }
        });
    }

    /// Does not wait.
    fn tell_held_locally(self: &Arc<Self>, node: &Arc<Node>, pending: &Answer) -> bool {
        let (this, node, waiting) = (self.clone(), node.clone(), pending.clone());
        let told = move || tell(&waiting, &this.held(&node));
        self.local_lane.submit(told).is_ok()
    }

    /// Waits for the local disk.
    fn held(&self, node: &Node) -> Held {
        let version = node.version(&node.state.lock());
        self.cache.held(&node.key, &version)
    }

    fn warm(&self, context: RequestContext, node: Arc<Node>, name: &str, done: Done<Vec<u8>>) {
        let caller = self.asker(&node, &context.caller);
        let asking = Asking::to(&node, Access::Read, &caller);
        let wish = Wish {
            node,
            caller,
            allowance: self.cache.warm_up(name),
        };
        let pending = self.begin_transfer(context, done);
        // What is whole needs no backend.
        let known_wish = wish.clone();
        let known = move |fs: &Arc<FileSystem>, pending: &Answer| {
            fs.is_known(&known_wish.node) && fs.tell_whole_locally(&known_wish, pending)
        };
        self.ask_or_known(
            asking,
            Wanted::Nothing,
            &pending,
            known,
            move |fs, pending| fs.warm_found(wish, pending),
        );
    }

    /// Whoever names a file has just looked it up, and the open that fetches it asks for its version, and whether they may
    /// read it. Not of a file that is open: its reader's fills go on by that open.
    fn warm_found(self: &Arc<Self>, wish: Wish, pending: Answer) {
        let way = Asking::way_to(&wish.node, &wish.caller);
        let (is_fresh, is_open) = {
            let state = wish.node.state.lock();
            (!state.fresh_for().is_zero(), state.open.is_some())
        };
        if !is_fresh || is_open || self.decided(&way) != Some(true) {
            return self.warm_checked(wish, pending, SMALL_FILE_TRIES);
        }
        let seen = Seen {
            placed: Arc::new(OpenedAhead {
                fs: self.me.clone(),
                node: wish.node.clone(),
                reader: wish.caller.clone(),
            }),
            ..Seen::last(&wish.node, &wish.caller)
        };
        let (this, again) = (self.clone(), wish.clone());
        self.warm_version(seen, wish, &pending.clone(), move |outcome| match outcome {
            Ok(fetched @ Warmed::Fetched { .. })
                if this.decided(&again.to_read()) == Some(true) =>
            {
                tell(&pending, &fetched);
            }
            // Nothing was asked, or by somebody else.
            Ok(_) | Err(FetchError::Changed | FetchError::Refused) => {
                this.on_backend(&pending, move |fs, pending| {
                    fs.warm_checked(again, pending, SMALL_FILE_TRIES);
                });
            }
            Err(error) => this.fail(&pending, fetch_failed(error)),
        });
    }

    fn warm_checked(self: &Arc<Self>, wish: Wish, pending: Answer, tries: u32) {
        let checked = self.revalidate_bytes(&wish.node, &wish.caller);
        if let Err(error) =
            checked.and_then(|_asked| self.ask(&wish.to_read()).map_err(FsError::Backend))
        {
            return self.fail(&pending, error);
        }
        let seen = Seen::last(&wish.node, &wish.caller);
        let (this, again) = (self.clone(), wish.clone());
        self.warm_version(seen, wish, &pending.clone(), move |outcome| match outcome {
            Ok(warmed) => tell(&pending, &warmed),
            // The open may have been another's.
            Err(FetchError::Changed | FetchError::Refused) if tries > 0 => {
                this.on_backend(&pending, move |fs, pending| {
                    fs.warm_checked(again, pending, tries - 1);
                });
            }
            Err(error) => this.fail(&pending, fetch_failed(error)),
        });
    }

    fn warm_version(
        self: &Arc<Self>,
        seen: Seen,
        wish: Wish,
        pending: &Answer,
        done: impl FnOnce(Result<Warmed, FetchError>) + Send + 'static,
    ) {
        let waiting = pending.clone();
        let is_wanted = move || !waiting.has_ended();
        self.keep_whole(seen, wish.allowance, is_wanted, done);
    }

    /// What is not whole waits for the backend, an absent one too, which may be back soon. Does not wait.
    fn tell_whole_locally(self: &Arc<Self>, wish: &Wish, pending: &Answer) -> bool {
        let (this, wish, waiting) = (self.clone(), wish.clone(), pending.clone());
        let told = move || {
            let held = this.held(&wish.node);
            if held.is_whole() {
                let bytes = held.size_bytes;
                tell(&waiting, &Warmed::Cached { bytes });
            } else if this.health.is_away() {
                // Perhaps nobody has asked it yet; to ask twice takes no more room.
                this.on_backend(&waiting, |fs, pending| fs.warm_found(wish, pending));
            }
        };
        self.local_lane.submit(told).is_ok()
    }

    /// Brings a version into the cache, and lets it stay. Waits for the local disk only.
    pub(super) fn keep_whole(
        self: &Arc<Self>,
        seen: Seen,
        allowance: Arc<Allowance>,
        is_wanted: impl Fn() -> bool + Send + 'static,
        done: impl FnOnce(Result<Warmed, FetchError>) + Send + 'static,
    ) {
        let Seen {
            key,
            version,
            first_seen,
            placed,
        } = seen;
        if self.writes.is_expected(&key) {
            let bytes = version.size_bytes;
            let reason = "it is being written".to_owned();
            return done(Ok(Warmed::Left { bytes, reason }));
        }
        let file = self.cache.file(&key, version);
        let descriptor = self.descriptors.count(&key);
        file.begin_use(placed, first_seen);
        let used = file.clone();
        self.cache.keep_whole(Errand {
            is_small: file.size_bytes() <= self.settings.small_file_bytes,
            file,
            allowance,
            lane: self.warm_lane.clone(),
            is_wanted: Box::new(is_wanted),
            done: Box::new(move |outcome| {
                used.end_use();
                drop(descriptor);
                done(outcome);
            }),
        });
    }
}
