//! What a journal on several devices promises, on simulated disks: power cuts and losses in every combination that is to
//! be survived, and a refusal where too much is gone.

use super::hanging::{Gate, HangingDisk};
use super::tests::*;
use super::*;
use crate::io::OpenMode;
use crate::io::simulator::{Dice, Fault, FaultPlan, FaultRule, Simulation, seed_of_this_run};
use std::time::Instant;

const LIMIT: Duration = Duration::from_secs(120);
const SPREADS: [&str; 4] = ["1+1", "1+2", "2+1", "4+2"];

/// Disks `d0`, `d1` and so on, and one that is the witness.
struct World {
    simulation: Simulation,
    spread: Spread,
}

impl World {
    fn new(spread: &str, seed: u64) -> Self {
        Self {
            simulation: Simulation::deterministic(seed),
            spread: Spread::parse(spread).expect("k+m"),
        }
    }

    fn count(&self) -> u8 {
        self.spread.devices()
    }

    fn parity(&self) -> u64 {
        self.spread.parity.into()
    }

    fn disk(&self, device: u8) -> Directory {
        self.simulation.device(&name(device))
    }

    fn open_settings(&self) -> JournalSettings {
        JournalSettings {
            spread: self.spread,
            batch_bytes: 100 << 10,
            segment_bytes: 256 << 10,
            size_bytes: (256 << 10) * 24,
            ..settings()
        }
    }

    fn open_with(
        &self,
        directories: Vec<(String, Result<Directory, String>)>,
        settings: JournalSettings,
    ) -> Result<Opened, JournalError> {
        let directory = |(name, io)| JournalDirectory { name, io };
        let directories = directories.into_iter().map(directory).collect();
        let (journal, records) = Journal::open(directories, self.witness(), settings)?;
        Ok(Opened { journal, records })
    }

    fn witness(&self) -> Witness {
        let disk: Directory = self.simulation.device("witness");
        Witness::hear(vec![("witness".to_owned(), disk)])
    }

    /// Nothing of the journal is known any more, or what was before, in whatever files.
    fn know_again(&self, before: Option<Testimony>) {
        let witness = self.witness();
        witness.forget(&settings().name).expect("there is room");
        if let Some(before) = before {
            witness.begin(before).expect("there is room");
            witness.accept(&settings().name).expect("there is room");
        }
    }

    /// Without those that are missing.
    fn open_without(&self, missing: &[u8]) -> Result<Opened, JournalError> {
        let directory = |device: u8| match missing.contains(&device) {
            true => (name(device), Err("no such disk".to_owned())),
            false => (name(device), Ok(self.disk(device))),
        };
        let directories = (0..self.count()).map(directory).collect();
        self.open_with(directories, self.open_settings())
    }

    fn open(&self) -> Opened {
        self.open_without(&[]).expect("nothing is missing")
    }

    /// The process ends and another one begins.
    fn kill(&self, opened: Opened) {
        self.simulation.kill();
        drop(opened);
        self.simulation.restart();
    }

    fn files_of(&self, device: u8) -> Vec<String> {
        let disk = self.disk(device);
        let mut names = Vec::new();
        let list = disk.list(segments::FOLDER, &mut |name| {
            names.push(format!("{}/{name}", segments::FOLDER));
            true
        });
        list.expect("it is there");
        names.sort();
        names
    }

    fn empty(&self, device: u8) {
        let disk = self.disk(device);
        for file in self.files_of(device) {
            disk.remove_file(&file).expect("it is there");
        }
        disk.remove_file(HEAD_FILE).expect("it is there");
    }

    /// Writes over much of what a device has, headers among it.
    fn corrupt(&self, device: u8, dice: &mut Dice) {
        let disk = self.disk(device);
        for file in self.files_of(device) {
            let file = disk.open(&file, OpenMode::ReadWrite).expect("it is there");
            for _ in 0..20 {
                let at = dice.roll() % (256 << 10);
                file.write_all_at(&[dice.roll() as u8; 700], at)
                    .expect("there is room");
            }
        }
    }

    /// All of its files as they are now.
    fn copy(&self, device: u8) -> Vec<(String, Vec<u8>)> {
        let disk = self.disk(device);
        let mut paths = self.files_of(device);
        paths.push(HEAD_FILE.to_owned());
        let read = |path: String| {
            let file = disk.open(&path, OpenMode::Read).expect("it is there");
            let size_bytes = file.facts().expect("it is there").size_bytes;
            let mut bytes = vec![0; size_bytes as usize];
            file.read_at(&mut bytes, 0).expect("it is there");
            (path, bytes)
        };
        paths.into_iter().map(read).collect()
    }

    fn put_back(&self, device: u8, copy: &[(String, Vec<u8>)]) {
        let disk = self.disk(device);
        for (path, bytes) in copy {
            let file = disk.open(path, OpenMode::ReadWrite).expect("it is there");
            file.set_size(bytes.len() as u64).expect("there is room");
            file.write_all_at(bytes, 0).expect("there is room");
        }
    }
}

fn name(device: u8) -> String {
    format!("d{device}")
}

fn wait_until_mended(journal: &Journal) {
    let deadline = Instant::now() + LIMIT;
    while journal.figures().weak_batches > 0 || journal.mending().is_mending {
        assert!(Instant::now() < deadline, "{:?}", journal.mending());
        std::thread::yield_now();
    }
}

fn scrub(journal: &Arc<Journal>) {
    scrub_only(journal);
    wait_until_mended(journal);
}

fn scrub_only(journal: &Arc<Journal>) {
    journal.scrub().expect("there are threads");
    let deadline = Instant::now() + LIMIT;
    while journal.mending().is_scrubbing {
        assert!(Instant::now() < deadline, "{:?}", journal.mending());
        std::thread::yield_now();
    }
}

/// So many writes, each synced.
fn write(journal: &Journal, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let sequence = append(journal, number).expect("there is room");
        journal
            .make_durable(sequence)
            .expect("enough devices are left");
    }
}

fn expect(opened: &Opened, count: u64, context: &str) {
    assert!(
        numbers(opened).into_iter().eq(0..count),
        "{context}: {:?}",
        numbers(opened)
    );
}

/// A write of several shards.
fn write_large(journal: &Journal, number: u64) -> Vec<Piece> {
    let data: Vec<u8> = (0..80_000u32)
        .map(|at| (at / 7) as u8 ^ number as u8)
        .collect();
    let stamp = crate::types::Timestamp {
        seconds: 1,
        nanoseconds: 0,
    };
    let pieces = journal.append_data(Generation(number), 0, stamp, &data, Room::Writers);
    let pieces = pieces.expect("there is room");
    journal
        .make_durable(pieces[0].sequence)
        .expect("enough devices are left");
    pieces
}

fn expect_large(journal: &Journal, number: u64, pieces: &[Piece]) {
    let mut found = Vec::new();
    for piece in pieces {
        let mut data = vec![0; piece.length_bytes as usize];
        journal.read(piece, 0, &mut data).expect("enough is left");
        found.extend(data);
    }
    let is_right = |(at, byte): (usize, &u8)| *byte == (at / 7) as u8 ^ number as u8;
    assert!(found.len() == 80_000 && found.iter().enumerate().all(is_right));
}

/// All sets of so many of the devices.
fn subsets(devices: u8, size: u32) -> Vec<Vec<u8>> {
    let all = 0u32..1 << devices;
    let chosen = |set: u32| {
        (0..devices)
            .filter(move |device| set & 1 << device != 0)
            .collect()
    };
    all.filter(|set| set.count_ones() == size)
        .map(chosen)
        .collect()
}

#[test]
fn a_power_cut_of_all_devices_loses_nothing_acknowledged_and_invents_nothing() {
    let seed = seed_of_this_run();
    for (round, spread) in SPREADS.iter().enumerate() {
        let mut cuts = 0;
        for at in (1..).step_by(if cfg!(debug_assertions) { 7 } else { 3 }) {
            if !cut_and_lose(spread, seed ^ at ^ (round as u64) << 32, at) {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 10, "{spread}: {cuts} cuts only");
    }
}

/// Power cuts, and between them as many devices lost as may be, and taken in again. False where the first cut did not come.
fn cut_and_lose(spread: &str, seed: u64, at: u64) -> bool {
    let world = World::new(spread, seed);
    let mut dice = Dice::new(seed);
    let mut model = Model::default();
    drop(world.open());
    world.simulation.restart();
    let begin = world.simulation.operations();
    world.simulation.crash_at(begin + at);
    let mut came = true;
    for life in 0..3 {
        let context = format!("{spread}, seed {seed}, cut at {at}, life {life}");
        match world.open_without(&[]) {
            Ok(opened) => {
                if check(&opened, &mut model, &context).is_ok() {
                    let _ = work(&opened.journal, &mut model, &mut dice);
                }
                came &= life > 0 || !world.simulation.is_running();
                world.simulation.crash();
            }
            Err(error) => assert!(!world.simulation.is_running(), "{context}: {error}"),
        }
        world.simulation.restart();
        lose_and_take_in(&world, &mut model, &mut dice, &context);
        world
            .simulation
            .crash_at(world.simulation.operations() + 1 + dice.roll() % 300);
    }
    came
}

fn lose_and_take_in(world: &World, model: &mut Model, dice: &mut Dice, context: &str) {
    let (count, parity) = (world.count(), world.spread.parity);
    let lost = dice.roll() as u8 % (parity + 1);
    let mut devices: Vec<u8> = (0..count).collect();
    let victims: Vec<u8> = (0..lost)
        .map(|_| devices.swap_remove(dice.roll() as usize % devices.len()))
        .collect();
    let mut missing = Vec::new();
    for victim in &victims {
        match dice.roll() % 3 {
            0 => world.empty(*victim),
            1 => world.corrupt(*victim, dice),
            _ => missing.push(*victim),
        }
    }
    let context = format!("{context}, without {victims:?}, {missing:?} of them away");
    let opened = world.open_without(&missing);
    let opened = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
    check(&opened, model, &context).expect("the machine goes on");
    let _ = work(&opened.journal, model, dice);
    for outsider in opened.journal.figures().devices.outsiders {
        let disk = world.simulation.device(&outsider.name);
        let taken = opened.journal.take_in(outsider.name, disk);
        taken.unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    wait_until_mended(&opened.journal);
    let figures = opened.journal.figures();
    assert_eq!(figures.tolerated, u64::from(parity), "{context}");
    world.simulation.crash();
    drop(opened);
    world.simulation.restart();
    let opened = world.open();
    check(&opened, model, &context).expect("the machine goes on");
    world.kill(opened);
}

#[test]
fn any_devices_that_may_be_lost_are_and_one_more_is_refused_untouched() {
    for spread in SPREADS {
        let world = World::new(spread, 1);
        let opened = world.open();
        write(&opened.journal, 0..10);
        let large = write_large(&opened.journal, 77);
        assert_eq!(opened.journal.figures().tolerated, world.parity());
        world.kill(opened);
        let before: Vec<_> = (0..world.count())
            .map(|device| world.copy(device))
            .collect();
        let restore = || {
            for (device, copy) in (0..).zip(&before) {
                world.put_back(device, copy);
            }
            world.simulation.restart();
            // The witness must not remember what is undone here.
            world.know_again(None);
        };
        restore();
        for lost in 1..=u32::from(world.spread.parity) {
            for missing in subsets(world.count(), lost) {
                if members::needs_witness(world.spread) {
                    let refused = world.open_without(&missing).err().expect("nobody knows");
                    assert!(
                        refused.to_string().contains("may have gone on"),
                        "{refused}"
                    );
                    continue;
                }
                let opened = world.open_without(&missing).expect("enough are there");
                let figures = opened.journal.figures();
                assert_eq!(figures.tolerated, world.parity() - u64::from(lost));
                assert_eq!(figures.devices.outsiders.len() as u32, lost);
                expect_large(&opened.journal, 77, &large);
                world.kill(opened);
                restore();
            }
        }
        for missing in subsets(world.count(), u32::from(world.spread.parity) + 1) {
            let refused = world
                .open_without(&missing)
                .err()
                .expect("too few are there");
            let told = refused.to_string();
            assert!(told.contains("no such disk"), "{told}");
            for (device, copy) in (0..).zip(&before) {
                assert!(world.copy(device) == *copy, "{spread} without {missing:?}");
            }
        }
    }
}

#[test]
fn a_device_that_fails_in_use_is_given_up_and_nobody_notices() {
    for spread in SPREADS {
        let world = World::new(spread, 2);
        let opened = world.open();
        let mut plan = FaultPlan::none();
        let mut written = 0;
        for device in 0..world.spread.parity {
            write(&opened.journal, written..written + 5);
            let faults = [Fault::DeviceGone, Fault::SyncError, Fault::WriteError];
            let fault = faults[usize::from(device) % 3];
            plan = plan.with(FaultRule::new(fault).on_device(&name(device)));
            world.simulation.set_faults(plan.clone());
            write(&opened.journal, written + 5..written + 10);
            written += 10;
            let large = write_large(&opened.journal, 1 << 20);
            expect_large(&opened.journal, 1 << 20, &large);
            opened.journal.trim(Sequence::default());
            let figures = opened.journal.figures();
            assert_eq!(
                figures.tolerated,
                u64::from(world.spread.parity - device - 1)
            );
            assert!(figures.failure.is_none());
        }
        // One more than may be.
        let last = name(world.spread.parity);
        let plan = plan.with(FaultRule::new(Fault::SyncError).on_device(&last));
        world.simulation.set_faults(plan);
        let sequence = append(&opened.journal, written).expect("nobody knows yet");
        let failed = opened.journal.make_durable(sequence);
        assert!(matches!(failed, Err(AppendError::Failed(_))), "{spread}");
        assert!(opened.journal.figures().failure.is_some());
    }
}

#[test]
fn a_device_that_hangs_is_given_up_within_its_time() {
    for spread in ["1+1", "2+1"] {
        let world = World::new(spread, 3);
        let gate = Arc::new(Gate::default());
        let directory = |device: u8| {
            let disk: Directory = match device {
                1 => Arc::new(HangingDisk {
                    disk: world.disk(1),
                    gate: gate.clone(),
                }),
                _ => world.disk(device),
            };
            (name(device), Ok(disk))
        };
        let settings = JournalSettings {
            device_timeout: Duration::from_millis(300),
            ..world.open_settings()
        };
        let directories = (0..world.count()).map(directory).collect();
        let opened = world
            .open_with(directories, settings)
            .expect("a new journal");
        write(&opened.journal, 0..3);
        gate.set_shut(true);
        write(&opened.journal, 3..6);
        let figures = opened.journal.figures();
        assert_eq!(figures.devices.outsiders.len(), 1);
        assert_eq!(figures.devices.outsiders[0].why, "it hangs");
        assert_eq!(figures.tolerated, 0);
        gate.set_shut(false);
        world.kill(opened);
        let opened = world.open();
        expect(&opened, 6, spread);
        assert_eq!(opened.journal.figures().devices.outsiders[0].name, "d1");
    }
}

/// What came while it was away is on the others alone, one of which is dead then.
#[test]
fn a_device_that_missed_batches_and_comes_back_while_another_is_dead_cuts_nothing() {
    for spread in ["1+2", "3+2", "4+2"] {
        let world = World::new(spread, 4);
        let opened = world.open();
        write(&opened.journal, 0..5);
        let gone = FaultRule::new(Fault::DeviceGone).on_device("d1");
        world.simulation.set_faults(FaultPlan::none().with(gone));
        write(&opened.journal, 5..12);
        world.simulation.set_faults(FaultPlan::none());
        world.kill(opened);
        for dead in (0..world.count()).filter(|device| *device != 1) {
            let before: Vec<_> = (0..world.count())
                .map(|device| world.copy(device))
                .collect();
            let known = world.witness().of(&settings().name);
            let opened = world.open_without(&[dead]).expect("enough are there");
            expect(&opened, 12, &format!("{spread} without d{dead}"));
            world.kill(opened);
            for (device, copy) in (0..).zip(&before) {
                world.put_back(device, copy);
            }
            world.know_again(known);
        }
    }
    // Of a mirror it is all there is: refused, not cut.
    let world = World::new("1+1", 4);
    let opened = world.open();
    write(&opened.journal, 0..5);
    let gone = FaultRule::new(Fault::DeviceGone).on_device("d1");
    world.simulation.set_faults(FaultPlan::none().with(gone));
    write(&opened.journal, 5..12);
    world.simulation.set_faults(FaultPlan::none());
    world.kill(opened);
    let refused = world.open_without(&[0]).err().expect("it is out of date");
    assert!(
        refused.to_string().contains("may have gone on"),
        "{refused}"
    );
    expect(
        &world.open_without(&[1]).expect("it was the last"),
        12,
        "the last",
    );
}

#[test]
fn a_flipped_bit_on_one_device_is_made_good_and_mended() {
    for spread in ["1+1", "2+1", "4+2"] {
        let world = World::new(spread, 5);
        let opened = world.open();
        write(&opened.journal, 0..12);
        let large = write_large(&opened.journal, 99);
        world.kill(opened);
        for device in 0..world.count() {
            for file in world.files_of(device) {
                let disk = world.disk(device);
                let file = disk.open(&file, OpenMode::ReadWrite).expect("it is there");
                for block in 1..20u64 {
                    let at = block * frame::BLOCK_BYTES + 4 * (block % 60);
                    let mut byte = [0];
                    file.read_at(&mut byte, at).expect("it is there");
                    file.write_all_at(&[byte[0] ^ 16], at).expect("it is there");
                }
            }
            let opened = world.open();
            wait_until_mended(&opened.journal);
            let context = format!("{spread}, d{device}");
            expect_large(&opened.journal, 99, &large);
            let small = opened
                .records
                .iter()
                .filter(|l| l.record.generation().0 < 99);
            assert_eq!(small.count(), 12, "{context}");
            assert_eq!(opened.journal.figures().tolerated, world.parity());
            world.kill(opened);
        }
    }
}

#[test]
fn devices_are_known_in_any_order_and_an_old_copy_of_one_is_made_good() {
    for spread in ["1+1", "2+1", "4+2"] {
        let world = World::new(spread, 6);
        let opened = world.open();
        write(&opened.journal, 0..4);
        world.kill(opened);
        let opened = world.open();
        write(&opened.journal, 4..6);
        let old = world.copy(0);
        write(&opened.journal, 6..11);
        world.kill(opened);
        world.put_back(0, &old);
        let swapped = (0..world.count())
            .rev()
            .map(|device| (name(device), Ok(world.disk(device))));
        let opened = world.open_with(swapped.collect(), world.open_settings());
        let opened = opened.expect("the others have it");
        expect(&opened, 11, spread);
        wait_until_mended(&opened.journal);
        assert_eq!(opened.journal.figures().tolerated, world.parity());
        world.kill(opened);
    }
}

#[test]
fn a_segment_of_another_device_counts_for_nothing() {
    let world = World::new("1+1", 7);
    let opened = world.open();
    write(&opened.journal, 0..8);
    world.kill(opened);
    let other = world.copy(1);
    world.put_back(0, &other[..other.len() - 1]);
    let opened = world.open();
    expect(&opened, 8, "the other has it");
    wait_until_mended(&opened.journal);
    assert_eq!(opened.journal.figures().tolerated, 1);
}

#[test]
fn a_scrub_finds_what_rotted_and_mends_it() {
    let world = World::new("4+2", 8);
    let opened = world.open();
    write(&opened.journal, 0..6);
    let large = write_large(&opened.journal, 50);
    scrub(&opened.journal);
    assert_eq!(opened.journal.mending().damaged_shards, 0);
    let checked = opened.journal.mending().checked_shards;
    assert_eq!(checked, 6 * 3 + 6, "three copies, six shards");
    let mut dice = Dice::new(8);
    world.corrupt(2, &mut dice);
    world.corrupt(5, &mut dice);
    for file in world.files_of(2) {
        let file = world
            .disk(2)
            .open(&file, OpenMode::ReadWrite)
            .expect("it is there");
        file.write_all_at(&[0; 60_000], 4096)
            .expect("there is room");
    }
    scrub(&opened.journal);
    let mending = opened.journal.mending();
    assert!(
        mending.damaged_shards > 0 && mending.mended_batches > 0,
        "{mending:?}"
    );
    assert_eq!(mending.lost_batches, 0);
    assert_eq!(opened.journal.figures().tolerated, 2);
    expect_large(&opened.journal, 50, &large);
    scrub(&opened.journal);
    assert_eq!(opened.journal.mending().damaged_shards, 0);
}

#[test]
fn a_scrub_of_a_device_alone_counts_what_is_lost() {
    let world = World::new("1+0", 10);
    let opened = world.open();
    write(&opened.journal, 0..6);
    for file in world.files_of(0) {
        let file = world.disk(0).open(&file, OpenMode::ReadWrite);
        let file = file.expect("it is there");
        file.write_all_at(&[0; 60_000], 4096)
            .expect("there is room");
    }
    for _ in 0..2 {
        scrub_only(&opened.journal);
        let deadline = Instant::now() + LIMIT;
        while opened.journal.mending().is_mending {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(opened.journal.mending().lost_batches, 6);
    }
}

#[test]
fn a_device_is_taken_in_while_writing_goes_on() {
    for spread in SPREADS {
        let world = World::new(spread, 9);
        let opened = world.open();
        write(&opened.journal, 0..10);
        opened.journal.give_up("d0").expect("one may be lost");
        let last = world.parity() - 1;
        assert_eq!(opened.journal.figures().tolerated, last);
        std::thread::scope(|scope| {
            let journal = &opened.journal;
            scope.spawn(|| write(journal, 10..60));
            let taken = journal.take_in("new".to_owned(), world.simulation.device("new"));
            taken.expect("there is a place");
        });
        wait_until_mended(&opened.journal);
        assert_eq!(opened.journal.figures().tolerated, world.parity());
        let refused = opened
            .journal
            .take_in("more".to_owned(), world.simulation.device("more"));
        assert!(
            refused
                .expect_err("it is full")
                .to_string()
                .contains("no device")
        );
        world.kill(opened);
        // The old one is told from the one that has its place now.
        let all = (0..world.count()).map(name).chain(["new".to_owned()]);
        let directory = |name: String| {
            let disk: Directory = world.simulation.device(&name);
            (name, Ok(disk))
        };
        let opened = world.open_with(all.map(directory).collect(), world.open_settings());
        let opened = opened.expect("all are there");
        expect(&opened, 60, spread);
        let outsiders = opened.journal.figures().devices.outsiders;
        assert_eq!(outsiders.len(), 1, "{outsiders:?}");
        assert_eq!(outsiders[0].name, "d0");
    }
}

#[test]
fn a_journal_of_the_first_format_goes_on_in_this_one() {
    let world = World::new("1+0", 10);
    let opened = world.open();
    write(&opened.journal, 0..9);
    world.kill(opened);
    let disk = world.disk(0);
    for path in world.files_of(0) {
        let file = disk.open(&path, OpenMode::ReadWrite).expect("it is there");
        for block in 0..64 {
            let mut bytes = [0; FRAME_HEADER_BYTES];
            let at = block * frame::BLOCK_BYTES;
            file.read_at(&mut bytes, at).expect("it is there");
            if bytes.starts_with(b"cachefs") {
                frame::to_first_format(&mut bytes);
                file.write_all_at(&bytes, at).expect("there is room");
            }
        }
    }
    let opened = world.open();
    expect(&opened, 9, "as it was");
    write(&opened.journal, 9..15);
    world.kill(opened);
    expect(&world.open(), 15, "both formats");
}
