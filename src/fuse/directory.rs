//! Directory listings as READDIR and READDIRPLUS want them: records padded to 8 bytes. Pure.

use super::{abi, encode};
use crate::fs::operations::{DirectoryBudget, DirectoryItem};
use crate::types::NodeId;
use std::os::unix::ffi::OsStrExt;
use zerocopy::IntoBytes;

/// What fits into a reply of `size_bytes`.
pub fn budget(size_bytes: usize, with_attributes: bool) -> DirectoryBudget {
    DirectoryBudget {
        total_bytes: size_bytes,
        entry_overhead_bytes: overhead_bytes(with_attributes),
    }
}

fn overhead_bytes(with_attributes: bool) -> usize {
    size_of::<abi::Dirent>()
        + if with_attributes {
            size_of::<abi::EntryOut>()
        } else {
            0
        }
}

/// A packed listing.
pub struct Packed {
    pub bytes: Vec<u8>,
    /// Nodes of items that did not fit: the kernel never hears of their lookups.
    pub left_out: Vec<NodeId>,
}

/// Packs items until the next one would not fit.
pub fn pack(items: &[DirectoryItem], size_bytes: usize, with_attributes: bool) -> Packed {
    let mut bytes = Vec::with_capacity(size_bytes.min(items.len() * 256));
    let mut packed = 0;
    for item in items {
        let record_bytes = (overhead_bytes(with_attributes) + item.name.len())
            .next_multiple_of(abi::DIRENT_ALIGNMENT_BYTES);
        if bytes.len() + record_bytes > size_bytes {
            break;
        }
        let end = bytes.len() + record_bytes;
        if with_attributes {
            // A zeroed entry tells the kernel that the attributes were not to be had.
            let entry = item.entry.as_ref().map(encode::entry).unwrap_or_default();
            bytes.extend_from_slice(entry.as_bytes());
        }
        let dirent = abi::Dirent {
            inode: item.inode,
            next_offset: item.next_offset,
            name_bytes: item.name.len() as u32,
            kind: item.kind.mode_bits() >> 12,
        };
        bytes.extend_from_slice(dirent.as_bytes());
        bytes.extend_from_slice(item.name.as_bytes());
        bytes.resize(end, 0);
        packed += 1;
    }
    let left_out = items[packed..]
        .iter()
        .filter_map(|item| item.entry.as_ref().map(|entry| entry.node))
        .collect();
    Packed { bytes, left_out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::operations::Entry;
    use crate::types::{Attributes, FileKind, Timestamp};
    use proptest::prelude::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;
    use zerocopy::FromBytes;

    fn item(number: u64, name: Vec<u8>) -> DirectoryItem {
        let attributes = Attributes {
            inode: number,
            kind: FileKind::Regular,
            permissions: 0o644,
            link_count: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size_bytes: number,
            blocks_512: 0,
            block_size_bytes: 4096,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
        };
        DirectoryItem {
            name: OsString::from_vec(name),
            inode: number,
            kind: FileKind::Regular,
            next_offset: number + 1,
            entry: Some(Entry {
                node: NodeId(number + 100),
                generation: 0,
                attributes,
                entry_ttl: Duration::from_secs(1),
                attribute_ttl: Duration::from_secs(1),
            }),
        }
    }

    /// Reads a listing as the kernel does.
    fn unpack(mut bytes: &[u8], with_attributes: bool) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let mut record_bytes = 0;
            let mut rest = bytes;
            if with_attributes {
                let (entry, after) = abi::EntryOut::read_from_prefix(rest).unwrap();
                assert_eq!(entry.node, entry.attributes.inode + 100);
                record_bytes += size_of_val(&entry);
                rest = after;
            }
            let (dirent, rest) = abi::Dirent::read_from_prefix(rest).unwrap();
            let name = rest[..dirent.name_bytes as usize].to_vec();
            record_bytes += size_of_val(&dirent) + name.len();
            found.push((dirent.inode, name));
            bytes = &bytes[record_bytes.next_multiple_of(8)..];
        }
        found
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_back_and_the_rest_is_left_out(
            names in proptest::collection::vec(proptest::collection::vec(1u8..=255, 1..=255), 0..40),
            size_bytes in 0usize..8192,
            with_attributes: bool,
        ) {
            let items: Vec<_> = names.into_iter().enumerate()
                .map(|(number, name)| item(number as u64, name)).collect();
            let packed = pack(&items, size_bytes, with_attributes);
            prop_assert!(packed.bytes.len() <= size_bytes);
            let found = unpack(&packed.bytes, with_attributes);
            prop_assert_eq!(found.len() + packed.left_out.len(), items.len());
            for (number, (inode, name)) in found.iter().enumerate() {
                prop_assert_eq!(*inode, number as u64);
                prop_assert_eq!(name.as_slice(), items[number].name.as_bytes());
            }
        }
    }
}
