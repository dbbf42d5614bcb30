//! A batch that has become large is written at once, while the next one fills, and synced when its time comes.

use super::commit::Commit;
use super::hanging::{Gate, wait_until};
use super::tests::*;
use super::*;
use crate::io::simulator::{FaultPlan, Simulation};
use crate::types::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;

const PIECES_BYTES: usize = 1 << 20;

fn large_settings(interval: Duration) -> JournalSettings {
    let segment_bytes = 8 << 20;
    JournalSettings {
        interval,
        size_bytes: SEGMENTS * segment_bytes,
        segment_bytes,
        batch_bytes: 511 * 4096 - 128,
        ..settings()
    }
}

fn open(simulation: &Simulation, gate: &Arc<Gate>, interval: Duration) -> Opened {
    hanging::open_behind(simulation, gate, large_settings(interval))
}

fn append_large(journal: &Journal, number: u64) -> Sequence {
    let (offset, stamp) = (number << 20, Timestamp::default());
    let data = vec![number as u8; PIECES_BYTES];
    let pieces = journal
        .append_data(Generation(1), offset, stamp, &data, Room::Writers)
        .expect("there is room");
    pieces.last().expect("some").sequence
}

#[test]
fn the_next_batch_fills_while_a_large_one_is_written() {
    let simulation = Simulation::new(41, FaultPlan::none());
    let gate = Arc::default();
    let opened = open(&simulation, &gate, Duration::from_secs(3600));
    gate.set_shut(true);
    let journal = opened.journal.clone();
    let first = append_large(&journal, 0);
    wait_until(|| journal.open_batch() > first);
    // There is no room for it beside the first.
    let (waited, second) = (journal.clone(), journal.clone());
    let filling = spawn(move || append_large(&second, 1));
    wait_until(|| waited.last_told() > first);
    gate.set_shut(false);
    let second = filling.join().expect("no panic");
    journal.make_durable(second).expect("no faults");
    let figures = journal.figures();
    assert_eq!((figures.commits, figures.syncs), (2, 1));
}

#[test]
fn who_has_no_place_beside_two_large_batches_goes_on_when_one_is_written() {
    let simulation = Simulation::new(43, FaultPlan::none());
    let gate = Arc::default();
    let opened = open(&simulation, &gate, Duration::from_secs(3600));
    gate.set_shut(true);
    let journal = &opened.journal;
    let first = append_large(journal, 0);
    wait_until(|| journal.open_batch() > first);
    let second = append_large(journal, 1);
    let (filling, has_come) = (journal.clone(), Arc::new(AtomicBool::new(false)));
    let comes = has_come.clone();
    let third = spawn(move || {
        let third = append_large(&filling, 2);
        comes.store(true, Ordering::Relaxed);
        third
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!has_come.load(Ordering::Relaxed), "there is no room for it");
    gate.set_shut(false);
    let third = third.join().expect("no panic");
    assert!(first < second && second < third);
    journal.make_durable(third).expect("no faults");
    assert_eq!(journal.figures().commits, 3);
}

/// Who waits on a thread of his own may come too late to commit, each time one large batch follows another.
#[test]
fn whoever_writes_what_somebody_waits_for_on_a_thread_syncs_it() {
    let simulation = Simulation::new(44, FaultPlan::none());
    let gate = Arc::default();
    let opened = open(&simulation, &gate, Duration::from_secs(3600));
    let journal = &opened.journal;
    for is_wanted in [false, true] {
        let sequence = append(journal, 0).expect("there is room");
        let mut state = journal.state.lock();
        // As it is where he has seen another commit, and sleeps.
        state.wanted = if is_wanted { sequence } else { state.wanted };
        let (synced, empty) = (false, false);
        let state = journal.commit(state, Commit { synced, empty });
        assert_eq!(state.durable >= sequence, is_wanted);
    }
}

#[test]
fn a_large_batch_that_nobody_waits_for_is_synced_when_its_time_has_come() {
    let simulation = Simulation::new(42, FaultPlan::none());
    let gate = Arc::default();
    let opened = open(&simulation, &gate, Duration::from_millis(50));
    let journal = opened.journal.clone();
    let last = append_large(&journal, 0);
    wait_until(|| journal.state.lock().durable >= last);
    simulation.crash();
    drop((opened, journal));
    simulation.restart();
    let opened = open(&simulation, &gate, Duration::from_secs(3600));
    let found: u64 = opened
        .records
        .iter()
        .filter_map(|located| located.piece())
        .map(|piece| u64::from(piece.length_bytes))
        .sum();
    assert_eq!(found, PIECES_BYTES as u64);
}
