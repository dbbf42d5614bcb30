//! Every planned fault does what it says, where it is planned and nowhere else.

use super::super::{Dice, Fault, FaultPlan, FaultRule, Simulation, seed_of_this_run};
use super::{contents, contents_of, durable_file, errno_of, noise};
use crate::io::{Io, OpenMode};

const EIO: Option<i32> = Some(libc::EIO);

fn simulation_with(rule: FaultRule) -> Simulation {
    let simulation = Simulation::deterministic(seed_of_this_run());
    simulation.set_faults(FaultPlan::none().with(rule));
    simulation
}

#[test]
fn rules_strike_where_and_as_often_as_they_say() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let open = |device: &str, path: &str| {
        let disk = simulation.device(device);
        disk.create_directory("objects").unwrap();
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        file
    };
    let struck = open("one", "objects/file");
    let other_path = open("one", "index");
    let other_device = open("two", "objects/file");
    let rule = FaultRule::new(Fault::ReadError)
        .on_device("one")
        .under("objects/")
        .at_most(2);
    simulation.set_faults(FaultPlan::none().with(rule.clone()));
    let mut byte = [0];
    assert!(other_path.read_at(&mut byte, 0).is_ok());
    assert!(other_device.read_at(&mut byte, 0).is_ok());
    assert_eq!(errno_of(struck.read_at(&mut byte, 0)), EIO);
    assert_eq!(errno_of(struck.read_at(&mut byte, 0)), EIO);
    assert!(struck.read_at(&mut byte, 0).is_ok());
    assert_eq!(simulation.strikes(), 2);

    let next = simulation.operations() + 1;
    simulation.set_faults(FaultPlan::none().with(rule.during(next + 1..next + 2)));
    assert!(struck.read_at(&mut byte, 0).is_ok());
    assert_eq!(errno_of(struck.read_at(&mut byte, 0)), EIO);
    assert!(struck.read_at(&mut byte, 0).is_ok());

    // A rule goes by the present name.
    simulation
        .device("one")
        .rename("index", "objects/index")
        .unwrap();
    simulation.set_faults(
        FaultPlan::none().with(FaultRule::new(Fault::ReadError).under("objects/index")),
    );
    assert_eq!(errno_of(other_path.read_at(&mut byte, 0)), EIO);
}

#[test]
fn probability_is_kept() {
    let simulation = simulation_with(FaultRule::new(Fault::ReadError).with_probability(0.25));
    let file = durable_file(&simulation, "file", b"x");
    let failed = (0..2000)
        .filter(|_| file.read_at(&mut [0], 0).is_err())
        .count();
    assert!((400..600).contains(&failed), "{failed}");
}

#[test]
fn write_and_name_errors_are_reported() {
    let simulation = Simulation::deterministic(1);
    let file = durable_file(&simulation, "file", b"x");
    let disk = simulation.device("disk");
    simulation.set_faults(
        FaultPlan::none()
            .with(FaultRule::new(Fault::WriteError))
            .with(FaultRule::new(Fault::NameError)),
    );
    assert_eq!(errno_of(file.write_all_at(b"yz", 1)), EIO);
    assert_eq!(errno_of(file.set_size(9)), EIO);
    assert_eq!(errno_of(disk.open("file", OpenMode::Read)), EIO);
    assert_eq!(errno_of(disk.rename("file", "other")), EIO);
    assert_eq!(errno_of(disk.list("", &mut |_| true)), EIO);
    simulation.set_faults(FaultPlan::none());
    assert!(b"xyz".starts_with(&contents(&simulation, "file").unwrap()));
}

#[test]
fn a_device_that_is_gone_comes_back_as_it_was() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let file = durable_file(&simulation, "file", b"old");
    let disk = simulation.device("disk");
    let other = simulation.device("other");
    simulation
        .set_faults(FaultPlan::none().with(FaultRule::new(Fault::DeviceGone).on_device("disk")));
    assert_eq!(errno_of(file.write_all_at(b"new", 0)), EIO);
    assert_eq!(errno_of(file.set_size(0)), EIO);
    assert_eq!(errno_of(file.sync_data()), EIO);
    assert_eq!(errno_of(file.read_at(&mut [0], 0)), EIO);
    assert_eq!(errno_of(disk.remove_file("file")), EIO);
    assert_eq!(errno_of(disk.sync_all()), EIO);
    let present = other.open("file", OpenMode::CreateNew).unwrap();
    present.write_all_at(b"new", 0).unwrap();
    other.sync_all().unwrap();
    simulation.crash();
    simulation.restart();
    simulation.set_faults(FaultPlan::none());
    assert_eq!(contents(&simulation, "file").unwrap(), b"old");
    let survivor = simulation.device("other").open("file", OpenMode::Read);
    assert_eq!(contents_of(&survivor.unwrap()), b"new");
}

#[test]
fn after_a_failed_sync_the_next_succeeds_and_the_data_is_gone() {
    let seed = seed_of_this_run();
    let mut lost = 0;
    for round in 0..50 {
        let simulation = Simulation::deterministic(seed.wrapping_add(round));
        let file = durable_file(&simulation, "file", &[1; 4096]);
        file.write_all_at(&[2; 4096], 0).unwrap();
        simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::SyncError).at_most(1)));
        let failed = if round % 2 == 0 {
            file.sync_data()
        } else {
            simulation.device("disk").sync_all()
        };
        assert_eq!(errno_of(failed), EIO);
        file.sync_data().unwrap();
        assert_eq!(contents_of(&file), [2; 4096], "the page cache keeps it");
        if round % 3 == 0 {
            simulation.drop_caches();
        } else {
            simulation.crash();
            simulation.restart();
        }
        lost += usize::from(contents(&simulation, "file").unwrap() != [2; 4096]);
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn a_full_disk_takes_what_fits_and_gets_space_back() {
    let simulation = Simulation::new(1, FaultPlan::none().with_capacity_bytes(5 * 4096));
    let disk = simulation.device("disk");
    let file = disk.open("file", OpenMode::CreateNew).unwrap();
    file.write_all_at(&[1; 3 * 4096], 0).unwrap();
    assert_eq!(disk.space().unwrap().available_bytes, 2 * 4096);
    let other = disk.open("other", OpenMode::CreateNew).unwrap();
    let full = other.write_all_at(&[2; 4 * 4096], 100);
    assert_eq!(errno_of(full), Some(libc::ENOSPC));
    assert_eq!(other.facts().unwrap().size_bytes, 2 * 4096);
    assert_eq!(disk.space().unwrap().available_bytes, 0);
    file.write_all_at(&[3; 4096], 4096).unwrap();
    file.set_size(1 << 40).unwrap();
    file.set_size(4096).unwrap();
    assert_eq!(disk.space().unwrap().available_bytes, 2 * 4096);
    disk.remove_file("other").unwrap();
    assert_eq!(disk.space().unwrap().available_bytes, 2 * 4096);
    drop(other);
    assert_eq!(disk.space().unwrap().available_bytes, 4 * 4096);
    drop(file);
    disk.sync_all().unwrap();
    simulation.crash();
    simulation.restart();
    let disk = simulation.device("disk");
    assert_eq!(disk.space().unwrap().available_bytes, 4 * 4096);
}

#[test]
fn short_reads_move_something_and_less_than_asked() {
    let simulation = simulation_with(FaultRule::new(Fault::ShortRead));
    let data = noise(&mut Dice::new(7), 10_000);
    let file = durable_file(&simulation, "file", &data);
    for _ in 0..50 {
        let mut buffer = vec![0; 5000];
        let moved = file.read_at(&mut buffer, 1000).unwrap();
        assert!((1..5000).contains(&moved));
        assert_eq!(buffer[..moved], data[1000..1000 + moved]);
        let moved = file.read_cached(&mut buffer, 1000).unwrap().unwrap();
        assert!((1..5000).contains(&moved));
    }
    assert_eq!(file.read_at(&mut [0], 0).unwrap(), 1);
}

#[test]
fn a_lost_write_shows_when_the_cache_is_gone() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let file = durable_file(&simulation, "file", &[1; 8192]);
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::LostWrite).at_most(1)));
    file.write_all_at(&[2; 4096], 0).unwrap();
    file.write_all_at(&[3; 4096], 4096).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents_of(&file)[..4096], [2; 4096]);
    simulation.drop_caches();
    let bytes = contents_of(&file);
    assert_eq!(
        (&bytes[..4096], &bytes[4096..]),
        (&[1; 4096][..], &[3; 4096][..])
    );
    simulation.crash();
    simulation.restart();
    assert_eq!(contents(&simulation, "file").unwrap(), bytes);
}

#[test]
fn a_misdirected_write_is_on_the_disk_at_another_place() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let file = durable_file(&simulation, "file", &[1; 16 * 512]);
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::MisdirectedWrite)));
    file.write_all_at(&[2; 512], 5 * 512).unwrap();
    file.sync_data().unwrap();
    simulation.crash();
    simulation.restart();
    let bytes = contents(&simulation, "file").unwrap();
    let hit: Vec<usize> = (0..16)
        .filter(|sector| bytes[sector * 512..(sector + 1) * 512] == [2; 512])
        .collect();
    assert_eq!(bytes.len(), 16 * 512);
    assert!(hit.len() == 1 && hit != [5], "{hit:?}");
}

#[test]
fn decay_flips_one_bit_for_good() {
    let simulation = Simulation::deterministic(seed_of_this_run());
    let data = vec![0x55; 20_000];
    let file = durable_file(&simulation, "file", &data);
    simulation.set_faults(FaultPlan::none().with(FaultRule::new(Fault::BitFlip).at_most(1)));
    let flipped_bits = |bytes: &[u8]| -> u32 {
        let pairs = bytes.iter().zip(&data);
        pairs
            .map(|(found, written)| (found ^ written).count_ones())
            .sum()
    };
    assert_eq!(flipped_bits(&contents_of(&file)), 1);
    simulation.crash();
    simulation.restart();
    assert_eq!(flipped_bits(&contents(&simulation, "file").unwrap()), 1);

    let disk = simulation.device("disk");
    disk.open("sparse", OpenMode::CreateNew)
        .unwrap()
        .set_size(1 << 20)
        .unwrap();
    assert!(!disk.flip_bit("sparse", 5, 0).unwrap());
    assert!(disk.flip_bit("file", 19_999, 7).unwrap());
    assert_eq!(flipped_bits(&contents(&simulation, "file").unwrap()), 2);
    assert_eq!(contents(&simulation, "file").unwrap()[19_999] & 0x80, 0x80);
}
