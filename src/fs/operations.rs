//! The verbs that a request source (`fuse`) may ask of the file semantics. No FUSE types here, and no
//! reply objects: every verb takes a [`Done`] that is called exactly once, inline or later from any
//! thread.

use crate::fs::error::FsError;
use crate::io::Buffer;
use crate::types::{
    AttributeChange, Attributes, ByteRange, Caller, Conflict, FileKind, HandleId, LockOwner,
    NewNode, NodeId, RangeLock, Removal, RenameMode,
};
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Receives the outcome of one request, exactly once.
pub type Done<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// What comes with every request.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext {
    /// Names this request for [`Operations::interrupt`]; unique among those under way.
    pub unique: u64,
    pub caller: Caller,
}

/// A name resolved to a node. Each one given out counts as one lookup until forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub node: NodeId,
    pub generation: u64,
    /// `inode` is what `st_ino` shall show; it is not the node id.
    pub attributes: Attributes,
    pub entry_ttl: Duration,
    pub attribute_ttl: Duration,
}

/// Answer to a lookup: an entry, or "there is no such name", which may be remembered for a time.
#[derive(Clone, Copy, Debug)]
pub enum LookupReply {
    Found(Entry),
    /// Remember the absence for this long (zero: plain ENOENT).
    Absent {
        ttl: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct AttributesReply {
    pub attributes: Attributes,
    pub ttl: Duration,
}

/// A file the kernel reads by itself; dropped, the kernel's registration goes.
pub trait BackingId: Send + Sync {
    fn id(&self) -> u32;
}

/// Registers a descriptor for passthrough; implemented by `fuse`. EPERM or EOPNOTSUPP when the kernel
/// or the privileges do not allow it.
pub trait BackingRegistry: Send + Sync {
    fn register(&self, file: BorrowedFd<'_>) -> std::io::Result<Arc<dyn BackingId>>;
}

#[derive(Clone)]
pub struct OpenReply {
    pub handle: HandleId,
    /// Reads of this handle come to us and bypass the page cache (FOPEN_DIRECT_IO).
    pub direct_io: bool,
    /// Pages of an earlier open are still good (FOPEN_KEEP_CACHE).
    pub keep_cache: bool,
    /// The kernel reads this file by itself (FOPEN_PASSTHROUGH).
    pub passthrough: Option<Arc<dyn BackingId>>,
    /// Closing a descriptor of it has something to wait for: what was written, or locks that go.
    pub told_of_close: bool,
}

/// A file to be made, as the program asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Creation {
    /// Permission bits without the umask taken off.
    pub mode: u32,
    pub umask: u32,
    /// Those of open(2).
    pub flags: i32,
}

#[derive(Clone)]
pub struct Created {
    pub entry: Entry,
    pub open: OpenReply,
}

/// A lock to be set, or to be found out about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    pub handle: HandleId,
    pub owner: LockOwner,
    pub lock: RangeLock,
    /// The process that asks.
    pub pid: u32,
    /// Waits until the lock is free.
    pub waits: bool,
}

/// Bytes to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write<'a> {
    pub data: &'a [u8],
    /// Where, as the kernel sees it: an append goes to the end.
    pub offset: u64,
    /// Those of open(2) as they are for this write: O_APPEND, O_SYNC, O_DSYNC.
    pub flags: i32,
    /// The kernel's own page writes; the caller says nothing then.
    pub from_pages: bool,
    /// Set-user-id and set-group-id bits go with it.
    pub kills_set_id: bool,
}

/// copy_file_range(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeCopy {
    pub from: HandleId,
    pub from_offset: u64,
    pub to: HandleId,
    pub to_offset: u64,
    pub length_bytes: u64,
}

/// Bytes read: the first `length_bytes` of the buffer; fewer than asked only at end of file.
pub struct ReadReply {
    pub buffer: Buffer,
    pub length_bytes: usize,
}

/// How much a directory reply may hold. An entry costs
/// `entry_overhead_bytes + name.len()`, rounded up to 8.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryBudget {
    pub total_bytes: usize,
    pub entry_overhead_bytes: usize,
}

#[derive(Clone, Debug)]
pub struct DirectoryItem {
    pub name: OsString,
    pub inode: u64,
    pub kind: FileKind,
    /// Where reading goes on after this entry.
    pub next_offset: u64,
    /// With readdirplus, except for "." and "..", and where the attributes could not be had.
    pub entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug)]
pub struct SpaceReply {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size_bytes: u32,
    pub fragment_size_bytes: u32,
    pub name_length_max: u32,
}

#[allow(clippy::too_many_arguments)]
/// The verbs. None of them waits for the backend or a disk on the calling thread.
pub trait Operations: Send + Sync + 'static {
    fn lookup(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        done: Done<LookupReply>,
    );
    /// Gives back `count` lookups of a node.
    fn forget(&self, node: NodeId, count: u64);
    fn attributes(
        &self,
        context: RequestContext,
        node: NodeId,
        handle: Option<HandleId>,
        done: Done<AttributesReply>,
    );
    fn read_link(&self, context: RequestContext, node: NodeId, done: Done<Vec<u8>>);
    /// `flags` are those of open(2).
    fn open(&self, context: RequestContext, node: NodeId, flags: i32, done: Done<OpenReply>);
    fn read(
        &self,
        context: RequestContext,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        length_bytes: usize,
        done: Done<ReadReply>,
    );
    fn release(&self, handle: HandleId);
    fn open_directory(&self, context: RequestContext, node: NodeId, done: Done<HandleId>);
    fn read_directory(
        &self,
        context: RequestContext,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        budget: DirectoryBudget,
        with_attributes: bool,
        done: Done<Vec<DirectoryItem>>,
    );
    fn release_directory(&self, handle: HandleId);
    fn space(&self, context: RequestContext, node: NodeId, done: Done<SpaceReply>);
    fn list_xattr(&self, context: RequestContext, node: NodeId, done: Done<Vec<u8>>);
    fn get_xattr(&self, context: RequestContext, node: NodeId, name: &OsStr, done: Done<Vec<u8>>);
    /// lseek(2) with SEEK_DATA or SEEK_HOLE (`whence` as the system call has it).
    fn seek(
        &self,
        context: RequestContext,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: i32,
        done: Done<u64>,
    );
    // Names and attributes. Each is on the backend when it is answered, made with the rights of the caller.
    fn make(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        new: NewNode,
        done: Done<Entry>,
    );
    /// One more name for a file.
    fn link(
        &self,
        context: RequestContext,
        node: NodeId,
        parent: NodeId,
        name: &OsStr,
        done: Done<Entry>,
    );
    fn remove(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        removal: Removal,
        done: Done<()>,
    );
    fn rename(
        &self,
        context: RequestContext,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        mode: RenameMode,
        done: Done<()>,
    );
    fn change_attributes(
        &self,
        context: RequestContext,
        node: NodeId,
        change: AttributeChange,
        done: Done<AttributesReply>,
    );
    /// `flags` as setxattr(2) has them.
    fn set_xattr(
        &self,
        context: RequestContext,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        done: Done<()>,
    );
    fn remove_xattr(&self, context: RequestContext, node: NodeId, name: &OsStr, done: Done<()>);
    /// fsync(2) of a directory: its names are on stable storage.
    fn sync_directory(&self, context: RequestContext, node: NodeId, done: Done<()>);
    /// syncfs(2).
    fn sync_filesystem(&self, context: RequestContext, node: NodeId, done: Done<()>);
    /// Ends a request that waits, with EINTR; one that is done or unknown is left alone.
    fn interrupt(&self, unique: u64);
    /// From the root, as the node was last found; `None` where it has been forgotten. For who watches.
    fn path_of(&self, node: NodeId) -> Option<PathBuf>;

    // Bytes. What takes no changes answers EROFS.

    /// Makes a regular file and opens it. ESTALE where there is one and `creation` does not ask for a new one: to be
    /// looked up again.
    fn create(
        &self,
        _context: RequestContext,
        _parent: NodeId,
        _name: &OsStr,
        _creation: Creation,
        done: Done<Created>,
    ) {
        done(Err(FsError::ReadOnly));
    }
    /// The same without a name (O_TMPFILE).
    fn create_unnamed(
        &self,
        _context: RequestContext,
        _parent: NodeId,
        _creation: Creation,
        done: Done<Created>,
    ) {
        done(Err(FsError::ReadOnly));
    }
    /// Answers how many bytes were written, from the front.
    fn write(
        &self,
        _context: RequestContext,
        _handle: HandleId,
        _write: Write<'_>,
        done: Done<usize>,
    ) {
        done(Err(FsError::ReadOnly));
    }
    /// A descriptor of the handle is closed: what was written is on stable storage, or the error is told; the
    /// locks on ranges that `lock_owner` has on the file are gone.
    fn flush(&self, _context: RequestContext, _handle: HandleId, _lock_owner: u64, done: Done<()>) {
        done(Ok(()));
    }
    /// fsync(2) and fdatasync(2).
    fn sync(&self, _context: RequestContext, _handle: HandleId, _data_only: bool, done: Done<()>) {
        done(Ok(()));
    }
    /// fallocate(2), `mode` as it has it.
    fn allocate(
        &self,
        _context: RequestContext,
        _handle: HandleId,
        _mode: i32,
        _range: ByteRange,
        done: Done<()>,
    ) {
        done(Err(FsError::ReadOnly));
    }
    /// Answers how many bytes were copied; EOPNOTSUPP makes the kernel read and write them.
    fn copy_range(&self, _context: RequestContext, _copy: RangeCopy, done: Done<u64>) {
        done(Err(FsError::ReadOnly));
    }
    /// truncate(2), or ftruncate(2) where there is a handle.
    fn set_size(
        &self,
        _context: RequestContext,
        _node: NodeId,
        _handle: Option<HandleId>,
        _size_bytes: u64,
        done: Done<AttributesReply>,
    ) {
        done(Err(FsError::ReadOnly));
    }
    // Locks, which the backend's other clients see.
    fn set_lock(&self, _context: RequestContext, _request: LockRequest, done: Done<()>) {
        done(Err(FsError::NotSupported));
    }
    /// The first lock in the way of one.
    fn find_lock(
        &self,
        _context: RequestContext,
        _request: LockRequest,
        done: Done<Option<Conflict>>,
    ) {
        done(Err(FsError::NotSupported));
    }
}
