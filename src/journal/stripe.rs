//! How a batch is cut into shards, which device gets which, and how they become a batch again.

use super::checksum::crc64;
use super::erasure::{Cauchy, ErasureCode};

/// Shards of at least this are worth their header and their sync. Batches too small for them are copied instead.
const SHARD_BYTES_MIN: usize = 16 << 10;
/// Shards are multiples of this, but for those of one data shard.
const SHARD_UNIT_BYTES: usize = 64;

/// A device set has a bit for each.
pub const DEVICES_MAX: u32 = 64;

/// So many may be asked for.
const ERASURE_DEVICES_MAX: u8 = 16;

/// How a journal spreads its batches: any `parity` of `data + parity` devices may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    pub data: u8,
    pub parity: u8,
}

impl std::fmt::Display for Spread {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}+{}", self.data, self.parity)
    }
}

/// What one batch is cut into.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stripe {
    /// 1: every shard is a copy.
    pub data: u8,
    pub parity: u8,
    pub batch_bytes: u32,
    pub shard_bytes: u32,
    pub batch_checksum: u64,
}

impl Spread {
    pub const ALONE: Self = Self { data: 1, parity: 0 };

    /// `k+m`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (data, parity) = text.split_once('+')?;
        let number = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| text.parse().ok())?
        };
        let (data, parity): (u8, u8) = (number(data)?, number(parity)?);
        let is_possible =
            data > 0 && u16::from(data) + u16::from(parity) <= u16::from(ERASURE_DEVICES_MAX);
        is_possible.then_some(Self { data, parity })
    }

    pub fn devices(&self) -> u8 {
        self.data + self.parity
    }

    /// How a batch is cut: a small one into copies.
    pub fn stripe(&self, payload: &[u8]) -> Stripe {
        let data = match payload.len() >= usize::from(self.data) * SHARD_BYTES_MIN {
            true => self.data,
            false => 1,
        };
        let shard_bytes = match data {
            1 => payload.len(),
            _ => payload
                .len()
                .div_ceil(usize::from(data))
                .next_multiple_of(SHARD_UNIT_BYTES),
        };
        Stripe {
            data,
            parity: self.parity,
            batch_bytes: payload.len() as u32,
            shard_bytes: shard_bytes as u32,
            batch_checksum: crc64(payload),
        }
    }

    /// The devices that get a shard: all of a coded stripe, of copies one more than may be lost, each time others.
    pub fn chosen(&self, stripe: &Stripe, sequence: u64, members: &[u8]) -> Vec<u8> {
        let copies = match stripe.data {
            1 => members.len().min(usize::from(self.parity) + 1),
            _ => members.len(),
        };
        let first = sequence % members.len().max(1) as u64;
        let from_first = members.iter().cycle().skip(first as usize);
        from_first.take(copies).copied().collect()
    }

    /// Which shard of a stripe lies on a device.
    pub fn shard_of(&self, stripe: &Stripe, sequence: u64, device: u8) -> u8 {
        match stripe.data {
            1 => device,
            _ => ((u64::from(device) + sequence) % u64::from(self.devices())) as u8,
        }
    }
}

impl Stripe {
    /// Whether a shard holds a copy or a part of the batch as it is.
    fn is_data(&self, index: u8) -> bool {
        self.data == 1 || index < self.data
    }

    /// Puts a shard of the batch into `into`, which has its length.
    pub fn fill(&self, index: u8, payload: &[u8], into: &mut [u8]) {
        let part = |column: usize| {
            let at = (column * into.len()).min(payload.len());
            &payload[at..payload.len().min(at + into.len())]
        };
        if self.data == 1 {
            into.copy_from_slice(payload);
        } else if self.is_data(index) {
            let part = part(usize::from(index));
            into[..part.len()].copy_from_slice(part);
            into[part.len()..].fill(0);
        } else {
            let parts: Vec<&[u8]> = (0..usize::from(self.data)).map(part).collect();
            let row = usize::from(index - self.data);
            self.code().encode(row, &parts, into);
        }
    }

    /// The data shards that a range of the batch lies in, and where in each: (shard, from, length).
    pub fn parts(&self, at: usize, length: usize) -> Vec<(u8, usize, usize)> {
        let shard_bytes = self.shard_bytes as usize;
        let mut parts = Vec::new();
        let (mut at, end) = (at, at + length);
        while at < end {
            let inside = at % shard_bytes;
            let taken = (shard_bytes - inside).min(end - at);
            parts.push(((at / shard_bytes) as u8, inside, taken));
            at += taken;
        }
        parts
    }

    /// The batch, from its shards by their index. `None` where too few are there, or they are not those of this batch.
    pub fn join(&self, shards: Vec<(u8, Vec<u8>)>) -> Option<Vec<u8>> {
        let is_sound = |shard: &Vec<u8>| shard.len() == self.shard_bytes as usize;
        let mut sound = shards.into_iter().filter(|(_, shard)| is_sound(shard));
        let batch = match self.data {
            1 => sound.find_map(|(_, copy)| self.is_batch(&copy).then_some(copy))?,
            _ => self.join_parts(sound)?,
        };
        self.is_batch(&batch).then_some(batch)
    }

    fn join_parts(&self, parts: impl Iterator<Item = (u8, Vec<u8>)>) -> Option<Vec<u8>> {
        let (data, all) = (
            usize::from(self.data),
            usize::from(self.data) + usize::from(self.parity),
        );
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; all];
        for (index, part) in parts {
            *shards.get_mut(usize::from(index))? = Some(part);
        }
        self.code().rebuild(&mut shards)?;
        let mut batch: Vec<u8> = shards.into_iter().take(data).flatten().flatten().collect();
        batch.truncate(self.batch_bytes as usize);
        Some(batch)
    }

    fn is_batch(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.batch_bytes as usize && crc64(bytes) == self.batch_checksum
    }

    fn code(&self) -> impl ErasureCode + use<> {
        Cauchy::new(usize::from(self.data), usize::from(self.parity))
    }

    /// Whether a header says what can be: nothing is made large by it.
    pub fn is_possible(&self) -> bool {
        let shards = u32::from(self.data) + u32::from(self.parity);
        let held = u64::from(self.shard_bytes) * u64::from(self.data);
        let filled_up = held.checked_sub(u64::from(self.batch_bytes));
        let fits = match self.data {
            1 => filled_up == Some(0),
            _ => filled_up
                .is_some_and(|bytes| bytes <= u64::from(self.data) * SHARD_UNIT_BYTES as u64),
        };
        self.data > 0 && shards <= DEVICES_MAX && fits
    }
}
