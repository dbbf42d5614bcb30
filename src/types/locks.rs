//! Advisory locks on files.

/// What a lock lets others do; or that there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Others may share it.
    Shared,
    Exclusive,
    Unlocked,
}

/// Bytes of a file, and the lock on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeLock {
    pub kind: LockKind,
    pub start: u64,
    /// `None`: to the end, wherever that comes to be.
    pub length_bytes: Option<u64>,
}

/// Who holds a lock, as the kernel tells apart: two owners exclude one another, one changes its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LockOwner {
    pub id: u64,
    /// flock(2) and fcntl(2) do not see one another.
    pub family: LockFamily,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LockFamily {
    /// flock(2)
    Whole,
    /// fcntl(2), of processes and of open file descriptions
    Ranges,
}

/// A lock in the way, and the process that holds it where that can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    pub lock: RangeLock,
    pub pid: Option<u32>,
}
