//! The order of what is done to one changing file: pieces of work whose ranges overlap run one after the other, as
//! they came; reads beside reads, and all others, side by side. Nobody waits on a thread for a turn.

use crate::types::ByteRange;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touch {
    Reads,
    Changes,
}

/// Called when the turn has come; hands the work to a thread. Must not block.
type Start = Box<dyn FnOnce(Turn) + Send>;

#[derive(Default)]
pub(super) struct RangeOrder {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// In the order they came.
    entries: Vec<Entry>,
}

struct Entry {
    id: u64,
    range: ByteRange,
    touch: Touch,
    /// `None` once it runs.
    start: Option<Start>,
}

/// The right to work on a range; whoever waits for it goes on when it is dropped.
pub(super) struct Turn {
    order: Arc<RangeOrder>,
    id: u64,
}

impl RangeOrder {
    /// Calls `start` when all that came before and overlaps has ended; now if nothing does.
    pub fn enter(
        self: &Arc<Self>,
        range: ByteRange,
        touch: Touch,
        start: impl FnOnce(Turn) + Send + 'static,
    ) {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.entries.push(Entry {
            id,
            range,
            touch,
            start: Some(Box::new(start)),
        });
        let ready = state.take_ready();
        drop(state);
        self.begin(ready);
    }

    /// Whether a change of some of these bytes has come and not ended.
    pub fn is_changing(&self, range: &ByteRange) -> bool {
        let state = self.state.lock();
        let changes = |entry: &Entry| entry.touch == Touch::Changes && entry.range.overlaps(range);
        state.entries.iter().any(changes)
    }

    fn begin(self: &Arc<Self>, ready: Vec<(u64, Start)>) {
        for (id, start) in ready {
            let order = self.clone();
            start(Turn { order, id });
        }
    }
}

impl State {
    /// What waits and has nothing before it any more.
    fn take_ready(&mut self) -> Vec<(u64, Start)> {
        let mut ready = Vec::new();
        for at in 0..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(at);
            let entry = &mut rest[0];
            if entry.start.is_some()
                && !before.iter().any(|other| other.excludes(entry))
                && let Some(start) = entry.start.take()
            {
                ready.push((entry.id, start));
            }
        }
        ready
    }
}

impl Entry {
    fn excludes(&self, other: &Entry) -> bool {
        self.range.overlaps(&other.range)
            && (self.touch == Touch::Changes || other.touch == Touch::Changes)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.order.state.lock();
        state.entries.retain(|entry| entry.id != self.id);
        let ready = state.take_ready();
        drop(state);
        self.order.begin(ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns given out so far, by the name of the work.
    #[derive(Clone, Default)]
    struct Board(Arc<Mutex<Vec<(&'static str, Turn)>>>);

    impl Board {
        fn enter(
            &self,
            order: &Arc<RangeOrder>,
            name: &'static str,
            range: ByteRange,
            touch: Touch,
        ) {
            let given = self.0.clone();
            order.enter(range, touch, move |turn| given.lock().push((name, turn)));
        }

        fn names(&self) -> Vec<&'static str> {
            self.0.lock().iter().map(|(name, _)| *name).collect()
        }

        fn end(&self, name: &str) {
            let mut given = self.0.lock();
            let at = given.iter().position(|(held, _)| *held == name);
            let ended = given.remove(at.expect("it runs"));
            drop(given);
            drop(ended);
        }
    }

    #[test]
    fn what_overlaps_runs_in_the_order_it_came_and_the_rest_side_by_side() {
        let order = Arc::new(RangeOrder::default());
        let board = Board::default();
        board.enter(&order, "a", ByteRange::new(0, 10), Touch::Changes);
        board.enter(&order, "b", ByteRange::new(5, 15), Touch::Changes);
        board.enter(&order, "c", ByteRange::new(12, 20), Touch::Reads);
        board.enter(&order, "d", ByteRange::new(30, 40), Touch::Changes);
        assert_eq!(board.names(), ["a", "d"]);
        assert!(order.is_changing(&ByteRange::new(14, 16)));
        board.end("a");
        assert_eq!(board.names(), ["d", "b"]);
        board.end("b");
        assert_eq!(board.names(), ["d", "c"]);
        assert!(!order.is_changing(&ByteRange::new(14, 16)));
    }

    #[test]
    fn reads_do_not_wait_for_reads_but_for_a_change_between_them() {
        let order = Arc::new(RangeOrder::default());
        let board = Board::default();
        let all = ByteRange::new(0, u64::MAX);
        board.enter(&order, "first", all, Touch::Reads);
        board.enter(&order, "second", all, Touch::Reads);
        board.enter(&order, "change", all, Touch::Changes);
        board.enter(&order, "third", all, Touch::Reads);
        assert_eq!(board.names(), ["first", "second"]);
        board.end("first");
        assert_eq!(board.names(), ["second"]);
        board.end("second");
        board.end("change");
        assert_eq!(board.names(), ["third"]);
    }
}
