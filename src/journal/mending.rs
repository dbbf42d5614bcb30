//! Batches that lack shards get them again: after a power cut, when a device was taken in, when a scrub found damage. A
//! batch is mended by being written anew under its number; what is left of the old stripe is passed over from then on.
//!
//! What always holds: what was not known to be acknowledged is whole on all members before anything is written behind it;
//! a new device counts as a member at once, for what is written from then on.

use super::commit::Commit;
use super::device::Device;
use super::devices::{Batch, Committed, DeviceFigures, Member};
use super::frame::{BLOCK_BYTES, FRAME_HEADER_BYTES};
use super::identity::{self, Found};
use super::opening::{employ, provide_segments};
use super::reading::Place;
use super::segments::{FOLDER, Segments, ShardPlace, Stock, number_of, path_of};
use super::{Directory, Journal, JournalError, Room, Sequence, State};
use crate::io::{Buffer, Io};
use parking_lot::MutexGuard;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long it is waited for room at a time.
const ROOM_WAIT: Duration = Duration::from_millis(200);

/// How far mending, or a scrub, has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Mending {
    pub is_scrubbing: bool,
    pub is_mending: bool,
    /// Of the present scrub, or the last one.
    pub checked_shards: u64,
    pub damaged_shards: u64,
    pub mended_batches: u64,
    /// Too many of their shards are gone.
    pub lost_batches: u64,
}

/// What came of an attempt.
enum Mended {
    Done,
    /// It is not needed any more, or is not weak.
    Needless,
    Lost,
    NoRoom,
    Ending,
}

impl State {
    /// How many batches lack shards that the devices could have, and how many more devices may be lost.
    pub(super) fn weakness(&self) -> (u64, u64) {
        let wanted = self.figures.devices.tolerated;
        let strengths = self.places.iter().map(|(_, place)| place.strength());
        let is_weak = |strength: &i64| *strength < wanted as i64;
        let weak = strengths.clone().filter(is_weak).count();
        let least = strengths.min().map_or(wanted, |least| least.max(0) as u64);
        (weak as u64, least.min(wanted))
    }

    fn weak_batches(&self) -> Vec<Sequence> {
        let wanted = self.figures.devices.tolerated as i64;
        let weak = self
            .places
            .iter()
            .filter(|(_, place)| place.strength() < wanted);
        weak.map(|(sequence, _)| *sequence).collect()
    }
}

impl Journal {
    /// What nothing says was acknowledged may be here by luck, on as few devices as it takes.
    pub(super) fn mend_the_end(&self) {
        let mut weak = self.state.lock().weak_batches();
        weak.retain(|sequence| *sequence > self.acknowledged_before);
        if weak.is_empty() {
            return;
        }
        for sequence in weak {
            self.mend(sequence);
        }
        let (synced, empty) = (true, true);
        let state = self.state.lock();
        drop(self.commit(state, Commit { synced, empty }));
    }

    /// Starts a thread for what is weak, if there is anything and none is at it.
    pub fn mend_in_background(self: &Arc<Self>) {
        if self.state.lock().weakness().0 == 0 {
            return;
        }
        let mut mending = self.mending.lock();
        if std::mem::replace(&mut mending.is_mending, true) {
            return;
        }
        let journal = self.clone();
        let thread = std::thread::Builder::new().name("journal-mend".to_owned());
        if let Err(error) = thread.spawn(move || journal.mend_all()) {
            tracing::warn!("starting a thread to mend the journal: {error}");
            mending.is_mending = false;
        }
    }

    fn mend_all(&self) {
        let mut lost = BTreeSet::new();
        // They are met again.
        self.mending.lock().lost_batches = 0;
        loop {
            let weak = self.state.lock().weak_batches();
            let next = weak.into_iter().find(|sequence| !lost.contains(sequence));
            let Some(sequence) = next else { break };
            match self.mend(sequence) {
                Mended::Ending => break,
                Mended::Done | Mended::Needless => {}
                Mended::Lost => {
                    lost.insert(sequence);
                }
                Mended::NoRoom => {
                    self.turned.wait_for(&mut self.state.lock(), ROOM_WAIT);
                }
            }
        }
        self.mending.lock().is_mending = false;
    }

    fn mend(&self, sequence: Sequence) -> Mended {
        let Some(place) = self.state.lock().place(sequence) else {
            return Mended::Needless;
        };
        let payload = match place.read_batch() {
            Ok(payload) => payload,
            Err(_) if self.state.lock().place(sequence).is_none() => return Mended::Needless,
            Err(error) => {
                tracing::error!("batch {} of the journal is lost: {error}", sequence.0);
                self.mending.lock().lost_batches += 1;
                return Mended::Lost;
            }
        };
        self.write_anew(sequence, &payload)
    }

    fn write_anew(&self, sequence: Sequence, payload: &[u8]) -> Mended {
        let batch = Batch {
            sequence,
            buffer: behind_a_header(payload),
            payload_bytes: payload.len(),
        };
        let Some(mut state) = self.take_turn() else {
            return Mended::Ending;
        };
        if state.room_batches <= self.batches_kept(Room::Uploads) {
            self.give_turn_back(state);
            return Mended::NoRoom;
        }
        let progress = state.progress();
        drop(state);
        let outcome = self.write(Some(batch), progress, true);
        self.note_mended(outcome)
    }

    /// Nobody else commits until it is given back. `None` where nothing is written any more.
    fn take_turn(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        self.wait_for_turn(&mut state);
        if state.is_ending || state.check().is_err() {
            return None;
        }
        state.is_committing = true;
        Some(state)
    }

    fn give_turn_back(&self, mut state: MutexGuard<'_, State>) {
        state.is_committing = false;
        self.end_turn(&mut state);
    }

    fn note_mended(&self, outcome: io::Result<(Committed, Option<DeviceFigures>)>) -> Mended {
        let mut state = self.state.lock();
        let mended = match outcome {
            Ok((committed, figures)) => {
                state.note_devices(&committed.lost, figures);
                state.note_room(&committed);
                if let Some((sequence, place)) = committed.place {
                    state.put_place(sequence, place);
                }
                Mended::Done
            }
            Err(error) => {
                state.fail(&error);
                Mended::Ending
            }
        };
        self.give_turn_back(state);
        if matches!(mended, Mended::Done) {
            self.mending.lock().mended_batches += 1;
        }
        mended
    }

    /// Has every shard read that is needed, and mends what is damaged: on a thread of its own, unless one is at it.
    pub fn scrub(self: &Arc<Self>) -> io::Result<()> {
        let mut mending = self.mending.lock();
        if mending.is_scrubbing {
            return Ok(());
        }
        let journal = self.clone();
        let thread = std::thread::Builder::new().name("journal-scrub".to_owned());
        thread.spawn(move || journal.scrub_all())?;
        (mending.checked_shards, mending.damaged_shards) = (0, 0);
        mending.is_scrubbing = true;
        Ok(())
    }

    fn scrub_all(self: &Arc<Self>) {
        let held: Vec<Sequence> = {
            let state = self.state.lock();
            state.places.iter().map(|(sequence, _)| *sequence).collect()
        };
        self.scrub_batches(held);
        // One after the other, so that it is never over in between.
        self.mend_in_background();
        self.mending.lock().is_scrubbing = false;
    }

    fn scrub_batches(&self, held: Vec<Sequence>) {
        for sequence in held {
            let mut state = self.state.lock();
            if state.is_ending {
                return;
            }
            let Some(place) = state.place(sequence) else {
                continue;
            };
            drop(state);
            let is_damaged = |shard: &&_| ShardPlace::check_on_disk(shard, &place.stripe).is_err();
            let damaged: Vec<u8> = place
                .shards
                .iter()
                .filter(is_damaged)
                .map(|s| s.device)
                .collect();
            let are_too_few = place.shards.len() - damaged.len() < usize::from(place.stripe.data);
            let is_saved = are_too_few && self.save_from_memory(sequence, &place);
            state = self.state.lock();
            let still_there = state.place(sequence).is_some();
            if !is_saved {
                state.forget_shards(sequence, &damaged);
            }
            drop(state);
            let mut mending = self.mending.lock();
            mending.checked_shards += place.shards.len() as u64;
            // Trimmed meanwhile, it may have been written over.
            mending.damaged_shards += if still_there { damaged.len() as u64 } else { 0 };
        }
    }

    /// The disks have too little of a batch: what is in memory of it is all there is. Whether it can be read from there; then
    /// it is on the disks again, too, unless there is no room for it.
    fn save_from_memory(&self, sequence: Sequence, place: &Place) -> bool {
        let Ok(payload) = place.read_batch() else {
            return false;
        };
        if let Mended::NoRoom = self.write_anew(sequence, &payload) {
            tracing::warn!(
                "batch {} of the journal is in memory alone, and there is no room to write it anew",
                sequence.0
            );
        }
        true
    }

    pub fn mending(&self) -> Mending {
        *self.mending.lock()
    }

    /// Takes a directory in as a device of the journal, in the place of one that is lost. What it held is removed. It is
    /// full of what it should have once nothing is weak any more, which goes on in the background. Blocks on the disks.
    pub fn take_in(self: &Arc<Self>, name: String, io: Directory) -> Result<(), JournalError> {
        self.check_to_take_in(&*io)?;
        let mut stock = Stock::default();
        wipe(&io)?;
        provide_segments(&*io, &self.settings, self.segment_bytes, &mut stock)?;
        let state = self
            .take_turn()
            .ok_or_else(|| JournalError::Unusable(ENDED.to_owned()))?;
        drop(state);
        let outcome = self.devices.lock().take_in(name, io, stock);
        let figures = self.devices.lock().figures();
        let mut state = self.state.lock();
        state.is_committing = false;
        let lost = match outcome {
            Ok(lost) => lost,
            Err(error) => {
                self.end_turn(&mut state);
                return Err(error);
            }
        };
        state.note_devices(&lost, Some(figures));
        // Says of all before that it was acknowledged: of that the new device has nothing.
        let (synced, empty) = (true, true);
        drop(self.commit(state, Commit { synced, empty }));
        self.mend_in_background();
        Ok(())
    }

    /// Refuses a directory that holds what is not this journal's. Changes nothing.
    pub fn check_to_take_in(&self, io: &dyn Io) -> Result<(), JournalError> {
        match identity::look_at(io) {
            Ok(Found::Journal(head)) if head.membership.journal != self.name => {
                Err(JournalError::AnotherJournal)
            }
            // It is made anew.
            Ok(_) | Err(JournalError::HeadDamaged) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Goes on without a device, for good.
    pub fn give_up(&self, name: &str) -> Result<(), JournalError> {
        let state = self
            .take_turn()
            .ok_or_else(|| JournalError::Unusable(ENDED.to_owned()))?;
        drop(state);
        let outcome = self.devices.lock().dismiss(name);
        let figures = self.devices.lock().figures();
        let mut state = self.state.lock();
        if let Ok(lost) = &outcome {
            state.note_devices(lost, Some(figures));
        }
        self.give_turn_back(state);
        outcome.map(drop)
    }

    /// One that does not take part any more is not named any more: another one has its place.
    pub fn strike_off(&self, name: &str) {
        let figures = {
            let mut devices = self.devices.lock();
            devices.strike_off(name);
            devices.figures()
        };
        self.state.lock().note_devices(&[], Some(figures));
    }
}

const ENDED: &str = "the journal takes nothing any more";

/// In whole blocks, as it is written where there is one device.
fn behind_a_header(payload: &[u8]) -> Buffer {
    let used = FRAME_HEADER_BYTES + payload.len();
    let mut buffer = Buffer::unpooled(used.next_multiple_of(BLOCK_BYTES as usize));
    buffer[FRAME_HEADER_BYTES..used].copy_from_slice(payload);
    buffer
}

/// Removes what a directory held of a journal. Its head goes last, when it is replaced.
fn wipe(io: &Directory) -> io::Result<()> {
    io.create_directory(FOLDER)?;
    io.sync_directory(".")?;
    let mut numbers = Vec::new();
    io.list(FOLDER, &mut |name| {
        numbers.extend(number_of(name));
        true
    })?;
    for number in numbers {
        io.remove_file(&path_of(number))?;
    }
    io.sync_directory(FOLDER)
}

/// What a device is made for.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub segment_bytes: u64,
    pub frame_bytes_max: u64,
}

/// A device as a journal takes it in.
pub(super) fn recruit(
    spread: super::Spread,
    sizes: Sizes,
    (name, io, stock): (String, Directory, Stock),
    number: u8,
) -> io::Result<Member> {
    let segments = Segments::new(spread, number, sizes.segment_bytes, stock);
    let device = Device::new(io, segments);
    Ok(Member {
        device: number,
        name,
        worker: employ(spread.devices(), device, number, sizes.frame_bytes_max)?,
    })
}
