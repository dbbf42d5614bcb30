//! Which journal a device belongs to: the head, a small file of its own (docs/ON_DISK_FORMAT.md draws it).

use super::JournalError;
use super::checksum::crc32c;
use super::frame::Sequence;
use super::stripe::Spread;
use crate::io::{Io, OpenMode};
use crate::types::codec::{Reader, Writer};
use std::io;

/// The format this program writes.
pub const JOURNAL_FORMAT: u16 = 2;
/// One device, and one epoch for ever; this program reads it, too.
pub const JOURNAL_FORMAT_ALONE: u16 = 1;

pub const HEAD_FILE: &str = "journal.head";
const HEAD_FILE_NEW: &str = "journal.head.new";
/// What may lie in a directory without a head: it was made and got no further, lost its head, or notes lie there that are
/// kept beside a journal.
const OURS: [&str; 6] = [
    "lost+found",
    HEAD_FILE_NEW,
    "lock",
    super::segments::FOLDER,
    "conflicts",
    "conflicts.new",
];
const MAGIC: &[u8] = b"nfs-cachefs journal\n";
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Whose header this is: of which journal, in which epoch of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Names the journal, at random.
    pub journal: [u8; 16],
    /// Goes up whenever the journal is opened, and when a device is lost or taken in.
    pub epoch: u64,
    /// The devices that take part in this epoch, a bit each.
    pub device_set: u64,
}

impl Membership {
    pub fn has(&self, device: u8) -> bool {
        self.device_set & 1 << device != 0
    }

    pub fn count(&self) -> usize {
        self.device_set.count_ones() as usize
    }
}

/// When an epoch began all batches up to `kept` were believed, and what earlier ones had written beyond was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    pub epoch: u64,
    pub kept: Sequence,
}

/// What a device says of itself and of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub membership: Membership,
    pub spread: Spread,
    /// Which of the devices this one is, from 0 on.
    pub device: u8,
    /// So many segments this device has at least; 0 where an earlier program wrote this.
    pub segments: u16,
    /// Of each device, the epoch that took it in: one that had its place before is told by an older one.
    pub joined: Vec<u64>,
    /// In the order of their epochs, as far as they say something that later ones do not.
    pub openings: Vec<Opening>,
    pub segment_bytes: u64,
    /// The key of the backend's root: what is in the journal goes nowhere else.
    pub backend: Vec<u8>,
    /// The backend as it was named, for messages.
    pub backend_name: String,
}

impl Head {
    /// Whether this device takes part in what another one, of the newest epoch, says of the journal.
    pub fn is_member(&self, newest: &Head) -> bool {
        let own = |head: &Head| head.joined.get(usize::from(self.device)).copied();
        newest.membership.has(self.device) && own(self) == own(newest)
    }

    /// Whether a batch that was written in an epoch was not cut off since.
    pub fn believes(&self, epoch: u64, sequence: Sequence) -> bool {
        let later = self.openings.iter().filter(|opening| opening.epoch > epoch);
        later
            .map(|opening| opening.kept)
            .min()
            .is_none_or(|kept| sequence <= kept)
    }

    /// Begins an epoch of those devices; beyond `kept` nothing older is believed, up to `trimmed` nothing is needed.
    pub fn open_epoch(&mut self, device_set: u64, kept: Sequence, trimmed: Sequence) {
        self.begin_epoch(device_set);
        let epoch = self.membership.epoch;
        self.openings.retain(|opening| opening.kept < kept);
        let over = self
            .openings
            .iter()
            .rposition(|opening| opening.kept <= trimmed);
        self.openings.drain(..over.unwrap_or(0));
        self.openings.push(Opening { epoch, kept });
    }

    /// Begins an epoch in which everything goes on as it was, but for the devices.
    pub fn begin_epoch(&mut self, device_set: u64) {
        self.membership.epoch += 1;
        self.membership.device_set = device_set;
    }
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
                if !OURS.contains(&name) && !name.starts_with(".probe-") {
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
        .u8(head.spread.data)
        .u8(head.spread.parity)
        .u8(head.device)
        .u8(0)
        .u16(head.segments)
        .u64(membership.epoch)
        .u64(membership.device_set)
        .u64(head.segment_bytes)
        .text(&membership.journal)
        .text(&head.backend)
        .text(head.backend_name.as_bytes())
        .u16(head.joined.len() as u16);
    let body = head
        .joined
        .iter()
        .fold(body, |body, joined| body.u64(*joined));
    let body = head.openings.iter().fold(body, |body, opening| {
        body.u64(opening.epoch).u64(opening.kept.0)
    });
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c(&body.0).to_le_bytes());
    bytes.extend_from_slice(&body.0);
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Head, JournalError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(JournalError::HeadDamaged)?;
    let mut reader = Reader(rest);
    let checksum = reader.u32().ok_or(JournalError::HeadDamaged)?;
    if checksum != crc32c(reader.0) {
        return Err(JournalError::HeadDamaged);
    }
    let format = reader.u16().ok_or(JournalError::HeadDamaged)?;
    match format {
        JOURNAL_FORMAT | JOURNAL_FORMAT_ALONE => {
            decode_body(reader, format).ok_or(JournalError::HeadDamaged)
        }
        found => Err(JournalError::NewerFormat { found }),
    }
}

fn decode_body(mut reader: Reader<'_>, format: u16) -> Option<Head> {
    let (data, parity) = (reader.u8()?, reader.u8()?);
    let device = reader.u8()?;
    let _unused = reader.u8()?;
    let segments = reader.u16()?;
    let (epoch, device_set) = (reader.u64()?, reader.u64()?);
    let segment_bytes = reader.u64()?;
    let journal = reader.text()?.try_into().ok()?;
    let backend = reader.text()?.to_vec();
    let backend_name = String::from_utf8_lossy(reader.text()?).into_owned();
    let membership = Membership {
        journal,
        epoch,
        device_set,
    };
    let (joined, openings) = match format {
        JOURNAL_FORMAT_ALONE => (vec![epoch], Vec::new()),
        _ => decode_history(reader)?,
    };
    Some(Head {
        membership,
        spread: Spread { data, parity },
        device,
        segments,
        joined,
        openings,
        segment_bytes,
        backend,
        backend_name,
    })
}

fn decode_history(mut reader: Reader<'_>) -> Option<(Vec<u64>, Vec<Opening>)> {
    let devices = reader.u16()?;
    let joined = (0..devices).map(|_| reader.u64()).collect::<Option<_>>()?;
    let mut openings = Vec::new();
    while !reader.0.is_empty() {
        openings.push(Opening {
            epoch: reader.u64()?,
            kept: Sequence(reader.u64()?),
        });
    }
    Some((joined, openings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::simulator::Simulation;

    fn head() -> Head {
        Head {
            membership: Membership {
                journal: [3; 16],
                epoch: 4,
                device_set: 0b110,
            },
            spread: Spread { data: 2, parity: 1 },
            device: 1,
            segments: 16,
            joined: vec![1, 1, 3],
            openings: vec![Opening {
                epoch: 2,
                kept: Sequence(7),
            }],
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

    #[test]
    fn what_an_epoch_cut_off_is_not_believed_by_any_later_one() {
        let mut head = head();
        head.openings.clear();
        head.membership.epoch = 1;
        head.open_epoch(1, Sequence(10), Sequence(0));
        head.begin_epoch(1);
        head.open_epoch(1, Sequence(8), Sequence(3));
        head.open_epoch(1, Sequence(20), Sequence(9));
        let kept: Vec<_> = head.openings.iter().map(|o| (o.epoch, o.kept.0)).collect();
        assert_eq!(kept, [(4, 8), (5, 20)]);
        for (epoch, sequence, believed) in [
            (1, 8, true),
            (1, 9, false),
            (3, 9, false),
            (4, 9, true),
            (4, 20, true),
            (4, 21, false),
            (5, 21, true),
        ] {
            let is_believed = head.believes(epoch, Sequence(sequence));
            assert_eq!(is_believed, believed, "{sequence} of epoch {epoch}");
        }
    }

    #[test]
    fn a_head_of_the_first_format_is_read_as_one_device_that_was_always_there() {
        let body = Writer::default()
            .u16(JOURNAL_FORMAT_ALONE)
            .u8(1)
            .u8(0)
            .u8(0)
            .u8(0)
            .u16(0)
            .u64(1)
            .u64(1)
            .u64(8 << 20)
            .text(&[3; 16])
            .text(b"root")
            .text(b"/backend")
            .0;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        let head = decode(&bytes).expect("it is whole");
        assert_eq!(head.spread, Spread::ALONE);
        assert_eq!((head.joined.as_slice(), head.openings.len()), (&[1][..], 0));
        assert!(head.is_member(&head));
    }
}
