//! A backend in memory: files with versions, changed, failing or hanging at calls that a script chooses.

use crate::backend::{
    Backend, BackendSpace, DirectoryStream, FilesystemIndex, Found, Place, SeekWhence, SourceFile,
};
use crate::io::simulator::Dice;
use crate::io::{FillSource, ReadAt};
use crate::types::{Attributes, ByteRange, FileKey, FileKind, Timestamp, Version};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// No test needs a call to hang for longer.
const HANG_MAX: Duration = Duration::from_secs(30);
/// Long past, so that versions have settled unless a test wants fresh ones.
const EPOCH_SECONDS: i64 = 1_600_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Another file under the same key.
    Replace,
    /// The same file, other bytes.
    Rewrite,
    Append,
    Truncate,
}

pub const CHANGES: [Change; 4] = [
    Change::Replace,
    Change::Rewrite,
    Change::Append,
    Change::Truncate,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallKind {
    Open,
    Read,
    Attributes,
}

/// A call that is about to be made.
#[derive(Clone, Debug)]
pub struct Call {
    pub kind: CallKind,
    /// Of the file it concerns: empty but for reads.
    pub range: ByteRange,
}

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Nothing,
    /// It fails with this errno.
    Fail(i32),
    /// The file changes just before.
    ChangeBefore(Change),
    /// The file changes when half of a read is done.
    ChangeWithin(Change),
    /// It waits for [`FakeBackend::release`].
    Hang,
}

type Script = Box<dyn FnMut(&Call) -> Effect + Send>;

pub struct FakeBackend {
    this: Weak<FakeBackend>,
    state: Mutex<State>,
    script: Mutex<Script>,
    gate: Mutex<Gate>,
    gate_changed: Condvar,
}

#[derive(Default)]
struct Gate {
    is_open: bool,
    hanging: usize,
}

struct State {
    dice: Dice,
    /// Which inode a key leads to.
    names: HashMap<FileKey, u64>,
    inodes: HashMap<u64, Inode>,
    /// Every content there ever was.
    history: HashMap<Version, Arc<Vec<u8>>>,
    next: u64,
    fresh: bool,
    reads: Vec<(FileKey, ByteRange, Instant)>,
    open_sources: usize,
    closers: Vec<String>,
}

#[derive(Clone)]
struct Inode {
    version: Version,
    content: Arc<Vec<u8>>,
}

impl FakeBackend {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            state: Mutex::new(State {
                dice: Dice::new(seed),
                names: HashMap::new(),
                inodes: HashMap::new(),
                history: HashMap::new(),
                next: 1,
                fresh: false,
                reads: Vec::new(),
                open_sources: 0,
                closers: Vec::new(),
            }),
            script: Mutex::new(Box::new(|_| Effect::Nothing)),
            gate: Mutex::default(),
            gate_changed: Condvar::new(),
        })
    }

    /// From now on new versions carry the time of day.
    pub fn make_fresh_versions(&self) {
        self.state.lock().fresh = true;
    }

    pub fn create(&self, name: &str, size_bytes: usize) -> FileKey {
        let key = FileKey(name.as_bytes().into());
        self.state.lock().put(&key, size_bytes, None);
        key
    }

    pub fn change(&self, key: &FileKey, change: Change) {
        let mut state = self.state.lock();
        let inode = state.names[key];
        let size_bytes = state.inodes[&inode].content.len();
        match change {
            Change::Replace => state.put(key, size_bytes, None),
            Change::Rewrite => state.put(key, size_bytes, Some(inode)),
            Change::Append => {
                let more = 1 + state.dice.below(100_000) as usize;
                let mut content = state.inodes[&inode].content.to_vec();
                let mut added = vec![0; more];
                state.dice.fill(&mut added);
                content.extend(added);
                state.set(inode, content);
            }
            Change::Truncate => {
                let mut content = state.inodes[&inode].content.to_vec();
                content.truncate(size_bytes - (size_bytes / 3).max(usize::from(size_bytes > 0)));
                state.set(inode, content);
            }
        }
    }

    /// These bytes of the file change, which makes it longer perhaps.
    pub fn write(&self, key: &FileKey, data: &[u8], offset: usize) {
        let mut state = self.state.lock();
        let inode = state.names[key];
        let mut content = state.inodes[&inode].content.to_vec();
        content.resize(content.len().max(offset + data.len()), 0);
        content[offset..offset + data.len()].copy_from_slice(data);
        state.set(inode, content);
    }

    pub fn version(&self, key: &FileKey) -> Version {
        let state = self.state.lock();
        state.inodes[&state.names[key]].version
    }

    pub fn content(&self, version: &Version) -> Arc<Vec<u8>> {
        self.state.lock().history[version].clone()
    }

    pub fn place(&self, key: &FileKey) -> Place {
        Place {
            caller: None,
            only_caller: false,
            filesystem: FilesystemIndex(0),
            key: key.clone(),
            inode: self.version(key).inode,
            path: PathBuf::from(String::from_utf8_lossy(&key.0).into_owned()),
            held: None,
        }
    }

    pub fn set_script(&self, script: impl FnMut(&Call) -> Effect + Send + 'static) {
        *self.script.lock() = Box::new(script);
    }

    /// Ends every hang, now and later.
    pub fn release(&self) {
        self.gate.lock().is_open = true;
        self.gate_changed.notify_all();
    }

    /// Waits until so many calls hang.
    pub fn wait_for_hanging(&self, calls: usize) {
        let deadline = Instant::now() + HANG_MAX;
        let mut gate = self.gate.lock();
        while gate.hanging < calls {
            let late = self
                .gate_changed
                .wait_until(&mut gate, deadline)
                .timed_out();
            assert!(!late, "{} of {calls} calls hang", gate.hanging);
        }
    }

    /// What was read, in order: whose bytes, which, and when.
    pub fn reads(&self) -> Vec<(FileKey, ByteRange, Instant)> {
        self.state.lock().reads.clone()
    }

    pub fn bytes_read(&self) -> u64 {
        let state = self.state.lock();
        state
            .reads
            .iter()
            .map(|(_, range, _)| range.length_bytes())
            .sum()
    }

    /// The names of the threads that closed files, in order.
    pub fn closers(&self) -> Vec<String> {
        self.state.lock().closers.clone()
    }

    pub fn open_sources(&self) -> usize {
        self.state.lock().open_sources
    }

    /// Asks the script; the change that is to happen halfway, if any.
    fn call(&self, kind: CallKind, key: &FileKey, range: ByteRange) -> io::Result<Option<Change>> {
        let effect = (self.script.lock())(&Call { kind, range });
        match effect {
            Effect::Nothing => Ok(None),
            Effect::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Effect::ChangeBefore(change) => {
                self.change(key, change);
                Ok(None)
            }
            Effect::ChangeWithin(change) => Ok(Some(change)),
            Effect::Hang => {
                let deadline = Instant::now() + HANG_MAX;
                let mut gate = self.gate.lock();
                gate.hanging += 1;
                self.gate_changed.notify_all();
                while !gate.is_open {
                    let late = self
                        .gate_changed
                        .wait_until(&mut gate, deadline)
                        .timed_out();
                    assert!(!late, "a call was never released");
                }
                gate.hanging -= 1;
                Ok(None)
            }
        }
    }
}

impl State {
    fn put(&mut self, key: &FileKey, size_bytes: usize, inode: Option<u64>) {
        let mut content = vec![0; size_bytes];
        self.dice.fill(&mut content);
        let inode = inode.unwrap_or_else(|| {
            // The file that had the name goes on without it, and its ctime tells.
            if let Some(old) = self.names.get(key).copied() {
                let content = self.inodes[&old].content.to_vec();
                self.set(old, content);
            }
            self.next += 1;
            self.names.insert(key.clone(), self.next);
            self.next
        });
        self.set(inode, content);
    }

    fn set(&mut self, inode: u64, content: Vec<u8>) {
        self.next += 1;
        let mut time = Timestamp {
            seconds: EPOCH_SECONDS + self.next as i64,
            nanoseconds: 1,
        };
        if self.fresh {
            time = crate::clock::wall_clock();
            // No whole second, which would pass for a server that keeps nothing finer.
            time.nanoseconds |= 1;
        }
        let version = Version {
            inode,
            size_bytes: content.len() as u64,
            mtime: time,
            ctime: time,
        };
        let content = Arc::new(content);
        self.history.insert(version, content.clone());
        self.inodes.insert(inode, Inode { version, content });
    }
}

fn attributes_of(version: &Version) -> Attributes {
    Attributes {
        inode: version.inode,
        kind: FileKind::Regular,
        permissions: 0o644,
        link_count: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size_bytes: version.size_bytes,
        blocks_512: version.size_bytes.div_ceil(512),
        block_size_bytes: 4096,
        atime: version.mtime,
        mtime: version.mtime,
        ctime: version.ctime,
    }
}

pub fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

impl crate::backend::writing::Writes for FakeBackend {}
impl crate::backend::locking::Locks for FakeBackend {}
impl crate::backend::access::AccessDecisions for FakeBackend {}
impl crate::backend::unsent::Unsent for FakeBackend {}

impl Backend for FakeBackend {
    fn root(&self) -> io::Result<(Place, Attributes)> {
        unsupported()
    }

    fn lookup(&self, _parent: &Place, _name: &OsStr) -> io::Result<Found> {
        unsupported()
    }

    fn attributes(&self, place: &Place) -> io::Result<Attributes> {
        self.call(CallKind::Attributes, &place.key, ByteRange::default())?;
        Ok(attributes_of(&self.version(&place.key)))
    }

    fn open_directory(&self, _place: &Place) -> io::Result<Box<dyn DirectoryStream>> {
        unsupported()
    }

    fn read_link(&self, _place: &Place) -> io::Result<Vec<u8>> {
        unsupported()
    }

    fn open(&self, place: &Place) -> io::Result<Arc<dyn SourceFile>> {
        self.call(CallKind::Open, &place.key, ByteRange::default())?;
        let inode = self.version(&place.key).inode;
        if inode != place.inode {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        self.state.lock().open_sources += 1;
        let backend = self.this.upgrade().expect("alive while borrowed");
        Ok(Arc::new(FakeSource {
            reader: Arc::new(Reader {
                backend,
                key: place.key.clone(),
                inode,
            }),
        }))
    }

    fn space(&self, _place: &Place) -> io::Result<BackendSpace> {
        unsupported()
    }

    fn list_xattr(&self, _place: &Place) -> io::Result<Vec<u8>> {
        unsupported()
    }

    fn get_xattr(&self, _place: &Place, _name: &OsStr) -> io::Result<Vec<u8>> {
        unsupported()
    }

    fn has_local_clock(&self, _filesystem: FilesystemIndex) -> bool {
        true
    }
}

struct FakeSource {
    reader: Arc<Reader>,
}

struct Reader {
    backend: Arc<FakeBackend>,
    key: FileKey,
    inode: u64,
}

impl Drop for FakeSource {
    fn drop(&mut self) {
        let mut state = self.reader.backend.state.lock();
        state.open_sources -= 1;
        let thread = std::thread::current();
        state.closers.push(thread.name().unwrap_or("").to_owned());
    }
}

impl Reader {
    fn inode(&self) -> Inode {
        self.backend.state.lock().inodes[&self.inode].clone()
    }

    fn copy(&self, buffer: &mut [u8], offset: u64) -> usize {
        let content = self.inode().content;
        let start = (offset as usize).min(content.len());
        let length = buffer.len().min(content.len() - start);
        buffer[..length].copy_from_slice(&content[start..start + length]);
        length
    }
}

impl ReadAt for Reader {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        let within = self.backend.call(CallKind::Read, &self.key, range)?;
        let half = buffer.len() / 2;
        let moved = match within {
            None => self.copy(buffer, offset),
            Some(change) => {
                let first = self.copy(&mut buffer[..half], offset);
                self.backend.change(&self.key, change);
                if first < half {
                    first
                } else {
                    half + self.copy(&mut buffer[half..], offset + half as u64)
                }
            }
        };
        let moved_range = ByteRange::at(offset, moved as u64);
        let mut state = self.backend.state.lock();
        state
            .reads
            .push((self.key.clone(), moved_range, Instant::now()));
        Ok(moved)
    }
}

impl SourceFile for FakeSource {
    fn has_writer(&self) -> bool {
        false
    }

    fn attributes(&self) -> io::Result<Attributes> {
        let backend = &self.reader.backend;
        backend.call(CallKind::Attributes, &self.reader.key, ByteRange::default())?;
        Ok(attributes_of(&self.reader.inode().version))
    }

    fn source(&self) -> FillSource {
        FillSource::Reader(self.reader.clone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reader.read_at(buffer, offset)
    }

    fn seek(&self, offset: u64, whence: SeekWhence) -> io::Result<u64> {
        let size_bytes = self.reader.inode().version.size_bytes;
        match whence {
            SeekWhence::Data if offset < size_bytes => Ok(offset),
            SeekWhence::Hole if offset < size_bytes => Ok(size_bytes),
            SeekWhence::Data | SeekWhence::Hole => Err(io::Error::from_raw_os_error(libc::ENXIO)),
        }
    }
}
