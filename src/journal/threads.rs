//! What the journal's own threads do: commit what nobody waits for, and note how far the journal has come; and their end.

use super::commit::Commit;
use super::frame::Sequence;
use super::witness::Holding;
use super::{Journal, State, SyncMode};
use parking_lot::MutexGuard;
use std::io;
use std::time::Instant;

const NOT_NOTED: &str = "noting in the cache directories how far the journal has come";

impl Journal {
    /// Commits what nobody waits for, until the end.
    pub(super) fn run(&self) {
        let mut state = self.state.lock();
        let mut synced_last = Instant::now();
        while !state.is_ending {
            let next = synced_last + self.settings.interval;
            if !state.is_urgent() {
                self.due.wait_until(&mut state, next);
            }
            let is_time = Instant::now() >= next;
            if state.is_heavy() && !state.is_awaited() && !is_time {
                if !state.is_committing {
                    let (synced, empty) = (false, false);
                    state = self.commit(state, Commit { synced, empty });
                }
                continue;
            }
            if is_time {
                self.wait_for_turn(&mut state);
            }
            state = self.commit_what_is_due(state);
            synced_last = Instant::now();
            if state.is_urgent() {
                continue;
            }
            drop(state);
            self.prewrite_one();
            state = self.state.lock();
        }
    }

    fn commit_what_is_due<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let is_news = state.has_news();
        if state.is_committing || state.figures.failure.is_some() {
            return state;
        }
        let has_records = state.open.payload_bytes > 0;
        let synced = self.settings.mode != SyncMode::None || is_news;
        let is_behind = synced && state.is_behind();
        if has_records || is_news || is_behind || state.is_awaited() {
            state = self.commit(
                state,
                Commit {
                    synced,
                    empty: is_news,
                },
            );
        }
        state
    }

    /// A piece at a time, so that commits come between.
    fn prewrite_one(&self) {
        loop {
            let mut devices = self.devices.lock();
            let outcome = devices.prewrite_some();
            let figures = devices.figures();
            drop(devices);
            let mut state = self.state.lock();
            match outcome {
                Ok((is_begun, lost)) => {
                    state.note_devices(&lost, (!lost.is_empty()).then_some(figures));
                    if !is_begun || state.is_ending || state.is_urgent() {
                        return;
                    }
                }
                Err(error) => {
                    state.fail(&error);
                    return self.end_turn(&mut state);
                }
            }
        }
    }

    /// Notes how far the journal has come, until the end.
    pub(super) fn note_acknowledged(&self) {
        let (mut noted, mut is_failing) = (Sequence::default(), false);
        let mut state = self.state.lock();
        while !state.is_ending {
            let durable = state.durable;
            if durable <= noted {
                self.acknowledged.wait(&mut state);
                continue;
            }
            drop(state);
            let outcome = self.note(durable, None);
            match &outcome {
                Ok(()) => noted = durable,
                Err(error) if !is_failing => tracing::warn!("{NOT_NOTED}: {error}"),
                Err(_) => {}
            }
            is_failing = outcome.is_err();
            state = self.state.lock();
            let next = Instant::now() + self.settings.witness_interval;
            while !state.is_ending && !self.ended.wait_until(&mut state, next).timed_out() {}
        }
    }

    fn note(&self, acknowledged: Sequence, holding: Option<Holding>) -> io::Result<()> {
        self.witness.note(&self.name, |own| {
            own.acknowledged = own.acknowledged.max(acknowledged);
            own.holding = holding.unwrap_or(own.holding);
        })
    }

    /// Everything is written and durable when it returns, or has failed. What it has that the backend has not is noted in
    /// the cache directories.
    pub fn shutdown(&self, holding: Holding) {
        let mut state = self.state.lock();
        state.is_ending = true;
        self.due.notify_one();
        self.acknowledged.notify_one();
        self.ended.notify_one();
        self.closed.notify_all();
        // What the first one makes durable the second one says.
        for _ in 0..2 {
            self.wait_for_turn(&mut state);
            let empty = state.has_news();
            let has_records = state.open.payload_bytes > 0;
            let is_wanted = empty || has_records || state.is_behind();
            if state.figures.failure.is_none() && is_wanted {
                let synced = true;
                state = self.commit(state, Commit { synced, empty });
            }
        }
        self.wait_for_turn(&mut state);
        while state.is_awaited() {
            state = self.commit(state, Commit::for_those_who_wait());
            self.wait_for_turn(&mut state);
        }
        let (has_failed, durable) = (state.figures.failure.is_some(), state.durable);
        drop(state);
        if !has_failed && let Err(error) = self.note(durable, Some(holding)) {
            tracing::warn!("{NOT_NOTED}: {error}");
        }
    }
}

impl State {
    /// Something is written that no sync has covered.
    fn is_behind(&self) -> bool {
        self.durable < self.written
    }

    /// Whether there is something to commit now for which nobody else does it.
    fn is_urgent(&self) -> bool {
        self.is_awaited() || (self.is_heavy() && !self.is_committing)
    }

    /// Whether the next header would say that segments are free, or that the last records were acknowledged: until one
    /// does, damage to them looks like a batch that never was.
    fn has_news(&mut self) -> bool {
        let progress = self.progress();
        progress.trimmed > self.on_disk.trimmed
            || (self.told > self.on_disk.acknowledged && self.told <= self.durable)
    }
}
