//! Who talks to the daemon at the same time.
//!
//! What always holds: whoever asks at once is answered in turn, however many connections are held by those who ask nothing.

use parking_lot::{Condvar, Mutex};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 64;
/// Who has not asked by then gives way, where others wait.
const ASKS_WITHIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct Slots {
    taken: Mutex<Taken>,
    freed: Condvar,
}

#[derive(Default)]
struct Taken {
    next: u64,
    talks: Vec<Talk>,
}

struct Talk {
    id: u64,
    since: Instant,
    /// `None` once it has asked, or was cut off.
    silent: Option<Arc<UnixStream>>,
}

/// The right to be served, until it is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
}

impl Slots {
    /// Waits until there is one.
    pub fn take(self: &Arc<Self>, stream: &Arc<UnixStream>) -> Slot {
        let mut taken = self.taken.lock();
        while taken.talks.len() >= CONNECTIONS_MAX {
            taken.cut_off_silent();
            self.freed.wait_for(&mut taken, LOOK_AGAIN);
        }
        let id = taken.next;
        taken.next += 1;
        taken.talks.push(Talk {
            id,
            since: Instant::now(),
            silent: Some(stream.clone()),
        });
        Slot {
            slots: self.clone(),
            id,
        }
    }
}

impl Taken {
    fn cut_off_silent(&mut self) {
        let late = |talk: &&mut Talk| talk.silent.is_some() && talk.since.elapsed() > ASKS_WITHIN;
        if let Some(talk) = self.talks.iter_mut().find(late)
            && let Some(stream) = talk.silent.take()
        {
            // Its thread reads the end, and lets go.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Slot {
    /// Its question is there.
    pub fn has_asked(&self) {
        let mut taken = self.slots.taken.lock();
        let talk = taken.talks.iter_mut().find(|talk| talk.id == self.id);
        if let Some(talk) = talk {
            talk.silent = None;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        taken.talks.retain(|talk| talk.id != self.id);
        drop(taken);
        self.slots.freed.notify_one();
    }
}
