//! Which journal a device belongs to: the head, a small file of its own (docs/ON_DISK_FORMAT.md draws it).

use super::JournalError;
use super::checksum::crc32c;
use crate::io::{Io, OpenMode};
use crate::types::codec::{Reader, Writer};
use std::io;

/// The format this program writes, and the only one it reads.
pub const JOURNAL_FORMAT: u16 = 1;

pub const HEAD_FILE: &str = "journal.head";
const HEAD_FILE_NEW: &str = "journal.head.new";
const MAGIC: &[u8] = b"nfs-cachefs journal\n";
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Which devices hold a journal, and which of them this one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Names the journal, at random.
    pub journal: [u8; 16],
    /// Goes up when a device is lost or replaced.
    pub epoch: u64,
    /// The devices that take part in this epoch, a bit each.
    pub device_set: u64,
    pub data_shards: u8,
    pub parity_shards: u8,
    /// Which of the shards of each batch lies here.
    pub shard_index: u8,
}

impl Membership {
    /// A journal on one device: k + m = 1 + 0.
    pub fn alone(journal: [u8; 16]) -> Self {
        Self {
            journal,
            epoch: 1,
            device_set: 1,
            data_shards: 1,
            parity_shards: 0,
            shard_index: 0,
        }
    }
}

/// What a device says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub membership: Membership,
    pub segment_bytes: u64,
    /// The key of the backend's root: what is in the journal goes nowhere else.
    pub backend: Vec<u8>,
    /// The backend as it was named, for messages.
    pub backend_name: String,
}

/// What a directory is, as far as it may be used.
#[derive(Debug)]
pub enum Found {
    Journal(Head),
    Empty,
}

/// Looks at a directory. Changes nothing.
pub fn look_at(io: &dyn Io) -> Result<Found, JournalError> {
    match io.open(HEAD_FILE, OpenMode::Read) {
        Ok(file) => {
            let length = (file.facts()?.size_bytes as usize).min(HEAD_BYTES_MAX);
            let mut bytes = vec![0; length];
            let read = file.read_at(&mut bytes, 0)?;
            Ok(Found::Journal(decode(&bytes[..read])?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut foreign = None;
            io.list(".", &mut |name| {
                let ours = ["lost+found", HEAD_FILE_NEW, "lock", super::segments::FOLDER];
                if !ours.contains(&name) && !name.starts_with(".probe-") {
                    foreign = Some(name.to_owned());
                }
                foreign.is_none()
            })?;
            match foreign {
                Some(found) => Err(JournalError::Foreign { found }),
                None => Ok(Found::Empty),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes an empty directory a journal. Durable when it returns.
pub fn write(io: &dyn Io, head: &Head) -> io::Result<()> {
    let _ = io.remove_file(HEAD_FILE_NEW);
    let file = io.open(HEAD_FILE_NEW, OpenMode::CreateNew)?;
    file.write_all_at(&encode(head), 0)?;
    file.sync_data()?;
    drop(file);
    io.rename(HEAD_FILE_NEW, HEAD_FILE)?;
    io.sync_directory(".")
}

fn encode(head: &Head) -> Vec<u8> {
    let membership = &head.membership;
    let body = Writer::default()
        .u16(JOURNAL_FORMAT)
        .u8(membership.data_shards)
        .u8(membership.parity_shards)
        .u8(membership.shard_index)
        .u8(0)
        .u16(0)
        .u64(membership.epoch)
        .u64(membership.device_set)
        .u64(head.segment_bytes)
        .text(&membership.journal)
        .text(&head.backend)
        .text(head.backend_name.as_bytes())
        .0;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Head, JournalError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(JournalError::HeadDamaged)?;
    let mut reader = Reader(rest);
    let checksum = reader.u32().ok_or(JournalError::HeadDamaged)?;
    if checksum != crc32c(reader.0) {
        return Err(JournalError::HeadDamaged);
    }
    match reader.u16().ok_or(JournalError::HeadDamaged)? {
        JOURNAL_FORMAT => decode_body(reader).ok_or(JournalError::HeadDamaged),
        found => Err(JournalError::NewerFormat { found }),
    }
}

fn decode_body(mut reader: Reader<'_>) -> Option<Head> {
    let (data_shards, parity_shards) = (reader.u8()?, reader.u8()?);
    let shard_index = reader.u8()?;
    let _unused = (reader.u8()?, reader.u16()?);
    let (epoch, device_set) = (reader.u64()?, reader.u64()?);
    let segment_bytes = reader.u64()?;
    let journal = reader.text()?.try_into().ok()?;
    let backend = reader.text()?.to_vec();
    let backend_name = String::from_utf8_lossy(reader.text()?).into_owned();
    Some(Head {
        membership: Membership {
            journal,
            epoch,
            device_set,
            data_shards,
            parity_shards,
            shard_index,
        },
        segment_bytes,
        backend,
        backend_name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::simulator::Simulation;

    fn head() -> Head {
        Head {
            membership: Membership::alone([3; 16]),
            segment_bytes: 8 << 20,
            backend: vec![1, 2, 3],
            backend_name: "/somewhere".to_owned(),
        }
    }

    #[test]
    fn a_head_comes_back_and_every_flipped_bit_and_cut_is_noticed() {
        let bytes = encode(&head());
        assert_eq!(decode(&bytes).expect("it is whole"), head());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let mut bytes = encode(&head());
        let body = MAGIC.len() + 4;
        bytes[body..body + 2].copy_from_slice(&9u16.to_le_bytes());
        let sum = crc32c(&bytes[body..]);
        bytes[body - 4..body].copy_from_slice(&sum.to_le_bytes());
        let refused = decode(&bytes);
        assert!(matches!(
            refused,
            Err(JournalError::NewerFormat { found: 9 })
        ));
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let simulation = Simulation::deterministic(1);
        let disk = simulation.device("journal");
        assert!(matches!(look_at(&*disk), Ok(Found::Empty)));
        drop(disk.open("letter", OpenMode::CreateNew));
        let refused = look_at(&*disk);
        assert!(matches!(refused, Err(JournalError::Foreign { found }) if found == "letter"));
        disk.remove_file("letter").expect("it is there");
        write(&*disk, &head()).expect("there is room");
        assert!(matches!(look_at(&*disk), Ok(Found::Journal(found)) if found == head()));
    }
}
