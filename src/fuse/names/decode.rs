//! Bytes to a [`NameRequest`]. Pure; every length is checked, no input panics.

use super::abi::{self, valid};
use crate::fuse::abi::opcode;
use crate::fuse::decode::{fixed, name, name_and_rest};
use crate::types::{
    AttributeChange, HandleId, NewNode, NodeId, Removal, RenameMode, TimeChange, Timestamp,
};
use std::ffi::{OsStr, OsString};

/// A request that changes names or attributes. The node of the header is the directory, or the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRequest<'a> {
    Make {
        name: &'a OsStr,
        new: NewNode,
    },
    Link {
        node: NodeId,
        name: &'a OsStr,
    },
    Remove {
        name: &'a OsStr,
        removal: Removal,
    },
    Rename {
        name: &'a OsStr,
        new_parent: NodeId,
        new_name: &'a OsStr,
        mode: RenameMode,
    },
    SetAttributes {
        handle: Option<HandleId>,
        size_bytes: Option<u64>,
        change: AttributeChange,
    },
    SetXattr {
        name: &'a OsStr,
        value: &'a [u8],
        flags: i32,
    },
    RemoveXattr {
        name: &'a OsStr,
    },
    SyncDirectory,
    SyncFilesystem,
    /// Flags of renameat2(2) that no filesystem here has.
    Unsupported,
}

/// `None` where the arguments are malformed; the outer one where the code is of another kind.
pub fn arguments_of(code: u32, arguments: &[u8]) -> Option<Option<NameRequest<'_>>> {
    Some(match code {
        opcode::MKNOD => node(arguments),
        opcode::MKDIR => directory(arguments),
        opcode::SYMLINK => symlink(arguments),
        opcode::LINK => link(arguments),
        opcode::UNLINK => removal(arguments, Removal::File),
        opcode::RMDIR => removal(arguments, Removal::Directory),
        opcode::RENAME => fixed::<abi::RenameIn>(arguments)
            .and_then(|(input, names)| rename(input.new_parent, 0, names)),
        opcode::RENAME2 => fixed::<abi::Rename2In>(arguments)
            .and_then(|(input, names)| rename(input.new_parent, input.flags, names)),
        opcode::SETATTR => fixed(arguments).map(|(input, _)| set_attributes(&input)),
        opcode::SETXATTR => set_xattr(arguments),
        opcode::REMOVEXATTR => name(arguments).map(|name| NameRequest::RemoveXattr { name }),
        opcode::FSYNCDIR => Some(NameRequest::SyncDirectory),
        opcode::SYNCFS => Some(NameRequest::SyncFilesystem),
        _ => return None,
    })
}

fn node(arguments: &[u8]) -> Option<NameRequest<'_>> {
    let (input, rest) = fixed::<abi::MknodIn>(arguments)?;
    Some(NameRequest::Make {
        name: name(rest)?,
        new: NewNode::Node {
            mode: input.mode,
            device: input.device,
            umask: input.umask,
        },
    })
}

fn directory(arguments: &[u8]) -> Option<NameRequest<'_>> {
    let (input, rest) = fixed::<abi::MkdirIn>(arguments)?;
    Some(NameRequest::Make {
        name: name(rest)?,
        new: NewNode::Directory {
            mode: input.mode,
            umask: input.umask,
        },
    })
}

fn symlink(arguments: &[u8]) -> Option<NameRequest<'_>> {
    let (link, rest) = name_and_rest(arguments)?;
    Some(NameRequest::Make {
        name: link,
        new: NewNode::Symlink {
            target: OsString::from(name(rest)?),
        },
    })
}

fn link(arguments: &[u8]) -> Option<NameRequest<'_>> {
    let (input, rest) = fixed::<abi::LinkIn>(arguments)?;
    Some(NameRequest::Link {
        node: NodeId(input.node),
        name: name(rest)?,
    })
}

fn removal(arguments: &[u8], removal: Removal) -> Option<NameRequest<'_>> {
    let name = name(arguments)?;
    Some(NameRequest::Remove { name, removal })
}

fn rename(new_parent: u64, flags: u32, names: &[u8]) -> Option<NameRequest<'_>> {
    let (old, rest) = name_and_rest(names)?;
    let new_name = name(rest)?;
    let mode = match flags {
        0 => RenameMode::Replace,
        libc::RENAME_NOREPLACE => RenameMode::NoReplace,
        libc::RENAME_EXCHANGE => RenameMode::Exchange,
        _ => return Some(NameRequest::Unsupported),
    };
    Some(NameRequest::Rename {
        name: old,
        new_parent: NodeId(new_parent),
        new_name,
        mode,
    })
}

fn set_attributes(input: &abi::SetattrIn) -> NameRequest<'static> {
    let has = |bit| input.valid & bit != 0;
    let access = (input.atime_seconds, input.atime_nanoseconds);
    let modify = (input.mtime_seconds, input.mtime_nanoseconds);
    NameRequest::SetAttributes {
        handle: has(valid::HANDLE).then_some(HandleId(input.handle)),
        size_bytes: has(valid::SIZE).then_some(input.size_bytes),
        change: AttributeChange {
            uid: has(valid::UID).then_some(input.uid),
            gid: has(valid::GID).then_some(input.gid),
            permissions: has(valid::MODE).then_some(input.mode & 0o7777),
            access_time: time(has(valid::ATIME), has(valid::ATIME_NOW), access),
            modify_time: time(has(valid::MTIME), has(valid::MTIME_NOW), modify),
        },
    }
}

fn time(is_set: bool, is_now: bool, (seconds, nanoseconds): (u64, u32)) -> TimeChange {
    match (is_set, is_now) {
        (false, _) => TimeChange::Keep,
        (true, true) => TimeChange::Now,
        (true, false) => TimeChange::To(Timestamp {
            // Times before 1970 travel in two's complement.
            seconds: seconds as i64,
            nanoseconds,
        }),
    }
}

fn set_xattr(arguments: &[u8]) -> Option<NameRequest<'_>> {
    let (input, rest) = fixed::<abi::SetxattrIn>(arguments)?;
    let (name, rest) = name_and_rest(rest)?;
    Some(NameRequest::SetXattr {
        name,
        value: rest.get(..input.size_bytes as usize)?,
        flags: input.flags as i32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn times_are_kept_set_or_now() {
        let input = abi::SetattrIn {
            valid: valid::ATIME | valid::ATIME_NOW | valid::MTIME | valid::MODE,
            mtime_seconds: -7i64 as u64,
            mtime_nanoseconds: 999_999_999,
            mode: libc::S_IFREG | 0o4711,
            ..Default::default()
        };
        let Some(Some(NameRequest::SetAttributes {
            handle,
            size_bytes,
            change,
        })) = arguments_of(opcode::SETATTR, input.as_bytes())
        else {
            panic!("it decodes");
        };
        assert_eq!((handle, size_bytes), (None, None));
        assert_eq!((change.uid, change.gid), (None, None));
        assert_eq!(change.permissions, Some(0o4711));
        assert_eq!(change.access_time, TimeChange::Now);
        let before_1970 = Timestamp {
            seconds: -7,
            nanoseconds: 999_999_999,
        };
        assert_eq!(change.modify_time, TimeChange::To(before_1970));
    }

    #[test]
    fn two_names_follow_one_another_and_a_whiteout_is_unsupported() {
        let rename = |flags| {
            let input = abi::Rename2In {
                new_parent: 9,
                flags,
                padding: 0,
            };
            [input.as_bytes(), b"old\0new\0"].concat()
        };
        let bytes = rename(libc::RENAME_EXCHANGE);
        let decoded = arguments_of(opcode::RENAME2, &bytes).expect("ours");
        let expected = NameRequest::Rename {
            name: OsStr::new("old"),
            new_parent: NodeId(9),
            new_name: OsStr::new("new"),
            mode: RenameMode::Exchange,
        };
        assert_eq!(decoded, Some(expected));
        let bytes = rename(libc::RENAME_WHITEOUT);
        let decoded = arguments_of(opcode::RENAME2, &bytes).expect("ours");
        assert_eq!(decoded, Some(NameRequest::Unsupported));
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(arguments_of(opcode::RENAME2, cut), Some(None));
    }

    #[test]
    fn a_value_longer_than_the_request_is_malformed() {
        let request = |size_bytes| {
            let input = abi::SetxattrIn {
                size_bytes,
                flags: 0,
            };
            [input.as_bytes(), b"user.a\0value"].concat()
        };
        let bytes = request(5);
        let decoded = arguments_of(opcode::SETXATTR, &bytes).expect("ours");
        let expected = NameRequest::SetXattr {
            name: OsStr::new("user.a"),
            value: b"value",
            flags: 0,
        };
        assert_eq!(decoded, Some(expected));
        assert_eq!(arguments_of(opcode::SETXATTR, &request(6)), Some(None));
    }
}
