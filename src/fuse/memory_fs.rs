//! A small filesystem in memory, to try the protocol on a real mount.

use crate::fs::error::FsError;
use crate::fs::operations::*;
use crate::io::Buffer;
use crate::types::{
    AttributeChange, Attributes, FileKind, HandleId, NewNode, NodeId, Removal, RenameMode,
    Timestamp,
};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub const TEXT: NodeId = NodeId(2);
pub const LINK: NodeId = NodeId(3);
pub const CROWD: NodeId = NodeId(4);
/// Reads of it end only by an interrupt.
pub const STUCK: NodeId = NodeId(5);
pub const PASSED: NodeId = NodeId(6);
/// Reads of it panic.
pub const PANICS: NodeId = NodeId(7);
/// Reads of it lose their completion.
pub const LOST: NodeId = NodeId(8);
const FIRST_IN_CROWD: u64 = 1000;
pub const CROWD_NAMES: u64 = 10_000;
const LONG: Duration = Duration::from_secs(3600);

const NAMES: [(&str, NodeId); 7] = [
    ("text", TEXT),
    ("link", LINK),
    ("crowd", CROWD),
    ("stuck", STUCK),
    ("passed", PASSED),
    ("panics", PANICS),
    ("lost", LOST),
];

pub struct MemoryFs {
    pub text: Mutex<Vec<u8>>,
    pub direct_io: bool,
    /// Reads are answered by a thread of their own.
    pub answers_later: bool,
    pub passthrough: Option<Arc<dyn BackingId>>,
    pub passed_size_bytes: u64,
    /// How long a read of [`STUCK`] stays unknown to `interrupt`.
    pub stuck_unknown_for: Duration,
    /// Lookups given out and not given back.
    pub crowd_lookups: AtomicI64,
    pub reads: AtomicU64,
    waiting: Mutex<HashMap<u64, Done<ReadReply>>>,
    pub arrived: Condvar,
    next_handle: AtomicU64,
}

impl MemoryFs {
    pub fn new() -> Self {
        Self {
            text: Mutex::new(b"some text".to_vec()),
            direct_io: false,
            answers_later: false,
            passthrough: None,
            passed_size_bytes: 0,
            stuck_unknown_for: Duration::ZERO,
            crowd_lookups: AtomicI64::new(0),
            reads: AtomicU64::new(0),
            waiting: Mutex::new(HashMap::new()),
            arrived: Condvar::new(),
            next_handle: AtomicU64::new(1),
        }
    }

    /// Whether a read of [`STUCK`] is waiting, within a limit.
    pub fn wait_for_stuck_read(&self, limit: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            self.arrived.wait_for(&mut waiting, limit);
        }
        !waiting.is_empty()
    }

    fn attributes_of(&self, node: NodeId) -> Result<Attributes, FsError> {
        let (kind, permissions, size_bytes) = match node {
            NodeId::ROOT | CROWD => (FileKind::Directory, 0o755, 4096),
            LINK => (FileKind::Symlink, 0o777, 4),
            TEXT => (FileKind::Regular, 0o644, self.text.lock().len() as u64),
            PASSED => (FileKind::Regular, 0o644, self.passed_size_bytes),
            STUCK | PANICS | LOST => (FileKind::Regular, 0o644, 1 << 20),
            NodeId(number) if number >= FIRST_IN_CROWD => (FileKind::Regular, 0o600, number),
            _ => return Err(FsError::UnknownNode),
        };
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 123,
        };
        Ok(Attributes {
            // Not the node id, and more than 32 bits.
            inode: node.0 + (1 << 40),
            kind,
            permissions,
            link_count: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size_bytes,
            blocks_512: size_bytes.div_ceil(512),
            block_size_bytes: 4096,
            atime: time,
            mtime: time,
            ctime: time,
        })
    }

    fn entry(&self, node: NodeId) -> Result<Entry, FsError> {
        if node.0 >= FIRST_IN_CROWD {
            self.crowd_lookups.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Entry {
            node,
            generation: 0,
            attributes: self.attributes_of(node)?,
            entry_ttl: LONG,
            attribute_ttl: LONG,
        })
    }
}

impl Operations for MemoryFs {
    fn lookup(&self, _: RequestContext, parent: NodeId, name: &OsStr, done: Done<LookupReply>) {
        let known = NAMES.iter().find(|(known, _)| name == *known);
        done(match known {
            Some((_, node)) if parent == NodeId::ROOT => self.entry(*node).map(LookupReply::Found),
            _ => Ok(LookupReply::Absent { ttl: LONG }),
        });
    }

    fn forget(&self, node: NodeId, count: u64) {
        if node.0 >= FIRST_IN_CROWD {
            self.crowd_lookups.fetch_sub(count as i64, Ordering::SeqCst);
        }
    }

    fn attributes(
        &self,
        _: RequestContext,
        node: NodeId,
        _: Option<HandleId>,
        done: Done<AttributesReply>,
    ) {
        let attributes = self.attributes_of(node);
        done(attributes.map(|attributes| AttributesReply {
            attributes,
            ttl: LONG,
        }));
    }

    fn read_link(&self, _: RequestContext, _: NodeId, done: Done<Vec<u8>>) {
        done(Ok(b"text".to_vec()));
    }

    fn open(&self, _: RequestContext, node: NodeId, flags: i32, done: Done<OpenReply>) {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return done(Err(FsError::ReadOnly));
        }
        done(Ok(OpenReply {
            handle: HandleId(self.next_handle.fetch_add(1, Ordering::Relaxed)),
            direct_io: self.direct_io || node == STUCK,
            keep_cache: true,
            passthrough: self.passthrough.clone().filter(|_| node == PASSED),
            told_of_close: false,
        }));
    }

    fn read(
        &self,
        context: RequestContext,
        node: NodeId,
        _: HandleId,
        offset: u64,
        length_bytes: usize,
        done: Done<ReadReply>,
    ) {
        self.reads.fetch_add(1, Ordering::SeqCst);
        match node {
            STUCK => {
                std::thread::sleep(self.stuck_unknown_for);
                self.waiting.lock().insert(context.unique, done);
                self.arrived.notify_all();
            }
            PANICS => panic!("a handler that panics"),
            LOST => drop(done),
            _ => {
                let text = self.text.lock();
                let start = (offset as usize).min(text.len());
                let end = (start + length_bytes).min(text.len());
                let mut buffer = Buffer::unpooled(end - start);
                buffer.copy_from_slice(&text[start..end]);
                drop(text);
                let answer = move || {
                    done(Ok(ReadReply {
                        length_bytes: buffer.len(),
                        buffer,
                    }))
                };
                if self.answers_later {
                    std::thread::spawn(answer);
                } else {
                    answer();
                }
            }
        }
    }

    fn release(&self, _: HandleId) {}

    fn open_directory(&self, _: RequestContext, _: NodeId, done: Done<HandleId>) {
        done(Ok(HandleId(
            self.next_handle.fetch_add(1, Ordering::Relaxed),
        )));
    }

    fn read_directory(
        &self,
        _: RequestContext,
        node: NodeId,
        _: HandleId,
        offset: u64,
        budget: DirectoryBudget,
        with_attributes: bool,
        done: Done<Vec<DirectoryItem>>,
    ) {
        let end = if node == CROWD { CROWD_NAMES } else { 0 };
        let mut items = Vec::new();
        let mut used_bytes = 0;
        // One more than fits, so that the packing has something to leave out.
        for number in offset..end {
            let name = OsString::from(format!("name-{number}"));
            used_bytes += (budget.entry_overhead_bytes + name.len()).next_multiple_of(8);
            let child = NodeId(FIRST_IN_CROWD + number);
            items.push(DirectoryItem {
                inode: child.0 + (1 << 40),
                kind: FileKind::Regular,
                next_offset: number + 1,
                entry: with_attributes.then(|| self.entry(child).expect("in the crowd")),
                name,
            });
            if used_bytes > budget.total_bytes {
                break;
            }
        }
        done(Ok(items));
    }

    fn release_directory(&self, _: HandleId) {}

    fn space(&self, _: RequestContext, _: NodeId, done: Done<SpaceReply>) {
        done(Ok(SpaceReply {
            blocks: 1000,
            blocks_free: 500,
            blocks_available: 400,
            files: 30,
            files_free: 20,
            block_size_bytes: 65536,
            fragment_size_bytes: 4096,
            name_length_max: 255,
        }));
    }

    fn list_xattr(&self, _: RequestContext, _: NodeId, done: Done<Vec<u8>>) {
        done(Ok(b"user.colour\0".to_vec()));
    }

    fn get_xattr(&self, _: RequestContext, node: NodeId, name: &OsStr, done: Done<Vec<u8>>) {
        done(if name == "user.colour" && node == TEXT {
            Ok(b"blue".to_vec())
        } else {
            // As NFS v4 answers, which has no POSIX ACLs.
            let is_system = name.as_encoded_bytes().starts_with(b"system.");
            let errno = if is_system {
                libc::EOPNOTSUPP
            } else {
                libc::ENODATA
            };
            Err(FsError::Backend(std::io::Error::from_raw_os_error(errno)))
        });
    }

    fn seek(
        &self,
        _: RequestContext,
        _: NodeId,
        _: HandleId,
        offset: u64,
        whence: i32,
        done: Done<u64>,
    ) {
        done(Ok(if whence == libc::SEEK_DATA { offset } else { 9 }));
    }

    fn make(&self, _: RequestContext, _: NodeId, _: &OsStr, _: NewNode, done: Done<Entry>) {
        done(Err(FsError::ReadOnly));
    }

    fn link(&self, _: RequestContext, _: NodeId, _: NodeId, _: &OsStr, done: Done<Entry>) {
        done(Err(FsError::ReadOnly));
    }

    fn remove(&self, _: RequestContext, _: NodeId, _: &OsStr, _: Removal, done: Done<()>) {
        done(Err(FsError::ReadOnly));
    }

    fn rename(
        &self,
        _: RequestContext,
        _: (NodeId, &OsStr),
        _: (NodeId, &OsStr),
        _: RenameMode,
        done: Done<()>,
    ) {
        done(Err(FsError::ReadOnly));
    }

    fn change_attributes(
        &self,
        _: RequestContext,
        _: NodeId,
        _: AttributeChange,
        done: Done<AttributesReply>,
    ) {
        done(Err(FsError::ReadOnly));
    }

    fn set_xattr(&self, _: RequestContext, _: NodeId, _: &OsStr, _: &[u8], _: i32, done: Done<()>) {
        done(Err(FsError::ReadOnly));
    }

    fn remove_xattr(&self, _: RequestContext, _: NodeId, _: &OsStr, done: Done<()>) {
        done(Err(FsError::ReadOnly));
    }

    fn sync_directory(&self, _: RequestContext, _: NodeId, done: Done<()>) {
        done(Ok(()));
    }

    fn sync_filesystem(&self, _: RequestContext, _: NodeId, done: Done<()>) {
        done(Ok(()));
    }

    fn path_of(&self, _node: NodeId) -> Option<PathBuf> {
        None
    }

    fn interrupt(&self, unique: u64) {
        let waiter = self.waiting.lock().remove(&unique);
        if let Some(done) = waiter {
            done(Err(FsError::Interrupted));
        }
    }
}
