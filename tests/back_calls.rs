//! `write_mode=back`: how often the backend is asked for what a program does, beside what the program would ask it itself.

mod support;

use std::fs;
use std::path::Path;
use support::written_back::{LIMIT, Place, bytes};
use support::*;

const FILES: u64 = 20;
/// What a client of NFS believes names for.
const TTL_MS: u64 = 30_000;

fn place(test: &str) -> Place {
    let server = BackendOptions {
        ttl_ms: TTL_MS,
        ..Default::default()
    };
    let place = Place::on(test, server, &["writeback_delay=300ms"]);
    fs::create_dir(place.here("here")).unwrap();
    fs::create_dir(place.backend.mountpoint.join("there")).unwrap();
    place
}

fn write_files(directory: &Path, are_renamed: bool) {
    for file in 0..FILES {
        let path = directory.join(format!("f{file}"));
        let first = match are_renamed {
            true => path.with_extension("tmp"),
            false => path.clone(),
        };
        fs::write(&first, bytes(file as u8, 5000)).unwrap();
        if are_renamed {
            fs::rename(&first, &path).unwrap();
        }
    }
}

/// What the backend was asked for until it had all files: by a program through the mount, and by one on the backend.
fn calls(test: &str, are_renamed: bool) -> [Counters; 2] {
    let place = place(test);
    let asked = |directory: &Path| {
        place.backend.reset_counters();
        let directory = directory.to_owned();
        with_time_limit(&place.scratch, LIMIT, move || {
            write_files(&directory, are_renamed)
        });
        place.wait_for_backend();
        place.backend.counters()
    };
    let counters = [
        asked(&place.here("here")),
        asked(&place.backend.mountpoint.join("there")),
    ];
    for file in 0..FILES {
        place.expect_agreement(&format!("here/f{file}"));
    }
    counters
}

/// How often a file asks for something, with and without the mount.
fn expect_more(counters: &[Counters; 2], operation: Operation, allowed: f64) {
    let [with, without] = counters
        .each_ref()
        .map(|counters| counters.calls(operation) as f64 / FILES as f64);
    assert!(
        with <= without + allowed,
        "{operation:?}: {with} a file, and {without} without the mount"
    );
}

#[test]
fn a_new_file_asks_the_backend_for_little_more_than_it_would_without() {
    let counters = calls("back-calls-new", false);
    for operation in [Operation::Create, Operation::Write, Operation::Flush] {
        expect_more(&counters, operation, 0.0);
    }
    for operation in [Operation::Setattr, Operation::Fsync] {
        expect_more(&counters, operation, 1.0);
    }
    // To make it its name is looked up twice: a name that is not there is not remembered.
    expect_more(&counters, Operation::Lookup, 1.1);
    // Once made, before it is written there, and after.
    expect_more(&counters, Operation::Getattr, 3.1);
}

#[test]
fn a_new_file_that_is_renamed_at_once_asks_for_little_more() {
    let counters = calls("back-calls-renamed", true);
    for operation in [Operation::Create, Operation::Write, Operation::Rename] {
        expect_more(&counters, operation, 0.0);
    }
    for operation in [Operation::Setattr, Operation::Fsync] {
        expect_more(&counters, operation, 1.0);
    }
    expect_more(&counters, Operation::Lookup, 2.1);
    expect_more(&counters, Operation::Getattr, 3.1);
}
