//! Bytes to a [`ByteRequest`]. Pure; every length is checked, no input panics.

use super::abi;
use crate::fs::operations::{Creation, RangeCopy, Write};
use crate::fuse::abi::opcode;
use crate::fuse::decode::{fixed, name};
use crate::types::{ByteRange, HandleId};
use std::ffi::OsStr;

/// A request that changes bytes. The node of the header is the file, or the directory of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRequest<'a> {
    /// An unnamed file (O_TMPFILE) where there is no name.
    Create {
        name: Option<&'a OsStr>,
        creation: Creation,
    },
    Write {
        handle: HandleId,
        write: Write<'a>,
    },
    Flush {
        handle: HandleId,
        lock_owner: u64,
    },
    Sync {
        handle: HandleId,
        data_only: bool,
    },
    Allocate {
        handle: HandleId,
        mode: i32,
        range: ByteRange,
    },
    CopyRange {
        copy: RangeCopy,
        /// The answer has room for a count of 64 bits.
        wide: bool,
    },
}

/// `None` where the arguments are malformed; the outer one where the code is of another kind.
pub fn arguments_of(code: u32, arguments: &[u8]) -> Option<Option<ByteRequest<'_>>> {
    Some(match code {
        opcode::CREATE | opcode::TMPFILE => create(code, arguments),
        opcode::WRITE => write(arguments),
        opcode::FLUSH => fixed::<abi::FlushIn>(arguments).map(|(input, _)| ByteRequest::Flush {
            handle: HandleId(input.handle),
            lock_owner: input.lock_owner,
        }),
        opcode::FSYNC => fixed::<abi::FsyncIn>(arguments).map(|(input, _)| ByteRequest::Sync {
            handle: HandleId(input.handle),
            data_only: input.fsync_flags & abi::FSYNC_DATA_ONLY != 0,
        }),
        opcode::FALLOCATE => fixed(arguments).map(|(input, _)| allocation(&input)),
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            fixed(arguments).map(|(input, _)| copy(code, &input))
        }
        _ => return None,
    })
}

fn create(code: u32, arguments: &[u8]) -> Option<ByteRequest<'_>> {
    let (input, rest) = fixed::<abi::CreateIn>(arguments)?;
    Some(ByteRequest::Create {
        name: match code {
            opcode::CREATE => Some(name(rest)?),
            _ => None,
        },
        creation: Creation {
            mode: input.mode,
            umask: input.umask,
            flags: input.flags as i32,
        },
    })
}

fn write(arguments: &[u8]) -> Option<ByteRequest<'_>> {
    let (input, rest) = fixed::<abi::WriteIn>(arguments)?;
    Some(ByteRequest::Write {
        handle: HandleId(input.handle),
        write: Write {
            data: rest.get(..input.size_bytes as usize)?,
            offset: input.offset,
            flags: input.flags as i32,
            from_pages: input.write_flags & abi::WRITE_FROM_PAGES != 0,
            kills_set_id: input.write_flags & abi::WRITE_KILLS_SET_ID != 0,
        },
    })
}

fn allocation(input: &abi::FallocateIn) -> ByteRequest<'static> {
    ByteRequest::Allocate {
        handle: HandleId(input.handle),
        mode: input.mode as i32,
        range: ByteRange::at(input.offset, input.length_bytes),
    }
}

fn copy(code: u32, input: &abi::CopyFileRangeIn) -> ByteRequest<'static> {
    let wide = code == opcode::COPY_FILE_RANGE_64;
    let room_bytes = if wide { u64::MAX } else { u32::MAX.into() };
    ByteRequest::CopyRange {
        copy: RangeCopy {
            from: HandleId(input.from),
            from_offset: input.from_offset,
            to: HandleId(input.to),
            to_offset: input.to_offset,
            length_bytes: input.length_bytes.min(room_bytes),
        },
        wide,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn write_request(size_bytes: u32, data: &[u8]) -> Vec<u8> {
        let input = abi::WriteIn {
            handle: 7,
            offset: 9,
            size_bytes,
            write_flags: abi::WRITE_FROM_PAGES,
            lock_owner: 0,
            flags: libc::O_APPEND as u32,
            padding: 0,
        };
        [input.as_bytes(), data].concat()
    }

    #[test]
    fn a_write_gives_as_many_bytes_as_it_says_and_none_where_there_are_fewer() {
        let bytes = write_request(3, b"abcd");
        let Some(Some(ByteRequest::Write { handle, write })) = arguments_of(opcode::WRITE, &bytes)
        else {
            panic!("a write decodes");
        };
        assert_eq!((handle, write.offset), (HandleId(7), 9));
        assert_eq!((write.data, write.from_pages), (&b"abc"[..], true));
        let bytes = write_request(5, b"abcd");
        assert_eq!(arguments_of(opcode::WRITE, &bytes), Some(None));
    }

    #[test]
    fn a_narrow_copy_asks_for_no_more_than_its_answer_can_tell() {
        let input = abi::CopyFileRangeIn {
            from: 1,
            from_offset: 2,
            to_node: 3,
            to: 4,
            to_offset: 5,
            length_bytes: 1 << 40,
            flags: 0,
        };
        for (code, length) in [
            (opcode::COPY_FILE_RANGE, u64::from(u32::MAX)),
            (opcode::COPY_FILE_RANGE_64, 1 << 40),
        ] {
            let decoded = arguments_of(code, input.as_bytes());
            let Some(Some(ByteRequest::CopyRange { copy, .. })) = decoded else {
                panic!("a copy decodes");
            };
            assert_eq!(copy.length_bytes, length);
        }
    }

    #[test]
    fn a_file_without_a_name_is_one_that_asks_for_none() {
        let input = abi::CreateIn {
            flags: 0,
            mode: 0,
            umask: 0,
            open_flags: 0,
        };
        let unnamed = arguments_of(opcode::TMPFILE, input.as_bytes());
        assert!(matches!(
            unnamed,
            Some(Some(ByteRequest::Create { name: None, .. }))
        ));
        assert_eq!(arguments_of(opcode::CREATE, input.as_bytes()), Some(None));
    }
}
