//! The requests that change bytes. Pure, as `decode`.

use super::abi::{self, opcode};
use super::decode::{Request, fixed, name};
use crate::fs::operations::{Creation, RangeCopy, Write};
use crate::types::{ByteRange, HandleId};

/// `None`: malformed, or none of these.
pub(super) fn arguments_of(code: u32, arguments: &[u8]) -> Option<Request<'_>> {
    Some(match code {
        opcode::CREATE | opcode::TMPFILE => create(code, arguments)?,
        opcode::WRITE => write(arguments)?,
        opcode::FLUSH => Request::Flush {
            handle: HandleId(fixed::<abi::FlushIn>(arguments)?.0.handle),
        },
        opcode::FSYNC => {
            let (input, _) = fixed::<abi::FsyncIn>(arguments)?;
            Request::Fsync {
                handle: HandleId(input.handle),
                data_only: input.fsync_flags & abi::FSYNC_DATA_ONLY != 0,
            }
        }
        opcode::FALLOCATE => {
            let (input, _) = fixed::<abi::FallocateIn>(arguments)?;
            Request::Allocate {
                handle: HandleId(input.handle),
                mode: input.mode as i32,
                range: ByteRange::at(input.offset, input.length_bytes),
            }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => copy(code, arguments)?,
        _ => return None,
    })
}

fn create(code: u32, arguments: &[u8]) -> Option<Request<'_>> {
    let (input, rest) = fixed::<abi::CreateIn>(arguments)?;
    Some(Request::Create {
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

fn write(arguments: &[u8]) -> Option<Request<'_>> {
    let (input, rest) = fixed::<abi::WriteIn>(arguments)?;
    Some(Request::Write {
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

fn copy(code: u32, arguments: &[u8]) -> Option<Request<'_>> {
    let (input, _) = fixed::<abi::CopyFileRangeIn>(arguments)?;
    let wide = code == opcode::COPY_FILE_RANGE_64;
    let room_bytes = if wide { u64::MAX } else { u32::MAX.into() };
    Some(Request::CopyRange {
        copy: RangeCopy {
            from: HandleId(input.from),
            from_offset: input.from_offset,
            to: HandleId(input.to),
            to_offset: input.to_offset,
            length_bytes: input.length_bytes.min(room_bytes),
        },
        wide,
    })
}
