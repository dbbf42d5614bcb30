//! What we answer, as the kernel's structures. Pure.

use super::abi;
use crate::fs::operations::{AttributesReply, Created, Entry, LookupReply, OpenReply, SpaceReply};
use crate::types::{Attributes, ByteRange, NodeId};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use zerocopy::IntoBytes;

/// The header of a reply with `payload_bytes` behind it. `errno` is zero or positive.
pub fn reply_header(unique: u64, errno: i32, payload_bytes: usize) -> abi::OutHeader {
    abi::OutHeader {
        length_bytes: total_bytes(payload_bytes),
        error: -errno,
        unique,
    }
}

fn notification_header(code: i32, payload_bytes: usize) -> abi::OutHeader {
    abi::OutHeader {
        length_bytes: total_bytes(payload_bytes),
        error: code,
        unique: 0,
    }
}

fn total_bytes(payload_bytes: usize) -> u32 {
    u32::try_from(size_of::<abi::OutHeader>() + payload_bytes)
        .expect("a reply is never larger than a request allows, a few MiB")
}

pub fn attributes(attributes: &Attributes) -> abi::Attr {
    abi::Attr {
        inode: attributes.inode,
        size_bytes: attributes.size_bytes,
        blocks_512: attributes.blocks_512,
        // Times before 1970 travel in two's complement.
        atime_seconds: attributes.atime.seconds as u64,
        mtime_seconds: attributes.mtime.seconds as u64,
        ctime_seconds: attributes.ctime.seconds as u64,
        atime_nanoseconds: attributes.atime.nanoseconds,
        mtime_nanoseconds: attributes.mtime.nanoseconds,
        ctime_nanoseconds: attributes.ctime.nanoseconds,
        mode: attributes.kind.mode_bits() | (attributes.permissions & 0o7777),
        link_count: attributes.link_count,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        block_size_bytes: attributes.block_size_bytes,
        flags: 0,
    }
}

pub fn attributes_out(reply: &AttributesReply) -> abi::AttrOut {
    abi::AttrOut {
        valid_seconds: reply.ttl.as_secs(),
        valid_nanoseconds: reply.ttl.subsec_nanos(),
        padding: 0,
        attributes: attributes(&reply.attributes),
    }
}

pub fn entry(entry: &Entry) -> abi::EntryOut {
    abi::EntryOut {
        node: entry.node.0,
        generation: entry.generation,
        entry_valid_seconds: entry.entry_ttl.as_secs(),
        attributes_valid_seconds: entry.attribute_ttl.as_secs(),
        entry_valid_nanoseconds: entry.entry_ttl.subsec_nanos(),
        attributes_valid_nanoseconds: entry.attribute_ttl.subsec_nanos(),
        attributes: attributes(&entry.attributes),
    }
}

/// The answer to a lookup; `None` where it is a plain ENOENT.
pub fn lookup(reply: &LookupReply) -> Option<abi::EntryOut> {
    match reply {
        LookupReply::Found(found) => Some(entry(found)),
        LookupReply::Absent { ttl } if *ttl == Duration::ZERO => None,
        LookupReply::Absent { ttl } => Some(abi::EntryOut {
            entry_valid_seconds: ttl.as_secs(),
            entry_valid_nanoseconds: ttl.subsec_nanos(),
            ..Default::default()
        }),
    }
}

pub fn open(reply: &OpenReply) -> abi::OpenOut {
    let mut flags = 0;
    if !reply.told_of_close {
        // Closing it has nothing to wait for: the kernel need not ask.
        flags |= abi::OPEN_NO_FLUSH;
    }
    if reply.direct_io {
        flags |= abi::OPEN_DIRECT_IO | abi::OPEN_PARALLEL_DIRECT_WRITES;
    }
    let mut backing_id = 0;
    match &reply.passthrough {
        // The kernel refuses KEEP_CACHE on a passthrough open: there is no cache to keep.
        Some(backing) => {
            flags |= abi::OPEN_PASSTHROUGH;
            backing_id = backing.id();
        }
        None if reply.keep_cache => flags |= abi::OPEN_KEEP_CACHE,
        None => {}
    }
    abi::OpenOut {
        handle: reply.handle.0,
        flags,
        backing_id,
    }
}

/// The answer to CREATE: an entry, then what an open answers.
pub fn created(reply: &Created) -> Vec<u8> {
    let (entry, open) = (entry(&reply.entry), open(&reply.open));
    [entry.as_bytes(), open.as_bytes()].concat()
}

pub fn space(reply: &SpaceReply) -> abi::StatfsOut {
    abi::StatfsOut {
        blocks: reply.blocks,
        blocks_free: reply.blocks_free,
        blocks_available: reply.blocks_available,
        files: reply.files,
        files_free: reply.files_free,
        block_size_bytes: reply.block_size_bytes,
        name_length_max: reply.name_length_max,
        fragment_size_bytes: reply.fragment_size_bytes,
        padding: 0,
        spare: [0; 6],
    }
}

/// Which part of a node the kernel is to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodePart {
    AttributesAndPages,
    /// Attributes, and the pages of a range that is not empty.
    Pages(ByteRange),
    AttributesOnly,
}

/// FUSE_NOTIFY_INVAL_INODE, header included.
pub fn invalidate_node(node: NodeId, part: NodePart) -> Vec<u8> {
    let (offset, length_bytes) = match part {
        NodePart::AttributesAndPages => (0, 0),
        NodePart::Pages(range) => (range.start as i64, range.length_bytes() as i64),
        NodePart::AttributesOnly => (-1, 0),
    };
    let body = abi::InvalidateInodeOut {
        node: node.0,
        offset,
        length_bytes,
    };
    let header = notification_header(abi::notify::INVAL_INODE, body.as_bytes().len());
    [header.as_bytes(), body.as_bytes()].concat()
}

/// FUSE_NOTIFY_INVAL_ENTRY, header included.
pub fn invalidate_entry(parent: NodeId, name: &OsStr) -> Vec<u8> {
    let body = abi::InvalidateEntryOut {
        parent: parent.0,
        name_bytes: name.len() as u32,
        flags: 0,
    };
    let payload_bytes = body.as_bytes().len() + name.len() + 1;
    let header = notification_header(abi::notify::INVAL_ENTRY, payload_bytes);
    [header.as_bytes(), body.as_bytes(), name.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::operations::BackingId;
    use crate::types::HandleId;
    use std::sync::Arc;

    struct Seven;
    impl BackingId for Seven {
        fn id(&self) -> u32 {
            7
        }
    }

    fn open_reply(keep_cache: bool, passthrough: bool) -> OpenReply {
        OpenReply {
            handle: HandleId(3),
            direct_io: false,
            keep_cache,
            passthrough: passthrough.then(|| Arc::new(Seven) as Arc<dyn BackingId>),
            told_of_close: false,
        }
    }

    #[test]
    fn a_passthrough_open_never_asks_to_keep_the_cache() {
        let cached = open(&open_reply(true, false));
        assert_eq!(cached.flags & abi::OPEN_KEEP_CACHE, abi::OPEN_KEEP_CACHE);
        let passed = open(&open_reply(true, true));
        assert_eq!(passed.flags & abi::OPEN_KEEP_CACHE, 0);
        assert_eq!(passed.flags & abi::OPEN_PASSTHROUGH, abi::OPEN_PASSTHROUGH);
        assert_eq!(passed.backing_id, 7);
    }

    #[test]
    fn absence_is_remembered_only_for_a_time() {
        assert!(
            lookup(&LookupReply::Absent {
                ttl: Duration::ZERO
            })
            .is_none()
        );
        let remembered = lookup(&LookupReply::Absent {
            ttl: Duration::from_millis(2500),
        })
        .unwrap();
        assert_eq!(remembered.node, 0);
        assert_eq!(remembered.entry_valid_seconds, 2);
        assert_eq!(remembered.entry_valid_nanoseconds, 500_000_000);
    }

    #[test]
    fn a_notification_says_its_length_and_ends_its_name() {
        let bytes = invalidate_entry(NodeId(9), OsStr::new("name"));
        assert_eq!(bytes.len(), 16 + 16 + 5);
        assert_eq!(bytes[..4], 37u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 3i32.to_ne_bytes());
        assert_eq!(&bytes[32..], b"name\0");
        let bytes = invalidate_node(NodeId(9), NodePart::AttributesOnly);
        assert_eq!(bytes[24..32], (-1i64).to_ne_bytes());
    }
}
