//! Bytes to a [`LockCall`], and what was found to bytes. Pure.

use super::abi;
use crate::fs::operations::LockRequest;
use crate::fuse::abi::opcode;
use crate::fuse::decode::fixed;
use crate::types::{Conflict, HandleId, LockFamily, LockKind, LockOwner, RangeLock};

/// A request about locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCall {
    Find(LockRequest),
    Set(LockRequest),
}

/// `None` where the arguments are malformed; the outer one where the code is of another kind.
pub fn arguments_of(code: u32, arguments: &[u8]) -> Option<Option<LockCall>> {
    Some(match code {
        opcode::GETLK => request(arguments, false).map(LockCall::Find),
        opcode::SETLK => request(arguments, false).map(LockCall::Set),
        opcode::SETLKW => request(arguments, true).map(LockCall::Set),
        _ => return None,
    })
}

fn request(arguments: &[u8], waits: bool) -> Option<LockRequest> {
    let (input, _) = fixed::<abi::LockIn>(arguments)?;
    let family = match input.flags & abi::LOCK_WHOLE {
        0 => LockFamily::Ranges,
        _ => LockFamily::Whole,
    };
    Some(LockRequest {
        handle: HandleId(input.handle),
        owner: LockOwner {
            id: input.owner,
            family,
        },
        lock: lock_of(&input.lock)?,
        pid: input.lock.pid,
        waits,
    })
}

fn lock_of(raw: &abi::FileLock) -> Option<RangeLock> {
    let kind = match raw.kind as i32 {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        libc::F_UNLCK => LockKind::Unlocked,
        _ => return None,
    };
    let length_bytes = match raw.end {
        end if end >= abi::TO_THE_END => None,
        end => Some(end.checked_sub(raw.start)? + 1),
    };
    Some(RangeLock {
        kind,
        start: raw.start,
        length_bytes,
    })
}

/// The answer to GETLK.
pub fn found(conflict: Option<Conflict>) -> abi::LockOut {
    let lock = match conflict {
        None => abi::FileLock {
            start: 0,
            end: 0,
            kind: libc::F_UNLCK as u32,
            pid: 0,
        },
        Some(Conflict { lock, pid }) => abi::FileLock {
            start: lock.start,
            end: match lock.length_bytes {
                None => abi::TO_THE_END,
                Some(length_bytes) => lock.start + length_bytes.saturating_sub(1),
            },
            kind: match lock.kind {
                LockKind::Shared => libc::F_RDLCK as u32,
                LockKind::Exclusive => libc::F_WRLCK as u32,
                LockKind::Unlocked => libc::F_UNLCK as u32,
            },
            pid: pid.unwrap_or(0),
        },
    };
    abi::LockOut { lock }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn call(start: u64, end: u64, kind: i32, flags: u32) -> Option<Option<LockCall>> {
        let input = abi::LockIn {
            handle: 3,
            owner: 4,
            lock: abi::FileLock {
                start,
                end,
                kind: kind as u32,
                pid: 5,
            },
            flags,
            padding: 0,
        };
        arguments_of(opcode::SETLKW, input.as_bytes())
    }

    #[test]
    fn a_lock_ends_with_its_last_byte_or_never() {
        let lock = |end| match call(10, end, libc::F_WRLCK, 0) {
            Some(Some(LockCall::Set(request))) => request.lock.length_bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(lock(10), Some(1));
        assert_eq!(lock(19), Some(10));
        assert_eq!(lock(abi::TO_THE_END), None);
        assert_eq!(call(10, 8, libc::F_WRLCK, 0), Some(None));
        assert_eq!(call(0, 8, 77, 0), Some(None));
        let out = found(Some(Conflict {
            lock: RangeLock {
                kind: LockKind::Shared,
                start: 10,
                length_bytes: Some(10),
            },
            pid: None,
        }));
        assert_eq!((out.lock.start, out.lock.end, out.lock.pid), (10, 19, 0));
    }

    #[test]
    fn a_lock_on_the_whole_file_is_of_another_family() {
        let Some(Some(LockCall::Set(request))) =
            call(0, abi::TO_THE_END, libc::F_RDLCK, abi::LOCK_WHOLE)
        else {
            panic!("it decodes");
        };
        assert_eq!(request.owner.family, LockFamily::Whole);
        assert!(request.waits);
    }
}
