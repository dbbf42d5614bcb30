//! The mount against a plain directory: the same random operations on both, by several threads at once, with the same results, errors
//! and contents after every step. Each thread has a tree of its own, and shares with the others a directory, a log that
//! all append to, and files of which each has a part; what a thread does is a function of the seed alone. When all
//! have closed their files, a second mount of the same backend, with a cache of its own, shows the same; in some runs the
//! threads go over to the other mount then.
//!
//! CACHEFS_SEED repeats a run's steps, CACHEFS_MODEL_STEPS sets how many they are.

mod support;

#[path = "model/side.rs"]
mod side;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/tree.rs"]
mod tree;

use side::{Answer, LOG, Side, facts};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use steps::{Dice, SLOT_BYTES, Step};
use support::*;
use tree::{Tree, log_records};

const LIMIT: Duration = Duration::from_secs(7200);
const THREADS: usize = 4;
const HISTORY: usize = 60;
/// Between two evictions of all that can go.
const EVICTION_PAUSE: Duration = Duration::from_millis(300);
const EVICTION_LIMIT: Duration = Duration::from_secs(120);
/// What `keep_written=always` asks of whoever writes by another mount (docs/SEMANTICS.md, 3.).
const AFTER_CLOSING: Duration = Duration::from_millis(20);

/// One thread: its steps, and both sides of them.
struct Actor {
    thread: usize,
    random: Random,
    seen: Side,
    model: Side,
    made: u64,
    records: u64,
    history: Vec<String>,
    worked: BTreeMap<String, u64>,
}

impl Actor {
    fn new(thread: usize, seed: u64, places: &Places) -> Self {
        let [first, _] = &places.mounts;
        let reference = &places.reference;
        let mut seen = Side::new(first, &places.plain, thread, true);
        seen.is_written_back = places.is_written_back;
        Self {
            thread,
            random: Random::new(random::mix(seed ^ random::mix(thread as u64 + 1))),
            seen,
            model: Side::new(reference, reference, thread, false),
            made: 0,
            records: 0,
            history: Vec::new(),
            worked: BTreeMap::new(),
        }
    }

    /// From now on by this mount. Nothing is open.
    fn go_to(&mut self, mounts: &[PathBuf; 2], which: usize, slots: String) {
        self.seen.root = mounts[which].clone();
        self.seen.other = mounts[1 - which].clone();
        self.model.slots = slots.clone();
        self.seen.slots = slots;
    }

    fn make_steps(&mut self, count: u64, failed: &AtomicBool) -> Result<(), String> {
        for _ in 0..count {
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.make_step()
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        self.seen.close_all();
        self.model.close_all();
        self.compare(true)
    }

    fn make_step(&mut self) -> Result<(), String> {
        let step = Dice {
            thread: self.thread,
            threads: THREADS,
            handles: self.model.handles.len(),
            records: self.records,
            random: &mut self.random,
        }
        .step();
        self.made += 1;
        self.records += u64::from(matches!(step, Step::Record { .. }));
        let (here, there) = (self.seen.make(&step), self.model.make(&step));
        self.note(&step, &there);
        if here != there {
            let handles = self.tell_handles();
            return Err(self.tell(&format!("{} here. {handles}", shown(&here))));
        }
        match self.made {
            made if made % 25 == 0 => self.compare(true),
            made if made % 5 == 0 => self.compare(false),
            _ => Ok(()),
        }
    }

    fn note(&mut self, step: &Step, there: &Answer) {
        let told = format!("{}: {step:?} -> {}", self.made, shown(there));
        let kind = told.split_whitespace().nth(1).unwrap_or_default();
        *self.worked.entry(kind.to_owned()).or_default() += u64::from(there.is_ok());
        self.history.push(told);
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
    }

    fn compare(&self, with_contents: bool) -> Result<(), String> {
        let show = |side: &Side| {
            let tree = Tree::of_thread(&side.root, self.thread, with_contents);
            tree.map_err(|error| self.tell(&error))
        };
        match show(&self.seen)?.difference(&show(&self.model)?) {
            None => Ok(()),
            Some(difference) => Err(self.tell(&difference)),
        }
    }

    fn tell(&self, difference: &str) -> String {
        format!(
            "thread {} at its operation {}, by {}: {difference}; its last: {:#?}",
            self.thread,
            self.made,
            self.seen.root.display(),
            self.history
        )
    }

    /// Which handles are of one file, and what both sides take it for.
    fn tell_handles(&self) -> String {
        let tell = |(here, there): (&File, &File)| {
            let flags = nix::fcntl::fcntl(here, nix::fcntl::FcntlArg::F_GETFL);
            let shown = |file: &File| file.metadata().map(|found| facts(&found));
            format!(
                "flags {:o}, {:?} here, {:?} there",
                flags.unwrap_or(-1),
                shown(here),
                shown(there)
            )
        };
        let both = self.seen.handles.iter().zip(&self.model.handles);
        format!("{:#?}", both.map(tell).collect::<Vec<_>>())
    }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Ok(bytes) if bytes.len() > 60 => format!("{} bytes", bytes.len()),
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(code) => format!("{}", io::Error::from_raw_os_error(*code)),
    }
}

/// A file that the threads of one mount have a part of each.
fn slots(number: usize) -> String {
    format!("shared/slots{number}")
}

/// What is written back is on the backend by then.
const WRITTEN_BACK_LIMIT: Duration = Duration::from_secs(30);

/// Where the same tree is seen.
struct Places {
    mounts: [PathBuf; 2],
    plain: PathBuf,
    reference: PathBuf,
    /// The directory, and whoever sees it by another mount, get there later.
    is_written_back: bool,
}

impl Places {
    fn prepare(&self) {
        for root in [&self.plain, &self.reference] {
            fs::create_dir(root.join("shared")).unwrap();
            File::create_new(root.join(LOG)).unwrap();
            for mount in 0..2 {
                let file = File::create_new(root.join(slots(mount))).unwrap();
                file.set_len(SLOT_BYTES * THREADS as u64).unwrap();
            }
            for thread in 0..THREADS {
                fs::create_dir(root.join(format!("thread{thread}"))).unwrap();
            }
        }
    }

    /// With everything closed, it is the same everywhere.
    fn compare_all(&self) -> Result<(), String> {
        let reference = Tree::whole(&self.reference)?;
        let compare = |root: &Path| self.compare(root, &reference);
        compare(&self.mounts[0])?;
        for root in [&self.plain, &self.mounts[1]] {
            if self.is_written_back {
                let deadline = Instant::now() + WRITTEN_BACK_LIMIT;
                while compare(root).is_err() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            compare(root)?;
        }
        Ok(())
    }

    fn compare(&self, root: &Path, reference: &Tree) -> Result<(), String> {
        let difference = Tree::whole(root)?.difference(reference);
        let records = log_records(&self.reference);
        let log_differs = || (log_records(root) != records).then(|| "the log".to_owned());
        match difference.or_else(log_differs) {
            Some(difference) => Err(format!("{}: {difference}", root.display())),
            None => Ok(()),
        }
    }
}

/// Who works where.
#[derive(Clone, Copy, PartialEq)]
enum Mounts {
    /// All at the first, and the second looks on.
    One,
    /// Half of the threads at each, and they change over whenever all is closed.
    InTurn,
}

/// A second mount of the backend, with a cache of its own, that believes no names.
fn second_mount(scratch: &Scratch, plain: &Path, options: &[&str]) -> Mount {
    let cache = scratch.path().join("cache2");
    mount::private_directory(&cache);
    let mut mount_options = MountOptions::new(scratch).with("actimeo=0");
    for option in options {
        mount_options = mount_options.with(option);
    }
    mount_options.mountpoint = scratch.directory("mount2");
    mount_options.cache_dirs = vec![cache];
    Mount::start(scratch, plain, mount_options)
}

fn steps_wanted() -> u64 {
    match std::env::var("CACHEFS_MODEL_STEPS") {
        Ok(text) => text.parse().expect("CACHEFS_MODEL_STEPS is a number"),
        Err(_) => sample_or_full(1200, 100_000),
    }
}

/// All threads for so many steps each, to the end.
fn make_phase(actors: &mut [Actor], steps: u64) {
    let failed = AtomicBool::new(false);
    let failed = &failed;
    let differences: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = actors
            .iter_mut()
            .map(|actor| scope.spawn(move || actor.make_steps(steps, failed)))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .filter_map(|end| end.expect("an actor ends with a word").err())
            .collect()
    });
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn make_run(actors: &mut [Actor], places: &Places, mounts: Mounts) {
    let phase = sample_or_full(100, 500);
    let phases = steps_wanted().div_ceil(phase * THREADS as u64);
    for number in 0..phases as usize {
        for actor in actors.iter_mut() {
            let which = match mounts {
                Mounts::One => 0,
                Mounts::InTurn => (actor.thread + number) % 2,
            };
            actor.seen.is_in_turn = mounts == Mounts::InTurn;
            actor.go_to(&places.mounts, which, slots((which + number) % 2));
        }
        make_phase(actors, phase);
        places
            .compare_all()
            .unwrap_or_else(|difference| panic!("after {number} phases: {difference}"));
        if mounts == Mounts::InTurn {
            std::thread::sleep(AFTER_CLOSING);
        }
    }
}

/// Evicts all that can go from these mounts, again and again until it is dropped.
struct Evictor {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Evictor {
    fn start(mountpoints: [PathBuf; 2]) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for mountpoint in &mountpoints {
                    let mut command = Command::new(mount::PROGRAM);
                    command.arg("evict").arg(mountpoint);
                    process::run(command, EVICTION_LIMIT);
                }
                std::thread::park_timeout(EVICTION_PAUSE);
            }
        });
        Self {
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is dropped once");
        thread.thread().unpark();
        let _ = thread.join();
    }
}

fn what_worked(actors: &[Actor]) -> BTreeMap<String, u64> {
    let mut worked = BTreeMap::new();
    for (kind, count) in actors.iter().flat_map(|actor| &actor.worked) {
        *worked.entry(kind.clone()).or_default() += count;
    }
    worked
}

fn the_mount_does_what_a_directory_does(test: &str, mounts: Mounts, options: &[&str]) {
    let scratch = Scratch::new(test);
    let plain = scratch.directory("plain");
    let mut mount_options = MountOptions::new(&scratch);
    for option in options {
        mount_options = mount_options.with(option);
    }
    if mounts == Mounts::InTurn {
        mount_options = mount_options.with("actimeo=0");
    }
    let first = Mount::start(&scratch, &plain, mount_options);
    let second = second_mount(&scratch, &plain, options);
    let places = Places {
        mounts: [first.path().to_owned(), second.path().to_owned()],
        plain,
        reference: scratch.directory("reference"),
        is_written_back: options.contains(&"write_mode=back"),
    };
    let _evictor = Evictor::start(places.mounts.clone());
    let seed = Random::from_environment(test).next();
    let worked = with_time_limit(&scratch, LIMIT, move || {
        places.prepare();
        let act = |thread| Actor::new(thread, seed, &places);
        let mut actors: Vec<Actor> = (0..THREADS).map(act).collect();
        make_run(&mut actors, &places, mounts);
        what_worked(&actors)
    });
    println!("steps that worked: {worked:?}");
    let each_worked = worked.values().all(|count| *count > 0);
    assert!(steps_wanted() < 50_000 || each_worked, "{worked:?}");
}

#[test]
fn random_operations_do_what_they_do_on_a_plain_directory() {
    the_mount_does_what_a_directory_does("model", Mounts::One, &[]);
}

#[test]
fn random_operations_do_what_they_do_with_all_that_is_written_kept() {
    the_mount_does_what_a_directory_does("model-kept", Mounts::One, &["keep_written=always"]);
}

#[test]
fn random_operations_do_what_they_do_with_nothing_that_is_written_kept() {
    the_mount_does_what_a_directory_does("model-not-kept", Mounts::One, &["keep_written=never"]);
}

#[test]
fn random_operations_do_what_they_do_when_written_back() {
    let options = ["write_mode=back", "writeback_delay=20ms"];
    the_mount_does_what_a_directory_does("model-back", Mounts::One, &options);
}

#[test]
fn random_operations_do_what_they_do_when_written_back_late_and_kept() {
    let options = [
        "write_mode=back",
        "writeback_delay=300ms",
        "keep_written=always",
        "small_file_size=1",
    ];
    the_mount_does_what_a_directory_does("model-back-late", Mounts::One, &options);
}

#[test]
fn random_operations_do_what_they_do_without_passthrough() {
    the_mount_does_what_a_directory_does("model-daemon", Mounts::One, &["passthrough=off"]);
}

#[test]
fn random_operations_do_what_they_do_with_passthrough_of_small_files() {
    let options = ["small_file_size=1"];
    the_mount_does_what_a_directory_does("model-passthrough", Mounts::One, &options);
}

#[test]
fn random_operations_do_what_they_do_with_direct_io() {
    the_mount_does_what_a_directory_does("model-direct", Mounts::One, &["direct_io"]);
}

#[test]
fn two_mounts_in_turn_do_what_a_plain_directory_does() {
    the_mount_does_what_a_directory_does("model-two", Mounts::InTurn, &[]);
}

#[test]
fn two_mounts_in_turn_do_so_with_all_that_is_written_kept() {
    let options = ["keep_written=always", "small_file_size=1"];
    the_mount_does_what_a_directory_does("model-two-kept", Mounts::InTurn, &options);
}

#[test]
fn two_mounts_in_turn_do_so_without_passthrough() {
    let options = ["keep_written=never", "passthrough=off"];
    the_mount_does_what_a_directory_does("model-two-daemon", Mounts::InTurn, &options);
}

#[test]
fn two_mounts_in_turn_do_so_with_direct_io() {
    the_mount_does_what_a_directory_does("model-two-direct", Mounts::InTurn, &["direct_io"]);
}
