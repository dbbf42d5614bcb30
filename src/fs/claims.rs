//! Names and inodes that a change is under way for. A change that timed out goes on in its thread, and its result
//! is taken over when it comes; until then other changes of the same names and inodes wait behind it.
//!
//! Invariant: a claim is held by one change at a time, and claims are given in the order they were asked for.

use crate::types::NodeId;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;

/// Changes that may wait for others; each is a request that has its own deadline.
const WAITING_MAX: usize = 10_000;

/// What a change needs for itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Claim {
    Name(NodeId, OsString),
    Inode(NodeId),
}

#[derive(Default)]
pub(super) struct ClaimTable {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashSet<Claim>,
    waiting: VecDeque<Waiting>,
    /// Given back, but still among `held`.
    freed: Vec<Claim>,
    /// A thread is in [`ClaimTable::free`].
    is_freeing: bool,
}

type Waiting = (Vec<Claim>, Start);
type Start = Box<dyn FnOnce(Claimed) + Send>;

/// Claims held until dropped.
pub(super) struct Claimed {
    table: Arc<ClaimTable>,
    claims: Vec<Claim>,
}

/// Too many changes wait for others.
pub(super) struct TooManyWait;

impl ClaimTable {
    /// Calls `start` once all of `claims` are free: now, or on the thread that frees the last of them. `start` must not block.
    pub(super) fn when_free(
        self: &Arc<Self>,
        claims: Vec<Claim>,
        start: impl FnOnce(Claimed) + Send + 'static,
    ) -> Result<(), TooManyWait> {
        let mut state = self.state.lock();
        let is_free = |claim| !state.held.contains(claim) && !state.is_wanted(claim);
        if claims.iter().all(is_free) {
            state.held.extend(claims.iter().cloned());
            drop(state);
            start(self.claimed(claims));
            return Ok(());
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(TooManyWait);
        }
        state.waiting.push_back((claims, Box::new(start)));
        Ok(())
    }

    fn claimed(self: &Arc<Self>, claims: Vec<Claim>) -> Claimed {
        Claimed {
            table: self.clone(),
            claims,
        }
    }

    /// Frees claims, and starts what waited for them alone. What frees claims while it is started only leaves them here:
    /// however many wait, no call is made within another.
    fn free(self: &Arc<Self>, claims: Vec<Claim>) {
        let mut state = self.state.lock();
        state.freed.extend(claims);
        if std::mem::replace(&mut state.is_freeing, true) {
            return;
        }
        while !state.freed.is_empty() {
            let started = state.next_started();
            drop(state);
            for (claims, start) in started {
                start(self.claimed(claims));
            }
            state = self.state.lock();
        }
        state.is_freeing = false;
    }
}

impl State {
    /// Takes off the list what can start now.
    fn next_started(&mut self) -> Vec<Waiting> {
        for claim in std::mem::take(&mut self.freed) {
            self.held.remove(&claim);
        }
        let mut started = Vec::new();
        let mut wanted: HashSet<Claim> = HashSet::new();
        for (claims, start) in std::mem::take(&mut self.waiting) {
            let is_free = |claim| !self.held.contains(claim) && !wanted.contains(claim);
            if claims.iter().all(is_free) {
                self.held.extend(claims.iter().cloned());
                started.push((claims, start));
            } else {
                wanted.extend(claims.iter().cloned());
                self.waiting.push_back((claims, start));
            }
        }
        started
    }

    fn is_wanted(&self, claim: &Claim) -> bool {
        self.waiting
            .iter()
            .any(|(claims, _)| claims.contains(claim))
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.table.free(std::mem::take(&mut self.claims));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    fn name(name: &str) -> Claim {
        Claim::Name(NodeId::ROOT, name.into())
    }

    #[test]
    fn a_change_waits_for_those_before_it_and_for_no_others() {
        let table = Arc::new(ClaimTable::default());
        let (sender, started) = unbounded();
        let ask = |label: &'static str, claims: Vec<Claim>| {
            let sender = sender.clone();
            let outcome = table.when_free(claims, move |claimed| {
                sender.send((label, claimed)).expect("the test listens");
            });
            assert!(outcome.is_ok());
        };
        ask("a", vec![name("a")]);
        ask("a to b", vec![name("a"), name("b")]);
        // Free, but wanted by one that came before.
        ask("b", vec![name("b")]);
        ask("inode", vec![Claim::Inode(NodeId(7))]);
        let (first, a) = started.try_recv().expect("nothing is before it");
        assert_eq!(first, "a");
        let (second, _inode) = started.try_recv().expect("it needs nothing of the others");
        assert_eq!(second, "inode");
        assert!(started.try_recv().is_err());
        drop(a);
        let (third, both) = started.try_recv().expect("a is free");
        assert_eq!(third, "a to b");
        assert!(started.try_recv().is_err());
        drop(both);
        assert_eq!(started.try_recv().expect("b is free").0, "b");
        assert!(table.state.lock().waiting.is_empty());
    }

    #[test]
    fn no_more_wait_than_the_bound() {
        let table = Arc::new(ClaimTable::default());
        let mut held = None;
        assert!(table.when_free(vec![name("a")], |_| ()).is_ok());
        let (sender, started) = unbounded();
        let keep = table.when_free(vec![name("a")], move |claimed| {
            sender.send(claimed).expect("the test listens");
        });
        assert!(keep.is_ok());
        held.replace(
            started
                .try_recv()
                .expect("the first was given back at once"),
        );
        for _ in 0..WAITING_MAX {
            assert!(table.when_free(vec![name("a")], |_| ()).is_ok());
        }
        assert!(table.when_free(vec![name("a")], |_| ()).is_err());
        drop(held);
        assert!(table.state.lock().held.is_empty());
    }
}
