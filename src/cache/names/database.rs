//! The file of known names: one redb table of records.

use super::Changes;
use super::record::{believed, record};
use crate::cache::layout::{self, Layout};
use crate::cache::storage;
use crate::io::{Io, OpenMode, is_no_room};
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, TableDefinition, TableError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub const NAMES_FILE: &str = "names.redb";
/// Names of files set aside begin with this.
pub const DAMAGED_PREFIX: &str = "names.damaged-";
const FORMAT_VERSION: u64 = 1;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const COUNTS: TableDefinition<&str, u64> = TableDefinition::new("counts");
const COUNT_FORMAT: &str = "format";
const COUNT_RECORDS: &str = "records";

/// Memory for pages of the file. Leaves are mostly found in the kernel's page cache.
const PAGE_CACHE_BYTES: usize = 4 << 20;
/// About what a record takes on disk.
const RECORD_BYTES: u64 = 256;
/// This part of the disk may be taken.
const DISK_PART: u64 = 32;
const RECORDS_MAX: u64 = 4_000_000;
const RECORDS_MIN: u64 = 100_000;
/// A record that says the same as before is written again only after this.
pub(super) const CONFIRMED_AGAIN_AFTER_S: i64 = 600;
/// With less nothing is written.
const ROOM_BYTES_MIN: u64 = 16 << 20;
/// Records of these kinds (the first byte of a key) are few and stay.
pub const KINDS_THAT_STAY: u8 = 16;

pub(super) type Failure = redb::Error;
/// A key, and what is to be stored under it, if anything.
type Wanted<'a> = (&'a [u8], Option<&'a [u8]>);

/// A record's value.
pub struct Found(pub Vec<u8>);

pub struct NamesFile {
    disk: Arc<dyn Io>,
    name: String,
    /// `None`: out of use.
    database: RwLock<Option<Database>>,
    records: AtomicU64,
    pub(super) records_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failure: Option<String>,
    /// It can be used once there is room.
    lacks_room: bool,
    notices: Vec<String>,
}

/// How many records a disk may hold.
pub fn records_max(disk: &dyn Io) -> u64 {
    let total_bytes = disk.space().map_or(0, |space| space.total_bytes);
    (total_bytes / DISK_PART / RECORD_BYTES).clamp(RECORDS_MIN, RECORDS_MAX)
}

enum OpenError {
    /// There is no cache in the directory yet, or no room for a new file.
    NotYet,
    Redb(Failure),
    Newer(u64),
}

impl From<Failure> for OpenError {
    fn from(error: Failure) -> Self {
        Self::Redb(error)
    }
}

impl NamesFile {
    pub fn open(disk: Arc<dyn Io>, name: &str, records_max: u64) -> Self {
        let file = Self {
            disk,
            name: name.to_owned(),
            database: RwLock::new(None),
            records: AtomicU64::new(0),
            records_max,
            state: Mutex::default(),
        };
        file.begin();
        file
    }

    pub fn record_count(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    pub fn notices(&self) -> Vec<String> {
        let state = self.state.lock();
        let failed = state.failure.as_ref().map(|reason| {
            format!(
                "cache directory {}: what is known of names is not kept: {reason}",
                self.name
            )
        });
        state.notices.iter().cloned().chain(failed).collect()
    }

    fn begin(&self) {
        // One at a time has the file.
        let closed = self.database.write().take();
        drop(closed);
        let opened = match self.try_open() {
            Err(OpenError::Redb(error)) if !is_want_of_room(&error) => {
                self.set_aside(&error).and_then(|()| self.try_open())
            }
            outcome => outcome,
        };
        match opened {
            Ok(database) => {
                *self.database.write() = Some(database);
                let mut state = self.state.lock();
                state.failure = None;
                state.lacks_room = false;
            }
            Err(OpenError::NotYet) => self.wait_for_room(),
            Err(OpenError::Redb(error)) => self.fail(&error),
            Err(OpenError::Newer(found)) => {
                self.state.lock().failure = Some(format!(
                    "{NAMES_FILE} was written by a newer nfs-cachefs (format {found}); it was left untouched"
                ));
            }
        }
    }

    fn try_open(&self) -> Result<Database, OpenError> {
        // A directory without its mark is to stay empty.
        if !matches!(layout::check(&*self.disk), Ok(Layout::Cache)) {
            return Err(OpenError::NotYet);
        }
        if !self.has_room() && self.disk.open(NAMES_FILE, OpenMode::Read).is_err() {
            return Err(OpenError::NotYet);
        }
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE_BYTES);
        let database =
            storage::open_or_create(&*self.disk, NAMES_FILE, &builder).map_err(Failure::from)?;
        let (format, records) = match counts(&database)? {
            Some(counts) => counts,
            None => {
                make_tables(&database)?;
                (FORMAT_VERSION, 0)
            }
        };
        if format > FORMAT_VERSION {
            return Err(OpenError::Newer(format));
        }
        self.records.store(records, Ordering::Relaxed);
        Ok(database)
    }

    fn set_aside(&self, error: &Failure) -> Result<(), OpenError> {
        let failed = |error: std::io::Error| OpenError::Redb(Failure::Io(error));
        let aside = crate::cache::directory::set_aside(&*self.disk, NAMES_FILE, DAMAGED_PREFIX)
            .map_err(failed)?;
        self.state.lock().notices.push(format!(
            "cache directory {}: what was known of names could not be read ({error}); it was set aside as {aside}, and is \
             learnt anew",
            self.name
        ));
        Ok(())
    }

    fn has_room(&self) -> bool {
        let space = self.disk.space();
        space.is_ok_and(|space| space.available_bytes >= ROOM_BYTES_MIN)
    }

    /// What is stored can be read; nothing is written.
    fn wait_for_room(&self) {
        let mut state = self.state.lock();
        state.lacks_room = true;
        state.failure = Some("no room on the cache disk".to_owned());
    }

    fn fail(&self, error: &Failure) {
        let database = self.database.write().take();
        drop(database);
        let mut state = self.state.lock();
        state.lacks_room = is_want_of_room(error);
        if state.failure.is_none() {
            tracing::warn!(directory = %self.name, %error, "what is known of names is not kept");
        }
        state.failure = Some(error.to_string());
    }

    /// `None` also for what is damaged, or cannot be read.
    pub fn get(&self, key: &[u8]) -> Option<Found> {
        let database = self.database.read();
        let transaction = database.as_ref()?.begin_read().ok()?;
        let records = transaction.open_table(RECORDS).ok()?;
        let stored = records.get(key).ok()??;
        let (_, value) = believed(key, stored.value())?;
        Some(Found(value.to_vec()))
    }

    /// The keys that begin with `prefix`, and their values; damaged ones are left out.
    pub fn all_with(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.some_with(prefix, prefix, usize::MAX)
    }

    /// The same from a key on, up to so many.
    pub fn some_with(
        &self,
        prefix: &[u8],
        from: &[u8],
        count_max: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        let database = self.database.read();
        if let Some(database) = database.as_ref() {
            // What could not be read is not known.
            let _ = each_from(database, from, |key, stored| {
                if !key.starts_with(prefix) || all.len() >= count_max {
                    return false;
                }
                let value = believed(key, stored).map(|(_, value)| value.to_vec());
                all.extend(value.map(|value| (key.to_vec(), value)));
                true
            });
        }
        all
    }

    /// Makes changes durable. What cannot be written is forgotten.
    pub fn apply(&self, changes: &Changes, now: i64) {
        if !self.has_room() {
            return self.wait_for_room();
        }
        let lacked_room = self.state.lock().lacks_room;
        if lacked_room {
            self.begin();
        }
        let outcome = {
            let database = self.database.read();
            match database.as_ref() {
                Some(database) => self.try_apply(database, changes, now),
                None => Ok(()),
            }
        };
        if let Err(error) = outcome {
            self.fail(&error);
            if is_want_of_room(&error) {
                // As of its last commit.
                self.begin();
            }
        }
    }

    fn try_apply(&self, database: &Database, changes: &Changes, now: i64) -> Result<(), Failure> {
        let mut wanted = self.news(database, changes, now)?;
        if wanted.is_empty() {
            return Ok(());
        }
        // Neighbours in the tree one after the other.
        wanted.sort_unstable();
        self.write(database, &wanted, now)?;
        if self.record_count() > self.records_max {
            self.make_room(database, now)?;
        }
        Ok(())
    }

    /// The changes that say something that is not stored.
    fn news<'a>(
        &self,
        database: &Database,
        changes: &'a Changes,
        now: i64,
    ) -> Result<Vec<Wanted<'a>>, Failure> {
        let transaction = database.begin_read()?;
        let records = transaction.open_table(RECORDS)?;
        let mut news = Vec::new();
        for (key, change) in changes {
            let stored = records.get(&**key)?;
            let is_news = match (change, &stored) {
                (None, stored) => stored.is_some(),
                (Some(_), None) => true,
                (Some(value), Some(stored)) => match believed(key, stored.value()) {
                    Some((confirmed, held)) => {
                        held != &**value || (now - confirmed).abs() > CONFIRMED_AGAIN_AFTER_S
                    }
                    None => true,
                },
            };
            if is_news {
                news.push((&**key, change.as_deref()));
            }
        }
        Ok(news)
    }

    pub(super) fn write(
        &self,
        database: &Database,
        changes: &[Wanted<'_>],
        now: i64,
    ) -> Result<(), Failure> {
        let transaction = begin(database)?;
        let mut count = self.record_count();
        {
            let mut records = transaction.open_table(RECORDS)?;
            for (key, change) in changes {
                match change {
                    Some(value) => {
                        let is_new = records.insert(*key, &*record(key, value, now))?.is_none();
                        count += u64::from(is_new);
                    }
                    None => count -= u64::from(records.remove(*key)?.is_some()),
                }
            }
            let mut counts = transaction.open_table(COUNTS)?;
            counts.insert(COUNT_RECORDS, count)?;
        }
        transaction.commit()?;
        self.records.store(count, Ordering::Relaxed);
        Ok(())
    }
}

/// Calls `each` with every record from a key on until it says no.
pub(super) fn each_from(
    database: &Database,
    from: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), Failure> {
    let transaction = database.begin_read()?;
    let records = transaction.open_table(RECORDS)?;
    for entry in records.range::<&[u8]>(from..)? {
        let (key, stored) = entry?;
        if !each(key.value(), stored.value()) {
            break;
        }
    }
    Ok(())
}

fn begin(database: &Database) -> Result<redb::WriteTransaction, Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Format and number of records; `None` where there are no tables yet.
fn counts(database: &Database) -> Result<Option<(u64, u64)>, Failure> {
    let transaction = database.begin_read()?;
    let counts = match transaction.open_table(COUNTS) {
        Ok(counts) => counts,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let count =
        |name| -> Result<u64, Failure> { Ok(counts.get(name)?.map_or(0, |value| value.value())) };
    Ok(Some((count(COUNT_FORMAT)?, count(COUNT_RECORDS)?)))
}

fn make_tables(database: &Database) -> Result<(), Failure> {
    let transaction = begin(database)?;
    transaction.open_table(RECORDS)?;
    transaction
        .open_table(COUNTS)?
        .insert(COUNT_FORMAT, FORMAT_VERSION)?;
    transaction.commit()?;
    Ok(())
}

fn is_want_of_room(error: &Failure) -> bool {
    match error {
        Failure::Io(error) => is_no_room(error),
        // Whoever met the error before knows what it was.
        Failure::PreviousIo => true,
        _ => false,
    }
}

/// Makes a closed store one of a later program.
#[cfg(test)]
pub fn raise_format(disk: &dyn Io) {
    let builder = Database::builder();
    let database = storage::open_or_create(disk, NAMES_FILE, &builder).unwrap();
    let transaction = begin(&database).unwrap();
    let mut counts = transaction.open_table(COUNTS).unwrap();
    counts.insert(COUNT_FORMAT, FORMAT_VERSION + 1).unwrap();
    drop(counts);
    transaction.commit().unwrap();
}
