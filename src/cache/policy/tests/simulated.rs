//! A cache of entries without bytes that goes by a policy as the real one does: for tests and for the benchmark.

use super::policy::{
    Blocks, Entry, EvictionPolicy, Heads, Moment, Place, QUEUES, Queue, SPARED_IN_A_ROW_MAX, Usage,
};
use std::collections::{BTreeMap, HashMap};

pub struct Held {
    blocks: Blocks,
    place: Place,
}

pub struct SimulatedCache {
    policy: Box<dyn EvictionPolicy>,
    limit_blocks: Blocks,
    pub held_blocks: Blocks,
    probation_blocks: Blocks,
    clock: Blocks,
    pub entries: HashMap<u64, Held>,
    /// Positions are never given out twice.
    queues: [BTreeMap<Blocks, u64>; QUEUES],
    spared_in_a_row: usize,
}

impl SimulatedCache {
    pub fn new(policy: Box<dyn EvictionPolicy>, limit_blocks: Blocks) -> Self {
        Self {
            policy,
            limit_blocks,
            held_blocks: 0,
            probation_blocks: 0,
            clock: 0,
            entries: HashMap::new(),
            queues: Default::default(),
            spared_in_a_row: 0,
        }
    }

    /// An entry is opened, read and closed: whether it was there.
    pub fn request(&mut self, id: u64, blocks: Blocks) -> bool {
        self.clock += blocks.max(1);
        if let Some(held) = self.entries.get(&id) {
            let place = held.place;
            if let Some(moved) = self.policy.used(place, Usage::Opened, self.moment()) {
                self.put(id, moved);
            }
            return true;
        }
        while self.held_blocks + blocks > self.limit_blocks {
            if !self.evict_one() {
                return false;
            }
        }
        let place = self.policy.admit(Entry { id, blocks }, self.moment());
        self.entries.insert(id, Held { blocks, place });
        self.held_blocks += blocks;
        self.enter(id, blocks, place);
        false
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.clock,
            limit_blocks: self.limit_blocks,
            held_blocks: self.held_blocks,
        }
    }

    fn enter(&mut self, id: u64, blocks: Blocks, place: Place) {
        self.queues[place.queue.index()].insert(place.position, id);
        if place.queue == Queue::PROBATION {
            self.probation_blocks += blocks;
        }
    }

    fn leave(&mut self, blocks: Blocks, place: Place) {
        self.queues[place.queue.index()].remove(&place.position);
        if place.queue == Queue::PROBATION {
            self.probation_blocks -= blocks;
        }
    }

    fn put(&mut self, id: u64, place: Place) {
        let Some(held) = self.entries.get_mut(&id) else {
            return;
        };
        let (blocks, before) = (held.blocks, std::mem::replace(&mut held.place, place));
        self.leave(blocks, before);
        self.enter(id, blocks, place);
    }

    /// Until one has gone; false where none is left.
    fn evict_one(&mut self) -> bool {
        loop {
            let heads = Heads {
                positions: self
                    .queues
                    .each_ref()
                    .map(|queue| queue.first_key_value().map(|(position, _)| *position)),
                probation_blocks: self.probation_blocks,
                unplaced_blocks: 0,
            };
            let Some(queue) = self.policy.choose(&heads, self.moment()) else {
                return false;
            };
            let (_, id) = self.queues[queue.index()]
                .first_key_value()
                .expect("a policy chooses a queue that is not empty");
            let id = *id;
            let (blocks, place) = (self.entries[&id].blocks, self.entries[&id].place);
            self.clock += 1;
            let spared = self.policy.spare(place, self.moment());
            if let Some(moved) = spared.filter(|_| self.spared_in_a_row < SPARED_IN_A_ROW_MAX) {
                self.spared_in_a_row += 1;
                self.put(id, moved);
                continue;
            }
            self.spared_in_a_row = 0;
            self.entries.remove(&id);
            self.leave(blocks, place);
            self.held_blocks -= blocks;
            self.policy
                .evicted(Entry { id, blocks }, place, self.moment());
            return true;
        }
    }
}
