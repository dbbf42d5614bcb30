//! What was known in an earlier life, or was forgotten since, taken back into memory while the backend does not answer:
//! believed only as long as it is away, and asked anew by the first use after that.

use super::FileSystem;
use super::access::Asking;
use super::error::FsError;
use super::listings::Remembered;
use super::node::Node;
use super::pending::Pending;
use crate::backend::Found;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a request needs to be known beside the file it is about and who may have it.
#[derive(Clone)]
pub(super) enum Wanted {
    Nothing,
    Name(OsString),
    Listing,
    LinkTarget,
    /// One extended attribute, or the list of their names.
    Xattr(Option<OsString>),
}

impl Wanted {
    /// The answer where it is not known, though the file is; `None`: the backend is waited for.
    fn error_if_unknown(&self) -> Option<FsError> {
        match self {
            Self::Xattr(name) => Some(super::xattrs::unknown(name.as_deref())),
            Self::Nothing | Self::Name(_) | Self::Listing | Self::LinkTarget => None,
        }
    }
}

/// Answers from what is known; whether it does, be it later.
type Known<T> = dyn Fn(&Arc<FileSystem>, &Arc<Pending<T>>) -> bool + Send + Sync;

/// A request that what is known can answer.
struct Answerable<T: Send + 'static> {
    asking: Asking,
    wanted: Wanted,
    pending: Arc<Pending<T>>,
    known: Box<Known<T>>,
}

impl FileSystem {
    /// Answers a request by `ask`, which runs on a thread that may wait for the backend; or, when the backend does not
    /// answer in time or is away, by `known`, for those who may have what is known. `known` must not wait, and says
    /// whether it answers, be it later. For whoever never asked before the backend is waited for.
    pub(super) fn ask_or_known<T: Send + 'static>(
        &self,
        asking: Asking,
        wanted: Wanted,
        pending: &Arc<Pending<T>>,
        known: impl Fn(&Arc<FileSystem>, &Arc<Pending<T>>) -> bool + Send + Sync + 'static,
        ask: impl FnOnce(Arc<FileSystem>, Arc<Pending<T>>) + Send + 'static,
    ) {
        let this = self.this();
        let answerable = Arc::new(Answerable {
            asking,
            wanted,
            pending: pending.clone(),
            known: Box::new(known),
        });
        if !self.health.is_away() {
            let kept = answerable.clone();
            self.or_known(pending, move |fs, _| fs.answer_or_recall(&kept));
            return self.on_backend(pending, ask);
        }
        if !self.may_bridge() {
            return self.ask_unless_outdated(pending, ask);
        }
        if this.answer_known(&answerable, false) {
            return;
        }
        let (recalling, waiting) = (this.clone(), pending.clone());
        let submitted = self.local_lane.submit(move || {
            recalling.recall(&answerable.asking, &answerable.wanted);
            if !recalling.answer_known(&answerable, true) {
                recalling.on_backend(&waiting, ask);
            }
        });
        if submitted.is_err() {
            pending.finish(Err(FsError::BackendTimeout));
        }
    }

    /// Whether what is known may stand in for the backend: it has not been away for longer than `stale`.
    pub(super) fn may_bridge(&self) -> bool {
        match self.health.absent_for() {
            Some(absent_for) => absent_for < self.settings.stale,
            None => !self.settings.stale.is_zero(),
        }
    }

    /// An absence too long to be bridged: the backend may come back while it is still waited for.
    fn ask_unless_outdated<T: Send + 'static>(
        &self,
        pending: &Arc<Pending<T>>,
        ask: impl FnOnce(Arc<FileSystem>, Arc<Pending<T>>) + Send + 'static,
    ) {
        let is_given_up = self
            .health
            .patience_left()
            .is_some_and(|left| left.is_zero());
        if is_given_up && !self.settings.stale.is_zero() {
            pending.finish(Err(FsError::Outdated));
        } else {
            self.on_backend(pending, ask);
        }
    }

    /// From memory; `all_recalled`: what is not there is not known.
    fn answer_known<T: Send + 'static>(
        self: &Arc<Self>,
        answerable: &Answerable<T>,
        all_recalled: bool,
    ) -> bool {
        let pending = &answerable.pending;
        match self.last_decided(&answerable.asking) {
            Some(true) if pending.answer_by_known(|pending| (answerable.known)(self, pending)) => {
                self.health.metrics().stale_answers.add(1);
                true
            }
            Some(true) => match answerable.wanted.error_if_unknown() {
                Some(error) if all_recalled => {
                    pending.finish(Err(error));
                    true
                }
                Some(_) | None => false,
            },
            // Silence is no decision: a server that was slow for a moment refuses nobody.
            None => false,
            Some(false) => {
                pending.finish(Err(FsError::Backend(super::access::refused())));
                true
            }
        }
    }

    /// For a request whose call of the backend is late or has failed. False if that is the last word.
    fn answer_or_recall<T: Send + 'static>(
        self: &Arc<Self>,
        answerable: &Arc<Answerable<T>>,
    ) -> bool {
        if !self.may_bridge() {
            return false;
        }
        if self.answer_known(answerable, false) {
            return true;
        }
        let (this, answerable) = (self.clone(), answerable.clone());
        let submitted = self.local_lane.submit(move || {
            this.recall(&answerable.asking, &answerable.wanted);
            let pending = &answerable.pending;
            if !this.answer_known(&answerable, true) && pending.has_failed() {
                pending.finish(Err(FsError::BackendTimeout));
            }
        });
        submitted.is_ok()
    }

    /// Waits for the local disk.
    fn recall(&self, asking: &Asking, wanted: &Wanted) {
        self.recall_decisions(asking);
        let node = asking.node();
        match wanted {
            Wanted::Nothing => {}
            Wanted::Name(name) => self.recall_name(node, name),
            Wanted::Listing => self.recall_listing(node),
            Wanted::LinkTarget => self.recall_link(node),
            Wanted::Xattr(name) => {
                self.xattrs.recall(&self.names, node, None);
                self.xattrs.recall(&self.names, node, name.as_deref());
            }
        }
    }

    fn recall_name(&self, parent: &Arc<Node>, name: &OsStr) {
        if self.nodes.by_name(parent.id, name).is_some() {
            return;
        }
        match self.find_known(parent, name) {
            Some(found) if self.nodes.is_elsewhere(parent, name, &found) => {}
            Some(found) => {
                // Known, and not fresh from the beginning.
                let (node, _) = self.nodes.admit(parent, name, &found, Duration::ZERO);
                self.recall_link(&node);
            }
            // Perhaps it is known to be absent.
            None => self.recall_listing(parent),
        }
    }

    fn find_known(&self, parent: &Node, name: &OsStr) -> Option<Found> {
        let (key, attributes) = self.names.name(&parent.key, name)?;
        Some(Found {
            filesystem: self.backend.filesystem_of(&key)?,
            attributes: self.backend.as_it_is_here(&key, attributes),
            key,
        })
    }

    fn recall_link(&self, node: &Node) {
        let version = node.version(&node.state.lock());
        if let Some(target) = self.names.link(&node.key, &version) {
            let mut state = node.state.lock();
            if node.version(&state) == version {
                state.set_link_target(Some(&target));
            }
        }
    }

    fn recall_listing(&self, directory: &Node) {
        if self.listings.get(directory).is_some() {
            return;
        }
        let began = Instant::now();
        if let Some(known) = self.names.listing(&directory.key) {
            let remembered = Remembered {
                names: Arc::new(known.names),
                version: known.version,
                settled: false,
            };
            self.listings.put(directory, remembered, began);
        }
    }
}
