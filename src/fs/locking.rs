//! Locks: flock(2) and fcntl(2), taken on the backend, where its other clients see them.
//!
//! What always holds: each owner of locks on a file has one description of its own there, closed when the owner closes the
//! file; a lock is granted only after the backend was asked for the file's attributes, and the kernel has forgotten what
//! they show to be old (what was written under the lock before is seen under it now).

use super::FileSystem;
use super::error::FsError;
use super::lock_table::Owned;
use super::node::Node;
use super::operations::{Done, LockRequest, RequestContext};
use super::pending::Pending;
use crate::backend::locking::LockFile;
use crate::types::{
    ByteRange, Conflict, Credentials, HandleId, LockFamily, LockKind, LockOwner, RangeLock,
};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who waits for a lock that another client of the backend holds asks again after this, and then less and less often.
const ASK_AGAIN_FIRST: Duration = Duration::from_millis(2);
const ASK_AGAIN_LAST: Duration = Duration::from_millis(256);
/// Any signal ends the wait for a lock; see [`super::pending::Pending`].
const ANY_SIGNAL: u32 = 0;

/// A request for a lock, on its way.
pub(super) struct Locking {
    fs: Arc<FileSystem>,
    node: Arc<Node>,
    request: LockRequest,
    caller: Credentials,
    pending: Arc<Pending<()>>,
    state: Mutex<Trying>,
}

/// One attempt is made at a time: a second that succeeds beside it would be taken for a lock nobody wants.
#[derive(Default)]
struct Trying {
    is_under_way: bool,
    /// Something was unlocked during the attempt.
    again: bool,
    has_timer: bool,
    failed: u32,
}

impl FileSystem {
    pub(super) fn request_lock(
        &self,
        context: RequestContext,
        request: LockRequest,
        done: Done<()>,
    ) {
        let Some(handle) = self.handles.get(request.handle) else {
            return done(Err(FsError::UnknownNode));
        };
        let pending = match request.waits {
            true => self.pending.begin_patient(context.unique, ANY_SIGNAL, done),
            false => self.begin(context, done),
        };
        let locking = Arc::new(Locking {
            fs: self.this(),
            node: handle.node.clone(),
            request,
            caller: self.credentials(&context.caller),
            pending,
            state: Mutex::default(),
        });
        self.locks.note(&locking.node.key);
        locking.attempt();
    }

    /// The lock in the way of one, if any.
    pub(super) fn look_for_lock(
        &self,
        context: RequestContext,
        request: LockRequest,
        done: Done<Option<Conflict>>,
    ) {
        let Some(handle) = self.handles.get(request.handle) else {
            return done(Err(FsError::UnknownNode));
        };
        let caller = self.credentials(&context.caller);
        let pending = self.begin(context, done);
        self.on_lane(&self.locks_lane, &pending, move |fs, pending| {
            let found = fs.conflict(&handle.node, &request, &caller);
            pending.finish(found.map_err(FsError::Backend));
        });
    }

    fn conflict(
        &self,
        node: &Arc<Node>,
        request: &LockRequest,
        caller: &Credentials,
    ) -> io::Result<Option<Conflict>> {
        let held = self.locks.file_of(&node.key, &request.owner);
        let file = match held {
            Some(file) => file,
            None => {
                let place = self.place(node, caller);
                self.backend.open_to_lock(&place, caller)?
            }
        };
        let Some(found) = file.conflict(request.lock)? else {
            return Ok(None);
        };
        let pid = found
            .pid
            .or_else(|| self.holder_here(node, &request.owner, &found.lock));
        Ok(Some(Conflict { pid, ..found }))
    }

    /// Locks of descriptions have no process; but of those made here, the holder's own is in nobody's way but the others'.
    fn holder_here(&self, node: &Node, asking: &LockOwner, lock: &RangeLock) -> Option<u32> {
        let wanted = RangeLock {
            kind: LockKind::Exclusive,
            ..*lock
        };
        let others = self.locks.of_file(&node.key).into_iter();
        let mut others = others.filter(|other| other.owner != *asking);
        let holder = others.find(|other| {
            let met = other.file.conflict(wanted);
            other.owner.family == LockFamily::Ranges
                && !met.is_ok_and(|met| met.is_some_and(|met| met.lock == *lock))
        });
        holder.map(|holder| holder.pid)
    }

    /// The owner closed a descriptor of the file: its locks on ranges go, whichever descriptor they were set by.
    pub(super) fn drop_locks(
        &self,
        handle: HandleId,
        owner: u64,
        then: impl FnOnce() + Send + 'static,
    ) {
        let owner = LockOwner {
            id: owner,
            family: LockFamily::Ranges,
        };
        let handle = self.handles.get(handle);
        let owned = handle
            .as_ref()
            .and_then(|handle| self.locks.take(&handle.node.key, &owner));
        match (handle, owned) {
            (Some(handle), Some(owned)) => self.close_locks(vec![owned], &handle.node, then),
            _ => then(),
        }
    }

    /// The handle is closed by everybody: what locks were set by it go.
    pub(super) fn drop_locks_of_handle(&self, handle: HandleId, node: &Arc<Node>) {
        let owned = self.locks.take_of_handle(&node.key, handle);
        if !owned.is_empty() {
            self.close_locks(owned, node, || ());
        }
    }

    /// Closing a description may wait for the server.
    fn close_locks(
        &self,
        owned: Vec<Arc<Owned>>,
        node: &Arc<Node>,
        then: impl FnOnce() + Send + 'static,
    ) {
        let (this, node) = (self.this(), node.clone());
        // Refused, they are closed here: nothing else can be done with them.
        let _ = self.locks_lane.submit(move || {
            drop(owned);
            this.locks.wake(&node.key);
            then();
        });
    }
}

impl Locking {
    /// Tries to get the lock, on a thread that may wait for the backend. Does not block.
    pub(super) fn attempt(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.is_under_way, true) {
                state.again = true;
                return;
            }
            state.again = false;
        }
        let this = self.clone();
        let submitted = self.fs.locks_lane.submit(move || {
            if !this.pending.has_ended() {
                this.try_once();
            }
        });
        if submitted.is_err() {
            self.pending.finish(Err(FsError::BackendTimeout));
        }
    }

    fn try_once(self: &Arc<Self>) {
        let locks = &self.fs.locks;
        if self.request.waits {
            locks.wait(&self.node.key, self);
        }
        match self.set() {
            Ok(()) if self.request.lock.kind == LockKind::Unlocked => {
                locks.wake(&self.node.key);
                self.pending.finish(Ok(()));
            }
            Ok(()) => self.revalidate(),
            Err(error) if self.request.waits && is_taken(&error) => self.try_later(),
            Err(error) => {
                self.pending.finish(Err(FsError::Backend(error)));
            }
        }
    }

    fn try_later(self: &Arc<Self>) {
        let delay = {
            let mut state = self.state.lock();
            state.is_under_way = false;
            state.failed += 1;
            if state.again {
                None
            } else if std::mem::replace(&mut state.has_timer, true) {
                return;
            } else {
                Some(ASK_AGAIN_FIRST * 2u32.pow(state.failed.min(16)))
            }
        };
        let Some(delay) = delay else {
            return self.attempt();
        };
        let this = self.clone();
        self.pending.after(delay.min(ASK_AGAIN_LAST), move |_| {
            this.state.lock().has_timer = false;
            this.attempt();
        });
    }

    /// What a lock lets see must not be older than the lock. Blocks on the backend.
    fn revalidate(self: &Arc<Self>) {
        let (fs, node) = (&self.fs, &self.node);
        let before = node.version(&node.state.lock());
        let asked = Instant::now();
        let fresh = fs.backend.attributes(&fs.place(node, &self.caller));
        let is_same = fresh.as_ref().is_ok_and(|fresh| fresh.version() == before);
        if let Ok(fresh) = fresh {
            fs.take_attributes(node, fresh, asked);
        }
        let open = node.state.lock().open.clone();
        let is_written = open.is_some_and(|open| open.changing().is_some());
        if is_same && !is_written {
            return self.grant();
        }
        // What is written here does not show whether others wrote beside it.
        let (whole, this) = (ByteRange::new(0, u64::MAX), self.clone());
        fs.invalidations
            .forget_range_then(node.id, whole, move || this.grant());
    }

    fn grant(self: &Arc<Self>) {
        if !self.pending.finish(Ok(())) {
            let this = self.clone();
            // Refused, the lock goes with its owner.
            let _ = self.fs.locks_lane.submit(move || this.give_back());
        }
    }

    fn set(&self) -> io::Result<()> {
        let LockRequest { owner, lock, .. } = self.request;
        let file = match self.fs.locks.file_of(&self.node.key, &owner) {
            Some(file) => file,
            None if lock.kind == LockKind::Unlocked => return Ok(()),
            None => self.open()?,
        };
        match owner.family {
            LockFamily::Whole => file.set_whole(lock.kind),
            LockFamily::Ranges => file.set_range(lock),
        }
    }

    fn open(&self) -> io::Result<Arc<dyn LockFile>> {
        let fs = &self.fs;
        let place = fs.place(&self.node, &self.caller);
        let owned = Owned {
            owner: self.request.owner,
            handle: self.request.handle,
            pid: self.request.pid,
            file: fs.backend.open_to_lock(&place, &self.caller)?,
            _in_the_way: fs.descriptors.count(&self.node.key),
        };
        Ok(fs.locks.put(&self.node.key, owned))
    }

    /// Granted after its request was given up.
    fn give_back(&self) {
        let LockRequest { owner, lock, .. } = self.request;
        let Some(file) = self.fs.locks.file_of(&self.node.key, &owner) else {
            return;
        };
        let kind = LockKind::Unlocked;
        let outcome = match owner.family {
            LockFamily::Whole => file.set_whole(kind),
            LockFamily::Ranges => file.set_range(RangeLock { kind, ..lock }),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "a lock granted after its request had ended could not be given back");
        }
        self.fs.locks.wake(&self.node.key);
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}
