//! `write_mode=back`, killed at each step that its disks and its backend can see: each write and sync of the journal, by which
//! batches are appended and committed, intents and ends are noted and segments trimmed; each call by which an upload, a removal or a
//! rename reaches the backend.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::written_back::{LIMIT, Place, bytes, create};
use support::*;

/// Files that are dirty at every step, and stay so.
const BALLAST: usize = 3;
const LENGTH: usize = 200_000;
/// More steps than any call has.
const STEPS_MAX: u64 = 100;

/// A mount whose journal lies on a disk that can be made to hang, too.
struct Stage {
    place: Place,
    disk: FaultBackend,
    rounds: u8,
    /// The directory goes last.
    _scratch: Scratch,
}

/// What a program was told, in order.
#[derive(Default)]
struct Told {
    acts: AtomicUsize,
}

impl Told {
    fn note(&self, act: usize) {
        self.acts.store(act, Ordering::SeqCst);
    }

    fn has(&self, act: usize) -> bool {
        self.acts.load(Ordering::SeqCst) >= act
    }
}

const SYNCED: usize = 1;
const UPLOADED: usize = 2;
const SYNCED_AGAIN: usize = 3;
const REMOVED: usize = 4;
const REPLACED: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Side {
    Journal,
    Backend,
}

impl Stage {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(&format!("{test}-disk"));
        let disk = FaultBackend::start(&scratch, BackendOptions::default());
        let journal = disk.mountpoint.join("journal");
        support::mount::private_directory(&disk.plain.join("journal"));
        let option = format!("journal_dir={}", journal.display());
        Self {
            place: Place::new(test, &["writeback_delay=1h", &option]),
            disk,
            rounds: 0,
            _scratch: scratch,
        }
    }

    fn side(&self, side: Side) -> &FaultBackend {
        match side {
            Side::Journal => &self.disk,
            Side::Backend => &self.place.backend,
        }
    }

    /// What is there before the program begins; some of it is dirty, and is still at the end.
    fn prepare(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        let place = &self.place;
        fs::write(place.there("file"), self.content(0)).unwrap();
        fs::write(place.there("name"), bytes(self.rounds, 5000)).unwrap();
        let _ = fs::remove_file(place.there("temporary"));
        for number in 0..BALLAST {
            synced(
                &place.here(&format!("ballast{number}")),
                &bytes(self.rounds, LENGTH),
            )
            .unwrap();
        }
        synced(&place.here("gone"), &bytes(self.rounds, 3000)).unwrap();
        synced(
            &place.here("temporary"),
            &bytes(self.rounds.wrapping_add(1), 7000),
        )
        .unwrap();
    }

    /// Of the file, after so many acts.
    fn content(&self, acts: usize) -> Vec<u8> {
        let mut content = bytes(self.rounds, LENGTH);
        for act in 0..acts {
            content[1000 + act * 50_000..][..30_000].fill(act as u8 + 1);
        }
        content
    }

    /// Whether the file may be so after these acts: of the next one, which nobody was told of, there may be a part: the
    /// kernel may make several of one write.
    fn explains(&self, there: &[u8], acted: usize) -> bool {
        let (told, next) = (self.content(acted), self.content(2.min(acted + 1)));
        let either = |at: usize| there[at] == told[at] || there[at] == next[at];
        there.len() == LENGTH && (0..LENGTH).all(either)
    }

    /// SIGKILL when a call hangs, or when `moment` has come; whether it came to that before the program was done.
    fn run_and_kill(&mut self, hung: Option<Side>, moment: Duration) -> (Told, bool) {
        let told = Told::default();
        let content = [self.content(1), self.content(2)];
        let is_cut = std::thread::scope(|scope| {
            let place = &self.place;
            let (mountpoint, seen) = (place.mount.path().to_owned(), &told);
            let program = scope.spawn(move || act(&mountpoint, &content, seen));
            let deadline = Instant::now() + moment;
            let is_there = || hung.is_some_and(|side| self.side(side).counters().hung > 0);
            while !program.is_finished() && !is_there() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            let is_cut = !program.is_finished();
            let stuck = self.place.mount.kill_stuck();
            for side in [Side::Journal, Side::Backend] {
                self.side(side).clear_rules();
                self.side(side).release(None);
            }
            drop(stuck);
            is_cut
        });
        (told, is_cut)
    }

    /// All that was told holds, and nobody is imagined.
    fn expect(&mut self, told: &Told, context: &str) {
        let place = &mut self.place;
        let hang = place.rule(Operation::Write, "*", Action::Hang);
        place.mount.remount();
        let pending = place.mount.status_number("writeback.pending_files");
        assert!(
            pending >= BALLAST as u64,
            "{context}: {pending} files dirty"
        );
        place.backend.remove_rule(hang);
        place.backend.release(None);
        place.wait_for_backend();
        let strange: Vec<_> = fs::read_dir(&place.backend.plain)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".conflict-") || name.contains(".removed-"))
            .collect();
        assert!(strange.is_empty(), "{context}: {strange:?}");
        for number in 0..BALLAST {
            let name = format!("ballast{number}");
            assert!(
                fs::read(self.place.there(&name)).unwrap() == bytes(self.rounds, LENGTH),
                "{context}"
            );
        }
        let acted = [SYNCED, SYNCED_AGAIN]
            .into_iter()
            .filter(|act| told.has(*act))
            .count();
        let there = fs::read(self.place.there("file")).unwrap();
        assert!(self.explains(&there, acted), "{context}: file");
        assert!(
            !(told.has(REMOVED) && self.place.there("gone").exists()),
            "{context}: gone"
        );
        let name = fs::read(self.place.there("name")).unwrap();
        let (old, new) = (
            bytes(self.rounds, 5000),
            bytes(self.rounds.wrapping_add(1), 7000),
        );
        let is_old = name == old && !told.has(REPLACED);
        assert!(is_old || name == new, "{context}: name");
    }
}

fn synced(path: &Path, data: &[u8]) -> std::io::Result<File> {
    let file = create(path);
    file.set_len(0)?;
    file.write_all_at(data, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Until the daemon is gone.
fn act(mountpoint: &Path, content: &[Vec<u8>; 2], told: &Told) {
    let _ = try_act(mountpoint, content, told);
}

fn try_act(mountpoint: &Path, content: &[Vec<u8>; 2], told: &Told) -> std::io::Result<()> {
    let path = mountpoint.join("file");
    let file = File::options().read(true).write(true).open(&path)?;
    file.write_all_at(&content[0][1000..31_000], 1000)?;
    file.sync_all()?;
    told.note(SYNCED);
    let mut flush = Command::new(support::mount::PROGRAM);
    flush.arg("flush").arg(&path).arg("--wait");
    if process::run(flush, LIMIT).status.success() {
        told.note(UPLOADED);
    }
    file.write_all_at(&content[1][51_000..81_000], 51_000)?;
    file.sync_all()?;
    told.note(SYNCED_AGAIN);
    fs::remove_file(mountpoint.join("gone"))?;
    told.note(REMOVED);
    fs::rename(mountpoint.join("temporary"), mountpoint.join("name"))?;
    told.note(REPLACED);
    Ok(())
}

#[test]
fn a_daemon_killed_at_each_step_keeps_what_it_said() {
    let mut stage = Stage::new("back-steps-each");
    let calls = [
        (Side::Journal, Operation::Write),
        (Side::Journal, Operation::Fsync),
        (Side::Backend, Operation::Write),
        (Side::Backend, Operation::Setattr),
        (Side::Backend, Operation::Fsync),
        (Side::Backend, Operation::Unlink),
        (Side::Backend, Operation::Rename),
    ];
    for (side, operation) in calls {
        for step in 0..STEPS_MAX {
            let context = format!("{side:?} {operation:?} {step}");
            stage.prepare();
            let rule = Rule::new(operation, "*", Action::Hang);
            stage.side(side).add_rule(rule.skip_calls(step));
            let (told, is_cut) = stage.run_and_kill(Some(side), LIMIT);
            stage.expect(&told, &context);
            if !is_cut {
                assert!(step > 0, "{context}: there is none");
                break;
            }
        }
    }
}

/// Full counts only.
#[test]
fn a_daemon_killed_at_any_moment_keeps_what_it_said() {
    let mut stage = Stage::new("back-steps-any");
    let mut random = Random::from_environment("back-steps-any");
    for round in 0..sample_or_full(5, 1000) {
        stage.prepare();
        let moment = Duration::from_micros(random.below(300_000));
        let (told, _) = stage.run_and_kill(None, moment);
        stage.expect(&told, &format!("round {round}, {moment:?}"));
    }
}
