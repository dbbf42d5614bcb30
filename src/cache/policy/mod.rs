//! Which of the cached files goes when there is no room. Pure: no files, threads or time.
//!
//! What a policy remembers of an entry is its [`Place`], one word, which whoever keeps the entries stores with them and
//! can find the first of each queue by. So a million files cost the policy no memory, it knows them all at once after
//! a restart, and what it decides on is what is on the disk.
//!
//! - `place`: queues, and a place in one
//! - `ghost`: what has gone, remembered by its hash
//! - `s3fifo`, `lru`, `lfu`, `arc`: the policies
//!
//! Sizes and times are counted in 4 KiB blocks: the access clock says how much has been asked for so far.

mod arc;
mod ghost;
mod lfu;
mod lru;
mod place;
mod s3fifo;
#[cfg(test)]
mod tests;

pub use place::{Blocks, HITS_MAX, Heads, Place, QUEUES, Queue};

/// So many entries are spared one after the other at most: then the next goes, whatever speaks for it. Room has to be
/// made also where everything was hit.
pub const SPARED_IN_A_ROW_MAX: usize = 256;

/// Something that is cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// A hash of its name, the same after it went and came back.
    pub id: u64,
    pub blocks: Blocks,
}

/// What decisions are made by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The access clock.
    pub now: Blocks,
    pub limit_blocks: Blocks,
    pub held_blocks: Blocks,
}

/// How an entry is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// It was asked for: what follows by the same handle is no further use.
    Opened,
    /// Whoever asked for it has done with it.
    Closed,
}

pub trait EvictionPolicy: Send {
    /// The place of an entry that has come in.
    fn admit(&mut self, entry: Entry, at: Moment) -> Place;

    /// The new place of an entry in use, if that is worth noting.
    fn used(&self, place: Place, usage: Usage, at: Moment) -> Option<Place>;

    /// The queue whose first is to be judged next. `None`: all are empty, or what has to go next has no place yet.
    fn choose(&self, heads: &Heads, at: Moment) -> Option<Queue>;

    /// Where the first of a queue moves rather than go.
    fn spare(&self, place: Place, at: Moment) -> Option<Place>;

    /// The entry had this place, and has gone.
    fn evicted(&mut self, entry: Entry, place: Place, at: Moment);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyKind {
    S3Fifo,
    Lru,
    Lfu,
    Arc,
}

impl PolicyKind {
    pub fn start(self) -> Box<dyn EvictionPolicy> {
        match self {
            Self::S3Fifo => Box::<s3fifo::S3Fifo>::default(),
            Self::Lru => Box::new(lru::Lru),
            Self::Lfu => Box::new(lfu::Lfu),
            Self::Arc => Box::<arc::Arc>::default(),
        }
    }
}
