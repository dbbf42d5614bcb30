//! Who leaves a call behind instead of waiting for a commit: it comes once, after the commit that serves it, with the truth.

use super::hanging::{Gate, LIMIT, wait_until};
use super::tests::*;
use super::*;
use crate::io::simulator::{Fault, FaultPlan, FaultRule, Simulation};
use crossbeam_channel::{Receiver, TryRecvError, unbounded};
use std::thread::{JoinHandle, spawn};

type Outcome = io::Result<()>;

fn open_behind(simulation: &Simulation, gate: &Arc<Gate>) -> Opened {
    hanging::open_behind(simulation, gate, tests::settings())
}

fn park(journal: &Journal, sequence: Sequence) -> Receiver<Outcome> {
    let (told, outcome) = unbounded();
    let synced = move |outcome| told.send(outcome).expect("the test listens");
    journal.sync_then(sequence, Box::new(synced));
    outcome
}

/// A commit of the first write, which goes on until the gate is opened.
fn begin_commit(journal: &Arc<Journal>, gate: &Gate) -> JoinHandle<Result<(), AppendError>> {
    let first = append(journal, 0).expect("there is room");
    gate.set_shut(true);
    let journal = journal.clone();
    let waited = journal.clone();
    let thread = spawn(move || journal.make_durable(first));
    wait_until(|| waited.state.lock().is_committing);
    thread
}

#[test]
fn who_comes_alone_is_called_before_it_goes_on() {
    let simulation = Simulation::deterministic(21);
    let opened = open_behind(&simulation, &Arc::default());
    let sequence = append(&opened.journal, 0).expect("there is room");
    assert!(matches!(
        park(&opened.journal, sequence).try_recv(),
        Ok(Ok(()))
    ));
    // It is durable already.
    assert!(matches!(
        park(&opened.journal, sequence).try_recv(),
        Ok(Ok(()))
    ));
    assert_eq!(opened.journal.figures().syncs, 1);
}

#[test]
fn those_who_came_during_a_commit_share_the_next_one_though_nobody_waits() {
    let simulation = Simulation::new(22, FaultPlan::none());
    let gate = Arc::default();
    let opened = open_behind(&simulation, &gate);
    let first = begin_commit(&opened.journal, &gate);
    let parked: Vec<_> = (1..9)
        .map(|number| {
            let sequence = append(&opened.journal, number * 5).expect("there is room");
            park(&opened.journal, sequence)
        })
        .collect();
    for outcome in &parked {
        assert!(matches!(outcome.try_recv(), Err(TryRecvError::Empty)));
    }
    gate.set_shut(false);
    assert!(first.join().expect("it does not panic").is_ok());
    for outcome in parked {
        assert!(matches!(outcome.recv_timeout(LIMIT), Ok(Ok(()))));
        assert!(matches!(
            outcome.recv_timeout(LIMIT),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected)
        ));
    }
    assert_eq!(opened.journal.figures().syncs, 2);
}

#[test]
fn a_call_that_was_left_behind_tells_of_a_failed_sync() {
    let simulation = Simulation::new(23, FaultPlan::none());
    let gate = Arc::default();
    let opened = open_behind(&simulation, &gate);
    let first = begin_commit(&opened.journal, &gate);
    let sequence = append(&opened.journal, 5).expect("there is room");
    let parked = park(&opened.journal, sequence);
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::SyncError)));
    gate.set_shut(false);
    assert!(first.join().expect("it does not panic").is_err());
    let told = parked.recv_timeout(LIMIT);
    assert!(matches!(told, Ok(Err(_))), "{told:?}");
    let later = park(&opened.journal, sequence).try_recv();
    assert!(matches!(later, Ok(Err(_))), "{later:?}");
}

#[test]
fn the_end_of_a_journal_calls_all_that_were_left_behind() {
    let simulation = Simulation::new(24, FaultPlan::none());
    let gate = Arc::default();
    let opened = open_behind(&simulation, &gate);
    let first = begin_commit(&opened.journal, &gate);
    let sequence = append(&opened.journal, 5).expect("there is room");
    let parked = park(&opened.journal, sequence);
    let journal = opened.journal.clone();
    let end = spawn(move || journal.shutdown(Holding::Something));
    gate.set_shut(false);
    assert!(first.join().expect("it does not panic").is_ok());
    end.join().expect("it does not panic");
    assert!(matches!(parked.try_recv(), Ok(Ok(()))));
}

#[test]
fn who_must_not_block_leaves_a_call_behind_only_where_somebody_commits() {
    let simulation = Simulation::new(26, FaultPlan::none());
    let gate = Arc::default();
    let opened = open_behind(&simulation, &gate);
    let (told, outcome) = unbounded();
    let synced = || {
        let told = told.clone();
        let synced: Synced = Box::new(move |outcome| told.send(outcome).expect("it is heard"));
        synced
    };
    let sequence = append(&opened.journal, 0).expect("there is room");
    assert!(
        opened.journal.sync_soon(sequence, synced()).is_err(),
        "nobody commits"
    );
    let first = begin_commit(&opened.journal, &gate);
    let sequence = append(&opened.journal, 5).expect("there is room");
    assert!(opened.journal.sync_soon(sequence, synced()).is_ok());
    assert!(matches!(outcome.try_recv(), Err(TryRecvError::Empty)));
    gate.set_shut(false);
    assert!(first.join().expect("it does not panic").is_ok());
    assert!(matches!(outcome.recv_timeout(LIMIT), Ok(Ok(()))));
    assert!(opened.journal.sync_soon(sequence, synced()).is_ok());
    assert!(matches!(outcome.try_recv(), Ok(Ok(()))));
}

/// One takes another's place without a thread of its own.
#[test]
fn many_that_leave_calls_behind_are_all_called() {
    const WRITERS: u64 = 64;
    const WRITES: u64 = 40;
    let simulation = Simulation::new(25, FaultPlan::none());
    let opened = open_behind(&simulation, &Arc::default());
    let (free, next) = unbounded();
    for writer in 0..WRITERS {
        free.send((writer, 0)).expect("it is read");
    }
    let (ended, ends) = unbounded();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (journal, free) = (opened.journal.clone(), free.clone());
            let (next, ended) = (next.clone(), ended.clone());
            spawn(move || {
                while let Ok((writer, done)) = next.recv_timeout(LIMIT) {
                    if done == WRITES {
                        let _ = ended.send(writer);
                        if writer == u64::MAX {
                            return;
                        }
                        continue;
                    }
                    let number = (writer * WRITES + done) * 5;
                    let sequence = append(&journal, number).expect("there is room");
                    let free = free.clone();
                    let again = move |outcome: Outcome| {
                        outcome.expect("no faults");
                        let _ = free.send((writer, done + 1));
                    };
                    journal.sync_then(sequence, Box::new(again));
                    journal.trim(sequence.before().before());
                }
            })
        })
        .collect();
    for _ in 0..WRITERS {
        ends.recv_timeout(LIMIT).expect("every write is called for");
    }
    for _ in &threads {
        free.send((u64::MAX, WRITES)).expect("it is read");
    }
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    let figures = opened.journal.figures();
    assert!(figures.waits <= WRITERS * WRITES);
    assert!(figures.syncs <= WRITERS * WRITES, "{figures:?}");
}
