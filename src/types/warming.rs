//! What is said of files that are to be in the cache as a whole: by the daemon, in the values of extended attributes that no
//! backend has, to whoever warms it up.

use serde::{Deserialize, Serialize};

/// Asks how much of a file is in the cache: [`Held`].
pub const HELD_ATTRIBUTE: &str = "cachefs.held";
/// Asks how much can be warmed up: [`Room`].
pub const ROOM_ATTRIBUTE: &str = "cachefs.room";
/// Fetches a file whole, and tells what became of it: [`Warmed`]. What follows names the warm-up it is part of.
pub const WARM_ATTRIBUTE: &str = "cachefs.warm.";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    pub size_bytes: u64,
    pub cached_bytes: u64,
    /// The backend was asked, and has this version.
    pub is_confirmed: bool,
}

impl Held {
    pub fn is_whole(&self) -> bool {
        self.cached_bytes >= self.size_bytes
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Room {
    /// The most that is kept of what is warmed up.
    pub bytes: u64,
}

/// What became of a file that was to be in the cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Warmed {
    /// It was there.
    Cached {
        bytes: u64,
    },
    Fetched {
        bytes: u64,
        fetched_bytes: u64,
    },
    /// It cannot be.
    Left {
        bytes: u64,
        reason: String,
    },
}
