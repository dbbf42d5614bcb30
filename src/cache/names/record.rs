//! A record as it is stored.

use crate::types::codec;

fn checksum(key: &[u8], rest: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(key);
    digest.update(rest);
    digest.finalize() as u32
}

/// A value as it is stored: with a checksum over it and its key, and when it was last confirmed.
pub fn record(key: &[u8], value: &[u8], confirmed: i64) -> Vec<u8> {
    let rest = codec::Writer::default().i64(confirmed).rest(value);
    codec::Writer::default()
        .u32(checksum(key, &rest))
        .rest(&rest)
}

/// When it was last confirmed, and what it says; `None` if it is damaged.
pub fn believed<'a>(key: &[u8], stored: &'a [u8]) -> Option<(i64, &'a [u8])> {
    let mut reader = codec::Reader(stored);
    let sum = reader.u32()?;
    if checksum(key, reader.0) != sum {
        return None;
    }
    let confirmed = reader.i64()?;
    Some((confirmed, reader.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_any_bit_flipped_is_none_and_so_is_one_under_another_key() {
        let stored = record(b"key", b"value", -5);
        assert_eq!(believed(b"key", &stored), Some((-5, &b"value"[..])));
        assert_eq!(believed(b"kez", &stored), None);
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(believed(b"key", &flipped), None, "bit {bit}");
        }
        assert_eq!(believed(b"key", &[]), None);
    }
}
