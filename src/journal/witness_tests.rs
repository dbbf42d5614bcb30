//! What is remembered of journals, on simulated disks.

use super::*;
use crate::io::simulator::Simulation;

const FILE: FileIdentity = FileIdentity {
    inode: 12,
    birth_ns: -1,
};

fn testimony(journal: u8, holding: Holding) -> Testimony {
    Testimony {
        journal: [journal; 16],
        backend: b"root".to_vec(),
        backend_name: "/backend".to_owned(),
        epoch: 3,
        acknowledged: Sequence(10),
        holding,
        directories: "/a:/b".to_owned(),
        files: vec![(0, FILE), (1, FILE)],
    }
}

struct Places {
    simulation: Simulation,
}

impl Places {
    fn new() -> Self {
        let simulation = Simulation::deterministic(1);
        Self { simulation }
    }

    fn disk(&self, name: &str) -> Directory {
        self.simulation.device(name)
    }

    fn hear(&self, names: &[&str]) -> Witness {
        let place = |name: &&str| ((*name).to_owned(), self.disk(name));
        Witness::hear(names.iter().map(place).collect())
    }
}

#[test]
fn what_is_remembered_comes_back_and_every_flipped_bit_and_cut_is_noticed() {
    let told = [
        testimony(1, Holding::Nothing),
        testimony(2, Holding::Something),
        testimony(3, Holding::Unknown),
    ];
    let bytes = encode(&told);
    assert_eq!(decode(&bytes).expect("it is whole"), told);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&flipped), None, "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert_eq!(decode(&bytes[..length]), None, "{length} bytes");
    }
}

#[test]
fn what_an_earlier_program_remembered_comes_back_without_files() {
    let body = Writer::default()
        .text(&[1; 16])
        .text(b"root")
        .text(b"/backend")
        .u64(3)
        .u64(10)
        .u8(2)
        .text(b"/a:/b")
        .0;
    let mut bytes = MAGIC_WITHOUT_FILES.to_vec();
    bytes.extend_from_slice(&crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    let expected = Testimony {
        files: Vec::new(),
        ..testimony(1, Holding::Unknown)
    };
    assert_eq!(decode(&bytes), Some(vec![expected]));
}

#[test]
fn a_journal_that_may_hold_something_is_expected_until_it_is_forgotten() {
    let places = Places::new();
    for holding in [Holding::Unknown, Holding::Something] {
        let witness = places.hear(&["c"]);
        witness.begin(testimony(1, holding)).expect("there is room");
        let witness = places.hear(&["c"]);
        assert!(witness.expect(b"root", Some(&[1; 16])).is_ok());
        assert!(witness.expect(b"another", None).is_ok());
        for found in [None, Some(&[2; 16])] {
            let refused = witness.expect(b"root", found).expect_err("it is away");
            let text = refused.to_string();
            let command = format!("nfs-cachefs journal forget {} c", "01".repeat(16));
            assert!(text.contains("/a:/b") && text.contains(&command), "{text}");
        }
    }
    places.hear(&["c"]).forget(&[1; 16]).expect("there is room");
    assert!(places.hear(&["c"]).expect(b"root", None).is_ok());
}

#[test]
fn a_journal_that_held_nothing_makes_way_for_the_next() {
    let places = Places::new();
    let witness = places.hear(&["c"]);
    let other = Testimony {
        backend: b"other".to_vec(),
        ..testimony(9, Holding::Something)
    };
    witness.begin(other).expect("there is room");
    witness
        .begin(testimony(1, Holding::Nothing))
        .expect("there is room");
    assert!(witness.expect(b"root", None).is_ok());
    witness
        .begin(testimony(2, Holding::Unknown))
        .expect("there is room");
    let told = places.hear(&["c"]).all();
    let journals: Vec<u8> = told.iter().map(|one| one.journal[0]).collect();
    assert_eq!(journals, [9, 2]);
}

#[test]
fn of_several_directories_the_one_that_heard_last_counts() {
    let places = Places::new();
    let both = places.hear(&["c", "d"]);
    both.begin(testimony(1, Holding::Unknown))
        .expect("there is room");
    places
        .hear(&["d"])
        .note(&[1; 16], |own| {
            own.acknowledged = Sequence(20);
            own.holding = Holding::Nothing;
        })
        .expect("there is room");
    let told = places.hear(&["c", "d"]).of(&[1; 16]).expect("it is known");
    assert_eq!(told.acknowledged, Sequence(20));
    assert_eq!(told.holding, Holding::Nothing);
    drop(places.disk("d").remove_file(WITNESS_FILE));
    let told = places.hear(&["d", "c"]).of(&[1; 16]).expect("it is known");
    assert_eq!(told.acknowledged, Sequence(10));
}

#[test]
fn the_epoch_that_an_earlier_program_noted_counts_until_it_is_noted_anew() {
    let places = Places::new();
    let disk = places.disk("c");
    let mut bytes = [7; 16].to_vec();
    bytes.extend_from_slice(&5u64.to_le_bytes());
    bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
    let file = disk.open(EARLIER_FILE, OpenMode::CreateNew);
    let file = file.expect("there is room");
    file.write_all_at(&bytes, 0).expect("there is room");
    let witness = places.hear(&["c"]);
    assert_eq!(witness.of(&[7; 16]).expect("it is known").epoch, 5);
    assert!(
        witness.expect(b"root", None).is_ok(),
        "whose it is nobody knows"
    );
    witness
        .begin(testimony(7, Holding::Unknown))
        .expect("there is room");
    assert_eq!(places.hear(&["c"]).all().len(), 1);
    assert!(disk.open(EARLIER_FILE, OpenMode::Read).is_err());
}
