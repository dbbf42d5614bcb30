//! A batch that has become large is written at once, while the next one fills, and synced when its time comes.

use super::hanging::{Gate, wait_until};
use super::tests::*;
use super::*;
use crate::io::simulator::{FaultPlan, Simulation};
use crate::types::Timestamp;
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
