//! The regular files that a name of the backend leads to, asked for as the daemon, a few at a time.

use crate::backend::{DirectoryStream, ListedName, Place};
use crate::fs::FileSystem;
use crate::fs::evicting::is_gone;
use crate::types::{Attributes, FileKind, Version};
use crossbeam_channel::bounded;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whoever waits for a backend that is away by then need not wait on.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Names that are looked up at once.
const NAMES_AT_ONCE: usize = 16;

pub(super) struct Found {
    pub place: Place,
    pub version: Version,
    pub first_seen: Instant,
}

pub(super) struct Walk {
    fs: Arc<FileSystem>,
    directories: Vec<Place>,
    listing: Option<(Place, Box<dyn DirectoryStream>)>,
    files: VecDeque<Found>,
}

/// A part of a listing, and the rest of it if there is any.
type Part = (Vec<ListedName>, Option<Box<dyn DirectoryStream>>);
/// What is asked of the backend on a thread that may wait for it.
type Job<T> = Box<dyn FnOnce(&FileSystem) -> io::Result<T> + Send>;

impl Walk {
    /// Waits for the backend while that is not away, `backend_timeout` at most, as does each step.
    pub fn new(fs: Arc<FileSystem>, path: &Path) -> io::Result<Self> {
        let mut walk = Self {
            fs,
            directories: Vec::new(),
            listing: None,
            files: VecDeque::new(),
        };
        let path = path.to_owned();
        let first_seen = Instant::now();
        let found = walk.on_lane(move |fs| {
            let (place, _) = fs.find(&path)?;
            let attributes = fs.backend.attributes(&place)?;
            refuse_others(attributes.kind)?;
            Ok((place, attributes))
        })?;
        walk.take(found, first_seen);
        Ok(walk)
    }

    /// `None` at the end. After an error there may be more.
    pub fn next(&mut self) -> Option<io::Result<Found>> {
        loop {
            if let Some(file) = self.files.pop_front() {
                return Some(Ok(file));
            }
            let step = match self.listing.take() {
                Some((directory, stream)) => self.list(directory, stream),
                None => {
                    let directory = self.directories.pop()?;
                    self.open(directory)
                }
            };
            match step {
                // It went away meanwhile.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Some(Err(error)),
                Ok(()) => {}
            }
        }
    }

    fn open(&mut self, directory: Place) -> io::Result<()> {
        let place = directory.clone();
        let stream = self.on_lane(move |fs| fs.backend.open_directory(&place))?;
        self.list(directory, stream)
    }

    fn list(&mut self, directory: Place, stream: Box<dyn DirectoryStream>) -> io::Result<()> {
        let (names, rest) = self.on_lane(move |_| read_part(stream))?;
        for some in names.chunks(NAMES_AT_ONCE) {
            self.look_up(&directory, some)?;
        }
        self.listing = rest.map(|stream| (directory, stream));
        Ok(())
    }

    fn look_up(&mut self, directory: &Place, names: &[ListedName]) -> io::Result<()> {
        let first_seen = Instant::now();
        let lookup = |listed: &ListedName| -> Job<(Place, Attributes)> {
            let (directory, name) = (directory.clone(), listed.name.clone());
            Box::new(move |fs| {
                let found = fs.backend.lookup(&directory, &name)?;
                Ok((directory.below(&name, &found), found.attributes))
            })
        };
        for outcome in self.on_lanes(names.iter().map(lookup).collect())? {
            match outcome {
                Ok(found) => self.take(found, first_seen),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, (place, attributes): (Place, Attributes), first_seen: Instant) {
        match attributes.kind {
            FileKind::Directory => self.directories.push(place),
            FileKind::Regular => self.files.push_back(Found {
                place,
                version: attributes.version(),
                first_seen,
            }),
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => {}
        }
    }

    fn on_lane<T: Send + 'static>(
        &self,
        job: impl FnOnce(&FileSystem) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let job: Job<T> = Box::new(job);
        let outcomes = self.on_lanes(vec![job])?;
        outcomes.into_iter().next().unwrap_or_else(|| Err(late()))
    }

    /// Waits for all of these. It is late when `backend_timeout` has passed without an answer to any.
    fn on_lanes<T: Send + 'static>(&self, jobs: Vec<Job<T>>) -> io::Result<Vec<io::Result<T>>> {
        let (told, answers) = bounded(jobs.len());
        let wanted = jobs.len();
        for job in jobs {
            let (fs, told) = (self.fs.clone(), told.clone());
            let submitted = self.fs.warm_lane.submit(move || {
                let _ = told.send(job(&fs));
            });
            submitted.map_err(|_| late())?;
        }
        drop(told);
        let mut outcomes = Vec::with_capacity(wanted);
        let mut last_answer = Instant::now();
        while outcomes.len() < wanted {
            match answers.recv_timeout(LOOK_INTERVAL) {
                Ok(outcome) => {
                    outcomes.push(outcome);
                    last_answer = Instant::now();
                }
                Err(error) if error.is_disconnected() => return Err(late()),
                Err(_)
                    if self.fs.health.is_away()
                        || last_answer.elapsed() > self.fs.settings.backend_timeout =>
                {
                    return Err(late());
                }
                Err(_) => {}
            }
        }
        Ok(outcomes)
    }
}

fn late() -> io::Error {
    io::Error::from_raw_os_error(libc::ETIMEDOUT)
}

fn refuse_others(kind: FileKind) -> io::Result<()> {
    match kind {
        FileKind::Regular | FileKind::Directory => Ok(()),
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => Err(io::Error::other(
            "neither a file nor a directory: there is nothing to keep",
        )),
    }
}

fn read_part(mut stream: Box<dyn DirectoryStream>) -> io::Result<Part> {
    let mut names = Vec::new();
    stream.next_names(&mut names)?;
    let rest = (!names.is_empty()).then_some(stream);
    Ok((names, rest))
}
