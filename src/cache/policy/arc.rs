//! ARC (Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003), by size: what was used once
//! (T1, [`Queue::PROBATION`]) and what was used again (T2), each in the order of the last use; the ghosts of both (B1, B2)
//! tell which of the two should have been larger.

use super::ghost::GhostList;
use super::lru::is_stale;
use super::{Blocks, Entry, EvictionPolicy, Heads, Moment, Place, Queue, Usage};

#[derive(Default)]
pub struct Arc {
    /// What T1 should have: the `p` of the paper.
    target_blocks: Blocks,
    once: GhostList,
    again: GhostList,
}

/// How far one ghost moves the target: further the fewer there are of its kind.
fn step(entry: Entry, own: &GhostList, other: &GhostList) -> Blocks {
    entry.blocks * (other.blocks() / own.blocks().max(1)).max(1)
}

impl EvictionPolicy for Arc {
    fn admit(&mut self, entry: Entry, at: Moment) -> Place {
        let grow_by = step(entry, &self.once, &self.again);
        let shrink_by = step(entry, &self.again, &self.once);
        let queue = if self.once.recall(entry.id) {
            self.target_blocks = (self.target_blocks + grow_by).min(at.limit_blocks);
            Queue::MAIN
        } else if self.again.recall(entry.id) {
            self.target_blocks = self.target_blocks.saturating_sub(shrink_by);
            Queue::MAIN
        } else {
            Queue::PROBATION
        };
        Place::new(queue, at.now)
    }

    fn used(&self, place: Place, usage: Usage, at: Moment) -> Option<Place> {
        let queue = match usage {
            Usage::Opened => Queue::MAIN,
            Usage::Closed => place.queue,
        };
        let is_news = queue != place.queue || is_stale(place, at);
        is_news.then_some(Place::new(queue, at.now))
    }

    fn choose(&self, heads: &Heads, _: Moment) -> Option<Queue> {
        heads.probation_above(self.target_blocks)
    }

    fn spare(&self, _: Place, _: Moment) -> Option<Place> {
        None
    }

    fn evicted(&mut self, entry: Entry, place: Place, at: Moment) {
        let ghosts = match place.queue {
            Queue::PROBATION => &mut self.once,
            _ => &mut self.again,
        };
        ghosts.remember(entry, at.limit_blocks);
    }
}
