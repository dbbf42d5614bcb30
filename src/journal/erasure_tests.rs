//! The code against ISA-L's, and against every loss that it is to survive.

use super::*;
use proptest::prelude::*;

/// The data that the vectors are made of: a linear congruence from 1 on, its third byte.
fn data(shards: usize, length: usize) -> Vec<Vec<u8>> {
    let mut state = 1u32;
    let mut roll = || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (state >> 16) as u8
    };
    (0..shards)
        .map(|_| (0..length).map(|_| roll()).collect())
        .collect()
}

fn encode(code: &Cauchy, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0; data[0].len()]; code.parity];
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    for (row, parity) in parity.iter_mut().enumerate() {
        code.encode(row, &data, parity);
    }
    parity
}

/// Made with libisal 2.30: gf_gen_cauchy1_matrix, ec_init_tables, ec_encode_data over 80 bytes.
#[rustfmt::skip]
const VECTORS: &[(usize, usize, &[&str])] = &[
    (2, 1, &["360d91604051ff9ce978a0a239b1cf7de833ae18ee834c2dbf46603ae046e421b94573b90d29a6886aef6deaba4532653f16b9b530872168c47eeff6f6e841340daae79f3e8956bd7c92c70765f948d7"]),
    (3, 2, &["18320c9477dea99283aa8568e4526b8409690753d1294c1c265c01e360d9705ea74a45a1cdf3157615903e233b1e75d7abcec2d232a8b7ad80c47e558688877cb1b8b072aaa1cd89095e079afa96ff37", "c5f2e18f6c253208b3a4823f50372dfaa25df33efbd499f28300f5d257130cafc0cb1861312ae8ad444318954366905e153e656a78338469e5cc1184ce5685495a8b67106579a8eac25ecfad6a5d4789"]),
    (4, 2, &["2a62d5bf9ece9e7b1460716432816136f3633041e41f33e06f82c11d3bb921810c831603dbcc9c697f3960ebee86ecc6d24badebc6471200ab48484d2291541c521e088ee165dceeb85f2d72899c1ea4", "9bbce678fdcc067b8a509947293bae64082bdc4731557f0f9f1b55ef9cd69c55aa77e2bddad0515a78a43e5002de15d0ea81d22f6d3c026dfdf03f352233d2bf8e8b76a9fd8b879f395e3a32fe60b3cb"]),
    (8, 3, &["d16c2b5052449d67c8f893f31c2aabcc6f9acf24bb35f975681f16bba7a1b15b54d39f992baba213a557842aa47ff2f82a813b0bc92d35594ff2d6200b7a6d9cb25f128840122b50f62dc16b22bd9be6", "3da0b287e985a8e810e40d4fdea133b1fe7171ee65e13da84b5afca459251f47573586c28fc94014568df5efdb7b954e7b735cf7b1015ed0f7f03196f05de81fe569ba752094d755964172fad6e65cbe", "d54d3f7ae20c878458925e8ce7d84b846b030131a635122837899bbca607b7dbfe52ac3507c8d0adb1184b86b804e0c54ffecb71c4e8af9ef1e4d5cb2da6ad380302d8610d4c43904075096b8788223a"]),
];

#[test]
fn parity_is_that_of_isa_l() {
    for (shards, parity, expected) in VECTORS {
        let made = encode(&Cauchy::new(*shards, *parity), &data(*shards, 80));
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let made: Vec<String> = made.iter().map(hex).collect();
        assert_eq!(made, *expected, "{shards}+{parity}");
    }
}

#[test]
fn every_loss_of_as_many_as_may_be_is_made_good() {
    for (shards, parity) in [(1, 1), (2, 1), (3, 2), (4, 2), (8, 3)] {
        let code = Cauchy::new(shards, parity);
        let whole = data(shards, 200);
        let all: Vec<Vec<u8>> = whole.iter().cloned().chain(encode(&code, &whole)).collect();
        let mut patterns = 0;
        for lost in 0u32..1 << all.len() {
            let mut held: Vec<Option<Vec<u8>>> = all.iter().cloned().map(Some).collect();
            for (shard, held) in held.iter_mut().enumerate() {
                if lost & 1 << shard != 0 {
                    *held = None;
                }
            }
            let rebuilt = code.rebuild(&mut held);
            let is_too_much = lost.count_ones() as usize > parity;
            assert_eq!(
                rebuilt.is_none(),
                is_too_much,
                "{shards}+{parity} without {lost:b}"
            );
            if !is_too_much {
                let held: Vec<Vec<u8>> = held.into_iter().take(shards).flatten().collect();
                assert_eq!(held, whole, "{shards}+{parity} without {lost:b}");
                patterns += 1;
            }
        }
        assert!(patterns > parity, "{shards}+{parity}");
    }
}

#[test]
fn the_parity_of_long_shards_is_that_of_their_pieces_and_short_ones_end_in_zeros() {
    let code = Cauchy::new(4, 2);
    let whole = data(4, 3 * BLOCK_BYTES + 100);
    let parity = encode(&code, &whole);
    for (begin, end) in [
        (0, 80),
        (BLOCK_BYTES - 7, BLOCK_BYTES + 50),
        (2 * BLOCK_BYTES, 3 * BLOCK_BYTES + 100),
    ] {
        let pieces: Vec<Vec<u8>> = whole
            .iter()
            .map(|shard| shard[begin..end].to_vec())
            .collect();
        let expected: Vec<&[u8]> = parity.iter().map(|shard| &shard[begin..end]).collect();
        assert_eq!(encode(&code, &pieces), expected, "{begin}..{end}");
    }
    let mut filled_up = whole.clone();
    filled_up[3][BLOCK_BYTES + 5..].fill(0);
    let mut short: Vec<&[u8]> = filled_up.iter().map(Vec::as_slice).collect();
    short[3] = &short[3][..BLOCK_BYTES + 5];
    let mut made = vec![7; filled_up[0].len()];
    code.encode(1, &short, &mut made);
    assert_eq!(made, encode(&code, &filled_up)[1]);
}

#[test]
fn an_element_times_its_inverse_is_one() {
    assert_eq!(invert(0), 0);
    for element in 1..=255 {
        assert_eq!(multiply(element, invert(element)), 1, "{element}");
    }
}

proptest! {
    #[test]
    fn multiples_of_long_and_short_rows_are_those_of_their_bytes(
        coefficient in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut sum, mut portable) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        Multiplier::new(coefficient).add(&bytes, &mut sum);
        add_multiple(coefficient, &bytes, &mut portable);
        let expected: Vec<u8> = bytes.iter().map(|byte| multiply(coefficient, *byte)).collect();
        prop_assert_eq!(sum, &expected[..]);
        prop_assert_eq!(portable, expected);
    }

    #[test]
    fn shards_of_any_bytes_and_lengths_are_taken_without_harm(
        shards in prop::collection::vec(
            prop::option::of(prop::collection::vec(any::<u8>(), 0..100)), 6,
        ),
    ) {
        let mut shards = shards;
        let _ = Cauchy::new(4, 2).rebuild(&mut shards);
    }
}
