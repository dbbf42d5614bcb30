//! Operations on their way to one reader.

use super::pattern::covers;
use super::told::{Operation, WatchLine};
use crate::watch::{Ended, Listener};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Operations that wait to be taken; some MiB with long paths.
const QUEUE_MAX: usize = 16_384;
/// Written at once.
const LINES_MAX: usize = 256;

pub struct Queue {
    pattern: Option<String>,
    sender: Sender<Arc<Ended>>,
    receiver: Receiver<Arc<Ended>>,
    lost: AtomicU64,
}

impl Queue {
    pub fn new(pattern: Option<String>) -> Self {
        let (sender, receiver) = bounded(QUEUE_MAX);
        Self {
            pattern,
            sender,
            receiver,
            lost: AtomicU64::new(0),
        }
    }

    /// Waits for the first of them.
    pub fn take(&self, patience: Duration) -> Vec<WatchLine> {
        let first = self.receiver.recv_timeout(patience).ok();
        let more = self.receiver.try_iter().take(LINES_MAX);
        let mut lines: Vec<WatchLine> = first
            .into_iter()
            .chain(more)
            .map(|ended| WatchLine::Operation(Box::new(Operation::of(&ended))))
            .collect();
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => {}
            operations => lines.push(WatchLine::Lost { operations }),
        }
        lines
    }

    fn is_wanted(&self, ended: &Ended) -> bool {
        let Some(pattern) = &self.pattern else {
            return true;
        };
        let paths = [&ended.asked.path, &ended.asked.to];
        paths
            .into_iter()
            .flatten()
            .any(|path| covers(pattern, path))
    }
}

impl Listener for Queue {
    fn heard(&self, ended: &Arc<Ended>) {
        if self.is_wanted(ended) && self.sender.try_send(ended.clone()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Caller, Timestamp};
    use crate::watch::{Asked, Outcome, Served};
    use std::path::PathBuf;

    fn ended(path: &str) -> Arc<Ended> {
        Arc::new(Ended {
            request: 2,
            began: Timestamp::default(),
            asked: Asked {
                operation: "read",
                path: Some(PathBuf::from(path)),
                to: None,
                caller: Caller {
                    uid: 0,
                    gid: 0,
                    pid: 0,
                },
                offset: Some(0),
            },
            outcome: Outcome::default(),
            served: Served::Hit,
            took: Duration::ZERO,
        })
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let queue = Queue::new(Some("wanted".to_owned()));
        for _ in 0..QUEUE_MAX + 3 {
            queue.heard(&ended("wanted/file"));
            queue.heard(&ended("other"));
        }
        let mut operations = 0;
        let mut lost = 0;
        loop {
            let lines = queue.take(Duration::ZERO);
            if lines.is_empty() {
                break;
            }
            for line in lines {
                match line {
                    WatchLine::Operation(_) => operations += 1,
                    WatchLine::Lost { operations } => lost += operations,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((operations, lost), (QUEUE_MAX, 3));
    }
}
