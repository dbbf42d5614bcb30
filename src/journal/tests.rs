//! What a journal promises, on simulated disks: power cuts at every operation, damage, a full disk, failing syncs.

use super::*;
use crate::io::simulator::{Dice, Fault, FaultPlan, FaultRule, Simulation, seed_of_this_run};
use crate::io::{IoFile, OpenMode};
use crate::types::Timestamp;

pub(super) const SEGMENT_BYTES: u64 = 64 << 10;
pub(super) const SEGMENTS: u64 = 8;

pub(super) fn settings() -> JournalSettings {
    JournalSettings {
        mode: SyncMode::Batch,
        interval: Duration::from_secs(3600),
        size_bytes: SEGMENT_BYTES * SEGMENTS,
        segment_bytes: SEGMENT_BYTES,
        batch_bytes: 12 << 10,
        spread: Spread::ALONE,
        witness_interval: Duration::from_secs(3600),
        device_timeout: Duration::from_secs(600),
        name: [7; 16],
        backend: b"root".to_vec(),
        backend_name: "/backend".to_owned(),
    }
}

/// A journal that ends with the test.
pub(super) struct Opened {
    pub(super) journal: Arc<Journal>,
    pub(super) records: Vec<Located>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.journal.shutdown(Holding::Something);
    }
}

fn open(simulation: &Simulation) -> Result<Opened, JournalError> {
    open_as(simulation, settings())
}

fn open_as(simulation: &Simulation, settings: JournalSettings) -> Result<Opened, JournalError> {
    let directory = JournalDirectory {
        name: "journal".to_owned(),
        io: Ok(simulation.device("journal")),
    };
    let (journal, records) = Journal::open(vec![directory], Witness::hear(Vec::new()), settings)?;
    Ok(Opened { journal, records })
}

const STAMP: Timestamp = Timestamp {
    seconds: 1,
    nanoseconds: 2,
};

/// The bytes of a write, which tell which one it was: its number, and how often that was tried before.
pub(super) fn data_of(number: u64, attempt: u64) -> Vec<u8> {
    let mut dice = Dice::new(number ^ attempt << 32);
    let length = [1, 100, 700, 3000, 9000][(number % 5) as usize];
    (0..length).map(|_| dice.roll() as u8).collect()
}

fn append_again(journal: &Journal, number: u64, attempt: u64) -> Result<Sequence, AppendError> {
    let generation = Generation(number | attempt << 32);
    let data = data_of(number, attempt);
    let pieces = journal.append_data(generation, number << 20, STAMP, &data, Room::Writers)?;
    Ok(pieces[0].sequence)
}

pub(super) fn append(journal: &Journal, number: u64) -> Result<Sequence, AppendError> {
    append_again(journal, number, 0)
}

/// The numbers and attempts of the writes that came back, whole. An error where the machine stopped meanwhile.
fn writes(opened: &Opened) -> Result<Vec<(u64, u64)>, ReadError> {
    let mut found = Vec::new();
    for located in &opened.records {
        let piece = located.piece().expect("only data was written");
        let generation = located.record.generation().0;
        let (number, attempt) = (generation & 0xffff_ffff, generation >> 32);
        let mut data = vec![0; piece.length_bytes as usize];
        opened.journal.read(&piece, 0, &mut data)?;
        assert_eq!(data, data_of(number, attempt), "write {number}");
        found.push((number, attempt));
    }
    Ok(found)
}

pub(super) fn numbers(opened: &Opened) -> Vec<u64> {
    let writes = writes(opened).expect("what was found can be read");
    writes.into_iter().map(|(number, _)| number).collect()
}

/// What a life of the journal has come to.
#[derive(Default)]
pub(super) struct Model {
    /// The next write has this number; all before were appended.
    next: u64,
    /// Which attempt each of them was.
    attempts: Vec<u64>,
    life: u64,
    /// All before were acknowledged.
    acknowledged: u64,
    /// All before are not needed any more.
    trimmed: u64,
}

/// Appends, syncs and trims until the machine stops or the work is done.
pub(super) fn work(
    journal: &Journal,
    model: &mut Model,
    dice: &mut Dice,
) -> Result<(), AppendError> {
    let mut appended = std::collections::VecDeque::new();
    for _ in 0..40 {
        // It may have got there although nobody was told.
        model.attempts.push(model.life);
        model.next += 1;
        let sequence = append_again(journal, model.next - 1, model.life)?;
        appended.push_back((model.next, sequence));
        if dice.roll().is_multiple_of(3) {
            match model.next.is_multiple_of(2) {
                true => journal.make_durable(sequence)?,
                false => synced_by_call(journal, sequence)?,
            }
            model.acknowledged = model.next;
        }
        if dice.roll().is_multiple_of(7)
            && let Some((number, trimmed)) = appended.pop_front()
            && appended.front().is_some_and(|(_, next)| *next > trimmed)
            && model.acknowledged >= number
        {
            // Its end may be believed from now on.
            model.trimmed = number;
            journal.trim(trimmed);
        }
    }
    Ok(())
}

/// As [`Journal::make_durable`], by a call that is left behind.
fn synced_by_call(journal: &Journal, sequence: Sequence) -> Result<(), AppendError> {
    let (told, outcome) = crossbeam_channel::bounded(1);
    journal.sync_then(sequence, Box::new(move |outcome| drop(told.send(outcome))));
    let limit = Duration::from_secs(60);
    let told = outcome.recv_timeout(limit).expect("it is called");
    told.map_err(|error| AppendError::Failed(error.to_string().into()))
}

/// What is there is an unbroken row of the writes that were made last under their numbers, all that was acknowledged among
/// them. An error where the machine stopped meanwhile.
pub(super) fn check(opened: &Opened, model: &mut Model, context: &str) -> Result<(), ReadError> {
    let found = writes(opened)?;
    let first = found
        .first()
        .map_or(model.acknowledged, |(first, _)| *first);
    let last = found.last().map_or(first, |(last, _)| last + 1);
    assert!(
        first <= model.trimmed,
        "{context}: {first} is the first one"
    );
    let expected = (first..last).map(|number| (number, model.attempts[number as usize]));
    assert!(
        found.iter().copied().eq(expected),
        "{context}: not what was written: {found:?}"
    );
    assert!(
        (model.acknowledged..=model.next).contains(&last),
        "{context}: {} were acknowledged, {} begun, {last} are there",
        model.acknowledged,
        model.next
    );
    // What is there now has no more to lose.
    model.next = last;
    model.acknowledged = last;
    model.attempts.truncate(last as usize);
    model.life += 1;
    Ok(())
}

#[test]
fn a_power_cut_at_every_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let seed = seed_of_this_run();
    let cuts: u64 = (0..5).map(|round| cut_everywhere(seed + round)).sum();
    assert!(cuts > 500, "{cuts} cuts only");
}

/// How often the power was cut.
fn cut_everywhere(seed: u64) -> u64 {
    let mut cuts = 0;
    for at in 1.. {
        let simulation = Simulation::deterministic(seed ^ at);
        let mut dice = Dice::new(seed ^ at);
        let mut model = Model::default();
        simulation.crash_at(at);
        for life in 0..3 {
            let context = format!("seed {seed}, cut at {at}, life {life}");
            match open(&simulation) {
                Ok(opened) => {
                    if check(&opened, &mut model, &context).is_ok() {
                        let _ = work(&opened.journal, &mut model, &mut dice);
                    }
                    simulation.crash();
                }
                Err(error) => assert!(!simulation.is_running(), "{context}: {error}"),
            }
            cuts += 1;
            let planned = simulation.operations() >= at;
            simulation.restart();
            if life == 0 && !planned {
                return cuts;
            }
            simulation.crash_at(simulation.operations() + 1 + dice.roll() % 200);
        }
        simulation.restart();
        let opened = open(&simulation).expect("the machine goes on");
        let context = format!("seed {seed}, cut at {at}, at the end");
        check(&opened, &mut model, &context).expect("the machine goes on");
    }
    cuts
}

#[test]
fn a_killed_process_loses_only_the_open_batch() {
    let simulation = Simulation::deterministic(1);
    let opened = open(&simulation).expect("a new journal");
    let mut last = Sequence::default();
    for number in 0..20 {
        last = append(&opened.journal, number).expect("there is room");
    }
    simulation.kill();
    drop(opened);
    simulation.restart();
    let opened = open(&simulation).expect("it was killed only");
    let found = numbers(&opened);
    assert!(found.iter().copied().eq(0..found.len() as u64));
    assert_eq!(
        Sequence(opened.records.last().map_or(0, |l| l.sequence.0)),
        last.before()
    );
}

/// A journal with `batches` batches of one write each, all acknowledged, and where each lies.
fn with_batches(simulation: &Simulation, batches: u64) -> Vec<(String, u64)> {
    let opened = open(simulation).expect("a new journal");
    for number in 0..batches {
        let sequence = append(&opened.journal, number).expect("there is room");
        opened.journal.make_durable(sequence).expect("no faults");
    }
    simulation.kill();
    drop(opened);
    simulation.restart();
    frames(simulation)
}

/// Files and offsets of all frames, in the order of their sequences.
fn frames(simulation: &Simulation) -> Vec<(String, u64)> {
    let disk = simulation.device("journal");
    let mut found = std::collections::BTreeMap::new();
    for number in 0..SEGMENTS as u32 {
        let path = segments::path_of(number);
        let file = disk.open(&path, OpenMode::Read).expect("it was made");
        for block in 0..SEGMENT_BYTES / frame::BLOCK_BYTES {
            let mut bytes = [0; FRAME_HEADER_BYTES];
            let at = block * frame::BLOCK_BYTES;
            file.read_at(&mut bytes, at).expect("it is there");
            if let Ok(header) = FrameHeader::decode(&bytes) {
                found.insert(header.sequence, (path.clone(), at));
            }
        }
    }
    found.into_values().collect()
}

fn flip(simulation: &Simulation, path: &str, at: u64) {
    let disk = simulation.device("journal");
    let file: Arc<dyn IoFile> = disk.open(path, OpenMode::ReadWrite).expect("it is there");
    let mut byte = [0];
    file.read_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 4], at).expect("it is there");
}

#[test]
fn a_flipped_bit_in_an_acknowledged_batch_is_told_and_never_passed_over() {
    const BATCHES: u64 = 12;
    for batch in 0..BATCHES as usize {
        for inside in [0, 20, 70, FRAME_HEADER_BYTES as u64] {
            let simulation = Simulation::deterministic(2);
            let placed = with_batches(&simulation, BATCHES);
            let (path, at) = &placed[batch];
            flip(&simulation, path, at + inside);
            let reopened = open(&simulation);
            if batch + 1 < BATCHES as usize {
                let first = batch as u64 + 1;
                let told = reopened.err().expect("it is lost");
                assert!(
                    matches!(told, JournalError::Lost { first: lost, .. } if lost == first),
                    "batch {batch}: {told}"
                );
            } else {
                // Nothing behind it says that it was acknowledged.
                let found = numbers(&reopened.expect("a torn tail"));
                assert_eq!(found.len() as u64, BATCHES - 1);
            }
        }
    }
}

#[test]
fn the_last_batch_is_told_from_a_torn_one_once_the_journal_was_idle() {
    let simulation = Simulation::deterministic(3);
    let opened = open(&simulation).expect("a new journal");
    let sequence = append(&opened.journal, 0).expect("there is room");
    opened.journal.make_durable(sequence).expect("no faults");
    drop(opened);
    let placed = frames(&simulation);
    assert_eq!(placed.len(), 2, "an empty batch says so");
    flip(&simulation, &placed[0].0, placed[0].1 + 130);
    let told = open(&simulation).err().expect("it is lost");
    assert!(
        matches!(told, JournalError::Lost { first: 1, .. }),
        "{told}"
    );
}

#[test]
fn a_segment_whose_header_is_damaged_is_known_by_its_frames() {
    let simulation = Simulation::deterministic(4);
    let placed = with_batches(&simulation, 6);
    flip(&simulation, &placed[0].0, 40);
    let opened = open(&simulation).expect("its frames are whole");
    assert_eq!(numbers(&opened).len(), 6);
}

#[test]
fn the_newest_segment_with_a_damaged_header_is_known_by_its_frames() {
    let simulation = Simulation::deterministic(12);
    drop(with_batches(&simulation, 6));
    let placed = with_batches(&simulation, 0);
    let opened = open(&simulation).expect("it is whole");
    let sequence = append(&opened.journal, 6).expect("there is room");
    opened.journal.make_durable(sequence).expect("no faults");
    simulation.kill();
    drop(opened);
    simulation.restart();
    let now = frames(&simulation);
    let (newest, _) = now.last().expect("there are some");
    assert!(
        placed.iter().all(|(path, _)| path != newest),
        "a new segment"
    );
    flip(&simulation, newest, 40);
    let opened = open(&simulation).expect("its frames are whole");
    assert_eq!(numbers(&opened), (0..7).collect::<Vec<_>>());
}

#[test]
fn a_disk_without_room_for_the_journal_is_refused() {
    let simulation = Simulation::deterministic(13);
    simulation.set_faults(FaultPlan::none().with_capacity_bytes(SEGMENT_BYTES * 3));
    let _ = simulation.device("journal");
    simulation.set_faults(FaultPlan::none().with_capacity_bytes(SEGMENT_BYTES * 3));
    let refused = open(&simulation).err().expect("there is no room");
    assert!(matches!(refused, JournalError::NoRoom { .. }), "{refused}");
}

#[test]
fn an_old_copy_of_a_segment_put_back_is_never_believed() {
    let simulation = Simulation::deterministic(5);
    let copy = |simulation: &Simulation| -> Vec<(String, Vec<u8>)> {
        let disk = simulation.device("journal");
        let paths = (0..SEGMENTS as u32).map(segments::path_of);
        let read = |path: String| {
            let mut bytes = vec![0; SEGMENT_BYTES as usize];
            let file = disk.open(&path, OpenMode::Read).expect("it was made");
            file.read_at(&mut bytes, 0).expect("it is there");
            (path, bytes)
        };
        paths.map(read).collect()
    };
    drop(with_batches(&simulation, 3));
    let old = copy(&simulation);
    let opened = open(&simulation).expect("it is whole");
    for number in 3..9 {
        let sequence = append(&opened.journal, number).expect("there is room");
        opened.journal.make_durable(sequence).expect("no faults");
    }
    drop(opened);
    let new = copy(&simulation);
    for ((path, old), (_, new)) in old.iter().zip(&new) {
        if old == new {
            continue;
        }
        let disk = simulation.device("journal");
        let file = disk.open(path, OpenMode::ReadWrite).expect("it was made");
        file.write_all_at(old, 0).expect("there is room");
        let told = open(&simulation);
        let is_right = match &told {
            Err(JournalError::Lost { .. }) => true,
            // Nothing tells that there was a segment behind the last one.
            Ok(opened) => [3, 9].contains(&numbers(opened).len()),
            Err(_) => false,
        };
        assert!(is_right, "{path}: {:?}", told.err());
        file.write_all_at(new, 0).expect("there is room");
    }
}

#[test]
fn a_full_journal_refuses_writers_until_something_is_trimmed() {
    let simulation = Simulation::deterministic(6);
    let opened = open(&simulation).expect("a new journal");
    let journal = &opened.journal;
    let mut sequences = Vec::new();
    let refused = loop {
        match append(journal, sequences.len() as u64) {
            Ok(sequence) => sequences.push(sequence),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Full), "{refused}");
    let last = *sequences.last().expect("some were taken");
    journal.make_durable(last).expect("it is written");
    let done = Record::Forget {
        generation: Generation(0),
    };
    for _ in 0..5 {
        let told = journal.append(&done, Room::Uploads).expect("room is kept");
        journal.make_durable(told).expect("no faults");
    }
    journal.trim(sequences[sequences.len() / 2]);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while append(journal, 1000).is_err() {
        assert!(std::time::Instant::now() < deadline, "it stays full");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_journal_that_is_killed_again_and_again_takes_what_makes_room() {
    let simulation = Simulation::new(45, FaultPlan::none());
    let mut opened = open(&simulation).expect("a journal");
    let mut written = 0;
    while append(&opened.journal, written).is_ok() {
        written += 1;
    }
    let mut last = opened.journal.last_told();
    for _ in 0..3 * SEGMENTS {
        opened.journal.make_durable(last).expect("no faults");
        simulation.kill();
        drop(opened);
        simulation.restart();
        opened = open(&simulation).expect("the same");
        let told = Record::Forget {
            generation: Generation(0),
        };
        last = opened
            .journal
            .append(&told, Room::Uploads)
            .expect("there is room for that");
    }
    opened.journal.make_durable(last).expect("no faults");
    opened.journal.trim(last);
    opened.journal.make_durable(last).expect("no faults");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    assert!(opened.journal.wait_for_room(deadline), "it stays full");
}

#[test]
fn what_was_trimmed_does_not_come_back_and_its_segments_are_used_again() {
    let simulation = Simulation::deterministic(7);
    let opened = open(&simulation).expect("a new journal");
    for number in 0..500 {
        let sequence = append(&opened.journal, number).expect("what is trimmed makes room");
        opened.journal.make_durable(sequence).expect("no faults");
        opened.journal.trim(sequence);
    }
    drop(opened);
    simulation.crash();
    simulation.restart();
    let opened = open(&simulation).expect("it is whole");
    assert_eq!(numbers(&opened), Vec::<u64>::new());
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let simulation = Simulation::deterministic(8);
    let opened = open(&simulation).expect("a new journal");
    let sequence = append(&opened.journal, 0).expect("there is room");
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::SyncError)));
    let failed = opened.journal.make_durable(sequence);
    assert!(matches!(failed, Err(AppendError::Failed(_))));
    simulation.set_faults(FaultPlan::none());
    let again = opened.journal.make_durable(sequence);
    assert!(
        matches!(again, Err(AppendError::Failed(_))),
        "a failed sync stays one"
    );
    assert!(matches!(
        append(&opened.journal, 1),
        Err(AppendError::Failed(_))
    ));
    assert!(opened.journal.figures().failure.is_some());
}

#[test]
fn what_is_in_no_batch_yet_and_what_is_on_the_disk_reads_the_same() {
    let simulation = Simulation::deterministic(9);
    let opened = open(&simulation).expect("a new journal");
    let journal = &opened.journal;
    let data = data_of(4, 0);
    let pieces = journal
        .append_data(Generation(4), 0, STAMP, &data, Room::Writers)
        .expect("there is room");
    let read = |skip: usize, length: usize| {
        let mut bytes = vec![0; length];
        let read = journal.read(&pieces[0], skip, &mut bytes);
        read.map(|()| bytes)
    };
    assert_eq!(read(0, data.len()).expect("in memory"), data);
    assert_eq!(read(100, 50).expect("in memory"), &data[100..150]);
    journal.make_durable(pieces[0].sequence).expect("no faults");
    assert_eq!(read(100, 50).expect("on the disk"), &data[100..150]);
    journal.trim(pieces[0].sequence);
    journal.shutdown(Holding::Something);
    assert!(matches!(read(0, 1), Err(ReadError::Trimmed)));
}

#[test]
fn a_journal_of_another_backend_or_a_newer_format_is_left_untouched() {
    let simulation = Simulation::deterministic(10);
    drop(open(&simulation).expect("a new journal"));
    let other = JournalSettings {
        backend: b"another".to_vec(),
        ..settings()
    };
    let refused = open_as(&simulation, other).err().expect("not ours");
    assert!(refused.to_string().contains("/backend"), "{refused}");
}

#[test]
fn without_waiting_for_syncs_a_hole_is_cut_and_nothing_acknowledged_is() {
    let seed = seed_of_this_run();
    for round in 0..100 {
        let simulation = Simulation::deterministic(seed ^ round);
        let modes = [SyncMode::Periodic, SyncMode::None];
        let settings = JournalSettings {
            mode: modes[(round % 2) as usize],
            ..settings()
        };
        let opened = open_as(&simulation, settings.clone()).expect("a new journal");
        let mut durable = 0;
        for number in 0..30 {
            let sequence = append(&opened.journal, number).expect("there is room");
            opened.journal.sync(sequence).expect("it waits for nothing");
            if number == 10 {
                opened.journal.make_durable(sequence).expect("no faults");
                durable = number + 1;
            }
        }
        simulation.crash();
        drop(opened);
        simulation.restart();
        let opened = open_as(&simulation, settings).expect("nothing acknowledged is lost");
        let found = numbers(&opened);
        assert!(
            found.iter().copied().eq(0..found.len() as u64),
            "seed {seed}, {round}"
        );
        assert!(found.len() as u64 >= durable, "seed {seed}, {round}");
    }
}

#[test]
fn many_writers_share_syncs() {
    let simulation = Simulation::new(11, FaultPlan::none());
    let opened = open(&simulation).expect("a new journal");
    const WRITERS: u64 = 8;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let journal = opened.journal.clone();
            scope.spawn(move || {
                for number in 0..50 {
                    let number = (writer * 50 + number) * 5;
                    let sequence = append(&journal, number).expect("there is room");
                    journal.make_durable(sequence).expect("no faults");
                    journal.trim(sequence.before());
                }
            });
        }
    });
    let figures = opened.journal.figures();
    assert_eq!(figures.waits, WRITERS * 50);
    assert!(figures.syncs <= figures.waits + figures.commits);
}
