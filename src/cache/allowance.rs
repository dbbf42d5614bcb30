//! How much may stay because somebody said so, and the warm-ups that go on.
//!
//! What always holds: what stays never takes more of a directory than eviction makes room for, and nothing of it is evicted
//! for the next of it. A warm-up is known by its name, and ends when it was not heard of for a while.

use super::policy::Blocks;
use super::staying::Stay;
use super::{Cache, CacheDirectory};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A warm-up that has asked for nothing for so long has ended.
const IDLE_MAX: Duration = Duration::from_secs(60);
const SESSIONS_MAX: usize = 16;

/// What may stay of one directory, and how much of that is taken.
struct Share {
    since: Blocks,
    taken_bytes: AtomicU64,
    max_bytes: u64,
    /// The last file that waited for room did so in vain.
    finds_no_room: AtomicBool,
}

/// Files that are to stay, for one reason, as far as there is room for them beside one another.
pub struct Allowance {
    is_pin: bool,
    /// One for each directory.
    shares: Vec<Share>,
}

impl Allowance {
    pub(super) fn is_pin(&self) -> bool {
        self.is_pin
    }

    /// Where the access clock of a directory stood when it began.
    pub(super) fn since(&self, directory: usize) -> Blocks {
        self.shares[directory].since
    }

    /// Whether there is room for so much more.
    pub(super) fn take(&self, directory: usize, bytes: u64) -> bool {
        let share = &self.shares[directory];
        let more = |taken: u64| (taken + bytes <= share.max_bytes).then_some(taken + bytes);
        share
            .taken_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    pub(super) fn finds_no_room(&self, directory: usize) -> bool {
        self.shares[directory].finds_no_room.load(Ordering::Relaxed)
    }

    pub(super) fn note_room(&self, directory: usize, was_found: bool) {
        let finds_no_room = &self.shares[directory].finds_no_room;
        finds_no_room.store(!was_found, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, directory: usize, bytes: u64) {
        let taken_bytes = &self.shares[directory].taken_bytes;
        taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What a file of it stays for.
    pub(super) fn stay(&self, directory: &CacheDirectory) -> Stay {
        match self.is_pin {
            true => Stay::Pinned,
            false => Stay::Warmed(directory.clock.load(Ordering::Relaxed)),
        }
    }
}

/// The warm-ups that go on, by name.
#[derive(Default)]
pub(super) struct Sessions(Vec<Session>);

struct Session {
    name: String,
    allowance: Arc<Allowance>,
    heard_of: Instant,
}

impl Cache {
    /// The allowance of a warm-up, which begins with the first file of its name.
    pub fn warm_up(&self, name: &str) -> Arc<Allowance> {
        let mut sessions = self.sessions.lock();
        if let Some(known) = sessions.0.iter_mut().find(|one| one.name == name) {
            known.heard_of = Instant::now();
            return known.allowance.clone();
        }
        let allowance = self.allowance(false);
        if sessions.0.len() >= SESSIONS_MAX {
            sessions.0.sort_by_key(|one| one.heard_of);
            sessions.0.remove(0);
        }
        sessions.0.push(Session {
            name: name.to_owned(),
            allowance: allowance.clone(),
            heard_of: Instant::now(),
        });
        self.note_sessions(&sessions);
        allowance
    }

    /// What may be pinned.
    pub fn pinning(&self) -> Arc<Allowance> {
        self.allowance(true)
    }

    fn allowance(&self, is_pin: bool) -> Arc<Allowance> {
        let share = |directory: &Arc<CacheDirectory>| {
            let pinned_bytes = match is_pin {
                true => 0,
                false => directory.staying.pinned().bytes,
            };
            Share {
                since: directory.clock.load(Ordering::Relaxed),
                taken_bytes: AtomicU64::new(0),
                max_bytes: directory.staying_bytes_max().saturating_sub(pinned_bytes),
                finds_no_room: AtomicBool::new(false),
            }
        };
        Arc::new(Allowance {
            is_pin,
            shares: self.directories.iter().map(share).collect(),
        })
    }

    /// Forgets the warm-ups that have ended.
    pub(super) fn tend_sessions(&self) {
        let mut sessions = self.sessions.lock();
        let before = sessions.0.len();
        sessions.0.retain(|one| {
            one.heard_of.elapsed() < IDLE_MAX || Arc::strong_count(&one.allowance) > 1
        });
        if sessions.0.len() != before {
            self.note_sessions(&sessions);
        }
    }

    fn note_sessions(&self, sessions: &Sessions) {
        for (index, directory) in self.directories.iter().enumerate() {
            let since = sessions
                .0
                .iter()
                .map(|one| one.allowance.since(index))
                .min();
            directory.staying.set_warmed_since(since);
        }
    }
}
