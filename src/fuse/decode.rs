//! Bytes from the kernel to a [`Request`]. Pure; every length is checked, no input panics.

use super::abi::{self, opcode};
use super::bytes::{self, ByteRequest};
use super::locks::{self, LockCall};
use super::names::{self, NameRequest};
use crate::types::{Caller, HandleId, NodeId};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What every request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub unique: u64,
    pub node: NodeId,
    pub caller: Caller,
}

/// One request. Names and lists borrow from the bytes read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Lookup {
        name: &'a OsStr,
    },
    /// Never answered.
    Forget {
        lookups: u64,
    },
    /// Never answered.
    BatchForget(&'a [u8]),
    Attributes {
        handle: Option<HandleId>,
    },
    ReadLink,
    Open {
        flags: i32,
    },
    Read {
        handle: HandleId,
        offset: u64,
        size_bytes: usize,
    },
    Release {
        handle: HandleId,
    },
    OpenDirectory,
    ReadDirectory {
        handle: HandleId,
        offset: u64,
        size_bytes: usize,
        with_attributes: bool,
    },
    ReleaseDirectory {
        handle: HandleId,
    },
    Space,
    /// `size_bytes` zero asks for the size.
    ListXattr {
        size_bytes: usize,
    },
    GetXattr {
        name: &'a OsStr,
        size_bytes: usize,
    },
    Seek {
        handle: HandleId,
        offset: u64,
        whence: i32,
    },
    /// Ends the request of this number. Never answered.
    Interrupt {
        unique: u64,
    },
    /// Changes bytes.
    Bytes(ByteRequest<'a>),
    /// Changes names or attributes.
    Names(NameRequest<'a>),
    Locks(LockCall),
    /// Succeeds without work: with nothing written there is nothing to flush or to sync.
    Acknowledge,
    /// Refused with this errno.
    Refuse(i32),
    /// Needs neither work nor answer.
    Ignore,
}

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a request of {0} bytes is shorter than its header or than it says")]
    Truncated(usize),
    #[error("request {unique} (opcode {opcode}) has malformed arguments")]
    Malformed { unique: u64, opcode: u32 },
}

/// Decodes one request as read from the device.
pub fn decode(bytes: &[u8]) -> Result<(Header, Request<'_>), DecodeError> {
    let (raw, rest) =
        abi::InHeader::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated(bytes.len()))?;
    let extensions_bytes = usize::from(raw.extensions_8_bytes) * 8;
    let arguments_bytes = (raw.length_bytes as usize)
        .checked_sub(size_of::<abi::InHeader>())
        .and_then(|length| length.checked_sub(extensions_bytes));
    let arguments = arguments_bytes
        .and_then(|length| rest.get(..length))
        .ok_or(DecodeError::Truncated(bytes.len()))?;
    let header = Header {
        unique: raw.unique,
        node: NodeId(raw.node),
        caller: Caller {
            uid: raw.uid,
            gid: raw.gid,
            pid: raw.pid,
        },
    };
    let request = arguments_of(raw.opcode, arguments).ok_or(DecodeError::Malformed {
        unique: raw.unique,
        opcode: raw.opcode,
    })?;
    Ok((header, request))
}

fn arguments_of(code: u32, arguments: &[u8]) -> Option<Request<'_>> {
    if let Some(decoded) = bytes::decode::arguments_of(code, arguments) {
        return decoded.map(Request::Bytes);
    }
    if let Some(decoded) = names::decode::arguments_of(code, arguments) {
        return decoded.map(Request::Names);
    }
    if let Some(decoded) = locks::decode::arguments_of(code, arguments) {
        return decoded.map(Request::Locks);
    }
    Some(match code {
        opcode::LOOKUP => Request::Lookup {
            name: name(arguments)?,
        },
        opcode::FORGET => Request::Forget {
            lookups: fixed::<abi::ForgetIn>(arguments)?.0.lookups,
        },
        opcode::BATCH_FORGET => {
            let (head, list) = fixed::<abi::BatchForgetIn>(arguments)?;
            let list_bytes = (head.count as usize).checked_mul(size_of::<abi::ForgetOne>())?;
            Request::BatchForget(list.get(..list_bytes)?)
        }
        opcode::GETATTR => {
            let (input, _) = fixed::<abi::GetattrIn>(arguments)?;
            let has_handle = input.flags & abi::GETATTR_HAS_HANDLE != 0;
            Request::Attributes {
                handle: has_handle.then_some(HandleId(input.handle)),
            }
        }
        opcode::READLINK => Request::ReadLink,
        opcode::OPEN => Request::Open {
            flags: fixed::<abi::OpenIn>(arguments)?.0.flags as i32,
        },
        opcode::READ => {
            let (input, _) = fixed::<abi::ReadIn>(arguments)?;
            Request::Read {
                handle: HandleId(input.handle),
                offset: input.offset,
                size_bytes: input.size_bytes as usize,
            }
        }
        opcode::RELEASE => Request::Release {
            handle: HandleId(fixed::<abi::ReleaseIn>(arguments)?.0.handle),
        },
        opcode::OPENDIR => Request::OpenDirectory,
        opcode::READDIR | opcode::READDIRPLUS => {
            let (input, _) = fixed::<abi::ReadIn>(arguments)?;
            Request::ReadDirectory {
                handle: HandleId(input.handle),
                offset: input.offset,
                size_bytes: input.size_bytes as usize,
                with_attributes: code == opcode::READDIRPLUS,
            }
        }
        opcode::RELEASEDIR => Request::ReleaseDirectory {
            handle: HandleId(fixed::<abi::ReleaseIn>(arguments)?.0.handle),
        },
        opcode::STATFS => Request::Space,
        opcode::LISTXATTR => Request::ListXattr {
            size_bytes: fixed::<abi::GetxattrIn>(arguments)?.0.size_bytes as usize,
        },
        opcode::GETXATTR => {
            let (input, rest) = fixed::<abi::GetxattrIn>(arguments)?;
            Request::GetXattr {
                name: name(rest)?,
                size_bytes: input.size_bytes as usize,
            }
        }
        opcode::LSEEK => {
            let (input, _) = fixed::<abi::LseekIn>(arguments)?;
            Request::Seek {
                handle: HandleId(input.handle),
                offset: input.offset,
                whence: input.whence as i32,
            }
        }
        opcode::INTERRUPT => Request::Interrupt {
            unique: fixed::<abi::InterruptIn>(arguments)?.0.unique,
        },
        opcode::DESTROY => Request::Acknowledge,
        opcode::IOCTL => Request::Refuse(libc::ENOTTY),
        opcode::NOTIFY_REPLY => Request::Ignore,
        // ENOSYS makes the kernel stop asking and do without: ACCESS (it checks by itself), POLL, BMAP, STATX (falls back to GETATTR).
        _ => Request::Refuse(libc::ENOSYS),
    })
}

/// The entries of a [`Request::BatchForget`].
pub fn forgotten(list: &[u8]) -> impl Iterator<Item = abi::ForgetOne> + '_ {
    list.chunks_exact(size_of::<abi::ForgetOne>())
        .filter_map(|chunk| abi::ForgetOne::read_from_bytes(chunk).ok())
}

pub(super) fn fixed<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}

/// A name up to its zero byte; an empty one is malformed.
pub(super) fn name(bytes: &[u8]) -> Option<&OsStr> {
    name_and_rest(bytes).map(|(name, _)| name)
}

/// A name up to its zero byte, and what comes after.
pub(super) fn name_and_rest(bytes: &[u8]) -> Option<(&OsStr, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    (end > 0).then(|| (OsStr::from_bytes(&bytes[..end]), &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn request(code: u32, arguments: &[u8], extensions: &[u8]) -> Vec<u8> {
        let length = size_of::<abi::InHeader>() + arguments.len() + extensions.len();
        let header = abi::InHeader {
            length_bytes: length as u32,
            opcode: code,
            unique: 42,
            node: 7,
            uid: 1,
            gid: 2,
            pid: 3,
            extensions_8_bytes: (extensions.len() / 8) as u16,
            padding: 0,
        };
        [header.as_bytes(), arguments, extensions].concat()
    }

    #[test]
    fn a_lookup_gives_its_name_without_the_extensions() {
        let bytes = request(opcode::LOOKUP, b"a\xffb\0", &[1; 8]);
        let (header, request) = decode(&bytes).unwrap();
        assert_eq!(header.unique, 42);
        assert_eq!(header.node, NodeId(7));
        assert_eq!((header.caller.uid, header.caller.pid), (1, 3));
        assert_eq!(
            request,
            Request::Lookup {
                name: OsStr::from_bytes(b"a\xffb")
            }
        );
    }

    #[test]
    fn a_name_without_end_or_empty_is_malformed() {
        for arguments in [&b"abc"[..], &b"\0"[..], &b""[..]] {
            let bytes = request(opcode::LOOKUP, arguments, &[]);
            assert!(matches!(
                decode(&bytes),
                Err(DecodeError::Malformed { unique: 42, .. })
            ));
        }
    }

    #[test]
    fn a_batch_that_claims_more_than_it_holds_is_malformed() {
        let one = abi::ForgetOne {
            node: 5,
            lookups: 2,
        };
        let batch = |count| {
            let head = abi::BatchForgetIn { count, padding: 0 };
            let arguments = [head.as_bytes(), one.as_bytes()].concat();
            request(opcode::BATCH_FORGET, &arguments, &[])
        };
        let bytes = batch(1);
        let Ok((_, Request::BatchForget(list))) = decode(&bytes) else {
            panic!("one entry decodes");
        };
        assert_eq!(forgotten(list).collect::<Vec<_>>(), vec![one]);
        assert!(decode(&batch(2)).is_err());
        assert!(decode(&batch(u32::MAX)).is_err());
    }

    #[test]
    fn a_cut_request_is_an_error_at_every_length() {
        let input = abi::ReadIn {
            handle: 1,
            offset: 2,
            size_bytes: 3,
            read_flags: 0,
            lock_owner: 0,
            flags: 0,
            padding: 0,
        };
        let bytes = request(opcode::READ, input.as_bytes(), &[]);
        assert!(decode(&bytes).is_ok());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn changes_of_names_and_of_bytes_are_told_apart_and_the_unknown_is_enosys() {
        let flush = [0; 24];
        let bytes = request(opcode::FLUSH, &flush, &[]);
        assert!(matches!(decode(&bytes).unwrap().1, Request::Bytes(_)));
        let bytes = request(opcode::UNLINK, b"name\0", &[]);
        assert!(matches!(decode(&bytes).unwrap().1, Request::Names(_)));
        for code in [0, 34, 37, 40, 52, 4096, u32::MAX] {
            let bytes = request(code, &[], &[]);
            assert_eq!(decode(&bytes).unwrap().1, Request::Refuse(libc::ENOSYS));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            code in 0u32..60,
            arguments in proptest::collection::vec(any::<u8>(), 0..128),
            extensions in 0u16..40,
            noise in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let mut bytes = request(code, &arguments, &[]);
            bytes[36..38].copy_from_slice(&extensions.to_ne_bytes());
            if let Ok((_, Request::BatchForget(list))) = decode(&bytes) {
                prop_assert_eq!(forgotten(list).count() * 16, list.len());
            }
            let _ = decode(&noise);
        }
    }
}
