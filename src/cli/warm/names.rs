//! The files to bring in, as they are found: listed ahead of those who ask for them, and no further, so that a tree of any
//! size takes bounded memory, but for 8 bytes of each file: those found before by another name or argument are passed over.

use crate::sys::xattr;
use crate::types::bytes_in_words;
use crate::types::warming::{ROOM_ATTRIBUTE, Room};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files are found ahead until so many wait.
const FILES_AHEAD: usize = 512;
/// Names that one thread takes from a list or a directory before it looks what else there is.
const NAMES_AT_ONCE: usize = 4096;
/// What is found by then is known before the first file is asked for.
const LOOK_AHEAD_TIME: Duration = Duration::from_millis(500);
const LOOK_AHEAD_FILES: usize = 4096;

const NOT_OURS: &str = "not below a mount of nfs-cachefs";

/// A path, or why there is none.
pub type Given = Result<PathBuf, Problem>;

#[derive(Clone, Debug)]
pub struct Problem {
    pub path: PathBuf,
    pub reason: String,
}

impl Problem {
    pub fn new(path: &Path, reason: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Something that a directory or a list has named.
enum Found {
    /// Whatever it is.
    Given(PathBuf),
    Listed(PathBuf, FileType),
    Problem(Problem),
}

type Source = Box<dyn Iterator<Item = Found> + Send>;

/// Where more can be found.
enum Place {
    Directory(PathBuf),
    /// Read up to somewhere.
    Source(Source),
}

pub struct Names {
    state: Mutex<State>,
    changed: Condvar,
    /// Whoever lists all of it with `ls -l` is to find its attributes known.
    learns_attributes: bool,
}

#[derive(Default)]
struct State {
    sources: Vec<Source>,
    directories: Vec<PathBuf>,
    files: VecDeque<Given>,
    files_found: u64,
    met: Met,
    /// Threads that look for more.
    looking: usize,
}

/// Hashes of what was met before.
#[derive(Default)]
struct Met {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Met {
    fn is_new(&mut self, facts: &Metadata) -> bool {
        let hash = self.hasher.hash_one((facts.dev(), facts.ino()));
        self.hashes.insert(hash)
    }
}

impl State {
    /// What was found last comes first: so few of them wait.
    fn place_to_look(&mut self) -> Option<Place> {
        let directory = self.directories.pop().map(Place::Directory);
        directory.or_else(|| self.sources.pop().map(Place::Source))
    }
}

impl Names {
    pub fn new(
        given: impl Iterator<Item = Given> + Send + 'static,
        learns_attributes: bool,
    ) -> Self {
        let found = given.map(|path| path.map_or_else(Found::Problem, Found::Given));
        let state = State {
            sources: vec![Box::new(found)],
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            learns_attributes,
        }
    }

    /// So far.
    pub fn files_found(&self) -> u64 {
        self.state.lock().files_found
    }

    /// The next file; `None` when there is none any more. Finds others meanwhile.
    pub fn next(&self) -> Option<Given> {
        let mut state = self.state.lock();
        loop {
            let place = match state.files.len() < FILES_AHEAD {
                true => state.place_to_look(),
                false => None,
            };
            if let Some(place) = place {
                state.looking += 1;
                drop(state);
                self.look(place);
                state = self.state.lock();
                state.looking -= 1;
                self.changed.notify_all();
            } else if let Some(file) = state.files.pop_front() {
                drop(state);
                if self.is_first(&file) {
                    return Some(file);
                }
                state = self.state.lock();
            } else if state.looking == 0 {
                return None;
            } else {
                self.changed.wait(&mut state);
            }
        }
    }

    /// The name is known from then on, also where the file was met before.
    fn is_first(&self, file: &Given) -> bool {
        let facts = file.as_ref().ok().map(fs::symlink_metadata);
        match facts {
            Some(Ok(facts)) => self.state.lock().met.is_new(&facts),
            // What is wrong with it is told by whoever asks for it.
            Some(Err(_)) | None => true,
        }
    }

    fn look(&self, place: Place) {
        let mut source = match place {
            Place::Source(source) => source,
            Place::Directory(path) => match self.open(&path) {
                Ok(Some(source)) => source,
                Ok(None) => return,
                Err(error) => return self.note(Err(Problem::new(&path, error))),
            },
        };
        for _ in 0..NAMES_AT_ONCE {
            match source.next() {
                Some(found) => self.take(found),
                None => return,
            }
        }
        self.state.lock().sources.push(source);
    }

    /// `None`: it was met before.
    fn open(&self, directory: &Path) -> io::Result<Option<Source>> {
        let facts = fs::symlink_metadata(directory)?;
        if !self.state.lock().met.is_new(&facts) {
            return Ok(None);
        }
        self.learn(directory);
        list(directory).map(Some)
    }

    fn learn(&self, path: &Path) {
        if self.learns_attributes {
            learn_attributes(path);
        }
    }

    fn take(&self, found: Found) {
        match found {
            Found::Problem(problem) => self.note(Err(problem)),
            Found::Listed(path, kind) => self.take_kind(path, kind),
            Found::Given(path) => match look_at(&path) {
                Ok((path, facts)) => self.take_kind(path, facts.file_type()),
                Err(problem) => self.note(Err(problem)),
            },
        }
    }

    fn take_kind(&self, path: PathBuf, kind: FileType) {
        if kind.is_file() {
            self.note(Ok(path));
        } else if kind.is_dir() {
            self.state.lock().directories.push(path);
            self.changed.notify_one();
        } else if kind.is_symlink() {
            // From then on the daemon knows where it leads.
            let _ = fs::read_link(&path);
            self.learn(&path);
        }
    }

    fn note(&self, file: Given) {
        let mut state = self.state.lock();
        state.files.push_back(file);
        state.files_found += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// Finds files for a moment; what there is, if that is all.
    pub fn look_ahead(&self) -> Option<FirstLook> {
        let began = Instant::now();
        let mut look = FirstLook::default();
        let mut looked_at = 0;
        loop {
            let mut state = self.state.lock();
            let is_late = began.elapsed() > LOOK_AHEAD_TIME || looked_at > LOOK_AHEAD_FILES;
            if is_late {
                return None;
            }
            if let Some(next) = state.files.get(looked_at).cloned() {
                drop(state);
                looked_at += 1;
                next.ok().iter().for_each(|path| look.add(path));
            } else if let Some(place) = state.place_to_look() {
                drop(state);
                self.look(place);
            } else {
                return Some(look);
            }
        }
    }
}

/// All there is, where that was soon seen.
#[derive(Default)]
pub struct FirstLook {
    files: u64,
    bytes: u64,
    /// By device: its bytes, and a file of it.
    mounts: BTreeMap<u64, (u64, PathBuf)>,
    met: Met,
}

impl FirstLook {
    fn add(&mut self, path: &Path) {
        let Ok(facts) = fs::symlink_metadata(path) else {
            return;
        };
        if !self.met.is_new(&facts) {
            return;
        }
        self.files += 1;
        self.bytes += facts.len();
        let new = || (0, path.to_owned());
        self.mounts.entry(facts.dev()).or_insert_with(new).0 += facts.len();
    }

    /// Files and bytes.
    pub fn total(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// A sentence for each mount whose cache cannot keep it all.
    pub fn too_large(&self) -> Vec<String> {
        let sentence = |(bytes, path): &(u64, PathBuf)| {
            let room = room_of(path).ok().filter(|room| room.bytes < *bytes)?;
            Some(format!(
                "{} are to be cached, and the cache of {} keeps {} at most: the rest will be left out",
                bytes_in_words(*bytes),
                path.display(),
                bytes_in_words(room.bytes)
            ))
        };
        self.mounts.values().filter_map(sentence).collect()
    }
}

fn room_of(path: &Path) -> io::Result<Room> {
    let told = xattr::get_by_path(path, OsStr::new(ROOM_ATTRIBUTE))?;
    serde_json::from_slice(&told).map_err(io::Error::other)
}

/// From then on the daemon knows the attributes that `ls -l` and the kernel ask for, and which there are not.
pub fn learn_attributes(path: &Path) {
    let Ok(names) = xattr::list_by_path(path) else {
        return;
    };
    let of_programs = |name: &&[u8]| name.starts_with(b"user.");
    let names = names.split(|byte| *byte == 0);
    for name in names.filter(|name| !name.is_empty() && !of_programs(name)) {
        let _ = xattr::get_by_path(path, OsStr::from_bytes(name));
    }
}

/// Why a path that the daemon was asked about has no answer.
pub fn reason_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENODATA) => NOT_OURS.to_owned(),
        Some(libc::ENOTCONN) => "its daemon is gone; `nfs-cachefs umount` cleans up".to_owned(),
        _ => error.to_string(),
    }
}

/// A path of the command line or of a list, which may be a symbolic link.
fn look_at(path: &Path) -> Result<(PathBuf, Metadata), Problem> {
    let problem = |error: io::Error| Problem::new(path, error);
    if path.as_os_str().is_empty() {
        return Err(Problem::new(path, "an empty path"));
    }
    let mut path_behind = path.to_owned();
    let mut facts = fs::symlink_metadata(path).map_err(problem)?;
    if facts.is_symlink() {
        path_behind = path.canonicalize().map_err(problem)?;
        facts = fs::symlink_metadata(&path_behind).map_err(problem)?;
    }
    if facts.is_dir() {
        // Any other tree would be walked to its end for nothing.
        room_of(&path_behind).map_err(|error| Problem::new(path, reason_of(&error)))?;
    } else if !facts.is_file() {
        return Err(Problem::new(path, "neither a file nor a directory"));
    }
    Ok((path_behind, facts))
}

fn list(path: &Path) -> io::Result<Source> {
    let directory = path.to_owned();
    let found = move |entry: io::Result<fs::DirEntry>| match entry {
        Ok(entry) => match entry.file_type() {
            Ok(kind) => Found::Listed(entry.path(), kind),
            Err(error) => Found::Problem(Problem::new(&entry.path(), error)),
        },
        Err(error) => Found::Problem(Problem::new(&directory, error)),
    };
    Ok(Box::new(fs::read_dir(path)?.map(found)))
}

/// The paths of a list, up to where it cannot be read; empty lines are passed over.
pub fn listed(list: Box<dyn Read + Send>, null: bool) -> impl Iterator<Item = Given> + Send {
    let end = if null { 0 } else { b'\n' };
    let lines = BufReader::new(list).split(end);
    let mut has_failed = false;
    // A directory, or a file of a server that is away, would fail for ever.
    let lines = lines.take_while(move |line| !std::mem::replace(&mut has_failed, line.is_err()));
    lines.filter_map(|line| match line {
        Ok(bytes) if bytes.is_empty() => None,
        Ok(bytes) => Some(Ok(PathBuf::from(OsString::from_vec(bytes)))),
        Err(error) => Some(Err(Problem::new(Path::new("the list"), error))),
    })
}
