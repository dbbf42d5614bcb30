//! What the cache directories remember of journals, in a small file in each (docs/ON_DISK_FORMAT.md draws it): which one a
//! backend has, in which epoch, how far it had come, and in which files. Directories of a journal cannot tell by themselves
//! that all of them are empty, because their disk is not mounted, or older than they should be, or copies.
//!
//! What always holds: nothing is noted that is not durable in the journal itself, so that what is there is never behind
//! what is noted unless something is lost; what may hold something is given up by nobody but the operator.

use super::checksum::crc32c;
use super::frame::Sequence;
use super::segments::FileIdentity;
use super::{Directory, JournalError};
use crate::io::{Io, OpenMode};
use crate::types::codec::{Reader, Writer};
use parking_lot::Mutex;
use std::io;

/// In cache directories.
pub const WITNESS_FILE: &str = "journals";
const WITNESS_FILE_NEW: &str = "journals.new";
const MAGIC: &[u8] = b"nfs-cachefs journals 2\n";
/// Without files.
const MAGIC_WITHOUT_FILES: &[u8] = b"nfs-cachefs journals 1\n";
const WITNESS_BYTES_MAX: usize = 1 << 20;
/// What earlier programs noted of the last mirror: its name and epoch.
const EARLIER_FILE: &str = "journal.epoch";
const EARLIER_BYTES: usize = 28;

/// What a journal had that the backend did not, when it was last heard of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holding {
    /// It was in use, and may hold something since.
    Unknown,
    Something,
    Nothing,
}

/// One journal as it was last heard of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Testimony {
    pub journal: [u8; 16],
    /// The key of the backend's root; none is known of what earlier programs noted.
    pub backend: Vec<u8>,
    pub backend_name: String,
    pub epoch: u64,
    /// All batches up to this one were on stable storage.
    pub acknowledged: Sequence,
    pub holding: Holding,
    /// Where it was, as `journal_dir` names it.
    pub directories: String,
    /// The first segments of the devices of this epoch. Empty where nobody knows, or any will do.
    pub files: Vec<(u8, FileIdentity)>,
}

impl Testimony {
    /// As messages and commands name the journal.
    pub fn name(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.journal))
    }

    pub fn holding_in_words(&self) -> &'static str {
        match self.holding {
            Holding::Unknown => "it was in use when it was last heard of, and may hold",
            Holding::Something => "it holds",
            Holding::Nothing => "it held nothing of",
        }
    }

    /// Whether this is not the file that the device had: a copy that was put in its place.
    pub fn is_copy(&self, device: u8, found: FileIdentity) -> bool {
        let known = self.files.iter().find(|(number, _)| *number == device);
        known.is_some_and(|(_, known)| *known != found)
    }

    fn age(&self) -> (u64, Sequence, Holding) {
        (self.epoch, self.acknowledged, self.holding)
    }
}

/// What all cache directories of a mount remember, and where that is kept. Locked across the writing of it: what is
/// noted last stands last.
pub struct Witness {
    places: Vec<(String, Directory)>,
    told: Mutex<Vec<Testimony>>,
}

impl Witness {
    /// Reads what is remembered in these directories, by name. What cannot be read is told of, and is as if it were not
    /// there. Blocks on the disks.
    pub fn hear(places: Vec<(String, Directory)>) -> Self {
        let mut told: Vec<Testimony> = Vec::new();
        for (name, io) in &places {
            let heard = read(&**io).unwrap_or_else(|error| {
                tracing::warn!("{name}: what it remembers of journals cannot be read: {error}");
                Vec::new()
            });
            heard.into_iter().for_each(|one| add(&mut told, one));
            if let Some((journal, epoch)) = read_earlier(&**io) {
                add_earlier(&mut told, journal, epoch);
            }
        }
        let told = Mutex::new(told);
        Self { places, told }
    }

    pub fn all(&self) -> Vec<Testimony> {
        self.told.lock().clone()
    }

    pub fn of(&self, journal: &[u8; 16]) -> Option<Testimony> {
        let told = self.told.lock();
        told.iter().find(|one| one.journal == *journal).cloned()
    }

    /// A journal of the backend that may hold something, and is not the one that was found.
    pub fn missed(&self, backend: &[u8], found: Option<&[u8; 16]>) -> Option<Testimony> {
        let told = self.told.lock();
        let mut others = told
            .iter()
            .filter(|one| one.backend == backend && found != Some(&one.journal));
        let missed = others.find(|one| one.holding != Holding::Nothing);
        missed.cloned()
    }

    /// An error where a journal is missed.
    pub fn expect(&self, backend: &[u8], found: Option<&[u8; 16]>) -> Result<(), JournalError> {
        match self.missed(backend, found) {
            Some(missed) => Err(JournalError::Elsewhere {
                journal: missed.name(),
                holding: missed.holding_in_words(),
                forget: self.forget_command(&missed),
                directories: missed.directories,
            }),
            None => Ok(()),
        }
    }

    /// What an operator says who goes on without a journal for good.
    pub fn forget_command(&self, testimony: &Testimony) -> String {
        self.command("forget", testimony)
    }

    /// What an operator says who takes copies of a journal for all there is.
    pub fn accept_command(&self, testimony: &Testimony) -> String {
        self.command("accept", testimony)
    }

    fn command(&self, action: &str, testimony: &Testimony) -> String {
        let places: Vec<&str> = self.places.iter().map(|(name, _)| name.as_str()).collect();
        let (journal, places) = (testimony.name(), places.join(" "));
        format!("nfs-cachefs journal {action} {journal} {places}")
    }

    /// A journal is in use from now on. Others of its backend hold nothing: they were expected to, and are forgotten.
    pub fn begin(&self, own: Testimony) -> io::Result<()> {
        let mut told = self.told.lock();
        told.retain(|one| {
            let is_other = one.backend == own.backend && one.journal != own.journal;
            if is_other {
                tracing::info!(
                    "the journal {} in {} held nothing, and is forgotten: {} has its place",
                    one.name(),
                    one.directories,
                    own.name()
                );
            }
            !is_other && one.journal != own.journal
        });
        told.push(own);
        self.write(&told)
    }

    /// Notes what changed of a journal in use. Durable in one directory at least when it returns.
    pub fn note(&self, journal: &[u8; 16], change: impl FnOnce(&mut Testimony)) -> io::Result<()> {
        let mut told = self.told.lock();
        match told.iter_mut().find(|one| one.journal == *journal) {
            Some(own) => change(own),
            None => return Ok(()),
        }
        self.write(&told)
    }

    /// Whatever it holds is given up. Durable in all directories when it returns.
    pub fn forget(&self, journal: &[u8; 16]) -> io::Result<()> {
        let mut told = self.told.lock();
        told.retain(|one| one.journal != *journal);
        self.write_all(&told)
    }

    /// Whatever files its directories are is all there is of it. Durable in all directories when it returns.
    pub fn accept(&self, journal: &[u8; 16]) -> io::Result<()> {
        let mut told = self.told.lock();
        let known = told.iter_mut().filter(|one| one.journal == *journal);
        known.for_each(|own| own.files.clear());
        self.write_all(&told)
    }

    fn write_all(&self, told: &[Testimony]) -> io::Result<()> {
        let bytes = encode(told);
        let mut places = self.places.iter();
        places.try_for_each(|(_, io)| write(&**io, &bytes))
    }

    fn write(&self, told: &[Testimony]) -> io::Result<()> {
        let bytes = encode(told);
        let mut outcome = Ok(());
        let mut is_noted = false;
        for (_, io) in &self.places {
            match write(&**io, &bytes) {
                Ok(()) => is_noted = true,
                Err(error) => outcome = Err(error),
            }
        }
        match is_noted {
            true => Ok(()),
            false => outcome,
        }
    }
}

/// Of two directories that remember the same journal the one that heard of it later counts.
fn add(told: &mut Vec<Testimony>, one: Testimony) {
    match told.iter_mut().find(|known| known.journal == one.journal) {
        Some(known) if known.age() < one.age() => *known = one,
        Some(_) => {}
        None => told.push(one),
    }
}

/// An earlier program may have gone on with a journal that this one has noted.
fn add_earlier(told: &mut Vec<Testimony>, journal: [u8; 16], epoch: u64) {
    match told.iter_mut().find(|known| known.journal == journal) {
        Some(known) if known.epoch < epoch => {
            known.epoch = epoch;
            known.holding = Holding::Unknown;
        }
        Some(_) => {}
        None => told.push(Testimony {
            journal,
            backend: Vec::new(),
            backend_name: String::new(),
            epoch,
            acknowledged: Sequence::default(),
            holding: Holding::Unknown,
            directories: String::new(),
            files: Vec::new(),
        }),
    }
}

fn write(io: &dyn Io, bytes: &[u8]) -> io::Result<()> {
    let _ = io.remove_file(WITNESS_FILE_NEW);
    let file = io.open(WITNESS_FILE_NEW, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    drop(file);
    io.rename(WITNESS_FILE_NEW, WITNESS_FILE)?;
    io.sync_directory(".")?;
    // What it says is in the new one.
    let _ = io.remove_file(EARLIER_FILE);
    Ok(())
}

fn read(io: &dyn Io) -> io::Result<Vec<Testimony>> {
    let file = match io.open(WITNESS_FILE, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let length = (file.facts()?.size_bytes as usize).min(WITNESS_BYTES_MAX);
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    decode(&bytes[..read]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn read_earlier(io: &dyn Io) -> Option<([u8; 16], u64)> {
    let mut bytes = [0; EARLIER_BYTES];
    let file = io.open(EARLIER_FILE, OpenMode::Read).ok()?;
    let read = file.read_at(&mut bytes, 0).ok()?;
    let (body, checksum) = bytes.split_at(EARLIER_BYTES - 4);
    let is_whole = read == EARLIER_BYTES && crc32c(body).to_le_bytes() == checksum;
    let journal = body[..16].try_into().ok()?;
    let epoch = body[16..].try_into().map(u64::from_le_bytes).ok()?;
    is_whole.then_some((journal, epoch))
}

fn encode(told: &[Testimony]) -> Vec<u8> {
    let body = told.iter().fold(Writer::default(), |body, one| {
        let body = body
            .text(&one.journal)
            .text(&one.backend)
            .text(one.backend_name.as_bytes())
            .u64(one.epoch)
            .u64(one.acknowledged.0)
            .u8(match one.holding {
                Holding::Nothing => 0,
                Holding::Something => 1,
                Holding::Unknown => 2,
            })
            .text(one.directories.as_bytes())
            .u8(one.files.len() as u8);
        one.files.iter().fold(body, |body, (device, file)| {
            body.u8(*device).u64(file.inode).i64(file.birth_ns)
        })
    });
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c(&body.0).to_le_bytes());
    bytes.extend_from_slice(&body.0);
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Testimony>> {
    let (rest, has_files) = match bytes.strip_prefix(MAGIC) {
        Some(rest) => (rest, true),
        None => (bytes.strip_prefix(MAGIC_WITHOUT_FILES)?, false),
    };
    let mut reader = Reader(rest);
    if reader.u32()? != crc32c(reader.0) {
        return None;
    }
    let mut told = Vec::new();
    while !reader.0.is_empty() {
        told.push(decode_one(&mut reader, has_files)?);
    }
    Some(told)
}

fn decode_one(reader: &mut Reader<'_>, has_files: bool) -> Option<Testimony> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Testimony {
        journal: reader.text()?.try_into().ok()?,
        backend: reader.text()?.to_vec(),
        backend_name: text(reader.text()?),
        epoch: reader.u64()?,
        acknowledged: Sequence(reader.u64()?),
        holding: match reader.u8()? {
            0 => Holding::Nothing,
            1 => Holding::Something,
            2 => Holding::Unknown,
            _ => return None,
        },
        directories: text(reader.text()?),
        files: match has_files {
            true => decode_files(reader)?,
            false => Vec::new(),
        },
    })
}

fn decode_files(reader: &mut Reader<'_>) -> Option<Vec<(u8, FileIdentity)>> {
    let files = reader.u8()?;
    let mut file = || {
        let device = reader.u8()?;
        let (inode, birth_ns) = (reader.u64()?, reader.i64()?);
        Some((device, FileIdentity { inode, birth_ns }))
    };
    (0..files).map(|_| file()).collect()
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
