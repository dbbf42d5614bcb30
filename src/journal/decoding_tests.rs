//! Whatever bytes a disk gives back: looking at them harms nothing. CACHEFS_LONG looks at ten million.

use super::checksum::crc32c;
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, SegmentHeader};
use super::identity;
use super::record::decode_batch;
use super::stripe::{Spread, Stripe};
use super::tests::data_of;
use super::witness;
use crate::io::simulator::{Dice, seed_of_this_run};

const SAMPLE: u64 = 20_000;
const FULL: u64 = 10_000_000;
/// No stripe that is put together is larger.
const SHARD_BYTES_MAX: u64 = 300;

/// Bytes of any kind, often with a beginning that is right.
fn bytes(dice: &mut Dice) -> Vec<u8> {
    let length = dice.below(SHARD_BYTES_MAX);
    let mut bytes: Vec<u8> = (0..length).map(|_| dice.roll() as u8).collect();
    let starts: [&[u8]; 7] = [
        b"cachefsJ",
        b"cachefsS",
        b"nfs-cachefs journal\n",
        b"nfs-cachefs journals 1\n",
        b"nfs-cachefs journals 2\n",
        &[2, 9, 0, 0, 0],
        b"",
    ];
    let start = starts[dice.below(7) as usize];
    if bytes.len() >= start.len() {
        bytes[..start.len()].copy_from_slice(start);
    }
    if dice.below(2) == 0 {
        seal(&mut bytes, start);
    }
    bytes
}

/// With a checksum that is right what lies behind it is looked at, too, often as of the format that this program writes.
fn seal(bytes: &mut [u8], start: &[u8]) {
    let end = match start.starts_with(b"cachefs") {
        true => FRAME_HEADER_BYTES,
        false => bytes.len(),
    };
    let body = start.len() + 4;
    if end > bytes.len() || body + 2 > end {
        return;
    }
    bytes[body] %= 4;
    bytes[body + 1] = 0;
    let sum = crc32c(&bytes[body..end]);
    bytes[start.len()..body].copy_from_slice(&sum.to_le_bytes());
}

fn look_at(bytes: &[u8]) {
    let _ = FrameHeader::decode(bytes);
    let _ = SegmentHeader::decode(bytes);
    let _ = identity::decode(bytes);
    let _ = witness::decode(bytes);
    let _ = decode_batch(bytes);
}

/// Shards of any lengths, for a stripe that says anything: the batch comes back, or nothing.
fn put_together(dice: &mut Dice) {
    let batch = data_of(dice.below(100), 0);
    let spread = Spread {
        data: 1 + dice.below(5) as u8,
        parity: dice.below(3) as u8,
    };
    let stripe = Stripe {
        data: 1 + dice.below(6) as u8,
        parity: dice.below(4) as u8,
        batch_bytes: dice.below(2 * SHARD_BYTES_MAX) as u32,
        shard_bytes: dice.below(SHARD_BYTES_MAX) as u32,
        ..spread.stripe(&batch)
    };
    let shards = (0..dice.below(10)).map(|_| (dice.roll() as u8 % 12, bytes(dice)));
    let shards = shards.collect();
    if stripe.is_possible() {
        assert_eq!(stripe.join(shards), None, "{stripe:?}");
    }
}

#[test]
fn any_bytes_of_a_disk_are_looked_at_without_harm() {
    let seed = seed_of_this_run();
    let mut dice = Dice::new(seed);
    let inputs = match std::env::var_os("CACHEFS_LONG") {
        Some(_) => FULL,
        None => SAMPLE,
    };
    for _ in 0..inputs {
        look_at(&bytes(&mut dice));
        put_together(&mut dice);
    }
}
