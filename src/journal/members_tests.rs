//! Every row of the table.

use super::*;
use crate::io::OpenMode;
use crate::io::simulator::Simulation;
use crate::journal::SyncMode;
use crate::journal::frame::Sequence;
use crate::journal::segments::{FOLDER, FileIdentity, first_file, path_of};
use crate::journal::witness::Holding;
use std::time::Duration;

const MIRROR: Spread = Spread { data: 1, parity: 1 };
const STRIPES: Spread = Spread { data: 2, parity: 1 };

fn settings(spread: Spread) -> JournalSettings {
    JournalSettings {
        mode: SyncMode::Batch,
        interval: Duration::from_secs(1),
        size_bytes: 1 << 20,
        segment_bytes: 64 << 10,
        batch_bytes: 4096,
        spread,
        witness_interval: Duration::from_secs(3600),
        device_timeout: Duration::from_secs(1),
        name: [7; 16],
        backend: b"root".to_vec(),
        backend_name: "/backend".to_owned(),
    }
}

/// Directories `a`, `b`, `c` and so on.
struct Places {
    simulation: Simulation,
    spread: Spread,
    witness: Witness,
}

impl Places {
    fn new(spread: Spread) -> Self {
        Self {
            simulation: Simulation::deterministic(1),
            spread,
            witness: Witness::hear(Vec::new()),
        }
    }

    /// With the heads of a journal in its epoch 3.
    fn with_heads(spread: Spread) -> Self {
        let places = Self::new(spread);
        for device in 0..spread.devices() {
            places.put(device, |_| {});
        }
        places
    }

    fn disk(&self, device: u8) -> Directory {
        let name = char::from(b'a' + device).to_string();
        self.simulation.device(&name)
    }

    fn head(&self, device: u8) -> Head {
        Head {
            membership: Membership {
                journal: [7; 16],
                epoch: 3,
                device_set: (1 << self.spread.devices()) - 1,
            },
            spread: self.spread,
            device,
            segments: 0,
            joined: vec![1; self.spread.devices().into()],
            openings: Vec::new(),
            segment_bytes: 64 << 10,
            backend: b"root".to_vec(),
            backend_name: "/backend".to_owned(),
        }
    }

    fn put(&self, device: u8, change: impl FnOnce(&mut Head)) {
        let mut head = self.head(device);
        change(&mut head);
        identity::write(&*self.disk(device), &head).expect("there is room");
    }

    /// As it is when the directory is made, and when a copy is put in its place.
    fn make_segment(&self, device: u8) {
        let disk = self.disk(device);
        let _ = disk.create_directory(FOLDER);
        let _other = disk.open("other", OpenMode::CreateNew);
        let _ = disk.remove_file(&path_of(0));
        drop(
            disk.open(&path_of(0), OpenMode::CreateNew)
                .expect("there is room"),
        );
        disk.remove_file("other").expect("it is there");
    }

    fn gather(&self, devices: &[u8]) -> Result<Gathered, JournalError> {
        let directory = |device: &u8| JournalDirectory {
            name: char::from(b'a' + device).to_string(),
            io: Ok(self.disk(*device)),
        };
        let directories = devices.iter().map(directory).collect();
        gather(directories, &settings(self.spread), &self.witness)
    }

    fn files(&self) -> Vec<(u8, FileIdentity)> {
        let devices = 0..self.spread.devices();
        let file = |device| {
            (
                device,
                first_file(&*self.disk(device)).expect("it is there"),
            )
        };
        devices.map(file).collect()
    }

    fn refused_as_copies(&self, devices: &[u8]) -> Option<String> {
        let gathered = self.gather(devices).expect("enough are there");
        let checked = gathered.check_files(&self.witness);
        checked.err().map(|refused| refused.to_string())
    }

    /// What is known of journal 7.
    fn note(&mut self, epoch: u64, holding: Holding) {
        let witness = Witness::hear(vec![("c".to_owned(), self.simulation.device("witness"))]);
        let noted = witness.begin(Testimony {
            journal: [7; 16],
            backend: b"root".to_vec(),
            backend_name: "/backend".to_owned(),
            epoch,
            acknowledged: Sequence(0),
            holding,
            directories: "/a:/b".to_owned(),
            files: self.files(),
        });
        noted.expect("there is room");
        self.witness = witness;
    }

    fn refused(&self, devices: &[u8]) -> String {
        let refused = self.gather(devices).err().expect("it is refused");
        refused.to_string()
    }
}

/// The devices that take part, and the names of those that do not.
fn who(gathered: &Gathered) -> (Vec<u8>, String) {
    let outsiders = gathered
        .outsiders
        .iter()
        .map(|outsider| outsider.name.as_str());
    let members = gathered.members.iter().map(|member| member.device);
    (members.collect(), outsiders.collect())
}

#[test]
fn empty_directories_become_a_journal_if_they_are_as_many_as_it_takes() {
    let places = Places::new(MIRROR);
    let gathered = places.gather(&[0, 1]).expect("a new one");
    assert_eq!(gathered.head.membership.epoch, 0);
    assert_eq!(who(&gathered), (vec![0, 1], String::new()));
    for devices in [&[0][..], &[0, 1, 2]] {
        assert!(places.refused(devices).contains("erasure=1+1 takes 2"));
    }
    let broken = JournalDirectory {
        name: "broken".to_owned(),
        io: Err("no such disk".to_owned()),
    };
    let whole = JournalDirectory {
        name: "a".to_owned(),
        io: Ok(places.disk(0)),
    };
    let refused = gather(vec![whole, broken], &settings(MIRROR), &places.witness);
    let told = refused.err().expect("one is broken").to_string();
    assert!(told.contains("broken: no such disk"), "{told}");
}

#[test]
fn directories_of_something_else_are_refused_by_name() {
    let places = Places::with_heads(MIRROR);
    places.put(1, |head| head.membership.journal = [8; 16]);
    assert!(places.refused(&[0, 1]).contains("another journal"));
    places.put(1, |head| head.backend = b"other".to_vec());
    assert!(places.refused(&[0, 1]).contains("another one is there now"));
    places.put(1, |head| {
        head.backend = b"other".to_vec();
        head.backend_name = "/other".to_owned();
    });
    assert!(places.refused(&[0, 1]).contains("another backend (/other)"));
    places.put(1, |head| head.spread = STRIPES);
    assert!(places.refused(&[0, 1]).contains("erasure=2+1"));
    places.put(1, |_| {});
    drop(places.disk(2).open("letter", OpenMode::CreateNew));
    let told = places.refused(&[0, 1, 2]);
    assert!(told.contains("c: ") && told.contains("letter"), "{told}");
}

#[test]
fn one_device_twice_is_refused_whatever_the_order_of_the_others() {
    let places = Places::with_heads(STRIPES);
    assert_eq!(
        who(&places.gather(&[2, 0, 1]).expect("all are there")).0,
        [2, 0, 1]
    );
    places.put(3, |head| head.device = 1);
    assert!(places.refused(&[0, 1, 2, 3]).contains("the same device"));
}

#[test]
fn what_is_damaged_empty_or_out_of_date_is_left_out() {
    let places = Places::with_heads(STRIPES);
    let damaged = places
        .disk(2)
        .open(identity::HEAD_FILE, OpenMode::ReadWrite);
    let damaged = damaged.expect("it is there");
    damaged.write_all_at(b"x", 30).expect("there is room");
    let gathered = places.gather(&[0, 1, 2, 3]).expect("two of three");
    assert_eq!(who(&gathered), (vec![0, 1], "cd".to_owned()));
    // The others went on without it.
    places.put(2, |_| {});
    for device in 0..2 {
        places.put(device, |head| head.begin_epoch(0b011));
    }
    let gathered = places.gather(&[0, 1, 2]).expect("two of two");
    assert_eq!(who(&gathered), (vec![0, 1], "c".to_owned()));
    // And took in another one.
    for device in [0, 1, 3] {
        places.put(device, |head| {
            head.device = if device == 3 { 2 } else { device };
            head.begin_epoch(0b111);
            head.joined[2] = 4;
        });
    }
    let gathered = places.gather(&[0, 1, 2, 3]).expect("three of three");
    assert_eq!(who(&gathered), (vec![0, 1, 2], "c".to_owned()));
    assert_eq!(gathered.members[2].name, "d");
}

#[test]
fn fewer_devices_than_it_takes_are_refused_with_a_count() {
    let places = Places::with_heads(STRIPES);
    let told = places.refused(&[1]);
    assert!(
        told.contains("1 of 3 devices are there, 2 are needed"),
        "{told}"
    );
    let gathered = places.gather(&[0, 2]);
    assert_eq!(who(&gathered.expect("two of three")).0, [0, 2]);
}

/// A mirror whose other half is away may be the one that was left behind.
#[test]
fn who_may_have_been_left_behind_is_believed_only_beside_a_witness() {
    let mut places = Places::with_heads(MIRROR);
    assert!(places.refused(&[1]).contains("may have gone on"));
    places.note(3, Holding::Unknown);
    assert_eq!(who(&places.gather(&[1]).expect("it was the last")).0, [1]);
    places.note(4, Holding::Unknown);
    assert!(places.refused(&[1]).contains("may have gone on"));
    assert!(places.refused(&[0, 1]).contains("epoch 4 is known"));
}

#[test]
fn copies_count_as_lost_after_a_life_that_ended_without_a_word() {
    for (spread, some) in [(MIRROR, &[1][..]), (STRIPES, &[1, 2])] {
        let mut places = Places::with_heads(spread);
        let all: Vec<u8> = (0..spread.devices()).collect();
        all.iter().for_each(|device| places.make_segment(*device));
        places.note(3, Holding::Unknown);
        assert_eq!(places.refused_as_copies(some), None);
        places.make_segment(1);
        assert_eq!(places.refused_as_copies(&all), None);
        let told = places.refused_as_copies(some).expect("it may be old");
        let command = format!("nfs-cachefs journal accept {} c", "07".repeat(16));
        assert!(told.contains("b: not the directory"), "{told}");
        assert!(told.contains(&command), "{told}");
        places.make_segment(0);
        let told = places.refused_as_copies(&all).expect("both may be old");
        assert!(told.contains("a, b: not the director"), "{told}");
        places.witness.accept(&[7; 16]).expect("there is room");
        assert_eq!(places.refused_as_copies(some), None);
    }
}

#[test]
fn a_copy_of_a_journal_that_ended_well_is_the_journal() {
    let mut places = Places::with_heads(MIRROR);
    places.make_segment(1);
    places.note(3, Holding::Something);
    places.make_segment(1);
    assert_eq!(places.refused_as_copies(&[1]), None);
    assert!(!places.gather(&[1]).expect("it is enough").is_unvouched());
}

#[test]
fn half_a_mirror_cannot_vouch_for_its_end_and_says_so() {
    let mut places = Places::with_heads(MIRROR);
    places.note(3, Holding::Unknown);
    let unvouched = |devices: &[u8]| places.gather(devices).expect("enough").is_unvouched();
    assert!(unvouched(&[1]));
    assert!(!unvouched(&[0, 1]));
    let mut places = Places::with_heads(STRIPES);
    places.note(3, Holding::Unknown);
    assert!(!places.gather(&[0, 1]).expect("enough").is_unvouched());
}

#[test]
fn a_new_journal_is_no_answer_to_one_that_may_hold_something() {
    let mut places = Places::new(MIRROR);
    places.note(3, Holding::Unknown);
    assert!(places.refused(&[0, 1]).contains("is not there"));
    for device in 0..2 {
        places.put(device, |head| head.membership.journal = [8; 16]);
    }
    assert!(places.refused(&[0, 1]).contains("is not there"));
    places.note(3, Holding::Nothing);
    assert!(places.gather(&[0, 1]).is_ok());
}

#[test]
fn a_new_epoch_has_whoever_was_there_when_it_began() {
    let places = Places::with_heads(STRIPES);
    let mut gathered = places.gather(&[0, 1, 2]).expect("all are there");
    let error = || JournalError::Unusable("it broke".to_owned());
    gathered.lose(1, error()).expect("two are left");
    assert_eq!(who(&gathered), (vec![0, 2], "b".to_owned()));
    let told = gathered
        .lose(0, error())
        .expect_err("one is left")
        .to_string();
    assert_eq!(told, "a: it broke");
    assert!(gathered.head.believes(1, Sequence(1)));
}
