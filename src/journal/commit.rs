//! Group commit: whoever needs something written or synced does it for all, while the next batch fills.
//!
//! What always holds: one commit at a time, so that a batch is written only when the one before is; nobody sleeps on
//! the way of a lone fsync; a failed write or sync is never tried again into success; whoever left a call behind is
//! called, by the end of the journal at the latest.

use super::devices::{Batch, Committed, DeviceFigures};
use super::frame::{Progress, Sequence};
use super::{AppendError, Journal, State, SyncMode};
use crate::io::Buffer;
use parking_lot::MutexGuard;
use std::io;
use std::time::{Duration, Instant};

/// After those who were waited for did not come, so many commits wait for fewer.
const MODEST_COMMITS: u32 = 16;

/// A writer that goes on has come by then, however long the last sync took.
const GATHERING_MAX: Duration = Duration::from_millis(10);

/// So much is written at once, although nobody waits for it: the next batch fills meanwhile.
const HEAVY_BYTES: usize = 768 << 10;

/// How many share a sync, and how long it takes.
///
/// Whom a sync has served comes back with the next record while others wait already: each would wait for two syncs,
/// two halves in turn, where one shared by all costs no more.
#[derive(Default)]
pub(super) struct Gathering {
    /// Those who want the next sync, or came while one is under way.
    waiting: usize,
    shared_last: usize,
    /// Those who shared the last sync, and those who came while it was under way.
    seen_last: usize,
    took_last: Duration,
    ended_last: Option<Instant>,
    modest_commits: u32,
}

impl Gathering {
    /// Whether as many wait as may come. Nobody else is worth waking the one who gathers for.
    fn is_complete(&self) -> bool {
        self.waiting >= self.awaited()
    }

    fn awaited(&self) -> usize {
        match self.modest_commits {
            0 => self.seen_last,
            _ => self.shared_last,
        }
    }

    /// They are waited for no longer than a sync takes or [`GATHERING_MAX`], and not after a pause, which nobody comes back from.
    fn deadline(&self) -> Option<Instant> {
        let until = self.ended_last? + self.took_last.min(GATHERING_MAX);
        (Instant::now() < until).then_some(until)
    }

    fn end(&mut self, have_all_come: bool) {
        self.modest_commits = match have_all_come {
            true => self.modest_commits.saturating_sub(1),
            false => MODEST_COMMITS,
        };
        self.shared_last = self.waiting;
    }
}

/// Called once something is on stable storage, or will not be: EIO then. Must not block.
pub type Synced = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A call that was left behind, and what it waits for.
pub(super) struct Parked {
    wanted: Sequence,
    synced: Synced,
}

impl Journal {
    /// Returns when everything up to `sequence` survives what the mode says it survives.
    pub fn sync(&self, sequence: Sequence) -> Result<(), AppendError> {
        match self.settings.mode {
            SyncMode::Immediate | SyncMode::Batch => self.make_durable(sequence),
            SyncMode::Periodic | SyncMode::None => self.state.lock().check(),
        }
    }

    /// The same for who does not wait: `synced` is called then, by whoever commits. Blocks for as long as a commit takes
    /// where nobody is at it.
    pub fn sync_then(&self, sequence: Sequence, synced: Synced) {
        let _ = self.park(sequence, synced, true);
    }

    /// The same as far as it can be done without blocking; else `synced` comes back.
    pub fn sync_soon(&self, sequence: Sequence, synced: Synced) -> Result<(), Synced> {
        self.park(sequence, synced, false)
    }

    /// Leaves a call behind. Where nobody commits it does so itself, or `synced` comes back.
    fn park(&self, sequence: Sequence, synced: Synced, may_commit: bool) -> Result<(), Synced> {
        let mut state = self.state.lock();
        let known = match self.settings.mode {
            SyncMode::Immediate | SyncMode::Batch => state.known_of(sequence),
            SyncMode::Periodic | SyncMode::None => Some(state.check()),
        };
        if let Some(known) = known {
            drop(state);
            synced(told(known));
            return Ok(());
        }
        if !state.is_committing && !may_commit {
            return Err(synced);
        }
        state.figures.waits += 1;
        let wanted = sequence.min(state.last_filled());
        state.parked.push(Parked { wanted, synced });
        self.join(&mut state);
        if !state.is_committing {
            drop(self.commit(state, Commit::for_those_who_wait()));
        }
        Ok(())
    }

    /// One more wants the next sync.
    fn join(&self, state: &mut State) {
        state.gathering.waiting += 1;
        if state.is_committing && state.gathering.is_complete() {
            self.joined.notify_one();
        }
    }

    /// Returns when everything up to `sequence` is on stable storage, whatever the mode.
    pub fn make_durable(&self, sequence: Sequence) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        state.figures.waits += 1;
        loop {
            if let Some(known) = state.known_of(sequence) {
                return known;
            }
            let wanted = sequence.min(state.last_filled());
            state.wanted = state.wanted.max(wanted);
            self.join(&mut state);
            if !state.is_committing {
                state = self.commit(state, Commit::for_those_who_wait());
                continue;
            }
            let turn = self.turns.join();
            drop(state);
            self.turns.wait_for_end_of(turn);
            if self.turns.is_durable(wanted) {
                return Ok(());
            }
            state = self.state.lock();
        }
    }

    /// Until the open batch, which has no room for what comes, is on its way to the disk, or what it was is over.
    pub(super) fn make_way<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let full = state.open.sequence;
        while state.open.sequence == full && state.figures.failure.is_none() {
            // Who waits here fills the next one while another writes this one.
            let is_another_at_it = state.is_heavy() && !state.is_ending;
            if !state.is_committing && !is_another_at_it {
                let (synced, empty) = (false, false);
                return self.commit(state, Commit { synced, empty });
            }
            self.due.notify_one();
            self.closed.wait(&mut state);
        }
        state
    }

    /// Waits for a commit, or makes it, until `sequence` is written.
    pub(super) fn reach<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        sequence: Sequence,
    ) -> Result<MutexGuard<'a, State>, AppendError> {
        loop {
            state.check()?;
            if state.written >= sequence.min(state.last_filled()) {
                return Ok(state);
            }
            if state.is_committing {
                self.turned.wait(&mut state);
                continue;
            }
            let (synced, empty) = (false, false);
            state = self.commit(state, Commit { synced, empty });
        }
    }

    /// Writes the open batch and syncs, as far as it is asked for.
    pub(super) fn commit<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        commit: Commit,
    ) -> MutexGuard<'a, State> {
        debug_assert!(!state.is_committing, "one commit at a time");
        // Who waits on a thread may come too late for each turn, where one large batch follows another.
        let synced = commit.synced || state.wanted > state.durable;
        let commit = Commit { synced, ..commit };
        state.is_committing = true;
        if commit.synced {
            let have_all_come = self.gather(&mut state);
            state.gathering.end(have_all_come);
        }
        let progress = state.progress();
        let mut batch = None;
        if state.open.payload_bytes > 0 || commit.empty {
            batch = state
                .close_batch()
                .or_else(|| self.pool.try_take().map(|b| state.empty_batch(b)));
            self.closed.notify_all();
        }
        drop(state);
        let began = Instant::now();
        let outcome = self.write(batch, progress, commit.synced);
        let mut state = self.state.lock();
        state.is_committing = false;
        match outcome {
            Ok((committed, figures)) => {
                state.note_devices(&committed.lost, figures);
                state.note(committed, commit, began.elapsed());
            }
            Err(error) => state.fail(&error),
        }
        self.end_turn(&mut state);
        self.acknowledged.notify_one();
        state
    }

    /// Wakes everybody who waits for the end of a commit, or for something that it may have changed.
    pub(super) fn end_turn(&self, state: &mut MutexGuard<'_, State>) {
        let served = state.take_served();
        state.gathering.seen_last = state.gathering.waiting;
        // Who waits on a thread comes again.
        state.gathering.waiting = state.parked.len();
        if !state.parked.is_empty() || state.is_heavy() {
            self.due.notify_one();
        }
        state.gathering.ended_last = Some(Instant::now());
        self.turns.note_durable(state.durable);
        self.turns.end();
        self.turned.notify_all();
        self.closed.notify_all();
        // Whom it has served goes on meanwhile, and the next of them takes the lock.
        MutexGuard::unlocked(state, || {
            self.turns.wake();
            for (synced, outcome) in served {
                synced(outcome);
            }
        });
    }

    /// Those who may come are waited for, for a moment: one sync serves them all. Whether they came.
    fn gather(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let nobody_waits = state.gathering.waiting == 0;
        if self.settings.mode != SyncMode::Batch || nobody_waits || state.gathering.is_complete() {
            return true;
        }
        let Some(deadline) = state.gathering.deadline() else {
            return true;
        };
        while !state.gathering.is_complete() {
            if self.joined.wait_until(state, deadline).timed_out() {
                return state.gathering.is_complete();
            }
        }
        true
    }

    /// Until nobody commits. Another may have begun to where the end of a commit was told.
    pub(super) fn wait_for_turn(&self, state: &mut MutexGuard<'_, State>) {
        while state.is_committing {
            self.turned.wait(state);
        }
    }

    pub(super) fn write(
        &self,
        batch: Option<Batch>,
        progress: Progress,
        synced: bool,
    ) -> io::Result<(Committed, Option<DeviceFigures>)> {
        let mut devices = self.devices.lock();
        let committed = devices.commit(batch, progress, synced)?;
        let figures = (!committed.lost.is_empty()).then(|| devices.figures());
        Ok((committed, figures))
    }
}

/// What is asked of a commit.
#[derive(Clone, Copy)]
pub(super) struct Commit {
    pub synced: bool,
    /// A batch is written also when there are no records, for what its header says.
    pub empty: bool,
}

impl Commit {
    pub(super) fn for_those_who_wait() -> Self {
        let (synced, empty) = (true, false);
        Self { synced, empty }
    }
}

fn told(outcome: Result<(), AppendError>) -> io::Result<()> {
    outcome.map_err(|_| io::Error::from_raw_os_error(libc::EIO))
}

impl State {
    /// Whether everything up to `sequence` is on stable storage, or nothing more gets there. `None` where that is still to be seen.
    fn known_of(&self, sequence: Sequence) -> Option<Result<(), AppendError>> {
        // There is nothing in a batch that is only open.
        if self.durable >= sequence.min(self.last_filled()) {
            return Some(Ok(()));
        }
        self.check().err().map(Err)
    }

    /// Those who are to be called now, and with what.
    fn take_served(&mut self) -> Vec<(Synced, io::Result<()>)> {
        let (failed, durable) = (self.check(), self.durable);
        let served = self
            .parked
            .extract_if(.., |parked| failed.is_err() || parked.wanted <= durable);
        let told = served.map(|parked| match parked.wanted <= durable {
            true => (parked.synced, Ok(())),
            false => (parked.synced, told(failed.clone())),
        });
        told.collect()
    }

    /// Whether somebody is to be called for whom nobody commits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.parked.is_empty() && !self.is_committing && self.figures.failure.is_none()
    }

    /// Whether the open batch is to be written at once. By a thread of its own: whoever fills it is wanted for the next one.
    pub(super) fn is_heavy(&self) -> bool {
        self.open.payload_bytes >= HEAVY_BYTES && self.figures.failure.is_none()
    }

    fn last_filled(&self) -> Sequence {
        match self.open.payload_bytes {
            0 => self.open.sequence.before(),
            _ => self.open.sequence,
        }
    }

    fn close_batch(&mut self) -> Option<Batch> {
        let buffer = self.open.buffer.take()?;
        Some(self.empty_batch(buffer))
    }

    /// The open batch's number goes with this buffer, and the next batch has the next.
    fn empty_batch(&mut self, buffer: Buffer) -> Batch {
        let batch = Batch {
            sequence: self.open.sequence,
            buffer,
            payload_bytes: self.open.payload_bytes,
        };
        self.open.sequence = self.open.sequence.next();
        self.open.payload_bytes = 0;
        batch
    }

    fn note(&mut self, committed: Committed, commit: Commit, took: Duration) {
        self.note_room(&committed);
        if let Some((sequence, place)) = committed.place {
            self.written = sequence;
            self.places.push_back((sequence, place));
            self.figures.commits += 1;
        }
        if commit.synced {
            self.durable = self.written;
            self.figures.syncs += 1;
            self.gathering.took_last = took;
            self.latency.saturating_record(took.as_micros() as u64);
        }
    }

    pub(super) fn note_room(&mut self, committed: &Committed) {
        self.on_disk = committed.on_disk;
        self.room_batches = committed.room_batches;
    }

    /// What devices had that were given up is not read any more.
    pub(super) fn note_devices(&mut self, lost: &[u8], figures: Option<DeviceFigures>) {
        if let Some(figures) = figures {
            self.figures.devices = figures;
        }
        if !lost.is_empty() {
            for (_, place) in &mut self.places {
                place.shards.retain(|shard| !lost.contains(&shard.device));
            }
        }
    }

    pub(super) fn forget_trimmed(&mut self) {
        let trimmed = self.trims.effective;
        while self
            .places
            .front()
            .is_some_and(|(sequence, _)| *sequence <= trimmed)
        {
            self.places.pop_front();
        }
    }
}
