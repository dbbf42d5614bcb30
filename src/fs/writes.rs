//! Files that are being changed through this mount: who has them open for writing, whether anything has been changed
//! yet, and what follows from that for everybody who reads them.

use super::descriptors::Descriptor;
use super::order::RangeOrder;
use crate::backend::SourceFile;
use crate::backend::alone::Alone;
use crate::backend::writing::{Synced, WritableFile};
use crate::cache::Followers;
use crate::types::{Attributes, FileKey, Version};
use parking_lot::Mutex;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long an open for writing may take from its refusal on a node that the kernel reads by itself to its second try.
const EXPECTED_FOR: Duration = Duration::from_secs(2);

/// One open for writing.
pub(super) struct Writer {
    pub file: Arc<dyn WritableFile>,
    _in_the_way: Descriptor,
    /// Something was written that no sync has covered.
    pub unsynced: AtomicBool,
    syncs_under_way: AtomicUsize,
    /// One append at a time.
    pub appending: Mutex<()>,
}

/// All that is shared by the writers, truncations and readers of one file while any of them lasts.
pub(super) struct FileWrites {
    key: FileKey,
    table: Arc<WritesTable>,
    pub order: Arc<RangeOrder>,
    /// Held while the cache gives the file up for the first change, and while the last one is taken over.
    pub turning: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    writers: Vec<Arc<Writer>>,
    /// Something is being, or has been, changed: reads go to the backend.
    followers: Option<Arc<Followers>>,
    source: Option<Arc<dyn SourceFile>>,
    /// Nobody else changes the file.
    alone: Option<Arc<Alone>>,
    /// Writers that are gone with something written that their last sync has not covered yet.
    unsynced_gone: usize,
    /// Left of changes that have ended.
    resting: Option<Followers>,
    left_source: Option<Arc<dyn SourceFile>>,
}

#[derive(Default)]
pub(super) struct WritesTable {
    files: Mutex<HashMap<FileKey, Weak<FileWrites>>>,
    /// Files whose next open for writing is on its way.
    expected: Mutex<HashMap<FileKey, Instant>>,
}

impl WritesTable {
    pub fn of(self: &Arc<Self>, key: &FileKey) -> Arc<FileWrites> {
        let mut files = self.files.lock();
        if let Some(held) = files.get(key).and_then(Weak::upgrade) {
            return held;
        }
        let writes = Arc::new(FileWrites {
            key: key.clone(),
            table: self.clone(),
            order: Arc::default(),
            turning: Mutex::new(()),
            state: Mutex::default(),
        });
        files.insert(key.clone(), Arc::downgrade(&writes));
        writes
    }

    /// A writer was sent back to look the name up again: until it comes the file must not be given to the kernel.
    pub fn expect(&self, key: &FileKey) {
        let mut expected = self.expected.lock();
        expected.retain(|_, since| since.elapsed() < EXPECTED_FOR);
        expected.insert(key.clone(), Instant::now());
    }

    pub fn has_come(&self, key: &FileKey) {
        self.expected.lock().remove(key);
    }

    pub fn is_expected(&self, key: &FileKey) -> bool {
        let expected = self.expected.lock();
        expected
            .get(key)
            .is_some_and(|since| since.elapsed() < EXPECTED_FOR)
    }
}

impl Drop for FileWrites {
    fn drop(&mut self) {
        let mut files = self.table.files.lock();
        // Somebody may have begun anew in the meantime.
        if files
            .get(&self.key)
            .is_some_and(|held| held.strong_count() == 0)
        {
            files.remove(&self.key);
        }
    }
}

/// A sync of a writer, until this is dropped.
struct UnderWay<W: Borrow<Writer>>(W);

impl<W: Borrow<Writer>> UnderWay<W> {
    fn begin(writer: W) -> Self {
        let counted = writer.borrow();
        counted.syncs_under_way.fetch_add(1, Ordering::AcqRel);
        counted.unsynced.store(false, Ordering::Release);
        Self(writer)
    }
}

impl<W: Borrow<Writer>> Drop for UnderWay<W> {
    fn drop(&mut self) {
        let writer = self.0.borrow();
        writer.syncs_under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Writer {
    pub fn new(file: Arc<dyn WritableFile>, counted: Descriptor) -> Arc<Self> {
        Arc::new(Self {
            file,
            _in_the_way: counted,
            unsynced: AtomicBool::new(false),
            syncs_under_way: AtomicUsize::new(0),
            appending: Mutex::new(()),
        })
    }

    /// Returns when all that was written by now is on stable storage; an error is told once.
    pub fn sync(&self, data_only: bool) -> io::Result<()> {
        self.sync_by(|file| file.sync(data_only))
    }

    /// The same for who does not wait. What may block is given to `elsewhere`; never called, it is as if it were never asked for.
    pub fn sync_then(
        self: &Arc<Self>,
        data_only: bool,
        synced: Synced,
        elsewhere: impl FnOnce(Box<dyn FnOnce() + Send>),
    ) {
        let under_way = UnderWay::begin(self.clone());
        let told: Synced = Box::new(move |outcome| {
            drop(under_way);
            synced(outcome);
        });
        if let Err(told) = self.file.sync_soon(told) {
            let file = self.file.clone();
            elsewhere(Box::new(move || file.sync_then(data_only, told)));
        }
    }

    /// The same as far as close(2) waits for it.
    pub fn sync_at_close(&self) -> io::Result<()> {
        self.sync_by(|file| file.sync_at_close())
    }

    fn sync_by(&self, sync: impl FnOnce(&dyn WritableFile) -> io::Result<()>) -> io::Result<()> {
        let _under_way = UnderWay::begin(self);
        sync(&*self.file)
    }

    /// All that was written is on stable storage by now.
    fn is_synced(&self) -> bool {
        !self.is_unsynced() && self.syncs_under_way.load(Ordering::Acquire) == 0
    }

    pub fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire)
    }
}

impl FileWrites {
    pub fn add(&self, writer: &Arc<Writer>) {
        self.state.lock().writers.push(writer.clone());
    }

    pub fn remove(&self, writer: &Arc<Writer>) {
        self.state
            .lock()
            .writers
            .retain(|held| !Arc::ptr_eq(held, writer));
    }

    pub fn has_writers(&self) -> bool {
        !self.state.lock().writers.is_empty()
    }

    pub fn writers(&self) -> Vec<Arc<Writer>> {
        self.state.lock().writers.clone()
    }

    /// Closing any of them has to wait for a sync.
    pub fn mark_unsynced(&self) {
        for writer in &self.state.lock().writers {
            writer.unsynced.store(true, Ordering::Release);
        }
    }

    /// What was cached is given up: bytes are those of the backend.
    pub fn has_begun(&self) -> bool {
        self.state.lock().followers.is_some()
    }

    /// Called with `turning` held.
    pub fn begin(&self, followers: Followers) {
        self.state.lock().followers = Some(Arc::new(followers));
    }

    /// Whether nobody else could have changed the file since it was found so last; takes hold of it if it is not held.
    pub fn take_hold(&self, file: &dyn WritableFile) -> bool {
        if self.is_alone() {
            return true;
        }
        // The old one goes first: it would take the new one's lease along.
        self.let_go();
        let alone = file.hold_alone();
        let is_held = alone.is_some();
        self.state.lock().alone = alone;
        is_held
    }

    /// Others may have the file open unnoticed again. Closes a descriptor, perhaps.
    pub fn let_go(&self) {
        let held = self.state.lock().alone.take();
        drop(held);
    }

    pub fn is_alone(&self) -> bool {
        let held = self.hold();
        held.is_some_and(|held| held.is_unbroken())
    }

    pub fn hold(&self) -> Option<Arc<Alone>> {
        self.state.lock().alone.clone()
    }

    /// Counts a writer that is gone, until its last sync.
    pub fn note_unsynced_gone(&self) {
        self.state.lock().unsynced_gone += 1;
    }

    /// That last sync is done.
    pub fn note_synced_gone(&self) {
        self.state.lock().unsynced_gone -= 1;
    }

    /// After a failed sync nobody knows what the backend has.
    pub fn note_sync(&self, outcome: &io::Result<()>) {
        if outcome.is_ok() {
            return;
        }
        let state = self.state.lock();
        let following = state.followers.as_deref().into_iter();
        for followers in following.chain(&state.resting) {
            followers.lose_kept();
        }
    }

    /// Something is kept of the file for the version to come.
    pub fn keeps(&self) -> bool {
        self.followers().is_some_and(|followers| followers.keep())
    }

    /// All that was written is on the backend's stable storage.
    pub fn is_synced(&self) -> bool {
        let state = self.state.lock();
        state.unsynced_gone == 0 && state.writers.iter().all(|writer| writer.is_synced())
    }

    pub fn followers(&self) -> Option<Arc<Followers>> {
        self.state.lock().followers.clone()
    }

    /// Back to reading what is cached, if nobody writes any more. Does not block: the rest is for
    /// [`FileWrites::rest`]. Whether it ended.
    pub fn end(&self) -> bool {
        let mut state = self.state.lock();
        if !state.writers.is_empty() {
            return false;
        }
        state.pause();
        true
    }

    /// The same while writers go on to have it open: their next change begins anew.
    pub fn pause(&self) {
        self.state.lock().pause();
    }
}

impl State {
    fn pause(&mut self) {
        // A change that outlived its request holds on to them: then their bytes are nobody's version.
        let followers = self.followers.take().and_then(Arc::into_inner);
        self.resting = followers.filter(|followers| !followers.is_empty());
        self.left_source = self.source.take();
    }
}

impl FileWrites {
    /// What followed rests at this version, unless it follows again by now. Closing a descriptor of the backend may
    /// wait for it.
    pub fn rest(&self, version: Option<Version>) {
        let (followers, source) = {
            let mut state = self.state.lock();
            (state.resting.take(), state.left_source.take())
        };
        drop(source);
        if let Some(followers) = followers {
            followers.rest(version);
        }
    }

    /// What followed until now and was not told its version yet.
    pub fn take_resting(&self) -> Option<Followers> {
        self.state.lock().resting.take()
    }

    /// Attributes by an open descriptor: of an unlinked file there are no others.
    pub fn attributes(&self) -> Option<io::Result<Attributes>> {
        let writer = self.state.lock().writers.first().cloned();
        writer.map(|writer| writer.file.attributes())
    }

    /// A writer's descriptor that can be read.
    pub fn readable_writer(&self) -> Option<Arc<Writer>> {
        let state = self.state.lock();
        state
            .writers
            .iter()
            .find(|writer| writer.file.is_readable())
            .cloned()
    }

    /// The descriptor for readers; `open` makes it when there is none yet.
    pub fn source(
        &self,
        open: impl FnOnce() -> io::Result<Arc<dyn SourceFile>>,
    ) -> io::Result<Arc<dyn SourceFile>> {
        if let Some(source) = &self.state.lock().source {
            return Ok(source.clone());
        }
        let opened = open()?;
        let mut state = self.state.lock();
        Ok(state.source.get_or_insert(opened).clone())
    }
}
