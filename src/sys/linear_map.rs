//! Maps of bytes that are linear over their bits, as multiplication in a field of 256 elements is, by the vector
//! instructions of this machine's processor. No system call: it stands here because instructions that not every processor has
//! are as unsafe to use.

#![allow(unsafe_code)]

/// A map of bytes to bytes with `map(a ^ b) == map(a) ^ map(b)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinearMap {
    /// As GF2P8AFFINEQB takes it: the first row, in the highest byte, makes the lowest bit.
    matrix: u64,
    /// Images of bytes that have only bits of the lower half, and only of the higher.
    low: [u8; 16],
    high: [u8; 16],
}

impl LinearMap {
    /// `images` are those of 1, 2, 4 and so on.
    pub fn new(images: [u8; 8]) -> Self {
        let image = |byte: usize| {
            let of_bit = |bit: usize| if byte >> bit & 1 == 1 { images[bit] } else { 0 };
            (0..8).fold(0, |sum, bit| sum ^ of_bit(bit))
        };
        let row = |bit: usize| {
            let cell = |column: usize| (images[column] >> bit & 1) << column;
            (0..8).fold(0, |row, column| row | cell(column))
        };
        Self {
            matrix: u64::from_be_bytes(std::array::from_fn(row)),
            low: std::array::from_fn(image),
            high: std::array::from_fn(|half| image(half << 4)),
        }
    }

    /// `sum ^= map(source)`, byte by byte. Returns how many bytes from the front that was done for: all but a few, or none
    /// where the processor has no instructions for it.
    pub fn add_to_front(&self, source: &[u8], sum: &mut [u8]) -> usize {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions that the functions are made of.
            return match std::arch::is_x86_feature_detected!("gfni") {
                true => unsafe { x86::add_by_matrix(self, source, sum) },
                false => unsafe { x86::add_by_tables(self, source, sum) },
            };
        }
        let _ = (source, sum);
        0
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LinearMap;
    use std::arch::asm;
    use std::arch::x86_64::*;

    const LANE_BYTES: usize = size_of::<__m256i>();

    /// One instruction for each 32 bytes.
    ///
    /// # Safety
    /// The processor has AVX2 and GFNI.
    #[target_feature(enable = "avx2")]
    pub unsafe fn add_by_matrix(map: &LinearMap, source: &[u8], sum: &mut [u8]) -> usize {
        let matrix = _mm256_set1_epi64x(map.matrix.cast_signed());
        add_each(source, sum, |lane| {
            let image: __m256i;
            // SAFETY: it changes the one register, and the caller says that the processor has it. As an intrinsic it asks for a
            // newer compiler than the package does.
            unsafe {
                asm!(
                    "vgf2p8affineqb {image}, {lane}, {matrix}, 0",
                    image = lateout(ymm_reg) image,
                    lane = in(ymm_reg) lane,
                    matrix = in(ymm_reg) matrix,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            image
        })
    }

    /// Both halves of each byte looked up in a register.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn add_by_tables(map: &LinearMap, source: &[u8], sum: &mut [u8]) -> usize {
        let half = _mm256_set1_epi8(0x0f);
        let (low, high) = (table(&map.low), table(&map.high));
        add_each(source, sum, |lane| {
            let lower = _mm256_shuffle_epi8(low, _mm256_and_si256(lane, half));
            let higher = _mm256_and_si256(_mm256_srli_epi16::<4>(lane), half);
            _mm256_xor_si256(lower, _mm256_shuffle_epi8(high, higher))
        })
    }

    #[target_feature(enable = "avx2")]
    fn table(images: &[u8; 16]) -> __m256i {
        // SAFETY: it reads the 16 bytes that there are.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(images.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_each(source: &[u8], sum: &mut [u8], image: impl Fn(__m256i) -> __m256i) -> usize {
        let (sources, _) = source.as_chunks::<LANE_BYTES>();
        let (sums, _) = sum.as_chunks_mut::<LANE_BYTES>();
        for (source, sum) in sources.iter().zip(sums.iter_mut()) {
            let to = sum.as_mut_ptr().cast();
            // SAFETY: both have a lane's bytes, and no alignment is asked for.
            unsafe {
                let added = _mm256_xor_si256(
                    _mm256_loadu_si256(to),
                    image(_mm256_loadu_si256(source.as_ptr().cast())),
                );
                _mm256_storeu_si256(to, added);
            }
        }
        sources.len().min(sums.len()) * LANE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(images: &[u8; 8], byte: u8) -> u8 {
        let bits = (0..8).filter(|bit| byte >> bit & 1 == 1);
        bits.fold(0, |sum, bit| sum ^ images[bit])
    }

    type Add = fn(&LinearMap, &[u8], &mut [u8]) -> usize;

    /// Every way that this processor has.
    fn ways() -> Vec<Add> {
        let mut ways: Vec<Add> = vec![LinearMap::add_to_front];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: it has them.
                ways.push(|map, source, sum| unsafe { x86::add_by_tables(map, source, sum) });
                if std::arch::is_x86_feature_detected!("gfni") {
                    // SAFETY: it has them.
                    ways.push(|map, source, sum| unsafe { x86::add_by_matrix(map, source, sum) });
                }
            }
        }
        ways
    }

    proptest! {
        #[test]
        fn images_are_added_by_every_way_as_they_are_byte_by_byte(
            images in any::<[u8; 8]>(),
            bytes in prop::collection::vec(any::<(u8, u8)>(), 0..300),
        ) {
            let (source, before): (Vec<u8>, Vec<u8>) = bytes.into_iter().unzip();
            for add in ways() {
                let mut sum = before.clone();
                let done = add(&LinearMap::new(images), &source, &mut sum);
                prop_assert!(done <= source.len());
                for (at, byte) in sum.iter().enumerate() {
                    let added = if at < done { image(&images, source[at]) } else { 0 };
                    prop_assert_eq!(*byte, before[at] ^ added, "at {}", at);
                }
            }
        }
    }

    #[test]
    fn of_sources_and_sums_of_two_lengths_the_shorter_counts() {
        for add in ways() {
            let map = LinearMap::new([1, 2, 4, 8, 16, 32, 64, 128]);
            let mut sum = [0; 64];
            assert!(add(&map, &[7; 200], &mut sum) <= 64);
            let mut sum = [0; 200];
            assert!(add(&map, &[7; 64], &mut sum) <= 64);
            assert_eq!(sum[64..], [0; 136]);
        }
    }
}
