//! Operations of programs as they end, told to whoever watches the mount at this moment.
//!
//! What always holds: while nobody watches, a request costs one look at a flag; a listener never waits; an operation
//! that began unwatched is not told of.

use crate::types::{Caller, Timestamp};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// Each costs every operation something, and holds a connection of the control socket.
const LISTENERS_MAX: usize = 4;

/// Where an answer came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// An open after which the kernel reads the cached object by itself.
    Passthrough,
    /// From what is cached, in memory or on the cache disk.
    Hit,
    /// From the cache, after bytes were fetched for it.
    Fill,
    /// The backend was asked, or changed.
    Backend,
    /// It is in the journal.
    Journal,
    /// From what was known, because the backend was slow or away.
    Known,
    /// From the daemon's memory, without waiting for anything.
    Memory,
}

impl Served {
    pub fn in_a_word(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Hit => "hit",
            Self::Fill => "fill",
            Self::Backend => "backend",
            Self::Journal => "journal",
            Self::Known => "known",
            Self::Memory => "memory",
        }
    }
}

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// As the system call is called, or what the kernel makes of it.
    pub operation: &'static str,
    /// From the root of the mount; `None` where the file has no name any more.
    pub path: Option<PathBuf>,
    /// Where a rename or a link leads.
    pub to: Option<PathBuf>,
    /// `pid` is a thread, as the kernel tells it; 0 where nobody in particular asks.
    pub caller: Caller,
    pub offset: Option<u64>,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// 0, or what the program is told.
    pub errno: i32,
    /// Data that was read, written or copied.
    pub moved_bytes: u64,
}

/// An operation that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Names the request, as the daemon's log does.
    pub request: u64,
    pub began: Timestamp,
    pub asked: Asked,
    pub outcome: Outcome,
    pub served: Served,
    pub took: Duration,
}

/// Hears of operations, on whatever thread answers them: it must not wait.
pub trait Listener: Send + Sync {
    fn heard(&self, ended: &Arc<Ended>);
}

struct UnderWay {
    asked: Asked,
    began: Timestamp,
    since: Instant,
    thread: ThreadId,
    served: Option<Served>,
}

#[derive(Default)]
pub struct Watch {
    is_on: AtomicBool,
    under_way: [Mutex<HashMap<u64, UnderWay>>; SHARDS],
    listeners: RwLock<Vec<(u64, Arc<dyn Listener>)>>,
    next_listener: AtomicU64,
}

/// Somebody listens until this is dropped.
pub struct Listening {
    watch: Arc<Watch>,
    number: u64,
}

impl Watch {
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// `None` where too many listen already.
    pub fn listen(self: &Arc<Self>, listener: Arc<dyn Listener>) -> Option<Listening> {
        let number = self.next_listener.fetch_add(1, Ordering::Relaxed);
        let mut listeners = self.listeners.write();
        if listeners.len() >= LISTENERS_MAX {
            return None;
        }
        listeners.push((number, listener));
        self.is_on.store(true, Ordering::Relaxed);
        Some(Listening {
            watch: self.clone(),
            number,
        })
    }

    /// Called by the thread that reads the request; [`Self::end`] follows for each.
    pub fn begin(&self, request: u64, began: Timestamp, asked: Asked) {
        let under_way = UnderWay {
            asked,
            began,
            since: Instant::now(),
            thread: thread::current().id(),
            served: None,
        };
        self.shard(request).lock().insert(request, under_way);
    }

    /// Says where the answer will come from, or that it is not known yet. The last word counts.
    pub fn note(&self, request: u64, served: Option<Served>) {
        if self.is_on()
            && let Some(under_way) = self.shard(request).lock().get_mut(&request)
        {
            under_way.served = served;
        }
    }

    pub fn end(&self, request: u64, outcome: Outcome) {
        let Some(under_way) = self.shard(request).lock().remove(&request) else {
            return;
        };
        // Whoever reads requests waits for nothing; what waits goes to another thread.
        let unsaid = match under_way.thread == thread::current().id() {
            true => Served::Memory,
            false => Served::Backend,
        };
        let ended = Arc::new(Ended {
            request,
            began: under_way.began,
            asked: under_way.asked,
            outcome,
            served: under_way.served.unwrap_or(unsaid),
            took: under_way.since.elapsed(),
        });
        for (_, listener) in self.listeners.read().iter() {
            listener.heard(&ended);
        }
    }

    fn shard(&self, request: u64) -> &Mutex<HashMap<u64, UnderWay>> {
        // Unique ids of the kernel are even.
        &self.under_way[(request / 2) as usize % SHARDS]
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.watch.listeners.write();
        listeners.retain(|(number, _)| *number != self.number);
        self.watch
            .is_on
            .store(!listeners.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Arc<Ended>>>);

    impl Listener for Heard {
        fn heard(&self, ended: &Arc<Ended>) {
            self.0.lock().push(ended.clone());
        }
    }

    fn asked() -> Asked {
        Asked {
            operation: "read",
            path: Some(PathBuf::from("a/b")),
            to: None,
            caller: Caller {
                uid: 1,
                gid: 2,
                pid: 3,
            },
            offset: Some(4),
        }
    }

    const DONE: Outcome = Outcome {
        errno: 0,
        moved_bytes: 10,
    };

    #[test]
    fn what_ends_is_told_while_somebody_listens_and_how_it_was_served() {
        let watch = Arc::new(Watch::default());
        assert!(!watch.is_on());
        let heard = Arc::new(Heard::default());
        let listening = watch.listen(heard.clone()).expect("there is room");
        assert!(watch.is_on());
        for request in [2, 4, 6] {
            watch.begin(request, Timestamp::default(), asked());
        }
        watch.note(2, Some(Served::Fill));
        watch.end(2, DONE);
        watch.end(4, DONE);
        let elsewhere = watch.clone();
        thread::spawn(move || elsewhere.end(6, DONE))
            .join()
            .expect("it ends");
        // Nobody has begun it.
        watch.end(8, DONE);
        let served: Vec<Served> = heard.0.lock().iter().map(|ended| ended.served).collect();
        assert_eq!(served, [Served::Fill, Served::Memory, Served::Backend]);
        drop(listening);
        assert!(!watch.is_on());
    }
}
