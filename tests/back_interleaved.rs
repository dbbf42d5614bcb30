//! `write_mode=back`: somebody else's change on the backend at each call of an upload. One that was there when the upload
//! looked is kept, ours always; nobody who was not there is taken for one.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use support::writing::read_write;
use support::written_back::{Place, bytes};
use support::*;

const BASE_BYTES: usize = 20_000;
const PART: std::ops::Range<usize> = 5000..9000;

/// What is written here.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Ours {
    Part,
    Whole,
}

/// What somebody else does.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Theirs {
    Nothing,
    Append,
    Rewrite,
    Truncate,
}

/// Calls of an upload, in their order.
fn calls(ours: Ours) -> &'static [(Operation, u64)] {
    match ours {
        Ours::Part => &[
            (Operation::Getattr, 0),
            (Operation::Read, 0),
            (Operation::Getattr, 1),
            (Operation::Write, 0),
            (Operation::Setattr, 0),
            (Operation::Fsync, 0),
        ],
        Ours::Whole => &[
            (Operation::Getattr, 0),
            (Operation::Setattr, 0),
            (Operation::Write, 0),
            (Operation::Setattr, 1),
            (Operation::Fsync, 0),
            (Operation::Getattr, 1),
        ],
    }
}

/// The last one that looks for somebody else.
fn last_look(ours: Ours) -> usize {
    match ours {
        Ours::Part => 2,
        Ours::Whole => 0,
    }
}

fn write_here(place: &Place, name: &str, ours: Ours) {
    match ours {
        Ours::Part => {
            let file = read_write(&place.here(name));
            let data = bytes(100, PART.len());
            file.write_all_at(&data, PART.start as u64).unwrap();
        }
        Ours::Whole => fs::write(place.here(name), bytes(100, BASE_BYTES)).unwrap(),
    }
}

fn write_there(place: &Place, name: &str, theirs: Theirs) {
    let file = OpenOptions::new().write(true).open(place.there(name));
    let file = file.unwrap();
    match theirs {
        Theirs::Nothing => {}
        Theirs::Append => file.write_all_at(b"theirs", BASE_BYTES as u64).unwrap(),
        Theirs::Rewrite => file.write_all_at(&bytes(200, BASE_BYTES), 0).unwrap(),
        Theirs::Truncate => file.set_len(1000).unwrap(),
    }
}

/// What lies beside the file, its list of ranges left out.
fn beside(place: &Place, name: &str) -> Vec<PathBuf> {
    let mut found = place.conflicts();
    let prefix = format!("{name}.conflict-");
    found.retain(|path| {
        let told = path.file_name().unwrap().to_string_lossy().into_owned();
        told.starts_with(&prefix) && !told.ends_with(".ranges")
    });
    found
}

fn holds_ours(content: &[u8], ours: Ours) -> bool {
    match ours {
        Ours::Part => content.get(PART) == Some(&bytes(100, PART.len())[..]),
        Ours::Whole => content.starts_with(&bytes(100, BASE_BYTES)),
    }
}

fn as_they_left_it(theirs: Theirs) -> Vec<u8> {
    let base = bytes(1, BASE_BYTES);
    match theirs {
        Theirs::Nothing => base,
        Theirs::Append => [&base[..], b"theirs"].concat(),
        Theirs::Rewrite => bytes(200, BASE_BYTES),
        Theirs::Truncate => base[..1000].to_vec(),
    }
}

/// One upload with somebody else's change at one of its calls. How it ended, in a word.
fn interleave(place: &Place, name: &str, at: usize, ours: Ours, theirs: Theirs) -> &'static str {
    fs::write(place.there(name), bytes(1, BASE_BYTES)).unwrap();
    write_here(place, name, ours);
    let (operation, skipped) = calls(ours)[at];
    let hang = Rule::new(operation, name, Action::Hang);
    let rule = place
        .backend
        .add_rule(hang.skip_calls(skipped).limit_calls(1));
    assert!(
        place
            .command("flush", place.mount.path(), &[])
            .status
            .success()
    );
    place.backend.wait_for_hung(1);
    write_there(place, name, theirs);
    place.backend.remove_rule(rule);
    place.backend.release(None);
    let flushed = place.command("flush", place.mount.path(), &["--wait"]);
    // 4: something lies beside.
    assert!(
        matches!(flushed.status.code(), Some(0 | 4)),
        "{name}: {flushed:?}"
    );
    let there = fs::read(place.there(name)).unwrap();
    let kept = beside(place, name);
    let told = format!("{name}: {ours:?} and {theirs:?} at {operation:?} {skipped}: {kept:?}");
    match &kept[..] {
        [] => {
            let is_alone = theirs == Theirs::Nothing;
            assert!(
                is_alone || at > last_look(ours),
                "{told}: theirs was not seen"
            );
            assert!(
                !is_alone || holds_ours(&there, ours),
                "{told}: ours is lost"
            );
            match theirs {
                Theirs::Nothing => "alone",
                _ => "within the window",
            }
        }
        [one] => {
            assert!(theirs != Theirs::Nothing, "{told}: nobody was there");
            assert!(
                holds_ours(&fs::read(one).unwrap(), ours),
                "{told}: ours is lost"
            );
            assert!(
                at > last_look(ours) || there == as_they_left_it(theirs),
                "{told}: theirs is lost"
            );
            "both kept"
        }
        _ => panic!("{told}"),
    }
}

#[test]
fn a_change_by_somebody_else_before_the_look_is_kept_and_nobody_is_imagined() {
    let place = Place::new("back-between", &["writeback_delay=1h", "actimeo=0"]);
    let mut random = Random::from_environment("back-between");
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..sample_or_full(24u64, 1000) {
        let ours = [Ours::Part, Ours::Whole][(number % 2) as usize];
        let at = (number / 2 % 6) as usize;
        let kinds = [Theirs::Append, Theirs::Rewrite, Theirs::Truncate];
        let theirs = match number % 8 {
            7 => Theirs::Nothing,
            _ => kinds[(random.next() % 3) as usize],
        };
        let name = format!("file{number}");
        let end = interleave(&place, &name, at, ours, theirs);
        *ends.entry(end).or_default() += 1;
    }
    println!("{ends:?}");
    let conflicts = place.mount.status_number("writeback.conflicts");
    assert_eq!(conflicts, ends.get("both kept").copied().unwrap_or(0));
}
