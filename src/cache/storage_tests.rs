//! redb on simulated files: a commit that was acknowledged is there after a power cut at any operation.

use super::{IndexStorage, open_or_create};
use crate::io::simulator::{Dice, Fault, FaultPlan, FaultRule, Simulation, seed_of_this_run};
use crate::io::{Io, OpenMode};
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};
use std::panic::AssertUnwindSafe;

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("commits");
const COMMITS: u64 = 12;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn open(simulation: &Simulation) -> Outcome<Database> {
    let disk = simulation.device("disk");
    let mut builder = Builder::new();
    builder.set_cache_size(1 << 20);
    Ok(open_or_create(&*disk, "index/redb", &builder)?)
}

fn value(seed: u64, commit: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed ^ commit);
    let mut bytes = vec![0; dice.below(9000) as usize];
    dice.fill(&mut bytes);
    bytes
}

/// Commits one by one until the power goes; counts those acknowledged.
fn work(simulation: &Simulation, seed: u64, acknowledged: &mut u64) -> Outcome<()> {
    let database = open(simulation)?;
    for commit in *acknowledged..COMMITS {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(commit % 2 == 0);
        {
            let mut table = transaction.open_table(TABLE)?;
            table.insert(commit, value(seed, commit).as_slice())?;
            // Rewrites an earlier record, so that pages are freed and used again.
            table.insert(commit / 2, value(seed, commit / 2).as_slice())?;
        }
        transaction.commit()?;
        *acknowledged = commit + 1;
    }
    Ok(())
}

/// How many commits are there; every record must be whole, and none missing before the last.
fn commits_found(database: &Database, seed: u64) -> Outcome<u64> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(TABLE) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut found = 0;
    for record in table.iter()? {
        let (commit, bytes) = record?;
        assert_eq!(commit.value(), found);
        assert!(
            bytes.value() == value(seed, found),
            "commit {found} is not whole"
        );
        found += 1;
    }
    Ok(found)
}

fn new_disk(seed: u64) -> Simulation {
    let simulation = Simulation::deterministic(seed);
    let disk = simulation.device("disk");
    disk.create_directory("index").unwrap();
    disk.sync_all().unwrap();
    simulation
}

#[test]
fn an_acknowledged_commit_survives_a_power_cut_at_any_operation() {
    let seed = seed_of_this_run();
    let mut cuts = 0;
    for operation in 1.. {
        let seed = seed.wrapping_add(operation);
        let simulation = new_disk(seed);
        let first = simulation.operations();
        simulation.crash_at(first + operation);
        let mut acknowledged = 0;
        let ended = work(&simulation, seed, &mut acknowledged);
        if simulation.is_running() {
            ended.unwrap();
            assert_eq!(acknowledged, COMMITS);
            break;
        }
        cuts += 1;
        simulation.restart();
        // Every other time the power goes again while the index is being repaired.
        if operation % 2 == 0 {
            simulation.crash_at(simulation.operations() + 1 + operation % 41);
            drop(open(&simulation));
            simulation.restart();
        }
        let context = format!(
            "cut at operation {operation}, CACHEFS_SEED={}",
            seed.wrapping_sub(operation)
        );
        let database = open(&simulation).unwrap_or_else(|error| panic!("{context}: {error}"));
        let found =
            commits_found(&database, seed).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{context}: {acknowledged} acknowledged, {found} found"
        );
        // And it goes on from there.
        drop(database);
        acknowledged = found;
        work(&simulation, seed, &mut acknowledged)
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        let database = open(&simulation).unwrap();
        assert_eq!(
            commits_found(&database, seed).unwrap(),
            COMMITS,
            "{context}"
        );
    }
    assert!(cuts > 100, "only {cuts} operations were cut");
}

#[test]
fn a_disk_that_ignores_syncs_is_noticed_by_this_test() {
    let seed = seed_of_this_run();
    let lost = (0..40).any(|round| {
        let seed = seed.wrapping_add(round);
        let simulation = new_disk(seed);
        simulation.set_faults(
            FaultPlan::none().with(FaultRule::new(Fault::LostWrite).with_probability(0.2)),
        );
        let mut acknowledged = 0;
        let _ = work(&simulation, seed, &mut acknowledged);
        simulation.set_faults(FaultPlan::none());
        simulation.crash();
        simulation.restart();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            open(&simulation)
                .and_then(|database| commits_found(&database, seed))
                .ok()
        }));
        !matches!(result, Ok(Some(found)) if found >= acknowledged)
    });
    assert!(lost, "the power cut test would notice nothing");
}

#[test]
fn no_commit_is_acknowledged_past_a_failed_sync() {
    let seed = seed_of_this_run();
    let mut failed = 0;
    for round in 0..20 {
        let seed = seed.wrapping_add(round);
        let simulation = new_disk(seed);
        let begin = simulation.operations() + 20 + round * 5;
        let failing = FaultRule::new(Fault::SyncError)
            .during(begin..u64::MAX)
            .at_most(1);
        simulation.set_faults(FaultPlan::none().with(failing));
        let mut acknowledged = 0;
        let ended = work(&simulation, seed, &mut acknowledged);
        // With all acknowledged the failure came while closing, which reports none.
        assert_eq!(
            ended.is_ok(),
            acknowledged == COMMITS,
            "CACHEFS_SEED={seed}"
        );
        failed += u32::from(ended.is_err());
        simulation.crash();
        simulation.restart();
        let database =
            open(&simulation).unwrap_or_else(|error| panic!("{error}, CACHEFS_SEED={seed}"));
        let found = commits_found(&database, seed).unwrap();
        assert!(
            found >= acknowledged,
            "{acknowledged} {found} CACHEFS_SEED={seed}"
        );
    }
    assert!(failed > 10, "{failed} runs met the failing sync");
}

#[test]
fn short_reads_are_completed_and_the_end_of_the_file_is_an_error() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::ShortRead)));
    let disk = simulation.device("disk");
    let storage = IndexStorage::new(disk.open("index", OpenMode::CreateNew).unwrap());
    storage.write(10, &[7; 5000]).unwrap();
    let mut bytes = [0; 5000];
    storage.read(10, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 5000]);
    let past = storage.read(11, &mut bytes).unwrap_err();
    assert_eq!(past.kind(), std::io::ErrorKind::UnexpectedEof);
    storage.set_len(6000).unwrap();
    assert_eq!(storage.len().unwrap(), 6000);
    storage.read(5010, &mut bytes[..990]).unwrap();
    assert_eq!(bytes[..990], [0; 990]);
}

#[test]
fn what_is_no_database_is_an_error_and_stays() {
    let simulation = new_disk(1);
    let disk = simulation.device("disk");
    let file = disk.open("index/redb", OpenMode::CreateNew).unwrap();
    for contents in [&[][..], &[7; 100], &[7; 100_000]] {
        file.write_all_at(contents, 0).unwrap();
        assert!(open(&simulation).is_err());
        assert_eq!(file.facts().unwrap().size_bytes, contents.len() as u64);
    }
}
