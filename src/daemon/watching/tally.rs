//! Sums of what was done, by file and by process. Counted here rather than by the reader from a stream of operations:
//! nothing is lost however much is done, and an interval costs one line.

use super::told::{Counts, FileLoad, Load, ProcessLoad};
use crate::daemon::control::WirePath;
use crate::sys::process::process_of;
use crate::watch::{Ended, Listener};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Files, processes and threads that are counted apart in one interval: some MiB.
const ROWS_MAX: usize = 8192;
/// Told of those that lead, in each order.
const LEADERS_MAX: usize = 100;

#[derive(Default)]
pub struct Tally {
    interval: Mutex<Interval>,
}

#[derive(Default)]
struct Interval {
    total: Counts,
    files: HashMap<PathBuf, Counts>,
    processes: HashMap<u32, (String, Counts)>,
    /// The process of each thread.
    threads: HashMap<u32, u32>,
    uncounted: u64,
}

impl Tally {
    /// What was done since the last time.
    pub fn take(&self, took: Duration) -> Load {
        let interval = std::mem::take(&mut *self.interval.lock());
        let files = interval.files.into_iter().map(|(path, counts)| FileLoad {
            path: WirePath::from(&*path),
            counts,
        });
        let processes = interval.processes.into_iter();
        let processes = processes.map(|(pid, (name, counts))| ProcessLoad { pid, name, counts });
        Load {
            seconds: took.as_secs_f64(),
            total: interval.total,
            files: leading(files.collect(), |file| file.counts),
            processes: leading(processes.collect(), |process| process.counts),
            uncounted_operations: interval.uncounted,
        }
    }
}

impl Interval {
    fn add(&mut self, ended: &Ended) {
        self.total.add(ended);
        let thread = ended.asked.caller.pid;
        let is_new = !self.threads.contains_key(&thread);
        if is_new && self.threads.len() < ROWS_MAX {
            // It waits for the answer, and is there to be asked for.
            let (pid, name) = process_of(thread).unwrap_or((thread, String::new()));
            self.threads.insert(thread, pid);
            self.processes
                .entry(pid)
                .or_insert((name, Counts::default()));
        }
        let pid = self.threads.get(&thread);
        let process = pid.and_then(|pid| self.processes.get_mut(pid));
        let by_process = process.map(|(_, counts)| counts.add(ended)).is_some();
        let by_file = match &ended.asked.path {
            Some(path) => match room_for(&mut self.files, path) {
                Some(counts) => {
                    counts.add(ended);
                    true
                }
                None => false,
            },
            None => true,
        };
        self.uncounted += u64::from(!by_process || !by_file);
    }
}

fn room_for<'a>(files: &'a mut HashMap<PathBuf, Counts>, path: &PathBuf) -> Option<&'a mut Counts> {
    match files.contains_key(path) {
        true => files.get_mut(path),
        false if files.len() < ROWS_MAX => Some(files.entry(path.clone()).or_default()),
        false => None,
    }
}

impl Listener for Tally {
    fn heard(&self, ended: &Arc<Ended>) {
        self.interval.lock().add(ended);
    }
}

/// Whoever leads in one order may be far behind in another.
fn leading<T>(rows: Vec<T>, counts: impl Fn(&T) -> Counts) -> Vec<T> {
    let by_operations = leaders(&rows, |row| counts(row).operations);
    let by_bytes = leaders(&rows, |row| counts(row).moved_bytes());
    let by_time = leaders(&rows, |row| counts(row).total_us);
    let chosen: std::collections::HashSet<usize> = [by_operations, by_bytes, by_time]
        .into_iter()
        .flatten()
        .collect();
    let kept = rows.into_iter().enumerate();
    kept.filter(|(index, _)| chosen.contains(index))
        .map(|(_, row)| row)
        .collect()
}

fn leaders<T, O: Ord + Hash>(rows: &[T], order: impl Fn(&T) -> O) -> Vec<usize> {
    let mut indexes: Vec<usize> = (0..rows.len()).collect();
    indexes.sort_by_key(|index| Reverse(order(&rows[*index])));
    indexes.truncate(LEADERS_MAX);
    indexes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Caller, Timestamp};
    use crate::watch::{Asked, Outcome, Served};

    fn read(path: &str, served: Served, moved_bytes: u64) -> Arc<Ended> {
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
                    pid: std::process::id(),
                },
                offset: Some(0),
            },
            outcome: Outcome {
                errno: 0,
                moved_bytes,
            },
            served,
            took: Duration::from_micros(5),
        })
    }

    #[test]
    fn reads_are_summed_by_file_and_by_process_and_each_interval_begins_anew() {
        let tally = Tally::default();
        tally.heard(&read("a", Served::Hit, 10));
        tally.heard(&read("a", Served::Fill, 20));
        tally.heard(&read("b", Served::Backend, 40));
        let load = tally.take(Duration::from_secs(2));
        assert_eq!((load.total.hits, load.total.misses), (1, 2));
        assert_eq!((load.total.hit_bytes, load.total.miss_bytes), (10, 60));
        assert_eq!(load.files.len(), 2);
        let [process] = &load.processes[..] else {
            panic!("{load:?}");
        };
        assert_eq!(process.pid, std::process::id());
        assert!(!process.name.is_empty());
        assert_eq!(
            (process.counts.operations, process.counts.total_us),
            (3, 15)
        );
        assert_eq!(tally.take(Duration::from_secs(1)).total, Counts::default());
    }

    #[test]
    fn a_million_files_take_the_room_of_some_thousand() {
        let tally = Tally::default();
        for file in 0..ROWS_MAX + 100 {
            tally.heard(&read(&file.to_string(), Served::Hit, 1));
        }
        assert_eq!(tally.interval.lock().files.len(), ROWS_MAX);
        let load = tally.take(Duration::from_secs(1));
        assert_eq!(load.total.hits, (ROWS_MAX + 100) as u64);
        assert_eq!(load.uncounted_operations, 100);
        assert!(load.files.len() <= 3 * LEADERS_MAX);
    }
}
