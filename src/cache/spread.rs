//! Which cache directory holds a file: weighted rendezvous hashing, so that adding or losing a directory
//! moves only that directory's share.

use crate::types::FileKey;

/// A 64-bit mix of `bytes` with a salt; the same on every machine and in every version, since it
/// decides where existing caches look.
pub(super) fn mix(bytes: &[u8], salt: &[u8]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(salt);
    digest.update(&(salt.len() as u64).to_le_bytes());
    digest.update(bytes);
    // CRCs are linear: the finalizer of splitmix64 spreads the bits.
    let mut value = digest.finalize();
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The index of the chosen directory among `(name, weight)`; `None` if there is none. A directory
/// gets a share of the files in proportion to its weight.
pub fn choose<'a>(
    key: &FileKey,
    directories: impl Iterator<Item = (usize, &'a str, f64)>,
) -> Option<usize> {
    directories
        .map(|(index, name, weight)| {
            let unit = (mix(&key.0, name.as_bytes()) >> 11) as f64 / (1u64 << 53) as f64;
            // Schindelhauer and Schomaker, Weighted Distributed Hash Tables (2005): -w / ln(u).
            (index, -weight / unit.max(f64::MIN_POSITIVE).ln())
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> FileKey {
        FileKey(number.to_le_bytes().to_vec().into())
    }

    fn spread(directories: &[(&str, f64)]) -> Vec<usize> {
        (0..20_000)
            .map(|number| {
                let candidates = directories
                    .iter()
                    .enumerate()
                    .map(|(index, (name, weight))| (index, *name, *weight));
                choose(&key(number), candidates).unwrap()
            })
            .collect()
    }

    #[test]
    fn files_are_spread_by_weight() {
        let chosen = spread(&[("/a", 1.0), ("/b", 3.0)]);
        let second = chosen.iter().filter(|index| **index == 1).count();
        assert!((14_500..15_500).contains(&second), "{second}");
    }

    #[test]
    fn losing_a_directory_moves_only_its_share() {
        let three = spread(&[("/a", 1.0), ("/b", 1.0), ("/c", 1.0)]);
        let two = spread(&[("/a", 1.0), ("/b", 1.0)]);
        for (before, after) in three.iter().zip(&two) {
            assert!(*before == 2 || before == after);
        }
    }

    #[test]
    fn no_directory_no_choice() {
        assert_eq!(choose(&key(1), std::iter::empty()), None);
    }
}
