//! Who asks: the identity that the backend is asked with.

use super::FileSystem;
use crate::sys::process;
use crate::types::{Caller, Credentials};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A thread that changes its groups is believed to have the old ones for this long.
const GROUPS_KNOWN_FOR: Duration = Duration::from_secs(2);
/// Threads whose groups are remembered.
const CALLERS_MAX: usize = 1024;

/// Supplementary groups, and since when they are known.
type Groups = (Instant, Arc<[u32]>);

/// As whom the backend is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// As whoever asks here.
    Caller,
    /// As the daemon, which can be nobody else or shall not be.
    Daemon(Credentials),
}

/// Supplementary groups, which the kernel does not send, by who sent a request.
pub(super) struct Callers {
    identity: Identity,
    known: Mutex<LruCache<(u32, u32, u32), Groups>>,
}

impl Callers {
    pub(super) fn new(identity: Identity) -> Self {
        let callers = NonZeroUsize::new(CALLERS_MAX).expect("not zero");
        Self {
            identity,
            known: Mutex::new(LruCache::new(callers)),
        }
    }

    /// Whether the backend is asked as whoever asks here.
    pub(super) fn act_for_themselves(&self) -> bool {
        self.identity == Identity::Caller
    }

    /// The mode of a new file. What others make as the daemon belongs to it, and must not run with its rights.
    pub(super) fn mode_of_new(&self, caller: &Caller, mode: u32) -> u32 {
        match self.identity {
            Identity::Daemon(_) if caller.uid != 0 => mode & !(libc::S_ISUID | libc::S_ISGID),
            _ => mode,
        }
    }

    /// The groups of the thread that asks; none where it has ended, or is of another pid namespace.
    fn groups_of(&self, caller: &Caller) -> Arc<[u32]> {
        let key = (caller.pid, caller.uid, caller.gid);
        if let Some((since, groups)) = self.known.lock().get(&key)
            && since.elapsed() < GROUPS_KNOWN_FOR
        {
            return groups.clone();
        }
        let read = Instant::now();
        let groups: Arc<[u32]> = process::groups_of(caller.pid).unwrap_or_default().into();
        self.known.lock().put(key, (read, groups.clone()));
        groups
    }
}

impl FileSystem {
    /// The identity to ask the backend with. Reads /proc; waits for nothing.
    pub(super) fn credentials(&self, caller: &Caller) -> Credentials {
        match &self.callers.identity {
            Identity::Daemon(daemon) => daemon.clone(),
            Identity::Caller => self.own_credentials(caller),
        }
    }

    /// The caller's own, whoever asks the backend.
    pub(super) fn own_credentials(&self, caller: &Caller) -> Credentials {
        Credentials {
            uid: caller.uid,
            gid: caller.gid,
            groups: self.callers.groups_of(caller),
        }
    }
}
