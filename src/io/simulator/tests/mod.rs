//! The simulator against a real disk, and what its faults promise to those who test with them.

mod against_disk;
mod asynchrony;
mod faults;
mod power_cuts;

use super::{Dice, Simulation};
use crate::io::{Io, IoFile, OpenMode};
use std::sync::Arc;

/// A file with these bytes, durable with its name.
fn durable_file(simulation: &Simulation, path: &str, data: &[u8]) -> Arc<dyn IoFile> {
    let disk = simulation.device("disk");
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    file.write_all_at(data, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_directory("").unwrap();
    file
}

fn contents_of(file: &Arc<dyn IoFile>) -> Vec<u8> {
    let mut bytes = vec![0xee; file.facts().unwrap().size_bytes as usize];
    let moved = file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(moved, bytes.len());
    bytes
}

/// The bytes at a path of the life that runs now.
fn contents(simulation: &Simulation, path: &str) -> std::io::Result<Vec<u8>> {
    let file = simulation.device("disk").open(path, OpenMode::Read)?;
    Ok(contents_of(&file))
}

fn noise(dice: &mut Dice, length_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; length_bytes];
    dice.fill(&mut bytes);
    bytes
}

fn errno_of<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
