//! Least frequently used, with aging: a queue for each power of two of uses, in the order of the last one. Each use
//! is worth the time that it takes to ask for some whole caches, so that what was popular once goes in the end
//! (Arlitt and others, "Evaluating content management techniques for web proxy caches", 2000).

use super::lru::is_stale;
use super::{Blocks, Entry, EvictionPolicy, Heads, Moment, Place, Queue, Usage};

/// The queue of each class, the least used first: that of what came in lately, then that of all others' caches.
const CLASSES: [Queue; 2] = [Queue::PROBATION, Queue::MAIN];
/// The class of what somebody has asked for, whether it was used or not.
const ASKED_FOR: usize = 1;
/// The most used.
const CLASS_MAX: usize = 5;
/// Uses above the class' own lead to the next; more than the highest count are taken for as many.
const HITS_TO_RISE_MAX: u8 = 7;
/// What one use is worth: the time in which so many times the cache is asked for.
const USE_CACHES: Blocks = 8;

pub struct Lfu;

fn class_of(queue: Queue) -> usize {
    if queue.index() > CLASS_MAX {
        return ASKED_FOR;
    }
    let swapped = CLASSES.iter().position(|held| *held == queue);
    swapped.unwrap_or(queue.index())
}

fn queue_of(class: usize) -> Queue {
    CLASSES
        .get(class)
        .copied()
        .unwrap_or_else(|| Queue::at(class))
}

fn uses(class: usize) -> Blocks {
    1 << class
}

/// How long what is in a class may stand there.
fn worth(class: usize, at: Moment) -> Blocks {
    uses(class) * USE_CACHES * at.limit_blocks
}

impl EvictionPolicy for Lfu {
    fn admit(&mut self, _: Entry, at: Moment) -> Place {
        Place::new(queue_of(0), at.now)
    }

    fn used(&self, place: Place, usage: Usage, at: Moment) -> Option<Place> {
        if usage == Usage::Closed || !is_stale(place, at) {
            return None;
        }
        let class = class_of(place.queue);
        let hits = place.hits + 1;
        let rises = u64::from(hits) >= uses(class).min(HITS_TO_RISE_MAX.into());
        let (class, hits) = match rises {
            true => ((class + 1).min(CLASS_MAX), 0),
            false => (class, hits),
        };
        Some(Place {
            hits,
            ..Place::new(queue_of(class), at.now)
        })
    }

    fn choose(&self, heads: &Heads, at: Moment) -> Option<Queue> {
        let rank = |queue, position| position + worth(class_of(queue), at);
        let first = heads.lowest(|_| true, rank)?;
        let position = heads.positions[first.index()]?;
        // What has just come in ranks as the least used of now, with or without a place.
        let goes_after_news = rank(first, position) > at.now + worth(0, at);
        (heads.unplaced_blocks == 0 || !goes_after_news).then_some(first)
    }

    fn spare(&self, _: Place, _: Moment) -> Option<Place> {
        None
    }

    fn evicted(&mut self, _: Entry, _: Place, _: Moment) {}
}
