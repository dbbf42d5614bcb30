//! What holds for every policy, and what the default one is chosen for.

#[path = "../../../../benches/eviction/traces.rs"]
mod traces;

mod simulated;

use crate::cache::policy::{self, Entry, HITS_MAX, Heads, Moment, Place, PolicyKind, Queue, Usage};
use proptest::prelude::*;
use simulated::SimulatedCache;

const KINDS: [PolicyKind; 4] = [
    PolicyKind::S3Fifo,
    PolicyKind::Lru,
    PolicyKind::Lfu,
    PolicyKind::Arc,
];

fn moment(now: u64) -> Moment {
    Moment {
        now,
        limit_blocks: 1000,
        held_blocks: 900,
    }
}

fn entry(id: u64) -> Entry {
    Entry { id, blocks: 10 }
}

fn any_place() -> impl Strategy<Value = Place> {
    (0usize..8, 0..=HITS_MAX, 0u64..1 << 58).prop_map(|(queue, hits, position)| Place {
        queue: Queue::at(queue),
        hits,
        position,
    })
}

proptest! {
    #[test]
    fn a_place_comes_back_as_it_was_stored(place in any_place()) {
        prop_assert_eq!(Place::from_bits(place.bits()), place);
    }

    #[test]
    fn any_stored_word_is_a_place(bits in any::<u64>()) {
        prop_assert_eq!(Place::from_bits(bits).bits(), bits);
    }

    #[test]
    fn places_sort_by_queue_then_position_whatever_their_hits(one in any_place(), other in any_place()) {
        let expected = (one.queue, one.position).cmp(&(other.queue, other.position));
        prop_assert_eq!(one.order().cmp(&other.order()), expected);
    }

    /// Whatever was kept under another policy, all can go, and what is held is what came in.
    #[test]
    fn a_cache_never_holds_more_than_its_limit_and_can_always_make_room(
        requests in prop::collection::vec((0u64..200, 1u64..120), 1..400),
        limit_blocks in 1u64..500,
    ) {
        for kind in KINDS {
            let mut cache = SimulatedCache::new(kind.start(), limit_blocks);
            for (id, blocks) in &requests {
                let was_there = cache.entries.contains_key(id);
                prop_assert_eq!(cache.request(*id, *blocks), was_there);
                prop_assert!(cache.held_blocks <= limit_blocks);
                prop_assert_eq!(cache.entries.contains_key(id), was_there || *blocks <= limit_blocks);
            }
        }
    }

    #[test]
    fn a_policy_chooses_a_queue_that_is_not_empty_and_one_if_there_is_any(
        positions in prop::array::uniform8(prop::option::of(0u64..1 << 40)),
        probation_blocks in 0u64..2000,
    ) {
        let heads = Heads { positions, probation_blocks, unplaced_blocks: 0 };
        for kind in KINDS {
            let chosen = kind.start().choose(&heads, moment(1 << 41));
            prop_assert_eq!(chosen.is_some(), positions.iter().any(Option::is_some));
            if let Some(queue) = chosen {
                prop_assert!(positions[queue.index()].is_some(), "{:?}", kind);
            }
        }
    }

    #[test]
    fn a_use_never_moves_an_entry_nearer_to_its_end(place in any_place(), later in 0u64..1 << 20) {
        let now = place.position.saturating_add(later).min((1 << 58) - 1);
        for kind in KINDS {
            for usage in [Usage::Opened, Usage::Closed] {
                if let Some(moved) = kind.start().used(place, usage, moment(now)) {
                    prop_assert!(moved.position >= place.position);
                    prop_assert_ne!(moved, place, "{:?}", kind);
                }
            }
        }
    }

    #[test]
    fn nothing_is_spared_forever(place in any_place()) {
        for kind in KINDS {
            let policy = kind.start();
            let (mut place, mut rounds) = (place, 0);
            while let Some(moved) = policy.spare(place, moment(5)) {
                place = moved;
                rounds += 1;
                prop_assert!(rounds <= usize::from(HITS_MAX));
            }
        }
    }
}

#[test]
fn s3fifo_counts_uses_soon_after_one_another_once() {
    let mut policy = PolicyKind::S3Fifo.start();
    let place = policy.admit(entry(1), moment(100));
    assert_eq!(place.queue, Queue::PROBATION);
    assert_eq!(policy.used(place, Usage::Opened, moment(149)), None);
    let hit = policy.used(place, Usage::Opened, moment(150)).unwrap();
    assert_eq!(hit.hits, 1);
    assert_eq!(policy.used(hit, Usage::Opened, moment(900)), None);
    assert_eq!(policy.used(place, Usage::Closed, moment(900)), None);
}

#[test]
fn s3fifo_takes_what_comes_back_for_proved_and_what_was_hit_stays() {
    let mut policy = PolicyKind::S3Fifo.start();
    let once = policy.admit(entry(1), moment(100));
    assert_eq!(policy.spare(once, moment(200)), None);
    policy.evicted(entry(1), once, moment(200));
    assert_eq!(policy.admit(entry(1), moment(300)).queue, Queue::MAIN);
    let hit = policy.used(once, Usage::Opened, moment(400)).unwrap();
    let spared = policy.spare(hit, moment(500)).unwrap();
    assert_eq!(spared, Place::new(Queue::MAIN, 500));
}

#[test]
fn what_has_no_place_yet_is_waited_for_rather_than_what_has_proved_its_worth() {
    let heads = |unplaced_blocks| {
        let mut heads = Heads {
            unplaced_blocks,
            ..Heads::default()
        };
        heads.positions[Queue::MAIN.index()] = Some(7);
        heads
    };
    let policy = PolicyKind::S3Fifo.start();
    assert_eq!(policy.choose(&heads(101), moment(9)), None);
    assert_eq!(policy.choose(&heads(100), moment(9)), Some(Queue::MAIN));
    let lru = PolicyKind::Lru.start();
    assert_eq!(lru.choose(&heads(101), moment(9)), Some(Queue::MAIN));
}

#[test]
fn lfu_keeps_what_is_used_often_until_it_is_no_longer() {
    let mut cache = SimulatedCache::new(PolicyKind::Lfu.start(), 100);
    for round in 0..40u64 {
        cache.request(1, 1);
        (0..40).for_each(|other| {
            cache.request(1000 + round * 40 + other, 1);
        });
    }
    (0..150).for_each(|id| {
        cache.request(10_000 + id, 1);
    });
    assert!(cache.entries.contains_key(&1), "used 40 times");
    (0..100_000).for_each(|id| {
        cache.request(20_000 + id, 1);
    });
    assert!(!cache.entries.contains_key(&1), "and not since");
}

/// The figures of `cargo bench --bench eviction`, on shorter traces.
#[test]
fn the_default_policy_withstands_scans_and_is_nowhere_much_worse_than_lru() {
    for trace in traces::all(160_000) {
        let percent = |kind: PolicyKind| {
            let mut cache = SimulatedCache::new(kind.start(), trace.cache_blocks);
            trace.hit_percent(|id| cache.request(id, 1))
        };
        let gained = percent(PolicyKind::S3Fifo) - percent(PolicyKind::Lru);
        println!("{}: {gained:+.1} points", trace.name);
        let wanted = if trace.is_scan { 10.0 } else { -1.5 };
        assert!(gained >= wanted, "{}: {gained:+.1} points", trace.name);
    }
}
