//! Least recently used: one queue, in the order of the last use.

use super::{Blocks, Entry, EvictionPolicy, Heads, Moment, Place, Queue, Usage};

/// An entry this near the young end, as part of all that is held, is not moved again.
const YOUNG_PART: Blocks = 8;

pub struct Lru;

/// Whether an entry has stood long enough that moving it to the end makes a difference.
pub(super) fn is_stale(place: Place, at: Moment) -> bool {
    place.age(at.now) > at.held_blocks / YOUNG_PART
}

impl EvictionPolicy for Lru {
    fn admit(&mut self, _: Entry, at: Moment) -> Place {
        Place::new(Queue::MAIN, at.now)
    }

    fn used(&self, place: Place, _: Usage, at: Moment) -> Option<Place> {
        is_stale(place, at).then_some(Place::new(Queue::MAIN, at.now))
    }

    fn choose(&self, heads: &Heads, _: Moment) -> Option<Queue> {
        heads.lowest(|_| true, |_, position| position)
    }

    fn spare(&self, _: Place, _: Moment) -> Option<Place> {
        None
    }

    fn evicted(&mut self, _: Entry, _: Place, _: Moment) {}
}
