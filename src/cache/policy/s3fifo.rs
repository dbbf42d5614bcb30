//! S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, "FIFO Queues are All You Need for Cache Eviction", SOSP 2023), by size: a
//! small queue on probation, which what is used once leaves the cache by; a main queue whose first go round again as
//! often as they were hit; and the ghosts of what left by the small one, which come back into the main one.
//!
//! With a filter for correlated references (Robinson and Devarakonda, SIGMETRICS 1990): uses soon after an entry came to
//! stand where it stands tell nothing new. Without it a scan that touches all it reads twice fills the main queue.

use super::ghost::GhostList;
use super::{Blocks, Entry, EvictionPolicy, Heads, Moment, Place, Queue, Usage};

/// This part of the cache is on probation.
const PROBATION_PART: Blocks = 10;
/// Uses within this part of the cache's size are one.
const CORRELATED_PART: Blocks = 20;
/// More hits than this tell no more.
const HITS_COUNTED: u8 = 2;

#[derive(Default)]
pub struct S3Fifo {
    ghosts: GhostList,
}

impl EvictionPolicy for S3Fifo {
    fn admit(&mut self, entry: Entry, at: Moment) -> Place {
        let queue = match self.ghosts.recall(entry.id) {
            true => Queue::MAIN,
            false => Queue::PROBATION,
        };
        Place::new(queue, at.now)
    }

    fn used(&self, place: Place, usage: Usage, at: Moment) -> Option<Place> {
        let counted = match place.queue {
            Queue::PROBATION => 1,
            _ => HITS_COUNTED,
        };
        let is_correlated = place.age(at.now) < at.limit_blocks / CORRELATED_PART;
        let is_news = usage == Usage::Opened && !is_correlated && place.hits < counted;
        is_news.then_some(Place {
            hits: place.hits + 1,
            ..place
        })
    }

    fn choose(&self, heads: &Heads, at: Moment) -> Option<Queue> {
        heads.probation_above(at.limit_blocks / PROBATION_PART)
    }

    fn spare(&self, place: Place, at: Moment) -> Option<Place> {
        let left = place.hits.checked_sub(1)?;
        Some(Place {
            hits: left,
            ..Place::new(Queue::MAIN, at.now)
        })
    }

    fn evicted(&mut self, entry: Entry, place: Place, at: Moment) {
        if place.queue == Queue::PROBATION {
            let main_blocks = at.limit_blocks - at.limit_blocks / PROBATION_PART;
            self.ghosts.remember(entry, main_blocks);
        }
    }
}
